//! Peers of this node: those BGPPeers name, and the node-to-node mesh.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::num::NonZeroU8;

use api::crd;
use api::resources::{BgpFilter, BgpPeer, GracefulRestart, Hops, Node, PeerAs, PeerTarget, Secret};
use bgp_proto::bfd::BfdConfig;
use bgp_proto::rib::NextHopMode;
use bgp_proto::session;
use bgp_proto::speaker::{AddPath, Bfd, GracefulRestartConfig, MaxPrefixes, PeerConfig};
use bgp_proto::wire::{Asn, Role};
use bgp_speaker::socket::{Password, SocketOptions, Ttl};
use bgp_speaker::{Peer, Target};
use ipnet::IpNet;

use super::filters::Chains;
use super::{View, filters, own_as};

/// Peers by name; names of the BGPPeers that make them; those that make none, and why.
type Peers = (
    BTreeMap<String, Peer>,
    BTreeSet<String>,
    BTreeMap<String, String>,
);

/// Peers by name, and which of them has an address: a reflector has thousands, and each is looked for.
#[derive(Default)]
struct Made {
    peers: BTreeMap<String, Peer>,
    by_address: BTreeMap<SocketAddr, String>,
}

/// How many peers one range may have.
const RANGE_LIMIT: usize = 1024;
/// How many paths a peer with ADD-PATH is sent.
const ADD_PATHS: u8 = 8;

pub(super) fn compile(view: &View<'_>) -> Peers {
    let (mut made, mut accepted, mut refused) = (Made::default(), BTreeSet::new(), BTreeMap::new());
    for peer in view.peers {
        match add_peer(view, peer, &mut made) {
            Ok(true) => drop(accepted.insert(peer.name.clone())),
            Ok(false) => {}
            Err(why) => drop(refused.insert(peer.name.clone(), why)),
        }
    }
    if view.configuration.node_to_node_mesh_enabled {
        add_mesh(view, &mut made);
    }
    (made.peers, accepted, refused)
}

impl Made {
    fn add(&mut self, name: String, peer: Peer) {
        if let Target::Address(address) = peer.target {
            self.by_address.insert(address, name.clone());
        }
        self.peers.insert(name, peer);
    }

    /// Why nobody else may peer with this address, if a BGPPeer does: two sessions of one pair would end each other for
    /// ever. A link-local address may be there once on each interface.
    fn taken(&self, address: SocketAddr) -> Option<String> {
        if matches!(address, SocketAddr::V6(v6) if v6.ip().is_unicast_link_local()) {
            return None;
        }
        let name = self.by_address.get(&address)?;
        let ip = address.ip();
        Some(format!(
            "{ip} is a peer already, by {name}: say all of it in one BGPPeer"
        ))
    }
}

/// Adds what a BGPPeer makes on this node; false if it does not concern it.
fn add_peer(view: &View<'_>, peer: &BgpPeer, into: &mut Made) -> Result<bool, String> {
    let selected = peer.node_selector.matches(&view.node.labels);
    if let PeerTarget::Nodes(selector) = &peer.target {
        // Both sides of the pair make the session, as in Calico.
        let named = selector.matches(&view.node.labels);
        let (mut concerned, mut clash) = (false, None);
        for other in others(view) {
            let wanted = (selected && selector.matches(&other.labels))
                || (named && peer.node_selector.matches(&other.labels));
            if let (true, Some(address)) = (wanted, address_of(view, other)) {
                if let Some(why) = into.taken(address) {
                    clash = Some(why);
                    continue;
                }
                let asn = Asn(own_as(other, view.configuration));
                let mut node = one_of(view, peer, Target::Address(address), Some(asn))?;
                // Who is whose client is said of the nodes of nodeSelector: to a client its reflector is none.
                let reflects = selected && selector.matches(&other.labels);
                node.session.route_reflector_client &= reflects;
                into.add(format!("{}/{}", peer.name, other.name), node);
                concerned = true;
            }
        }
        return match clash {
            Some(why) if !concerned => Err(why),
            _ => Ok(concerned || selected),
        };
    }
    if !selected {
        return Ok(false);
    }
    let target = match &peer.target {
        PeerTarget::Address(address) => Target::Address(*address),
        PeerTarget::LinkLocal {
            address,
            interface: _,
            port,
        } => Target::Address(SocketAddrV6::new(*address, *port, 0, 0).into()),
        PeerTarget::Interface(name) => Target::Interface {
            name: name.clone(),
            port: view.configuration.listen_port,
        },
        PeerTarget::Range(range) => Target::Range {
            range: *range,
            limit: RANGE_LIMIT,
        },
        PeerTarget::Nodes(_) => return Ok(false),
    };
    if let Target::Address(address) = target
        && let Some(why) = into.taken(address)
    {
        return Err(why);
    }
    into.add(peer.name.clone(), one_of(view, peer, target, None)?);
    Ok(true)
}

