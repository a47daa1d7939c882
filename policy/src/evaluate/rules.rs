//! Whether one rule speaks of one connection: its peers, then its ports.

use std::net::IpAddr;

use api::LabelSelector;
use api::resources::{
    ClusterAction, ClusterNetworkPolicy, ClusterPeer, ClusterPort, ClusterRule, NetworkPolicy,
    Peer, PolicyRule, Port, PortMatch, Protocol,
};

use super::{Flow, Holder, NotMatched};
use crate::{Direction, Objects, Settings};

/// One connection as one side's rules are asked about it.
pub(super) struct Asked<'a> {
    pub(super) objects: &'a Objects,
    pub(super) settings: &'a Settings,
    pub(super) way: Direction,
    pub(super) flow: &'a Flow,
    /// The other side's address.
    pub(super) other: IpAddr,
    /// The pods that hold it.
    pub(super) others: &'a [Holder<'a>],
    /// The pods that named ports are looked up in: those at the destination, whichever side asks (semantics 22).
    pub(super) destinations: &'a [Holder<'a>],
}

/// Why a ClusterNetworkPolicy's rule doesn't do what it says.
pub(super) enum Miss {
    /// It denies all instead.
    FailsClosed(String),
    /// It says nothing.
    Because(NotMatched),
}

/// What one part of a rule says.
enum Part {
    Matches,
    Differs,
    Unsupported(String),
}

impl From<bool> for Part {
    fn from(matches: bool) -> Self {
        if matches {
            Self::Matches
        } else {
            Self::Differs
        }
    }
}

/// A policy's rules of a direction; `None` if it does not isolate in it (semantics 1, 56, 57).
pub(super) fn of_network_policy(policy: &NetworkPolicy, way: Direction) -> Option<&[PolicyRule]> {
    match way {
        Direction::Ingress => policy.ingress.as_deref(),
        Direction::Egress => policy.egress.as_deref(),
    }
}

/// A policy's rules of a direction; none: it says nothing of it.
pub(super) fn of_cluster(policy: &ClusterNetworkPolicy, way: Direction) -> &[ClusterRule] {
    match way {
        Direction::Ingress => &policy.ingress,
        Direction::Egress => &policy.egress,
    }
}

/// Whether a selector matches a namespace's labels. One that is not known (yet) has no labels to match (semantics 18).
pub(super) fn selects_namespace(objects: &Objects, selector: &LabelSelector, name: &str) -> bool {
    let namespace = objects.namespaces.get(name);
    namespace.is_some_and(|namespace| selector.matches(&namespace.labels))
}

