//! The files of `examples/policy` do what their table says: asked of the reference evaluator.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

use std::collections::BTreeSet;
use std::path::Path;

use api::resources::{DomainName, Pod};
use api::{Change, LabelSelector};
use policy::{DomainNameSettings, Flow, Objects, Settings, evaluate};
use serde_json::{Value, json};

const TCP: u8 = 6;
const UDP: u8 = 17;
const BANK: &str = "198.51.100.7";
const OUTSIDE: &str = "192.0.2.9";

fn take(objects: &mut Objects, value: Value) {
    let field = |name: &str| value[name].as_str().unwrap().to_owned();
    let (kind, version) = (field("kind"), field("apiVersion"));
    let (key, resource) = api::parse(&kind, &version, value).unwrap().unwrap();
    let value = Some(resource);
    objects.handle(&Change { key, value });
}

/// Some namespaces with a pod or two each, and one example file.
fn cluster(file: &str) -> Objects {
    let mut objects = Objects::default();
    for (namespace, labels) in [
        ("shop", json!({})),
        ("a-one", json!({"tenant": "a"})),
        ("a-two", json!({"tenant": "a"})),
        ("b", json!({"tenant": "b"})),
        ("monitoring", json!({})),
        ("kube-system", json!({})),
        ("pay", json!({"team": "payments"})),
    ] {
        let metadata = json!({"name": namespace, "labels": labels});
        take(
            &mut objects,
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}),
        );
    }
    for (number, (namespace, name, labels)) in (1..).zip(PODS) {
        let (key, value) = labels.split_once('=').unwrap();
        let ports = json!([{"name": "postgres", "containerPort": 5432}]);
        take(
            &mut objects,
            json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {"namespace": namespace, "name": name, "labels": {key: value}},
                "spec": {"nodeName": "n1", "containers": [{"name": "c", "ports": ports}]},
                "status": {"phase": "Running", "podIPs": [{"ip": format!("10.0.0.{number}")}]},
            }),
        );
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/policy");
    let text = std::fs::read_to_string(path.join(file)).unwrap();
    for document in text.split("\n---\n") {
        take(&mut objects, serde_saphyr::from_str(document).unwrap());
    }
    objects
}

const PODS: &[(&str, &str, &str)] = &[
    ("shop", "web", "app=web"),
    ("shop", "db", "app=db"),
    ("a-one", "x", "app=x"),
    ("a-two", "x", "app=x"),
    ("b", "x", "app=x"),
    ("monitoring", "prom", "app=prom"),
    ("kube-system", "dns", "k8s-app=kube-dns"),
    ("pay", "till", "app=till"),
];

fn address(objects: &Objects, who: &str) -> std::net::IpAddr {
    let Some((namespace, name)) = who.split_once('/') else {
        return who.parse().unwrap();
    };
    let pod: &Pod = objects.pods[namespace].get(name).unwrap();
    pod.pod_ips[0]
}

/// Fails unless each of these is so: from, to, protocol, port, whether it is allowed.
fn expect(objects: &Objects, table: &[(&str, &str, u8, u16, bool)]) {
    let settings = Settings {
        domain_names: Some(DomainNameSettings {
            queue: 0,
            cluster_dns: ("kube-system".to_owned(), LabelSelector::default()),
            resolvers: BTreeSet::new(),
        }),
        ..Settings::default()
    };
    for (from, to, protocol, port, allowed) in table {
        let flow = Flow {
            source: address(objects, from),
            destination: address(objects, to),
            protocol: *protocol,
            port: Some(*port),
        };
        let said = evaluate(objects, &settings, &flow);
        assert_eq!(said.allowed, *allowed, "{from} -> {to}:{port}: {said:?}");
    }
}

#[test]
fn default_deny_leaves_the_pods_of_shop_the_dns_alone() {
    expect(
        &cluster("default-deny-with-dns.yaml"),
        &[
            ("shop/web", "kube-system/dns", UDP, 53, true),
            ("shop/web", "kube-system/dns", TCP, 53, true),
            ("shop/web", "kube-system/dns", TCP, 443, false),
            ("shop/web", "shop/db", TCP, 5432, false),
            ("shop/web", OUTSIDE, TCP, 443, false),
            ("b/x", "shop/web", TCP, 80, false),
            (OUTSIDE, "shop/web", TCP, 80, false),
            ("b/x", "a-one/x", TCP, 80, true),
        ],
    );
}

