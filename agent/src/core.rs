//! The state of the agent: what the sources say and which pods are attached, turned into what is to be. No await in here.

mod addresses;
mod balancing;
mod bgp;
mod blocks;
mod conditions;
mod early;
mod egress;
mod host_ports;
mod known;
mod links;
mod nodes;
mod overlay;
mod pools;
mod proxy;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::{Change, Event, Key, NamespacedName, Resource};
use ipam::{Holder, Lease, Span};
use ipnet::IpNet;
use netfilter::{ChainName, SetName};
use routes::Target;
use tracing::info;

pub(crate) use addresses::when;
pub(crate) use blocks::{Blocks, Goal};
pub(crate) use known::belongs_here;

use crate::attachments::{self, Leases, Settings, host_interface};
use crate::dns::Domains;
use crate::layer2;
use crate::speaker;
use crate::{conntrack, firewall, mtu, routing, service, service_proxy};
use balancing::Balancing;
use bgp::is_of_bgp;
use early::EarlyPods;
use egress::Egress;
use host_ports::{HostPortHeld, HostPorts};
use links::Links;
pub(crate) use links::Seen;
use overlay::Overlays;
pub(crate) use proxy::Serve;
use proxy::Services;

/// One pod attachment of this node, as status and the shell see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// The host end's name.
    pub(crate) interface: String,
    /// Which container and interface.
    pub(crate) holder: Holder,
    /// Which pod; a plain container has none.
    pub(crate) pod: Option<NamespacedName>,
    /// The pod's UID; empty where the runtime gave none.
    pub(crate) uid: String,
    /// Its addresses.
    pub(crate) addresses: Vec<IpAddr>,
    /// What it has besides addresses.
    pub(crate) settings: Settings,
    /// The generation in which the last of their earlier holders was gone; 0 if nobody had them in this run.
    pub(crate) freed: u64,
}

impl Endpoint {
    fn of(lease: &Lease, settings: Settings) -> Self {
        Self {
            interface: host_interface(&lease.holder),
            holder: lease.holder.clone(),
            pod: lease.pod.clone(),
            uid: lease.uid.clone(),
            addresses: lease.addresses.clone(),
            settings,
            freed: 0,
        }
    }
}

/// What an ADD asks for.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// Which container and interface.
    pub(crate) holder: Holder,
    /// Which pod the runtime says it is.
    pub(crate) pod: Option<NamespacedName>,
    /// The pod's UID; empty where the runtime gave none.
    pub(crate) uid: String,
    /// Addresses that the runtime asks for.
    pub(crate) fixed: Vec<IpAddr>,
    /// Ranges that the runtime asks for: of each set one address.
    pub(crate) ranges: Vec<Vec<Span>>,
    /// Addresses that another IPAM plugin has chosen; then nothing is chosen here.
    pub(crate) given: Vec<IpAddr>,
    /// What it is to have besides addresses.
    pub(crate) settings: Settings,
}

/// Everything that the shells carry out. Each part grows its own generation.
pub(crate) struct Outputs {
    /// Chains and sets.
    pub(crate) firewall: firewall::Desired,
    /// What flows are held against.
    pub(crate) flows: conntrack::Goal,
    /// What is around the rules of Services.
    pub(crate) service: service::Goal,
    /// Routes of this node.
    pub(crate) local: routing::Local,
    /// What this node's way out must lead to.
    pub(crate) ways: routes::Ways,
    /// The speaker, once this node is known.
    pub(crate) speaker: Option<speaker::Compiled>,
    /// Services, where they are not served by iptables.
    pub(crate) proxy: service_proxy::Goal,
    /// Addresses to answer for by ARP and neighbour discovery.
    pub(crate) layer2: layer2::Goal,
    /// Blocks to claim and to give back.
    pub(crate) blocks: Goal,
}

/// The state; owned by one task.
pub(crate) struct Core {
    node: String,
    /// All but pods.
    store: BTreeMap<Key, Resource>,
    in_sync: bool,
    /// Whether a pod is attached only once the source has told of it.
    asks_for_pods: bool,
    early: EarlyPods,
    policy: policy::Index,
    /// What the DNS said of policies' names.
    pub(crate) domains: Domains,
    leases: Leases,
    uses_pools: bool,
    is_plan_stale: bool,
    are_conditions_stale: bool,
    problems_of_conditions: Vec<datastore::Problem>,
    blocks: Blocks,
    links: Links,
    generation: u64,
    /// When the oldest change came in that is not in any output yet.
    oldest: Option<Instant>,
    errors: Vec<String>,
    /// What keeps this node from speaking BGP at all; it is among the errors, too.
    node_error: Option<String>,
    unsupported: Vec<String>,
    /// Addresses that were given up in this run and not given again, and the first generation without them: flows of
    /// their last holders are cut soon after it.
    freed: BTreeMap<IpAddr, u64>,
    host_ports: HostPorts,
    overlays: Overlays,
    egress: Egress,
    services: Option<Services>,
    /// Addresses of load balancers; nothing without that feature.
    balancing: Option<Balancing>,
    /// This node's CIDRs and blocks, and what pods of other nodes hold of them; `None` once that may be something else.
    elsewhere: Option<(BTreeSet<IpNet>, BTreeSet<IpNet>)>,
}

