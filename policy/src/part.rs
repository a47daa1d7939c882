//! A policy's rules for one direction, whatever its kind: what the compiler makes chains of.

use std::collections::BTreeSet;

use api::resources::{
    ClusterAction, ClusterNetworkPolicy, ClusterPeer, ClusterPort, ClusterRule, ClusterSubject,
    DomainName, IpBlock, NamespacedPods, NetworkPolicy, Peer, PolicyRule, Port, PortMatch,
    Protocol,
};
use api::{Key, LabelSelector};
use netfilter::PortRange;

use crate::meaning::{NamespaceChoice, PodChoice, plain_block};
use crate::{Direction, Problem};

/// One direction of a policy.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub(crate) key: Key,
    pub(crate) direction: Direction,
    /// The pods that it is about; `None`: nobody.
    pub(crate) subject: Option<PodChoice>,
    pub(crate) rules: Vec<PartRule>,
}

/// What a rule does with what it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    Allow,
    Deny,
    Pass,
}

/// One rule. A list that is `None` matches all.
#[derive(Clone, Debug)]
pub(crate) struct PartRule {
    pub(crate) effect: Effect,
    pub(crate) peers: Option<Vec<PartPeer>>,
    pub(crate) ports: Option<Vec<PartPort>>,
}

/// Who is on the other side.
#[derive(Clone, Debug)]
pub(crate) enum PartPeer {
    Pods(PodChoice),
    Nodes(LabelSelector),
    Block(IpBlock),
    Domain(DomainName),
    Unsupported(String),
}

/// Which destination ports.
#[derive(Clone, Debug)]
pub(crate) enum PartPort {
    Any(Protocol),
    Range(Protocol, PortRange),
    Named(String, Option<Protocol>),
    Unsupported(String),
}

impl Part {
    /// A NetworkPolicy's part; `None` if it does not isolate for the direction.
    pub(crate) fn of_policy(policy: &NetworkPolicy, direction: Direction) -> Option<Self> {
        let rules = match direction {
            Direction::Ingress => policy.ingress.as_ref()?,
            Direction::Egress => policy.egress.as_ref()?,
        };
        let own = &policy.name.namespace;
        Some(Self {
            key: Key::NetworkPolicy(policy.name.clone()),
            direction,
            subject: Some(PodChoice {
                namespaces: NamespaceChoice::Own(own.clone()),
                pods: policy.pod_selector.clone(),
            }),
            rules: rules.iter().map(|rule| policy_rule(own, rule)).collect(),
        })
    }

    /// A ClusterNetworkPolicy's part; `None` if it has no rule for the direction.
    pub(crate) fn of_cluster(policy: &ClusterNetworkPolicy, direction: Direction) -> Option<Self> {
        let rules = match direction {
            Direction::Ingress => &policy.ingress,
            Direction::Egress => &policy.egress,
        };
        if rules.is_empty() {
            return None;
        }
        let subject = match &policy.subject {
            ClusterSubject::Pods(pods) => Some(cluster_pods(pods)),
            ClusterSubject::Unsupported(_) => None,
        };
        Some(Self {
            key: Key::ClusterNetworkPolicy(policy.name.clone()),
            direction,
            subject,
            rules: rules
                .iter()
                .map(|rule| cluster_rule(rule, direction))
                .collect(),
        })
    }

    /// What of it cannot be compiled.
    pub(crate) fn problems(&self) -> BTreeSet<Problem> {
        let mut problems = BTreeSet::new();
        for (index, rule) in self.rules.iter().enumerate() {
            for why in rule.unsupported() {
                let outcome = match rule.effect {
                    Effect::Allow => "it matches nothing",
                    Effect::Deny | Effect::Pass => "the rule denies all",
                };
                problems.insert(self.problem(index, &format!("{why}: {outcome}")));
            }
        }
        problems
    }

    /// A problem of one of its rules.
    pub(crate) fn problem(&self, rule: usize, text: &str) -> Problem {
        let number = rule + 1;
        Problem {
            key: self.key.clone(),
            message: format!("{} rule {number}: {text}", self.direction),
        }
    }
}

/// Why a ClusterNetworkPolicy selects nobody, if that is so because its subject cannot be read.
pub(crate) fn subject_problem(policy: &ClusterNetworkPolicy) -> Option<Problem> {
    let ClusterSubject::Unsupported(why) = &policy.subject else {
        return None;
    };
    Some(Problem {
        key: Key::ClusterNetworkPolicy(policy.name.clone()),
        message: format!("subject: {why}: it selects no pod"),
    })
}

