//! Services in the core: nothing before all is known, and an API server that is asked by what this agent serves itself.

use services::proxy::ipvs::Scheduler;

use super::*;
use crate::core::Serve;
use crate::service_proxy::ProxyMode;

fn serving() -> (tempfile::TempDir, Core) {
    let (folder, mut core) = core();
    core.serve_services(Serve {
        mode: ProxyMode::Iptables,
        scheduler: Scheduler::default(),
        node_port_addresses: Vec::new(),
    });
    (folder, core)
}

fn change(kind: &str, version: &str, manifest: serde_json::Value) -> Event {
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