impl Core {
    /// Starts with the leases of an earlier run and an empty store.
    pub(crate) fn new(node: String, leases: Leases, settings: policy::Settings) -> Self {
        Self {
            node,
            store: BTreeMap::new(),
            in_sync: false,
            asks_for_pods: false,
            early: EarlyPods::default(),
            policy: policy::Index::with_settings(settings),
            domains: Domains::new(),
            leases,
            uses_pools: false,
            is_plan_stale: true,
            are_conditions_stale: true,
            problems_of_conditions: Vec::new(),
            blocks: Blocks::new(Duration::ZERO),
            links: Links::default(),
            generation: 0,
            oldest: None,
            errors: Vec::new(),
            node_error: None,
            unsupported: Vec::new(),
            freed: BTreeMap::new(),
            host_ports: HostPorts::default(),
            overlays: Overlays::default(),
            egress: Egress::default(),
            services: None,
            balancing: None,
            elsewhere: None,
        }
    }

    /// Takes one event of a source.
    pub(crate) fn handle_event(&mut self, event: Event) {
        self.oldest.get_or_insert_with(Instant::now);
        self.note_sync_of_balancing(&event);
        match event {
            Event::InSync => self.in_sync = true,
            Event::Change(change) => {
                if let Some(change) = self.early.pass(change) {
                    self.apply(change);
                }
            }
        }
    }

    fn apply(&mut self, change: Change) {
        self.note_balancing(&change);
        let Some(change) = self.take_of_services(change) else {
            return;
        };
        self.note_overlays(&change);
        if let Key::Pod(_) = &change.key {
            // The index of policies has every pod: that is the one copy.
            self.note_elsewhere(&change);
            return self.policy.handle(&change);
        }
        self.policy.handle(&change);
        self.domains.note(&change.key);
        self.egress.note(&change.key);
        // What follows from it for peers is told when it is handed to the speaker.
        if self.in_sync && is_of_bgp(&change.key) {
            let what = match (&change.value, self.store.contains_key(&change.key)) {
                (None, _) => "is gone",
                (Some(_), true) => "has changed",
                (Some(_), false) => "is new",
            };
            info!("{} {what}", change.key);
        }
        self.is_plan_stale |= addresses::is_of_plan(&change.key);
        self.are_conditions_stale |= conditions::are_of(&change.key);
        match change.value {
            Some(value) => self.store.insert(change.key, value),
            None => self.store.remove(&change.key),
        };
    }

    /// Whether every source is in sync: only then is anything written (invariant 3).
    pub(crate) fn in_sync(&self) -> bool {
        self.in_sync
    }

    /// Gives an attachment its addresses; the generation that must be in the kernel before its link is made.
    ///
    /// # Errors
    /// If the node has no Pod CIDR or none is left.
    pub(crate) fn attach(&mut self, asked: &Asked) -> anyhow::Result<Endpoint> {
        if self.own_node().is_none() {
            return Err(self.node_missing().into());
        }
        self.oldest.get_or_insert_with(Instant::now);
        self.check_known(asked)?;
        let fixed = self.fixed(asked);
        if self.is_plan_stale {
            self.follow_sources(Instant::now());
        }
        let holder = &asked.holder;
        if self.leases.lease(holder).is_none() {
            let named = [fixed.as_slice(), &asked.given].concat();
            self.check_fixed(&named, asked.pod.as_ref())?;
            if asked.given.is_empty() {
                self.check_blocks(&fixed)?;
            }
        }
        self.claim_host_ports(asked)?;
        let request = ipam::Request {
            pod: asked.pod.clone(),
            uid: asked.uid.clone(),
            fixed,
            ranges: asked.ranges.clone(),
            given: asked.given.clone(),
            ..ipam::Request::new(holder.clone(), attachments::now())
        };
        let lease = match self.leases.allocate(&request, asked.settings.clone()) {
            Ok(lease) => lease,
            Err(error) => {
                self.host_ports.forget(holder);
                return Err(self.explain(error));
            }
        };
        let mut endpoint = Endpoint::of(&lease, asked.settings.clone());
        // A host end of an earlier ADD is made anew: its route comes when it is up, or the kernel would refuse it.
        self.links.set(&endpoint.interface, false);
        let freed = lease
            .addresses
            .iter()
            .filter_map(|address| self.freed.remove(address));
        endpoint.freed = freed.max().unwrap_or_default();
        if host_ports::may_have_stale_flows(&endpoint.settings.ports) {
            // Those of the port are looked for once its rules are in force.
            endpoint.freed = self.generation + 1;
        }
        Ok(endpoint)
    }

