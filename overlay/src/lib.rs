//! Which prefixes travel in tunnels between nodes and which directly, from pools, blocks and Nodes; pure.

mod demand;
mod mac;
mod plan;
#[cfg(test)]
mod tests;

pub use demand::{Demand, Peer, View, demand, is_built};
pub use mac::{Mac, link_local_of, macs};
pub use plan::{Plan, PlannedPeer, Route};

/// What VXLAN over IPv4 takes of each packet in bytes: Ethernet 14, VXLAN 8, UDP 8, IPv4 20.
pub const OVERHEAD_V4: u32 = 50;
/// What VXLAN over IPv6 takes of each packet in bytes.
pub const OVERHEAD_V6: u32 = 70;
