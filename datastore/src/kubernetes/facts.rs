//! What the server says of an object beside its contents, for those who write about it.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::sync::{Arc, PoisonError, RwLock};

use api::{Key, NamespacedName, Resource};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Node, NodeCondition, NodeSpec, NodeStatus, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta};
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use tokio::sync::watch;

use super::balanced::{self, Balanced};
use crate::status::print_of;

/// Of every object that status or Events may be about (all kinds but pods), as it was when its last change was sent; cheap
/// to clone.
#[derive(Clone, Debug)]
pub(crate) struct Facts(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    node: String,
    known: RwLock<BTreeMap<Key, ObjectFacts>>,
    /// Whether every kind has been listed whole; marked as changed when something has changed that is written about.
    whole: watch::Sender<bool>,
    own_node: watch::Sender<Option<Arc<Node>>>,
}

/// What the server says of one object.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct ObjectFacts {
    /// `metadata.uid`.
    pub(crate) uid: String,
    /// `metadata.generation`, the one that was read; 0 where the kind has none.
    pub(crate) generation: i64,
    /// Why this generation cannot be understood; the object's last valid one, if there was any, is in force.
    pub(crate) problem: Option<String>,
    /// What some kinds have besides.
    pub(crate) rest: Rest,
}

/// What is written about of some kinds.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) enum Rest {
    /// Nothing.
    #[default]
    Nothing,
    /// An object that bears conditions of ours.
    Judged {
        /// `metadata.resourceVersion`.
        resource_version: String,
        /// `status.conditions`.
        conditions: Vec<Condition>,
    },
    /// An IPAMBlock.
    Block {
        /// The block.
        cidr: IpNet,
        /// Whose it is.
        node: String,
    },
    /// A Node: its uid, taints and conditions. Kept of this node alone.
    Node(Box<Node>),
    /// A Service that has addresses of a load balancer, should have some, or is told about them.
    Balanced(Box<Balanced>),
}

/// The fields of which [`ObjectFacts`] are made.
#[derive(Deserialize)]
struct Fields<S, T> {
    #[serde(default)]
    metadata: Metadata,
    spec: Option<S>,
    status: Option<T>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Metadata {
    uid: String,
    generation: i64,
    resource_version: String,
}

#[derive(Deserialize)]
struct Conditions<C> {
    conditions: Option<Vec<C>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct BlockSpec {
    cidr: String,
    node: String,
}

#[derive(Deserialize)]
struct Tainted {
    taints: Option<Vec<Taint>>,
}

impl ObjectFacts {
    /// Reads what there is to know of an object of a kind, as the server sent it; of what cannot be read, nothing.
    pub(super) fn read(kind: &str, text: &[u8]) -> Self {
        match kind {
            "BGPFilter" | "BGPPeer" | "IPPool" | "IPReservation" => {
                let read: Fields<IgnoredAny, Conditions<Condition>> = fields(text);
                let rest = Rest::Judged {
                    resource_version: read.metadata.resource_version.clone(),
                    conditions: read.status.and_then(|s| s.conditions).unwrap_or_default(),
                };
                Self::of(read.metadata, rest)
            }
            "IPAMBlock" => {
                let read: Fields<BlockSpec, IgnoredAny> = fields(text);
                let spec = read.spec.unwrap_or_default();
                let rest = match spec.cidr.parse() {
                    Ok(cidr) => Rest::Block {
                        cidr,
                        node: spec.node,
                    },
                    Err(_) => Rest::Nothing,
                };
                Self::of(read.metadata, rest)
            }
            "Node" => {
                let read: Fields<Tainted, Conditions<NodeCondition>> = fields(text);
                let node = Node {
                    metadata: ObjectMeta {
                        uid: Some(read.metadata.uid.clone()),
                        ..ObjectMeta::default()
                    },
                    spec: Some(NodeSpec {
                        taints: read.spec.and_then(|spec| spec.taints),
                        ..NodeSpec::default()
                    }),
                    status: Some(NodeStatus {
                        conditions: read.status.and_then(|status| status.conditions),
                        ..NodeStatus::default()
                    }),
                };
                Self::of(read.metadata, Rest::Node(Box::new(node)))
            }
            "Service" => {
                let read: Fields<balanced::Spec, balanced::Status> = fields(text);
                let version = read.metadata.resource_version.clone();
                let balanced = Balanced::read(version, read.spec, read.status);
                let rest = balanced.map_or(Rest::Nothing, |one| Rest::Balanced(Box::new(one)));
                Self::of(read.metadata, rest)
            }
            _ => Self::of(
                fields::<IgnoredAny, IgnoredAny>(text).metadata,
                Rest::Nothing,
            ),
        }
    }

