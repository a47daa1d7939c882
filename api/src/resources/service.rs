//! Service: its addresses and ports, and who may be asked behind them.

mod address_request;
mod manifest;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

pub use address_request::AddressRequest;
pub(crate) use manifest::Manifest;

use super::Protocol;
use crate::metadata::Subject;
use crate::{Labels, NamespacedName, ParseError};

/// The type of the condition in a Service's status by which it is seen that its addresses are of an IPPool.
pub const ADDRESSES_ALLOCATED: &str = "portolan.io/AddressesAllocated";
/// The label by which a Service is another proxy's.
pub(super) const PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
/// The label by which a Service with addresses is treated as one without.
pub(super) const HEADLESS: &str = "service.kubernetes.io/headless";
/// Kubernetes' default of `sessionAffinityConfig.clientIP.timeoutSeconds`.
const AFFINITY: Duration = Duration::from_secs(10_800);

/// A Service.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Service {
    /// Its namespace and name.
    pub name: NamespacedName,
    /// Its labels.
    pub labels: Labels,
    /// `metadata.creationTimestamp` as the API server writes it; none of a manifest in a directory. Of two Services that
    /// claim one address the older has it.
    pub created: Option<String>,
    /// `spec.type`; absent became ClusterIP.
    pub service_type: ServiceType,
    /// `spec.clusterIPs`: at most one a family; none of a headless Service or of type ExternalName (semantics 117).
    pub cluster_ips: Vec<IpAddr>,
    /// `spec.externalIPs`.
    pub external_ips: Vec<IpAddr>,
    /// `status.loadBalancer.ingress`: the addresses whose packets come here as they are (`ipMode` absent or VIP); those of a
    /// load balancer that is a proxy are left out (semantics 135).
    pub load_balancer_ips: Vec<IpAddr>,
    /// What it asks of who gives load balancers their addresses, or why that cannot be read: its other addresses are served all
    /// the same.
    pub address_request: Result<AddressRequest, String>,
    /// `status.loadBalancer.ingress` has an entry that is no address whose packets come here: another load balancer's.
    pub is_balanced_elsewhere: bool,
    /// `status.conditions` has one of type [`ADDRESSES_ALLOCATED`]: its addresses are ours to change.
    pub is_allocated_here: bool,
    /// `spec.selector`: the pods behind it.
    pub selector: BTreeMap<String, String>,
    /// `metadata.deletionTimestamp`: it is about to go.
    pub is_being_deleted: bool,
    /// `spec.loadBalancerSourceRanges`, of both families; empty: everybody.
    pub load_balancer_source_ranges: Vec<IpNet>,
    /// `spec.loadBalancerClass`.
    pub load_balancer_class: Option<String>,
    /// `spec.ports`.
    pub ports: Vec<ServicePort>,
    /// `spec.externalTrafficPolicy`.
    pub external_traffic_policy: TrafficPolicy,
    /// `spec.internalTrafficPolicy`.
    pub internal_traffic_policy: TrafficPolicy,
    /// `spec.healthCheckNodePort`; 0 became absent.
    pub health_check_node_port: Option<u16>,
    /// `spec.sessionAffinity: ClientIP`: for how long after its last connection a client keeps its endpoint.
    pub session_affinity: Option<Duration>,
    /// `spec.trafficDistribution`; a word that is not known became absent, as it is a wish.
    pub traffic_distribution: Option<TrafficDistribution>,
}

/// `spec.type` of a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ServiceType {
    /// Addresses inside of the cluster.
    ClusterIp,
    /// And a port of each node.
    NodePort,
    /// And addresses outside.
    LoadBalancer,
    /// A name in the DNS: nothing for a node to do.
    ExternalName,
}

/// One entry of a Service's `ports`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServicePort {
    /// Its name, by which EndpointSlices mean it; a Service's only port may have the name "".
    pub name: String,
    /// The protocol; absent became TCP.
    pub protocol: Protocol,
    /// `port`: where clients ask.
    pub port: u16,
    /// `nodePort`; 0 became absent.
    pub node_port: Option<u16>,
}

