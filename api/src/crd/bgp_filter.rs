//! BGPFilter as it stands in a manifest; names are Calico's where the meaning is the same.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rules;

/// Rules for the routes that BGPPeers which name this filter send us and are sent; the first that matches decides.
#[derive(
    Clone, Debug, Default, PartialEq, Eq, CustomResource, Serialize, Deserialize, JsonSchema,
)]
#[kube(
    group = "portolan.io",
    version = "v1alpha1",
    kind = "BGPFilter",
    plural = "bgpfilters",
    doc = "Rules for the routes that BGPPeers which name this filter send us and are sent; the first that matches decides.",
    status = "BgpFilterStatus",
    printcolumn(
        name = "Accepted",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Accepted')].status"
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    ),
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BgpFilterSpec {
    /// IPv4 routes that peers send us.
    #[schemars(length(max = 256), extend("x-kubernetes-validations" = [
        {"rule": "self.all(r, !has(r.cidr) || !r.cidr.contains(':'))", "message": "importV4 holds IPv4 CIDRs"},
        {"rule": "self.all(r, !has(r.prefixLength) || ((!has(r.prefixLength.min) || r.prefixLength.min <= 32) && (!has(r.prefixLength.max) || r.prefixLength.max <= 32)))", "message": "prefix lengths in importV4 are at most 32"},
        {"rule": "self.all(r, !has(r.source))", "message": "source is for export rules: what is imported is from remote peers"},
    ]))]
    pub import_v4: Option<Vec<FilterRule>>,
    /// IPv6 routes that peers send us.
    #[schemars(length(max = 256), extend("x-kubernetes-validations" = [
        {"rule": "self.all(r, !has(r.cidr) || r.cidr.contains(':'))", "message": "importV6 holds IPv6 CIDRs"},
        {"rule": "self.all(r, !has(r.source))", "message": "source is for export rules: what is imported is from remote peers"},
    ]))]
    pub import_v6: Option<Vec<FilterRule>>,
    /// IPv4 routes that peers are sent.
    #[schemars(length(max = 256), extend("x-kubernetes-validations" = [
        {"rule": "self.all(r, !has(r.cidr) || !r.cidr.contains(':'))", "message": "exportV4 holds IPv4 CIDRs"},
        {"rule": "self.all(r, !has(r.prefixLength) || ((!has(r.prefixLength.min) || r.prefixLength.min <= 32) && (!has(r.prefixLength.max) || r.prefixLength.max <= 32)))", "message": "prefix lengths in exportV4 are at most 32"},
    ]))]
    pub export_v4: Option<Vec<FilterRule>>,
    /// IPv6 routes that peers are sent.
    #[schemars(length(max = 256), extend("x-kubernetes-validations" = [
        {"rule": "self.all(r, !has(r.cidr) || r.cidr.contains(':'))", "message": "exportV6 holds IPv6 CIDRs"},
    ]))]
    pub export_v6: Option<Vec<FilterRule>>,
}

/// Whether a BGPFilter is valid and accepted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BgpFilterStatus {
    /// What holds, and why.
    #[serde(default)]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// One rule: all conditions that are there must hold; without any it matches every route of its list's family.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "has(self.cidr) == has(self.matchOperator)", "message": "cidr and matchOperator belong together"},
    {"rule": "!has(self.prefixLength) || (has(self.matchOperator) && self.matchOperator in ['In', 'NotIn'])", "message": "prefixLength needs a cidr and matchOperator In or NotIn"},
    {"rule": "!has(self.operations) || self.action == 'Accept'", "message": "operations need action Accept"},
]))]
pub struct FilterRule {
    /// What the route's prefix is compared with.
    #[schemars(length(max = 43), extend("x-kubernetes-validations" = rules::cidr()))]
    pub cidr: Option<String>,
    /// How.
    pub match_operator: Option<MatchOperator>,
    /// With `In` and `NotIn`: the lengths that count as inside (from the CIDR's own to the longest).
    pub prefix_length: Option<PrefixLength>,
    /// The AS path begins with these.
    #[schemars(length(min = 1, max = 32), inner(range(min = 1)))]
    pub as_path_prefix: Option<Vec<u32>>,
    /// The communities that the route bears.
    pub communities: Option<CommunityMatch>,
    /// Where the route comes from; export rules only.
    pub source: Option<FilterSource>,
    /// The kind of the peer that sends or is sent the route.
    pub peer_type: Option<FilterPeerType>,
    /// What becomes of a route that matches.
    pub action: FilterAction,
    /// With Accept: what is changed, in this order.
    #[schemars(length(min = 1, max = 10))]
    pub operations: Option<Vec<FilterOperation>>,
}

/// How a prefix is compared with a CIDR.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum MatchOperator {
    /// It is the CIDR.
    Equal,
    /// It is not.
    NotEqual,
    /// It is the CIDR or a part of it.
    In,
    /// `In` does not hold.
    NotIn,
}

/// A range of prefix lengths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "!has(self.min) || !has(self.max) || self.min <= self.max", "message": "no prefix has such a length: min is above max"},
]))]
pub struct PrefixLength {
    /// The shortest (the CIDR's own).
    #[schemars(range(max = 128))]
    pub min: Option<u8>,
    /// The longest (32 or 128).
    #[schemars(range(max = 128))]
    pub max: Option<u8>,
}

/// Communities of which a route must bear every one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CommunityMatch {
    /// Each `aa:nn` or, large, `aa:nn:mm`.
    #[schemars(length(min = 1, max = 16), inner(length(max = 32)), extend("x-kubernetes-validations" = rules::communities()))]
    pub values: Vec<String>,
}

/// Where a route comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum FilterSource {
    /// A BGP peer; not this node itself.
    RemotePeers,
}

/// The kind of a BGP peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum FilterPeerType {
    /// In another AS.
    #[serde(rename = "eBGP")]
    External,
    /// In our own.
    #[serde(rename = "iBGP")]
    Internal,
}

/// What becomes of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum FilterAction {
    /// It is taken or sent.
    Accept,
    /// It is not.
    Reject,
}

/// One change of a route's attributes; exactly one field is there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "[has(self.setLocalPref), has(self.setMED), has(self.prependAS), has(self.addCommunity), has(self.removeCommunity)].filter(x, x).size() == 1", "message": "exactly one operation stands in an entry"},
]))]
pub struct FilterOperation {
    /// LOCAL_PREF becomes this.
    pub set_local_pref: Option<Value32>,
    /// MULTI_EXIT_DISC becomes this.
    #[serde(rename = "setMED")]
    pub set_med: Option<Value32>,
    /// An AS number is put before the AS path.
    #[serde(rename = "prependAS")]
    pub prepend_as: Option<AsPrepending>,
    /// The route bears this community from now on.
    pub add_community: Option<CommunityValue>,
    /// The route bears it no more.
    pub remove_community: Option<CommunityValue>,
}

/// A number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Value32 {
    /// The number.
    pub value: u32,
}

/// What is put before an AS path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AsPrepending {
    /// The AS number (our own).
    #[schemars(range(min = 1, max = 4_294_967_294_u32), extend("x-kubernetes-validations" = [
        {"rule": "!(self in [23456, 65535])", "message": "this AS number is reserved"},
    ]))]
    pub as_number: Option<u32>,
    /// How often (1).
    #[schemars(range(min = 1, max = 10))]
    pub times: Option<u8>,
}

/// A community.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CommunityValue {
    /// `aa:nn` or, large, `aa:nn:mm`.
    #[schemars(length(max = 32), extend("x-kubernetes-validations" = rules::community()))]
    pub value: String,
}
