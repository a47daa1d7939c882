//! What a load balancer hears that asks a node whether it has endpoints of a Service (`healthCheckNodePort`).

use std::collections::BTreeSet;
use std::net::IpAddr;

use api::NamespacedName;
use api::resources::{AddressType, Service};

use super::index::Index;
use super::model::needs_health_check;

/// The header by which a load balancer may weigh nodes.
pub const WEIGHT_HEADER: &str = "X-Load-Balancing-Endpoint-Weight";

/// A port of the node that a load balancer asks, and what there is to tell (semantics 138).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// The TCP port.
    pub port: u16,
    /// How many ready endpoints are on this node: addresses, not ports. Of the family of the Service's first address, as a
    /// pod has one of each.
    pub local_endpoints: usize,
}

/// An answer by HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthAnswer {
    /// 200, or 503 where packets should not be sent.
    pub status: u16,
    /// The value of [`WEIGHT_HEADER`].
    pub weight: usize,
    /// The body, JSON.
    pub body: String,
}

impl HealthCheck {
    /// Of a Service that has one.
    pub(super) fn of(service: &Service, index: &Index) -> Option<Self> {
        let port = service.health_check_node_port?;
        needs_health_check(service).then(|| Self {
            port,
            local_endpoints: local_ready(service, index).len(),
        })
    }

    /// What is said of it. `is_healthy`: this node carries out what it is told.
    pub fn answer(&self, service: &NamespacedName, is_healthy: bool) -> HealthAnswer {
        let Self {
            local_endpoints, ..
        } = *self;
        // Names are of the DNS: nothing in them needs to be quoted.
        let NamespacedName { namespace, name } = service;
        let body = format!(
            "{{\"service\":{{\"namespace\":\"{namespace}\",\"name\":\"{name}\"}},\
             \"localEndpoints\":{local_endpoints},\"serviceProxyHealthy\":{is_healthy}}}"
        );
        HealthAnswer {
            status: if local_endpoints > 0 && is_healthy {
                200
            } else {
                503
            },
            weight: local_endpoints,
            body,
        }
    }
}

fn local_ready(service: &Service, index: &Index) -> BTreeSet<IpAddr> {
    let is_v4 = service.cluster_ips.first().is_none_or(IpAddr::is_ipv4);
    let kind = if is_v4 {
        AddressType::Ipv4
    } else {
        AddressType::Ipv6
    };
    let slices = index.slices(&service.name);
    let endpoints = slices
        .filter(|slice| slice.address_type == kind)
        .flat_map(|slice| &slice.endpoints);
    let here = Some(&index.place().node);
    endpoints
        .filter(|one| one.is_ready && one.node_name.as_ref() == here)
        .map(|one| one.address)
        .collect()
}

#[cfg(test)]
mod tests;