/// The node-to-node mesh; a node that a BGPPeer already reaches is left to it.
fn add_mesh(view: &View<'_>, into: &mut Made) {
    let taken: BTreeSet<IpAddr> = into.by_address.keys().map(SocketAddr::ip).collect();
    for other in others(view) {
        let Some(address) = address_of(view, other) else {
            continue;
        };
        if taken.contains(&address.ip()) {
            continue;
        }
        let asn = Asn(own_as(other, view.configuration));
        let session = PeerConfig {
            graceful_restart: Some(graceful_restart(view, GracefulRestart::default(), false)),
            import_reject: import_reject(view, false),
            import_exceptions: view.elsewhere.clone(),
            own_addresses: view.node.internal_ips.clone(),
            ..PeerConfig::new(session::PeerAs::Number(asn))
        };
        let socket = SocketOptions {
            // Nodes of one cluster may be a router apart.
            ttl: Ttl::of_peer(false, None, None),
            source: source(view, None, Some(address)),
            ..SocketOptions::default()
        };
        into.add(
            format!("mesh/{}", other.name),
            Peer {
                target: Target::Address(address),
                session,
                socket,
                bfd: None,
            },
        );
    }
}

/// What nobody needs to tell this node: what it has itself. Of who is no node the ranges of Services besides, which every node
/// serves; another node may be one that reflects them to the fabric.
fn import_reject(view: &View<'_>, is_from_outside: bool) -> BTreeSet<IpNet> {
    let mut rejected = view.own.clone();
    if is_from_outside {
        let configuration = view.configuration;
        let lists = [
            &configuration.service_cluster_ips,
            &configuration.service_external_ips,
            &configuration.service_load_balancer_ips,
        ];
        rejected.extend(lists.into_iter().flatten().map(|range| range.cidr));
    }
    rejected
}

fn is_external(view: &View<'_>, asn: session::PeerAs) -> bool {
    match asn {
        session::PeerAs::Number(number) => number != Asn(own_as(view.node, view.configuration)),
        session::PeerAs::External => true,
        session::PeerAs::Internal => false,
    }
}

fn one_of(
    view: &View<'_>,
    peer: &BgpPeer,
    target: Target,
    node_as: Option<Asn>,
) -> Result<Peer, String> {
    let asn = match (node_as, peer.as_number) {
        (Some(asn), _) => session::PeerAs::Number(asn),
        (None, PeerAs::Number(number)) => session::PeerAs::Number(Asn(number)),
        (None, PeerAs::Internal) => session::PeerAs::Internal,
        (None, PeerAs::External) => session::PeerAs::External,
    };
    let chains = chains(view.filters, peer)?;
    let session = PeerConfig {
        local_as: peer.local_as.map(Asn),
        passive: peer.passive,
        hold_time: peer.hold_time,
        keepalive_time: peer.keepalive_time,
        delay_open: peer.delay_open,
        graceful_restart: Some(graceful_restart(
            view,
            peer.graceful_restart,
            peer.bfd.is_some(),
        )),
        max_prefixes: MaxPrefixes {
            limit: peer.max_prefixes.limit,
            warn_at: peer.max_prefixes.warn_at,
            restart_after: peer.max_prefixes.restart_after,
        },
        role: peer.role.map(role),
        strict_role: peer.strict_role,
        shutdown: peer
            .admin_shutdown
            .then(|| peer.shutdown_message.clone().unwrap_or_default()),
        bfd: peer.bfd.map(|bfd| Bfd { strict: bfd.strict }),
        route_reflector_client: peer.route_reflector_client,
        add_path: AddPath {
            receive: peer.add_path.receive,
            send: if peer.add_path.send { ADD_PATHS } else { 0 },
        },
        import: chains.import,
        export: chains.export,
        transit: false,
        import_reject: import_reject(view, node_as.is_none() && is_external(view, asn)),
        import_exceptions: view.elsewhere.clone(),
        next_hop: match peer.next_hop_mode {
            crd::NextHopMode::Auto => NextHopMode::Auto,
            crd::NextHopMode::Own => NextHopMode::Own,
            crd::NextHopMode::Keep => NextHopMode::Keep,
        },
        allow_own_as: peer.allow_own_as,
        own_addresses: view.node.internal_ips.clone(),
        ..PeerConfig::new(asn)
    };
    Ok(Peer {
        socket: socket(view, peer, &target, asn)?,
        bfd: peer.bfd.as_ref().map(|bfd| bgp_speaker::Bfd {
            timers: BfdConfig {
                desired_min_tx: bfd.min_tx,
                required_min_rx: bfd.min_rx,
                detect_multiplier: NonZeroU8::new(bfd.multiplier).unwrap_or(NonZeroU8::MIN),
                control_plane_independent: false,
                passive: false,
            },
            hops: match peer.hops {
                Hops::Multihop(hops) | Hops::TtlSecurity(hops) if bfd.multihop => {
                    NonZeroU8::new(hops)
                }
                _ => None,
            },
        }),
        target,
        session,
    })
}

