//! Numbered Services with five endpoints each, as an API server stores them.

use std::net::Ipv4Addr;

use serde_json::{Value, json};

use crate::fleet::Stored;

/// The namespace of all of them.
pub(super) const NAMESPACE: &str = "bench";
/// What the API server is told that cluster IPs are of.
pub(super) const SERVICE_CIDR: &str = "10.96.0.0/16";
/// Where all endpoints are.
pub(super) const ENDPOINTS: &str = "10.128.0.0/9";
/// Of each Service.
pub(super) const PER_SERVICE: usize = 5;
/// The port of every cluster IP.
pub(super) const PORT: u16 = 80;
/// The port of every endpoint.
pub(super) const TARGET: u16 = 8080;
/// The Service whose one ready endpoint is another one again and again.
pub(super) const MARKER: usize = 0;
const SINCE: &str = "2026-11-01T00:00:00Z";

fn name(number: usize) -> String {
    format!("s{number:05}")
}

fn uid(kind: &str, number: usize) -> String {
    format!("{number:08x}-{kind}-4000-8000-{number:012x}")
}

/// Where Service `number` is asked.
pub(super) fn cluster_ip(number: usize) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 96, 1, 0)) + number as u32)
}

/// Where its endpoint `of` is.
pub(super) fn endpoint(number: usize, of: usize) -> Ipv4Addr {
    let first = u32::from(Ipv4Addr::new(10, 128, 0, 1));
    Ipv4Addr::from(first + ((of as u32) << 16) + number as u32)
}

/// All that there is of so many Services: each its address, itself, and its slice.
pub(super) fn all(count: usize) -> impl Iterator<Item = Stored> {
    let namespace = json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": NAMESPACE, "uid": uid("aaaa", 0), "creationTimestamp": SINCE},
        "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"},
    });
    let first = (format!("namespaces/{NAMESPACE}"), namespace);
    let each = |number| [address(number), service(number), slice(number, 0)];
    std::iter::once(first).chain((0..count).flat_map(each))
}

/// What the API server notes of an address that is taken: without it, it would make all of them itself, meanwhile.
fn address(number: usize) -> Stored {
    let ip = cluster_ip(number).to_string();
    let object = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "IPAddress",
        "metadata": {
            "name": ip, "uid": uid("bbbb", number), "creationTimestamp": SINCE,
            "labels": {"ipaddress.kubernetes.io/ip-family": "IPv4", "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io"},
        },
        "spec": {"parentRef": {"group": "", "resource": "services", "namespace": NAMESPACE, "name": name(number)}},
    });
    (format!("ipaddresses/{ip}"), object)
}

fn service(number: usize) -> Stored {
    let (name, ip) = (name(number), cluster_ip(number));
    let object = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "namespace": NAMESPACE, "name": name, "uid": uid("cccc", number), "creationTimestamp": SINCE,
            "labels": {"app": name},
        },
        "spec": {
            "type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip], "selector": {"app": name},
            "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack", "internalTrafficPolicy": "Cluster",
            "sessionAffinity": "None",
            "ports": [{"name": "http", "protocol": "TCP", "port": PORT, "targetPort": TARGET}],
        },
        "status": {"loadBalancer": {}},
    });
    (format!("services/specs/{NAMESPACE}/{name}"), object)
}

/// A Service's slice; of the marker's endpoints `ready` alone is ready, of all others' every one.
pub(super) fn slice(number: usize, ready: usize) -> Stored {
    let service = name(number);
    let name = format!("{service}-x7k2p");
    let one = |of: usize| -> Value {
        let is_ready = number != MARKER || of == ready;
        json!({
            "addresses": [endpoint(number, of)], "nodeName": format!("other-{of}"),
            "conditions": {"ready": is_ready, "serving": is_ready, "terminating": false},
            "targetRef": {
                "kind": "Pod", "namespace": NAMESPACE, "name": format!("{service}-5d4f7c9b8-{of:05}"), "uid": uid("dddd", number),
            },
        })
    };
    let object = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "namespace": NAMESPACE, "name": name, "uid": uid("eeee", number), "creationTimestamp": SINCE, "generateName": format!("{service}-"),
            "labels": {
                "app": service, "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
                "kubernetes.io/service-name": service,
            },
            "ownerReferences": [{
                "apiVersion": "v1", "kind": "Service", "name": service, "uid": uid("cccc", number), "controller": true, "blockOwnerDeletion": true,
            }],
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "protocol": "TCP", "port": TARGET}],
        "endpoints": (0..PER_SERVICE).map(one).collect::<Vec<_>>(),
    });
    (format!("endpointslices/{NAMESPACE}/{name}"), object)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_address_is_two_things() {
        let ips = |number| (0..PER_SERVICE).map(move |of| endpoint(number, of));
        let mut all: Vec<Ipv4Addr> = (0..10_000).flat_map(ips).collect();
        all.extend((0..10_000).map(cluster_ip));
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
    }
}
