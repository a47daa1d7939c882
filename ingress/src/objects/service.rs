//! Service: of it, what its ports are called and what is spoken there. Where its endpoints are, EndpointSlices say.

use api::NamespacedName;
use k8s_openapi::api::core::v1 as core;

/// A Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its namespace and name.
    pub name: NamespacedName,
    /// `spec.type: ExternalName`.
    pub is_external_name: bool,
    /// Whether its first family is IPv6.
    pub prefers_ipv6: bool,
    /// `spec.ports`.
    pub ports: Vec<ServicePort>,
}

/// One of `spec.ports`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Its name; "" where it has none.
    pub name: String,
    /// Its number.
    pub port: i32,
    /// `protocol` is TCP, or absent.
    pub is_tcp: bool,
    /// `appProtocol`.
    pub app_protocol: Option<String>,
}

impl Service {
    pub(super) fn read(name: NamespacedName, service: core::Service) -> Self {
        let spec = service.spec.unwrap_or_default();
        let families = spec.ip_families.unwrap_or_default();
        let first_is_ipv6 = |addresses: Option<Vec<String>>| {
            let first = addresses.and_then(|list| list.into_iter().next());
            first.is_some_and(|address| address.contains(':'))
        };
        let prefers_ipv6 = match families.first() {
            Some(family) => family == "IPv6",
            None => first_is_ipv6(spec.cluster_ips),
        };
        let ports = spec.ports.unwrap_or_default().into_iter();
        Self {
            name,
            is_external_name: spec.type_.as_deref() == Some("ExternalName"),
            prefers_ipv6,
            ports: ports.map(ServicePort::read).collect(),
        }
    }
}

impl ServicePort {
    fn read(port: core::ServicePort) -> Self {
        Self {
            name: port.name.unwrap_or_default(),
            port: port.port,
            is_tcp: port.protocol.is_none_or(|protocol| protocol == "TCP"),
            app_protocol: port.app_protocol.filter(|protocol| !protocol.is_empty()),
        }
    }
}
