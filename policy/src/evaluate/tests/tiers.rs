//! Semantics §2: ClusterNetworkPolicy, rule by rule.

use std::collections::BTreeSet;

use super::*;
use crate::DomainNameSettings;

fn matching(namespaces: &str, of: &str) -> NamespacedPods {
    NamespacedPods {
        namespaces: selector(namespaces),
        pods: selector(of),
    }
}

fn pod_peer(namespaces: &str, of: &str) -> ClusterPeer {
    ClusterPeer::Pods(matching(namespaces, of))
}

fn networks(list: &[&str]) -> ClusterPeer {
    ClusterPeer::Networks(list.iter().map(|text| text.parse().unwrap()).collect())
}

fn cluster_rule(action: ClusterAction, peer: ClusterPeer) -> ClusterRule {
    ClusterRule {
        name: "named".to_owned(),
        action,
        peers: vec![peer],
        protocols: None,
    }
}

fn with_ports(mut rule: ClusterRule, ports: Vec<ClusterPort>) -> ClusterRule {
    rule.protocols = Some(ports);
    rule
}

fn everyone(action: ClusterAction) -> ClusterRule {
    cluster_rule(action, pod_peer("", ""))
}

use ClusterAction::{Accept, Deny, Pass};

impl World {
    fn cluster(
        &mut self,
        name: &str,
        tier: Tier,
        priority: u16,
        ingress: Vec<ClusterRule>,
        egress: Vec<ClusterRule>,
    ) {
        let policy = ClusterNetworkPolicy {
            name: name.to_owned(),
            tier,
            priority,
            subject: ClusterSubject::Pods(matching("team=one", "app=x")),
            ingress,
            egress,
        };
        self.objects
            .cluster_policies
            .insert(name.to_owned(), policy);
    }

    fn admin(&mut self, ingress: Vec<ClusterRule>, egress: Vec<ClusterRule>) {
        self.cluster("one", Tier::Admin, 10, ingress, egress);
    }
}

#[test]
fn rule_63_admin_then_network_policy_then_baseline() {
    let mut world = World::new();
    world.cluster("base", Tier::Baseline, 0, vec![everyone(Deny)], vec![]);
    let side = world.explain(Y, X, 6, Some(80)).ingress;
    assert_eq!(
        (side.verdict, &side.decided_by),
        (Verdict::Denied, &DecidedBy::Rule)
    );
    assert_eq!(side.steps[0].tier, PolicyTier::Baseline);
    ingress_from(&mut world, pods(None, "app=y"));
    assert!(
        world.tcp(Y, X, 80),
        "NetworkPolicy is final for the pods that it isolates"
    );
    assert!(!world.tcp(Z, X, 80));
    world.admin(vec![everyone(Deny)], vec![]);
    let side = world.explain(Y, X, 6, Some(80)).ingress;
    assert_eq!((side.verdict, side.steps.len()), (Verdict::Denied, 1));
    world.admin(vec![everyone(Accept)], vec![]);
    assert!(world.tcp(Z, X, 80), "and the Admin tier comes before it");
}

#[test]
fn rule_63_low_priorities_first_and_equal_ones_by_name() {
    let mut world = World::new();
    world.cluster("a", Tier::Admin, 7, vec![everyone(Deny)], vec![]);
    world.cluster("b", Tier::Admin, 5, vec![everyone(Accept)], vec![]);
    assert!(world.tcp(Y, X, 80));
    world.cluster("b", Tier::Admin, 7, vec![everyone(Accept)], vec![]);
    assert!(!world.tcp(Y, X, 80));
}

