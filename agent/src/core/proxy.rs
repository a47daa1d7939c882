//! Services of the cluster, announced and served on this node: what the sources say of them, and the rules that follow.

mod announced;
mod itself;
mod layer2;
mod watched;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use api::resources::{Node, Service};
use api::{Change, Key, NamespacedName, Resource};
use ipnet::IpNet;
use netfilter::Family;
use services::layer2::Wants;
use services::proxy::announce::{self, Announcements};
use services::proxy::index::{Index, Place, Touched};
use services::proxy::iptables::{self, Leads, Options};
use services::proxy::ipvs::{self, Scheduler};
use services::proxy::model::Model;
use services::proxy::nftables;
use services::stray_guard;

use super::Core;
use crate::conntrack::UdpServices;
use crate::firewall::ServiceRules;
use crate::service::{self, ServiceState, ServicesReport};
use crate::service_proxy::{Goal, ProxyMode};
use watched::Watched;

/// So many changes of endpoints are counted in one output at most.
const MOST_CHANGES: usize = 1_000;
/// The label that says where a node is.
const ZONE: &str = "topology.kubernetes.io/zone";

/// How Services are to be served, as the command line says.
#[derive(Clone, Debug)]
pub(crate) struct Serve {
    /// By what.
    pub(crate) mode: ProxyMode,
    /// Of the mode IPVS.
    pub(crate) scheduler: Scheduler,
    /// The node's addresses that answer at node ports; empty: all.
    pub(crate) node_port_addresses: Vec<IpNet>,
    /// Whether policy judges this node's pods.
    pub(crate) pods_are_judged: bool,
}

/// What is known of Services, and compiled of it. Without the features there is none.
#[derive(Debug)]
pub(super) struct Services {
    index: Index,
    model: Model,
    /// None where another proxy serves them.
    compiler: Option<Compiler>,
    announcements: Announcements,
    /// What of it is kept from going round in circles, and the rules for that.
    guarded: BTreeSet<IpNet>,
    strays: Arc<stray_guard::Compiled>,
    /// The node's addresses that answer at node ports; empty: all.
    node_port_addresses: Vec<IpNet>,
    /// What changed since it was compiled last.
    touched: Touched,
    /// What tasks beside the rules hang on.
    watched: Watched,
    /// What is to be answered for by ARP and neighbour discovery.
    layer2: Wants,
    /// When this began: of changes from before, nobody waits.
    since: SystemTime,
    /// When the changes happened that are in no output yet.
    changes: Vec<SystemTime>,
}

/// What makes of the model what the chosen mode writes. What did not change stays the same allocation.
#[derive(Debug)]
enum Compiler {
    Iptables {
        compiler: iptables::Compiler,
        rules: Arc<ServiceRules>,
    },
    Nftables(nftables::Compiler),
    Ipvs {
        compiler: iptables::Compiler,
        rules: Arc<ServiceRules>,
        virtuals: Box<ipvs::Compiler>,
        desired: Arc<ipvs::Desired>,
    },
}

impl Compiler {
    fn new(mode: ProxyMode, scheduler: Scheduler, options: Options) -> Self {
        match mode {
            ProxyMode::Iptables => {
                let compiler = iptables::Compiler::new(options);
                let rules = Arc::new(rules(&compiler));
                Self::Iptables { compiler, rules }
            }
            ProxyMode::Nftables => {
                let options = nftables::Options {
                    node_port_addresses: options.node_port_addresses,
                    tcp_is_liberal: options.tcp_is_liberal,
                    ..nftables::Options::new(options.pod_interfaces)
                };
                Self::Nftables(nftables::Compiler::new(options))
            }
            ProxyMode::Ipvs => {
                let options = Options {
                    leads: Leads::Ipvs,
                    ..options
                };
                let compiler = iptables::Compiler::new(options.clone());
                let rules = Arc::new(rules(&compiler));
                Self::Ipvs {
                    compiler,
                    rules,
                    virtuals: Box::new(ipvs::Compiler::new(scheduler, options)),
                    desired: Arc::default(),
                }
            }
        }
    }

    /// Takes the node's addresses and its pods'; whether all Services are to be compiled anew.
    fn set_node_addresses(&mut self, addresses: &[IpAddr], pods: &[IpNet]) -> bool {
        match self {
            Self::Iptables { .. } | Self::Nftables(_) => false,
            Self::Ipvs {
                compiler, virtuals, ..
            } => {
                virtuals.set_node_addresses(addresses);
                compiler.set_node_addresses(addresses, pods)
            }
        }
    }

