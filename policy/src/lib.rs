//! NetworkPolicy to sets and chains: a function of the present objects and endpoints, for both families from one model.
//!
//! Feed [`Index`] with changes and the local endpoints, then [`Index::compile`]. `docs/design/policy.md` shows the chains.

mod chains;
mod dispatch;
mod index;
mod model;
mod peers;
#[cfg(test)]
mod test;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use api::NamespacedName;
use netfilter::{InterfaceName, IpSet, Ruleset, SetName};

pub use index::Index;

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
    pub sets: BTreeMap<SetName, IpSet>,
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
    /// What matches nothing because it is not supported, each naming its object, sorted. Isolation stands.
    pub unsupported: Vec<String>,
}

/// Where our packet marks lie, and how our interfaces are named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The mark bits that are ours.
    pub mark: MarkMask,
    /// What starts the name of each pod's interface on the host.
    pub interface_prefix: InterfaceName,
}

impl Default for Settings {
    /// The prefix `ptl` and the default mask.
    fn default() -> Self {
        let prefix = InterfaceName::new("ptl").expect("a constant interface name is valid");
        Self {
            mark: MarkMask::default(),
            interface_prefix: prefix,
        }
    }
}

/// The bits of the packet mark that are ours; at least two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MarkMask(u32);

impl MarkMask {
    /// Takes a mask; `None` if it has fewer than two bits.
    pub fn new(mask: u32) -> Option<Self> {
        (mask.count_ones() >= 2).then_some(Self(mask))
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
}

impl Default for MarkMask {
    /// `0x000f0000`, which leaves kube-proxy's `0x4000` and `0x8000` alone.
    fn default() -> Self {
        Self(0x000f_0000)
    }
}

/// A direction of traffic, seen from the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Direction {
    Ingress,
    Egress,
}

/// The policies of each local endpoint, for one direction; an endpoint that is not in it is not isolated.
type Isolated = BTreeMap<InterfaceName, BTreeSet<NamespacedName>>;
