//! One kind a file: what Portolan keeps of each, parsed and checked.

mod bgp_configuration;
mod bgp_filter;
mod bgp_node_status;
mod bgp_peer;
pub(crate) mod cluster_network_policy;
mod community;
mod domain_name;
pub(crate) mod endpoint_slice;
mod graceful_restart;
mod ip_pool;
mod ip_reservation;
mod ipam_block;
mod namespace;
mod network_policy;
pub(crate) mod node;
pub(crate) mod pod;
pub(crate) mod secret;
pub(crate) mod service;

pub use bgp_configuration::{BgpConfiguration, Multipath, PrefixAdvertisement, ServiceRange};
pub use bgp_filter::{BgpFilter, FilterPrefixes, FilterRule, RuleAction, RuleOperation};
pub use bgp_node_status::{BgpNodeStatus, WireGuardKey, WireGuardKeys, WireGuardPublicKey};
pub use bgp_peer::{AddPaths, Bfd, BgpPeer, Hops, MaxPrefixes, PasswordRef, PeerAs, PeerTarget};
pub use cluster_network_policy::{
    ClusterAction, ClusterNetworkPolicy, ClusterPeer, ClusterPort, ClusterRule, ClusterSubject,
    NamespacedPods, Tier,
};
pub use community::{Community, CommunityError};
pub use domain_name::DomainName;
pub use endpoint_slice::{AddressType, Endpoint, EndpointPort, EndpointSlice};
pub use graceful_restart::GracefulRestart;
pub use ip_pool::IpPool;
pub use ip_reservation::IpReservation;
pub use ipam_block::IpamBlock;
pub use namespace::Namespace;
pub use network_policy::{IpBlock, NetworkPolicy, Peer, PolicyRule, Port, PortMatch, Protocol};
pub use node::{Leaving, Node};
pub use pod::{ContainerPort, Pod};
pub use secret::{Secret, SecretValue};
pub use service::{
    ADDRESSES_ALLOCATED, AddressRequest, Service, ServicePort, ServiceType, TrafficDistribution,
    TrafficPolicy,
};

pub use crate::crd::{FilterPeerType, MatchOperator, NextHopMode, Role};