    /// Notes as what the object was understood.
    pub(in crate::kubernetes) fn set_read(&mut self, resource: &Resource) {
        if let (Rest::Balanced(balanced), Resource::Service(service)) = (&mut self.rest, resource) {
            balanced.print = Some(print_of(service));
        }
    }

    fn of(metadata: Metadata, rest: Rest) -> Self {
        Self {
            uid: metadata.uid,
            generation: metadata.generation,
            problem: None,
            rest,
        }
    }
}

fn fields<S: DeserializeOwned, T: DeserializeOwned>(text: &[u8]) -> Fields<S, T> {
    serde_json::from_slice(text).unwrap_or_else(|_| Fields {
        metadata: Metadata::default(),
        spec: None,
        status: None,
    })
}

impl Facts {
    /// Nothing is known yet; `node` is this node.
    pub(crate) fn new(node: &str) -> Self {
        Self(Arc::new(Shared {
            node: node.to_owned(),
            known: RwLock::default(),
            whole: watch::Sender::default(),
            own_node: watch::Sender::default(),
        }))
    }

    /// What is known of an object; nothing of one that is not there.
    pub(crate) fn get(&self, key: &Key) -> Option<ObjectFacts> {
        let known = self.0.known.read().unwrap_or_else(PoisonError::into_inner);
        known.get(key).cloned()
    }

    /// The names of all Nodes.
    pub(crate) fn nodes(&self) -> BTreeSet<String> {
        let known = self.0.known.read().unwrap_or_else(PoisonError::into_inner);
        let from = Key::Node(String::new());
        let nodes = known.range(from..).map_while(|(key, _)| match key {
            Key::Node(name) => Some(name.clone()),
            _ => None,
        });
        nodes.collect()
    }

    /// All objects that bear conditions of ours.
    pub(crate) fn judged(&self) -> Vec<(Key, ObjectFacts)> {
        let known = self.0.known.read().unwrap_or_else(PoisonError::into_inner);
        // Kinds of ours are first in the order of keys.
        let until = Key::Secret(NamespacedName::new("", ""));
        let ours = known.range(..until);
        let judged = ours.filter(|(_, facts)| matches!(facts.rest, Rest::Judged { .. }));
        judged
            .map(|(key, facts)| (key.clone(), facts.clone()))
            .collect()
    }

    /// All blocks, each with its node.
    pub(crate) fn blocks(&self) -> Vec<(IpNet, String)> {
        let known = self.0.known.read().unwrap_or_else(PoisonError::into_inner);
        let from = Key::IpamBlock(String::new());
        let blocks = known
            .range(from..)
            .take_while(|(key, _)| matches!(key, Key::IpamBlock(_)));
        let blocks = blocks.filter_map(|(_, facts)| match &facts.rest {
            Rest::Block { cidr, node } => Some((*cidr, node.clone())),
            _ => None,
        });
        blocks.collect()
    }

    /// Looks at each Service whose status says something of load balancers, or should; short, as all that is read waits.
    pub(crate) fn look_at_balanced(
        &self,
        mut look: impl FnMut(&NamespacedName, &ObjectFacts, &Balanced),
    ) {
        let known = self.0.known.read().unwrap_or_else(PoisonError::into_inner);
        let from = Key::Service(NamespacedName::new("", ""));
        for (key, facts) in known.range(from..) {
            match (key, &facts.rest) {
                (Key::Service(name), Rest::Balanced(balanced)) => look(name, facts, balanced),
                (Key::Service(_), _) => {}
                _ => break,
            }
        }
    }

    /// Whether every kind has been listed whole.
    pub(crate) fn are_whole(&self) -> bool {
        *self.0.whole.borrow()
    }

    /// Notices of changes of what conditions and blocks hang on, and of [`Self::are_whole`].
    pub(crate) fn changes(&self) -> watch::Receiver<bool> {
        self.0.whole.subscribe()
    }

    /// This node's Node: its uid, taints and conditions.
    pub(crate) fn own_node(&self) -> watch::Receiver<Option<Arc<Node>>> {
        self.0.own_node.subscribe()
    }

