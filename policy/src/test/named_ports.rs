//! Named ports: found in the pods they are of, one number each (semantics 16, 22 to 24).

use api::resources::*;
use netfilter::CtState;

use super::fixture::*;
use super::interpreter::{Packet, Verdict, Walk};

const X: &str = "10.0.0.1";
const Y: &str = "10.0.0.2";
const Z: &str = "10.0.1.3";
const BX: &str = "10.0.1.4";
const OUTSIDE: &str = "192.0.2.9";

fn passes(cluster: &Cluster, from: &str, to: &str, protocol: u8, port: u16) -> bool {
    let interface = |text: &str| cluster.interface_of(ip(text)).unwrap_or("eth0").to_owned();
    let packet = Packet {
        source: ip(from),
        destination: ip(to),
        input: interface(from),
        output: interface(to),
        protocol,
        port,
        state: CtState::New,
        syn: true,
    };
    Walk::of(&cluster.compile(), &packet).0 == Verdict::Accepted
}

fn web(protocol: Protocol) -> Vec<Port> {
    vec![Port {
        protocol,
        port: PortMatch::Named("web".to_owned()),
    }]
}

/// `a/x` has web on 80, `a/y` on 81, `a/z` on UDP 82, `b/x` on TCP 83 and UDP 84.
fn cluster() -> Cluster {
    let mut cluster = Cluster::small();
    let numbers = [
        (0, Protocol::Tcp, 80),
        (1, Protocol::Tcp, 81),
        (2, Protocol::Udp, 82),
        (3, Protocol::Tcp, 83),
        (3, Protocol::Udp, 84),
    ];
    for (pod, protocol, port) in numbers {
        let name = "web".to_owned();
        let named = ContainerPort {
            name,
            protocol,
            port,
        };
        cluster.pods[pod].named_ports.push(named);
    }
    cluster
}

fn with_ingress(pods: &str, rules: Vec<PolicyRule>) -> Cluster {
    let mut cluster = cluster();
    let mut one = policy("a/p", pods);
    one.ingress = Some(rules);
    cluster.policies.push(one);
    cluster
}

fn with_egress(rules: Vec<PolicyRule>) -> Cluster {
    let mut cluster = cluster();
    let mut one = policy("a/p", "app=x");
    one.egress = Some(rules);
    cluster.policies.push(one);
    cluster
}

#[test]
fn rule_22_ingress_opens_each_selected_pods_own_number() {
    let cluster = with_ingress("", vec![rule(None, Some(web(Protocol::Tcp)))]);
    assert!(passes(&cluster, Z, X, 6, 80) && passes(&cluster, Z, Y, 6, 81));
    assert!(!passes(&cluster, Z, X, 6, 81) && !passes(&cluster, Z, Y, 6, 80));
    assert!(!passes(&cluster, Z, X, 17, 80), "another protocol");
    let peers = vec![pods(None, "app=z")];
    let cluster = with_ingress("", vec![rule(Some(peers), Some(web(Protocol::Tcp)))]);
    assert!(passes(&cluster, Z, X, 6, 80) && !passes(&cluster, BX, X, 6, 80));
}

#[test]
fn rule_22_egress_opens_each_peers_own_number() {
    let peers = vec![pods(Some(""), "app=x"), pods(None, "app=y")];
    let cluster = with_egress(vec![rule(Some(peers), Some(web(Protocol::Tcp)))]);
    assert!(passes(&cluster, X, Y, 6, 81) && passes(&cluster, X, BX, 6, 83));
    assert!(!passes(&cluster, X, Y, 6, 83) && !passes(&cluster, X, BX, 17, 84));
    assert!(!passes(&cluster, X, Z, 17, 82));
    let peers = vec![pods(None, "app=y")];
    let cluster = with_egress(vec![rule(Some(peers), Some(web(Protocol::Tcp)))]);
    assert!(passes(&cluster, X, Y, 6, 81), "a peer");
    assert!(!passes(&cluster, X, BX, 6, 83), "who is no peer");
}

#[test]
fn rule_23_egress_without_peers_is_any_pod_and_a_block_only_pods_in_it() {
    let cluster = with_egress(vec![rule(None, Some(web(Protocol::Udp)))]);
    assert!(passes(&cluster, X, Z, 17, 82) && passes(&cluster, X, BX, 17, 84));
    assert!(!passes(&cluster, X, OUTSIDE, 17, 82));
    let in_block = vec![block("10.0.1.4/32", &[]), block("192.0.2.0/24", &[])];
    let cluster = with_egress(vec![rule(Some(in_block), Some(web(Protocol::Udp)))]);
    assert!(passes(&cluster, X, BX, 17, 84) && !passes(&cluster, X, Z, 17, 82));
    assert!(!passes(&cluster, X, OUTSIDE, 17, 82));
}

#[test]
fn rule_16_a_named_port_that_is_nowhere_matches_nothing() {
    let nowhere = vec![Port {
        protocol: Protocol::Tcp,
        port: PortMatch::Named("nowhere".to_owned()),
    }];
    let cluster = with_ingress("app=x", vec![rule(None, Some(nowhere))]);
    assert!(!passes(&cluster, Y, X, 6, 80) && cluster.compile().problems.is_empty());
}

#[test]
fn rule_22_sets_of_named_ports_are_shared_by_policies() {
    let mut cluster = with_egress(vec![rule(None, Some(web(Protocol::Tcp)))]);
    let sets = cluster.compile().v4.sets.len();
    let mut other = cluster.policies[0].clone();
    other.name = named("a/other");
    cluster.policies.push(other);
    assert_eq!(cluster.compile().v4.sets.len(), sets);
}

#[test]
fn rule_24_one_name_may_have_several_numbers() {
    let mut cluster = with_ingress("app=x", vec![rule(None, Some(web(Protocol::Tcp)))]);
    cluster.pods[0].named_ports.push(ContainerPort {
        name: "web".to_owned(),
        protocol: Protocol::Tcp,
        port: 8080,
    });
    assert!(passes(&cluster, Z, X, 6, 80) && passes(&cluster, Z, X, 6, 8080));
}
