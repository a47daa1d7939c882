//! The model as chains of iptables, with kube-proxy's names: what people look for when they debug is where they look.
//!
//! ```text
//! nat PREROUTING, OUTPUT ─► KUBE-SERVICES ─(by prefixes of addresses, where there are many)─► KUBE-SVC-…, KUBE-EXT-…, KUBE-FW-…
//!                                └ an address of the node ─► KUBE-NODEPORTS ─► KUBE-EXT-… ─► KUBE-SVC-…, KUBE-SVL-… ─► KUBE-SEP-… ─► DNAT
//! nat POSTROUTING ─► KUBE-POSTROUTING: what KUBE-MARK-MASQ marked gets the node's address
//! filter: what must be refused or dropped; what is left of the mark is let through
//! ```

mod base;
mod dispatch;
mod port;
mod served;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use api::NamespacedName;
use ipnet::IpNet;
use netfilter::{ChainName, Family, InterfaceName, IpSet, Rule, Ruleset, SetName, Table};

use self::dispatch::{Dispatch, Key, Role};
pub use self::served::led_for_pods;
pub(super) use self::served::{addresses, virtual_addresses};
use super::index::Touched;
use super::model::{Model, Served, ServicePort};

/// What the rules hang on besides the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// What starts the name of each pod's interface on the host: who comes by one is a pod of this node.
    pub pod_interfaces: InterfaceName,
    /// The bit of the packet mark that says "masquerade" (kube-proxy's is `0x4000`).
    pub masquerade_mark: u32,
    /// The node's addresses that answer at node ports; empty: all (semantics 132). Those of the loopback never do.
    pub node_port_addresses: Vec<IpNet>,
    /// Whether `nf_conntrack_tcp_be_liberal` is set: then no packet out of a window is to be dropped (semantics 141).
    pub tcp_is_liberal: bool,
    /// Which endpoints have chains of their own.
    pub endpoint_chains: EndpointChains,
    /// What leads packets to endpoints.
    pub leads: Leads,
    /// The node's own addresses. Only IPVS needs them.
    pub node_addresses: Vec<IpAddr>,
    /// Policy judges this node's pods. IPVS hands what is for the host itself to it where no rule judges any more, so that it
    /// leads pods only where no endpoint can be the host, and the chains lead them elsewhere. Only IPVS needs it.
    pub pods_are_judged: bool,
    /// Whoever has an address in there is a pod of this node, and not the host. Only IPVS needs them.
    pub pod_networks: Vec<IpNet>,
}

/// What leads packets to endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leads {
    /// The chains.
    Chains,
    /// IPVS ([`super::ipvs`]), by the sender that an external policy Local is for. The chains say which packets it may have and
    /// which are masqueraded, and lead those senders that it cannot tell from others: where an external policy is Local, the
    /// node and its pods; where policy judges pods, these wherever an endpoint may be the host itself.
    Ipvs,
}

/// Up to so many endpoints of a family each has a chain of its own: where kube-proxy, too, begins to leave out what people look for.
pub const MOST_ENDPOINT_CHAINS: usize = 1000;

/// Which endpoints have a chain KUBE-SEP-… of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndpointChains {
    /// All, as people know it.
    All,
    /// All of a family while there are no more of them; else those that need one.
    AllUpTo(usize),
    /// Those alone that need one: they may ask themselves, or clients keep them. To the others KUBE-SVC-… leads by itself. For
    /// many Services: what iptables-nft takes to write chains grows by the square of their number.
    Needed,
}

impl EndpointChains {
    /// What holds of so many endpoints.
    fn of(self, endpoints: usize) -> Self {
        match self {
            Self::AllUpTo(most) if endpoints <= most => Self::All,
            Self::AllUpTo(_) | Self::Needed => Self::Needed,
            Self::All => Self::All,
        }
    }
}

impl Options {
    /// kube-proxy's defaults, for pods at interfaces that start so.
    pub fn new(pod_interfaces: InterfaceName) -> Self {
        Self {
            pod_interfaces,
            masquerade_mark: 0x4000,
            node_port_addresses: Vec::new(),
            tcp_is_liberal: false,
            endpoint_chains: EndpointChains::AllUpTo(MOST_ENDPOINT_CHAINS),
            leads: Leads::Chains,
            node_addresses: Vec::new(),
            pods_are_judged: false,
            pod_networks: Vec::new(),
        }
    }
}

