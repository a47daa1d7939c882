//! BGPConfiguration as it stands in a manifest.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rules;
use crate::duration::GoDuration;

/// What holds for every node's speaker; only the one named `default` is read.
#[derive(
    Clone, Debug, Default, PartialEq, Eq, CustomResource, Serialize, Deserialize, JsonSchema,
)]
#[kube(
    group = "portolan.io",
    version = "v1alpha1",
    kind = "BGPConfiguration",
    plural = "bgpconfigurations",
    doc = "What holds for every node's speaker; only the one named `default` is read.",
    printcolumn(name = "AS", type_ = "integer", json_path = ".spec.asNumber"),
    printcolumn(name = "Mesh", type_ = "boolean", json_path = ".spec.nodeToNodeMeshEnabled"),
    validation = Rule::new("self.metadata.name == 'default'").message("only the BGPConfiguration named default is read"),
    validation = Rule::new("(has(self.spec.multipath) && self.spec.multipath) || !((has(self.spec.multipathRelax) && self.spec.multipathRelax) || (has(self.spec.maxPaths) && self.spec.maxPaths != 1) || (has(self.spec.linkBandwidth) && self.spec.linkBandwidth))").message("multipathRelax, maxPaths and linkBandwidth need multipath: true"),
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BgpConfigurationSpec {
    /// The AS of nodes without an annotation of their own (64512).
    #[schemars(range(min = 1, max = 4_294_967_294_u32), extend("x-kubernetes-validations" = [
        {"rule": "!(self in [23456, 65535])", "message": "this AS number is reserved"},
    ]))]
    pub as_number: Option<u32>,
    /// The TCP port speakers listen on (179).
    #[schemars(range(min = 1))]
    pub listen_port: Option<u16>,
    /// Whether every node peers with every other (true).
    pub node_to_node_mesh_enabled: Option<bool>,
    /// ClusterIP ranges to announce.
    #[serde(rename = "serviceClusterIPs")]
    #[schemars(length(max = 256))]
    pub service_cluster_ips: Option<Vec<ServiceRange>>,
    /// ExternalIP ranges to announce.
    #[serde(rename = "serviceExternalIPs")]
    #[schemars(length(max = 256))]
    pub service_external_ips: Option<Vec<ServiceRange>>,
    /// LoadBalancer ranges to announce.
    #[serde(rename = "serviceLoadBalancerIPs")]
    #[schemars(length(max = 256))]
    pub service_load_balancer_ips: Option<Vec<ServiceRange>>,
    /// How LoadBalancer ranges are announced that do not say it themselves (Enabled: as they are; Disabled: each address that is
    /// in use).
    pub service_load_balancer_aggregation: Option<Aggregation>,
    /// Names for communities.
    #[schemars(length(max = 256))]
    pub communities: Option<Vec<Community>>,
    /// Communities for what this cluster announces in a CIDR.
    #[schemars(length(max = 256))]
    pub prefix_advertisements: Option<Vec<PrefixAdvertisement>>,
    /// Graceful restart of every session.
    pub graceful_restart: Option<GracefulRestart>,
    /// Whether equally good paths are used together (false).
    pub multipath: Option<bool>,
    /// With multipath: paths of the same length through different neighbours are equally good (false).
    pub multipath_relax: Option<bool>,
    /// With multipath: how many paths are used together at most (16).
    #[schemars(range(min = 1, max = 64))]
    pub max_paths: Option<u8>,
    /// With multipath: traffic is shared by the link bandwidth that the paths bear (false).
    pub link_bandwidth: Option<bool>,
    /// Whether learned routes go into the kernel (true; false for a pure route reflector).
    pub install_routes: Option<bool>,
}

/// A range of addresses of Services.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServiceRange {
    /// The addresses: a CIDR.
    #[schemars(length(max = 43), extend("x-kubernetes-validations" = rules::cidr()))]
    pub cidr: String,
    /// Enabled: the range is announced as it is, and by themselves only addresses with traffic policy Local. Disabled: each
    /// address that is in use, by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aggregation: Option<Aggregation>,
}

/// Whether a range is announced as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Aggregation {
    /// As a whole.
    Enabled,
    /// Each address in use by itself.
    Disabled,
}

/// A community and its name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Community {
    /// The name.
    #[schemars(length(min = 1, max = 256))]
    pub name: String,
    /// `aa:nn` or, large, `aa:nn:mm`.
    #[schemars(length(max = 32), extend("x-kubernetes-validations" = rules::community()))]
    pub value: String,
}

/// Communities for what lies in a CIDR.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PrefixAdvertisement {
    /// The CIDR.
    #[schemars(length(max = 43), extend("x-kubernetes-validations" = rules::cidr()))]
    pub cidr: String,
    /// Names or values.
    #[serde(default)]
    pub communities: Vec<String>,
}

/// Graceful restart (RFC 4724, RFC 9494).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GracefulRestart {
    /// How long peers keep our routes while we restart (120 s, at most 4095 s).
    #[schemars(extend("x-kubernetes-validations" = rules::seconds_where("it <= duration('4095s')", "restartTime is whole seconds up to 4095s, such as 90s")))]
    pub restart_time: Option<GoDuration>,
    /// How much longer they keep them as stale ones.
    #[schemars(extend("x-kubernetes-validations" = rules::seconds_where("it <= duration('16777215s')", "longLivedStaleTime is whole seconds up to 16777215s, such as 24h")))]
    pub long_lived_stale_time: Option<GoDuration>,
    /// Whether a session that ends by a NOTIFICATION or in silence counts as a restart, too (RFC 8538): a peer keeps routes
    /// of a node that died for holdTime and restartTime then. The default: where the peer has bfd, by which a death is
    /// known sooner. A change is for the next session.
    pub notifications: Option<bool>,
}
