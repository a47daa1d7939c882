//! Rule 140: which UDP flows are cut when endpoints change.

use serde_json::{Value, json};

use super::*;
use crate::proxy::tests::*;

fn stale(protocol: &str, endpoints: &[Value]) -> StaleFlows {
    let mut world = World::new();
    let ports = json!([{"name": "http", "protocol": protocol, "port": 53, "nodePort": 30053}]);
    let spec = json!({"type": "NodePort", "externalIPs": ["198.51.100.1"], "ports": ports});
    world.service("web", json!({"spec": spec}));
    let ports = json!({"ports": [{"name": "http", "protocol": protocol, "port": 5353}]});
    let touched = world
        .index
        .set_slice(slice_with("web-1", "web", endpoints, ports));
    let changed = world.model.refresh(&world.index, &touched);
    let changed = changed
        .iter()
        .filter_map(|name| world.model.service(name).map(AsRef::as_ref));
    StaleFlows::of(changed)
}

fn has(flows: &StaleFlows, to: &str, from: &str, is_own: bool) -> bool {
    flows.has(to.parse().unwrap(), from.parse().unwrap(), is_own)
}

#[test]
fn rule_140_flows_to_a_frontend_that_no_serving_endpoint_answers_are_cut() {
    let here = endpoint("10.1.0.1", HERE, Is::Ready);
    let drains = endpoint("10.1.0.2", "n2", Is::Draining);
    let ends = endpoint("10.1.0.3", "n2", Is::Ending);
    let flows = stale("UDP", &[here, drains, ends]);
    for to in ["10.96.0.1:53", "198.51.100.1:53"] {
        assert!(!has(&flows, to, "10.1.0.1:5353", false), "ready");
        assert!(
            !has(&flows, to, "10.1.0.2:5353", false),
            "whoever serves, asked or not"
        );
        assert!(has(&flows, to, "10.1.0.3:5353", false), "serves no more");
        assert!(has(&flows, to, "10.1.0.1:53", false), "another port");
        assert!(
            has(&flows, to, to, false),
            "begun while there was no endpoint"
        );
    }
    assert!(
        !has(&flows, "10.96.0.1:54", "10.1.0.9:53", false),
        "no frontend"
    );
}

#[test]
fn rule_140_a_node_port_is_one_at_this_nodes_addresses_alone() {
    let flows = stale("UDP", &[endpoint("10.1.0.1", HERE, Is::Ready)]);
    assert!(has(&flows, "192.0.2.1:30053", "10.1.0.9:5353", true));
    assert!(!has(&flows, "192.0.2.1:30053", "10.1.0.1:5353", true));
    assert!(
        !has(&flows, "192.0.2.77:30053", "192.0.2.77:30053", false),
        "another host's"
    );
}

#[test]
fn rule_140_tcp_is_never_cut_and_a_service_without_endpoints_keeps_its_flows() {
    let one = [endpoint("10.1.0.1", HERE, Is::Ready)];
    assert!(!stale("UDP", &one).is_empty());
    assert!(stale("TCP", &one).is_empty() && stale("SCTP", &one).is_empty());
    assert!(stale("UDP", &[]).is_empty());
    assert!(stale("UDP", &[endpoint("10.1.0.1", HERE, Is::Ending)]).is_empty());
}
