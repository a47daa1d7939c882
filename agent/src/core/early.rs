//! Pods that were read for an ADD before the watch has told them: what the watch tells late must not take them back.

use std::collections::BTreeMap;

use api::resources::Pod;
use api::{Change, Key, NamespacedName, Resource};

/// The pods that are known by a read alone.
#[derive(Clone, Debug, Default)]
pub(super) struct EarlyPods(BTreeMap<NamespacedName, Early>);

#[derive(Clone, Debug)]
struct Early {
    uid: String,
    /// What the watch says meanwhile; it is older, or of another pod of that name.
    told: Option<Box<Pod>>,
}

impl EarlyPods {
    /// A pod was read; `told` is what the watch has said of its name so far. The change that makes it known.
    pub(super) fn put(&mut self, pod: Pod, told: Option<&Pod>) -> Change {
        let told = match self.0.remove(&pod.name) {
            Some(earlier) => earlier.told,
            None => told.cloned().map(Box::new),
        };
        let early = Early {
            uid: pod.uid.clone(),
            told,
        };
        self.0.insert(pod.name.clone(), early);
        change(&pod.name.clone(), Some(pod))
    }

    /// Passes a change of the watch on, unless it is older than what was read.
    pub(super) fn pass(&mut self, change: Change) -> Option<Change> {
        let Key::Pod(name) = &change.key else {
            return Some(change);
        };
        let Some(early) = self.0.get_mut(name) else {
            return Some(change);
        };
        let Some(Resource::Pod(pod)) = change.value else {
            early.told = None;
            return None;
        };
        if pod.uid != early.uid || pod.node_name.is_none() {
            early.told = Some(Box::new(pod));
            return None;
        }
        self.0.remove(name);
        Some(self::change(&pod.name.clone(), Some(pod)))
    }

    /// The pod's attachment is gone: what the watch has said last holds again. One of another uid is of the pod before.
    pub(super) fn release(&mut self, name: &NamespacedName, uid: &str) -> Option<Change> {
        let is_it = |early: &Early| uid.is_empty() || early.uid == uid;
        self.0.get(name).filter(|early| is_it(early))?;
        let early = self.0.remove(name)?;
        Some(change(name, early.told.map(|pod| *pod)))
    }
}

fn change(name: &NamespacedName, pod: Option<Pod>) -> Change {
    Change {
        key: Key::Pod(name.clone()),
        value: pod.map(Resource::Pod),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(uid: &str, node: Option<&str>) -> Pod {
        Pod {
            name: NamespacedName::new("shop", "web-0"),
            uid: uid.to_owned(),
            labels: api::Labels::new(),
            node_name: node.map(str::to_owned),
            host_network: false,
            finished: false,
            pod_ips: Vec::new(),
            fixed_ips: Vec::new(),
            named_ports: Vec::new(),
        }
    }

    fn told(pod: Option<Pod>) -> Change {
        change(&NamespacedName::new("shop", "web-0"), pod)
    }

    #[test]
    fn what_the_watch_tells_of_the_pod_before_takes_nothing_away() {
        let mut early = EarlyPods::default();
        let old = pod("old", Some("n2"));
        let read = pod("new", Some("n1"));
        assert_eq!(
            early.put(read.clone(), Some(&old)),
            told(Some(read.clone()))
        );
        for late in [None, Some(old), Some(pod("new", None))] {
            assert_eq!(early.pass(told(late)), None);
        }
        assert_eq!(early.pass(told(Some(read.clone()))), Some(told(Some(read))));
        assert_eq!(
            early.pass(told(None)),
            Some(told(None)),
            "the watch is right from here on"
        );
    }

    #[test]
    fn a_pod_that_the_watch_never_tells_goes_with_its_attachment() {
        let mut early = EarlyPods::default();
        let name = NamespacedName::new("shop", "web-0");
        early.put(pod("new", Some("n1")), None);
        assert_eq!(early.release(&name, "old"), None);
        assert_eq!(early.release(&name, "new"), Some(told(None)));
        assert_eq!(early.release(&name, "new"), None);
        early.put(pod("new", Some("n1")), None);
        let newer = pod("newer", Some("n1"));
        assert_eq!(early.pass(told(Some(newer.clone()))), None);
        assert_eq!(early.release(&name, "new"), Some(told(Some(newer))));
    }

    #[test]
    fn other_objects_and_other_pods_pass() {
        let mut early = EarlyPods::default();
        early.put(pod("new", Some("n1")), None);
        let node = Change {
            key: Key::Node("n1".to_owned()),
            value: None,
        };
        assert_eq!(early.pass(node.clone()), Some(node));
        let other = change(&NamespacedName::new("shop", "db"), None);
        assert_eq!(early.pass(other.clone()), Some(other));
    }
}