#[test]
fn rule_63_the_policies_about_a_pod_are_told_in_the_order_in_which_they_are_asked() {
    let mut world = World::new();
    world.cluster("base", Tier::Baseline, 0, vec![everyone(Deny)], vec![]);
    world.cluster("late", Tier::Admin, 7, vec![everyone(Pass)], vec![]);
    world.cluster("early", Tier::Admin, 6, vec![everyone(Pass)], vec![]);
    world.cluster("other way", Tier::Admin, 5, vec![], vec![everyone(Pass)]);
    ingress_from(&mut world, pods(None, "app=y"));
    let evaluator = Evaluator::new(&world.objects, &world.settings);
    let about = |way, address| -> Vec<String> {
        let policies = evaluator.policies_about(way, ip(address)).into_iter();
        policies.map(|(_, key)| key.to_string()).collect()
    };
    let wanted = [
        "ClusterNetworkPolicy early",
        "ClusterNetworkPolicy late",
        "NetworkPolicy a/p",
        "ClusterNetworkPolicy base",
    ];
    assert_eq!(about(Direction::Ingress, X), wanted);
    let wanted = ["ClusterNetworkPolicy other way"];
    assert_eq!(about(Direction::Egress, X), wanted);
    assert!(
        about(Direction::Ingress, Y).is_empty() && about(Direction::Ingress, OUTSIDE).is_empty()
    );
}

#[test]
fn rule_63_rules_of_a_policy_go_in_order() {
    let mut world = World::new();
    let only_y = cluster_rule(Accept, pod_peer("", "app=y"));
    world.admin(vec![only_y.clone(), everyone(Deny)], vec![]);
    assert!(world.tcp(Y, X, 80) && !world.tcp(Z, X, 80));
    let side = world.explain(Z, X, 6, Some(80)).ingress;
    let said: Vec<_> = side
        .steps
        .iter()
        .map(|step| (step.rule, &step.outcome))
        .collect();
    let missed = Outcome::NotMatched(NotMatched::Peers);
    assert_eq!(said, [(Some(0), &missed), (Some(1), &Outcome::Denies)]);
    assert_eq!(side.steps[0].rule_name, "named");
    world.admin(vec![everyone(Deny), only_y], vec![]);
    assert!(!world.tcp(Y, X, 80));
}

#[test]
fn rule_64_pass_skips_the_rest_of_its_tier_only() {
    let mut world = World::new();
    world.cluster("a", Tier::Admin, 1, vec![everyone(Pass)], vec![]);
    world.cluster("b", Tier::Admin, 2, vec![everyone(Deny)], vec![]);
    assert!(world.tcp(Y, X, 80));
    ingress_from(&mut world, pods(None, "app=y"));
    assert!(world.tcp(Y, X, 80) && !world.tcp(Z, X, 80));
    world.objects.policies.clear();
    world.cluster("base", Tier::Baseline, 0, vec![everyone(Deny)], vec![]);
    assert!(!world.tcp(Y, X, 80));
    world.cluster("a-base", Tier::Baseline, 0, vec![everyone(Pass)], vec![]);
    assert!(
        world.tcp(Y, X, 80),
        "in Baseline what is passed falls to the default"
    );
}

#[test]
fn rule_64_accept_ends_one_direction_only_and_nothing_is_isolated() {
    let mut world = World::new();
    world.admin(vec![], vec![everyone(Accept)]);
    world.policy("a/p", "app=y", Some(vec![]), None);
    let explanation = world.explain(X, Y, 6, Some(80));
    assert_eq!(explanation.egress.steps[0].outcome, Outcome::Accepts);
    assert!(
        !explanation.allowed,
        "the destination's ingress is asked all the same"
    );
    world.admin(vec![cluster_rule(Accept, pod_peer("", "app=y"))], vec![]);
    assert!(
        world.tcp(Z, X, 80),
        "a policy without a matching rule changes nothing"
    );
}

#[test]
fn rule_65_the_subject_is_by_namespace_and_pod_and_never_in_the_hosts_network() {
    let mut world = World::new();
    world.admin(vec![everyone(Deny)], vec![]);
    assert!(!world.tcp(Z, X, 80) && world.tcp(Z, Y, 80) && world.tcp(Z, BX, 80));
    let all = |world: &mut World| {
        let policy = world.objects.cluster_policies.get_mut("one").unwrap();
        policy.subject = ClusterSubject::Pods(matching("", ""));
    };
    all(&mut world);
    assert!(!world.tcp(Z, Y, 80) && !world.tcp(Z, BX, 80));
    world
        .pod("a/host", "app=x", "n2", &["192.0.2.77"])
        .host_network = true;
    assert!(world.tcp(Z, "192.0.2.77", 80));
    let policy = world.objects.cluster_policies.get_mut("one").unwrap();
    policy.subject = ClusterSubject::Unsupported("a test".into());
    assert!(
        world.tcp(Z, X, 80),
        "a subject that cannot be read selects nobody"
    );
}

