//! Portolan's own kinds as they stand in manifests: every field typed, unknown ones refused.

mod as_number;
mod bgp_configuration;
mod bgp_peer;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

pub use as_number::PeerAsNumber;
pub use bgp_configuration::{
    BGPConfiguration, BgpConfigurationSpec, CidrEntry, Community, GracefulRestart,
    PrefixAdvertisement,
};
pub use bgp_peer::{
    AddPath, BGPPeer, Bfd, BgpPeerSpec, BgpPeerStatus, MaxPrefixes, NextHopMode, Password,
    SecretKeyRef,
};

/// The definitions to install in a cluster, in the order of their names.
pub fn crds() -> Vec<CustomResourceDefinition> {
    vec![BGPConfiguration::crd(), BGPPeer::crd()]
}

#[cfg(test)]
mod tests;