/// What one Service adds to the rules of a family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Part {
    /// Its own chains.
    chains: BTreeMap<(Table, ChainName), Arc<[Rule]>>,
    /// Rules in chains that all Services share.
    rules: Vec<(Role, (Key, Rule))>,
    /// What of it IPVS serves.
    served: served::Members,
    /// How many endpoints its ports lead to.
    endpoints: usize,
}

/// One family's rules, and what they were made of.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Compiled {
    family: Family,
    parts: BTreeMap<NamespacedName, Part>,
    shared: BTreeMap<Role, Dispatch>,
    rules: Arc<Ruleset>,
    /// None unless IPVS leads.
    sets: BTreeMap<SetName, Arc<IpSet>>,
    /// Of all parts.
    endpoints: usize,
    /// What that number means.
    endpoint_chains: EndpointChains,
}

/// Compiles what changed; what did not change stays the same allocation, so that a plan compares pointers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compiler {
    options: Options,
    families: [Compiled; 2],
}

impl Compiler {
    /// Without any Service. The chains that all share are there from the start.
    pub fn new(options: Options) -> Self {
        let families = Family::ALL.map(|family| Compiled::new(family, &options));
        Self { options, families }
    }

    /// Compiles anew those Services that changed ([`Model::refresh`] names them).
    pub fn update(&mut self, model: &Model, changed: &Touched) {
        for compiled in &mut self.families {
            compiled.update(model, changed, &self.options);
        }
    }

    /// Takes the node's own addresses and those of its pods, where IPVS leads; whether they are others than before: then all
    /// Services are to be compiled anew.
    pub fn set_node_addresses(&mut self, addresses: &[IpAddr], pods: &[IpNet]) -> bool {
        let options = &mut self.options;
        let is_new = options.node_addresses != addresses || options.pod_networks != pods;
        let is_new = options.leads == Leads::Ipvs && is_new;
        if is_new {
            options.node_addresses = addresses.to_vec();
            options.pod_networks = pods.to_vec();
        }
        is_new
    }

    /// The sets that a family's rules ask; none unless IPVS leads.
    pub fn sets(&self, family: Family) -> &BTreeMap<SetName, Arc<IpSet>> {
        let [v4, v6] = &self.families;
        match family {
            Family::V4 => &v4.sets,
            Family::V6 => &v6.sets,
        }
    }

    /// What a family is to have in the kernel.
    pub fn rules(&self, family: Family) -> &Arc<Ruleset> {
        let [v4, v6] = &self.families;
        match family {
            Family::V4 => &v4.rules,
            Family::V6 => &v6.rules,
        }
    }
}

impl Compiled {
    fn new(family: Family, options: &Options) -> Self {
        let mut compiled = Self {
            family,
            parts: BTreeMap::new(),
            shared: BTreeMap::new(),
            rules: Arc::new(base::rules(options)),
            sets: BTreeMap::new(),
            endpoints: 0,
            endpoint_chains: options.endpoint_chains.of(0),
        };
        for role in Role::all(options) {
            compiled.share(role, options);
        }
        if options.leads == Leads::Ipvs {
            compiled.sets = served::sets(family, [].into_iter());
        }
        compiled
    }

