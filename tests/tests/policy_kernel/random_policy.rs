//! Random policies of both kinds: every form of peer and port, over few words so that they meet.

use std::collections::BTreeSet;

use api::labels::Requirement;
use api::resources::*;
use api::{LabelSelector, Labels, NamespacedName};
use ipnet::IpNet;

use crate::random_number::Random;
use crate::world::NAMESPACES;

const SELECTORS: [&str; 9] = [
    "",
    "",
    "app=x",
    "app=y",
    "app!=x",
    "!app",
    "app",
    "tier=db,app!=y",
    "app=",
];
const NAMESPACE_SELECTORS: [&str; 6] = [
    "",
    "team=one",
    "team!=one",
    "team",
    "!team",
    "kubernetes.io/metadata.name=b",
];
const CIDRS: [&str; 18] = [
    "0.0.0.0/0",
    "10.0.0.0/8",
    "10.244.1.0/29",
    "10.244.1.4/30",
    "10.244.1.6/32",
    "10.244.0.0/16",
    "10.244.2.0/24",
    "10.10.1.2/32",
    "192.0.2.0/24",
    "198.51.100.0/24",
    "::/0",
    "fd00::/16",
    "fd00:244:1::/125",
    "fd00:244:1::4/126",
    "fd00:244:1::6/128",
    "fd00:244:2::/64",
    "fd00:10::2/128",
    "fd00:192::/32",
];
const PROTOCOLS: [Protocol; 4] = [Protocol::Tcp, Protocol::Tcp, Protocol::Udp, Protocol::Sctp];

/// `a=b,c=` as labels.
pub(crate) fn labels(text: &str) -> Labels {
    let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
    pairs
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

/// A NetworkPolicy; its number is its name.
pub(crate) fn policy(number: usize, random: &mut Random) -> NetworkPolicy {
    let namespace = NAMESPACES[number % NAMESPACES.len()];
    let directions = random.below(4);
    NetworkPolicy {
        name: NamespacedName::new(namespace, format!("n{number}")),
        pod_selector: selector(random.pick(&SELECTORS)),
        ingress: (directions != 0).then(|| random.many(0, 3, network_rule)),
        egress: (directions != 1).then(|| random.many(0, 3, network_rule)),
    }
}

/// A ClusterNetworkPolicy; its number is its name.
pub(crate) fn cluster_policy(number: usize, random: &mut Random) -> ClusterNetworkPolicy {
    let subject = if random.chance(3) {
        ClusterSubject::Unsupported("a test".to_owned())
    } else {
        ClusterSubject::Pods(namespaced(random))
    };
    ClusterNetworkPolicy {
        name: format!("c{number}"),
        tier: if random.chance(60) {
            Tier::Admin
        } else {
            Tier::Baseline
        },
        priority: u16::try_from(random.below(4)).expect("less than four"),
        subject,
        ingress: random.many(0, 3, |random| cluster_rule(false, random)),
        egress: random.many(0, 3, |random| cluster_rule(true, random)),
    }
}

fn selector(text: &str) -> LabelSelector {
    let one = |value: &str| BTreeSet::from([value.to_owned()]);
    let requirement = |word: &str| match (
        word.split_once("!="),
        word.split_once('='),
        word.strip_prefix('!'),
    ) {
        (Some((key, value)), ..) => Requirement::NotIn(key.to_owned(), one(value)),
        (_, Some((key, value)), _) => Requirement::In(key.to_owned(), one(value)),
        (_, _, Some(key)) => Requirement::DoesNotExist(key.to_owned()),
        _ => Requirement::Exists(word.to_owned()),
    };
    let words = text.split(',').filter(|word| !word.is_empty());
    LabelSelector {
        requirements: words.map(requirement).collect(),
    }
}

fn namespaced(random: &mut Random) -> NamespacedPods {
    NamespacedPods {
        namespaces: selector(random.pick(&NAMESPACE_SELECTORS)),
        pods: selector(random.pick(&SELECTORS)),
    }
}

fn cidr(random: &mut Random) -> IpNet {
    random.pick(&CIDRS).parse().expect("a constant network")
}

fn network_rule(random: &mut Random) -> PolicyRule {
    PolicyRule {
        peers: random.chance(75).then(|| random.many(1, 3, network_peer)),
        ports: random.chance(65).then(|| random.many(1, 4, any_port)),
    }
}

fn network_peer(random: &mut Random) -> Peer {
    match random.below(10) {
        0 => Peer::Unsupported("a test".to_owned()),
        1..=4 => {
            let cidr = cidr(random);
            let of_family = |net: &IpNet| net.addr().is_ipv4() == cidr.addr().is_ipv4();
            let except = random
                .many(0, 3, self::cidr)
                .into_iter()
                .filter(of_family)
                .collect();
            Peer::IpBlock(IpBlock { cidr, except })
        }
        _ => Peer::Pods {
            namespaces: random
                .chance(60)
                .then(|| selector(random.pick(&NAMESPACE_SELECTORS))),
            pods: selector(random.pick(&SELECTORS)),
        },
    }
}

fn any_port(random: &mut Random) -> Port {
    let protocol = PROTOCOLS[random.below(PROTOCOLS.len())];
    let port = match random.below(10) {
        0 => PortMatch::Any,
        1 | 2 => PortMatch::Named(random.pick(&["http", "dns", "nowhere"]).to_owned()),
        3 => PortMatch::Unsupported("a test".to_owned()),
        _ => range(random),
    };
    Port { protocol, port }
}

fn range(random: &mut Random) -> PortMatch {
    match random.below(12) {
        0 => PortMatch::Range(0, 65535),
        1 => PortMatch::Range(80, 80),
        2 => PortMatch::Range(8079, 65535),
        _ => {
            let first = u16::try_from(1 + random.below(5)).expect("at most five");
            let more = u16::try_from(random.below(4)).expect("less than four");
            PortMatch::Range(first, first + more)
        }
    }
}

fn cluster_rule(is_egress: bool, random: &mut Random) -> ClusterRule {
    use ClusterAction::{Accept, Deny, Pass};
    ClusterRule {
        name: String::new(),
        action: [Accept, Deny, Pass][random.below(3)],
        peers: random.many(1, 2, |random| cluster_peer(is_egress, random)),
        protocols: random.chance(60).then(|| random.many(1, 3, cluster_port)),
    }
}

fn cluster_peer(is_egress: bool, random: &mut Random) -> ClusterPeer {
    match random.below(12) {
        0 if random.chance(50) => ClusterPeer::Unsupported("a test".to_owned()),
        1 | 2 if is_egress => {
            ClusterPeer::Nodes(selector(random.pick(&["", "role=edge", "role!=edge"])))
        }
        3..=6 if is_egress => ClusterPeer::Networks(random.many(1, 3, cidr)),
        _ => ClusterPeer::Pods(namespaced(random)),
    }
}

fn cluster_port(random: &mut Random) -> ClusterPort {
    match random.below(10) {
        0 | 1 => ClusterPort::Named(random.pick(&["http", "dns", "nowhere"]).to_owned()),
        2 if random.chance(40) => ClusterPort::Unsupported("a test".to_owned()),
        _ => {
            let protocol = PROTOCOLS[random.below(PROTOCOLS.len())];
            let port = if random.chance(15) {
                PortMatch::Any
            } else {
                range(random)
            };
            ClusterPort::Port(Port { protocol, port })
        }
    }
}
