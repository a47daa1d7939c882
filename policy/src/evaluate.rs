//! The reference evaluator: what the policies say of one new connection, read from the objects rule by rule.
//!
//! It is slow and obvious on purpose and knows nothing of chains, marks and sets: the compiler is held against it, and
//! people read what it says. Numbers are those of the rules in `semantics.md`; what they leave open is `DESIGN.md` §4.

mod holders;
mod rules;
mod subjects;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::IpAddr;

use api::resources::{ClusterAction, ClusterNetworkPolicy, ClusterSubject, NetworkPolicy, Tier};
use api::{Key, LabelSelector, NamespacedName};

use crate::{Direction, EgressToOwnNode, Objects, Settings};
use holders::Holders;
pub use holders::{Holder, Stranger};
use rules::Asked;

/// One new connection, as the destination sees it: after a Service's address became a pod's (semantics 21).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Flow {
    /// Who opens it.
    pub source: IpAddr,
    /// Who is asked.
    pub destination: IpAddr,
    /// The IP protocol's number.
    pub protocol: u8,
    /// The destination port; `None` where the protocol has none (ICMP).
    pub port: Option<u16>,
}

/// What both sides say of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// Whether both sides allow it (semantics 4).
    pub allowed: bool,
    /// What the source's policies say.
    pub egress: Side,
    /// What the destination's policies say.
    pub ingress: Side,
}

/// What one side's policies say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Side {
    /// The pod whose policies were asked; `None` if this side is no policy's subject (`decided_by` says why).
    pub subject: Option<NamespacedName>,
    /// The node where it is enforced, if it is known.
    pub node: Option<String>,
    /// Whether this side lets the connection pass.
    pub verdict: Verdict,
    /// What settled it.
    pub decided_by: DecidedBy,
    /// All that was asked, in order, up to what settled it.
    pub steps: Vec<Step>,
}

/// Whether a side lets a connection pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// It does.
    Allowed,
    /// It does not.
    Denied,
}

/// What settled a side's verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DecidedBy {
    /// Allowed: nobody whom policies are about has this address.
    NoSubject(Stranger),
    /// Allowed: a pod reaches itself, also by its own Service (semantics 40).
    Itself,
    /// Allowed: a pod is always reached by its own node (semantics 36, 69).
    FromOwnNode,
    /// Allowed: NetworkPolicy's egress rules do not judge what goes to the pod's own node (semantics 37,
    /// [`EgressToOwnNode::Allowed`]).
    ToOwnNode,
    /// The last step's rule.
    Rule,
    /// Denied: a NetworkPolicy isolates the pod and no rule allows the connection (semantics 1–3).
    Isolation,
    /// Allowed: nothing was said against it.
    Default,
}

/// The order in which policies are asked (semantics 63).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PolicyTier {
    /// ClusterNetworkPolicy of tier Admin.
    Admin,
    /// NetworkPolicy.
    NetworkPolicy,
    /// ClusterNetworkPolicy of tier Baseline.
    Baseline,
}

/// One rule that was asked, or a policy that isolates without a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// When it was asked.
    pub tier: PolicyTier,
    /// The policy.
    pub key: Key,
    /// The rule's place in the policy's list of this direction, from 0; `None` if the policy has none for it.
    pub rule: Option<usize>,
    /// The rule's name; empty if it has none.
    pub rule_name: String,
    /// What it said.
    pub outcome: Outcome,
}

/// What a rule said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A NetworkPolicy's rule allows it.
    Allows,
    /// A ClusterNetworkPolicy's rule accepts it.
    Accepts,
    /// A ClusterNetworkPolicy's rule denies it.
    Denies,
    /// A ClusterNetworkPolicy's rule passes over the rest of its tier.
    Passes,
    /// A rule under Deny or Pass with a part that cannot be compiled denies all (semantics 67). The text says which.
    FailsClosed(String),
    /// The NetworkPolicy isolates the pod and has no rule.
    Isolates,
    /// It says nothing about this connection.
    NotMatched(NotMatched),
}

/// Why a rule says nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotMatched {
    /// The other side is none of its peers.
    Peers,
    /// The protocol or the port is none of its.
    Ports,
    /// It might have matched but for a part that cannot be compiled. The text says which.
    Unsupported(String),
}

/// Says what the policies make of one connection. For many connections make one [`Evaluator`].
pub fn evaluate(objects: &Objects, settings: &Settings, flow: &Flow) -> Explanation {
    Evaluator::new(objects, settings).evaluate(flow)
}

