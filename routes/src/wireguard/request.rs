//! The requests that a WireGuard device and its peers are made of (include/uapi/linux/wireguard.h).

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};

use super::{PrivateKey, PublicKey};
use crate::batch::{attribute, nested};
use crate::wire::{INET, INET6};

pub(super) const WGDEVICE_A_IFINDEX: u16 = 1;
pub(super) const WGDEVICE_A_PRIVATE_KEY: u16 = 3;
pub(super) const WGDEVICE_A_LISTEN_PORT: u16 = 6;
pub(super) const WGDEVICE_A_PEERS: u16 = 8;
pub(super) const WGPEER_A_PUBLIC_KEY: u16 = 1;
const WGPEER_A_FLAGS: u16 = 3;
pub(super) const WGPEER_A_ENDPOINT: u16 = 4;
pub(super) const WGPEER_A_LAST_HANDSHAKE_TIME: u16 = 6;
pub(super) const WGPEER_A_RX_BYTES: u16 = 7;
pub(super) const WGPEER_A_TX_BYTES: u16 = 8;
pub(super) const WGPEER_A_ALLOWEDIPS: u16 = 9;
const WGPEER_F_REMOVE_ME: u32 = 1;
const WGPEER_F_REPLACE_ALLOWEDIPS: u32 = 2;
const WGALLOWEDIP_A_FAMILY: u16 = 1;
pub(super) const WGALLOWEDIP_A_IPADDR: u16 = 2;
pub(super) const WGALLOWEDIP_A_CIDR_MASK: u16 = 3;
/// Octets of peers in one message: an attribute's length has 16 bits.
const MOST: usize = 24 * 1024;
/// Prefixes of one peer in one message, each of at most 40 octets.
const MOST_PREFIXES: usize = 300;

/// The device itself.
pub(super) fn link(name: &str, mtu: u32) -> (RouteNetlinkMessage, u16) {
    let mut link = LinkMessage::default();
    link.attributes = vec![
        LinkAttribute::IfName(name.to_owned()),
        LinkAttribute::Mtu(mtu),
        LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Wireguard)]),
    ];
    (
        RouteNetlinkMessage::NewLink(link),
        NLM_F_CREATE | NLM_F_EXCL,
    )
}

/// What of a device is to be another.
#[derive(Default)]
pub(super) struct DeviceChange<'a> {
    pub private_key: Option<&'a PrivateKey>,
    pub listen_port: Option<u16>,
}

impl DeviceChange<'_> {
    pub(super) fn count(&self) -> usize {
        usize::from(self.private_key.is_some()) + usize::from(self.listen_port.is_some())
    }
}

pub(super) fn device(index: u32, change: &DeviceChange<'_>) -> Vec<u8> {
    let mut out = of_device(index);
    if let Some(key) = change.private_key {
        attribute(&mut out, WGDEVICE_A_PRIVATE_KEY, key.bytes());
    }
    if let Some(port) = change.listen_port {
        attribute(&mut out, WGDEVICE_A_LISTEN_PORT, &port.to_ne_bytes());
    }
    out
}

/// Which device a request is about.
pub(super) fn of_device(index: u32) -> Vec<u8> {
    let mut out = Vec::new();
    attribute(&mut out, WGDEVICE_A_IFINDEX, &index.to_ne_bytes());
    out
}

/// What of a peer is to be another.
#[derive(Debug, Clone)]
pub(super) struct PeerChange {
    pub key: PublicKey,
    pub is_gone: bool,
    pub endpoint: Option<SocketAddr>,
    /// What it has of prefixes is forgotten first.
    pub replaces: bool,
    /// Prefixes that it gets.
    pub allowed: Vec<IpNet>,
}

impl PeerChange {
    pub(super) fn of(key: PublicKey) -> Self {
        Self {
            key,
            is_gone: false,
            endpoint: None,
            replaces: false,
            allowed: Vec::new(),
        }
    }

    pub(super) fn gone(key: PublicKey) -> Self {
        Self {
            is_gone: true,
            ..Self::of(key)
        }
    }

    /// As attributes; several where it has more prefixes than one message holds.
    fn pieces(&self) -> Vec<Vec<u8>> {
        let mut chunks: Vec<&[IpNet]> = self.allowed.chunks(MOST_PREFIXES).collect();
        if chunks.is_empty() {
            chunks.push(&[]);
        }
        let pieces = chunks.iter().enumerate();
        let pieces = pieces.map(|(number, prefixes)| {
            let mut out = Vec::new();
            nested(&mut out, 0, |out| self.piece(out, number == 0, prefixes));
            out
        });
        pieces.collect()
    }

