//! IPPool as it stands in a manifest; names are Calico's where the meaning is the same.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rules;

/// Addresses for pods. Nodes take blocks of it and give their pods addresses out of these.
#[derive(
    Clone, Debug, Default, PartialEq, Eq, CustomResource, Serialize, Deserialize, JsonSchema,
)]
#[kube(
    group = "portolan.io",
    version = "v1alpha1",
    kind = "IPPool",
    plural = "ippools",
    doc = "Addresses for pods. Nodes take blocks of it and give their pods addresses out of these.",
    status = "IpPoolStatus",
    printcolumn(name = "CIDR", type_ = "string", json_path = ".spec.cidr"),
    printcolumn(name = "Block", type_ = "integer", json_path = ".spec.blockSize"),
    printcolumn(name = "Encapsulation", type_ = "string", json_path = ".spec.encapsulation"),
    printcolumn(name = "Nodes", type_ = "string", json_path = ".spec.nodeSelector"),
    printcolumn(name = "Disabled", type_ = "boolean", json_path = ".spec.disabled"),
    printcolumn(name = "Accepted", type_ = "string", json_path = ".status.conditions[?(@.type=='Accepted')].status"),
    validation = Rule::new("!has(self.spec.blockSize) || (self.spec.cidr.contains(':') ? self.spec.blockSize >= 116 && self.spec.blockSize <= 128 : self.spec.blockSize >= 20 && self.spec.blockSize <= 32)").message("blockSize is from 20 to 32, of an IPv6 pool from 116 to 128"),
    validation = Rule::new("!isCIDR(self.spec.cidr) || cidr(self.spec.cidr).prefixLength() <= (has(self.spec.blockSize) ? self.spec.blockSize : (self.spec.cidr.contains(':') ? 122 : 26))").message("a block is larger than the whole cidr: set blockSize to the length of the cidr's prefix or more"),
    validation = Rule::new("!has(self.spec.nonMasqueradeCIDRs) || self.spec.nonMasqueradeCIDRs.all(other, other.contains(':') == self.spec.cidr.contains(':'))").message("nonMasqueradeCIDRs are of the family of cidr: write those of the other one into the other pool"),
    validation = Rule::new("!has(self.spec.layer2) || 'LoadBalancer' in self.spec.allowedUses").message("layer2 is for addresses of Services: allowedUses must have LoadBalancer"),
    validation = Rule::new("self.spec.cidr == oldSelf.spec.cidr").message("cidr cannot be changed: pods hold addresses of it. Make another IPPool, and disable this one"),
    validation = Rule::new("has(self.spec.blockSize) == has(oldSelf.spec.blockSize) && (!has(self.spec.blockSize) || self.spec.blockSize == oldSelf.spec.blockSize)").message("blockSize cannot be changed: nodes hold blocks of that size. Make another IPPool, and disable this one"),
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct IpPoolSpec {
    /// The addresses: an IPv4 or an IPv6 CIDR. No two pools overlap.
    #[schemars(length(max = 43), extend("x-kubernetes-validations" = rules::cidr()))]
    pub cidr: String,
    /// The prefix length of the blocks that nodes take: 20 to 32 (26), of an IPv6 pool 116 to 128 (122).
    #[schemars(range(min = 20, max = 128))]
    pub block_size: Option<u8>,
    /// How packets to pods of the pool travel between nodes.
    #[serde(default)]
    pub encapsulation: Encapsulation,
    /// Whether what pods of the pool send to addresses outside of the cluster bears their node's address. Not outside
    /// are all pools, all nodes and their Pod CIDRs.
    #[serde(default)]
    pub nat_outgoing: bool,
    /// Addresses beyond the cluster that see its pods by their own addresses all the same, although natOutgoing is true.
    #[serde(
        default,
        rename = "nonMasqueradeCIDRs",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(length(max = 256), inner(length(max = 43)), extend("x-kubernetes-validations" = rules::cidrs()))]
    pub non_masquerade_cidrs: Vec<String>,
    /// The nodes that take blocks, in the selector language.
    #[schemars(length(max = 16384))]
    #[serde(default = "every_node")]
    pub node_selector: String,
    /// What the addresses are for.
    #[schemars(length(min = 1, max = 3))]
    #[serde(default = "usual_uses")]
    pub allowed_uses: Vec<AllowedUse>,
    /// One node answers ARP and neighbour discovery for each address of a Service that is in the pool: for networks without
    /// a BGP router. nodeSelector says which nodes may.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layer2: Option<Layer2>,
    /// No new address and no new block come from it; what is held stays.
    #[serde(default)]
    pub disabled: bool,
}

/// How a pool's addresses are answered for by ARP and neighbour discovery.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Layer2 {
    /// The interfaces that answer. Without any: those with an address of the subnet that the Service's address is in; if there
    /// is none, the one with the node's InternalIP.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 15)))]
    pub interfaces: Vec<String>,
}

fn every_node() -> String {
    "all()".to_owned()
}

fn usual_uses() -> Vec<AllowedUse> {
    vec![AllowedUse::Workload, AllowedUse::Tunnel]
}

/// How packets to pods of a pool travel between nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Encapsulation {
    /// As they are: the network knows the way, by BGP.
    #[default]
    None,
    /// By VXLAN.
    #[serde(rename = "VXLAN")]
    Vxlan,
    /// By VXLAN to nodes in other subnets.
    #[serde(rename = "VXLANCrossSubnet")]
    VxlanCrossSubnet,
    /// IP in IP.
    #[serde(rename = "IPIP")]
    Ipip,
    /// IP in IP to nodes in other subnets.
    #[serde(rename = "IPIPCrossSubnet")]
    IpipCrossSubnet,
    /// By WireGuard.
    WireGuard,
}

/// What a pool's addresses are for.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub enum AllowedUse {
    /// Pods.
    Workload,
    /// Nodes' ends of tunnels.
    Tunnel,
    /// Services of type LoadBalancer.
    LoadBalancer,
}

/// Whether an IPPool is valid and accepted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IpPoolStatus {
    /// What holds, and why.
    #[serde(default)]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}
