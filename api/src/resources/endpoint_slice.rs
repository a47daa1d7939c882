//! EndpointSlice: some of the endpoints behind a Service, of one family.

mod manifest;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::SystemTime;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

pub(crate) use manifest::Manifest;

use super::Protocol;
use super::service::{HEADLESS, PROXY_NAME};
use crate::metadata::Subject;
use crate::{NamespacedName, ParseError};

/// The label that says whose endpoints these are.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// An EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EndpointSlice {
    /// Its namespace and name.
    pub name: NamespacedName,
    /// The Service, in the same namespace, that its label names; a slice without one is nobody's (semantics 119).
    pub service: Option<String>,
    /// Whether a node's proxy minds it: no label says that it is another proxy's, or a headless Service's (semantics 117).
    pub is_proxied: bool,
    /// When the newest change happened that it tells of, by the clock of who saw it (annotation
    /// `endpoints.kubernetes.io/last-change-trigger-time`).
    pub last_change: Option<SystemTime>,
    /// `addressType`.
    pub address_type: AddressType,
    /// `ports`: those with a number and a name, which may be "".
    pub ports: Vec<EndpointPort>,
    /// `endpoints`; none where the addresses are names.
    pub endpoints: Vec<Endpoint>,
}

/// What an EndpointSlice's addresses are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AddressType {
    /// IPv4 addresses.
    Ipv4,
    /// IPv6 addresses.
    Ipv6,
    /// Names, which no proxy serves.
    Fqdn,
}

/// A port of every endpoint of a slice.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointPort {
    /// The name of the Service's port that leads here.
    pub name: String,
    /// The protocol; absent became TCP.
    pub protocol: Protocol,
    /// Where the endpoint listens.
    pub port: u16,
}

/// One endpoint.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    /// The first of `addresses`: the others mean nothing (semantics 119).
    pub address: IpAddr,
    /// `conditions.ready`; absent became true (semantics 121).
    pub is_ready: bool,
    /// `conditions.serving`; absent became `ready`.
    pub is_serving: bool,
    /// `conditions.terminating`; absent became false.
    pub is_terminating: bool,
    /// `nodeName`; where it is absent the endpoint is on no node.
    pub node_name: Option<String>,
    /// `zone`.
    pub zone: Option<String>,
    /// `hints.forZones`.
    pub for_zones: BTreeSet<String>,
    /// `hints.forNodes`.
    pub for_nodes: BTreeSet<String>,
}

impl TryFrom<Manifest> for EndpointSlice {
    type Error = ParseError;

    fn try_from(mut slice: Manifest) -> Result<Self, ParseError> {
        let mut left_out = [PROXY_NAME, HEADLESS].into_iter();
        let is_proxied = !left_out.any(|label| slice.metadata.has_label(label));
        let service = slice.metadata.take_label(SERVICE_NAME);
        let last_change = slice.metadata.last_change();
        let metadata = ObjectMeta::from(slice.metadata);
        let (subject, name) = Subject::namespaced("EndpointSlice", &metadata)?;
        let address_type = match slice.address_type.as_deref() {
            Some("IPv4") => AddressType::Ipv4,
            Some("IPv6") => AddressType::Ipv6,
            Some("FQDN") => AddressType::Fqdn,
            other => {
                let found = other.unwrap_or_default();
                let why = format!("addressType is {found:?}; it should be IPv4, IPv6 or FQDN");
                return Err(subject.error(why));
            }
        };
        let endpoints = match address_type {
            AddressType::Fqdn => Vec::new(),
            _ => slice.endpoints.unwrap_or_default(),
        };
        let endpoints = endpoints
            .into_iter()
            .filter_map(|endpoint| read_endpoint(endpoint, address_type).transpose())
            .collect::<Result<_, _>>()
            .map_err(|why| subject.error(why))?;
        let ports = slice.ports.unwrap_or_default();
        Ok(Self {
            name,
            service: service.filter(|name| !name.is_empty()),
            is_proxied,
            last_change,
            address_type,
            ports: ports.into_iter().filter_map(read_port).collect(),
            endpoints,
        })
    }
}

/// None of an endpoint without an address.
fn read_endpoint(
    endpoint: manifest::Endpoint,
    address_type: AddressType,
) -> Result<Option<Endpoint>, String> {
    let Some(text) = endpoint.addresses.unwrap_or_default().into_iter().next() else {
        return Ok(None);
    };
    let address: Option<IpAddr> = text.parse().ok();
    let address = address
        .filter(|address| address.is_ipv4() == (address_type == AddressType::Ipv4))
        .ok_or_else(|| format!("endpoints.addresses: {text:?} is no address of its family"))?;
    let conditions = endpoint.conditions.unwrap_or_default();
    let hints = endpoint.hints.unwrap_or_default();
    let is_ready = conditions.ready.unwrap_or(true);
    Ok(Some(Endpoint {
        address,
        is_ready,
        is_serving: conditions.serving.unwrap_or(is_ready),
        is_terminating: conditions.terminating.unwrap_or(false),
        node_name: endpoint.node_name.filter(|name| !name.is_empty()),
        zone: endpoint.zone.filter(|zone| !zone.is_empty()),
        for_zones: names(hints.for_zones),
        for_nodes: names(hints.for_nodes),
    }))
}

fn names(list: Option<Vec<manifest::Name>>) -> BTreeSet<String> {
    let names = list.unwrap_or_default().into_iter();
    names.map(|entry| entry.name).collect()
}

/// A port without a name or a number, or of a protocol that is not known, is passed over (semantics 119).
fn read_port(port: manifest::Port) -> Option<EndpointPort> {
    let number = u16::try_from(port.port?).ok().filter(|port| *port > 0)?;
    Some(EndpointPort {
        name: port.name?,
        protocol: Protocol::read(port.protocol.as_deref())?,
        port: number,
    })
}
