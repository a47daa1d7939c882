//! IPVS where policy judges pods: whom it leads, and whom the chains do.

use std::collections::BTreeSet;

use netfilter::{Family, Member};
use serde_json::json;

use super::*;
use crate::proxy::tests::*;

fn judged(world: &World, pods_are_judged: bool) -> Compiler {
    let options = Options {
        leads: Leads::Ipvs,
        node_addresses: place().addresses,
        pods_are_judged,
        pod_networks: vec!["10.1.0.0/24".parse().unwrap()],
        ..options()
    };
    compiled_with(world, options)
}

/// The addresses at which IPVS leads pods.
fn led_for_pods(compiler: &Compiler) -> BTreeSet<String> {
    let set = &compiler.sets(Family::V4)[&super::led_for_pods(Family::V4)];
    let members = set.members().iter().map(|member| match member {
        Member::IpPort(address, ..) => address.to_string(),
        other => panic!("{other:?}"),
    });
    members.collect()
}

/// The rules of KUBE-SERVICES that lead pods alone, by the address.
fn led_by_chains(compiler: &Compiler) -> BTreeSet<String> {
    let rules = chain(compiler, Family::V4, Table::Nat, "KUBE-SERVICES");
    let of_pods = rules
        .iter()
        .filter(|rule| rule.contains("-i ptl+") && rule.contains("-j KUBE-SVC-"));
    let address = |rule: &String| {
        let (_, rest) = rule.split_once("-d ").unwrap();
        rest.split('/').next().unwrap().to_owned()
    };
    of_pods.map(address).collect()
}

#[test]
fn pods_that_policy_judges_are_led_by_chains_wherever_an_endpoint_may_be_their_node() {
    let mut world = World::new();
    let spec = |address: &str| json!({"spec": {"clusterIPs": [address]}});
    let mut put = |name: &str, address: &str, endpoints: &[(&str, Option<&str>)]| {
        world.service(name, spec(address));
        let endpoints = endpoints.iter().map(|(address, node)| {
            let mut one = endpoint(address, node.unwrap_or("-"), Is::Ready);
            if node.is_none() {
                one.as_object_mut().unwrap().remove("nodeName");
            }
            one
        });
        world.endpoints(name, &endpoints.collect::<Vec<_>>());
    };
    put("there", "10.96.1.1", &[("10.1.1.1", Some("n2"))]);
    put("here", "10.96.1.2", &[("10.1.0.1", Some(HERE))]);
    // The node's address, also where a slice says another node; one that no pod has; and one of nobody.
    put("node", "10.96.1.3", &[("192.0.2.1", Some(HERE))]);
    put("lie", "10.96.1.4", &[("192.0.2.1", Some("n2"))]);
    let mixed = [("10.1.0.2", Some(HERE)), ("172.17.0.1", Some(HERE))];
    put("bridge", "10.96.1.5", &mixed);
    put("nobody", "10.96.1.6", &[("172.17.0.1", None)]);
    let names = |last: &[u8]| -> BTreeSet<String> {
        last.iter().map(|one| format!("10.96.1.{one}")).collect()
    };
    let compiler = judged(&world, true);
    assert_eq!(led_for_pods(&compiler), names(&[1, 2]));
    assert_eq!(led_by_chains(&compiler), names(&[3, 4, 5, 6]));
    let compiler = judged(&world, false);
    assert_eq!(led_for_pods(&compiler), names(&[1, 2, 3, 4, 5, 6]));
    assert_eq!(led_by_chains(&compiler), names(&[]));
}

#[test]
fn pods_that_policy_judges_are_led_by_chains_at_addresses_for_the_outside() {
    let mut world = World::new();
    let ports = json!([{"name": "http", "port": 80, "nodePort": 30_080}]);
    let spec = json!({"type": "NodePort", "clusterIPs": ["10.96.1.1"], "ports": ports});
    world.service("web", json!({"spec": spec}));
    world.endpoints("web", &[endpoint("10.1.1.1", "n2", Is::Ready)]);
    let compiler = judged(&world, true);
    let doors = chain(&compiler, Family::V4, Table::Nat, "KUBE-NODEPORTS");
    let external = doors
        .iter()
        .find_map(|rule| rule.split_once("-j KUBE-EXT-"));
    let (_, name) = external.unwrap_or_else(|| panic!("{doors:?}"));
    let rules = chain(
        &compiler,
        Family::V4,
        Table::Nat,
        &format!("KUBE-EXT-{name}"),
    );
    assert_eq!(rules.len(), 3, "{rules:?}");
    assert!(rules[0].contains("-i ptl+") && rules[0].contains("-j KUBE-MARK-MASQ"));
    assert!(rules[1].contains("-i ptl+") && rules[1].contains("-j KUBE-SVC-"));
    assert!(rules[2].contains("-j RETURN"), "IPVS leads all others");
    assert_eq!(led_for_pods(&compiler).len(), 1, "the cluster IP alone");
    let compiler = judged(&world, false);
    let doors = chain(&compiler, Family::V4, Table::Nat, "KUBE-NODEPORTS");
    assert!(
        doors.iter().all(|rule| !rule.contains("KUBE-EXT-")),
        "{doors:?}"
    );
}
