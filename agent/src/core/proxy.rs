//! Services of the cluster, served on this node: what the sources say of them, and the rules that follow.

mod watched;

use std::net::IpAddr;
use std::sync::Arc;

use api::resources::Node;
use api::{Change, Key, Resource};
use netfilter::Family;
use services::proxy::index::{Index, Place, Touched};
use services::proxy::iptables::{self, Options};
use services::proxy::model::Model;
use services::proxy::nftables;

use super::Core;
use crate::firewall::ServiceRules;
use crate::service::ServicesReport;
use crate::service_proxy::{Goal, ProxyMode};
pub(super) use watched::Watched;

/// The label that says where a node is.
const ZONE: &str = "topology.kubernetes.io/zone";

/// What is known of Services, and compiled of it. Without the feature there is none.
#[derive(Debug)]
pub(super) struct Services {
    index: Index,
    model: Model,
    compiler: Compiler,
    /// What changed since it was compiled last.
    touched: Touched,
    /// What tasks beside the rules hang on.
    watched: Watched,
}

/// What makes of the model what the chosen mode writes. What did not change stays the same allocation.
#[derive(Debug)]
enum Compiler {
    Iptables {
        compiler: iptables::Compiler,
        rules: Arc<ServiceRules>,
    },
    Nftables(nftables::Compiler),
}

impl Compiler {
    fn new(mode: ProxyMode, options: Options) -> Self {
        match mode {
            ProxyMode::Iptables => {
                let compiler = iptables::Compiler::new(options);
                let rules = Arc::new(rules(&compiler));
                Self::Iptables { compiler, rules }
            }
            ProxyMode::Nftables => {
                let options = nftables::Options::new(options.pod_interfaces);
                Self::Nftables(nftables::Compiler::new(options))
            }
        }
    }

    fn mode(&self) -> ProxyMode {
        match self {
            Self::Iptables { .. } => ProxyMode::Iptables,
            Self::Nftables(_) => ProxyMode::Nftables,
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
        }
    }
}

fn rules(compiler: &iptables::Compiler) -> ServiceRules {
    let [v4, v6] = Family::ALL.map(|family| compiler.rules(family).clone());
    ServiceRules { v4, v6 }
}

impl Services {
    fn new(mode: ProxyMode, options: Options) -> Self {
        Self {
            index: Index::default(),
            model: Model::default(),
            compiler: Compiler::new(mode, options),
            touched: Touched::new(),
            watched: Watched::default(),
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
                self.index.set_slice(Arc::from(slice))
            }
            (Key::EndpointSlice(name), _) => self.index.remove_slice(&name),
            (key, value) => return Some(Change { key, value }),
        };
        self.touched.extend(touched);
        None
    }

    fn compile(&mut self, place: Place) {
        self.touched.extend(self.index.set_place(place));
        let touched = std::mem::take(&mut self.touched);
        let changed = self.model.refresh(&self.index, &touched);
        self.watched.update(&self.model, &changed);
        if !changed.is_empty() {
            self.compiler.update(&self.model, &changed);
        }
    }
}

impl Core {
    /// Has Services served on this node.
    pub(crate) fn serve_services(&mut self, mode: ProxyMode) {
        let prefix = self.policy.settings().interface_prefix.clone();
        self.services = Some(Services::new(mode, Options::new(prefix)));
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
        Some(ServicesReport::of(&services.model))
    }

    /// What beside rules follows from Services, as of the last [`Self::compile_services`].
    pub(super) fn watched_services(&self) -> Watched {
        let services = self.services.as_ref();
        services.map_or_else(Watched::default, |services| services.watched.clone())
    }

    /// What is to be in the kernel, by iptables and else: the same allocations if that is what it was.
    pub(super) fn compile_services(&mut self) -> (Arc<ServiceRules>, Goal) {
        let place = place(&self.node, self.own_node());
        let mut goal = Goal {
            generation: self.generation,
            ..Goal::default()
        };
        let Some(services) = &mut self.services else {
            return (Arc::default(), goal);
        };
        services.compile(place);
        goal.mode = Some(services.compiler.mode());
        match &services.compiler {
            Compiler::Iptables { rules, .. } => (rules.clone(), goal),
            Compiler::Nftables(compiler) => {
                let tables = Family::ALL.map(|family| compiler.parts(family).clone());
                goal.nftables = Some(tables);
                (Arc::default(), goal)
            }
        }
    }
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
