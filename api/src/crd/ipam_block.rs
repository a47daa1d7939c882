//! IPAMBlock as agents write it: which node gives out the addresses of one block of a pool.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rules;

/// A block that a node has claimed. Its name says its CIDR, so that one node alone can make it.
#[derive(
    Clone, Debug, Default, PartialEq, Eq, CustomResource, Serialize, Deserialize, JsonSchema,
)]
#[kube(
    group = "portolan.io",
    version = "v1alpha1",
    kind = "IPAMBlock",
    plural = "ipamblocks",
    doc = "A block that a node has claimed, written by its agent. Its name says its CIDR, so that one node alone can make it.",
    status = "IpamBlockStatus",
    printcolumn(name = "CIDR", type_ = "string", json_path = ".spec.cidr"),
    printcolumn(name = "Node", type_ = "string", json_path = ".spec.node"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.spec.cidr == oldSelf.spec.cidr && self.spec.node == oldSelf.spec.node").message("a block is released by its node, never handed over"),
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct IpamBlockSpec {
    /// The block.
    #[schemars(length(max = 43), extend("x-kubernetes-validations" = rules::cidr()))]
    pub cidr: String,
    /// The node that has claimed it.
    #[schemars(length(max = 253))]
    pub node: String,
}

/// What is known of a block.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IpamBlockStatus {
    /// What holds, and why.
    #[serde(default)]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}
