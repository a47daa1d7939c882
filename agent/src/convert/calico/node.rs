//! What Calico says of nodes: annotations of Kubernetes' Nodes, and `Node` as `calicoctl` shows it.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;

use super::super::cluster::Cluster;
use super::super::input::{Reader, as_number};
use super::super::output::Output;
use super::super::report::join;

const REFLECTORS: &str = "in Calico the cluster ID alone makes a reflector: its internal peers are clients, and the mesh passes it over. \
Here BGPPeers of the reflectors say so: nodeSelector for the reflectors, peerSelector for the clients, routeReflectorClient: true, and \
nodeToNodeMeshEnabled: false (docs/from-calico.md, Route reflectors)";

/// Annotations of a Node of Kubernetes.
pub(in super::super) fn annotations(reader: &mut Reader<'_>, output: &mut Output) {
    const PREFIX: &str = "projectcalico.org/";
    let entries = reader
        .get("metadata.annotations")
        .and_then(Value::as_object);
    for (key, value) in entries.into_iter().flatten() {
        let Some(word) = key.strip_prefix(PREFIX) else {
            continue;
        };
        let field = join("metadata.annotations", key);
        match word {
            "IPv4Address" => address(reader, output, &field, value, true),
            "IPv6Address" => address(reader, output, &field, value, false),
            "ASNumber" => number(reader, output, &field, value),
            "RouteReflectorClusterID" => cluster_id(reader, output, &field, value),
            "IPv4IPIPTunnelAddr"
            | "IPv4VXLANTunnelAddr"
            | "IPv6VXLANTunnelAddr"
            | "VXLANTunnelMACAddr"
            | "VXLANTunnelMACAddrV6"
            | "IPv4WireguardInterfaceAddr"
            | "IPv6WireguardInterfaceAddr"
            | "WireguardPublicKey"
            | "WireguardPublicKeyV6"
            | "Interfaces"
            | "kube-labels"
            | "labels"
            | "annotations"
            | "metadata" => {
                reader.not_needed(&field, "written by Calico's own agent: it goes with Calico");
            }
            _ => reader.none(&field, "Portolan does not know this annotation"),
        }
    }
}

/// `Node` of projectcalico.org/v3.
pub(super) fn convert(reader: &mut Reader<'_>, output: &mut Output) {
    reader.common(None);
    let bgp = reader.get("spec.bgp").and_then(Value::as_object);
    for (key, value) in bgp.into_iter().flatten() {
        let field = join("spec.bgp", key);
        match key.as_str() {
            "asNumber" => number(reader, output, &field, value),
            "ipv4Address" => address(reader, output, &field, value, true),
            "ipv6Address" => address(reader, output, &field, value, false),
            "routeReflectorClusterID" => cluster_id(reader, output, &field, value),
            "ipv4IPIPTunnelAddr" | "interfaces" => {
                reader.not_needed(&field, "written by Calico's own agent: it goes with Calico");
            }
            _ => {}
        }
    }
    for key in [
        "addresses",
        "interfaces",
        "orchRefs",
        "wireguard",
        "ipv4VXLANTunnelAddr",
        "ipv6VXLANTunnelAddr",
        "vxlanTunnelMACAddr",
        "vxlanTunnelMACAddrV6",
    ] {
        let field = format!("spec.{key}");
        if reader.get(&field).is_some() {
            reader.not_needed(&field, "written by Calico's own agent: it goes with Calico");
        }
    }
}

fn address(reader: &mut Reader<'_>, output: &mut Output, field: &str, value: &Value, v4: bool) {
    let text = value.as_str().unwrap_or_default();
    let found: Option<IpAddr> = match text.parse::<IpNet>() {
        Ok(net) => Some(net.addr()),
        Err(_) => text.parse().ok(),
    };
    let Some(found) = found.filter(|found| found.is_ipv4() == v4) else {
        return reader.none(field, "it is no address of this family");
    };
    if reader.input.api_version == "v1" && Cluster::has_address(reader.input, found) {
        return reader.not_needed(field, "it is the Node's InternalIP, which Portolan reads");
    }
    let key = match v4 {
        true => "portolan.io/ipv4-address",
        false => "portolan.io/ipv6-address",
    };
    let to = output.annotate(&reader.input.name, key, &found.to_string());
    reader.carried(field, to);
}

fn number(reader: &mut Reader<'_>, output: &mut Output, field: &str, value: &Value) {
    match as_number(value) {
        Some(number) => {
            let node = &reader.input.name;
            let to = output.annotate(node, "portolan.io/as-number", &number.to_string());
            reader.carried(field, to);
        }
        None => reader.none(field, "it is no AS number"),
    }
}

fn cluster_id(reader: &mut Reader<'_>, output: &mut Output, field: &str, value: &Value) {
    let text = value.as_str().unwrap_or_default();
    if text.is_empty() {
        return reader.not_needed(field, "it is empty");
    }
    let key = "portolan.io/route-reflector-cluster-id";
    let to = output.annotate(&reader.input.name, key, text);
    reader.carried(field, to);
    reader.none("(clients of the route reflector)", REFLECTORS);
}
