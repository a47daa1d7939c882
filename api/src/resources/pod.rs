//! Pod: where it runs, its labels and its addresses.

mod manifest;

use std::collections::BTreeSet;
use std::net::IpAddr;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

pub(crate) use manifest::Manifest;

use super::Protocol;
use super::network_policy::is_port_name;
use crate::metadata::{Subject, is_dns_subdomain};
use crate::{Labels, NamespacedName, ParseError};

/// The annotation with the addresses a pod asks for, a JSON list.
const FIXED_IPS: &str = "portolan.io/ip-addresses";
/// Kubelets write it on the API's picture of a static pod: the uid by which they and the runtime know the pod.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// A Pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pod {
    /// Its namespace and name.
    pub name: NamespacedName,
    /// The uid by which the runtime knows it: `metadata.uid`, of a static pod its kubelet's own; empty where the source
    /// gives none (a manifest).
    pub uid: String,
    /// Its labels.
    pub labels: Labels,
    /// `spec.nodeName`.
    pub node_name: Option<String>,
    /// `spec.hostNetwork`: no policy subject and no pod peer.
    pub host_network: bool,
    /// Phase Succeeded or Failed: its address may already be another pod's.
    pub finished: bool,
    /// `status.podIPs` (in the directory mode from `.status/<node>.json`).
    pub pod_ips: Vec<IpAddr>,
    /// Annotation `portolan.io/ip-addresses`: the addresses it asks for.
    pub fixed_ips: Vec<IpAddr>,
    /// Ports of its containers that have a name, sidecars and init containers included, sorted, each once.
    pub named_ports: Vec<ContainerPort>,
}

/// A port of a container that policies may name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContainerPort {
    /// Its name.
    pub name: String,
    /// Its protocol; absent became TCP.
    pub protocol: Protocol,
    /// `containerPort`.
    pub port: u16,
}

impl TryFrom<Manifest> for Pod {
    type Error = ParseError;

    fn try_from(pod: Manifest) -> Result<Self, ParseError> {
        let metadata = ObjectMeta::from(pod.metadata);
        let (subject, name) = Subject::namespaced("Pod", &metadata)?;
        let labels = subject.labels(&metadata)?;
        let fixed_ips = subject.annotation(&metadata, FIXED_IPS, read_fixed_ips)?;
        let mirrored = subject.annotation(&metadata, MIRROR, |uid| Ok(uid.to_owned()))?;
        let spec = pod.spec.unwrap_or_default();
        let named_ports = named_ports(&spec);
        let node_name = spec.node_name.filter(|node| !node.is_empty());
        if node_name
            .as_deref()
            .is_some_and(|node| !is_dns_subdomain(node))
        {
            return Err(subject.error("spec.nodeName is not a DNS-1123 subdomain"));
        }
        let status = pod.status.unwrap_or_default();
        let finished = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
        let pod_ips = status_ips(status).map_err(|why| subject.error(why))?;
        Ok(Self {
            name,
            uid: mirrored.or(metadata.uid).unwrap_or_default(),
            labels,
            node_name,
            host_network: spec.host_network.unwrap_or(false),
            finished,
            pod_ips,
            fixed_ips: fixed_ips.unwrap_or_default(),
            named_ports,
        })
    }
}

/// Of all containers: a sidecar is an init container that stays (semantics 24). A port that is none is passed over.
fn named_ports(spec: &manifest::Spec) -> Vec<ContainerPort> {
    let lists = [&spec.containers, &spec.init_containers];
    let containers = lists.into_iter().flatten().flatten();
    let ports = containers.flat_map(|container| container.ports.iter().flatten());
    let named: BTreeSet<ContainerPort> = ports.filter_map(named_port).collect();
    named.into_iter().collect()
}

fn named_port(port: &manifest::Port) -> Option<ContainerPort> {
    let protocol = Protocol::read(port.protocol.as_deref())?;
    let number = u16::try_from(port.container_port)
        .ok()
        .filter(|port| *port > 0)?;
    let name = port.name.clone().filter(|name| is_port_name(name))?;
    Some(ContainerPort {
        name,
        protocol,
        port: number,
    })
}

/// `status.podIPs`, or the older `status.podIP` where there are none.
fn status_ips(status: manifest::Status) -> Result<Vec<IpAddr>, String> {
    let mut texts: Vec<String> = status
        .pod_ips
        .unwrap_or_default()
        .into_iter()
        .map(|entry| entry.ip)
        .collect();
    if texts.is_empty() {
        texts.extend(status.pod_ip);
    }
    let texts = texts.into_iter().filter(|text| !text.is_empty());
    texts
        .map(|text| {
            text.parse()
                .map_err(|_| format!("status.podIPs: {text:?} is no address"))
        })
        .collect()
}

fn read_fixed_ips(text: &str) -> Result<Vec<IpAddr>, String> {
    let wanted = "a JSON list of addresses, at most one a family";
    let addresses: Vec<IpAddr> =
        serde_json::from_str(text).map_err(|_| format!("it should be {wanted}"))?;
    let unusable = |ip: &IpAddr| ip.is_unspecified() || ip.is_loopback() || ip.is_multicast();
    if let Some(address) = addresses.iter().find(|ip| unusable(ip)) {
        return Err(format!("no pod can have {address}"));
    }
    for is_family in [IpAddr::is_ipv4, IpAddr::is_ipv6] {
        if addresses.iter().filter(|ip| is_family(ip)).count() > 1 {
            return Err(format!("it should be {wanted}"));
        }
    }
    Ok(addresses)
}