/// Which endpoints are asked: the cluster's, or this node's alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TrafficPolicy {
    /// All.
    Cluster,
    /// Those of the node where the packet is.
    Local,
}

/// Which endpoints are preferred.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TrafficDistribution {
    /// `PreferSameZone`, or `PreferClose` as it was called first.
    SameZone,
    /// `PreferSameNode`.
    SameNode,
}

impl Service {
    /// Whether a node's proxy has something to do for it: it has addresses, and isn't another proxy's (semantics 117).
    pub fn is_proxied(&self) -> bool {
        let is_left_out = [PROXY_NAME, HEADLESS]
            .into_iter()
            .any(|label| self.labels.contains_key(label));
        !self.cluster_ips.is_empty() && !is_left_out
    }
}

impl TryFrom<Manifest> for Service {
    type Error = ParseError;

    fn try_from(mut service: Manifest) -> Result<Self, ParseError> {
        let created = service.metadata.take_created();
        let is_being_deleted = service.metadata.is_being_deleted();
        let metadata = ObjectMeta::from(service.metadata);
        let (subject, name) = Subject::namespaced("Service", &metadata)?;
        let labels = subject.labels(&metadata)?;
        let wrong = |why: String| subject.error(why);
        let mut spec = service.spec.unwrap_or_default();
        let address_request = AddressRequest::read(&metadata, &spec);
        let service_type = read_type(spec.type_.as_deref()).map_err(wrong)?;
        let ports = spec.ports.as_deref().unwrap_or_default();
        let ranges = spec.load_balancer_source_ranges.as_deref();
        let status = service.status.unwrap_or_default();
        let ingress = status.load_balancer.as_ref();
        let mut ingress = ingress
            .into_iter()
            .flat_map(|own| own.ingress.iter().flatten());
        let is_balanced_elsewhere = ingress.any(|point| !point.is_address());
        let mut conditions = status.conditions.iter().flatten();
        let is_allocated_here = conditions.any(|condition| condition.type_ == ADDRESSES_ALLOCATED);
        Ok(Self {
            address_request,
            is_allocated_here,
            is_balanced_elsewhere,
            is_being_deleted,
            selector: spec.selector.take().unwrap_or_default(),
            service_type,
            cluster_ips: cluster_ips(&spec, service_type).map_err(wrong)?,
            external_ips: addresses("spec.externalIPs", spec.external_ips.as_deref())
                .map_err(wrong)?,
            load_balancer_ips: load_balancer_ips(status).map_err(wrong)?,
            load_balancer_source_ranges: source_ranges(ranges).map_err(wrong)?,
            load_balancer_class: spec.load_balancer_class.filter(|class| !class.is_empty()),
            ports: ports
                .iter()
                .map(read_port)
                .collect::<Result<_, _>>()
                .map_err(wrong)?,
            external_traffic_policy: traffic_policy(
                "externalTrafficPolicy",
                spec.external_traffic_policy.as_deref(),
            )
            .map_err(wrong)?,
            internal_traffic_policy: traffic_policy(
                "internalTrafficPolicy",
                spec.internal_traffic_policy.as_deref(),
            )
            .map_err(wrong)?,
            health_check_node_port: optional_port(
                "spec.healthCheckNodePort",
                spec.health_check_node_port,
            )
            .map_err(wrong)?,
            session_affinity: affinity(
                spec.session_affinity.as_deref(),
                spec.session_affinity_config,
            )
            .map_err(wrong)?,
            traffic_distribution: match spec.traffic_distribution.as_deref() {
                Some("PreferClose" | "PreferSameZone") => Some(TrafficDistribution::SameZone),
                Some("PreferSameNode") => Some(TrafficDistribution::SameNode),
                _ => None,
            },
            name,
            labels,
            created,
        })
    }
}

fn read_type(text: Option<&str>) -> Result<ServiceType, String> {
    Ok(match text {
        None | Some("" | "ClusterIP") => ServiceType::ClusterIp,
        Some("NodePort") => ServiceType::NodePort,
        Some("LoadBalancer") => ServiceType::LoadBalancer,
        Some("ExternalName") => ServiceType::ExternalName,
        Some(other) => {
            return Err(format!(
                "spec.type is {other:?}; it should be ClusterIP, NodePort, LoadBalancer or ExternalName"
            ));
        }
    })
}

