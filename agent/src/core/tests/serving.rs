//! Services in the core: nothing before all is known, an API server that is asked by what this agent serves itself, and flags that
//! reach every mode.

use std::net::SocketAddr;

use services::proxy::ipvs::Scheduler;

use super::*;
use crate::core::Serve;
use crate::service_proxy::ProxyMode;

pub(super) fn serving() -> (tempfile::TempDir, Core) {
    serving_by(ProxyMode::Iptables, &[])
}

fn serving_by(mode: ProxyMode, ranges: &[&str]) -> (tempfile::TempDir, Core) {
    let (folder, mut core) = core();
    core.serve_services(Serve {
        mode,
        pods_are_judged: false,
        scheduler: Scheduler::default(),
        node_port_addresses: ranges.iter().map(|range| range.parse().unwrap()).collect(),
    });
    (folder, core)
}

pub(super) fn change(kind: &str, version: &str, manifest: serde_json::Value) -> Event {
    let (key, resource) = api::parse(kind, version, manifest).unwrap().unwrap();
    event(key, Some(resource))
}

/// The API server's Service and its endpoint.
fn kubernetes() -> [Event; 2] {
    let service = serde_json::json!({
        "metadata": {"namespace": "default", "name": "kubernetes"},
        "spec": {"clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"], "ports": [{"name": "https", "port": 443}]},
    });
    let labels = serde_json::json!({"kubernetes.io/service-name": "kubernetes"});
    let slice = serde_json::json!({
        "metadata": {"namespace": "default", "name": "kubernetes", "labels": labels},
        "addressType": "IPv4", "ports": [{"name": "https", "port": 6443}], "endpoints": [{"addresses": ["192.0.2.1"]}],
    });
    [
        change("Service", "v1", service),
        change("EndpointSlice", "discovery.k8s.io/v1", slice),
    ]
}

#[test]
fn rule_118_no_service_is_written_before_services_and_slices_are_all_known() {
    let (_folder, mut core) = serving();
    core.handle_event(node("n1"));
    for event in kubernetes() {
        core.handle_event(event);
        assert!(core.outputs().is_none());
    }
    core.handle_event(Event::InSync);
    let outputs = core.outputs().unwrap();
    let rules = &outputs.firewall.services.v4;
    let chains = rules.tables.values().flat_map(|table| table.chains.keys());
    let named = chains.filter(|name| name.as_str().starts_with("KUBE-SEP-"));
    assert_eq!(named.count(), 1);
}

#[test]
fn rule_146_an_api_server_that_is_asked_by_a_service_of_ours_is_told() {
    let (_folder, mut core) = serving();
    let at = |text: &str| text.parse().unwrap();
    core.handle_event(node("n1"));
    for event in kubernetes() {
        core.handle_event(event);
    }
    core.handle_event(Event::InSync);
    core.outputs().unwrap();
    let said = core.asks_by_itself(at("10.96.0.1:443")).unwrap();
    assert!(said.contains("10.96.0.1:443") && said.contains("--kubeconfig"));
    assert_eq!(core.asks_by_itself(at("192.0.2.1:6443")), None);
    assert_eq!(core.asks_by_itself(at("10.96.0.1:6443")), None);
    let (_other, without) = super::core();
    assert_eq!(without.asks_by_itself(at("10.96.0.1:443")), None);
}

/// What a mode makes of a Service with a node port on a node with two addresses, and where IPVS is asked for it.
fn with_node_port(mode: ProxyMode, ranges: &[&str]) -> (String, Vec<SocketAddr>) {
    let (_folder, mut core) = serving_by(mode, ranges);
    let Event::Change(Change { key, value }) = node("n1") else {
        panic!("no node");
    };
    let Some(Resource::Node(mut own)) = value else {
        panic!("no node");
    };
    own.addresses = ["10.10.1.2", "192.0.2.9"]
        .map(|one| one.parse().unwrap())
        .into();
    core.handle_event(event(key, Some(Resource::Node(own))));
    let [_, slice] = kubernetes();
    core.handle_event(slice);
    core.handle_event(change(
        "Service",
        "v1",
        serde_json::json!({
            "metadata": {"namespace": "default", "name": "kubernetes"},
            "spec": {
                "type": "NodePort", "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"],
                "ports": [{"name": "https", "port": 443, "nodePort": 30443}],
            },
        }),
    ));
    core.handle_event(Event::InSync);
    let Outputs {
        firewall, proxy, ..
    } = core.outputs().unwrap();
    let doors = proxy.ipvs.virtuals.keys().map(|door| door.address);
    let doors = doors.filter(|door| door.port() == 30443).collect();
    let made = format!(
        "{:?} {:?} {:?}",
        firewall.services, proxy.nftables, proxy.ipvs
    );
    (made, doors)
}

#[test]
fn rule_132_ranges_for_node_ports_reach_every_mode() {
    let said = "192.0.2.0/24";
    for mode in [ProxyMode::Iptables, ProxyMode::Nftables, ProxyMode::Ipvs] {
        let (all, _) = with_node_port(mode, &[]);
        let (some, _) = with_node_port(mode, &[said]);
        assert_ne!(all, some, "{mode:?}");
    }
    let at = |ranges: &[&str]| with_node_port(ProxyMode::Ipvs, ranges).1;
    let doors = |list: &[&str]| -> Vec<SocketAddr> {
        list.iter().map(|one| one.parse().unwrap()).collect()
    };
    assert_eq!(at(&[]), doors(&["10.10.1.2:30443", "192.0.2.9:30443"]));
    assert_eq!(at(&[said]), doors(&["192.0.2.9:30443"]));
    assert_eq!(at(&["2001:db8::/32"]), doors(&[]));
}
