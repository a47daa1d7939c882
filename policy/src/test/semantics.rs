//! One test for each rule of semantics.md §1 that numeric-port NetworkPolicy falls under, named by its number.

use api::labels::Requirement;
use api::resources::*;
use netfilter::CtState;

use super::fixture::*;
use super::interpreter::{Packet, Verdict, Walk};
use crate::Endpoint;

const X: &str = "10.0.0.1";
const Y: &str = "10.0.0.2";
const Z: &str = "10.0.1.3";
const BX: &str = "10.0.1.4";
const OUTSIDE: &str = "192.0.2.9";

fn packet(cluster: &Cluster, from: &str, to: &str, protocol: u8, port: u16) -> Packet {
    let interface = |text: &str| cluster.interface_of(ip(text)).unwrap_or("eth0").to_owned();
    Packet {
        source: ip(from),
        destination: ip(to),
        input: interface(from),
        output: interface(to),
        protocol,
        port,
        state: CtState::New,
        syn: true,
    }
}

fn verdict(cluster: &Cluster, packet: &Packet) -> Verdict {
    Walk::of(&cluster.compile(), packet).0
}

/// Whether a new TCP connection to port 80 passes.
fn passes(cluster: &Cluster, from: &str, to: &str) -> bool {
    passes_port(cluster, from, to, 6, 80)
}

fn passes_port(cluster: &Cluster, from: &str, to: &str, protocol: u8, port: u16) -> bool {
    verdict(cluster, &packet(cluster, from, to, protocol, port)) == Verdict::Accepted
}

/// The small cluster with one policy `a/p` on `app=x` that has these ingress rules.
fn ingress(rules: Vec<PolicyRule>) -> Cluster {
    let mut cluster = Cluster::small();
    let mut one = policy("a/p", "app=x");
    one.ingress = Some(rules);
    cluster.policies.push(one);
    cluster
}

fn egress(rules: Vec<PolicyRule>) -> Cluster {
    let mut cluster = Cluster::small();
    let mut one = policy("a/p", "app=x");
    one.egress = Some(rules);
    cluster.policies.push(one);
    cluster
}

fn from(peers: Vec<Peer>) -> Vec<PolicyRule> {
    vec![rule(Some(peers), None)]
}

fn with_ports(ports: Vec<Port>) -> Vec<PolicyRule> {
    vec![rule(None, Some(ports))]
}

#[test]
fn rule_1_isolation_is_per_direction() {
    let cluster = ingress(vec![]);
    assert!(!passes(&cluster, Y, X) && passes(&cluster, X, Y) && passes(&cluster, OUTSIDE, Y));
}

#[test]
fn rule_2_no_rule_denies_all_and_an_empty_rule_allows_all() {
    assert!(!passes(&ingress(vec![]), OUTSIDE, X));
    let open = ingress(vec![rule(None, None)]);
    assert!(passes(&open, OUTSIDE, X) && passes_port(&open, Z, X, 1, 8));
}

#[test]
fn rule_3_policies_add_up() {
    let mut cluster = ingress(vec![]);
    let mut other = policy("a/other", "");
    other.ingress = Some(from(vec![pods(None, "app=y")]));
    cluster.policies.push(other);
    assert!(passes(&cluster, Y, X) && !passes(&cluster, Z, X));
}

#[test]
fn rule_4_both_ends_on_one_node_are_asked() {
    let mut cluster = egress(vec![rule(None, None)]);
    let mut other = policy("a/y", "app=y");
    other.ingress = Some(vec![]);
    cluster.policies.push(other);
    assert!(!passes(&cluster, X, Y), "egress allows, ingress does not");
    let mut cluster = egress(vec![]);
    let mut other = policy("a/y", "app=y");
    other.ingress = Some(vec![rule(None, None)]);
    cluster.policies.push(other);
    assert!(!passes(&cluster, X, Y), "ingress allows, egress does not");
}

#[test]
fn rule_5_replies_pass_without_a_rule() {
    let cluster = ingress(vec![]);
    let mut reply = packet(&cluster, OUTSIDE, X, 6, 40000);
    reply.state = CtState::Established;
    assert_eq!(verdict(&cluster, &reply), Verdict::Accepted);
}

