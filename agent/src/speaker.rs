//! From Nodes, BGPPeers and the BGPConfiguration to what this node's speaker is to be; pure.

mod changes;
mod filters;
mod peers;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use api::resources::{BgpConfiguration, BgpFilter, BgpPeer, Community, Node, Secret};
use bgp_proto::rib::{Multipath, Originated};
use bgp_proto::speaker::SpeakerConfig;
use bgp_proto::wire::{Asn, LargeCommunity};
use bgp_speaker::{Config, Target};
use ipnet::IpNet;
use sha2::{Digest as _, Sha256};

pub(crate) use changes::{changes, refusals};
pub(crate) use peers::refusal;

/// What the cluster says, seen from one node.
pub(crate) struct View<'a> {
    /// This node.
    pub(crate) node: &'a Node,
    /// All nodes, this one too.
    pub(crate) nodes: &'a [&'a Node],
    /// All BGPPeers.
    pub(crate) peers: &'a [&'a BgpPeer],
    /// All BGPFilters, by name.
    pub(crate) filters: &'a BTreeMap<&'a str, &'a BgpFilter>,
    /// Secrets of the agent's namespace, by name.
    pub(crate) secrets: &'a BTreeMap<&'a str, &'a Secret>,
    /// This node's Pod CIDRs and blocks.
    pub(crate) own: &'a BTreeSet<IpNet>,
    /// Addresses of this node's pods that are in none of them.
    pub(crate) strays: &'a BTreeSet<IpNet>,
    /// Ranges and addresses of Services that this node announces.
    pub(crate) services: &'a BTreeSet<IpNet>,
    /// Pod addresses that other nodes hold although they are in this node's Pod CIDRs or blocks.
    pub(crate) elsewhere: &'a BTreeSet<IpNet>,
    /// The BGPConfiguration `default`, or its defaults.
    pub(crate) configuration: &'a BgpConfiguration,
}

/// The speaker's configuration, and what became of each BGPPeer that selects this node.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Compiled {
    /// What the speaker is to be.
    pub(crate) config: Config,
    /// BGPPeers that make a session or are to make one, by name.
    pub(crate) accepted: BTreeSet<String>,
    /// BGPPeers that make no session, by name, and what to do about it.
    pub(crate) refused: BTreeMap<String, String>,
}

/// Makes the speaker's configuration.
///
/// # Errors
/// If this node lacks what a speaker needs; the text says what to do.
pub(crate) fn compile(view: &View<'_>) -> Result<Compiled, String> {
    if view.node.internal_ips.is_empty() {
        return Err(format!(
            "Node {} has no InternalIP: add one to status.addresses, BGP needs it",
            view.node.name
        ));
    }
    let router_id = view.node.router_id.unwrap_or_else(|| router_id(view.node));
    let (peers, accepted, refused) = peers::compile(view);
    let listen = listen(view, peers.values().map(|peer| &peer.target));
    let multipath = view.configuration.multipath;
    let config = Config {
        speaker: SpeakerConfig {
            asn: Asn(own_as(view.node, view.configuration)),
            router_id,
            cluster_id: view.node.cluster_id.unwrap_or(router_id),
            multipath: Multipath {
                max_paths: multipath.max_paths,
                as_path_relax: multipath.as_path_relax,
                link_bandwidth: multipath.link_bandwidth,
            },
        },
        listen,
        peers,
        originate: originate(view),
        draining: view.node.bgp_drain,
        restart_time: view.configuration.restart_time,
        bfd_socket: None,
        bfd_awaited: false,
        route_events: view.configuration.install_routes,
    };
    Ok(Compiled {
        config,
        accepted,
        refused,
    })
}

/// Every InternalIP; whoever answers on a link dials our link-local address there, so then every IPv6 address.
fn listen<'a>(view: &View<'_>, mut targets: impl Iterator<Item = &'a Target>) -> Vec<SocketAddr> {
    let port = view.configuration.listen_port;
    let on_links = targets.any(|target| match target {
        Target::Interface { .. } => true,
        Target::Address(SocketAddr::V6(v6)) => v6.ip().is_unicast_link_local(),
        Target::Range { range, .. } => matches!(range, IpNet::V6(_)),
        Target::Address(SocketAddr::V4(_)) => false,
    });
    let any = IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED);
    let own = view.node.internal_ips.iter().copied();
    own.filter(|ip| !on_links || ip.is_ipv4())
        .chain(on_links.then_some(any))
        .map(|ip| SocketAddr::new(ip, port))
        .collect()
}

/// Pod CIDRs and blocks, addresses out of none of them, and what there is of Services, with the communities that the configuration gives to what lies in a CIDR.
fn originate(view: &View<'_>) -> BTreeMap<IpNet, Originated> {
    let advertised = |prefix: &IpNet| {
        let mut originated = Originated::default();
        let all = &view.configuration.prefix_advertisements;
        let of = all.iter().filter(|one| one.cidr.contains(prefix));
        let mut communities: BTreeSet<Community> = BTreeSet::new();
        communities.extend(of.flat_map(|one| one.communities.iter().copied()));
        for community in communities {
            match community {
                Community::Standard(value) => originated.communities.push(value),
                Community::Large(global, local1, local2) => originated.large.push(LargeCommunity {
                    global,
                    local1,
                    local2,
                }),
            }
        }
        originated
    };
    let prefixes = view.own.iter().chain(view.strays).chain(view.services);
    prefixes
        .map(|prefix| (*prefix, advertised(prefix)))
        .collect()
}

/// The first IPv4 InternalIP; a node that has none gets one from its name (RFC 6286: it need not be an address).
fn router_id(node: &Node) -> Ipv4Addr {
    let first = node.internal_ips.iter().find_map(|ip| match ip {
        IpAddr::V4(ip) => Some(*ip),
        IpAddr::V6(_) => None,
    });
    first.unwrap_or_else(|| {
        let digest = Sha256::digest(node.name.as_bytes());
        let first = digest.first_chunk().copied().unwrap_or([0; 4]);
        Ipv4Addr::from_bits(u32::from_be_bytes(first).max(1))
    })
}

fn own_as(node: &Node, configuration: &BgpConfiguration) -> u32 {
    node.as_number.unwrap_or(configuration.as_number)
}
