//! From a backend of an Ingress to the endpoints that get its requests.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use api::NamespacedName;
use api::resources::{AddressType, Protocol};

use crate::objects::{BackendPort, Objects, Service, ServicePort, ServiceRef};
use crate::problem::Reason;
use crate::table::{Backend, BackendProtocol};

/// What is wrong with a backend.
pub(super) type Fault = (Reason, String);

/// The backends that were asked for, each made once.
pub(super) struct Backends<'a> {
    objects: &'a Objects,
    known: BTreeMap<(NamespacedName, BackendPort), (Arc<Backend>, Option<Fault>)>,
}

impl<'a> Backends<'a> {
    pub(super) fn new(objects: &'a Objects) -> Self {
        Self {
            objects,
            known: BTreeMap::new(),
        }
    }

    /// The backend that a namespace's Ingress means. One that is wrong has no endpoints: requests for it are answered by 503, and do
    /// not fall to a rule that was written for others.
    pub(super) fn find(
        &mut self,
        namespace: &str,
        wanted: &ServiceRef,
    ) -> (Arc<Backend>, Option<Fault>) {
        let name = NamespacedName::new(namespace, &wanted.name);
        let key = (name, wanted.port.clone());
        if let Some(known) = self.known.get(&key) {
            return known.clone();
        }
        let made = match self.make(&key.0, &key.1) {
            Ok(backend) => (Arc::new(backend), None),
            Err(fault) => (Arc::new(nobody(&key.0, &key.1)), Some(fault)),
        };
        self.known.insert(key, made.clone());
        made
    }

    fn make(&self, name: &NamespacedName, port: &BackendPort) -> Result<Backend, Fault> {
        let Some(service) = self.objects.services.get(name) else {
            return Err((
                Reason::ServiceNotFound,
                format!("there is no Service {name}"),
            ));
        };
        if service.is_external_name {
            let why = format!(
                "Service {name} is of type ExternalName: whoever may write it could have this controller ask anybody, so it is not served"
            );
            return Err((Reason::ExternalName, why));
        }
        let found = service.ports.iter().find(|known| match port {
            BackendPort::Number(number) => known.port == *number && known.is_tcp,
            BackendPort::Name(name) => known.name == *name,
        });
        let Some(found) = found else {
            let known: Vec<String> = service.ports.iter().map(ServicePort::describe).collect();
            let why = format!(
                "Service {name} has no port {port}; it has {}",
                known.join(", ")
            );
            return Err((Reason::PortNotFound, why));
        };
        let protocol = protocol(name, found)?;
        let endpoints = self.endpoints(service, &found.name);
        Ok(Backend::new(
            name.clone(),
            port.to_string(),
            protocol,
            endpoints,
        ))
    }

    /// Those of the Service's first family, unless that has nobody.
    fn endpoints(&self, service: &Service, port: &str) -> Vec<SocketAddr> {
        let (first, second) = match service.prefers_ipv6 {
            true => (AddressType::Ipv6, AddressType::Ipv4),
            false => (AddressType::Ipv4, AddressType::Ipv6),
        };
        let found = self.endpoints_of_family(service, port, first);
        match found.is_empty() {
            true => self.endpoints_of_family(service, port, second),
            false => found,
        }
    }

    /// The ready ones; where nobody is, those that are about to go and still serve (KEP-1669).
    fn endpoints_of_family(
        &self,
        service: &Service,
        port: &str,
        family: AddressType,
    ) -> Vec<SocketAddr> {
        let mut ready = Vec::new();
        let mut leaving = Vec::new();
        for slice in self.objects.slices_of(&service.name) {
            let port = slice
                .ports
                .iter()
                .find(|known| known.name == port && known.protocol == Protocol::Tcp);
            let Some(port) = port.filter(|_| slice.address_type == family) else {
                continue;
            };
            for endpoint in &slice.endpoints {
                let address = SocketAddr::new(endpoint.address, port.port);
                if endpoint.is_ready {
                    ready.push(address);
                } else if endpoint.is_serving && endpoint.is_terminating {
                    leaving.push(address);
                }
            }
        }
        match ready.is_empty() {
            true => leaving,
            false => ready,
        }
    }
}

/// A backend without anybody.
pub(super) fn nobody(service: &NamespacedName, port: &BackendPort) -> Backend {
    Backend::new(
        service.clone(),
        port.to_string(),
        BackendProtocol::Http1,
        Vec::new(),
    )
}

/// Names in `appProtocol` that are not for HTTP proxies are somebody's own, and say nothing.
fn protocol(service: &NamespacedName, port: &ServicePort) -> Result<BackendProtocol, Fault> {
    let unsupported = |what: &str| {
        let why = format!("port {} of Service {service} {what}", port.describe());
        Err((Reason::UnsupportedProtocol, why))
    };
    if !port.is_tcp {
        return unsupported("is not TCP");
    }
    match port.app_protocol.as_deref() {
        Some("kubernetes.io/h2c" | "grpc") => Ok(BackendProtocol::H2c),
        Some("https" | "kubernetes.io/wss") => unsupported(
            "has an appProtocol of TLS; backends are asked in plain text: remove it, or name a plain port",
        ),
        _ => Ok(BackendProtocol::Http1),
    }
}

impl ServicePort {
    fn describe(&self) -> String {
        match self.name.as_str() {
            "" => self.port.to_string(),
            name => format!("{} ({name})", self.port),
        }
    }
}
