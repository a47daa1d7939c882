//! BGPNodeStatus as it stands in a manifest: one per node, written by that node's agent, read by people.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The BGP sessions of one node, and its WireGuard keys; its name is the node's.
#[derive(
    Clone, Debug, Default, PartialEq, Eq, CustomResource, Serialize, Deserialize, JsonSchema,
)]
#[kube(
    group = "portolan.io",
    version = "v1alpha1",
    kind = "BGPNodeStatus",
    plural = "bgpnodestatuses",
    doc = "The BGP sessions of one node, written by its agent; its name is the node's.",
    status = "BgpNodeStatusStatus",
    printcolumn(name = "AS", type_ = "integer", json_path = ".status.asNumber"),
    printcolumn(name = "Established", type_ = "integer", json_path = ".status.established"),
    printcolumn(name = "Configured", type_ = "integer", json_path = ".status.configured"),
    printcolumn(name = "Updated", type_ = "date", json_path = ".status.lastUpdated"),
    validation = Rule::new("self.spec.node == self.metadata.name").message("a BGPNodeStatus is named after its node"),
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BgpNodeStatusSpec {
    /// The node.
    #[schemars(length(max = 253))]
    pub node: String,
}

/// What the node's speaker does; written on a change of a session's state and at most every 10 s.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BgpNodeStatusStatus {
    /// When this was written.
    pub last_updated: Option<Time>,
    /// The node's AS.
    pub as_number: Option<u32>,
    /// Its BGP Identifier.
    #[serde(rename = "routerID")]
    pub router_id: Option<String>,
    /// How many sessions are Established.
    #[serde(default)]
    pub established: u32,
    /// How many there should be; a range of dynamic peers counts those that have dialled.
    #[serde(default)]
    pub configured: u32,
    /// Each session, by name.
    #[serde(default)]
    pub sessions: Vec<NodeSession>,
    /// Each BGPPeer that selects this node, by name: whether it makes a session here.
    #[serde(default)]
    pub peers: Vec<PeerConditions>,
    /// What holds, and why.
    #[serde(default)]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// The node's WireGuard keys, which agents of other nodes read: who can write this decides where pods' packets go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wire_guard: Option<NodeWireGuard>,
}

/// The WireGuard keys of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeWireGuard {
    /// One for each of the node's devices.
    #[serde(default)]
    #[schemars(length(max = 2))]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["slot"]))]
    pub keys: Vec<NodeWireGuardKey>,
}

/// The key of one of a node's WireGuard devices.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeWireGuardKey {
    /// Which device: 0 (`wg.portolan`) or 1 (`wg1.portolan`).
    #[schemars(range(max = 1))]
    pub slot: u8,
    /// The public key, in base64.
    #[schemars(length(max = 44))]
    pub public_key: String,
    /// The UDP port that it listens at.
    #[schemars(range(min = 1))]
    pub port: u16,
    /// The key is about to be replaced: nobody is to send to it.
    #[serde(default)]
    pub retiring: bool,
}

/// What one node makes of a BGPPeer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PeerConditions {
    /// The BGPPeer's name.
    pub name: String,
    /// `Accepted`: whether it makes a session on this node, and if not, what to do about it.
    #[serde(default)]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// One session.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeSession {
    /// The BGPPeer's name, or `mesh/NODE`; `PEER/NODE` or `PEER/ADDRESS` where a BGPPeer makes several.
    pub name: String,
    /// The peer's address.
    pub address: String,
    /// The peer's AS, once it is known.
    pub as_number: Option<u32>,
    /// The state of RFC 4271 §8.2.2: `Idle` to `Established`.
    pub state: String,
    /// Since when it is Established, or is not.
    pub since: Option<Time>,
    /// Why it is not Established, or was not last time.
    pub down_reason: Option<String>,
    /// The state of RFC 5880 §6.2 where BFD is configured.
    pub bfd: Option<String>,
    /// What went over it when this was written; metrics count exactly.
    #[serde(default)]
    pub prefixes: PrefixCounts,
    /// What the peer announced, by address family.
    #[serde(default)]
    pub families: Vec<FamilyCounts>,
}

/// Prefixes of a session.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PrefixCounts {
    /// Received and accepted.
    pub accepted: u32,
    /// Received and not usable: by filters, or as loops.
    pub rejected: u32,
    /// Of those received, kept from before the session was lost.
    pub stale: u32,
    /// Sent.
    pub sent: u32,
}

/// Prefixes of one address family of a session.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FamilyCounts {
    /// `IPv4` or `IPv6`.
    pub family: String,
    /// Received.
    pub received: u32,
}
