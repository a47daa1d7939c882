//! Rules 125, 128, 130–137, 143, 145: what each address does by who asks, and who has an address that two want.

use serde_json::{Value, json};

use super::*;
use crate::proxy::tests::*;

const R: Answer = Answer::Reject;
const D: Answer = Answer::Drop;

fn to(to: Scope, masquerade: bool) -> Answer {
    Answer::Forward { to, masquerade }
}

fn frontends_of(port: &ServicePort) -> Vec<(FrontendKind, String)> {
    let text = |one: &Frontend| match one.address {
        Some(address) => format!("{address} {}", one.port),
        None => format!("node {}", one.port),
    };
    let frontends = port.frontends.iter();
    frontends.map(|one| (one.kind, text(one))).collect()
}

/// A load balancer's Service with policies, and endpoints that are here, there, or nowhere.
fn answers(internal: &str, external: &str, endpoints: &[Value]) -> ([Answer; 3], [Answer; 3]) {
    let mut world = World::new();
    let ingress = json!({"loadBalancer": {"ingress": [{"ip": "203.0.113.1"}]}});
    let spec = json!({"type": "LoadBalancer", "internalTrafficPolicy": internal, "externalTrafficPolicy": external});
    world.service("web", json!({"spec": spec, "status": ingress}));
    world.endpoints("web", endpoints);
    let port = world.port("web");
    let list = |kind| {
        let Answers {
            own_pod,
            node,
            other,
        } = *port.answers(kind);
        [own_pod, node, other]
    };
    (
        list(FrontendKind::ClusterIp),
        list(FrontendKind::LoadBalancer),
    )
}

#[test]
fn rules_125_128_130_131_answers_by_policy_sender_and_where_endpoints_are() {
    use Scope::{Cluster, Local};
    let here = [endpoint("10.1.0.1", HERE, Is::Ready)];
    let there = [endpoint("10.1.0.2", "n2", Is::Ready)];
    let ended = [endpoint("10.1.0.2", HERE, Is::Ending)];
    let inside = |scope| [to(scope, false), to(scope, true), to(scope, true)];
    let outside = [to(Cluster, true); 3];
    let outside_local = |other| [to(Cluster, false), to(Cluster, true), other];
    let rows = [
        ("Cluster", "Cluster", &here, (inside(Cluster), outside)),
        ("Cluster", "Cluster", &there, (inside(Cluster), outside)),
        ("Local", "Cluster", &here, (inside(Local), outside)),
        ("Local", "Cluster", &there, ([D; 3], outside)),
        (
            "Cluster",
            "Local",
            &here,
            (inside(Cluster), outside_local(to(Local, false))),
        ),
        (
            "Cluster",
            "Local",
            &there,
            (inside(Cluster), outside_local(D)),
        ),
        ("Local", "Local", &there, ([D; 3], outside_local(D))),
        ("Local", "Local", &ended, ([R; 3], [R; 3])),
        ("Cluster", "Cluster", &ended, ([R; 3], [R; 3])),
    ];
    for (internal, external, endpoints, expected) in rows {
        let found = answers(internal, external, endpoints);
        assert_eq!(found, expected, "{internal} {external} {endpoints:?}");
    }
}

#[test]
fn rule_125_a_service_without_slices_is_refused() {
    let mut world = World::new();
    world.service("web", json!({}));
    assert_eq!(world.port("web").internal, Answers::all(R));
}

#[test]
fn rules_132_134_135_every_kind_of_address_is_a_frontend_and_a_proxys_or_a_name_is_none() {
    let mut world = World::new();
    let ingress = json!([
        {"ip": "203.0.113.1"}, {"ip": "203.0.113.2", "ipMode": "VIP"},
        {"ip": "203.0.113.3", "ipMode": "Proxy"}, {"hostname": "x.example"}
    ]);
    let spec = json!({
        "type": "LoadBalancer", "externalIPs": ["198.51.100.1"],
        "ports": [{"name": "http", "port": 80, "nodePort": 30080}],
    });
    let status = json!({"loadBalancer": {"ingress": ingress}});
    world.service("web", json!({"spec": spec, "status": status}));
    let expected = [
        (FrontendKind::ClusterIp, "10.96.0.1 80"),
        (FrontendKind::LoadBalancer, "203.0.113.1 80"),
        (FrontendKind::LoadBalancer, "203.0.113.2 80"),
        (FrontendKind::ExternalIp, "198.51.100.1 80"),
        (FrontendKind::NodePort, "node 30080"),
    ];
    let expected = expected.map(|(kind, text)| (kind, text.to_owned()));
    assert_eq!(frontends_of(world.port("web")), expected);
    let no_node_port = json!({"spec": {"ports": [{"name": "http", "port": 80, "nodePort": 0}]}});
    world.service("web", no_node_port);
    assert_eq!(
        frontends_of(world.port("web")).len(),
        1,
        "allocateLoadBalancerNodePorts: false"
    );
}

