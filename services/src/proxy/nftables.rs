//! The model as nftables: one look into a map leads a packet to its Service, however many there are.
//!
//! ```text
//! nat prerouting, output ─► services: address . protocol . port ─► svc-… (cluster IP), ext-… (from outside), fw-… (ranges), refuse, drop
//!                        ├► node-ports: protocol . port, at the node's own addresses ─► ext-…
//!                        └► cluster-ips: a port that no Service has is refused
//!      svc-…, ext-… ─ the mark, by who sends ─► a chance number ─► DNAT; eps-…, epl-… where several lead to the same endpoints
//! nat postrouting: the mark is cleared, what bore it and who asks himself gets the node's address
//! ```

mod base;
mod port;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use api::NamespacedName;
use ipnet::IpNet;
use netfilter::nft::{Name, Octets, Part, Parts, Value};
use netfilter::{Family, InterfaceName};

pub use self::base::{NODE_PORTS, SERVICES};
pub use self::port::doors;
use super::index::Touched;
use super::model::{Model, Served};

/// What the tables hang on besides the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// What starts the name of each pod's interface on the host: who comes by one is a pod of this node.
    pub pod_interfaces: InterfaceName,
    /// The bit of the packet mark that says "masquerade", as the mode iptables has it: packets under way when modes are switched
    /// mean the same to both.
    pub masquerade_mark: u32,
    /// The node's addresses that answer at node ports; empty: all (semantics 132). Those of the loopback never do.
    pub node_port_addresses: Vec<IpNet>,
    /// Whether `nf_conntrack_tcp_be_liberal` is set: then no packet out of a window is to be dropped (semantics 141).
    pub tcp_is_liberal: bool,
}

impl Options {
    /// kube-proxy's mark, for pods at interfaces that start so.
    pub fn new(pod_interfaces: InterfaceName) -> Self {
        Self {
            pod_interfaces,
            masquerade_mark: 0x4000,
            node_port_addresses: Vec::new(),
            tcp_is_liberal: false,
        }
    }
}

/// What every table starts with.
const BASE: &str = "";
/// Elements that several Services may want. No Service is named so.
const SHARED: &str = "/shared";

/// A set and a key in it.
type Element = (Name, Octets);

/// One family's table, and who wants what several may want.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Compiled {
    family: Family,
    parts: Arc<Parts>,
    wanted: BTreeMap<NamespacedName, BTreeSet<Element>>,
    shared: BTreeMap<Element, usize>,
}

/// Compiles what changed; what did not change stays the same allocation, so that a plan compares pointers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compiler {
    options: Options,
    families: [Compiled; 2],
}

impl Compiler {
    /// Without any Service. What all share is there from the start.
    pub fn new(options: Options) -> Self {
        let families = Family::ALL.map(|family| {
            let base = Arc::new(base::part(family, &options));
            Compiled {
                family,
                parts: Arc::new([(Arc::from(BASE), base)].into()),
                wanted: BTreeMap::new(),
                shared: BTreeMap::new(),
            }
        });
        Self { options, families }
    }

    /// Compiles anew those Services that changed ([`Model::refresh`] names them).
    pub fn update(&mut self, model: &Model, changed: &Touched) {
        for compiled in &mut self.families {
            compiled.update(model, changed, &self.options);
        }
    }

    /// What a family's table is to hold.
    pub fn parts(&self, family: Family) -> &Arc<Parts> {
        let [v4, v6] = &self.families;
        match family {
            Family::V4 => &v4.parts,
            Family::V6 => &v6.parts,
        }
    }
}

/// What a Service adds.
#[derive(Default)]
struct Made {
    part: Part,
    shared: BTreeSet<Element>,
}

impl Compiled {
    fn update(&mut self, model: &Model, changed: &Touched, options: &Options) {
        let mut is_shared_changed = false;
        for name in changed {
            let served = model.service(name).map(AsRef::as_ref);
            let made = served.map_or_else(Made::default, |served| self.made(served, options));
            is_shared_changed |= self.share(name, made.shared);
            self.put(&name.to_string(), made.part);
        }
        if is_shared_changed {
            let elements = self.shared.keys().map(|key| (key.clone(), Value::None));
            let part = Part {
                elements: elements.collect(),
                ..Part::default()
            };
            self.put(SHARED, part);
        }
    }

    fn made(&self, served: &Served, options: &Options) -> Made {
        let mut made = Made::default();
        let of_family = served.ports.iter();
        for port in of_family.filter(|port| port.family == self.family) {
            port::add(&mut made, port, options);
        }
        made
    }

    /// Puts a part in the place of its last one.
    fn put(&mut self, name: &str, part: Part) {
        let old = self.parts.get(name);
        if old.map_or(part == Part::default(), |old| **old == part) {
            return;
        }
        let parts = Arc::make_mut(&mut self.parts);
        if part == Part::default() {
            parts.remove(name);
        } else {
            parts.insert(name.into(), Arc::new(part));
        }
    }

    /// Counts who wants what several may want; true if there is another element now, or one less.
    fn share(&mut self, name: &NamespacedName, wanted: BTreeSet<Element>) -> bool {
        let old = self.wanted.remove(name).unwrap_or_default();
        let mut is_changed = false;
        for element in wanted.difference(&old) {
            let count = self.shared.entry(element.clone()).or_default();
            *count += 1;
            is_changed |= *count == 1;
        }
        for element in old.difference(&wanted) {
            if let Some(count) = self.shared.get_mut(element) {
                *count -= 1;
                if *count == 0 {
                    self.shared.remove(element);
                    is_changed = true;
                }
            }
        }
        if !wanted.is_empty() {
            self.wanted.insert(name.clone(), wanted);
        }
        is_changed
    }
}

#[cfg(test)]
mod tests;
