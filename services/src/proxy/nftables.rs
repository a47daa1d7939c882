//! The model as nftables: a few looks into sets and maps lead a packet to its endpoint, however many Services there are.
//!
//! ```text
//! nat prerouting, output ─► services: address . protocol . port (counts) ─► doors: the same to a chain
//!                        ├► node-ports: protocol . port, at the node's own addresses (counts) ─► doors: with the unspecified address
//!                        └► cluster-ips: a port that no Service has is refused
//!      to-… ─ the mark, by who sends ─► one-of-N ─ a chance number ─► endpoints-N: address . protocol . port . number ─► DNAT
//! nat postrouting: the mark is cleared, what bore it and who asks himself gets the node's address
//! ```
//! Chains to-… and one-of-… are shared by all Services with as many endpoints: such a Service is elements alone, and a change of it
//! is, too. Rules of its own has one with source ranges (fw-…) or with affinity (svc-…, ext-…, eps-…, epl-…).

mod base;
mod door;
mod port;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use api::NamespacedName;
use ipnet::IpNet;
use netfilter::nft::{Name, Octets, Part, Parts, Value};
use netfilter::{Family, InterfaceName};

pub use self::base::{NODE_PORTS, SERVICES};
use self::door::Door;
pub use self::port::asked_at;
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

/// What every table starts with, and chains that Services share.
const BASE: &str = "";
/// What starts the names of parts with elements that several Services may want. No Service is named so.
const SHARED: &str = "/shared";

/// A set and a key in it.
type Element = (Name, Octets);
/// Which of the parts with shared elements it is in: a change of one makes not all of them anew.
type Bucket = u8;

/// What several Services may want.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Wanted {
    Element(Element),
    Door(Door),
}

/// One family's table, and who wants what several may want.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Compiled {
    family: Family,
    parts: Arc<Parts>,
    wanted: BTreeMap<NamespacedName, BTreeSet<Wanted>>,
    shared: BTreeMap<Bucket, BTreeMap<Element, usize>>,
    doors: BTreeMap<Door, usize>,
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
                doors: BTreeMap::new(),
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
    shared: BTreeSet<Wanted>,
}

impl Compiled {
    fn update(&mut self, model: &Model, changed: &Touched, options: &Options) {
        let mut news = News::default();
        for name in changed {
            let served = model.service(name).map(AsRef::as_ref);
            let made = served.map_or_else(Made::default, |served| self.made(served, options));
            self.share(name, made.shared, &mut news);
            self.put(&name.to_string(), made.part);
        }
        for bucket in news.buckets {
            let held = self.shared.get(&bucket).into_iter().flatten();
            let elements = held.map(|(key, _)| (key.clone(), Value::None));
            let part = Part {
                elements: elements.collect(),
                ..Part::default()
            };
            self.put(&format!("{SHARED}/{bucket:02x}"), part);
        }
        if news.has_doors {
            let mut part = base::part(self.family, options);
            door::add(&mut part, self.family, self.doors.keys(), options);
            self.put(BASE, part);
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

    /// Counts who wants what several may want; tells where something is wanted now, or no more.
    fn share(&mut self, name: &NamespacedName, wanted: BTreeSet<Wanted>, news: &mut News) {
        let old = self.wanted.remove(name).unwrap_or_default();
        for one in wanted.difference(&old) {
            match one {
                Wanted::Door(door) => news.has_doors |= count(&mut self.doors, door, true),
                Wanted::Element(element) => {
                    let of_bucket = self.shared.entry(bucket(element)).or_default();
                    if count(of_bucket, element, true) {
                        news.buckets.insert(bucket(element));
                    }
                }
            }
        }
        for one in old.difference(&wanted) {
            match one {
                Wanted::Door(door) => news.has_doors |= count(&mut self.doors, door, false),
                Wanted::Element(element) => {
                    let of_bucket = self.shared.entry(bucket(element)).or_default();
                    if count(of_bucket, element, false) {
                        news.buckets.insert(bucket(element));
                    }
                    if of_bucket.is_empty() {
                        self.shared.remove(&bucket(element));
                    }
                }
            }
        }
        if !wanted.is_empty() {
            self.wanted.insert(name.clone(), wanted);
        }
    }
}

/// Which of what Services share changed.
#[derive(Default)]
struct News {
    buckets: BTreeSet<Bucket>,
    has_doors: bool,
}

/// By the key's last octet, which differs most: addresses of Services stand one behind the other.
fn bucket((_, key): &Element) -> Bucket {
    key.as_slice().last().copied().unwrap_or_default()
}

/// One more or less who wants something; true if it is the first, or was the last.
fn count<K: Ord + Clone>(counts: &mut BTreeMap<K, usize>, of: &K, is_more: bool) -> bool {
    if is_more {
        let count = counts.entry(of.clone()).or_default();
        *count += 1;
        return *count == 1;
    }
    let Some(count) = counts.get_mut(of) else {
        return false;
    };
    *count -= 1;
    let is_last = *count == 0;
    if is_last {
        counts.remove(of);
    }
    is_last
}

#[cfg(test)]
mod tests;