    /// The addresses asked for by name: by the runtime, or else by the pod's annotation.
    fn fixed(&self, asked: &Asked) -> Vec<IpAddr> {
        if !asked.given.is_empty() || !asked.fixed.is_empty() {
            return asked.fixed.clone();
        }
        let pod = asked.pod.as_ref().and_then(|name| self.pod(name));
        pod.map(|pod| pod.fixed_ips.clone()).unwrap_or_default()
    }

    fn claim_host_ports(&mut self, asked: &Asked) -> Result<(), HostPortHeld> {
        if asked.settings.ports.is_empty() {
            return Ok(());
        }
        let others = self.with_host_ports();
        let links = self.links.all();
        let is_linked = |interface: &str| links.contains(interface);
        let ports = &asked.settings.ports;
        self.host_ports
            .claim(&asked.holder, ports, others.iter(), is_linked)
    }

    /// Takes an attachment's addresses back.
    ///
    /// # Errors
    /// If that cannot be written to disk.
    pub(crate) fn detach(&mut self, holder: &Holder) -> anyhow::Result<Option<Endpoint>> {
        let Some((lease, settings)) = self.leases.release(holder, attachments::now())? else {
            return Ok(None);
        };
        self.host_ports.forget(holder);
        let read = lease.pod.as_ref();
        if let Some(change) = read.and_then(|pod| self.early.release(pod, &lease.uid)) {
            self.apply(change);
        }
        let gone = self.generation + 1;
        for address in &lease.addresses {
            self.freed.insert(*address, gone);
        }
        let endpoint = Endpoint::of(&lease, settings);
        self.set_link(&endpoint.interface, false);
        Ok(Some(endpoint))
    }

    /// One attachment.
    pub(crate) fn endpoint(&self, holder: &Holder) -> Option<Endpoint> {
        let lease = self.leases.lease(holder)?;
        Some(Endpoint::of(lease, self.leases.settings(holder)))
    }

    /// All attachments of this node.
    pub(crate) fn endpoints(&self) -> Vec<Endpoint> {
        let endpoint = |lease: &Lease| Endpoint::of(lease, self.leases.settings(&lease.holder));
        self.leases.iter().map(endpoint).collect()
    }

    /// Takes what a look at all host ends found: only those that are there get routes.
    ///
    /// See [`Links::end_look`].
    pub(crate) fn end_look(&mut self, seen: Option<Seen>) -> (bool, bool) {
        self.links.end_look(seen)
    }

    /// Whether a look at all host ends is to be started now.
    pub(crate) fn begin_look(&mut self) -> bool {
        self.links.begin_look()
    }

    /// Adds or removes one host end.
    pub(crate) fn set_link(&mut self, interface: &str, there: bool) {
        self.host_ports.settle(interface);
        self.links.set(interface, there);
    }

    /// Says which sets and chains the kernel refuses; they are compiled no more.
    pub(crate) fn set_broken(&mut self, sets: BTreeSet<SetName>, chains: BTreeSet<ChainName>) {
        self.host_ports.set_broken(chains.clone());
        self.egress.set_broken(chains.clone());
        self.overlays.set_broken(chains.clone());
        self.policy.set_broken(sets, chains);
    }

    /// What is wrong with the inputs, in words for people.
    pub(crate) fn errors(&self) -> &[String] {
        &self.errors
    }

    /// Why this node cannot be configured, as its Node says too little.
    pub(crate) fn node_error(&self) -> Option<&str> {
        self.node_error.as_deref()
    }

    /// This node's addresses, as its Node says them.
    pub(crate) fn own_addresses(&self) -> &[IpAddr] {
        self.own_node().map_or(&[], |node| &node.internal_ips)
    }

    /// Why no pod here can have an address: the Node's Pod CIDRs may come late, and pools, too.
    pub(crate) fn lacks_addresses(&self) -> Option<String> {
        let has_some = !self.blocks.own().is_empty();
        (!has_some).then(|| {
            format!(
                "Node {} has no Pod CIDR, and no block of an IPPool yet: no pod can have an address",
                self.node
            )
        })
    }

    /// Parts of policies that match nothing because they cannot be compiled yet.
    pub(crate) fn unsupported(&self) -> &[String] {
        &self.unsupported
    }

    /// The objects that policies hang on.
    pub(crate) fn objects(&self) -> &policy::Objects {
        self.policy.objects()
    }

    /// With what policies are compiled.
    pub(crate) fn policy_settings(&self) -> &policy::Settings {
        self.policy.settings()
    }

