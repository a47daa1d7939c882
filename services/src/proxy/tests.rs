//! Services and slices as manifests for the tests of all parts, and who this node is.

use std::net::SocketAddr;
use std::sync::Arc;

use api::resources::{EndpointSlice, Service};
use api::{NamespacedName, Resource};
use serde_json::{Map, Value, json};

use super::endpoints::Endpoint;
use super::index::{Index, Place, Touched};
use super::model::{Model, ServicePort};

/// This node, in zone `a`.
pub(crate) const HERE: &str = "n1";

pub(crate) fn place() -> Place {
    Place {
        node: HERE.to_owned(),
        zone: Some("a".to_owned()),
        addresses: vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()],
    }
}

pub(crate) fn name(name: &str) -> NamespacedName {
    NamespacedName::new("shop", name)
}

fn read(kind: &str, version: &str, value: Value) -> Resource {
    api::parse(kind, version, value).unwrap().unwrap().1
}

/// One value over another, field by field.
fn laid_over(mut below: Value, above: Value) -> Value {
    match (&mut below, above) {
        (Value::Object(fields), Value::Object(above)) => {
            for (key, value) in above {
                let old = fields.remove(&key).unwrap_or_default();
                fields.insert(key, laid_over(old, value));
            }
            below
        }
        (_, above) => above,
    }
}

/// `shop/NAME` with the address 10.96.0.1 and port 80 named `http`, and what else is said.
pub(crate) fn service(name: &str, more: Value) -> Arc<Service> {
    let plain = json!({
        "metadata": {"namespace": "shop", "name": name},
        "spec": {"clusterIPs": ["10.96.0.1"], "ports": [{"name": "http", "port": 80}]},
    });
    match read("Service", "v1", laid_over(plain, more)) {
        Resource::Service(service) => Arc::from(service),
        other => panic!("{other:?}"),
    }
}

/// Slice `shop/NAME` of a Service, IPv4, with port 8080 named `http`.
pub(crate) fn slice(name: &str, of: &str, endpoints: &[Value]) -> Arc<EndpointSlice> {
    slice_with(name, of, endpoints, json!({}))
}

pub(crate) fn slice_with(
    name: &str,
    of: &str,
    endpoints: &[Value],
    more: Value,
) -> Arc<EndpointSlice> {
    let labels = json!({"kubernetes.io/service-name": of});
    let plain = json!({
        "metadata": {"namespace": "shop", "name": name, "labels": labels},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080}],
        "endpoints": endpoints,
    });
    let read = read(
        "EndpointSlice",
        "discovery.k8s.io/v1",
        laid_over(plain, more),
    );
    match read {
        Resource::EndpointSlice(slice) => Arc::from(slice),
        other => panic!("{other:?}"),
    }
}

/// How an endpoint is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Is {
    Ready,
    Starting,
    /// Terminating, and serving still.
    Draining,
    /// Terminating, and no more serving.
    Ending,
}

impl Is {
    pub(crate) const ALL: [Self; 4] = [Self::Ready, Self::Starting, Self::Draining, Self::Ending];
}

/// An endpoint on a node.
pub(crate) fn endpoint(address: &str, node: &str, is: Is) -> Value {
    let conditions = json!({
        "ready": is == Is::Ready,
        "serving": matches!(is, Is::Ready | Is::Draining),
        "terminating": matches!(is, Is::Draining | Is::Ending),
    });
    json!({"addresses": [address], "nodeName": node, "conditions": conditions})
}

/// The same with hints.
pub(crate) fn hinted(mut endpoint: Value, zones: &[&str], nodes: &[&str]) -> Value {
    let named =
        |names: &[&str]| -> Vec<Value> { names.iter().map(|name| json!({"name": name})).collect() };
    let mut hints = Map::new();
    hints.insert("forZones".to_owned(), named(zones).into());
    hints.insert("forNodes".to_owned(), named(nodes).into());
    endpoint["hints"] = hints.into();
    endpoint
}

/// Endpoints as texts.
pub(crate) fn addresses(endpoints: &[Endpoint]) -> Vec<String> {
    let texts = endpoints.iter().map(|one| one.address);
    texts
        .map(|address: SocketAddr| address.to_string())
        .collect()
}

/// An index and the model that follows it, as a session's life.
#[derive(Default)]
pub(crate) struct World {
    pub(crate) index: Index,
    pub(crate) model: Model,
}

impl World {
    /// With this node in place.
    pub(crate) fn new() -> Self {
        let mut world = Self::default();
        world.index.set_place(place());
        world
    }

    pub(crate) fn service(&mut self, name: &str, more: Value) -> Touched {
        let touched = self.index.set_service(service(name, more));
        self.model.refresh(&self.index, &touched)
    }

    /// Slice `NAME-1` of a Service.
    pub(crate) fn endpoints(&mut self, name: &str, endpoints: &[Value]) -> Touched {
        let slice = slice(&format!("{name}-1"), name, endpoints);
        let touched = self.index.set_slice(slice);
        self.model.refresh(&self.index, &touched)
    }

    pub(crate) fn remove(&mut self, service: &str) -> Touched {
        let touched = self.index.remove_service(&name(service));
        self.model.refresh(&self.index, &touched)
    }

    pub(crate) fn port(&self, service: &str) -> &ServicePort {
        &self.model.service(&name(service)).unwrap().ports[0]
    }
}
