//! Node: addresses, Pod CIDRs and the BGP identity that its annotations give it.

mod manifest;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

pub(crate) use manifest::Manifest;

use crate::metadata::Subject;
use crate::{Labels, ParseError};

const AS_NUMBER: &str = "portolan.io/as-number";
const ROUTER_ID: &str = "portolan.io/router-id";
const CLUSTER_ID: &str = "portolan.io/route-reflector-cluster-id";
const DRAIN: &str = "portolan.io/bgp-drain";
/// The taint by which the cluster autoscaler says that a node will be gone soon.
const SCALED_DOWN: &str = "ToBeDeletedByClusterAutoscaler";
/// The node's address where `status.addresses` names another one, or none: of a loopback that BGP announces, say.
const IPV4_ADDRESS: &str = "portolan.io/ipv4-address";
const IPV6_ADDRESS: &str = "portolan.io/ipv6-address";

/// A Node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: Labels,
    /// `status.addresses` of type InternalIP, in order; of a family that annotation `portolan.io/ipv4-address` or
    /// `portolan.io/ipv6-address` gives an address, that one alone.
    pub internal_ips: Vec<IpAddr>,
    /// All of `status.addresses` that are addresses and those of the annotations, sorted, each once.
    pub addresses: Vec<IpAddr>,
    /// `spec.podCIDRs`, host bits cleared, at most one a family.
    pub pod_cidrs: Vec<IpNet>,
    /// Annotation `portolan.io/as-number`.
    pub as_number: Option<u32>,
    /// Annotation `portolan.io/router-id`.
    pub router_id: Option<Ipv4Addr>,
    /// Annotation `portolan.io/route-reflector-cluster-id` (RFC 4456 §7; the router ID if absent).
    pub cluster_id: Option<Ipv4Addr>,
    /// Annotation `portolan.io/bgp-drain: "true"`: what it announces bears GRACEFUL_SHUTDOWN (RFC 8326).
    /// `spec.unschedulable` does not drain BGP: pods that run stay reachable the shortest way.
    pub bgp_drain: bool,
    /// Whether it is about to go: load balancers should send it no new connections (KEP-3836).
    pub leaving: Option<Leaving>,
}

/// Why a node is about to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Leaving {
    /// `metadata.deletionTimestamp`.
    Deleted,
    /// The cluster autoscaler's taint.
    ScaledDown,
}

impl TryFrom<Manifest> for Node {
    type Error = ParseError;

    fn try_from(node: Manifest) -> Result<Self, ParseError> {
        let is_being_deleted = node.metadata.is_being_deleted();
        let metadata = ObjectMeta::from(node.metadata);
        let subject = Subject::cluster("Node", &metadata)?;
        let status = node.status.unwrap_or_default();
        let spec = node.spec.unwrap_or_default();
        let wrong = |why| subject.error(why);
        let v4 = subject.annotation(&metadata, IPV4_ADDRESS, read_ipv4)?;
        let v6 = subject.annotation(&metadata, IPV6_ADDRESS, read_ipv6)?;
        let overrides: Vec<IpAddr> = v4.into_iter().chain(v6).collect();
        let mut internal_ips = internal_ips(&status).map_err(wrong)?;
        let mut addresses = all_addresses(&status);
        addresses.extend(&overrides);
        for address in overrides {
            replace_of_family(&mut internal_ips, address);
        }
        Ok(Self {
            name: subject.name().to_owned(),
            labels: subject.labels(&metadata)?,
            internal_ips,
            addresses: addresses.into_iter().collect(),
            leaving: leaving(is_being_deleted, &spec),
            pod_cidrs: pod_cidrs(spec).map_err(wrong)?,
            as_number: subject.annotation(&metadata, AS_NUMBER, read_as_number)?,
            router_id: subject.annotation(&metadata, ROUTER_ID, read_router_id)?,
            cluster_id: subject.annotation(&metadata, CLUSTER_ID, read_router_id)?,
            bgp_drain: subject
                .annotation(&metadata, DRAIN, read_flag)?
                .unwrap_or(false),
        })
    }
}

fn leaving(is_being_deleted: bool, spec: &manifest::Spec) -> Option<Leaving> {
    if is_being_deleted {
        return Some(Leaving::Deleted);
    }
    let mut taints = spec.taints.iter().flatten();
    let is_scaled_down = taints.any(|taint| taint.key == SCALED_DOWN);
    is_scaled_down.then_some(Leaving::ScaledDown)
}

fn internal_ips(status: &manifest::Status) -> Result<Vec<IpAddr>, String> {
    let addresses = status.addresses.iter().flatten();
    addresses
        .filter(|entry| entry.type_ == "InternalIP")
        .map(|entry| {
            let wrong = |_| format!("status.addresses: {:?} is no address", entry.address);
            entry.address.parse().map_err(wrong)
        })
        .collect()
}