    fn piece(&self, out: &mut Vec<u8>, is_first: bool, prefixes: &[IpNet]) {
        attribute(out, WGPEER_A_PUBLIC_KEY, &self.key);
        let mut flags = 0;
        if self.is_gone {
            flags |= WGPEER_F_REMOVE_ME;
        }
        if self.replaces && is_first {
            flags |= WGPEER_F_REPLACE_ALLOWEDIPS;
        }
        if flags != 0 {
            attribute(out, WGPEER_A_FLAGS, &flags.to_ne_bytes());
        }
        if let Some(endpoint) = self.endpoint.filter(|_| is_first) {
            attribute(out, WGPEER_A_ENDPOINT, &socket_address(endpoint));
        }
        if !prefixes.is_empty() {
            nested(out, WGPEER_A_ALLOWEDIPS, |out| {
                for prefix in prefixes {
                    nested(out, 0, |out| allowed(out, prefix));
                }
            });
        }
    }
}

/// Requests for all of the changes, and of how many peers each begins the change.
pub(super) fn peers(index: u32, changes: &[PeerChange]) -> Vec<(Vec<u8>, usize)> {
    let mut requests = Vec::new();
    let (mut held, mut begun) = (Vec::new(), 0);
    let mut close = |held: &mut Vec<u8>, begun: &mut usize| {
        if !held.is_empty() {
            let mut out = of_device(index);
            nested(&mut out, WGDEVICE_A_PEERS, |out| out.append(held));
            requests.push((out, std::mem::take(begun)));
        }
    };
    for change in changes {
        for (number, piece) in change.pieces().into_iter().enumerate() {
            if held.len() + piece.len() > MOST {
                close(&mut held, &mut begun);
            }
            begun += usize::from(number == 0);
            held.extend(piece);
        }
    }
    close(&mut held, &mut begun);
    requests
}

fn allowed(out: &mut Vec<u8>, prefix: &IpNet) {
    let family = match prefix {
        IpNet::V4(_) => INET,
        IpNet::V6(_) => INET6,
    };
    attribute(out, WGALLOWEDIP_A_FAMILY, &u16::from(family).to_ne_bytes());
    match prefix.network() {
        IpAddr::V4(ip) => attribute(out, WGALLOWEDIP_A_IPADDR, &ip.octets()),
        IpAddr::V6(ip) => attribute(out, WGALLOWEDIP_A_IPADDR, &ip.octets()),
    }
    attribute(out, WGALLOWEDIP_A_CIDR_MASK, &[prefix.prefix_len()]);
}

/// Struct sockaddr_in or sockaddr_in6; the port in network order.
fn socket_address(address: SocketAddr) -> Vec<u8> {
    let port = address.port().to_be_bytes();
    match address {
        SocketAddr::V4(address) => {
            let mut out = u16::from(INET).to_ne_bytes().to_vec();
            out.extend_from_slice(&port);
            out.extend_from_slice(&address.ip().octets());
            out.resize(16, 0);
            out
        }
        SocketAddr::V6(address) => {
            let mut out = u16::from(INET6).to_ne_bytes().to_vec();
            out.extend_from_slice(&port);
            out.extend_from_slice(&[0; 4]);
            out.extend_from_slice(&address.ip().octets());
            out.extend_from_slice(&[0; 4]);
            out
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_peers_and_a_peer_of_many_prefixes_are_split_over_messages_of_bounded_size() {
        let base = 0xfd00_u128 << 112;
        let prefix = |number: u32| {
            let address = std::net::Ipv6Addr::from(base + u128::from(number));
            IpNet::from(IpAddr::from(address))
        };
        let many = PeerChange {
            replaces: true,
            endpoint: Some("192.0.2.1:51820".parse().unwrap()),
            allowed: (0..5000).map(prefix).collect(),
            ..PeerChange::of([1; 32])
        };
        let mut changes = vec![many];
        for number in 0..2000_u32 {
            let mut key = [2; 32];
            key[..4].copy_from_slice(&number.to_be_bytes());
            changes.push(PeerChange {
                allowed: vec![prefix(10_000 + number)],
                ..PeerChange::of(key)
            });
        }
        let requests = peers(7, &changes);
        assert!(requests.len() > 10, "{}", requests.len());
        assert!(requests.iter().all(|(body, _)| body.len() < 30 * 1024));
        let begun: usize = requests.iter().map(|(_, peers)| peers).sum();
        assert_eq!(begun, 2001);
        let (mut prefixes, mut replacing) = (0, 0);
        for (body, _) in &requests {
            let peers = crate::batch::Attributes(body).find(|(kind, _)| *kind == WGDEVICE_A_PEERS);
            for (_, peer) in crate::batch::Attributes(peers.unwrap().1) {
                for (kind, value) in crate::batch::Attributes(peer) {
                    match kind {
                        WGPEER_A_FLAGS => replacing += 1,
                        WGPEER_A_ALLOWEDIPS => {
                            prefixes += crate::batch::Attributes(value).count();
                        }
                        _ => {}
                    }
                }
            }
        }
        assert_eq!((prefixes, replacing), (7000, 1));
    }
}