impl Asked<'_> {
    /// Peers are ORed, ports are ORed, and both must match (semantics 27); absent ones match everything (10, 11).
    pub(super) fn network_rule(&self, own: &str, rule: &PolicyRule) -> Result<(), NotMatched> {
        if let Some(peers) = &rule.peers {
            let parts = peers.iter().map(|peer| self.network_peer(own, peer));
            any_of(parts, NotMatched::Peers)?;
        }
        match &rule.ports {
            Some(ports) => any_of(ports.iter().map(|port| self.port(port)), NotMatched::Ports),
            None => Ok(()),
        }
    }

    /// As for NetworkPolicy, but a part that cannot be compiled makes the whole rule deny under Deny and Pass
    /// (semantics 67).
    pub(super) fn cluster_rule(&self, rule: &ClusterRule) -> Result<(), Miss> {
        let peers = || rule.peers.iter().map(|peer| self.cluster_peer(rule, peer));
        let ports = || {
            rule.protocols
                .iter()
                .flatten()
                .map(|port| self.cluster_port(port))
        };
        if rule.action != ClusterAction::Accept {
            let reason = |part| match part {
                Part::Unsupported(why) => Some(why),
                Part::Matches | Part::Differs => None,
            };
            if rule.peers.is_empty() {
                return Err(Miss::FailsClosed("no peer".to_owned()));
            }
            if let Some(why) = peers().chain(ports()).find_map(reason) {
                return Err(Miss::FailsClosed(why));
            }
        }
        any_of(peers(), NotMatched::Peers).map_err(Miss::Because)?;
        match &rule.protocols {
            Some(_) => any_of(ports(), NotMatched::Ports).map_err(Miss::Because),
            None => Ok(()),
        }
    }

    fn network_peer(&self, own: &str, peer: &Peer) -> Part {
        match peer {
            // Of all that hold the address, whoever they are: pods too (semantics 32). Families never mix (31).
            Peer::IpBlock(block) => {
                let left_out = block.except.iter().any(|hole| hole.contains(&self.other));
                (block.cidr.contains(&self.other) && !left_out).into()
            }
            Peer::Pods { namespaces, pods } => self
                .others
                .iter()
                .any(|pod| {
                    let namespace = &pod.pod.namespace;
                    let in_namespace = match namespaces {
                        None => namespace == own,
                        Some(selector) => selects_namespace(self.objects, selector, namespace),
                    };
                    in_namespace && pods.matches(pod.peer_labels())
                })
                .into(),
            Peer::Unsupported(why) => Part::Unsupported(why.clone()),
        }
    }

    fn cluster_peer(&self, rule: &ClusterRule, peer: &ClusterPeer) -> Part {
        let only_egress = |kind: &str| Part::Unsupported(format!("{kind} in an ingress rule"));
        let ingress = self.way == Direction::Ingress;
        match peer {
            ClusterPeer::Pods(wanted) => {
                let selects = |pod: &Holder<'_>| {
                    selects_namespace(self.objects, &wanted.namespaces, &pod.pod.namespace)
                        && wanted.pods.matches(pod.peer_labels())
                };
                self.others.iter().any(selects).into()
            }
            ClusterPeer::Networks(_) if ingress => only_egress("networks"),
            ClusterPeer::Nodes(_) if ingress => only_egress("nodes"),
            ClusterPeer::DomainNames(_) if ingress => only_egress("domainNames"),
            ClusterPeer::DomainNames(_) if rule.action != ClusterAction::Accept => {
                Part::Unsupported("domainNames in a rule that is not Accept".to_owned())
            }
            ClusterPeer::Networks(networks) => networks
                .iter()
                .any(|network| network.contains(&self.other))
                .into(),
            ClusterPeer::Nodes(selector) => {
                let mut nodes = self.objects.nodes.values();
                let matches = nodes.any(|node| {
                    selector.matches(&node.labels) && node.addresses.contains(&self.other)
                });
                matches.into()
            }
            ClusterPeer::DomainNames(names) => {
                let known = |name| self.objects.domain_addresses.get(name);
                let mut sets = names.iter().filter_map(known);
                let held = self.settings.domain_names.is_some();
                (held && sets.any(|addresses| addresses.contains(&self.other))).into()
            }
            ClusterPeer::Unsupported(why) => Part::Unsupported(why.clone()),
        }
    }

    fn cluster_port(&self, port: &ClusterPort) -> Part {
        match port {
            ClusterPort::Port(Port {
                port: PortMatch::Named(name),
                ..
            }) => Part::Unsupported(format!("port {name:?} with a protocol")),
            ClusterPort::Port(port) => self.port(port),
            ClusterPort::Named(name) => self.has_named(name).into(),
            ClusterPort::Unsupported(why) => Part::Unsupported(why.clone()),
        }
    }

    /// The protocol must be the entry's own (semantics 20); no port means all of it (19); both ends count (25).
    fn port(&self, port: &Port) -> Part {
        let protocol = number_of(port.protocol) == self.flow.protocol;
        match &port.port {
            PortMatch::Any => protocol.into(),
            PortMatch::Range(first, last) => {
                let within = |port| (*first..=*last).contains(&port);
                (protocol && self.flow.port.is_some_and(within)).into()
            }
            PortMatch::Named(name) => (protocol && self.has_named(name)).into(),
            PortMatch::Unsupported(why) => Part::Unsupported(why.clone()),
        }
    }

    /// Whether a container of the destination gives this name to the connection's protocol and port (semantics 22).
    fn has_named(&self, name: &str) -> bool {
        let mut ports = self.destinations.iter().flat_map(|pod| pod.named_ports());
        ports.any(|port| {
            port.name == name
                && number_of(port.protocol) == self.flow.protocol
                && Some(port.port) == self.flow.port
        })
    }
}

fn number_of(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    }
}

/// An empty list matches nothing: absent lists do not come here (semantics 16).
fn any_of(parts: impl Iterator<Item = Part>, otherwise: NotMatched) -> Result<(), NotMatched> {
    let mut unsupported = None;
    for part in parts {
        match part {
            Part::Matches => return Ok(()),
            Part::Differs => {}
            Part::Unsupported(why) => unsupported = unsupported.or(Some(why)),
        }
    }
    Err(unsupported.map_or(otherwise, NotMatched::Unsupported))
}
