//! Portolan's own kinds as they stand in manifests: every field typed, unknown ones refused.

mod as_number;
mod bgp_configuration;
mod bgp_filter;
mod bgp_node_status;
mod bgp_peer;
mod ip_pool;
mod ip_reservation;
mod ipam_block;
pub(crate) mod rules;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

pub use as_number::PeerAsNumber;
pub use bgp_configuration::{
    Aggregation, BGPConfiguration, BgpConfigurationSpec, Community, GracefulRestart,
    PrefixAdvertisement, ServiceRange,
};
pub use bgp_filter::{
    AsPrepending, BGPFilter, BgpFilterSpec, BgpFilterStatus, CommunityMatch, CommunityValue,
    FilterAction, FilterOperation, FilterPeerType, FilterRule, FilterSource, MatchOperator,
    PrefixLength, Value32,
};
pub use bgp_node_status::{
    BGPNodeStatus, BgpNodeStatusSpec, BgpNodeStatusStatus, FamilyCounts, NodeSession,
    NodeWireGuard, NodeWireGuardKey, PeerConditions, PrefixCounts,
};
pub use bgp_peer::{
    AddPath, BGPPeer, Bfd, BgpPeerSpec, BgpPeerStatus, MaxPrefixes, NextHopMode, Password, Role,
    SecretKeyRef,
};
pub use ip_pool::{AllowedUse, Encapsulation, IPPool, IpPoolSpec, IpPoolStatus, Layer2};
pub use ip_reservation::{IPReservation, IpReservationSpec, IpReservationStatus};
pub use ipam_block::{IPAMBlock, IpamBlockSpec, IpamBlockStatus};

/// The definitions to install in a cluster, in the order of their names.
pub fn crds() -> Vec<CustomResourceDefinition> {
    vec![
        BGPConfiguration::crd(),
        BGPFilter::crd(),
        BGPNodeStatus::crd(),
        BGPPeer::crd(),
        IPAMBlock::crd(),
        IPPool::crd(),
        IPReservation::crd(),
    ]
}

#[cfg(test)]
mod tests;