#[test]
fn rule_66_networks_match_pods_too_and_all_protocols_of_their_family() {
    let mut world = World::new();
    world.admin(vec![], vec![cluster_rule(Deny, networks(&["0.0.0.0/0"]))]);
    assert!(!world.tcp(X, Y, 80) && !world.tcp(X, OUTSIDE, 80) && !world.ping(X, BX));
    assert!(world.tcp("fd00::1", "fd00::2", 80));
}

#[test]
fn rule_66_pods_are_peers_but_never_those_of_the_hosts_network_or_finished_ones() {
    let mut world = World::new();
    world.pod("a/host", "app=h", "n2", &[NODE2]).host_network = true;
    world.edit("a/z").finished = true;
    world.admin(vec![everyone(Deny)], vec![]);
    assert!(!world.tcp(Y, X, 80) && world.tcp(NODE2, X, 80) && world.tcp(Z, X, 80));
}

#[test]
fn rule_66_nodes_are_peers_by_all_their_addresses() {
    let mut world = World::new();
    let nodes = ClusterPeer::Nodes(selector("zone=2"));
    world.admin(vec![], vec![cluster_rule(Deny, nodes)]);
    assert!(!world.tcp(X, NODE2, 80) && !world.tcp("fd00::1", "2001:db8::2", 80));
    assert!(
        world.tcp(X, NODE1, 80) && world.tcp(X, Z, 80),
        "its pods are not the node"
    );
}

#[test]
fn rule_66_domain_names_accept_the_addresses_that_the_dns_gave() {
    let mut world = World::new();
    let name = DomainName::new("*.example.com").unwrap();
    let names = || ClusterPeer::DomainNames(vec![DomainName::new("*.example.com").unwrap()]);
    let addresses = BTreeSet::from([ip(OUTSIDE)]);
    world.objects.domain_addresses.insert(name, addresses);
    let rules = vec![
        cluster_rule(Accept, names()),
        cluster_rule(Deny, networks(&["0.0.0.0/0"])),
    ];
    world.admin(vec![], rules);
    assert!(
        !world.tcp(X, OUTSIDE, 443),
        "nobody reads the answers, so none is believed"
    );
    world.settings.domain_names = Some(DomainNameSettings {
        queue: 1,
        cluster_dns: ("b".to_owned(), selector("")),
        resolvers: BTreeSet::new(),
    });
    assert!(world.tcp(X, OUTSIDE, 443) && !world.tcp(X, "198.51.100.10", 443));
    world.admin(vec![], vec![cluster_rule(Deny, names())]);
    assert!(
        !world.tcp(X, Y, 80),
        "they are for Accept only: elsewhere they fail closed"
    );
}

#[test]
fn rule_67_what_cannot_be_compiled_fails_closed() {
    let unsupported = || ClusterPeer::Unsupported("a test".into());
    let closed = Outcome::FailsClosed("a test".into());
    for (action, wanted) in [(Accept, true), (Deny, false), (Pass, false)] {
        for tier in [Tier::Admin, Tier::Baseline] {
            let mut world = World::new();
            world.cluster(
                "one",
                tier,
                1,
                vec![],
                vec![cluster_rule(action, unsupported())],
            );
            assert_eq!(world.tcp(X, Y, 80), wanted, "{action:?}");
            let step = &world.explain(X, Y, 6, Some(80)).egress.steps[0];
            assert_eq!(step.outcome == closed, action != Accept);
            assert!(world.tcp(Y, X, 80), "for its direction only");
        }
    }
    let mut world = World::new();
    let mut mixed = cluster_rule(Deny, pod_peer("", "app=nobody"));
    mixed.peers.push(unsupported());
    world.admin(
        vec![],
        vec![with_ports(mixed, vec![ClusterPort::Port(tcp(1))])],
    );
    assert!(
        !world.tcp(X, Y, 80),
        "one such peer makes the whole rule deny all"
    );
    let mut accept = cluster_rule(Accept, pod_peer("", "app=y"));
    accept.peers.push(unsupported());
    world.admin(vec![], vec![accept, everyone(Deny)]);
    assert!(
        world.tcp(X, Y, 80) && !world.tcp(X, Z, 80),
        "under Accept the other peers stay"
    );
}