/// [`evaluate`] for many connections: it has worked out once who holds which address.
#[derive(Debug)]
pub struct Evaluator<'a> {
    objects: &'a Objects,
    settings: &'a Settings,
    holders: Holders<'a>,
}

impl<'a> Evaluator<'a> {
    /// Takes the objects as they are.
    pub fn new(objects: &'a Objects, settings: &'a Settings) -> Self {
        let holders = Holders::new(objects);
        Self {
            objects,
            settings,
            holders,
        }
    }

    /// Says what the policies make of one connection.
    pub fn evaluate(&self, flow: &Flow) -> Explanation {
        let egress = self.side(Direction::Egress, flow);
        let ingress = self.side(Direction::Ingress, flow);
        Explanation {
            allowed: egress.verdict == Verdict::Allowed && ingress.verdict == Verdict::Allowed,
            egress,
            ingress,
        }
    }

    /// The pod that holds an address; the first where the objects contradict each other.
    pub fn holder(&self, address: IpAddr) -> Option<&Holder<'a>> {
        self.holders.of(address).first()
    }

    /// All pods that count for policies, with their addresses.
    pub fn pods(&self) -> BTreeMap<&'a NamespacedName, Vec<IpAddr>> {
        self.holders.pods()
    }

    /// Whether NetworkPolicies isolate the pod that holds an address.
    pub(crate) fn isolates(&self, way: Direction, address: IpAddr) -> bool {
        let isolating = |pod| !self.isolating(way, pod).is_empty();
        self.holder(address).is_some_and(isolating)
    }

    /// Whether a selector matches the namespace of a pod.
    pub(crate) fn selects_namespace(&self, selector: &LabelSelector, pod: &Holder<'_>) -> bool {
        rules::selects_namespace(self.objects, selector, &pod.pod.namespace)
    }

    /// The NetworkPolicies that isolate a pod in a direction, by name (semantics 1, 8, 56).
    pub(crate) fn isolating(&self, way: Direction, pod: &Holder<'_>) -> Vec<&'a NetworkPolicy> {
        let namespace = &pod.pod.namespace;
        let first = NamespacedName::new(namespace, "");
        let of_namespace = self.objects.policies.range(first..);
        let of_namespace = of_namespace.take_while(|(name, _)| name.namespace == *namespace);
        let selects = |policy: &&NetworkPolicy| {
            policy.pod_selector.matches(pod.subject_labels())
                && rules::of_network_policy(policy, way).is_some()
        };
        of_namespace
            .map(|(_, policy)| policy)
            .filter(selects)
            .collect()
    }

    /// A tier's policies whose subject a pod is, in the order in which they are asked (semantics 63, D8).
    pub(crate) fn cluster_policies(
        &self,
        tier: Tier,
        pod: &Holder<'_>,
    ) -> Vec<&'a ClusterNetworkPolicy> {
        let selects = |policy: &&ClusterNetworkPolicy| {
            policy.tier == tier
                && match &policy.subject {
                    ClusterSubject::Unsupported(_) => false,
                    ClusterSubject::Pods(wanted) => {
                        rules::selects_namespace(
                            self.objects,
                            &wanted.namespaces,
                            &pod.pod.namespace,
                        ) && wanted.pods.matches(pod.subject_labels())
                    }
                }
        };
        let all = self.objects.cluster_policies.values();
        let mut policies: Vec<&ClusterNetworkPolicy> = all.filter(selects).collect();
        policies.sort_by(|a, b| (a.priority, &a.name).cmp(&(b.priority, &b.name)));
        policies
    }

    fn side(&self, way: Direction, flow: &Flow) -> Side {
        let (own, other) = match way {
            Direction::Egress => (flow.source, flow.destination),
            Direction::Ingress => (flow.destination, flow.source),
        };
        let mut side = Side {
            subject: None,
            node: None,
            verdict: Verdict::Allowed,
            decided_by: DecidedBy::Default,
            steps: Vec::new(),
        };
        let Some(pod) = self.holders.of(own).first() else {
            let stranger = self.holders.stranger(own);
            if let Stranger::Node(name) = &stranger {
                side.node = Some(name.clone());
            }
            side.decided_by = DecidedBy::NoSubject(stranger);
            return side;
        };
        side.subject = Some(pod.pod.clone());
        side.node = pod.node.map(str::to_owned);
        (side.verdict, side.decided_by) =
            self.verdict_of_pod(way, pod, other, flow, &mut side.steps);
        side
    }

    fn verdict_of_pod(
        &self,
        way: Direction,
        pod: &Holder<'a>,
        other: IpAddr,
        flow: &Flow,
        steps: &mut Vec<Step>,
    ) -> (Verdict, DecidedBy) {
        // By another address of its own it never leaves the pod; a like name may be an earlier pod's (semantics 47).
        if flow.source == flow.destination {
            return (Verdict::Allowed, DecidedBy::Itself);
        }
        let others = self.holders.of(other);
        let own_node = others.is_empty() && self.holders.is_node_of(other, pod);
        if own_node && way == Direction::Ingress {
            return (Verdict::Allowed, DecidedBy::FromOwnNode);
        }
        let asked = Asked {
            objects: self.objects,
            settings: self.settings,
            way,
            flow,
            other,
            others,
            destinations: match way {
                Direction::Egress => others,
                Direction::Ingress => std::slice::from_ref(pod),
            },
        };
        let admin = self.cluster_policies(Tier::Admin, pod);
        if let Some(verdict) = ask_cluster(&asked, PolicyTier::Admin, &admin, steps) {
            return (verdict, DecidedBy::Rule);
        }
        let isolating = self.isolating(way, pod);
        if !isolating.is_empty() {
            if own_node && self.settings.egress_to_own_node == EgressToOwnNode::Allowed {
                return (Verdict::Allowed, DecidedBy::ToOwnNode);
            }
            return ask_network(&asked, &isolating, steps);
        }
        let baseline = self.cluster_policies(Tier::Baseline, pod);
        match ask_cluster(&asked, PolicyTier::Baseline, &baseline, steps) {
            Some(verdict) => (verdict, DecidedBy::Rule),
            None => (Verdict::Allowed, DecidedBy::Default),
        }
    }
}

