//! A Service with the slices of its endpoints, as the API server takes them.

use serde_json::{Map, Value, json};

use self::By::{ClusterIp, LoadBalancer, NodePort};
use crate::world::Place;

/// The namespace of all of it.
pub(crate) const NAMESPACE: &str = "twin";

/// A Service and what belongs to it.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) service: Value,
    pub(crate) slices: Vec<Value>,
    /// `status.loadBalancer.ingress`.
    pub(crate) ingress: Vec<Value>,
    /// A client gets the same endpoint again: which one is chance.
    pub(crate) is_sticky: bool,
}

/// An endpoint: where it is, and what else its slice says of it.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint(pub(crate) Place, pub(crate) Value);

pub(crate) fn ready(place: Place) -> Endpoint {
    Endpoint(
        place,
        json!({"conditions": {"ready": true, "serving": true, "terminating": false}}),
    )
}

/// One that ends, and serves still or not.
pub(crate) fn ending(place: Place, is_serving: bool) -> Endpoint {
    let conditions = json!({"ready": false, "serving": is_serving, "terminating": true});
    Endpoint(place, json!({"conditions": conditions}))
}

/// What a Service is reached by besides its cluster IPs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum By {
    ClusterIp,
    NodePort,
    LoadBalancer,
}

/// Its addresses hang on its number alone.
pub(crate) fn addresses(net: &str, number: usize) -> [String; 2] {
    match net {
        "cluster" => [
            format!("10.96.1.{number}"),
            format!("fd00:10:96::1{number:03}"),
        ],
        "external" => [
            format!("198.51.100.{number}"),
            format!("2001:db8:100::{number}"),
        ],
        _ => [format!("192.0.2.{number}"), format!("2001:db8:2::{number}")],
    }
}

impl Case {
    /// TCP and UDP on port 80, of both families, at a cluster IP, or a node port too, or at a load balancer's and an external
    /// address besides. `more` is of its spec.
    pub(crate) fn new(
        number: usize,
        name: &str,
        by: By,
        endpoints: &[Endpoint],
        more: Value,
    ) -> Self {
        let node_port = 30_000 + number;
        let port = |protocol: &str| {
            let name = protocol.to_lowercase();
            let mut port =
                json!({"name": name, "protocol": protocol, "port": 80, "targetPort": 8080});
            if by >= NodePort {
                port["nodePort"] = json!(node_port);
            }
            port
        };
        let mut spec = json!({
            "type": match by {
                ClusterIp => "ClusterIP",
                NodePort => "NodePort",
                LoadBalancer => "LoadBalancer",
            },
            "clusterIP": addresses("cluster", number)[0],
            "clusterIPs": addresses("cluster", number),
            "ipFamilyPolicy": "RequireDualStack",
            "ipFamilies": ["IPv4", "IPv6"],
            "ports": [port("TCP"), port("UDP")],
        });
        let mut ingress = Vec::new();
        if by == LoadBalancer {
            spec["externalIPs"] = json!(addresses("external", number));
            let vips = addresses("balancer", number);
            ingress = vips
                .iter()
                .map(|ip| json!({"ip": ip, "ipMode": "VIP"}))
                .collect();
        }
        merge(&mut spec, more);
        Self {
            service: json!({
                "apiVersion": "v1", "kind": "Service",
                "metadata": {"name": name, "namespace": NAMESPACE}, "spec": spec,
            }),
            slices: slices(name, "a", endpoints, 8080),
            ingress,
            is_sticky: false,
        }
    }

    pub(crate) fn name(&self) -> &str {
        self.service["metadata"]["name"].as_str().unwrap()
    }

    pub(crate) fn sticky(mut self) -> Self {
        self.is_sticky = true;
        self
    }

    pub(crate) fn ingress(mut self, ingress: &[Value]) -> Self {
        self.ingress = ingress.to_vec();
        self
    }

    pub(crate) fn label(mut self, name: &str, value: &str) -> Self {
        self.service["metadata"]["labels"] = json!({name: value});
        self
    }

    pub(crate) fn and(mut self, slices: Vec<Value>) -> Self {
        self.slices.extend(slices);
        self
    }

    pub(crate) fn only(mut self, slices: Vec<Value>) -> Self {
        self.slices = slices;
        self
    }
}

pub(crate) fn merge(into: &mut Value, more: Value) {
    let (Some(into), Value::Object(more)) = (into.as_object_mut(), more) else {
        return;
    };
    for (name, value) in more {
        if value.is_null() {
            into.remove(&name);
        } else {
            into.insert(name, value);
        }
    }
}

/// One slice for each family, `NAME-FAMILY-MARK`, whose two ports lead to one port of the endpoints.
pub(crate) fn slices(name: &str, mark: &str, endpoints: &[Endpoint], port: u16) -> Vec<Value> {
    let ports = json!([
        {"name": "tcp", "protocol": "TCP", "port": port}, {"name": "udp", "protocol": "UDP", "port": port},
    ]);
    let of = |family: usize| slice(name, mark, family, endpoints, &ports);
    vec![of(0), of(1)]
}

pub(crate) fn slice(
    name: &str,
    mark: &str,
    family: usize,
    endpoints: &[Endpoint],
    ports: &Value,
) -> Value {
    let told = endpoints.iter().map(|Endpoint(place, more)| {
        let mut told = Map::new();
        told.insert("addresses".to_owned(), json!([place.addresses()[family]]));
        if let Some(node) = place.node() {
            told.insert("nodeName".to_owned(), json!(node));
            told.insert(
                "zone".to_owned(),
                json!(if node == "n1" { "a" } else { "b" }),
            );
        }
        let mut told = Value::Object(told);
        merge(&mut told, more.clone());
        told
    });
    raw_slice(name, mark, family, told.collect(), ports)
}

pub(crate) fn raw_slice(
    name: &str,
    mark: &str,
    family: usize,
    endpoints: Vec<Value>,
    ports: &Value,
) -> Value {
    let family = ["IPv4", "IPv6"][family];
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": format!("{name}-{}-{mark}", family.to_lowercase()), "namespace": NAMESPACE,
            "labels": {"kubernetes.io/service-name": name},
        },
        "addressType": family, "ports": ports, "endpoints": endpoints,
    })
}