    /// How many NetworkPolicies there are.
    pub(crate) fn policy_count(&self) -> usize {
        self.objects().policies.len()
    }

    /// What is to be now. `None` before everything is in sync.
    pub(crate) fn outputs(&mut self) -> Option<Outputs> {
        if !self.in_sync {
            return None;
        }
        self.follow_sources(Instant::now());
        self.generation += 1;
        self.errors.clear();
        let lost = self.leases.sync_problem().into_iter();
        self.errors
            .extend(lost.map(|why| format!("leases would not outlive a power cut: {why}")));
        self.policy.set_endpoints(self.policy_endpoints());
        self.domains.prepare(&mut self.policy, self.generation);
        let compiled = self.policy.compile();
        let elsewhere = self.elsewhere();
        let (host_ports, egress) = (self.compile_host_ports(), self.compile_egress());
        self.serve_balanced();
        let (services, proxy) = self.compile_services();
        let (udp, service) = self.beside_services();
        let layer2 = self.layer2();
        self.unsupported = compiled.problems.iter().map(ToString::to_string).collect();
        self.unsupported.extend(self.domains.problems());
        self.unsupported.extend(host_ports::refused(&host_ports));
        self.unsupported.extend(egress::refused(&egress));
        self.node_error = None;
        let speaker = match self.speaker_config(&elsewhere) {
            Ok(compiled) => {
                let told = compiled.refused.iter();
                let told =
                    told.map(|(peer, why)| format!("BGPPeer {peer} makes no session: {why}"));
                self.errors.extend(told);
                Some(compiled)
            }
            Err(error) => {
                self.errors.push(error.clone());
                self.node_error = Some(error);
                None
            }
        };
        self.errors.extend(self.silence_of_services());
        let tunnels = self.overlays();
        self.errors.extend(tunnels.problems);
        let generation = self.generation;
        let oldest = self.oldest.take().into_iter();
        let waiting = oldest.map(|at| firewall::Stamp { generation, at });
        Some(Outputs {
            firewall: firewall::Desired {
                generation: self.generation,
                compiled: compiled.clone(),
                host_ports: host_ports.clone(),
                egress,
                tunnels: tunnels.guard,
                strays: self.guard_services(),
                services,
                serves_services: proxy.mode.is_some(),
                waiting: waiting.collect(),
            },
            flows: conntrack::Goal {
                generation,
                compiled,
                host_ports,
                endpoints: Arc::new(self.policy.objects().endpoints.clone()),
                pod_cidrs: self.blocks.own().into_iter().collect(),
                elsewhere,
                services: udp,
            },
            service,
            local: routing::Local {
                generation: self.generation,
                routes: self.local_routes(),
                install_learned: self.configuration().install_routes,
                overlays: tunnels.demands,
            },
            ways: mtu::ways(self.own_node(), self.nodes(), speaker.as_ref()),
            speaker,
            proxy,
            layer2,
            blocks: self.blocks.goal(),
        })
    }

    fn with_host_ports(&self) -> Vec<Endpoint> {
        let with_ports = self.leases.iter().filter_map(|lease| {
            let settings = self.leases.settings(&lease.holder);
            (!settings.ports.is_empty()).then(|| Endpoint::of(lease, settings))
        });
        with_ports.collect()
    }

    fn compile_host_ports(&mut self) -> Arc<services::host_port::Compiled> {
        let endpoints = self.with_host_ports();
        let links = self.links.all();
        let prefix = &self.policy.settings().interface_prefix;
        let is_linked = |interface: &str| links.contains(interface);
        self.host_ports.compile(&endpoints, is_linked, prefix)
    }

    fn policy_endpoints(&self) -> BTreeMap<String, policy::Endpoint> {
        self.leases
            .iter()
            .map(|lease| {
                let endpoint = policy::Endpoint {
                    // A plain container is in no namespace: no policy selects the empty name.
                    pod: lease
                        .pod
                        .clone()
                        .unwrap_or_else(|| NamespacedName::new("", "")),
                    uid: lease.uid.clone(),
                    addresses: lease.addresses.clone(),
                };
                (host_interface(&lease.holder), endpoint)
            })
            .collect()
    }

    fn local_routes(&self) -> BTreeMap<IpNet, Target> {
        let mut routes = BTreeMap::new();
        for cidr in self.blocks.own() {
            routes.insert(cidr, Target::Blackhole);
        }
        for endpoint in self.endpoints() {
            if self.links.all().contains(&endpoint.interface) {
                for address in endpoint.addresses {
                    routes.insert(
                        IpNet::from(address),
                        Target::Interface(endpoint.interface.clone()),
                    );
                }
            }
        }
        routes
    }
}

#[cfg(test)]
mod tests;
