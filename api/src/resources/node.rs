//! Node: addresses, Pod CIDRs and the BGP identity that its annotations give it.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

use crate::Labels;

/// A Node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: Labels,
    /// `status.addresses` of type InternalIP, in order.
    pub internal_ips: Vec<IpAddr>,
    /// `spec.podCIDRs`, host bits cleared, at most one a family.
    pub pod_cidrs: Vec<IpNet>,
    /// Annotation `portolan.io/as-number`.
    pub as_number: Option<u32>,
    /// Annotation `portolan.io/router-id`.
    pub router_id: Option<Ipv4Addr>,
}
