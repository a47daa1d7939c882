//! One test for each rule of semantics.md §2: the tiers of ClusterNetworkPolicy.

use std::collections::{BTreeMap, BTreeSet};

use api::LabelSelector;
use api::resources::*;
use netfilter::CtState;

use super::fixture::*;
use super::interpreter::{Packet, Verdict, Walk};

const X: &str = "10.0.0.1";
const Y: &str = "10.0.0.2";
const Z: &str = "10.0.1.3";
const BX: &str = "10.0.1.4";
const OUTSIDE: &str = "192.0.2.9";

fn packet(cluster: &Cluster, from: &str, to: &str) -> Packet {
    let interface = |text: &str| cluster.interface_of(ip(text)).unwrap_or("eth0").to_owned();
    Packet {
        source: ip(from),
        destination: ip(to),
        input: interface(from),
        output: interface(to),
        protocol: 6,
        port: 80,
        state: CtState::New,
        syn: true,
    }
}

fn verdict(cluster: &Cluster, packet: &Packet) -> Verdict {
    Walk::of(&cluster.compile(), packet).0
}

fn passes(cluster: &Cluster, from: &str, to: &str) -> bool {
    verdict(cluster, &packet(cluster, from, to)) == Verdict::Accepted
}

/// Whether a pod reaches its own node, as far as we are asked.
fn reaches_own_node(cluster: &Cluster, from: &str) -> bool {
    let mut packet = packet(cluster, from, OUTSIDE);
    packet.output.clear();
    verdict(cluster, &packet) == Verdict::Passed
}

fn pods_peer(of: &str) -> Vec<ClusterPeer> {
    vec![ClusterPeer::Pods(namespaced("", of))]
}

fn all(action: ClusterAction, of: &str) -> ClusterRule {
    cluster_rule(action, pods_peer(of), None)
}

/// The small cluster with ingress rules of the admin tier on `app=x`, and of the baseline tier.
fn tiers(admin: Vec<ClusterRule>, baseline: Vec<ClusterRule>) -> Cluster {
    let mut cluster = Cluster::small();
    for (name, tier, rules) in [
        ("admin", Tier::Admin, admin),
        ("baseline", Tier::Baseline, baseline),
    ] {
        let mut one = cluster_policy(name, tier, 10, "app=x");
        one.ingress = rules;
        cluster.cluster_policies.push(one);
    }
    cluster
}

fn isolated(mut cluster: Cluster, rules: Vec<PolicyRule>) -> Cluster {
    let mut one = policy("a/p", "app=x");
    one.ingress = Some(rules);
    cluster.policies.push(one);
    cluster
}

use ClusterAction::{Accept, Deny, Pass};

#[test]
fn rule_63_admin_goes_before_network_policy_and_that_before_baseline() {
    let admin = tiers(vec![all(Accept, "app=y")], vec![]);
    assert!(
        passes(&isolated(admin, vec![]), Y, X),
        "admin accepts first"
    );
    let denied = tiers(vec![all(Deny, "app=y")], vec![]);
    assert!(!passes(&isolated(denied, vec![rule(None, None)]), Y, X));
    let open = isolated(tiers(vec![], vec![all(Deny, "")]), vec![rule(None, None)]);
    assert!(
        passes(&open, Y, X),
        "what NetworkPolicy isolates, baseline does not judge"
    );
    let closed = isolated(tiers(vec![], vec![all(Accept, "")]), vec![]);
    assert!(!passes(&closed, Y, X));
    assert!(!passes(&tiers(vec![], vec![all(Deny, "")]), Y, X));
    assert!(passes(&tiers(vec![], vec![]), Y, X));
}

#[test]
fn rule_63_low_priority_numbers_go_first_and_equal_ones_by_name() {
    let decided = |first: (&str, u16), second: (&str, u16)| {
        let mut cluster = Cluster::small();
        for ((name, priority), action) in [(first, Accept), (second, Deny)] {
            let mut one = cluster_policy(name, Tier::Admin, priority, "app=x");
            one.ingress = vec![all(action, "")];
            cluster.cluster_policies.push(one);
        }
        passes(&cluster, Y, X)
    };
    assert!(decided(("z", 9), ("a", 10)) && !decided(("a", 10), ("z", 9)));
    assert!(decided(("a", 10), ("b", 10)) && !decided(("b", 10), ("a", 10)));
}

#[test]
fn rule_64_the_first_rule_that_matches_decides() {
    let cluster = tiers(
        vec![all(Deny, "app=z"), all(Accept, "")],
        vec![all(Deny, "")],
    );
    assert!(passes(&cluster, Y, X) && !passes(&cluster, Z, X));
    let cluster = tiers(
        vec![all(Accept, ""), all(Deny, "app=z")],
        vec![all(Deny, "")],
    );
    assert!(passes(&cluster, Z, X));
}

