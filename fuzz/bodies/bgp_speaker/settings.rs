//! The peers of a fuzzed speaker, and how its configuration changes.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use bgp_proto::filter::{Action, Community, FilterChain, Match, Operation, Rule};
use bgp_proto::rib::{Multipath, NextHopMode, Originated};
use bgp_proto::session::PeerAs;
use bgp_proto::speaker::{
    AddPath, Bfd, Config, GracefulRestartConfig, MaxPrefixes, PeerConfig, RangeConfig,
    SpeakerConfig,
};
use bgp_proto::wire::{Asn, Role};

use crate::bgp_input::Input;

/// An external peer, an internal one, a client, and one that is nobody's by name.
pub const PEERS: [&str; 4] = ["external", "internal", "client", "range/10.9.0.1"];
const OURS: Asn = Asn(65_000);

pub fn asn_of(peer: &str) -> Asn {
    match peer {
        "external" => Asn(65_001),
        "internal" | "client" => OURS,
        _ => Asn(65_002),
    }
}

pub fn address_of(peer: &str) -> IpAddr {
    let last = match peer {
        "external" => 2,
        "internal" => 3,
        "client" => 4,
        _ => return IpAddr::V4(Ipv4Addr::new(10, 9, 0, 1)),
    };
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, last))
}

fn peer(name: &str) -> PeerConfig {
    PeerConfig {
        route_reflector_client: name == "client",
        transit: name != "internal",
        ..PeerConfig::new(PeerAs::Number(asn_of(name)))
    }
}

pub fn config() -> Config {
    let range = RangeConfig {
        range: "10.9.0.0/24".parse().unwrap(),
        limit: 1,
        peer: peer("range"),
    };
    Config {
        speaker: SpeakerConfig {
            asn: OURS,
            router_id: Ipv4Addr::new(10, 0, 0, 1),
            cluster_id: Ipv4Addr::new(10, 0, 0, 1),
            multipath: Multipath {
                max_paths: 4,
                as_path_relax: true,
                link_bandwidth: true,
            },
        },
        peers: PEERS[..3]
            .iter()
            .map(|name| ((*name).to_owned(), peer(name)))
            .collect(),
        ranges: BTreeMap::from([("range".to_owned(), range)]),
        originate: BTreeMap::from([("10.64.0.0/24".parse().unwrap(), Originated::default())]),
        draining: false,
    }
}

/// Changes one thing of the configuration, of the peer if it is one that a peer has.
pub fn change(config: &mut Config, name: &str, input: &mut Input<'_>) {
    let what = input.u8() % 20;
    match what {
        0 => {
            if config.peers.remove(name).is_none() && PEERS[..3].contains(&name) {
                config.peers.insert(name.to_owned(), peer(name));
            }
        }
        1 => config.draining = !config.draining,
        2 => {
            let number = input.u8() % 4;
            let prefix = format!("192.168.{number}.0/24").parse().unwrap();
            if config.originate.remove(&prefix).is_none() {
                config.originate.insert(prefix, Originated::default());
            }
        }
        3 => config.speaker.multipath.max_paths = 1 + input.u8() % 4,
        4 if input.u8().is_multiple_of(8) => {
            config.speaker.router_id = Ipv4Addr::new(10, 0, 0, 1 | input.u8() & 0x10);
        }
        5 => {
            let limit = config.ranges.get("range").map_or(0, |range| range.limit);
            if let Some(range) = config.ranges.get_mut("range") {
                range.limit = 1 - limit;
            }
        }
        _ => {
            let ranges = config.ranges.get_mut("range");
            let range = ranges.map(|range| &mut range.peer);
            if let Some(peer) = config.peers.get_mut(name).or(range) {
                change_peer(peer, what, input);
            }
        }
    }
}

fn change_peer(peer: &mut PeerConfig, what: u8, input: &mut Input<'_>) {
    match what {
        6 => {
            peer.max_prefixes = MaxPrefixes {
                limit: 1 + u32::from(input.u8() % 16),
                warn_at: input.bool().then_some(2),
                restart_after: input.bool().then_some(Duration::from_secs(30)),
            };
        }
        7 => peer.import = chain(input),
        8 => peer.export = chain(input),
        9 => peer.transit = !peer.transit,
        10 => peer.route_reflector_client = !peer.route_reflector_client,
        11 => {
            peer.add_path = AddPath {
                receive: input.bool(),
                send: input.u8() % 4,
            };
        }
        12 => {
            peer.graceful_restart = input.bool().then(|| GracefulRestartConfig {
                restart_time: Duration::from_secs(120),
                long_lived_stale_time: Duration::from_secs(u64::from(input.u8())),
                notification: input.bool(),
            });
        }
        13 => peer.shutdown = peer.shutdown.is_none().then(|| "down".to_owned()),
        14 => {
            let modes = [NextHopMode::Auto, NextHopMode::Own, NextHopMode::Keep];
            peer.next_hop = modes[usize::from(input.u8() % 3)];
        }
        15 => peer.role = peer.role.is_none().then_some(Role::Provider),
        16 => {
            let strict = input.bool();
            peer.bfd = peer.bfd.is_none().then_some(Bfd { strict });
        }
        17 => peer.allow_own_as = 1 - peer.allow_own_as,
        18 => peer.import_reject = ["192.168.0.0/22".parse().unwrap()].into(),
        _ => peer.local_as = peer.local_as.is_none().then_some(Asn(64_999)),
    }
}

fn chain(input: &mut Input<'_>) -> FilterChain {
    let rule = |input: &mut Input<'_>| {
        let mut matches = Match::default();
        if input.bool() {
            matches.communities = vec![Community::Standard(7)];
        }
        let action = match input.u8() % 4 {
            0 => Action::Reject,
            1 => Action::Accept(vec![Operation::SetMed(u32::from(input.u8()))]),
            2 => Action::Accept(vec![Operation::AddCommunity(Community::Standard(7))]),
            _ => Action::Accept(Vec::new()),
        };
        Rule { matches, action }
    };
    let rules: Vec<Rule> = (0..input.u8() % 3).map(|_| rule(input)).collect();
    FilterChain::new([("fuzzed", rules)])
}
