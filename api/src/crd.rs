//! Portolan's own kinds as they stand in manifests: every field typed, unknown ones refused.

mod as_number;
mod bgp_configuration;
mod bgp_filter;
mod bgp_node_status;
mod bgp_peer;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

pub use as_number::PeerAsNumber;
pub use bgp_configuration::{
    BGPConfiguration, BgpConfigurationSpec, CidrEntry, Community, GracefulRestart,
    PrefixAdvertisement,
};
pub use bgp_filter::{
    AsPrepending, BGPFilter, BgpFilterSpec, BgpFilterStatus, CommunityMatch, CommunityValue,
    FilterAction, FilterOperation, FilterPeerType, FilterRule, FilterSource, MatchOperator,
    PrefixLength, Value32,
};
pub use bgp_node_status::{
    BGPNodeStatus, BgpNodeStatusSpec, BgpNodeStatusStatus, FamilyCounts, NodeSession,
    PeerConditions, PrefixCounts,
};
pub use bgp_peer::{
    AddPath, BGPPeer, Bfd, BgpPeerSpec, BgpPeerStatus, MaxPrefixes, NextHopMode, Password, Role,
    SecretKeyRef,
};

/// The definitions to install in a cluster, in the order of their names.
pub fn crds() -> Vec<CustomResourceDefinition> {
    vec![
        BGPConfiguration::crd(),
        BGPFilter::crd(),
        BGPNodeStatus::crd(),
        BGPPeer::crd(),
    ]
}

#[cfg(test)]
mod tests;