/// Puts an address where the first of its family is, and takes those away; at the end if there is none.
fn replace_of_family(addresses: &mut Vec<IpAddr>, address: IpAddr) {
    let of_family = |other: &IpAddr| other.is_ipv4() == address.is_ipv4();
    let place = addresses.iter().position(of_family);
    addresses.retain(|other| !of_family(other));
    addresses.insert(place.unwrap_or(addresses.len()), address);
}

/// Every entry that is an address: a node's names are among them too.
fn all_addresses(status: &manifest::Status) -> BTreeSet<IpAddr> {
    let entries = status.addresses.iter().flatten();
    entries
        .filter_map(|entry| entry.address.parse().ok())
        .collect()
}

/// `spec.podCIDRs`, or the older `spec.podCIDR` where there are none.
fn pod_cidrs(spec: manifest::Spec) -> Result<Vec<IpNet>, String> {
    let mut texts = spec.pod_cidrs.unwrap_or_default();
    if texts.is_empty() {
        texts.extend(spec.pod_cidr.filter(|text| !text.is_empty()));
    }
    let mut cidrs: Vec<IpNet> = Vec::new();
    for text in texts {
        let cidr: IpNet = text
            .parse()
            .map_err(|_| format!("spec.podCIDRs: {text:?} is no CIDR"))?;
        let cidr = cidr.trunc();
        if cidrs
            .iter()
            .any(|other| other.addr().is_ipv4() == cidr.addr().is_ipv4())
        {
            return Err("spec.podCIDRs: there is more than one of a family".to_owned());
        }
        if let Some(reserved) = reserved_for_others(&cidr) {
            return Err(format!("spec.podCIDRs: {text} holds {reserved} addresses"));
        }
        cidrs.push(cidr);
    }
    Ok(cidrs)
}

/// What no pod may be given and a Pod CIDR (a blackhole route on its node) must not cover.
pub(super) fn reserved_for_others(cidr: &IpNet) -> Option<&'static str> {
    const RESERVED: [(&str, &str); 8] = [
        ("0.0.0.0/8", "unspecified"),
        ("127.0.0.0/8", "loopback"),
        ("169.254.0.0/16", "link-local"),
        ("224.0.0.0/3", "multicast or reserved"),
        ("::/127", "unspecified or loopback"),
        ("::ffff:0:0/96", "IPv4-mapped"),
        ("fe80::/10", "link-local"),
        ("ff00::/8", "multicast"),
    ];
    RESERVED.iter().find_map(|(text, name)| {
        let reserved: IpNet = text.parse().ok()?;
        (reserved.contains(cidr) || cidr.contains(&reserved)).then_some(*name)
    })
}

fn read_as_number(text: &str) -> Result<u32, String> {
    let number = text
        .parse()
        .map_err(|_| "it should be a number".to_owned())?;
    match is_usable_as(number) {
        true => Ok(number),
        false => Err("this AS number is reserved".to_owned()),
    }
}

/// Says whether a speaker may be in this AS (0: RFC 7607; 23456: RFC 6793; the last ones: RFC 7300).
pub(super) fn is_usable_as(number: u32) -> bool {
    !matches!(number, 0 | 23_456 | 65_535 | u32::MAX)
}

fn read_router_id(text: &str) -> Result<Ipv4Addr, String> {
    let wanted = || "it should be an IPv4 address that is not 0.0.0.0".to_owned();
    let id: Ipv4Addr = text.parse().map_err(|_| wanted())?;
    if id.is_unspecified() {
        Err(wanted())
    } else {
        Ok(id)
    }
}

fn read_ipv4(text: &str) -> Result<IpAddr, String> {
    let wanted = "it should be an IPv4 address of this node, without a prefix length";
    let ip: Ipv4Addr = text.parse().map_err(|_| wanted.to_owned())?;
    let usable = !(ip.is_unspecified() || ip.is_loopback() || ip.is_multicast());
    let usable = usable && !ip.is_link_local() && !ip.is_broadcast();
    usable.then_some(ip.into()).ok_or_else(|| wanted.to_owned())
}

fn read_ipv6(text: &str) -> Result<IpAddr, String> {
    let wanted = "it should be an IPv6 address of this node, without a prefix length";
    let ip: Ipv6Addr = text.parse().map_err(|_| wanted.to_owned())?;
    let usable = !(ip.is_unspecified() || ip.is_loopback() || ip.is_multicast());
    let usable = usable && !ip.is_unicast_link_local() && ip.to_ipv4_mapped().is_none();
    usable.then_some(ip.into()).ok_or_else(|| wanted.to_owned())
}

fn read_flag(text: &str) -> Result<bool, String> {
    text.parse()
        .map_err(|_| "it should be \"true\" or \"false\"".to_owned())
}
