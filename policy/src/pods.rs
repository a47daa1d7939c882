//! Pods by name, where the name stands in the pod alone: a cluster has many.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::sync::Arc;

use api::resources::Pod;

/// The pods of one namespace, in the order of their names.
#[derive(Clone, Debug, Default)]
pub struct Pods(BTreeSet<ByName>);

/// A pod, which is its name among those of its namespace.
#[derive(Clone, Debug)]
struct ByName(Arc<Pod>);

impl Pods {
    /// The pod of a name.
    pub fn get(&self, name: &str) -> Option<&Arc<Pod>> {
        self.0.get(name).map(|pod| &pod.0)
    }

    /// Takes a pod in place of the one of its name.
    pub fn insert(&mut self, pod: Arc<Pod>) {
        self.0.replace(ByName(pod));
    }

    /// Lets the pod of a name go.
    pub fn remove(&mut self, name: &str) {
        self.0.remove(name);
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Pod>> {
        self.0.iter().map(|pod| &pod.0)
    }
}

impl PartialEq for Pods {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for Pods {}

impl Borrow<str> for ByName {
    fn borrow(&self) -> &str {
        &self.0.name.name
    }
}

impl PartialEq for ByName {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for ByName {}

impl PartialOrd for ByName {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ByName {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.name.name.cmp(&other.0.name.name)
    }
}

#[cfg(test)]
mod tests {
    use api::{Labels, NamespacedName};

    use super::*;

    #[test]
    fn a_pod_is_found_by_its_name_and_another_of_that_name_takes_its_place() {
        let pod = |name: &str, uid: &str| {
            Arc::new(Pod {
                name: NamespacedName::new("shop", name),
                uid: uid.to_owned(),
                labels: Labels::new(),
                node_name: None,
                host_network: false,
                finished: false,
                pod_ips: Vec::new(),
                fixed_ips: Vec::new(),
                named_ports: Vec::new(),
            })
        };
        let mut pods = Pods::default();
        pods.insert(pod("b", "1"));
        pods.insert(pod("a", "2"));
        let before = pods.clone();
        pods.insert(pod("b", "3"));
        assert!(
            before != pods,
            "equal are those of equal pods, not of equal names"
        );
        let uids: Vec<&str> = pods.iter().map(|pod| pod.uid.as_str()).collect();
        assert_eq!(uids, ["2", "3"]);
        pods.remove("a");
        pods.remove("b");
        assert!(pods.is_empty() && pods.get("a").is_none());
    }
}