#[test]
fn rule_133_one_number_of_two_protocols_is_no_conflict() {
    let mut world = World::new();
    let with = |address: &str, protocol: &str| {
        let ports = json!([{"name": "http", "port": 53, "protocol": protocol, "nodePort": 30053}]);
        json!({"spec": {"type": "NodePort", "clusterIPs": [address], "ports": ports}})
    };
    world.service("tcp", with("10.96.0.1", "TCP"));
    world.service("udp", with("10.96.0.1", "UDP"));
    for service in ["tcp", "udp"] {
        assert_eq!(world.port(service).frontends.len(), 2);
        assert!(world.port(service).lost.is_empty());
    }
}

#[test]
fn rule_136_ranges_are_of_the_family_with_blanks_and_any_whole_range_is_none() {
    let allowed = |ranges: &[&str], family| {
        let more = json!({
            "spec": {"loadBalancerSourceRanges": ranges},
            "status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.1"}]}},
        });
        let found = sources(&service("web", more), family, &place().addresses);
        found.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(
        allowed(&[" 10.0.0.0/8 ", "fd00::/8"], Family::V4),
        ["10.0.0.0/8"]
    );
    assert_eq!(
        allowed(&["10.0.0.0/8"], Family::V6),
        Vec::<String>::new(),
        "open, as everywhere"
    );
    assert_eq!(
        allowed(&["10.0.0.0/8", "0.0.0.0/0"], Family::V4),
        Vec::<String>::new()
    );
    let with_node = ["192.0.2.0/24", "203.0.113.1/32"];
    assert_eq!(allowed(&["192.0.2.0/24"], Family::V4), with_node);
}

#[test]
fn rule_143_changes_of_type_and_port_leave_nothing_and_recreation_is_the_same() {
    let mut world = World::new();
    world.service("web", json!({}));
    let fresh = world.model.clone();
    assert_eq!(
        world.service("web", json!({"spec": {"type": "ExternalName"}})),
        [name("web")].into()
    );
    assert_eq!(world.model, Model::default());
    world.service("web", json!({"spec": {"type": "NodePort", "ports": [{"name": "http", "port": 80, "nodePort": 30080}]}}));
    world.service(
        "web",
        json!({"spec": {"ports": [{"name": "web", "port": 80}]}}),
    );
    world.remove("web");
    assert_eq!(world.model, Model::default());
    world.service("web", json!({}));
    assert_eq!(world.model, fresh);
}

#[test]
fn rule_145_each_family_has_its_own_addresses_ranges_and_endpoints() {
    let mut world = World::new();
    let spec = json!({
        "clusterIPs": ["10.96.0.1", "fd00:96::1"], "externalIPs": ["2001:db8::5", "198.51.100.1"],
    });
    world.service("web", json!({"spec": spec}));
    world.endpoints("web", &[endpoint("10.1.0.1", HERE, Is::Ready)]);
    let ports = &world.model.service(&name("web")).unwrap().ports;
    let families: Vec<Family> = ports.iter().map(|port| port.family).collect();
    assert_eq!(families, Family::ALL);
    assert_eq!(ports[1].internal, Answers::all(R), "no endpoint of IPv6");
    let six = [
        (FrontendKind::ClusterIp, "fd00:96::1 80".to_owned()),
        (FrontendKind::ExternalIp, "2001:db8::5 80".to_owned()),
    ];
    assert_eq!(frontends_of(&ports[1]), six);
}

#[test]
fn an_address_that_two_claim_is_the_cluster_ips_then_the_older_ones_then_by_name_and_the_loser_is_told()
 {
    let made = |more: Value, when: Option<&str>| json!({"spec": more, "metadata": {"creationTimestamp": when}});
    let external =
        |address: &str, own: &str| json!({"externalIPs": [address], "clusterIPs": [own]});
    let old = Some("2024-01-01T00:00:00Z");
    let new = Some("2025-01-01T00:00:00Z");
    let rows: [(&str, Option<&str>, Option<&str>, &str); 4] = [
        ("198.51.100.1", old, new, "a"),
        ("198.51.100.1", new, old, "b"),
        ("198.51.100.1", None, new, "b"),
        ("198.51.100.1", None, None, "a"),
    ];
    for (address, a, b, winner) in rows {
        for turned in [false, true] {
            let mut world = World::new();
            let mut both = [("a", a, "10.96.0.1"), ("b", b, "10.96.0.2")];
            if turned {
                both.reverse();
            }
            for (name, when, own) in both {
                world.service(name, made(external(address, own), when));
            }
            let loser = if winner == "a" { "b" } else { "a" };
            assert_eq!(world.port(winner).frontends.len(), 2);
            let lost = &world.port(loser).lost;
            assert_eq!((lost.len(), lost[0].1.service.name.as_str()), (1, winner));
            let changed = world.remove(winner);
            assert_eq!(
                changed,
                [name("a"), name("b")].into(),
                "the other has it now"
            );
            assert!(world.port(loser).lost.is_empty());
        }
    }
    let mut world = World::new();
    world.service("a", made(external("10.96.0.9", "10.96.0.1"), old));
    world.service("b", made(json!({"clusterIPs": ["10.96.0.9"]}), new));
    assert_eq!(
        world.port("a").lost.len(),
        1,
        "a cluster IP is nobody else's external IP"
    );
    assert_eq!(world.port("b").frontends.len(), 1);
}
