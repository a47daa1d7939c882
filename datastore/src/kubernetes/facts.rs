//! What the server says of an object beside its contents, for those who write about it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock};

use api::Key;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Node, NodeSpec, NodeStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::watch;

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
    /// `metadata.resourceVersion` of an object of our kinds.
    pub(crate) resource_version: String,
    /// `status.conditions` of an object of our kinds.
    pub(crate) conditions: Vec<Condition>,
    /// The block and its node, of an IPAMBlock.
    pub(crate) block: Option<(IpNet, String)>,
}

impl ObjectFacts {
    /// Reads what there is to know; of what cannot be read, nothing.
    fn of(key: &Key, object: &Value) -> Self {
        let metadata: ObjectMeta = field(object, "metadata");
        let mut facts = Self {
            uid: metadata.uid.unwrap_or_default(),
            generation: metadata.generation.unwrap_or_default(),
            ..Self::default()
        };
        match key {
            Key::BgpConfiguration(_)
            | Key::BgpFilter(_)
            | Key::BgpPeer(_)
            | Key::IpPool(_)
            | Key::IpReservation(_) => {
                facts.resource_version = metadata.resource_version.unwrap_or_default();
                let conditions = object.pointer("/status/conditions");
                facts.conditions = conditions.map(read).unwrap_or_default();
            }
            Key::IpamBlock(_) => {
                let text = |pointer| object.pointer(pointer).and_then(Value::as_str);
                let cidr = text("/spec/cidr").and_then(|cidr| cidr.parse().ok());
                let node = text("/spec/node").map(str::to_owned);
                facts.block = cidr.zip(node);
            }
            Key::Secret(_)
            | Key::Namespace(_)
            | Key::Node(_)
            | Key::Pod(_)
            | Key::NetworkPolicy(_)
            | Key::ClusterNetworkPolicy(_) => {}
        }
        facts
    }
}

fn field<T: DeserializeOwned + Default>(object: &Value, name: &str) -> T {
    object.get(name).map(read).unwrap_or_default()
}

fn read<T: DeserializeOwned + Default>(value: &Value) -> T {
    T::deserialize(value).unwrap_or_default()
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

    /// All blocks, each with its node.
    pub(crate) fn blocks(&self) -> Vec<(IpNet, String)> {
        let known = self.0.known.read().unwrap_or_else(PoisonError::into_inner);
        let from = Key::IpamBlock(String::new());
        let blocks = known
            .range(from..)
            .take_while(|(key, _)| matches!(key, Key::IpamBlock(_)));
        blocks
            .filter_map(|(_, facts)| facts.block.clone())
            .collect()
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

    /// Notes that an object is so, as the server sent it (pods are not noted), or is gone.
    pub(super) fn set(&self, key: Key, object: Option<&Value>) {
        match &key {
            Key::Pod(_) => return,
            Key::Node(name) if *name == self.0.node => {
                let node = object.map(trimmed);
                self.0.own_node.send_if_modified(|told| {
                    let is_new = told.as_deref() != node.as_ref();
                    *told = node.map(Arc::new);
                    is_new
                });
            }
            _ => {}
        }
        let hangs_on_it = !matches!(
            key,
            Key::Secret(_)
                | Key::Namespace(_)
                | Key::NetworkPolicy(_)
                | Key::ClusterNetworkPolicy(_)
        );
        let facts = object.map(|object| ObjectFacts::of(&key, object));
        let mut known = self.0.known.write().unwrap_or_else(PoisonError::into_inner);
        let before = match facts.clone() {
            Some(facts) => known.insert(key, facts),
            None => known.remove(&key),
        };
        drop(known);
        if hangs_on_it && before != facts {
            self.0.whole.send_modify(|_| {});
        }
    }

    /// Notes that every kind has been listed whole.
    pub(super) fn set_whole(&self) {
        self.0.whole.send_replace(true);
    }
}

/// What is written about of a Node.
fn trimmed(node: &Value) -> Node {
    let node: Node = read(node);
    Node {
        metadata: ObjectMeta {
            uid: node.metadata.uid,
            ..ObjectMeta::default()
        },
        spec: node.spec.map(|spec| NodeSpec {
            taints: spec.taints,
            ..NodeSpec::default()
        }),
        status: node.status.map(|status| NodeStatus {
            conditions: status.conditions,
            ..NodeStatus::default()
        }),
    }
}