/// `clusterIPs`, or the older `clusterIP` where there are none. What a Service that became an ExternalName still has there
/// means nothing.
fn cluster_ips(spec: &manifest::Spec, service_type: ServiceType) -> Result<Vec<IpAddr>, String> {
    if service_type == ServiceType::ExternalName {
        return Ok(Vec::new());
    }
    let mut texts = spec.cluster_ips.clone().unwrap_or_default();
    if texts.is_empty() {
        texts.extend(spec.cluster_ip.clone());
    }
    texts.retain(|text| !text.is_empty() && text != "None");
    addresses("spec.clusterIPs", Some(&texts))
}

fn addresses(field: &str, texts: Option<&[String]>) -> Result<Vec<IpAddr>, String> {
    let texts = texts.unwrap_or_default().iter();
    let read = |text: &String| {
        text.trim()
            .parse()
            .map_err(|_| format!("{field}: {text:?} is no address"))
    };
    texts.map(read).collect()
}

/// A load balancer that is known by a name alone is reached by nobody here.
fn load_balancer_ips(status: manifest::Status) -> Result<Vec<IpAddr>, String> {
    let ingress = status
        .load_balancer
        .unwrap_or_default()
        .ingress
        .unwrap_or_default();
    let texts: Vec<String> = ingress
        .into_iter()
        .filter(manifest::Ingress::is_address)
        .filter_map(|point| point.ip)
        .collect();
    addresses("status.loadBalancer.ingress", Some(&texts))
}

/// With blanks around them, as the API server allows (semantics 136).
fn source_ranges(texts: Option<&[String]>) -> Result<Vec<IpNet>, String> {
    let texts = texts.unwrap_or_default().iter();
    let read = |text: &String| {
        let range = text.trim().parse::<IpNet>();
        range
            .map(|range| range.trunc())
            .map_err(|_| format!("spec.loadBalancerSourceRanges: {text:?} is no CIDR"))
    };
    texts.map(read).collect()
}

fn read_port(port: &manifest::Port) -> Result<ServicePort, String> {
    let number = optional_port("spec.ports.port", Some(port.port))?;
    Ok(ServicePort {
        name: port.name.clone().unwrap_or_default(),
        protocol: Protocol::read(port.protocol.as_deref())
            .ok_or_else(|| format!("spec.ports.protocol: {:?} is unknown", port.protocol))?,
        port: number.ok_or("spec.ports.port is 0")?,
        node_port: optional_port("spec.ports.nodePort", port.node_port)?,
    })
}

fn optional_port(field: &str, port: Option<i32>) -> Result<Option<u16>, String> {
    let port = port.unwrap_or_default();
    let port = u16::try_from(port).map_err(|_| format!("{field}: {port} is no port"))?;
    Ok((port > 0).then_some(port))
}

fn traffic_policy(field: &str, text: Option<&str>) -> Result<TrafficPolicy, String> {
    match text {
        None | Some("" | "Cluster") => Ok(TrafficPolicy::Cluster),
        Some("Local") => Ok(TrafficPolicy::Local),
        Some(other) => Err(format!(
            "spec.{field} is {other:?}; it should be Cluster or Local"
        )),
    }
}

fn affinity(
    text: Option<&str>,
    config: Option<manifest::AffinityConfig>,
) -> Result<Option<Duration>, String> {
    match text {
        None | Some("" | "None") => return Ok(None),
        Some("ClientIP") => {}
        Some(other) => {
            return Err(format!(
                "spec.sessionAffinity is {other:?}; it should be ClientIP or None"
            ));
        }
    }
    let seconds = config
        .and_then(|config| config.client_ip)
        .and_then(|client| client.timeout_seconds);
    let Some(seconds) = seconds else {
        return Ok(Some(AFFINITY));
    };
    match u64::try_from(seconds) {
        Ok(seconds @ 1..=86_400) => Ok(Some(Duration::from_secs(seconds))),
        _ => Err(format!(
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds is {seconds}; it should be 1 to 86400"
        )),
    }
}