    fn mode(&self) -> ProxyMode {
        match self {
            Self::Iptables { .. } => ProxyMode::Iptables,
            Self::Nftables(_) => ProxyMode::Nftables,
            Self::Ipvs { .. } => ProxyMode::Ipvs,
        }
    }

    /// Takes the Services that are served otherwise than before.
    fn update(&mut self, model: &Model, changed: &Touched) {
        match self {
            Self::Iptables {
                compiler,
                rules: old,
            } => {
                compiler.update(model, changed);
                *old = Arc::new(rules(compiler));
            }
            Self::Nftables(compiler) => compiler.update(model, changed),
            Self::Ipvs {
                compiler,
                rules: old,
                virtuals,
                desired,
            } => {
                compiler.update(model, changed);
                *old = Arc::new(rules(compiler));
                virtuals.update(model, changed);
                *desired = Arc::new(virtuals.desired().clone());
            }
        }
    }
}

fn rules(compiler: &iptables::Compiler) -> ServiceRules {
    let [v4, v6] = Family::ALL.map(|family| compiler.rules(family).clone());
    let sets = Family::ALL.into_iter().flat_map(|family| {
        let sets = compiler.sets(family).iter();
        sets.map(|(name, set)| (name.clone(), set.clone()))
    });
    ServiceRules {
        v4,
        v6,
        sets: sets.collect(),
    }
}

impl Services {
    /// Known, and served by another.
    fn known() -> Self {
        Self {
            index: Index::default(),
            model: Model::default(),
            compiler: None,
            announcements: Announcements::default(),
            guarded: BTreeSet::new(),
            strays: Arc::default(),
            node_port_addresses: Vec::new(),
            touched: Touched::new(),
            watched: Watched::default(),
            layer2: Wants::default(),
            since: SystemTime::now(),
            changes: Vec::new(),
        }
    }

    /// Takes a change of a Service or slice; gives back what is nothing of the kind.
    fn take(&mut self, change: Change) -> Option<Change> {
        let touched = match (change.key, change.value) {
            (Key::Service(_), Some(Resource::Service(service))) => {
                self.index.set_service(Arc::from(service))
            }
            (Key::Service(name), _) => self.index.remove_service(&name),
            (Key::EndpointSlice(_), Some(Resource::EndpointSlice(slice))) => {
                let at = slice.last_change.filter(|at| *at > self.since);
                let touched = self.index.set_slice(Arc::from(slice));
                let is_counted = !touched.is_empty() && self.changes.len() < MOST_CHANGES;
                self.changes.extend(at.filter(|_| is_counted));
                touched
            }
            (Key::EndpointSlice(name), _) => self.index.remove_slice(&name),
            (key, value) => return Some(Change { key, value }),
        };
        self.touched.extend(touched);
        None
    }

    /// Serves a Service otherwise than its source says.
    pub(super) fn replace(&mut self, service: Arc<Service>) {
        self.touched.extend(self.index.set_service(service));
    }

    fn compile(&mut self, place: Place, pods: &[IpNet], announce: announce::Settings) {
        let mut has_moved = false;
        if let Some(compiler) = &mut self.compiler {
            has_moved = compiler.set_node_addresses(&place.addresses, pods);
        }
        self.touched.extend(self.index.set_place(place));
        let touched = std::mem::take(&mut self.touched);
        let mut changed = self.model.refresh(&self.index, &touched);
        let concerned = touched.union(&changed).cloned().collect();
        self.announcements
            .update(&self.index, &self.model, &concerned);
        self.announcements.set(announce, &self.index, &self.model);
        self.layer2.update((&self.index, &self.model), &concerned);
        let Some(compiler) = &mut self.compiler else {
            return;
        };
        if has_moved {
            changed.extend(self.model.services().map(|(name, _)| name.clone()));
        }
        self.watched.update(&self.model, &changed);
        if !changed.is_empty() {
            compiler.update(&self.model, &changed);
        }
    }
}

impl Core {
    /// Has Services served on this node.
    pub(crate) fn serve_services(&mut self, serve: Serve) {
        let prefix = self.policy.settings().interface_prefix.clone();
        let options = Options {
            tcp_is_liberal: is_tcp_liberal(),
            node_port_addresses: serve.node_port_addresses.clone(),
            pods_are_judged: serve.pods_are_judged,
            ..Options::new(prefix)
        };
        let services = self.services.get_or_insert_with(Services::known);
        services.compiler = Some(Compiler::new(serve.mode, serve.scheduler, options));
        services.node_port_addresses = serve.node_port_addresses;
    }

    /// Takes what Services are made of; gives back all else.
    pub(super) fn take_of_services(&mut self, change: Change) -> Option<Change> {
        match &mut self.services {
            Some(services) => services.take(change),
            None => Some(change),
        }
    }