#[test]
fn rule_6_a_policy_is_of_its_namespace_only() {
    let mut cluster = Cluster::small();
    let mut other = policy("b/p", "app=x");
    other.ingress = Some(vec![]);
    cluster.policies.push(other);
    assert!(passes(&cluster, Y, X));
}

#[test]
fn rule_7_a_deleted_policy_leaves_nothing() {
    let mut cluster = ingress(vec![]);
    cluster.policies.clear();
    assert_eq!(cluster.compile(), Cluster::small().compile());
}

#[test]
fn rule_8_an_empty_pod_selector_is_every_pod_of_the_namespace() {
    let mut cluster = Cluster::small();
    let mut all = policy("a/all", "");
    all.ingress = Some(vec![]);
    cluster.policies.push(all);
    assert!(!passes(&cluster, Z, X) && !passes(&cluster, Z, Y));
}

#[test]
fn rule_9_peer_selectors_combine() {
    let own = ingress(from(vec![pods(None, "app=x")]));
    assert!(
        !passes(&own, BX, X),
        "a pod selector alone means the own namespace"
    );
    let other = ingress(from(vec![pods(Some("team=two"), "")]));
    assert!(passes(&other, BX, X) && !passes(&other, Z, X));
    let both = ingress(from(vec![pods(Some("team=two"), "app=z")]));
    assert!(!passes(&both, BX, X) && !passes(&both, Z, X));
}

#[test]
fn rule_10_no_peers_is_everyone_and_all_namespaces_is_pods_only() {
    assert!(passes(&ingress(vec![rule(None, None)]), OUTSIDE, X));
    let cluster = ingress(from(vec![pods(Some(""), "")]));
    assert!(passes(&cluster, BX, X) && !passes(&cluster, OUTSIDE, X));
}

#[test]
fn rule_11_no_ports_is_every_protocol() {
    let cluster = ingress(from(vec![pods(None, "")]));
    assert!(passes_port(&cluster, Y, X, 47, 0) && passes_port(&cluster, Y, X, 132, 1));
}

#[test]
fn rule_12_and_15_selectors_treat_absent_keys_and_empty_values_apart() {
    let not = ingress(from(vec![pods(Some("!none,team!=one"), "none!=x")]));
    assert!(passes(&not, BX, X) && !passes(&not, Z, X));
    let empty = ingress(from(vec![pods(None, "missing=")]));
    assert!(!passes(&empty, Z, X));
    let mut several = selector("");
    let values = ["y", "z"].map(str::to_owned).into();
    several
        .requirements
        .insert(Requirement::In("app".to_owned(), values));
    let cluster = ingress(from(vec![Peer::Pods {
        namespaces: None,
        pods: several,
    }]));
    assert!(passes(&cluster, Y, X) && passes(&cluster, Z, X));
}

#[test]
fn rule_16_a_peer_without_pods_matches_nothing() {
    assert!(!passes(
        &ingress(from(vec![pods(None, "app=nobody")])),
        Y,
        X
    ));
    assert!(!passes(&ingress(vec![rule(Some(vec![]), None)]), Y, X));
}

#[test]
fn rule_17_a_namespace_label_change_is_a_change_of_a_set_and_of_no_rule() {
    let mut cluster = ingress(from(vec![pods(Some("team=two"), "")]));
    let before = cluster.compile();
    cluster.namespaces[1].labels = labels("team=three");
    assert!(!passes(&cluster, BX, X));
    let after = cluster.compile();
    assert_eq!(before.v4.rules, after.v4.rules);
    assert_ne!(before.v4.sets, after.v4.sets);
}

#[test]
fn rule_18_pods_of_a_namespace_not_yet_seen_count_once_it_is() {
    let mut cluster = ingress(from(vec![pods(Some("team=two"), "")]));
    let late = cluster.namespaces.remove(1);
    assert!(!passes(&cluster, BX, X));
    cluster.namespaces.push(late);
    assert!(passes(&cluster, BX, X));
}