#[test]
fn rule_64_pass_leaves_the_tier_and_nothing_is_isolated_by_itself() {
    let mut cluster = tiers(vec![all(Pass, "app=y")], vec![all(Deny, "app=y")]);
    let mut later = cluster_policy("later", Tier::Admin, 11, "app=x");
    later.ingress = vec![all(Accept, "app=y"), all(Deny, "app=z")];
    cluster.cluster_policies.push(later);
    assert!(
        !passes(&cluster, Y, X),
        "passed on to baseline, which denies"
    );
    assert!(
        !passes(&cluster, Z, X),
        "not passed: the next policy denies"
    );
    assert!(passes(&cluster, BX, X), "nobody says anything: allowed");
    let passed = isolated(tiers(vec![all(Pass, "")], vec![]), vec![]);
    assert!(!passes(&passed, Y, X), "passed on to NetworkPolicy");
    let baseline = tiers(vec![], vec![all(Pass, ""), all(Deny, "")]);
    assert!(passes(&baseline, Y, X), "passed on to the default");
}

#[test]
fn rule_64_accept_ends_its_own_direction_only() {
    let mut cluster = tiers(vec![all(Deny, "app=y")], vec![]);
    let mut sender = cluster_policy("sender", Tier::Admin, 1, "app=y");
    sender.egress = vec![all(Accept, "")];
    cluster.cluster_policies.push(sender);
    assert!(!passes(&cluster, Y, X));
}

#[test]
fn rule_65_subjects_are_pods_by_both_labels_and_never_host_network_ones() {
    let mut cluster = tiers(vec![all(Deny, "")], vec![]);
    assert!(!passes(&cluster, Y, X) && passes(&cluster, X, Y));
    cluster.cluster_policies[0].subject = ClusterSubject::Pods(namespaced("team=two", "app=x"));
    assert!(passes(&cluster, Y, X), "a/x is of team one");
    cluster.cluster_policies[0].subject = ClusterSubject::Unsupported("a test".to_owned());
    assert!(passes(&cluster, Y, X));
    let said = cluster.compile().problems;
    assert_eq!(
        said[0].to_string(),
        "ClusterNetworkPolicy admin: subject: a test: it selects no pod"
    );
    let mut cluster = tiers(vec![all(Deny, "app=y")], vec![]);
    cluster.pods[1].host_network = true;
    assert!(passes(&cluster, Y, X), "no peer");
    cluster.pods[0].host_network = true;
    assert!(passes(&cluster, Z, X), "no subject");
}

fn egress(rules: Vec<ClusterRule>) -> Cluster {
    let mut cluster = Cluster::small();
    let mut one = cluster_policy("out", Tier::Admin, 1, "app=x");
    one.egress = rules;
    cluster.cluster_policies.push(one);
    cluster
}

#[test]
fn rule_66_networks_match_pods_too_and_their_own_family() {
    let nets = |text: &str| vec![ClusterPeer::Networks(vec![text.parse().unwrap()])];
    let cluster = egress(vec![cluster_rule(Deny, nets("0.0.0.0/0"), None)]);
    assert!(!passes(&cluster, X, OUTSIDE) && !passes(&cluster, X, Y));
    assert!(passes(&cluster, "fd00::1", "2001:db8::1"));
    let cluster = egress(vec![cluster_rule(Deny, nets("10.0.1.0/24"), None)]);
    assert!(!passes(&cluster, X, Z) && passes(&cluster, X, Y));
}

#[test]
fn rule_66_nodes_are_all_their_addresses() {
    let peer = vec![ClusterPeer::Nodes(selector("role=db"))];
    let mut cluster = egress(vec![cluster_rule(Deny, peer, None)]);
    for (name, of, address) in [
        ("n1", "role=db", "192.0.2.9"),
        ("n2", "role=web", "192.0.2.10"),
    ] {
        cluster.nodes.push(Node {
            name: name.to_owned(),
            labels: labels(of),
            internal_ips: Vec::new(),
            addresses: vec![ip(address), ip("2001:db8::9")],
            pod_cidrs: Vec::new(),
            as_number: None,
            router_id: None,
            cluster_id: None,
            bgp_drain: false,
            leaving: None,
        });
    }
    assert!(!passes(&cluster, X, "192.0.2.9") && passes(&cluster, X, "192.0.2.10"));
    assert!(!passes(&cluster, "fd00::1", "2001:db8::9"));
}

