//! IPReservation as it stands in a manifest, Calico's kind.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Addresses that no pod is given unless it asks for them.
#[derive(
    Clone, Debug, Default, PartialEq, Eq, CustomResource, Serialize, Deserialize, JsonSchema,
)]
#[kube(
    group = "portolan.io",
    version = "v1alpha1",
    kind = "IPReservation",
    plural = "ipreservations",
    doc = "Addresses that no pod is given unless it asks for them.",
    status = "IpReservationStatus",
    printcolumn(name = "CIDRs", type_ = "string", json_path = ".spec.reservedCIDRs"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.spec.reservedCIDRs.all(cidr, isIP(cidr) || isCIDR(cidr))").message("reservedCIDRs are addresses or CIDRs"),
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct IpReservationSpec {
    /// Each an address or a CIDR, of either family.
    #[serde(rename = "reservedCIDRs")]
    #[schemars(length(min = 1, max = 256), inner(length(max = 43)))]
    pub reserved_cidrs: Vec<String>,
}

/// Whether an IPReservation is valid and accepted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IpReservationStatus {
    /// What holds, and why.
    #[serde(default)]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}
