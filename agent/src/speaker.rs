//! From Nodes, BGPPeers and the BGPConfiguration to what this node's speaker is to be; pure.

#[cfg_attr(
    not(test),
    expect(
        dead_code,
        reason = "the speaker's configuration takes the chains with the RIB's ImportPolicy and ExportPolicy"
    )
)]
mod filters;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use api::resources::{BgpConfiguration, BgpPeer, Node, PeerAs, PeerTarget};
use bgp_proto::wire::Asn;
use bgp_speaker::{Config, PeerConfig, SpeakerConfig};

/// What the cluster says, seen from one node.
pub(crate) struct View<'a> {
    /// This node.
    pub(crate) node: &'a Node,
    /// All nodes, this one too.
    pub(crate) nodes: &'a [&'a Node],
    /// All BGPPeers.
    pub(crate) peers: &'a [&'a BgpPeer],
    /// The BGPConfiguration `default`, or its defaults.
    pub(crate) configuration: &'a BgpConfiguration,
}

/// Makes the speaker's configuration.
///
/// # Errors
/// If this node lacks what a speaker needs; the text says what to do.
pub(crate) fn compile(view: &View<'_>) -> Result<Config, String> {
    let own_ip = first_ipv4(view.node).ok_or_else(|| {
        format!(
            "Node {} has no IPv4 InternalIP: add one to status.addresses, BGP needs it",
            view.node.name
        )
    })?;
    let listen = view
        .node
        .internal_ips
        .iter()
        .map(|ip| SocketAddr::new(*ip, view.configuration.listen_port))
        .collect();
    let mut peers = BTreeMap::new();
    for peer in view.peers {
        add_peer(view, peer, &mut peers);
    }
    if view.configuration.node_to_node_mesh_enabled {
        add_mesh(view, &mut peers);
    }
    Ok(Config {
        speaker: SpeakerConfig {
            asn: Asn(own_as(view.node, view.configuration)),
            router_id: view.node.router_id.unwrap_or(own_ip),
            listen,
            restart_time: view.configuration.restart_time,
        },
        peers,
        originate: view.node.pod_cidrs.iter().copied().collect(),
    })
}

fn add_peer(view: &View<'_>, peer: &BgpPeer, into: &mut BTreeMap<String, PeerConfig>) {
    let selected = peer.node_selector.matches(&view.node.labels);
    match &peer.target {
        PeerTarget::Address(address) => {
            if selected {
                into.insert(
                    peer.name.clone(),
                    peer_config(view, Some(peer), *address, None),
                );
            }
        }
        // The speaker cannot make these yet.
        PeerTarget::LinkLocal { .. } | PeerTarget::Interface(_) | PeerTarget::Range(_) => {}
        PeerTarget::Nodes(selector) => {
            // Both sides of the pair make the session, as in Calico.
            let named = selector.matches(&view.node.labels);
            for other in others(view) {
                let wanted = (selected && selector.matches(&other.labels))
                    || (named && peer.node_selector.matches(&other.labels));
                if let (true, Some(ip)) = (wanted, first_ipv4(other)) {
                    let address = SocketAddr::new(IpAddr::V4(ip), view.configuration.listen_port);
                    let asn = Asn(own_as(other, view.configuration));
                    into.insert(
                        format!("{}/{}", peer.name, other.name),
                        peer_config(view, Some(peer), address, Some(asn)),
                    );
                }
            }
        }
    }
}

/// The node-to-node mesh; a node that a BGPPeer already reaches is left to it.
fn add_mesh(view: &View<'_>, into: &mut BTreeMap<String, PeerConfig>) {
    let taken: BTreeSet<IpAddr> = into.values().map(|peer| peer.address.ip()).collect();
    for other in others(view) {
        let Some(ip) = first_ipv4(other).filter(|ip| !taken.contains(&IpAddr::V4(*ip))) else {
            continue;
        };
        let address = SocketAddr::new(IpAddr::V4(ip), view.configuration.listen_port);
        let asn = Asn(own_as(other, view.configuration));
        into.insert(
            format!("mesh/{}", other.name),
            peer_config(view, None, address, Some(asn)),
        );
    }
}

fn peer_config(
    view: &View<'_>,
    peer: Option<&BgpPeer>,
    address: SocketAddr,
    node_as: Option<Asn>,
) -> PeerConfig {
    let asn = match (node_as, peer.map(|peer| peer.as_number)) {
        (Some(asn), _) => bgp_speaker::PeerAs::Number(asn),
        (None, Some(PeerAs::Number(number))) => bgp_speaker::PeerAs::Number(Asn(number)),
        (None, Some(PeerAs::Internal)) => bgp_speaker::PeerAs::Internal,
        (None, Some(PeerAs::External) | None) => bgp_speaker::PeerAs::External,
    };
    let source = peer.and_then(|peer| peer.source_address).or_else(|| {
        // The session's own address is the next hop we announce: make it the node's, not a loopback or a bridge.
        view.node
            .internal_ips
            .iter()
            .copied()
            .find(|ip| ip.is_ipv4() == address.is_ipv4())
    });
    PeerConfig {
        address,
        asn,
        local_address: source,
        passive: peer.is_some_and(|peer| peer.passive),
        hold_time: peer.map_or(DEFAULT_HOLD_TIME, |peer| peer.hold_time),
        keepalive_time: peer.and_then(|peer| peer.keepalive_time),
        max_prefixes: peer.map_or(DEFAULT_MAX_PREFIXES, |peer| peer.max_prefixes.limit),
        import_reject: view.node.pod_cidrs.iter().copied().collect(),
    }
}