#[test]
fn rule_66_domain_names_are_what_the_dns_said_and_nothing_while_they_are_switched_off() {
    let name = DomainName::new("db.example.com").unwrap();
    let peer = vec![ClusterPeer::DomainNames(vec![name.clone()])];
    let nets = vec![ClusterPeer::Networks(vec!["0.0.0.0/0".parse().unwrap()])];
    let mut cluster = egress(vec![
        cluster_rule(Accept, peer, None),
        cluster_rule(Deny, nets, None),
    ]);
    let addresses = BTreeSet::from([ip(OUTSIDE), ip("2001:db8::9")]);
    cluster.domains = BTreeMap::from([(name, addresses)]);
    assert!(!passes(&cluster, X, OUTSIDE));
    cluster.settings.domain_names = Some(crate::DomainNameSettings {
        queue: 1,
        cluster_dns: ("kube-system".to_owned(), LabelSelector::default()),
        resolvers: BTreeSet::new(),
    });
    assert!(passes(&cluster, X, OUTSIDE) && !passes(&cluster, X, "192.0.2.10"));
}

#[test]
fn rule_67_what_cannot_be_read_fails_closed_and_is_said() {
    let unknown = || vec![ClusterPeer::Unsupported("a test".to_owned())];
    let bad_port = || Some(vec![ClusterPort::Unsupported("a port".to_owned())]);
    for action in [Deny, Pass] {
        let cluster = tiers(vec![cluster_rule(action, unknown(), None)], vec![]);
        assert!(!passes(&cluster, OUTSIDE, X), "denies all, not only pods");
        let said = cluster.compile().problems[0].to_string();
        assert_eq!(
            said,
            "ClusterNetworkPolicy admin: ingress rule 1: a test: the rule denies all"
        );
        let cluster = tiers(
            vec![cluster_rule(action, pods_peer("app=z"), bad_port())],
            vec![],
        );
        assert!(!passes(&cluster, Y, X));
        assert!(!passes(
            &tiers(vec![cluster_rule(action, vec![], None)], vec![]),
            Y,
            X
        ));
    }
    let closed = vec![all(Deny, "")];
    let mut both = unknown();
    both.extend(pods_peer("app=z"));
    let cluster = tiers(vec![cluster_rule(Accept, both, None)], closed);
    assert!(
        !passes(&cluster, Y, X) && passes(&cluster, Z, X),
        "the other peer still counts"
    );
}

#[test]
fn rule_68_named_ports_are_of_any_protocol_and_of_the_destination_pod() {
    let named_port = |name: &str| Some(vec![ClusterPort::Named(name.to_owned())]);
    let mut cluster = tiers(
        vec![cluster_rule(Deny, pods_peer(""), named_port("web"))],
        vec![],
    );
    for (protocol, port) in [(Protocol::Tcp, 80), (Protocol::Udp, 53)] {
        cluster.pods[0].named_ports.push(ContainerPort {
            name: "web".to_owned(),
            protocol,
            port,
        });
    }
    assert!(!passes(&cluster, Y, X));
    let mut other = packet(&cluster, Y, X);
    other.port = 81;
    assert_eq!(verdict(&cluster, &other), Verdict::Accepted);
    (other.protocol, other.port) = (17, 53);
    assert_eq!(verdict(&cluster, &other), Verdict::Dropped);
}

#[test]
fn rule_37_cluster_policies_police_a_pod_to_its_own_node_and_network_policy_if_told_to() {
    assert!(reaches_own_node(&Cluster::small(), X));
    let nets = vec![ClusterPeer::Networks(vec!["0.0.0.0/0".parse().unwrap()])];
    let cluster = egress(vec![cluster_rule(Deny, nets, None)]);
    assert!(!reaches_own_node(&cluster, X) && reaches_own_node(&cluster, Y));
    let mut cluster = Cluster::small();
    let mut one = policy("a/p", "app=x");
    one.egress = Some(vec![]);
    cluster.policies.push(one);
    assert!(reaches_own_node(&cluster, X) && !passes(&cluster, X, OUTSIDE));
    cluster.settings.egress_to_own_node = crate::EgressToOwnNode::Policed;
    assert!(!reaches_own_node(&cluster, X));
}

#[test]
fn rule_69_the_node_reaches_its_own_pods_whatever_the_policies_say() {
    let cluster = isolated(tiers(vec![all(Deny, "")], vec![all(Deny, "")]), vec![]);
    let mut probe = packet(&cluster, OUTSIDE, X);
    probe.input.clear();
    assert_eq!(verdict(&cluster, &probe), Verdict::Passed);
}

#[test]
fn rule_40_a_pod_reaches_itself_whatever_the_policies_say() {
    let nets = vec![ClusterPeer::Networks(vec!["0.0.0.0/0".parse().unwrap()])];
    let mut cluster = egress(vec![cluster_rule(Deny, nets, None)]);
    cluster = isolated(cluster, vec![]);
    assert!(passes(&cluster, X, X) && !passes(&cluster, X, Y) && !passes(&cluster, Y, X));
}

