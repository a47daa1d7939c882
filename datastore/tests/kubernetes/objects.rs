//! Objects as an API server has them.

use serde_json::{Value, json};

pub(crate) fn pod(name: &str, address: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}"), "labels": {"app": "web"}},
        "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i"}]},
        "status": {"phase": "Running", "podIPs": [{"ip": address}]},
    })
}

pub(crate) fn node(name: &str) -> Value {
    json!({
        "metadata": {"name": name},
        "spec": {"podCIDRs": ["10.1.0.0/24"]},
        "status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.1"}], "images": [{"names": ["x"]}]},
    })
}

pub(crate) fn pool(name: &str, cidr: &str) -> Value {
    json!({
        "apiVersion": "portolan.io/v1alpha1", "kind": "IPPool",
        "metadata": {"name": name}, "spec": {"cidr": cidr},
    })
}

pub(crate) fn peer(name: &str, secret: &str) -> Value {
    json!({
        "apiVersion": "portolan.io/v1alpha1", "kind": "BGPPeer",
        "metadata": {"name": name},
        "spec": {"peerAddress": "10.0.0.1", "asNumber": 65000, "password": {"secretKeyRef": {"name": secret, "key": "p"}}},
    })
}

pub(crate) fn secret(name: &str, value: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "portolan"}, "type": "Opaque", "data": {"p": value},
    })
}
