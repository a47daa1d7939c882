//! What an agent says beside pods, BGP and events: whether its node's network is up, and what it thinks of objects.

use api::Key;

/// Whether this node's network is up: condition `NetworkUnavailable` of its Node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeHealth {
    /// What the node is to have is in the kernel, and its BGP speaker has started.
    Up,
    /// It is not, or not any more.
    Down {
        /// Why, for people.
        message: String,
    },
}

/// A condition of one object of our kinds, as it is now.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ObjectCondition {
    /// The object.
    pub key: Key,
    /// The condition's type: `Accepted`.
    pub type_: String,
    /// Whether it holds.
    pub status: bool,
    /// Why, in one word for programs (CamelCase).
    pub reason: String,
    /// Why, for people.
    pub message: String,
}
