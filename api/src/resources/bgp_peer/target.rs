//! Whom a BGPPeer names, in which AS, and from which address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;

use super::super::node::is_usable_as;
use super::{Wrong, wrong};
use crate::Selector;
use crate::crd::{BgpPeerSpec, PeerAsNumber};

/// Whom a BGPPeer names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerTarget {
    /// `peerAddress`: `ip` or `ip:port`; the port is 179 if not given. Never link-local.
    Address(SocketAddr),
    /// `peerAddress`: a link-local address with its interface, `fe80::1%eth0` or `[fe80::1%eth0]:port`.
    LinkLocal {
        /// The address.
        address: Ipv6Addr,
        /// Its zone: the interface's name, checked against the kernel's grammar.
        interface: String,
        /// The port (179).
        port: u16,
    },
    /// `interface`: whoever answers on it (unnumbered); the name is checked against the kernel's grammar.
    Interface(String),
    /// `peerSelector`: other nodes.
    Nodes(Selector),
    /// `listenRange`: whoever dials from it; host bits cleared.
    Range(IpNet),
}

/// The AS a peer must be in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerAs {
    /// Exactly this one.
    Number(u32),
    /// Any but our own.
    External,
    /// Our own.
    Internal,
}

const BGP_PORT: u16 = 179;

pub(super) fn read(spec: &BgpPeerSpec) -> Result<PeerTarget, Wrong> {
    let mut found = Vec::new();
    found.extend(spec.peer_address.as_deref().map(peer_address));
    found.extend(spec.interface.as_deref().map(interface));
    let by_selector = |text| selector("peerSelector", text).map(PeerTarget::Nodes);
    found.extend(spec.peer_selector.as_deref().map(by_selector));
    found.extend(spec.listen_range.as_deref().map(listen_range));
    match (found.pop(), found.is_empty()) {
        (Some(target), true) => target,
        (Some(_), false) => wrong(
            "peerAddress",
            "is not alone: peerAddress, interface, peerSelector and listenRange exclude each other",
        ),
        (None, _) => wrong(
            "peerAddress",
            "or interface, peerSelector or listenRange must say whom to peer with",
        ),
    }
}

pub(super) fn selector(field: &'static str, text: &str) -> Result<Selector, Wrong> {
    Selector::parse(text).map_err(|error| (field, error.to_string()))
}

fn peer_address(text: &str) -> Result<PeerTarget, Wrong> {
    if let Some((address, rest)) = text.split_once('%') {
        return link_local(text, address, rest);
    }
    let address = match text.parse::<IpAddr>() {
        Ok(ip) => SocketAddr::new(ip, BGP_PORT),
        Err(_) => match text.parse::<SocketAddr>() {
            Ok(address) => address,
            Err(_) => return wrong("peerAddress", format!("{text:?} is not `ip` or `ip:port`")),
        },
    };
    let ip = address.ip();
    let broadcast = ip == IpAddr::V4(Ipv4Addr::BROADCAST);
    if ip.is_unspecified() || ip.is_multicast() || broadcast || address.port() == 0 {
        return wrong("peerAddress", format!("{text} is nobody's"));
    }
    match ip {
        IpAddr::V6(v6) if v6.is_unicast_link_local() => wrong(
            "peerAddress",
            format!("{text} is link-local: name its interface too, as in {v6}%eth0"),
        ),
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => wrong(
            "peerAddress",
            format!("{text} is an IPv4 address in IPv6's clothes: write it as IPv4"),
        ),
        _ => Ok(PeerTarget::Address(address)),
    }
}

/// `address%interface` or `[address%interface]:port`, cut at the percent sign.
fn link_local(text: &str, address: &str, rest: &str) -> Result<PeerTarget, Wrong> {
    let parts = match address.strip_prefix('[') {
        None => Some((address, rest, BGP_PORT)),
        Some(address) => rest
            .rsplit_once("]:")
            .and_then(|(zone, port)| Some((address, zone, port.parse().ok()?))),
    };
    let parsed = parts.and_then(|(address, zone, port)| {
        Some((address.parse::<Ipv6Addr>().ok()?, zone.to_owned(), port))
    });
    match parsed {
        Some((address, _, _)) if !address.is_unicast_link_local() => wrong(
            "peerAddress",
            format!("{address} is not link-local: leave the interface out"),
        ),
        Some((address, interface, port)) if port != 0 && is_interface_name(&interface) => {
            Ok(PeerTarget::LinkLocal {
                address,
                interface,
                port,
            })
        }
        _ => wrong(
            "peerAddress",
            format!("{text:?} is not `address%interface` or `[address%interface]:port`"),
        ),
    }
}