const DEFAULT_HOLD_TIME: std::time::Duration = std::time::Duration::from_secs(90);
const DEFAULT_MAX_PREFIXES: u32 = 100_000;

fn others<'a>(view: &'a View<'_>) -> impl Iterator<Item = &'a Node> {
    view.nodes
        .iter()
        .copied()
        .filter(|other| other.name != view.node.name)
}

fn own_as(node: &Node, configuration: &BgpConfiguration) -> u32 {
    node.as_number.unwrap_or(configuration.as_number)
}

fn first_ipv4(node: &Node) -> Option<Ipv4Addr> {
    node.internal_ips.iter().find_map(|ip| match ip {
        IpAddr::V4(ip) => Some(*ip),
        IpAddr::V6(_) => None,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use api::resources::MaxPrefixes;
    use api::selector::Selector;

    use super::*;

    fn node(name: &str, number: u8, asn: Option<u32>) -> Node {
        Node {
            name: name.to_owned(),
            labels: [("kubernetes.io/hostname".to_owned(), name.to_owned())].into(),
            internal_ips: vec![IpAddr::V4(Ipv4Addr::new(10, 10, number, 2))],
            pod_cidrs: vec![format!("10.244.{number}.0/24").parse().unwrap()],
            as_number: asn,
            router_id: None,
            cluster_id: None,
            bgp_drain: false,
        }
    }

    fn tor(target: PeerTarget, selector: Selector) -> BgpPeer {
        BgpPeer {
            node_selector: selector,
            hold_time: Duration::from_secs(9),
            max_prefixes: MaxPrefixes {
                limit: 10,
                ..MaxPrefixes::default()
            },
            ..BgpPeer::new("tor", target, PeerAs::Number(65000))
        }
    }

    fn compiled(own: usize, nodes: &[Node], peers: &[BgpPeer], mesh: bool) -> Config {
        let configuration = BgpConfiguration {
            node_to_node_mesh_enabled: mesh,
            ..BgpConfiguration::default()
        };
        let nodes: Vec<&Node> = nodes.iter().collect();
        let peers: Vec<&BgpPeer> = peers.iter().collect();
        let view = View {
            node: nodes[own],
            nodes: &nodes,
            peers: &peers,
            configuration: &configuration,
        };
        compile(&view).unwrap()
    }

    #[test]
    fn a_tor_peer_is_made_where_its_selector_matches() {
        let nodes = [node("n1", 1, Some(64513)), node("n2", 2, None)];
        let peer = tor(
            PeerTarget::Address("10.10.1.1:179".parse().unwrap()),
            Selector::parse("kubernetes.io/hostname == 'n1'").unwrap(),
        );
        let first = compiled(0, &nodes, std::slice::from_ref(&peer), false);
        assert_eq!(first.speaker.asn, Asn(64513));
        assert_eq!(
            first.peers["tor"].asn,
            bgp_speaker::PeerAs::Number(Asn(65000))
        );
        assert_eq!(
            first.peers["tor"].local_address,
            Some("10.10.1.2".parse().unwrap())
        );
        assert!(
            first.peers["tor"]
                .import_reject
                .contains(&nodes[0].pod_cidrs[0])
        );
        let second = compiled(1, &nodes, &[peer], false);
        assert_eq!(second.speaker.asn, Asn(64512));
        assert!(second.peers.is_empty());
    }

    #[test]
    fn the_mesh_joins_every_other_node_once() {
        let nodes = [
            node("n1", 1, None),
            node("n2", 2, None),
            node("n3", 3, Some(65003)),
        ];
        let reflector = tor(
            PeerTarget::Nodes(Selector::parse("kubernetes.io/hostname == 'n2'").unwrap()),
            Selector::all(),
        );
        let config = compiled(0, &nodes, &[reflector], true);
        let names: Vec<_> = config.peers.keys().map(String::as_str).collect();
        assert_eq!(names, ["mesh/n3", "tor/n2"]);
        assert_eq!(
            config.peers["mesh/n3"].asn,
            bgp_speaker::PeerAs::Number(Asn(65003))
        );
    }

    #[test]
    fn a_node_without_an_ipv4_address_is_told_what_to_do() {
        let mut lonely = node("n1", 1, None);
        lonely.internal_ips.clear();
        let view = View {
            node: &lonely,
            nodes: &[&lonely],
            peers: &[],
            configuration: &BgpConfiguration::default(),
        };
        assert!(compile(&view).unwrap_err().contains("status.addresses"));
    }
}