#[test]
fn rule_67_a_port_that_cannot_be_compiled_fails_closed_too() {
    let odd = || vec![ClusterPort::Unsupported("a test".into())];
    for (action, wanted) in [(Accept, true), (Deny, false), (Pass, false)] {
        let mut world = World::new();
        let rule = with_ports(cluster_rule(action, pod_peer("", "app=nobody")), odd());
        world.admin(vec![rule], vec![]);
        assert_eq!(world.tcp(Y, X, 80), wanted, "{action:?}");
    }
    let mut world = World::new();
    world.admin(
        vec![cluster_rule(Deny, networks(&["203.0.113.0/24"]))],
        vec![],
    );
    assert!(!world.tcp(Y, X, 80), "networks are no peer of ingress");
    let mut none = everyone(Deny);
    none.peers.clear();
    world.admin(vec![none], vec![]);
    assert!(!world.tcp(Y, X, 80), "nor is a list without a peer");
}

#[test]
fn rule_68_ports_and_named_ports_of_the_destination() {
    let mut world = World::new();
    world.named_port("a/x", "web", Protocol::Tcp, 8080);
    world.named_port("a/x", "web", Protocol::Udp, 8081);
    let range = ClusterPort::Port(port(Protocol::Tcp, PortMatch::Range(10, 20)));
    let ports = vec![range, ClusterPort::Named("web".into())];
    world.admin(vec![with_ports(everyone(Deny), ports)], vec![]);
    assert!(!world.tcp(Y, X, 10) && !world.tcp(Y, X, 20) && world.tcp(Y, X, 21));
    assert!(!world.tcp(Y, X, 8080) && world.udp(Y, X, 8080) && !world.udp(Y, X, 8081));
    assert!(world.ping(Y, X));
    world.named_port("a/y", "web", Protocol::Tcp, 9090);
    let named = vec![ClusterPort::Named("web".into())];
    world.admin(vec![], vec![with_ports(everyone(Deny), named)]);
    assert!(
        !world.tcp(X, Y, 9090) && world.tcp(X, Y, 8080),
        "egress: the peer's"
    );
    let named = vec![ClusterPort::Port(port(
        Protocol::Tcp,
        PortMatch::Named("web".into()),
    ))];
    world.admin(vec![], vec![with_ports(everyone(Deny), named)]);
    assert!(
        !world.tcp(X, Y, 1),
        "a name within a protocol is none of the API's: fails closed"
    );
}

#[test]
fn rule_69_the_own_node_reaches_its_pod_whatever_the_admin_tier_says() {
    let mut world = World::new();
    world.pod("a/other", "app=h", "n1", &["10.0.0.70"]);
    world.admin(
        vec![everyone(Deny)],
        vec![cluster_rule(Deny, networks(&["0.0.0.0/0"]))],
    );
    assert!(world.tcp(NODE1, X, 80));
    assert!(
        !world.tcp(X, NODE1, 80),
        "ClusterNetworkPolicy polices what goes to the own node"
    );
    assert!(world.tcp(X, X, 80), "itself it reaches");
}

#[test]
fn rule_69_baseline_polices_what_goes_to_the_own_node_where_no_network_policy_isolates() {
    let mut world = World::new();
    world.cluster(
        "b",
        Tier::Baseline,
        1,
        vec![],
        vec![cluster_rule(Deny, networks(&["0.0.0.0/0"]))],
    );
    assert!(!world.tcp(X, NODE1, 80));
    world.policy("a/p", "app=x", None, Some(vec![]));
    assert!(
        world.tcp(X, NODE1, 80),
        "NetworkPolicy is final, and does not judge it"
    );
}