impl PartRule {
    /// Why parts of it cannot be compiled.
    pub(crate) fn unsupported(&self) -> Vec<&str> {
        let ports = self.ports.iter().flatten().filter_map(|port| match port {
            PartPort::Unsupported(why) => Some(why.as_str()),
            _ => None,
        });
        let peers = self.peers.iter().flatten().filter_map(|peer| match peer {
            PartPeer::Unsupported(why) => Some(why.as_str()),
            _ => None,
        });
        ports.chain(peers).collect()
    }
}

fn policy_rule(own: &str, rule: &PolicyRule) -> PartRule {
    let peer = |peer: &Peer| match peer {
        Peer::Pods { namespaces, pods } => PartPeer::Pods(PodChoice {
            namespaces: namespaces.clone().map_or_else(
                || NamespaceChoice::Own(own.to_owned()),
                NamespaceChoice::Matching,
            ),
            pods: pods.clone(),
        }),
        Peer::IpBlock(block) => PartPeer::Block(plain_block(block)),
        Peer::Unsupported(why) => PartPeer::Unsupported(why.clone()),
    };
    PartRule {
        effect: Effect::Allow,
        peers: rule
            .peers
            .as_ref()
            .map(|peers| peers.iter().map(peer).collect()),
        ports: rule
            .ports
            .as_ref()
            .map(|ports| ports.iter().map(part_port).collect()),
    }
}

fn part_port(Port { protocol, port }: &Port) -> PartPort {
    match port {
        PortMatch::Any => PartPort::Any(*protocol),
        PortMatch::Range(first, last) => PartPort::Range(*protocol, PortRange::new(*first, *last)),
        PortMatch::Named(name) => PartPort::Named(name.clone(), Some(*protocol)),
        PortMatch::Unsupported(why) => PartPort::Unsupported(why.clone()),
    }
}

fn cluster_pods(pods: &NamespacedPods) -> PodChoice {
    PodChoice {
        namespaces: NamespaceChoice::Matching(pods.namespaces.clone()),
        pods: pods.pods.clone(),
    }
}

fn cluster_rule(rule: &ClusterRule, direction: Direction) -> PartRule {
    let effect = match rule.action {
        ClusterAction::Accept => Effect::Allow,
        ClusterAction::Deny => Effect::Deny,
        ClusterAction::Pass => Effect::Pass,
    };
    let mut peers: Vec<PartPeer> = rule
        .peers
        .iter()
        .flat_map(|peer| cluster_peer(peer, effect, direction))
        .collect();
    if rule.peers.is_empty() {
        peers.push(PartPeer::Unsupported("it names no peer".to_owned()));
    }
    let port = |port: &ClusterPort| match port {
        ClusterPort::Port(Port {
            port: PortMatch::Named(name),
            ..
        }) => PartPort::Unsupported(format!("port {name:?} with a protocol")),
        ClusterPort::Port(port) => part_port(port),
        ClusterPort::Named(name) => PartPort::Named(name.clone(), None),
        ClusterPort::Unsupported(why) => PartPort::Unsupported(why.clone()),
    };
    PartRule {
        effect,
        peers: Some(peers),
        ports: rule
            .protocols
            .as_ref()
            .map(|ports| ports.iter().map(port).collect()),
    }
}

fn cluster_peer(peer: &ClusterPeer, effect: Effect, direction: Direction) -> Vec<PartPeer> {
    let outside = |what: &str| {
        vec![PartPeer::Unsupported(format!(
            "{what} are no ingress peers"
        ))]
    };
    let ingress = direction == Direction::Ingress;
    match peer {
        ClusterPeer::Pods(pods) => vec![PartPeer::Pods(cluster_pods(pods))],
        ClusterPeer::Nodes(_) if ingress => outside("nodes"),
        ClusterPeer::Networks(_) if ingress => outside("networks"),
        ClusterPeer::DomainNames(_) if ingress => outside("domain names"),
        ClusterPeer::Nodes(selector) => vec![PartPeer::Nodes(selector.clone())],
        ClusterPeer::Networks(nets) if nets.is_empty() => {
            vec![PartPeer::Unsupported("networks is empty".to_owned())]
        }
        ClusterPeer::Networks(nets) => {
            let block = |cidr: &ipnet::IpNet| {
                PartPeer::Block(IpBlock {
                    cidr: cidr.trunc(),
                    except: Vec::new(),
                })
            };
            nets.iter().map(block).collect()
        }
        ClusterPeer::DomainNames(_) if effect != Effect::Allow => {
            let why = "domain names are for Accept only";
            vec![PartPeer::Unsupported(why.to_owned())]
        }
        ClusterPeer::DomainNames(names) => names.iter().cloned().map(PartPeer::Domain).collect(),
        ClusterPeer::Unsupported(why) => vec![PartPeer::Unsupported(why.clone())],
    }
}