fn interface(text: &str) -> Result<PeerTarget, Wrong> {
    if is_interface_name(text) {
        return Ok(PeerTarget::Interface(text.to_owned()));
    }
    wrong("interface", format!("{text:?} can be no interface's name"))
}

/// An interface name the kernel takes literally: at most 15 bytes, and no `%`, which it reads as a template.
fn is_interface_name(text: &str) -> bool {
    let refused = |c: char| "/:%".contains(c) || c.is_whitespace() || c.is_control();
    (1..=15).contains(&text.len()) && !matches!(text, "." | "..") && !text.contains(refused)
}

fn listen_range(text: &str) -> Result<PeerTarget, Wrong> {
    let Ok(range) = text.parse::<IpNet>() else {
        return wrong("listenRange", format!("{text:?} is no CIDR"));
    };
    let range = range.trunc();
    let first = range.addr();
    if first.is_multicast() {
        return wrong("listenRange", format!("{range} is nobody's"));
    }
    match first {
        IpAddr::V6(first) if first.is_unicast_link_local() => wrong(
            "listenRange",
            format!("{range} is link-local: name an interface instead"),
        ),
        _ => Ok(PeerTarget::Range(range)),
    }
}

pub(super) fn source_address(
    text: Option<&str>,
    target: &PeerTarget,
) -> Result<Option<IpAddr>, Wrong> {
    let Some(text) = text else { return Ok(None) };
    let Ok(ip) = text.parse::<IpAddr>() else {
        return wrong("sourceAddress", format!("{text:?} is no address"));
    };
    if ip.is_unspecified() || ip.is_multicast() {
        return wrong("sourceAddress", format!("{text} is nobody's"));
    }
    match target {
        PeerTarget::Address(peer) if peer.is_ipv4() != ip.is_ipv4() => {
            wrong("sourceAddress", "is of another family than peerAddress")
        }
        PeerTarget::LinkLocal { .. } | PeerTarget::Interface(_) => wrong(
            "sourceAddress",
            "cannot be chosen: such a session uses the interface's link-local address; leave it out",
        ),
        PeerTarget::Range(_) => wrong(
            "sourceAddress",
            "is for peers that we dial, those of a listenRange dial us; leave it out",
        ),
        PeerTarget::Address(_) | PeerTarget::Nodes(_) => Ok(Some(ip)),
    }
}

pub(super) fn as_number(
    number: Option<PeerAsNumber>,
    target: &PeerTarget,
) -> Result<PeerAs, Wrong> {
    match number {
        Some(PeerAsNumber::Number(number)) if !is_usable_as(number) => {
            wrong("asNumber", format!("{number} is reserved"))
        }
        Some(PeerAsNumber::Number(number)) => Ok(PeerAs::Number(number)),
        Some(PeerAsNumber::External) => Ok(PeerAs::External),
        Some(PeerAsNumber::Internal) if matches!(target, PeerTarget::Interface(_)) => wrong(
            "asNumber",
            "cannot be internal with an interface: give a number or `external`",
        ),
        Some(PeerAsNumber::Internal) => Ok(PeerAs::Internal),
        None => wrong("asNumber", "is missing: a number, `external` or `internal`"),
    }
}

pub(super) fn local_as(number: Option<u32>, peer: PeerAs) -> Result<Option<u32>, Wrong> {
    match number {
        Some(number) if !is_usable_as(number) => {
            wrong("localASNumber", format!("{number} is reserved"))
        }
        Some(_) if peer == PeerAs::Internal => wrong(
            "localASNumber",
            "is for a peer in another AS: asNumber cannot be internal",
        ),
        Some(number) if peer == PeerAs::Number(number) => {
            wrong("localASNumber", format!("{number} is the peer's own AS"))
        }
        number => Ok(number),
    }
}
