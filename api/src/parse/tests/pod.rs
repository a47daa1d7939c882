//! Tests of what policies need of a Pod and a Node: named ports, addresses, the end of a pod's life.

use super::*;
use crate::resources::{ContainerPort, Protocol};

fn with_spec(spec: Value) -> Pod {
    let rest = json!({"metadata": {"name": "p", "namespace": "n"}, "spec": spec});
    pod(rest).expect("a pod")
}

/// The named ports of a pod with one container that has these ports.
fn named(ports: Value) -> Vec<ContainerPort> {
    with_spec(json!({"containers": [{"name": "c", "ports": ports}]})).named_ports
}

fn port(name: &str, protocol: Protocol, port: u16) -> ContainerPort {
    ContainerPort {
        name: name.to_owned(),
        protocol,
        port,
    }
}

#[test]
fn semantics_24_ports_of_all_containers_sidecars_and_init_containers_count() {
    let pod = with_spec(json!({
        "containers": [
            {"name": "web", "ports": [{"name": "http", "containerPort": 8080}]},
            {"name": "metrics", "ports": [{"name": "metrics", "containerPort": 9100, "protocol": "TCP"}]},
            {"name": "quiet"},
        ],
        "initContainers": [
            {"name": "proxy", "restartPolicy": "Always", "ports": [{"name": "mesh", "containerPort": 15_001}]},
            {"name": "migrate", "ports": [{"name": "debug", "containerPort": 4000}]},
        ],
        "ephemeralContainers": [{"name": "shell", "ports": [{"name": "shell", "containerPort": 22}]}],
    }));
    let expected = [
        port("debug", Protocol::Tcp, 4000),
        port("http", Protocol::Tcp, 8080),
        port("mesh", Protocol::Tcp, 15_001),
        port("metrics", Protocol::Tcp, 9100),
    ];
    assert_eq!(pod.named_ports, expected);
}

#[test]
fn semantics_24_one_name_may_stand_for_a_port_of_each_protocol() {
    let found = named(json!([
        {"name": "dns", "containerPort": 53, "protocol": "UDP"},
        {"name": "dns", "containerPort": 5353, "protocol": "TCP"},
        {"name": "dns", "containerPort": 53, "protocol": "SCTP"},
    ]));
    let expected = [
        port("dns", Protocol::Tcp, 5353),
        port("dns", Protocol::Udp, 53),
        port("dns", Protocol::Sctp, 53),
    ];
    assert_eq!(found, expected);
}

#[test]
fn semantics_24_an_absent_or_empty_protocol_is_tcp() {
    for protocol in [json!(null), json!(""), json!("TCP")] {
        let found = named(json!([{"name": "a", "containerPort": 1, "protocol": protocol}]));
        assert_eq!(found, [port("a", Protocol::Tcp, 1)], "{protocol}");
    }
    assert_eq!(
        named(json!([{"name": "a", "containerPort": 65_535}])),
        [port("a", Protocol::Tcp, 65_535)]
    );
}

#[test]
fn a_container_port_that_no_policy_can_mean_is_passed_over_and_the_others_stay() {
    for odd in [
        json!({"name": "a", "containerPort": 0}),
        json!({"name": "a", "containerPort": -1}),
        json!({"name": "a", "containerPort": 65_536}),
        json!({"name": "a", "containerPort": 1, "protocol": "ICMP"}),
        json!({"name": "a", "containerPort": 1, "protocol": "udp"}),
        json!({"name": "", "containerPort": 1}),
        json!({"name": "8080", "containerPort": 1}),
        json!({"name": "a\n-A FORWARD", "containerPort": 1}),
        json!({"name": "a\0", "containerPort": 1}),
        json!({"containerPort": 1}),
    ] {
        let found = named(json!([odd, {"name": "good", "containerPort": 2}, odd]));
        assert_eq!(found, [port("good", Protocol::Tcp, 2)], "{odd}");
    }
}

#[test]
fn a_name_given_twice_in_a_pod_stands_for_both_ports_and_an_entry_given_twice_for_one() {
    let pod = with_spec(json!({"containers": [
        {"name": "a", "ports": [{"name": "http", "containerPort": 81}, {"name": "http", "containerPort": 80}]},
        {"name": "b", "ports": [{"name": "http", "containerPort": 80}]},
    ]}));
    let expected = [
        port("http", Protocol::Tcp, 80),
        port("http", Protocol::Tcp, 81),
    ];
    assert_eq!(pod.named_ports, expected);
}

#[test]
fn the_order_of_containers_and_ports_does_not_show() {
    let ports = [
        json!({"name": "a", "containerPort": 1}),
        json!({"name": "b", "containerPort": 2}),
    ];
    let reversed = json!([ports[1], ports[0]]);
    assert_eq!(named(json!(ports)), named(reversed));
}

#[test]
fn semantics_46_a_terminating_pod_keeps_its_addresses_labels_and_ports() {
    let read = |metadata: Value| {
        pod(json!({
            "metadata": metadata,
            "spec": {"nodeName": "n1", "containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 80}]}]},
            "status": {"phase": "Running", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]},
        }))
        .expect("a pod")
    };
    let lives = read(json!({"name": "p", "labels": {"app": "web"}}));
    let ends = read(json!({"name": "p", "labels": {"app": "web"},
        "deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": 30, "finalizers": ["a/b"]}));
    assert_eq!(lives, ends);
    assert_eq!((ends.pod_ips.len(), ends.named_ports.len()), (2, 1));
}

#[test]
fn semantics_45_a_terminating_pod_that_has_finished_is_finished() {
    let metadata = json!({"name": "p", "deletionTimestamp": "2026-01-01T00:00:00Z"});
    let status = json!({"phase": "Succeeded", "podIPs": [{"ip": "10.0.0.1"}]});
    let pod = pod(json!({"metadata": metadata, "status": status})).expect("a pod");
    assert!(pod.finished && pod.pod_ips.len() == 1);
}

#[test]
fn semantics_66_a_node_has_all_its_addresses_of_any_type_and_none_of_its_names() {
    let node = node(json!({"metadata": {"name": "n1"}, "status": {"addresses": [
        {"type": "Hostname", "address": "n1"},
        {"type": "ExternalIP", "address": "192.0.2.1"},
        {"type": "InternalIP", "address": "fd00::1"},
        {"type": "InternalDNS", "address": "n1.internal"},
        {"type": "InternalIP", "address": "10.0.0.1"},
        {"type": "Hostname", "address": "10.0.0.1"},
    ]}}))
    .expect("a node");
    let text: Vec<_> = node.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(text, ["10.0.0.1", "192.0.2.1", "fd00::1"]);
    assert_eq!(node.internal_ips.len(), 2);
    assert!(
        self::node(json!({"metadata": {"name": "n1"}}))
            .expect("a node")
            .addresses
            .is_empty()
    );
}
