//! What `portolan service` asks and is told: for programs as it is, for people as tables.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::announced::AnnouncedView;
use crate::layer2::Answering;

/// What is asked.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "lowercase")]
pub(crate) enum ServiceQuestion {
    /// All, or those of one namespace.
    List { namespace: Option<String> },
    /// One.
    Show { namespace: String, name: String },
}

/// What is told.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ServiceAnswer {
    List(ListView),
    Show(Box<ServiceView>),
}

/// All Services.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ListView {
    /// Why this node serves none, if it is so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) not_served: Option<String>,
    pub(crate) services: Vec<ServiceRow>,
}

/// One of them.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ServiceRow {
    pub(crate) namespace: String,
    pub(crate) name: String,
    #[serde(rename = "type")]
    pub(crate) service_type: String,
    #[serde(rename = "clusterIPs")]
    pub(crate) cluster_ips: Vec<String>,
    /// Load balancer and external addresses.
    pub(crate) external: Vec<String>,
    /// `80/TCP`, or `80:30080/TCP` with a port of every node.
    pub(crate) ports: Vec<String>,
    /// Endpoints that somebody here asks.
    pub(crate) endpoints: usize,
    /// Those that nobody here asks.
    pub(crate) left_out: usize,
    /// What one should know of it.
    pub(crate) notes: Vec<String>,
}

/// One Service in full.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ServiceView {
    pub(crate) namespace: String,
    pub(crate) name: String,
    #[serde(rename = "type")]
    pub(crate) service_type: String,
    /// By what Services are served.
    pub(crate) mode: String,
    /// Why this node does not serve it, if it is so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) not_served: Option<String>,
    pub(crate) internal_traffic_policy: String,
    pub(crate) external_traffic_policy: String,
    /// Its addresses of a load balancer, each with its pool; and why it lacks one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) addresses: Vec<String>,
    /// For how long a client keeps its endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) session_affinity_seconds: Option<u64>,
    pub(crate) load_balancer_source_ranges: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) health_check: Option<HealthView>,
    /// Who announces its addresses.
    #[serde(default)]
    pub(crate) announced: Vec<AnnouncedView>,
    /// Who answers ARP and neighbour discovery for them.
    #[serde(default)]
    pub(crate) layer2: BTreeMap<IpAddr, Answering>,
    pub(crate) ports: Vec<PortView>,
    /// What the kernel counted: first packets of connections, as a rule.
    pub(crate) counters: Vec<CounterView>,
    /// Why there are no counters, if it is so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) counters_error: Option<String>,
}

/// What load balancers are told.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct HealthView {
    pub(crate) port: u16,
    pub(crate) local_endpoints: usize,
    /// Why nobody is told, if it is so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
}

/// One port, in one family.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PortView {
    pub(crate) name: String,
    pub(crate) protocol: String,
    pub(crate) family: String,
    pub(crate) frontends: Vec<FrontendView>,
    /// What another Service has.
    pub(crate) lost: Vec<LostView>,
    /// How hints narrowed the choice, if they do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) hints: Option<String>,
    pub(crate) endpoints: Vec<EndpointView>,
}

/// Where a port is asked, and what its packets meet there.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct FrontendView {
    /// `cluster IP`, `load balancer`, `external IP`, `node port`.
    pub(crate) kind: String,
    /// With the port; a node port is one of every address of this node.
    pub(crate) address: String,
    /// What becomes of connections of this node's pods.
    pub(crate) pods: String,
    /// Of this node's own.
    pub(crate) node: String,
    /// Of all others.
    pub(crate) others: String,
}

/// An address that another Service has.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LostView {
    pub(crate) kind: String,
    pub(crate) address: String,
    /// Whose it is.
    pub(crate) holder: String,
}

/// An endpoint.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct EndpointView {
    pub(crate) address: String,
    /// Where it runs; absent for what is outside of the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) node: Option<String>,
    /// `cluster`, `local`: which policies ask it; none if nobody here does.
    pub(crate) asked_by: Vec<String>,
    /// Why nobody here asks it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) left_out: Option<String>,
}

/// What some rule counted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CounterView {
    /// What for, in the rule's words.
    pub(crate) what: String,
    /// Where the rule is.
    pub(crate) place: String,
    /// Those that begin a connection; where connections are counted, all that clients sent.
    pub(crate) packets: u64,
    pub(crate) octets: u64,
    /// Connections, where the kernel counts them (IPVS).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) connections: Option<u64>,
}