    /// How much there is of Services; nothing without that feature.
    pub(crate) fn services_report(&self) -> Option<ServicesReport> {
        let services = self.services.as_ref()?;
        services
            .compiler
            .is_some()
            .then(|| ServicesReport::of(&services.model))
    }

    /// What beside rules follows from Services, as of the last [`Self::compile_services`]: flows, and all else.
    pub(super) fn beside_services(&mut self) -> (Arc<UdpServices>, service::Goal) {
        let leaving = self.own_node().and_then(|node| node.leaving);
        let generation = self.generation;
        let Some(services) = &mut self.services else {
            return Default::default();
        };
        let Watched { udp, health } = services.watched.clone();
        let goal = service::Goal {
            generation,
            checks: health,
            leaving,
            changes: std::mem::take(&mut services.changes),
        };
        (udp, goal)
    }

    /// By what Services are served, if they are.
    pub(crate) fn proxy_mode(&self) -> Option<ProxyMode> {
        let services = self.services.as_ref();
        let compiler = services.and_then(|services| services.compiler.as_ref());
        compiler.map(Compiler::mode)
    }

    /// What `portolan service` is answered from: copies, so that nobody waits for them.
    pub(crate) fn service_state(&self, asked: Option<&NamespacedName>) -> Option<ServiceState> {
        let services = self.services.as_ref()?;
        let node = self.own_node();
        Some(ServiceState {
            in_sync: self.in_sync,
            node_port_addresses: services.node_port_addresses.clone(),
            node_addresses: node.map(|node| node.addresses.clone()).unwrap_or_default(),
            services: services
                .index
                .all()
                .map(|service| {
                    (
                        service.clone(),
                        services.model.service(&service.name).cloned(),
                    )
                })
                .collect(),
            announced: asked.and_then(|name| self.announced_of(name)),
        })
    }

    /// What is to be in the kernel, by iptables and else: the same allocations if that is what it was.
    pub(super) fn compile_services(&mut self) -> (Arc<ServiceRules>, Goal) {
        let place = place(&self.node, self.own_node());
        let pods = self.own_node().map(|node| node.pod_cidrs.clone());
        let mut goal = Goal {
            generation: self.generation,
            ..Goal::default()
        };
        let announce = self.announce_settings();
        let Some(services) = &mut self.services else {
            return (Arc::default(), goal);
        };
        services.compile(place, &pods.unwrap_or_default(), announce);
        let Some(compiler) = &services.compiler else {
            return (Arc::default(), goal);
        };
        goal.mode = Some(compiler.mode());
        match compiler {
            Compiler::Iptables { rules, .. } => (rules.clone(), goal),
            Compiler::Nftables(compiler) => {
                let tables = Family::ALL.map(|family| compiler.parts(family).clone());
                goal.nftables = Some(tables);
                (Arc::default(), goal)
            }
            Compiler::Ipvs { rules, desired, .. } => {
                goal.ipvs = desired.clone();
                (rules.clone(), goal)
            }
        }
    }
}

/// Whether this host's conntrack takes packets of TCP for valid that are out of its window (semantics 141): as kube-proxy,
/// looked at once.
fn is_tcp_liberal() -> bool {
    let said = std::fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_tcp_be_liberal");
    said.is_ok_and(|said| said.trim() != "0")
}

/// This node, as far as it is known.
fn place(name: &str, node: Option<&Node>) -> Place {
    let zone = node.and_then(|node| node.labels.get(ZONE)).cloned();
    let addresses: Vec<IpAddr> = node.map(|node| node.addresses.clone()).unwrap_or_default();
    Place {
        node: name.to_owned(),
        zone,
        addresses,
    }
}

#[cfg(test)]
mod tests {
    use netfilter::InterfaceName;
    use netfilter::nft::Name;

    use super::*;

    #[test]
    fn rule_141_by_nftables_nothing_is_dropped_as_invalid_where_tcp_is_liberal() {
        for tcp_is_liberal in [false, true] {
            let options = Options {
                tcp_is_liberal,
                ..Options::new(InterfaceName::new("ptl").unwrap())
            };
            let compiler = Compiler::new(ProxyMode::Nftables, Scheduler::Rr, options);
            let Compiler::Nftables(compiler) = compiler else {
                panic!("another mode");
            };
            let forward = Name::fixed("forward");
            for family in Family::ALL {
                let mut parts = compiler.parts(family).values();
                let drops = parts.any(|part| part.chains.contains_key(&forward));
                assert_eq!(drops, !tcp_is_liberal);
            }
        }
    }
}
