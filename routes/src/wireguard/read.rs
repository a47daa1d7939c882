//! What the kernel has of a WireGuard device: its key, its port, its peers and what came from them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;

use super::request::{
    WGALLOWEDIP_A_CIDR_MASK, WGALLOWEDIP_A_IPADDR, WGDEVICE_A_LISTEN_PORT, WGDEVICE_A_PEERS,
    WGDEVICE_A_PRIVATE_KEY, WGPEER_A_ALLOWEDIPS, WGPEER_A_ENDPOINT, WGPEER_A_LAST_HANDSHAKE_TIME,
    WGPEER_A_PUBLIC_KEY, WGPEER_A_RX_BYTES, WGPEER_A_TX_BYTES, of_device,
};
use super::{PrivateKey, PublicKey, WireGuard, WireGuardTraffic};
use crate::Error;
use crate::batch::{Attributes, half};
use crate::generic::Generic;
use crate::wire::{INET, INET6};

const WG_CMD_GET_DEVICE: u8 = 0;

/// A device.
#[derive(Debug, Default)]
pub(super) struct Device {
    /// `None` where it has none yet.
    pub private_key: Option<PrivateKey>,
    /// A device without a port has one of the kernel's choice.
    pub listen_port: u16,
    pub peers: BTreeMap<PublicKey, Peer>,
}

/// A peer.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Peer {
    pub endpoint: Option<SocketAddr>,
    pub allowed: BTreeSet<IpNet>,
    pub traffic: WireGuardTraffic,
}

/// What would be found were all as it should be.
pub(super) struct Found {
    pub peers: BTreeMap<PublicKey, Peer>,
}

impl Found {
    pub(super) fn of(wanted: &WireGuard) -> Self {
        let peers = wanted.peers.iter().map(|(key, peer)| {
            let peer = Peer {
                endpoint: Some(peer.endpoint),
                allowed: peer.allowed.iter().map(IpNet::trunc).collect(),
                traffic: WireGuardTraffic::default(),
            };
            (*key, peer)
        });
        Self {
            peers: peers.collect(),
        }
    }
}

impl Device {
    pub(super) fn traffic(&self) -> BTreeMap<PublicKey, WireGuardTraffic> {
        let peers = self.peers.iter();
        peers.map(|(key, peer)| (*key, peer.traffic)).collect()
    }

    /// Takes in one message; a peer of many prefixes goes on in the next one.
    fn take(&mut self, attributes: &[u8]) {
        for (kind, value) in Attributes(attributes) {
            match kind {
                WGDEVICE_A_PRIVATE_KEY => {
                    let key = <[u8; 32]>::try_from(value).ok();
                    // Zeroes are what a device has that never got one.
                    self.private_key = key.filter(|key| *key != [0; 32]).map(PrivateKey::new);
                }
                WGDEVICE_A_LISTEN_PORT => self.listen_port = half(value, 0).unwrap_or_default(),
                WGDEVICE_A_PEERS => {
                    for (_, peer) in Attributes(value) {
                        self.take_peer(peer);
                    }
                }
                _ => {}
            }
        }
    }

    fn take_peer(&mut self, attributes: &[u8]) {
        let key = Attributes(attributes).find(|(kind, _)| *kind == WGPEER_A_PUBLIC_KEY);
        let Some(key) = key.and_then(|(_, key)| PublicKey::try_from(key).ok()) else {
            return;
        };
        let peer = self.peers.entry(key).or_default();
        for (kind, value) in Attributes(attributes) {
            match kind {
                WGPEER_A_ENDPOINT => peer.endpoint = socket_address(value),
                WGPEER_A_RX_BYTES => peer.traffic.received = number(value),
                WGPEER_A_TX_BYTES => peer.traffic.sent = number(value),
                // struct __kernel_timespec; zeroes where there was none yet.
                WGPEER_A_LAST_HANDSHAKE_TIME => {
                    let seconds = number(value.get(..8).unwrap_or_default());
                    peer.traffic.handshake = (seconds > 0).then(|| Duration::from_secs(seconds));
                }
                WGPEER_A_ALLOWEDIPS => {
                    let prefixes = Attributes(value).filter_map(|(_, one)| prefix(one));
                    peer.allowed.extend(prefixes);
                }
                _ => {}
            }
        }
    }
}

/// Reads a device whole.
pub(super) fn device(generic: &mut Generic<'_>, index: u32) -> Result<Device, Error> {
    let mut device = Device::default();
    // Messages of a dump that was disturbed come again: collected first.
    let what = "reading the WireGuard device";
    let messages = generic.get(WG_CMD_GET_DEVICE, &of_device(index), what, |attributes| {
        Some(zeroize::Zeroizing::new(attributes.to_vec()))
    })?;
    for message in &messages {
        device.take(message);
    }
    Ok(device)
}

fn number(value: &[u8]) -> u64 {
    value.try_into().map_or(0, u64::from_ne_bytes)
}

fn prefix(attributes: &[u8]) -> Option<IpNet> {
    let (mut address, mut length) = (None, None);
    for (kind, value) in Attributes(attributes) {
        match kind {
            WGALLOWEDIP_A_IPADDR => address = ip(value),
            WGALLOWEDIP_A_CIDR_MASK => length = value.first().copied(),
            _ => {}
        }
    }
    IpNet::new(address?, length?).ok()
}

fn ip(value: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(value) {
        return Some(v4.into());
    }
    <[u8; 16]>::try_from(value).ok().map(IpAddr::from)
}

/// From struct sockaddr_in or sockaddr_in6.
fn socket_address(value: &[u8]) -> Option<SocketAddr> {
    let port = u16::from_be_bytes(value.get(2..4)?.try_into().ok()?);
    let family = half(value, 0)?;
    if family == u16::from(INET) {
        let address = <[u8; 4]>::try_from(value.get(4..8)?).ok()?;
        return Some((Ipv4Addr::from(address), port).into());
    }
    if family == u16::from(INET6) {
        let address = <[u8; 16]>::try_from(value.get(8..24)?).ok()?;
        return Some((Ipv6Addr::from(address), port).into());
    }
    None
}