#[test]
fn the_database_is_reached_by_web_servers_at_its_named_port_only() {
    expect(
        &cluster("db-only-from-web.yaml"),
        &[
            ("shop/web", "shop/db", TCP, 5432, true),
            ("shop/web", "shop/db", TCP, 5433, false),
            ("shop/web", "shop/db", UDP, 5432, false),
            ("b/x", "shop/db", TCP, 5432, false),
            (OUTSIDE, "shop/db", TCP, 5432, false),
            ("shop/db", OUTSIDE, TCP, 443, true),
            ("b/x", "shop/web", TCP, 80, true),
        ],
    );
}

#[test]
fn tenants_are_alone_but_for_monitoring_and_what_comes_from_outside() {
    expect(
        &cluster("namespace-isolation.yaml"),
        &[
            ("a-one/x", "a-two/x", TCP, 80, true),
            ("a-one/x", "b/x", TCP, 80, false),
            ("b/x", "a-two/x", TCP, 80, false),
            ("shop/web", "b/x", TCP, 80, false),
            ("monitoring/prom", "a-one/x", TCP, 9100, true),
            ("monitoring/prom", "b/x", TCP, 9100, true),
            (OUTSIDE, "b/x", TCP, 80, true),
            ("b/x", "shop/web", TCP, 80, true),
        ],
    );
}

#[test]
fn the_baseline_closes_pods_to_pods_until_a_network_policy_speaks() {
    let mut objects = cluster("baseline-default-deny.yaml");
    expect(
        &objects,
        &[
            ("a-one/x", "b/x", TCP, 80, false),
            ("a-one/x", "kube-system/dns", UDP, 53, true),
            ("a-one/x", "kube-system/dns", TCP, 443, false),
            ("a-one/x", OUTSIDE, TCP, 443, true),
            (OUTSIDE, "a-one/x", TCP, 80, true),
            ("kube-system/dns", "kube-system/dns", TCP, 80, true),
        ],
    );
    for (namespace, direction, field) in
        [("b", "Ingress", "ingress"), ("a-one", "Egress", "egress")]
    {
        let mut spec = json!({"podSelector": {}, "policyTypes": [direction]});
        spec[field] = json!([{}]);
        take(
            &mut objects,
            json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
                "metadata": {"namespace": namespace, "name": "open"}, "spec": spec}),
        );
    }
    expect(
        &objects,
        &[
            ("a-one/x", "b/x", TCP, 80, true),
            ("a-two/x", "b/x", TCP, 80, false),
        ],
    );
}

#[test]
fn payments_reach_the_names_they_pay_with_once_the_dns_has_told_them() {
    let mut objects = cluster("egress-by-domain-name.yaml");
    let closed = [
        ("pay/till", BANK, TCP, 443, false),
        ("pay/till", OUTSIDE, TCP, 443, false),
        ("pay/till", "kube-system/dns", UDP, 53, true),
        ("pay/till", "shop/web", TCP, 80, true),
        ("shop/web", OUTSIDE, TCP, 443, true),
    ];
    expect(&objects, &closed);
    let told: BTreeSet<_> = [BANK.parse().unwrap()].into();
    let name = DomainName::new("api.bank.example").unwrap();
    objects.domain_addresses.insert(name, told);
    expect(&objects, &closed[1..]);
    expect(
        &objects,
        &[
            ("pay/till", BANK, TCP, 443, true),
            ("pay/till", BANK, TCP, 80, false),
        ],
    );
}

#[test]
fn every_file_is_asked_above() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/policy");
    let entries = std::fs::read_dir(path).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| name.ends_with(".yaml")).collect();
    names.sort();
    let expected = [
        "baseline-default-deny.yaml",
        "db-only-from-web.yaml",
        "default-deny-with-dns.yaml",
        "egress-by-domain-name.yaml",
        "namespace-isolation.yaml",
    ];
    assert_eq!(names, expected);
}
