//! ClusterNetworkPolicy as it is written: policy.networking.k8s.io/v1alpha2 of network-policy-api v0.2.0.
//!
//! Parts that may be wrong on their own (a peer, a protocol, the subject) stay JSON here and are read one by one,
//! strictly: a field that is not known may be a newer API's and must not be passed over (semantics 67).

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;
use serde_json::{Map, Value};

/// The object; `status` is others'.
#[derive(Debug, Deserialize)]
pub(crate) struct Manifest {
    /// Its name.
    #[serde(default)]
    pub(crate) metadata: ObjectMeta,
    /// What it wants.
    pub(crate) spec: Option<Spec>,
}

/// `spec`.
#[derive(Debug, Deserialize)]
pub(crate) struct Spec {
    /// `Admin` or `Baseline`.
    #[serde(default)]
    pub(super) tier: Value,
    /// 0 to 1000, lower goes first.
    #[serde(default)]
    pub(super) priority: Value,
    /// [`Pods`].
    #[serde(default)]
    pub(super) subject: Value,
    /// At most 25 [`Rule`]s.
    #[serde(default)]
    pub(super) ingress: Value,
    /// At most 25 [`Rule`]s.
    #[serde(default)]
    pub(super) egress: Value,
    /// Fields of no version that is known here.
    #[serde(flatten)]
    pub(super) unknown: Map<String, Value>,
}

/// A rule of `ingress` or `egress`.
#[derive(Debug, Deserialize)]
pub(super) struct Rule {
    /// At most 100 characters, for people.
    #[serde(default)]
    pub(super) name: Value,
    /// `Accept`, `Deny` or `Pass`.
    #[serde(default)]
    pub(super) action: Value,
    /// 1 to 25 protocols; absent: all traffic.
    #[serde(default)]
    pub(super) protocols: Value,
    /// `from` or `to`, and what is known in neither direction.
    #[serde(flatten)]
    pub(super) rest: Map<String, Value>,
}

/// `subject`, or a peer of `from`: exactly one of the two.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Pods {
    /// All pods of the namespaces selected.
    pub(super) namespaces: Option<Selector>,
    /// The pods selected of the namespaces selected.
    pub(super) pods: Option<NamespacedPod>,
}

/// A peer of `to`: exactly one of them.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct EgressPeer {
    /// All pods of the namespaces selected.
    pub(super) namespaces: Option<Selector>,
    /// The pods selected of the namespaces selected.
    pub(super) pods: Option<NamespacedPod>,
    /// Nodes, by all of their `status.addresses`.
    pub(super) nodes: Option<Selector>,
    /// 1 to 25 CIDRs.
    pub(super) networks: Option<Vec<String>>,
    /// 1 to 25 names, of rules that accept.
    pub(super) domain_names: Option<Vec<String>>,
}

/// Pods by two selectors.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct NamespacedPod {
    /// Absent or empty: every namespace.
    #[serde(default)]
    pub(super) namespace_selector: Option<Selector>,
    /// Empty: every pod. It must be there.
    pub(super) pod_selector: Selector,
}

/// A label selector; empty selects everything.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Selector {
    /// Labels that must be there.
    pub(super) match_labels: Option<BTreeMap<String, String>>,
    /// Further requirements.
    pub(super) match_expressions: Option<Vec<Expression>>,
}

/// A requirement on one label.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Expression {
    /// The label.
    pub(super) key: String,
    /// `In`, `NotIn`, `Exists` or `DoesNotExist`.
    pub(super) operator: String,
    /// For `In` and `NotIn`.
    pub(super) values: Option<Vec<String>>,
}

/// An entry of `protocols`: exactly one of them.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Protocol {
    /// TCP.
    pub(super) tcp: Option<Transport>,
    /// UDP.
    pub(super) udp: Option<Transport>,
    /// SCTP.
    pub(super) sctp: Option<Transport>,
    /// A ContainerPort's name, of any protocol.
    pub(super) destination_named_port: Option<String>,
}

/// What of a transport protocol is matched; at least one thing.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Transport {
    /// The destination port as the pod sees it.
    pub(super) destination_port: Option<DestinationPort>,
}

/// Exactly one of them.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DestinationPort {
    /// 1 to 65535.
    pub(super) number: Option<i64>,
    /// Several.
    pub(super) range: Option<PortRange>,
}

/// Both ends included; `start` is less than `end`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PortRange {
    /// The first.
    pub(super) start: i64,
    /// The last.
    pub(super) end: i64,
}
