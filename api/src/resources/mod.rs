//! One kind a file: what Portolan keeps of each, parsed and checked.

mod bgp_configuration;
mod bgp_peer;
mod namespace;
mod network_policy;
mod node;
mod pod;

pub use bgp_configuration::BgpConfiguration;
pub use bgp_peer::{BgpPeer, PeerAs, PeerTarget};
pub use namespace::Namespace;
pub use network_policy::{IpBlock, NetworkPolicy, Peer, PolicyRule, Port, PortMatch, Protocol};
pub use node::Node;
pub use pod::Pod;
