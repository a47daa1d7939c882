//! The cluster's nodes as the store has them, and this one among them.

use api::resources::Node;
use api::{Key, NamespacedName, Resource};

use super::Core;

impl Core {
    pub(super) fn own_node(&self) -> Option<&Node> {
        match self.store.get(&Key::Node(self.node.clone())) {
            Some(Resource::Node(node)) => Some(node),
            _ => None,
        }
    }

    pub(super) fn nodes(&self) -> impl Iterator<Item = &Node> {
        let after_nodes = Key::Pod(NamespacedName::new("", ""));
        let every_node = self.store.range(Key::Node(String::new())..after_nodes);
        every_node.filter_map(|(_, resource)| match resource {
            Resource::Node(node) => Some(node),
            _ => None,
        })
    }

    pub(super) fn node_missing(&self) -> NodeMissing {
        NodeMissing(self.node.clone())
    }
}

/// The source has no Node of this name.
#[derive(Debug, thiserror::Error)]
#[error("there is no Node {0}: add it to the source, or start the agent with another --node")]
pub(super) struct NodeMissing(String);
