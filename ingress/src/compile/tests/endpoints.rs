//! Which endpoints get new requests.

use std::net::SocketAddr;

use super::*;
use crate::table::BackendProtocol;

fn to_a() -> Value {
    ingress(
        "one",
        1,
        &json!({"rules": [rule("x.com", &[path("Prefix", "/", "a")])]}),
    )
}

fn slice(name: &str, family: &str, port: u16, endpoints: &[Value]) -> Value {
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": family,
        "metadata": {"name": name, "namespace": "shop", "labels": {"kubernetes.io/service-name": "a"}},
        "ports": [{"name": "web", "port": port, "protocol": "TCP"}, {"name": "dns", "port": 53, "protocol": "UDP"}],
        "endpoints": endpoints})
}

fn endpoint(address: &str, ready: bool, serving: bool, terminating: bool) -> Value {
    json!({"addresses": [address], "conditions": {"ready": ready, "serving": serving, "terminating": terminating}})
}

fn service_a(spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a", "namespace": "shop"}, "spec": spec})
}

fn web() -> Value {
    service_a(
        json!({"ports": [{"name": "web", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}]}),
    )
}

fn endpoints(values: &[Value]) -> Vec<String> {
    let mut all = vec![class(), to_a()];
    all.extend(values.iter().cloned());
    let compiled = compiled(&all);
    assert_eq!(compiled.problems, []);
    let route = compiled.table.find("x.com", "/").unwrap();
    route
        .backend
        .endpoints
        .iter()
        .map(SocketAddr::to_string)
        .collect()
}

#[test]
fn ready_endpoints_of_all_slices_are_asked_at_the_port_of_their_slice() {
    let found = endpoints(&[
        web(),
        slice(
            "s1",
            "IPv4",
            8080,
            &[
                endpoint("10.0.0.2", true, true, false),
                endpoint("10.0.0.3", false, false, false),
            ],
        ),
        slice(
            "s2",
            "IPv4",
            9090,
            &[
                json!({"addresses": ["10.0.0.1"]}),
                endpoint("10.0.0.9", false, true, true),
            ],
        ),
    ]);
    assert_eq!(found, ["10.0.0.1:9090", "10.0.0.2:8080"]);
}

#[test]
fn where_nobody_is_ready_those_that_leave_and_serve_are_asked() {
    let leaving = slice(
        "s1",
        "IPv4",
        80,
        &[
            endpoint("10.0.0.1", false, true, true),
            endpoint("10.0.0.2", false, false, true),
            endpoint("10.0.0.3", false, true, false),
        ],
    );
    assert_eq!(endpoints(&[web(), leaving.clone()]), ["10.0.0.1:80"]);
    let ready = slice("s2", "IPv4", 80, &[endpoint("10.0.0.4", true, true, false)]);
    assert_eq!(endpoints(&[web(), leaving, ready]), ["10.0.0.4:80"]);
    assert_eq!(endpoints(&[web()]), [""; 0]);
}

#[test]
fn the_first_family_of_the_service_is_asked_unless_it_has_nobody() {
    let spec = |families: &[&str]| {
        service_a(json!({"ports": [{"name": "web", "port": 80}], "ipFamilies": families}))
    };
    let v4 = slice("v4", "IPv4", 80, &[endpoint("10.0.0.1", true, true, false)]);
    let v6 = slice("v6", "IPv6", 80, &[endpoint("fd00::1", true, true, false)]);
    let both = [v4.clone(), v6.clone()];
    let with = |service: Value, slices: &[Value]| endpoints(&[&[service], slices].concat());
    assert_eq!(with(spec(&["IPv6", "IPv4"]), &both), ["[fd00::1]:80"]);
    assert_eq!(with(spec(&["IPv4", "IPv6"]), &both), ["10.0.0.1:80"]);
    assert_eq!(with(spec(&["IPv6", "IPv4"]), &[v4]), ["10.0.0.1:80"]);
    assert_eq!(with(web(), &[v6]), ["[fd00::1]:80"]);
}

#[test]
fn ports_are_meant_by_name_or_number_and_speak_what_their_app_protocol_says() {
    let ask = |port: Value, app: Option<&str>| {
        let service = service_a(json!({"ports": [
            {"name": "other", "port": 81}, {"name": "web", "port": 80, "appProtocol": app}, {"name": "dns", "port": 53, "protocol": "UDP"},
        ]}));
        let backend = json!({"service": {"name": "a", "port": port}});
        let one = ingress("one", 1, &json!({"defaultBackend": backend}));
        compiled(&[
            class(),
            service,
            one,
            slice("s", "IPv4", 8080, &[json!({"addresses": ["10.0.0.1"]})]),
        ])
    };
    for port in [json!({"number": 80}), json!({"name": "web"})] {
        for (app, protocol) in [
            (None, BackendProtocol::Http1),
            (Some("http"), BackendProtocol::Http1),
            (Some("kubernetes.io/ws"), BackendProtocol::Http1),
            (Some("kubernetes.io/h2c"), BackendProtocol::H2c),
            (Some("example.com/ours"), BackendProtocol::Http1),
        ] {
            let compiled = ask(port.clone(), app);
            let backend = &compiled.table.find("x.com", "/").unwrap().backend;
            assert_eq!(backend.endpoints, ["10.0.0.1:8080".parse().unwrap()]);
            assert_eq!(backend.protocol, protocol);
            assert_eq!(compiled.problems, []);
        }
    }
    for (port, app) in [
        (json!({"number": 80}), Some("https")),
        (json!({"name": "dns"}), None),
    ] {
        let compiled = ask(port, app);
        assert_eq!(compiled.problems[0].reason, Reason::UnsupportedProtocol);
        assert!(
            compiled
                .table
                .find("x.com", "/")
                .unwrap()
                .backend
                .endpoints
                .is_empty()
        );
    }
}

/// Whoever may write such a Service would make the controller ask where only it may: the metadata service of a cloud, another tenant.
#[test]
fn an_external_name_is_not_asked() {
    let service = service_a(
        json!({"type": "ExternalName", "externalName": "inner.example.com", "ports": [{"port": 80}]}),
    );
    let compiled = compiled(&[class(), to_a(), service]);
    assert_eq!(compiled.problems[0].reason, Reason::ExternalName);
    assert!(
        compiled
            .table
            .find("x.com", "/")
            .unwrap()
            .backend
            .endpoints
            .is_empty()
    );
}

/// The suite's feature "load balancing".
#[test]
fn requests_take_turns() {
    let addresses: Vec<Value> = (1..=10)
        .map(|n| json!({"addresses": [format!("10.0.0.{n}")]}))
        .collect();
    let compiled = compiled(&[class(), to_a(), web(), slice("s", "IPv4", 80, &addresses)]);
    let backend = &compiled.table.find("x.com", "/").unwrap().backend;
    let mut counts = std::collections::BTreeMap::new();
    for _ in 0..1000 {
        let turn: Vec<SocketAddr> = backend.turn().collect();
        assert_eq!(
            turn.len(),
            10,
            "the others follow, for who finds the first away"
        );
        *counts.entry(turn[0]).or_insert(0) += 1;
    }
    assert_eq!(counts.into_values().collect::<Vec<_>>(), [100; 10]);
}
