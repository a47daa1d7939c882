//! Nodes by number: their names, addresses, Pod CIDRs and configurations.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use ipnet::IpNet;

use crate::rib::{Multipath, Originated};
use crate::session::{Direction, PeerAs};
use crate::speaker::{Config, PeerConfig, SpeakerConfig};
use crate::wire::Asn;

pub(super) fn address(node: usize) -> IpAddr {
    let [high, low] = u16::try_from(node).unwrap().to_be_bytes();
    Ipv4Addr::new(10, 0, high, low + 1).into()
}

pub(super) fn pod_cidr(node: usize) -> IpNet {
    let [high, low] = u16::try_from(node).unwrap().to_be_bytes();
    format!("10.{}.{low}.0/24", 64 + high).parse().unwrap()
}

pub(super) fn peer_name(node: usize) -> String {
    format!("node{node}")
}

/// The configuration of one node without peers.
pub(super) fn config(node: usize, asn: u32) -> Config {
    let IpAddr::V4(router_id) = address(node) else {
        panic!("IPv4 here");
    };
    Config {
        speaker: SpeakerConfig {
            asn: Asn(asn),
            router_id,
            cluster_id: router_id,
            multipath: Multipath::default(),
        },
        peers: BTreeMap::new(),
        ranges: BTreeMap::new(),
        originate: [(pod_cidr(node), Originated::default())].into(),
        draining: false,
    }
}

pub(super) fn peer(asn: u32) -> PeerConfig {
    PeerConfig {
        hold_time: Duration::from_secs(9),
        ..PeerConfig::new(PeerAs::Number(Asn(asn)))
    }
}

/// The node that a speaker has this name for.
pub(super) fn node_of(peer: &str) -> usize {
    if let Some(number) = peer.strip_prefix("node") {
        return number.parse().unwrap();
    }
    let ip: Ipv4Addr = peer.rsplit_once('/').unwrap().1.parse().unwrap();
    let [_, _, high, low] = ip.octets();
    usize::from(u16::from_be_bytes([high, low - 1]))
}

/// What a connection is to the side that dialled (0) and to the other.
pub(super) fn direction(side: usize) -> Direction {
    if side == 0 {
        Direction::Outgoing
    } else {
        Direction::Incoming
    }
}
