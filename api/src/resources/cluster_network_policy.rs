//! ClusterNetworkPolicy (policy.networking.k8s.io/v1alpha2) with every default applied and every CIDR parsed.

mod convert;
mod manifest;
#[cfg(test)]
mod tests;

use ipnet::IpNet;

pub(crate) use manifest::Manifest;

use super::{DomainName, Port};
use crate::LabelSelector;

/// A ClusterNetworkPolicy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterNetworkPolicy {
    /// Its name.
    pub name: String,
    /// `spec.tier`: before or after NetworkPolicy.
    pub tier: Tier,
    /// `spec.priority`, 0 to 1000: lower goes first; equal ones go by name.
    pub priority: u16,
    /// The pods that it is about.
    pub subject: ClusterSubject,
    /// `spec.ingress`, in order: the first rule that matches decides.
    pub ingress: Vec<ClusterRule>,
    /// `spec.egress`, in order.
    pub egress: Vec<ClusterRule>,
}

/// When a ClusterNetworkPolicy is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// Before NetworkPolicy.
    Admin,
    /// After NetworkPolicy, and only for pods that no NetworkPolicy isolates.
    Baseline,
}

/// `spec.subject`; never host-network pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClusterSubject {
    /// Pods by their namespace's and their own labels (empty selectors match all).
    Pods(NamespacedPods),
    /// A subject that cannot be read: it selects no pod. The text says why.
    Unsupported(String),
}

/// Pods by their namespace's labels and their own; `namespaces` alone in a manifest has an empty `pods` here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamespacedPods {
    /// `namespaceSelector`.
    pub namespaces: LabelSelector,
    /// `podSelector`.
    pub pods: LabelSelector,
}

/// What a rule does with a connection that it matches; it ends its direction only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ClusterAction {
    /// Allowed: nothing further is asked.
    Accept,
    /// Denied: nothing further is asked.
    Deny,
    /// The rest of this tier is passed over.
    Pass,
}

/// One rule: it matches if a peer and a protocol match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterRule {
    /// Its name, for people; may be empty.
    pub name: String,
    /// What it does.
    pub action: ClusterAction,
    /// `from` or `to`; at least one.
    pub peers: Vec<ClusterPeer>,
    /// `protocols`; `None` (absent or empty) matches every port and every protocol.
    pub protocols: Option<Vec<ClusterPort>>,
}

/// Who is on the other side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClusterPeer {
    /// Pods, never host-network or finished ones.
    Pods(NamespacedPods),
    /// Nodes, by all their addresses (egress only, experimental).
    Nodes(LabelSelector),
    /// Addresses, pods' too (egress only); host bits cleared.
    Networks(Vec<IpNet>),
    /// Names in the DNS (egress Accept only, experimental).
    DomainNames(Vec<DomainName>),
    /// A peer that cannot be compiled: under Accept it matches nothing, under Deny and Pass the rule denies all
    /// (semantics 67). The text says why.
    Unsupported(String),
}

/// One entry of `protocols`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClusterPort {
    /// A protocol and destination ports (never `PortMatch::Named`).
    Port(Port),
    /// `destinationNamedPort`: the ports of that name of the destination pod, whatever their protocol.
    Named(String),
    /// Something that cannot be compiled: fails closed as an unsupported peer does. The text says why.
    Unsupported(String),
}