    fn update(&mut self, model: &Model, changed: &Touched, options: &Options) {
        let chains = options
            .endpoint_chains
            .of(self.endpoints_after(model, changed));
        let mut changed = Cow::Borrowed(changed);
        if std::mem::replace(&mut self.endpoint_chains, chains) != chains {
            let all = model.services().map(|(name, _)| name.clone());
            changed.to_mut().extend(all);
        }
        let mut options = options.clone();
        options.endpoint_chains = chains;
        let (options, mut dirty) = (&options, BTreeSet::new());
        let mut is_served_otherwise = false;
        for name in changed.iter() {
            let served = model.service(name).map(AsRef::as_ref);
            let part = served.map_or_else(Part::default, |served| self.part(name, served, options));
            let old = self.parts.get(name).map(|part| &part.served);
            is_served_otherwise |= *old.unwrap_or(&served::Members::default()) != part.served;
            self.replace(name, part, &mut dirty);
        }
        if is_served_otherwise {
            let members = self.parts.values().map(|part| &part.served);
            let sets = served::sets(self.family, members);
            for (name, set) in sets {
                let same = self.sets.get(&name).is_some_and(|held| **held == *set);
                if !same {
                    self.sets.insert(name, set);
                }
            }
        }
        for role in dirty {
            self.share(role, options);
        }
    }

    /// How many endpoints there are once these have changed.
    fn endpoints_after(&self, model: &Model, changed: &Touched) -> usize {
        changed.iter().fold(self.endpoints, |all, name| {
            let held = self.parts.get(name).map_or(0, |part| part.endpoints);
            let ports = model.service(name).into_iter().flat_map(|one| &one.ports);
            let of_family = ports.filter(|port| port.family == self.family);
            all - held + of_family.map(endpoints_of).sum::<usize>()
        })
    }

    fn part(&self, name: &NamespacedName, served: &Served, options: &Options) -> Part {
        let mut part = Part::default();
        for port in served
            .ports
            .iter()
            .filter(|port| port.family == self.family)
        {
            port::add(&mut part, port, options);
            part.endpoints += endpoints_of(port);
        }
        if let Some(check) = &served.health {
            part.rules.push(base::health(name, check.port));
        }
        part
    }

    /// Puts a Service's part in the place of its last one.
    fn replace(&mut self, name: &NamespacedName, mut part: Part, dirty: &mut BTreeSet<Role>) {
        let old = self.parts.remove(name).unwrap_or_default();
        self.endpoints = self.endpoints - old.endpoints + part.endpoints;
        for (name, rules) in &mut part.chains {
            if let Some(held) = old.chains.get(name).filter(|held| *held == rules) {
                *rules = held.clone();
            }
        }
        if part.chains != old.chains {
            let tables = &mut Arc::make_mut(&mut self.rules).tables;
            let is_gone = |key: &&(Table, ChainName)| !part.chains.contains_key(*key);
            for (table, name) in old.chains.keys().filter(is_gone) {
                tables.entry(*table).or_default().chains.remove(name);
            }
            for ((table, name), rules) in &part.chains {
                let chains = &mut tables.entry(*table).or_default().chains;
                chains.insert(name.clone(), rules.clone());
            }
        }
        if part.rules != old.rules {
            for (role, entry) in old.rules.iter().filter(|one| !part.rules.contains(one)) {
                self.shared.entry(*role).or_default().remove(entry);
                dirty.insert(*role);
            }
            for (role, entry) in part.rules.iter().filter(|one| !old.rules.contains(one)) {
                self.shared.entry(*role).or_default().insert(entry.clone());
                dirty.insert(*role);
            }
        }
        if part != Part::default() {
            self.parts.insert(name.clone(), part);
        }
    }

    /// Makes the chains of a role anew from all Services' rules in it.
    fn share(&mut self, role: Role, options: &Options) {
        let dispatch = self.shared.entry(role).or_default();
        let head = base::before(role, self.family);
        let tail = base::after(role, self.family, options);
        let old = dispatch.take_chains();
        let made = dispatch.chains(role, self.family, head, tail);
        let rules = Arc::make_mut(&mut self.rules);
        let chains = &mut rules.tables.entry(role.table(options)).or_default().chains;
        for name in old.iter().filter(|name| !made.contains_key(*name)) {
            chains.remove(name);
        }
        for (name, rules) in made {
            let rules: Arc<[Rule]> = rules.into();
            if chains.get(&name).is_none_or(|held| *held != rules) {
                chains.insert(name, rules);
            }
        }
    }
}

/// Those that its chains lead to.
fn endpoints_of(port: &ServicePort) -> usize {
    port.choice.cluster.len() + port.choice.local.len()
}

#[cfg(test)]
pub(crate) mod tests;