/// The first rule that matches decides; `None`: none did, or one passed over the rest (semantics 64).
fn ask_cluster(
    asked: &Asked<'_>,
    tier: PolicyTier,
    policies: &[&ClusterNetworkPolicy],
    steps: &mut Vec<Step>,
) -> Option<Verdict> {
    for policy in policies {
        let list = rules::of_cluster(policy, asked.way);
        for (number, rule) in list.iter().enumerate() {
            let outcome = match asked.cluster_rule(rule) {
                Ok(()) => match rule.action {
                    ClusterAction::Accept => Outcome::Accepts,
                    ClusterAction::Deny => Outcome::Denies,
                    ClusterAction::Pass => Outcome::Passes,
                },
                Err(rules::Miss::FailsClosed(why)) => Outcome::FailsClosed(why),
                Err(rules::Miss::Because(why)) => Outcome::NotMatched(why),
            };
            steps.push(Step {
                tier,
                key: Key::ClusterNetworkPolicy(policy.name.clone()),
                rule: Some(number),
                rule_name: rule.name.clone(),
                outcome: outcome.clone(),
            });
            match outcome {
                Outcome::Accepts => return Some(Verdict::Allowed),
                Outcome::Denies | Outcome::FailsClosed(_) => return Some(Verdict::Denied),
                Outcome::Passes => return None,
                Outcome::Allows | Outcome::Isolates | Outcome::NotMatched(_) => {}
            }
        }
    }
    None
}

/// Any rule of any policy allows; none: denied (semantics 1–3). It is final for the pod (semantics 63).
fn ask_network(
    asked: &Asked<'_>,
    policies: &[&NetworkPolicy],
    steps: &mut Vec<Step>,
) -> (Verdict, DecidedBy) {
    for policy in policies {
        let step = |rule, outcome| Step {
            tier: PolicyTier::NetworkPolicy,
            key: Key::NetworkPolicy(policy.name.clone()),
            rule,
            rule_name: String::new(),
            outcome,
        };
        let list = rules::of_network_policy(policy, asked.way).unwrap_or_default();
        if list.is_empty() {
            steps.push(step(None, Outcome::Isolates));
        }
        for (number, rule) in list.iter().enumerate() {
            match asked.network_rule(&policy.name.namespace, rule) {
                Ok(()) => {
                    steps.push(step(Some(number), Outcome::Allows));
                    return (Verdict::Allowed, DecidedBy::Rule);
                }
                Err(why) => steps.push(step(Some(number), Outcome::NotMatched(why))),
            }
        }
    }
    (Verdict::Denied, DecidedBy::Isolation)
}