    /// Notes that an object is so, or is gone.
    pub(super) fn set(&self, key: Key, mut facts: Option<ObjectFacts>) {
        if let Key::Node(name) = &key {
            let rest = facts.as_mut().map(|facts| mem::take(&mut facts.rest));
            if *name == self.0.node {
                let node = match rest {
                    Some(Rest::Node(node)) => Some(Arc::from(node)),
                    _ => None,
                };
                self.0.own_node.send_if_modified(|told| {
                    let is_new = *told != node;
                    *told = node;
                    is_new
                });
            }
        }
        let hangs_on_it = !matches!(
            key,
            Key::Secret(_)
                | Key::Namespace(_)
                | Key::Pod(_)
                | Key::NetworkPolicy(_)
                | Key::ClusterNetworkPolicy(_)
                | Key::Service(_)
                | Key::EndpointSlice(_)
        );
        let is_balanced = |facts: &Option<ObjectFacts>| matches!(facts, Some(facts) if matches!(facts.rest, Rest::Balanced(_)));
        let mut known = self.0.known.write().unwrap_or_else(PoisonError::into_inner);
        let before = match facts.clone() {
            Some(facts) => known.insert(key, facts),
            None => known.remove(&key),
        };
        drop(known);
        let hangs_on_it = hangs_on_it || is_balanced(&before) || is_balanced(&facts);
        if hangs_on_it && before != facts {
            self.0.whole.send_modify(|_| {});
        }
    }

    /// Notes that every kind has been listed whole.
    pub(super) fn set_whole(&self) {
        self.0.whole.send_replace(true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_about_is_read_of_each_kind_and_nothing_of_what_is_broken() {
        let peer = br#"{"metadata":{"name":"a","uid":"u","generation":3,"resourceVersion":"9"},
            "spec":{"peerAddress":"10.0.0.1"},"status":{"conditions":[{"type":"Accepted","status":"True",
            "reason":"R","message":"m","lastTransitionTime":"2026-01-01T00:00:00Z"}]}}"#;
        let facts = ObjectFacts::read("BGPPeer", peer);
        assert_eq!((facts.uid.as_str(), facts.generation), ("u", 3));
        let Rest::Judged {
            resource_version,
            conditions,
        } = facts.rest
        else {
            panic!("it bears conditions");
        };
        assert_eq!((resource_version.as_str(), conditions.len()), ("9", 1));

        let block = br#"{"metadata":{"uid":"u"},"spec":{"cidr":"10.1.0.0/26","node":"n1"}}"#;
        let rest = ObjectFacts::read("IPAMBlock", block).rest;
        let cidr = "10.1.0.0/26".parse().expect("a CIDR");
        let node = "n1".to_owned();
        assert_eq!(rest, Rest::Block { cidr, node });
        let service = br#"{"metadata":{"uid":"u","resourceVersion":"4"},"spec":{"type":"ClusterIP"},"status":{}}"#;
        assert_eq!(ObjectFacts::read("Service", service).rest, Rest::Nothing);
        let service = br#"{"metadata":{"uid":"u","resourceVersion":"4"},"spec":{"type":"LoadBalancer"},
            "status":{"loadBalancer":{"ingress":[{"ip":"192.0.2.1","ipMode":"VIP"},{"hostname":"lb.example"}]},
            "conditions":[{"type":"others","status":"True"}]}}"#;
        let Rest::Balanced(balanced) = ObjectFacts::read("Service", service).rest else {
            panic!("it is of a load balancer");
        };
        assert_eq!(
            balanced.addresses,
            ["192.0.2.1".parse::<std::net::IpAddr>().expect("one")]
        );
        assert!(balanced.has_others && balanced.condition.is_none() && balanced.print.is_none());
        let block = br#"{"metadata":{"uid":"u"},"spec":{"cidr":"x","node":"n1"}}"#;
        assert_eq!(ObjectFacts::read("IPAMBlock", block).rest, Rest::Nothing);
        assert_eq!(ObjectFacts::read("Node", b"{").uid, "");
    }

    #[test]
    fn this_nodes_node_is_told_when_its_taints_or_conditions_change_and_no_others() {
        let facts = Facts::new("n1");
        let mut own = facts.own_node();
        let mut changes = facts.changes();
        let node = |name: &str, taints: &str, images: &str| {
            let text = format!(
                r#"{{"metadata":{{"name":"{name}","uid":"{name}"}},"spec":{{"taints":{taints}}},
                "status":{{"images":{images},"conditions":[]}}}}"#
            );
            let read = ObjectFacts::read("Node", text.as_bytes());
            facts.set(Key::Node(name.to_owned()), Some(read));
        };
        node("n1", "[]", "[]");
        assert!(own.has_changed().expect("open") && changes.has_changed().expect("open"));
        own.mark_unchanged();
        changes.mark_unchanged();
        node("n1", "[]", r#"["x"]"#);
        assert!(!own.has_changed().expect("open"));
        node("n1", r#"[{"key":"k","effect":"NoSchedule"}]"#, "[]");
        assert!(own.has_changed().expect("open"));
        assert!(!changes.has_changed().expect("open"), "no node more");
        own.mark_unchanged();
        node("n2", "[]", "[]");
        assert!(!own.has_changed().expect("open") && changes.has_changed().expect("open"));
        assert_eq!(facts.nodes().len(), 2);
    }
}