fn socket(
    view: &View<'_>,
    peer: &BgpPeer,
    target: &Target,
    asn: session::PeerAs,
) -> Result<SocketOptions, String> {
    let external = match asn {
        session::PeerAs::Number(number) => {
            let own = own_as(view.node, view.configuration);
            let shown = peer.local_as.unwrap_or(own);
            number.0 != shown
        }
        session::PeerAs::External => true,
        session::PeerAs::Internal => false,
    };
    let (multihop, security) = match peer.hops {
        Hops::Usual => (None, None),
        Hops::Multihop(hops) => (NonZeroU8::new(hops), None),
        Hops::TtlSecurity(hops) => (None, NonZeroU8::new(hops)),
    };
    // Nodes of one cluster may be a router apart.
    let nodes = matches!(peer.target, PeerTarget::Nodes(_));
    let (interface, address) = match (&peer.target, target) {
        (PeerTarget::LinkLocal { interface, .. }, _) => (Some(interface.clone()), None),
        (_, Target::Interface { name, .. }) => (Some(name.clone()), None),
        (_, Target::Address(address)) => (None, Some(*address)),
        (_, Target::Range { .. }) => (None, None),
    };
    Ok(SocketOptions {
        ttl: Ttl::of_peer(external && !nodes, multihop, security),
        password: password(view.secrets, peer)?,
        source: source(view, peer.source_address, address),
        interface,
    })
}

/// Why a BGPPeer makes no session on whichever node it selects, and what to do about it: by the objects it names alone.
pub(crate) fn refusal(
    filters: &BTreeMap<&str, &BgpFilter>,
    secrets: &BTreeMap<&str, &Secret>,
    peer: &BgpPeer,
) -> Option<(&'static str, String)> {
    let filters = chains(filters, peer).err();
    let filters = filters.map(|why| ("FilterNotFound", why));
    filters.or_else(|| Some(("PasswordUnusable", password(secrets, peer).err()?)))
}

fn chains(filters: &BTreeMap<&str, &BgpFilter>, peer: &BgpPeer) -> Result<Chains, String> {
    let find = |name: &str| filters.get(name).copied();
    filters::chains(&peer.filters, find).map_err(|name| {
        format!(
            "spec.filters names BGPFilter {name}, which is not there: add it, or take the name out"
        )
    })
}

fn password(secrets: &BTreeMap<&str, &Secret>, peer: &BgpPeer) -> Result<Option<Password>, String> {
    let Some(wanted) = &peer.password else {
        return Ok(None);
    };
    let secret = secrets.get(wanted.secret.as_str()).ok_or_else(|| {
        format!(
            "spec.password names Secret {}, which is not there: add it to the agent's namespace",
            wanted.secret
        )
    })?;
    let value = secret.get(&wanted.key).ok_or_else(|| {
        format!(
            "spec.password names key {} of Secret {}, which it does not have",
            wanted.key, wanted.secret
        )
    })?;
    Password::new(value.expose()).map(Some).map_err(|error| {
        format!(
            "spec.password, key {} of Secret {}: {error}",
            wanted.key, wanted.secret
        )
    })
}

/// The session's own address is the next hop we announce: make it the node's, not a loopback or a bridge.
fn source(view: &View<'_>, asked: Option<IpAddr>, address: Option<SocketAddr>) -> Option<IpAddr> {
    let of_family = |address: SocketAddr| {
        let own = view.node.internal_ips.iter();
        own.copied().find(|ip| ip.is_ipv4() == address.is_ipv4())
    };
    asked.or_else(|| address.and_then(of_family))
}

/// Who has BFD knows a death by it; without it silence must count as one.
fn graceful_restart(view: &View<'_>, own: GracefulRestart, has_bfd: bool) -> GracefulRestartConfig {
    let common = view.configuration;
    let said = own.notifications.or(common.restart_notifications);
    GracefulRestartConfig {
        restart_time: own.restart_time.unwrap_or(common.restart_time),
        long_lived_stale_time: own
            .long_lived_stale_time
            .unwrap_or(common.long_lived_stale_time),
        notification: said.unwrap_or(has_bfd),
    }
}

fn role(role: crd::Role) -> Role {
    match role {
        crd::Role::Provider => Role::Provider,
        crd::Role::RouteServer => Role::RouteServer,
        crd::Role::RouteServerClient => Role::RouteServerClient,
        crd::Role::Customer => Role::Customer,
        crd::Role::Peer => Role::Peer,
    }
}

fn others<'a>(view: &View<'a>) -> impl Iterator<Item = &'a Node> {
    let own = &view.node.name;
    view.nodes
        .iter()
        .copied()
        .filter(move |other| other.name != *own)
}

/// Where another node is: by IPv4 if both have it, else by IPv6.
fn address_of(view: &View<'_>, other: &Node) -> Option<SocketAddr> {
    let has = |v4: bool| {
        let own = view.node.internal_ips.iter().any(|ip| ip.is_ipv4() == v4);
        let theirs = other.internal_ips.iter().copied();
        own.then(|| theirs.into_iter().find(|ip| ip.is_ipv4() == v4))
            .flatten()
    };
    let ip = has(true).or_else(|| has(false))?;
    Some(SocketAddr::new(ip, view.configuration.listen_port))
}