#[test]
fn rule_19_and_20_a_protocol_opens_no_other() {
    let any = |protocol| Port {
        protocol,
        port: PortMatch::Any,
    };
    let cluster = ingress(with_ports(vec![any(Protocol::Udp)]));
    assert!(passes_port(&cluster, Y, X, 17, 9) && !passes_port(&cluster, Y, X, 6, 9));
    let cluster = ingress(with_ports(vec![port(Protocol::Sctp, 80, 80)]));
    assert!(!passes(&cluster, Y, X) && passes_port(&cluster, Y, X, 132, 80));
}

#[test]
fn rule_20_what_cannot_be_compiled_matches_nothing_and_is_reported() {
    let bad = Port {
        protocol: Protocol::Tcp,
        port: PortMatch::Unsupported("protocol \"DCCP\" is unknown".to_owned()),
    };
    let mut cluster = ingress(vec![
        rule(None, Some(vec![bad])),
        rule(Some(vec![Peer::Unsupported("bad CIDR".to_owned())]), None),
    ]);
    assert!(!passes(&cluster, Y, X));
    let unsupported = cluster.compile().problems;
    assert_eq!(unsupported.len(), 2);
    assert!(
        unsupported[0]
            .to_string()
            .starts_with("NetworkPolicy a/p: ingress rule 1: protocol \"DCCP\"")
    );
    cluster.policies[0]
        .ingress
        .as_mut()
        .unwrap()
        .push(rule(None, None));
    assert!(passes(&cluster, Y, X), "the other rules hold");
}

#[test]
fn rule_25_and_26_ranges_include_both_ends_and_there_may_be_many() {
    let ports = (0..40)
        .map(|n| port(Protocol::Tcp, n * 100 + 10, n * 100 + 20))
        .collect();
    let cluster = ingress(with_ports(ports));
    for (number, wanted) in [
        (9, false),
        (10, true),
        (20, true),
        (21, false),
        (3910, true),
        (3921, false),
    ] {
        assert_eq!(passes_port(&cluster, Y, X, 6, number), wanted, "{number}");
    }
}

#[test]
fn rule_27_peers_and_ports_of_two_rules_do_not_mix() {
    let cluster = ingress(vec![
        rule(
            Some(vec![pods(None, "app=y")]),
            Some(vec![port(Protocol::Tcp, 80, 80)]),
        ),
        rule(
            Some(vec![pods(None, "app=z")]),
            Some(vec![port(Protocol::Tcp, 81, 81)]),
        ),
    ]);
    assert!(passes_port(&cluster, Y, X, 6, 80) && passes_port(&cluster, Z, X, 6, 81));
    assert!(!passes_port(&cluster, Y, X, 6, 81) && !passes_port(&cluster, Z, X, 6, 80));
}

#[test]
fn rule_28_an_exception_limits_its_own_block_only() {
    let holed = block("10.0.0.0/8", &["10.0.1.0/24"]);
    assert!(!passes(&ingress(from(vec![holed.clone()])), Z, X));
    assert!(passes(
        &ingress(from(vec![holed, block("10.0.1.3/32", &[])])),
        Z,
        X
    ));
}

#[test]
fn rule_29_and_31_all_of_one_family_is_none_of_the_other() {
    let cluster = ingress(from(vec![block("0.0.0.0/0", &[])]));
    assert!(passes(&cluster, OUTSIDE, X) && !passes(&cluster, "2001:db8::9", "fd00::1"));
    let cluster = ingress(from(vec![block("::/0", &[])]));
    assert!(!passes(&cluster, OUTSIDE, X) && passes(&cluster, "2001:db8::9", "fd00::1"));
}

#[test]
fn rule_31_both_families_of_a_pod_are_isolated_and_selected() {
    let cluster = ingress(from(vec![pods(None, "app=y")]));
    assert!(passes(&cluster, "fd00::2", "fd00::1") && !passes(&cluster, "fd00:1::3", "fd00::1"));
}

#[test]
fn rule_32_a_block_matches_pods_too() {
    assert!(passes(
        &ingress(from(vec![block("10.0.1.0/24", &[])])),
        BX,
        X
    ));
}

#[test]
fn rule_39_host_network_pods_are_no_peers() {
    let mut cluster = ingress(from(vec![pods(Some(""), "")]));
    cluster
        .pods
        .iter_mut()
        .find(|pod| pod.name == named("a/z"))
        .unwrap()
        .host_network = true;
    assert!(!passes(&cluster, Z, X) && passes(&cluster, BX, X));
}

