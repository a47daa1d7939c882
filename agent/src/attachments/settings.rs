//! What an attachment has besides its addresses, kept with them over restarts.

use cni_spec::{Bandwidth, PortMapping};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// What the runtime's capabilities, or a delegated IPAM plugin, gave an attachment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Settings {
    /// Ports of the node that lead to it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) ports: Vec<PortMapping>,
    /// Limits of what it receives and sends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) bandwidth: Option<Bandwidth>,
    /// The link-layer address asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) mac: Option<[u8; 6]>,
    /// Whether another IPAM plugin chose its addresses.
    pub(crate) delegated: bool,
    /// Where it is routed by its gateway instead of everywhere.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) routes: Vec<IpNet>,
}
