//! Pod: where it runs, its labels and its addresses.

use std::net::IpAddr;

use crate::{Labels, NamespacedName};

/// A Pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Its namespace and name.
    pub name: NamespacedName,
    /// `metadata.uid`; empty where the source gives none (a manifest).
    pub uid: String,
    /// Its labels.
    pub labels: Labels,
    /// `spec.nodeName`.
    pub node_name: Option<String>,
    /// `spec.hostNetwork`: no policy subject and no pod peer.
    pub host_network: bool,
    /// Phase Succeeded or Failed: its address may already be another pod's.
    pub finished: bool,
    /// `status.podIPs` (in the directory mode from `.status/<node>.json`).
    pub pod_ips: Vec<IpAddr>,
    /// Annotation `portolan.io/ip-addresses`: the addresses it asks for.
    pub fixed_ips: Vec<IpAddr>,
}
