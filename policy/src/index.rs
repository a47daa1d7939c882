//! The objects that policies are made of, as they are now.

use std::collections::{BTreeMap, BTreeSet};

use api::resources::{Namespace, NetworkPolicy, Pod};
use api::{Change, Key, NamespacedName, Resource};
use netfilter::{Family, InterfaceName};

use crate::chains::compile_family;
use crate::model::Model;
use crate::{Compiled, Endpoint, Settings};

/// Namespaces, pods, policies and local endpoints. Holds pods of namespaces it has not seen.
#[derive(Clone, Debug, Default)]
pub struct Index {
    pub(crate) settings: Settings,
    pub(crate) namespaces: BTreeMap<String, Namespace>,
    pub(crate) pods: BTreeMap<String, BTreeMap<String, Pod>>,
    pub(crate) policies: BTreeMap<NamespacedName, NetworkPolicy>,
    pub(crate) endpoints: BTreeMap<InterfaceName, Endpoint>,
    /// Names of endpoints' interfaces that are none; reported with what is unsupported.
    pub(crate) refused: BTreeSet<String>,
}

impl Index {
    /// Makes an empty index with the default settings.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes an empty index.
    pub fn with_settings(settings: Settings) -> Self {
        Self {
            settings,
            ..Self::default()
        }
    }

    /// Takes one object's new state; kinds that no policy hangs on are passed over.
    pub fn handle(&mut self, change: &Change) {
        match &change.key {
            Key::Namespace(name) => match &change.value {
                Some(Resource::Namespace(new)) => {
                    self.namespaces.insert(name.clone(), new.clone());
                }
                Some(_) | None => drop(self.namespaces.remove(name)),
            },
            Key::Pod(name) => match &change.value {
                Some(Resource::Pod(new)) => self.insert_pod(name, new),
                Some(_) | None => self.remove_pod(name),
            },
            Key::NetworkPolicy(name) => match &change.value {
                Some(Resource::NetworkPolicy(new)) => {
                    self.policies.insert(name.clone(), new.clone());
                }
                Some(_) | None => drop(self.policies.remove(name)),
            },
            Key::BgpConfiguration(_)
            | Key::BgpFilter(_)
            | Key::BgpPeer(_)
            | Key::Secret(_)
            | Key::Node(_) => {}
        }
    }

    /// Says which pods are attached to this node, by the host end's interface. Replaces what was said before.
    pub fn set_endpoints(&mut self, endpoints: BTreeMap<String, Endpoint>) {
        self.endpoints.clear();
        self.refused.clear();
        for (interface, endpoint) in endpoints {
            match InterfaceName::new(&interface) {
                Ok(name) => drop(self.endpoints.insert(name, endpoint)),
                Err(error) => {
                    self.refused
                        .insert(format!("Pod {}: {error}", endpoint.pod));
                }
            }
        }
    }

    /// Compiles all that is known now, for both families.
    pub fn compile(&self) -> Compiled {
        let mut model = Model::new(self);
        let v4 = compile_family(&model, Family::V4);
        let v6 = compile_family(&model, Family::V6);
        Compiled {
            v4,
            v6,
            unsupported: model.take_unsupported(),
        }
    }

    fn insert_pod(&mut self, name: &NamespacedName, pod: &Pod) {
        let pods = self.pods.entry(name.namespace.clone()).or_default();
        pods.insert(name.name.clone(), pod.clone());
    }

    fn remove_pod(&mut self, name: &NamespacedName) {
        let Some(pods) = self.pods.get_mut(&name.namespace) else {
            return;
        };
        pods.remove(&name.name);
        if pods.is_empty() {
            self.pods.remove(&name.namespace);
        }
    }

    pub(crate) fn pod(&self, name: &NamespacedName) -> Option<&Pod> {
        self.pods.get(&name.namespace)?.get(&name.name)
    }
}
