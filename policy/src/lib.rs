//! NetworkPolicy and ClusterNetworkPolicy to sets and chains: a function of the present objects and endpoints, for both
//! families from one model.
//!
//! Feed [`Index`] with changes and the local endpoints, then [`Index::compile`]. `docs/design/policy.md` shows the chains.

mod difference;
mod dispatch;
mod domain_answer;
mod domain_cache;
mod domain_hold;
mod evaluate;
mod flows;
mod group;
mod index;
mod layout;
mod live;
mod meaning;
mod objects;
mod part;
mod people;
mod pods;
mod policing;
mod render;
mod scratch;
#[cfg(test)]
mod test;
mod walk;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use api::{Key, NamespacedName};
use netfilter::{ChainName, InterfaceName, IpSet, Ruleset, SetName};

pub use difference::{
    ConnectionChange, Difference, FlowChange, IsolationChange, Listed, Span, difference,
};
pub use domain_answer::{DnsAnswer, DnsData, DnsRecord, MalformedAnswer};
pub use domain_cache::{DomainCache, DomainLimits, Learned};
pub use evaluate::{
    DecidedBy, Evaluator, Explanation, Flow, Holder, NotMatched, Outcome, PolicyTier, Side, Step,
    Stranger, Verdict, evaluate,
};
pub use flows::{Cut, Dirty, Entry, Judge, Local, Tuple};
pub use index::Index;
pub use objects::Objects;
pub use pods::Pods;
pub use walk::{Packet, Place, Tables, Tried, WalkVerdict, Walked, walk};

/// A pod attached to this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Which pod. Its manifest may not be known (yet): it then has no labels.
    pub pod: NamespacedName,
    /// The pod's uid as the runtime gave it; empty if it gave none.
    pub uid: String,
    /// Its addresses, which go before what the Pod object says.
    pub addresses: Vec<IpAddr>,
}

/// What one family is to have in the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FamilyRules {
    /// The sets, to be there before the rules.
    pub sets: BTreeMap<SetName, Arc<IpSet>>,
    /// The chains and hooks.
    pub rules: Ruleset,
}

/// What both families are to have in the kernel, and what could not be compiled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compiled {
    /// IPv4.
    pub v4: FamilyRules,
    /// IPv6.
    pub v6: FamilyRules,
    /// What could not be compiled, sorted. It matches nothing (under Deny and Pass: everything); isolation stands.
    pub problems: Vec<Problem>,
    /// What each chain of the filter table whose name is a hash stands for, the tree's own aside; both families.
    pub origins: Arc<BTreeMap<ChainName, Arc<Origin>>>,
}

/// What a chain stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A policy, for one direction.
    Policy {
        /// Which policy.
        key: Key,
        /// Which of its lists of rules.
        direction: Direction,
        /// Which rule of the policy (from 0) each of the chain's rules comes from, the last one (RETURN) left out.
        rules: Vec<usize>,
    },
    /// A pod of this node.
    Endpoint {
        /// The host end of its interface.
        interface: InterfaceName,
        /// What it sends, or what it gets.
        direction: Direction,
    },
    /// All policies that are asked, in their order (or those of the admin tier alone).
    Group {
        /// Which policies.
        policies: Vec<Key>,
        /// For which direction.
        direction: Direction,
    },
}

/// A part of an object that could not be put into force.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Problem {
    /// The object.
    pub key: Key,
    /// Which part of it, and why.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.message)
    }
}

/// Where our packet marks lie, and how our interfaces are named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The mark bits that are ours.
    pub mark: MarkMask,
    /// What starts the name of each pod's interface on the host.
    pub interface_prefix: InterfaceName,
    /// Whether NetworkPolicy's egress rules judge what a pod sends to its own node too.
    pub egress_to_own_node: EgressToOwnNode,
    /// Denied packets are shown to this NFLOG group, so many a second and policy; `None`: they are not.
    pub drop_log: Option<DropLog>,
    /// Where answers of the DNS are held until their addresses may be used; `None`: domain names match nothing.
    pub domain_names: Option<DomainNameSettings>,
    /// What IPVS sends on is judged as well; `None`: there is none.
    pub ipvs: Option<IpvsSettings>,
}

/// How packets are known that IPVS leads: it takes them in INPUT and sends them on by OUTPUT, never by FORWARD.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IpvsSettings {
    /// Sets (IPv4's, IPv6's) of the addresses and ports at which what a pod sends is surely IPVS's and goes to no program of
    /// this node: not judged in INPUT, for it will be judged on its endpoint. `None`: what a pod sends so is for its node.
    pub led: Option<[SetName; 2]>,
}

/// What becomes of a packet from an egress-isolated pod to its own node (semantics 37, D1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EgressToOwnNode {
    /// NetworkPolicy does not judge it. ClusterNetworkPolicy does.
    #[default]
    Allowed,
    /// It is judged as any other.
    Policed,
}

/// How denied packets are shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DropLog {
    /// The NFLOG group.
    pub group: u16,
    /// At most so many packets a second and rule.
    pub rate: u16,
}

/// How answers of the DNS are caught.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DomainNameSettings {
    /// The NFQUEUE number.
    pub queue: u16,
    /// Pods of the cluster's DNS: these labels in this namespace.
    pub cluster_dns: (String, api::LabelSelector),
    /// Further resolvers whose answers count.
    pub resolvers: BTreeSet<IpAddr>,
}

impl Default for Settings {
    /// The prefix `ptl` and the default mask.
    fn default() -> Self {
        let prefix = InterfaceName::new("ptl").expect("a constant interface name is valid");
        Self {
            mark: MarkMask::default(),
            interface_prefix: prefix,
            egress_to_own_node: EgressToOwnNode::default(),
            drop_log: None,
            domain_names: None,
            ipvs: None,
        }
    }
}

/// The bits of the packet mark that are ours; at least four.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MarkMask(u32);

impl MarkMask {
    /// Takes a mask; `None` if it has fewer than four bits.
    pub fn new(mask: u32) -> Option<Self> {
        (mask.count_ones() >= 4).then_some(Self(mask))
    }

    /// All our bits.
    pub fn mask(self) -> u32 {
        self.0
    }

    /// The lowest bit: the packet passed our chains, and our last rule of FORWARD accepts it.
    pub fn accepted(self) -> u32 {
        1 << self.0.trailing_zeros()
    }

    /// The next bit: a policy of the endpoint that is being asked allows the packet.
    pub fn allowed(self) -> u32 {
        1 << (self.0 & !self.accepted()).trailing_zeros()
    }

    /// The next bit: the rest of this tier is passed over.
    pub fn passed(self) -> u32 {
        1 << (self.0 & !self.accepted() & !self.allowed()).trailing_zeros()
    }

    /// The next bit: the packet is from a pod to its own node.
    pub fn own_node(self) -> u32 {
        let lower = self.accepted() | self.allowed() | self.passed();
        1 << (self.0 & !lower).trailing_zeros()
    }
}

impl Default for MarkMask {
    /// `0x000f0000`, which leaves kube-proxy's `0x4000` and `0x8000` alone.
    fn default() -> Self {
        Self(0x000f_0000)
    }
}

/// A direction of traffic, seen from the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// What the pod gets.
    Ingress,
    /// What the pod sends.
    Egress,
}

impl Direction {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Ingress, Self::Egress];
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        })
    }
}