#[test]
fn rule_43_neighbour_discovery_passes_isolation() {
    let mut cluster = ingress(vec![]);
    cluster.policies[0].egress = Some(vec![]);
    let passes_type = |number| passes_port(&cluster, "fd00::1", "fd00::2", 58, number);
    assert!((133..=136).all(passes_type) && !passes_type(128));
}

#[test]
fn rule_44_spoofed_sources_unknown_interfaces_and_tunnels_are_dropped() {
    let cluster = Cluster::small();
    let mut spoofed = packet(&cluster, X, OUTSIDE, 6, 80);
    spoofed.source = ip(Y);
    assert_eq!(verdict(&cluster, &spoofed), Verdict::Dropped);
    for protocol in [4, 41, 17] {
        assert!(!passes_port(&cluster, X, OUTSIDE, protocol, 4789));
    }
    assert!(passes_port(&cluster, X, OUTSIDE, 17, 4790));
    assert!(!passes_port(&cluster, "fd00::1", "2001:db8::9", 41, 0));
}

#[test]
fn rule_45_finished_pods_are_neither_subjects_nor_peers() {
    let mut cluster = ingress(from(vec![pods(None, "")]));
    cluster
        .pods
        .iter_mut()
        .find(|pod| pod.name == named("a/z"))
        .unwrap()
        .finished = true;
    assert!(!passes(&cluster, Z, X));
    cluster
        .pods
        .iter_mut()
        .find(|pod| pod.name == named("a/x"))
        .unwrap()
        .finished = true;
    assert!(passes(&cluster, Z, X));
}

#[test]
fn rule_47_an_address_now_a_local_pods_is_not_its_former_holders() {
    let mut cluster = ingress(from(vec![pods(None, "app=old")]));
    cluster.pods.push(pod("a/old", "app=old", &[Y]));
    assert!(!passes(&cluster, Y, X));
}

#[test]
fn rule_47_the_pod_made_anew_does_not_lend_its_labels_to_the_address_that_the_old_one_still_holds()
{
    let mut cluster = ingress(vec![rule(Some(vec![pods(None, "app=y")]), None)]);
    assert!(passes(&cluster, Y, X));
    // The StatefulSet's new pod, not yet attached here, is to have the old one's address.
    cluster.endpoints.get_mut("ptl00000000002").unwrap().uid = "old".to_owned();
    let new = cluster
        .pods
        .iter_mut()
        .find(|pod| pod.name.name == "y")
        .unwrap();
    (new.uid, new.pod_ips) = ("new".to_owned(), vec![ip(Y)]);
    assert!(!passes(&cluster, Y, X));
}

#[test]
fn rule_47_the_pod_made_anew_does_not_take_the_old_ones_endpoint() {
    let mut cluster = ingress(vec![]);
    let new = cluster
        .pods
        .iter_mut()
        .find(|pod| pod.name == named("a/x"))
        .unwrap();
    (new.uid, new.finished) = ("new".to_owned(), true);
    cluster.endpoints.get_mut("ptl00000000001").unwrap().uid = "old".to_owned();
    assert!(
        !passes(&cluster, Y, X),
        "the phase is another pod's, the labels are the best that is known"
    );
}

#[test]
fn rule_48_an_endpoint_is_isolated_whatever_its_pod_says_of_addresses() {
    let mut cluster = ingress(vec![]);
    cluster.pods.iter_mut().for_each(|pod| pod.pod_ips.clear());
    assert!(!passes(&cluster, Y, X));
}

#[test]
fn rule_48_an_endpoint_without_a_manifest_is_isolated_by_empty_selectors_only() {
    let mut cluster = Cluster::small();
    let unknown = Endpoint {
        pod: named("a/new"),
        uid: String::new(),
        addresses: vec![ip("10.0.0.9")],
    };
    cluster
        .endpoints
        .insert("ptl00000000009".to_owned(), unknown);
    let mut some = policy("a/some", "app=x");
    some.ingress = Some(from(vec![pods(None, "")]));
    cluster.policies.push(some);
    assert!(passes(&cluster, Z, "10.0.0.9"));
    assert!(
        passes(&cluster, "10.0.0.9", X),
        "it is a pod of its namespace to others"
    );
    let mut all = policy("a/all", "");
    all.ingress = Some(vec![]);
    cluster.policies.push(all);
    assert!(!passes(&cluster, Z, "10.0.0.9"));
}