/// Someone empties our sets or the filter table: what is denied stays denied.
#[test]
fn an_emptied_bit_set_or_filter_table_does_not_open_a_policed_pod() {
    let mut cluster = Cluster::default();
    cluster.namespace("a", "");
    for number in 1..60 {
        let name = format!("a/p{number}");
        cluster.local(
            &format!("ptl{number:011x}"),
            pod(&name, "", &[&format!("10.0.3.{number}")]),
        );
    }
    let mut closed = policy("a/p", "");
    (closed.ingress, closed.egress) = (Some(vec![]), Some(vec![]));
    cluster.policies.push(closed);
    let compiled = cluster.compile();
    let packets = |to: bool| {
        (1..60).map(move |number| {
            let address = format!("10.0.3.{number}");
            if to {
                (OUTSIDE.to_owned(), address)
            } else {
                (address, OUTSIDE.to_owned())
            }
        })
    };
    let mut emptied = compiled.clone();
    for (name, set) in &mut emptied.v4.sets {
        if name.as_str().starts_with("ptl4-bit") {
            *set = netfilter::IpSet::new(name.clone(), set.family(), set.kind()).into();
        }
    }
    let mut flushed = compiled;
    let filter = flushed
        .v4
        .rules
        .tables
        .get_mut(&netfilter::Table::Filter)
        .unwrap();
    filter.hooks.clear();
    for (from, to) in packets(true).chain(packets(false)) {
        let packet = packet(&cluster, &from, &to);
        assert_eq!(
            Walk::of(&emptied, &packet).0,
            Verdict::Dropped,
            "{packet:?}"
        );
        assert_eq!(
            Walk::with_mark(&flushed, &packet, 0).0,
            Verdict::Dropped,
            "{packet:?}"
        );
    }
    let mut probe = packet(&cluster, OUTSIDE, "10.0.3.1");
    probe.input.clear();
    assert_eq!(
        Walk::with_mark(&flushed, &probe, 0).0,
        Verdict::Passed,
        "the node itself"
    );
}

/// A policy the kernel refused a part of: what it allows is not allowed, what it denies is denied, and it is said.
#[test]
fn what_the_kernel_refused_matches_nothing_or_denies_all() {
    let mut cluster = isolated(
        Cluster::small(),
        vec![
            rule(Some(vec![pods(None, "app=y")]), None),
            rule(Some(vec![pods(None, "app=z")]), None),
        ],
    );
    let mut denies = cluster_policy("deny", Tier::Admin, 1, "app=y");
    denies.ingress = vec![all(Deny, "app=z")];
    cluster.cluster_policies.push(denies);
    assert!(passes(&cluster, Y, X) && passes(&cluster, X, Y));
    let mut index = cluster.index();
    let good = index.compile();
    let sets = good.v4.sets.iter();
    let broken = |address: &str| {
        let held = |set: &netfilter::IpSet| {
            set.name().as_str().starts_with("ptl4-p-")
                && set.members().contains(&netfilter::Member::Ip(ip(address)))
        };
        let found = sets.clone().filter(|(_, set)| held(set));
        found.map(|(name, _)| name.clone()).collect::<BTreeSet<_>>()
    };
    index.set_broken(broken(Y), BTreeSet::new());
    let compiled = index.compile();
    let passes_in = |compiled: &crate::Compiled, from, to| {
        Walk::of(compiled, &packet(&cluster, from, to)).0 == Verdict::Accepted
    };
    assert!(!passes_in(&compiled, Y, X) && passes_in(&compiled, Z, X));
    assert!(
        compiled.problems[0]
            .to_string()
            .starts_with("NetworkPolicy a/p: ingress rule 1: the kernel refused its set")
    );
    index.set_broken(broken(Z), BTreeSet::new());
    let compiled = index.compile();
    assert!(passes_in(&compiled, Y, X) && !passes_in(&compiled, Z, X));
    assert!(!passes_in(&compiled, X, Y), "the deny rule denies all");
    let chains = |prefix: &str| {
        let filter = &good.v4.rules.tables[&netfilter::Table::Filter];
        let names = filter
            .chains
            .keys()
            .filter(|name| name.as_str().starts_with(prefix));
        names.cloned().collect::<BTreeSet<_>>()
    };
    for prefix in ["PTL-PI-", "PTL-CI-", "PTL-GI-"] {
        index.set_broken(BTreeSet::new(), chains(prefix));
        let compiled = index.compile();
        assert_eq!(passes_in(&compiled, Y, X), prefix == "PTL-CI-", "{prefix}");
        assert_eq!(passes_in(&compiled, X, Y), prefix == "PTL-PI-", "{prefix}");
        assert!(!compiled.problems.is_empty());
    }
    index.set_broken(BTreeSet::new(), BTreeSet::new());
    assert_eq!(index.compile(), good);
}
