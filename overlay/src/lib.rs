//! Which prefixes travel in tunnels between nodes and which directly, from pools, blocks and Nodes; pure.

mod demand;
pub mod keys;
mod kind;
mod mac;
mod plan;
mod silence;
#[cfg(test)]
mod tests;

pub use demand::{Demand, Peer, View, demands};
pub use kind::{Kind, Near};
pub use mac::{Mac, link_local_of, macs};
pub use plan::{Plan, PlannedPeer, Route};
pub use silence::Silence;