#[test]
fn rule_50_an_unknown_interface_gets_and_sends_nothing() {
    let cluster = Cluster::small();
    let mut to = packet(&cluster, OUTSIDE, "10.0.0.77", 6, 80);
    to.output = "ptl0000000dead".to_owned();
    for state in [CtState::New, CtState::Established] {
        to.state = state;
        assert_eq!(verdict(&cluster, &to), Verdict::Dropped);
    }
    let mut sent = packet(&cluster, "10.0.0.77", OUTSIDE, 6, 80);
    sent.input = "ptl0000000dead".to_owned();
    assert_eq!(verdict(&cluster, &sent), Verdict::Dropped);
    assert_eq!(
        verdict(&cluster, &packet(&cluster, OUTSIDE, Z, 6, 80)),
        Verdict::Passed
    );
}

#[test]
fn rule_53_related_passes_and_icmp_is_judged_like_any_protocol() {
    let cluster = ingress(with_ports(vec![port(Protocol::Tcp, 80, 80)]));
    let mut icmp = packet(&cluster, Y, X, 1, 0);
    assert_eq!(verdict(&cluster, &icmp), Verdict::Dropped);
    icmp.state = CtState::Related;
    assert_eq!(verdict(&cluster, &icmp), Verdict::Accepted);
}

#[test]
fn rule_54_tcp_that_is_new_without_syn_and_invalid_are_dropped_for_isolated_pods_only() {
    let cluster = ingress(vec![rule(None, None)]);
    let mut picked_up = packet(&cluster, Y, X, 6, 80);
    picked_up.syn = false;
    assert_eq!(verdict(&cluster, &picked_up), Verdict::Dropped);
    (picked_up.syn, picked_up.state) = (true, CtState::Invalid);
    assert_eq!(verdict(&cluster, &picked_up), Verdict::Dropped);
    let open = Cluster::small();
    assert_eq!(verdict(&open, &picked_up), Verdict::Accepted);
}

#[test]
fn rule_60_policies_that_hold_for_no_local_pod_compile_to_nothing() {
    let mut cluster = Cluster::small();
    let mut remote = policy("a/remote", "app=z");
    remote.ingress = Some(from(vec![pods(Some(""), "app=w")]));
    cluster.policies.push(remote);
    assert_eq!(cluster.compile(), Cluster::small().compile());
}

/// DESIGN.md §6: with 500 local pods a packet passes at most 12 rules more than with one.
#[test]
fn five_hundred_isolated_pods_cost_at_most_twelve_rules_more_than_one() {
    let tried = |count: u16, state: CtState, isolated: bool| {
        let mut cluster = Cluster::default();
        cluster.namespace("a", "");
        for number in 0..count {
            let name = format!("a/p{number}");
            let address = format!("10.1.{}.{}", number >> 8, number & 255);
            let interface = netfilter::short_hash(&[&name], 11);
            cluster.local(
                &format!("ptl{interface}"),
                pod(&name, &format!("app={number}"), &[&address]),
            );
            let mut one = policy(&name, &format!("app={number}"));
            (one.ingress, one.egress) = (Some(vec![rule(None, None)]), None);
            cluster.policies.extend(isolated.then_some(one));
        }
        let compiled = cluster.compile();
        let counts = cluster.endpoints.values().map(|endpoint| {
            let mut packet = packet(&cluster, OUTSIDE, &endpoint.addresses[0].to_string(), 6, 80);
            packet.state = state;
            let (verdict, tried) = Walk::of(&compiled, &packet);
            assert_eq!(verdict, Verdict::Accepted);
            tried
        });
        counts.max().unwrap()
    };
    for isolated in [true, false] {
        assert!(tried(500, CtState::New, isolated) <= tried(1, CtState::New, isolated) + 12);
        assert_eq!(
            tried(500, CtState::Established, isolated),
            tried(1, CtState::Established, isolated)
        );
    }
}
