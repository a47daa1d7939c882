//! The objects that policies hang on, as they are now; nothing is worked out here.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use api::resources::{
    ClusterNetworkPolicy, DomainName, IpPool, Namespace, NetworkPolicy, Node, Pod,
};
use api::{Change, Key, NamespacedName, Resource};
use netfilter::InterfaceName;

use crate::{Endpoint, Pods, Problem};

/// Namespaces, pods, nodes, policies and local endpoints. Holds pods of namespaces it has not seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Objects {
    /// By name.
    pub namespaces: BTreeMap<String, Namespace>,
    /// By namespace and name.
    pub pods: BTreeMap<String, Pods>,
    /// By name: ClusterNetworkPolicy's `nodes` peers.
    pub nodes: BTreeMap<String, Node>,
    /// By name: where pods' addresses are.
    pub pools: BTreeMap<String, IpPool>,
    /// By name.
    pub policies: BTreeMap<NamespacedName, NetworkPolicy>,
    /// By name.
    pub cluster_policies: BTreeMap<String, ClusterNetworkPolicy>,
    /// What the DNS said of each domain name that a policy gives, as far as it may be used now.
    pub domain_addresses: BTreeMap<DomainName, BTreeSet<IpAddr>>,
    /// The pods attached to this node, by the host end's interface.
    pub endpoints: BTreeMap<InterfaceName, Endpoint>,
    /// Endpoints whose interface has no valid name.
    pub refused: BTreeSet<Problem>,
}

impl Objects {
    /// Takes one object's new state; kinds that no policy hangs on are passed over.
    pub fn handle(&mut self, change: &Change) {
        match (&change.key, &change.value) {
            (Key::Namespace(name), value) => {
                set(
                    &mut self.namespaces,
                    name,
                    value.as_ref().and_then(namespace),
                );
            }
            (Key::Node(name), value) => set(&mut self.nodes, name, value.as_ref().and_then(node)),
            (Key::IpPool(name), value) => set(&mut self.pools, name, value.as_ref().and_then(pool)),
            (Key::NetworkPolicy(name), value) => {
                set(&mut self.policies, name, value.as_ref().and_then(policy));
            }
            (Key::ClusterNetworkPolicy(name), value) => {
                let value = value.as_ref().and_then(cluster_policy);
                set(&mut self.cluster_policies, name, value);
            }
            (Key::Pod(name), Some(Resource::Pod(pod))) => {
                let pods = self.pods.entry(name.namespace.clone()).or_default();
                pods.insert(Arc::new(pod.clone()));
            }
            (Key::Pod(name), _) => self.remove_pod(name),
            (
                Key::BgpConfiguration(_)
                | Key::BgpFilter(_)
                | Key::BgpNodeStatus(_)
                | Key::BgpPeer(_)
                | Key::IpamBlock(_)
                | Key::IpReservation(_)
                | Key::Secret(_)
                | Key::Service(_)
                | Key::EndpointSlice(_),
                _,
            ) => {}
        }
    }

    /// Says which pods are attached to this node. Replaces what was said before.
    pub fn set_endpoints(&mut self, endpoints: BTreeMap<String, Endpoint>) {
        self.endpoints.clear();
        self.refused.clear();
        for (interface, endpoint) in endpoints {
            match InterfaceName::new(&interface) {
                Ok(name) => drop(self.endpoints.insert(name, endpoint)),
                Err(error) => drop(self.refused.insert(Problem {
                    key: Key::Pod(endpoint.pod),
                    message: error.to_string(),
                })),
            }
        }
    }

    /// One pod.
    pub fn pod(&self, name: &NamespacedName) -> Option<&Pod> {
        self.shared_pod(name).map(|pod| &**pod)
    }

    pub(crate) fn shared_pod(&self, name: &NamespacedName) -> Option<&Arc<Pod>> {
        self.pods.get(&name.namespace)?.get(&name.name)
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
}

fn set<K: Ord + Clone, V: Clone>(map: &mut BTreeMap<K, V>, key: &K, value: Option<&V>) {
    match value {
        Some(value) => drop(map.insert(key.clone(), value.clone())),
        None => drop(map.remove(key)),
    }
}

fn namespace(resource: &Resource) -> Option<&Namespace> {
    match resource {
        Resource::Namespace(namespace) => Some(namespace),
        _ => None,
    }
}

fn pool(resource: &Resource) -> Option<&IpPool> {
    match resource {
        Resource::IpPool(pool) => Some(pool),
        _ => None,
    }
}

fn node(resource: &Resource) -> Option<&Node> {
    match resource {
        Resource::Node(node) => Some(node),
        _ => None,
    }
}

fn policy(resource: &Resource) -> Option<&NetworkPolicy> {
    match resource {
        Resource::NetworkPolicy(policy) => Some(policy),
        _ => None,
    }
}

fn cluster_policy(resource: &Resource) -> Option<&ClusterNetworkPolicy> {
    match resource {
        Resource::ClusterNetworkPolicy(policy) => Some(policy),
        _ => None,
    }
}
