//! Tests of the compiler: the cases of the public suite ingress-controller-conformance, and what the specification says besides.

mod classes;
mod conflicts;
mod endpoints;
mod hosts;
mod paths;
mod reference;
mod tls;

use serde_json::{Value, json};

use super::*;
use crate::objects::{Change, Object, parse};
use crate::path::canonical;
use crate::settings::CONTROLLER;

/// Objects from values; panics at one that is not taken.
fn objects(values: &[Value]) -> Objects {
    let mut objects = Objects::default();
    for value in values {
        objects.apply(Change::Is(object(value)));
    }
    objects
}

fn object(value: &Value) -> Object {
    let text = |field: &str| value[field].as_str().unwrap().to_owned();
    parse(&text("kind"), &text("apiVersion"), value.clone())
        .unwrap()
        .unwrap()
}

fn settings() -> Settings {
    Settings::of_controller(CONTROLLER)
}

fn compiled(values: &[Value]) -> Compiled {
    compile(&objects(values), &settings())
}

fn class() -> Value {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "IngressClass", "metadata": {"name": "portolan"},
        "spec": {"controller": CONTROLLER}})
}

/// An Ingress of our class, second `age` of its day.
fn ingress(name: &str, age: u8, spec: &Value) -> Value {
    let mut spec = spec.clone();
    spec["ingressClassName"] = "portolan".into();
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "spec": spec,
        "metadata": {"name": name, "namespace": "shop", "creationTimestamp": format!("2026-01-01T00:00:{age:02}Z")}})
}

fn backend(service: &str) -> Value {
    json!({"service": {"name": service, "port": {"number": 80}}})
}

fn path(path_type: &str, path: &str, service: &str) -> Value {
    json!({"path": path, "pathType": path_type, "backend": backend(service)})
}

fn rule(host: &str, paths: &[Value]) -> Value {
    json!({"host": host, "http": {"paths": paths}})
}

/// A Service with one ready endpoint, whose port tells it from others.
fn service(name: &str, port: u16) -> [Value; 2] {
    [
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "shop"},
            "spec": {"ports": [{"port": 80}]}}),
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": format!("{name}-1"), "namespace": "shop", "labels": {"kubernetes.io/service-name": name}},
            "ports": [{"name": "", "port": port}], "endpoints": [{"addresses": ["10.0.0.1"]}]}),
    ]
}

/// Our class, and Services a to e with an endpoint each.
fn world(values: &[Value]) -> Vec<Value> {
    let services = ["a", "b", "c", "d", "e"].into_iter().zip(1..);
    let services = services.flat_map(|(name, port)| service(name, port));
    services
        .chain([class()])
        .chain(values.iter().cloned())
        .collect()
}

/// The Service that answers; "-" where none does.
fn asked(compiled: &Compiled, host: &str, path: &str) -> String {
    let route = compiled.table.find(host, &canonical(path).unwrap());
    route.map_or("-".to_owned(), |route| route.backend.service.name.clone())
}

fn reasons(compiled: &Compiled) -> Vec<(String, Reason)> {
    let problems = compiled.problems.iter();
    problems
        .map(|problem| (problem.object.to_string(), problem.reason))
        .collect()
}

#[test]
fn the_order_of_changes_does_not_show() {
    let mut values = world(&[
        ingress(
            "one",
            1,
            &json!({"rules": [rule("x.com", &[path("Prefix", "/", "a")])]}),
        ),
        ingress(
            "two",
            2,
            &json!({"rules": [rule("x.com", &[path("Prefix", "/", "b")])]}),
        ),
    ]);
    let first = compiled(&values);
    values.reverse();
    let second = compiled(&values);
    assert_eq!(first.problems, second.problems);
    assert_eq!(first.served, second.served);
    assert_eq!(asked(&second, "x.com", "/"), "a");
    let mut objects = objects(&values);
    assert!(
        !objects.apply(Change::Is(object(&values[0]))),
        "a repetition is no change"
    );
}
