//! What is read of a Pod: a tenth of what an API server sends. The rest is passed over, neither kept nor judged.

use serde::Deserialize;

use crate::metadata::Metadata;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Manifest {
    pub(super) metadata: Metadata,
    pub(super) spec: Option<Spec>,
    pub(super) status: Option<Status>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Spec {
    pub(super) node_name: Option<String>,
    pub(super) host_network: Option<bool>,
    pub(super) containers: Option<Vec<Container>>,
    pub(super) init_containers: Option<Vec<Container>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Container {
    pub(super) ports: Option<Vec<Port>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Port {
    pub(super) name: Option<String>,
    pub(super) protocol: Option<String>,
    pub(super) container_port: i32,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Status {
    pub(super) phase: Option<String>,
    #[serde(rename = "podIP")]
    pub(super) pod_ip: Option<String>,
    #[serde(rename = "podIPs")]
    pub(super) pod_ips: Option<Vec<PodIp>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct PodIp {
    pub(super) ip: String,
}
