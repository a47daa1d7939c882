//! Semantics §1.1, §1.2, §1.5 and §1.6: NetworkPolicy's isolation, selectors, nodes and pods' lives, rule by rule.

use super::*;

#[test]
fn rule_01_a_pod_is_isolated_only_in_the_directions_of_its_policies() {
    let mut world = World::new();
    assert!(world.tcp(Y, X, 80) && world.tcp(X, Y, 80));
    assert_eq!(
        world.explain(Y, X, 6, Some(80)).ingress.decided_by,
        DecidedBy::Default
    );
    world.policy("a/p", "app=x", Some(vec![]), None);
    assert!(!world.tcp(Y, X, 80) && world.tcp(X, Y, 80));
    world.policy("a/p", "app=x", None, Some(vec![]));
    assert!(world.tcp(Y, X, 80) && !world.tcp(X, Y, 80));
}

#[test]
fn rule_02_no_rule_denies_all_and_one_empty_rule_allows_all() {
    let mut world = World::new();
    world.policy("a/p", "", Some(vec![]), None);
    let side = world.explain(OUTSIDE, X, 6, Some(80)).ingress;
    assert_eq!(
        (side.verdict, &side.decided_by),
        (Verdict::Denied, &DecidedBy::Isolation)
    );
    assert_eq!(
        (side.steps[0].rule, &side.steps[0].outcome),
        (None, &Outcome::Isolates)
    );
    world.policy("a/p", "", Some(vec![rule(None, None)]), None);
    assert!(world.tcp(OUTSIDE, X, 80) && world.tcp(Z, X, 80) && world.ping(BX, X));
}

#[test]
fn rule_03_policies_are_ored_whatever_their_order() {
    for (deny, allow) in [("a/1", "a/2"), ("a/2", "a/1")] {
        let mut world = World::new();
        world.policy(deny, "", Some(vec![]), None);
        world.policy(
            allow,
            "app=x",
            Some(vec![rule(Some(vec![pods(None, "app=y")]), None)]),
            None,
        );
        assert!(world.tcp(Y, X, 80) && !world.tcp(Z, X, 80) && !world.tcp(X, Y, 80));
    }
}

#[test]
fn rule_04_both_sides_are_asked_on_one_node_too() {
    let mut world = World::new();
    world.policy("a/in", "app=y", Some(vec![]), None);
    world.policy("a/out", "app=x", None, Some(vec![rule(None, None)]));
    for to in [Y, "fd00::2"] {
        let from = if to == Y { X } else { "fd00::1" };
        let explanation = world.explain(from, to, 6, Some(80));
        assert!(!explanation.allowed);
        assert_eq!(explanation.egress.verdict, Verdict::Allowed);
        assert_eq!(explanation.ingress.verdict, Verdict::Denied);
    }
}

#[test]
fn rule_05_the_other_way_needs_no_rule_and_gets_none() {
    let mut world = World::new();
    ingress_from(&mut world, pods(None, "app=y"));
    world.policy("a/q", "app=y", Some(vec![]), None);
    assert!(
        world.tcp(Y, X, 80),
        "no rule of y's ingress is needed for the reply"
    );
    assert!(
        !world.tcp(X, Y, 80),
        "a new connection the other way is another one"
    );
}

#[test]
fn rule_06_a_policy_is_of_its_namespace() {
    let mut world = World::new();
    world.policy("b/p", "app=x", Some(vec![]), None);
    assert!(world.tcp(Y, X, 80) && !world.tcp(Y, BX, 80));
    world.policy("a/p", "app=x", Some(vec![rule(None, None)]), None);
    assert!(
        !world.tcp(Y, BX, 80),
        "the same name elsewhere is another policy"
    );
}

#[test]
fn rule_07_a_deleted_policy_is_gone() {
    let mut world = World::new();
    world.policy("a/p", "app=x", Some(vec![]), None);
    assert!(!world.tcp(Y, X, 80));
    world.objects.policies.clear();
    assert!(world.tcp(Y, X, 80));
}

#[test]
fn rule_08_an_empty_pod_selector_is_all_pods_of_the_namespace() {
    let mut world = World::new();
    world.policy("a/p", "", Some(vec![]), None);
    assert!([X, Y, Z].iter().all(|to| !world.tcp(BX, to, 80)));
    assert!(world.tcp(X, BX, 80));
}

#[test]
fn rule_09_namespaces_and_pods_of_a_peer_are_anded() {
    let cases: [(Option<&str>, &str, [bool; 3]); 5] = [
        (None, "app=x", [false, false, false]),
        (None, "", [true, true, false]),
        (Some("team=two"), "", [false, false, true]),
        (Some("team=two"), "app=y", [false, false, false]),
        (Some(""), "", [true, true, true]),
    ];
    for (namespaces, of, wanted) in cases {
        let mut world = World::new();
        ingress_from(&mut world, pods(namespaces, of));
        let found = [Y, Z, BX].map(|from| world.tcp(from, X, 80));
        assert_eq!(found, wanted, "{namespaces:?} {of}");
    }
}

#[test]
fn rule_10_no_peers_is_everyone_and_all_namespaces_is_pods_only() {
    let mut world = World::new();
    ingress_from(&mut world, pods(Some(""), ""));
    assert!(world.tcp(BX, X, 80) && !world.tcp(OUTSIDE, X, 80) && !world.tcp(NODE2, X, 80));
    ingress_ports(&mut world, vec![tcp(80)]);
    assert!(world.tcp(BX, X, 80) && world.tcp(OUTSIDE, X, 80) && world.tcp(NODE2, X, 80));
}

#[test]
fn rule_11_no_ports_is_every_port_of_every_protocol() {
    let mut world = World::new();
    ingress_from(&mut world, pods(None, "app=y"));
    for protocol in [6, 17, 132] {
        assert!(world.explain(Y, X, protocol, Some(9)).allowed);
    }
    assert!(world.ping(Y, X) && world.explain(Y, X, 47, None).allowed);
}

#[test]
fn rule_12_not_in_and_does_not_exist_match_pods_without_the_key() {
    let of = |requirement| LabelSelector {
        requirements: BTreeSet::from([requirement]),
    };
    let values = |list: &[&str]| list.iter().map(|&value| value.to_owned()).collect();
    let cases = [
        (
            Requirement::NotIn("app".into(), values(&["y"])),
            [false, true, true],
        ),
        (
            Requirement::DoesNotExist("app".into()),
            [false, false, true],
        ),
        (
            Requirement::In("app".into(), values(&["y", "z"])),
            [true, true, false],
        ),
        (Requirement::Exists("app".into()), [true, true, false]),
    ];
    for (requirement, wanted) in cases {
        let mut world = World::new();
        world.pod("a/bare", "", "n2", &["10.0.1.9"]);
        ingress_from(
            &mut world,
            Peer::Pods {
                namespaces: None,
                pods: of(requirement.clone()),
            },
        );
        let found = [Y, Z, "10.0.1.9"].map(|from| world.tcp(from, X, 80));
        assert_eq!(found, wanted, "{requirement:?}");
    }
}

#[test]
fn rule_13_an_absent_selector_is_not_an_empty_one() {
    let mut world = World::new();
    ingress_from(&mut world, pods(None, ""));
    assert!(
        !world.tcp(BX, X, 80),
        "no namespaceSelector: the policy's own namespace"
    );
    ingress_from(&mut world, pods(Some(""), ""));
    assert!(world.tcp(BX, X, 80), "an empty one: all of them");
}

#[test]
fn rule_14_the_name_label_is_an_ordinary_label() {
    let mut world = World::new();
    ingress_from(&mut world, pods(Some("kubernetes.io/metadata.name=b"), ""));
    assert!(world.tcp(BX, X, 80) && !world.tcp(Z, X, 80));
    world
        .objects
        .namespaces
        .get_mut("b")
        .unwrap()
        .labels
        .clear();
    assert!(
        !world.tcp(BX, X, 80),
        "it is not made up where it is missing"
    );
}

#[test]
fn rule_15_an_empty_value_is_not_a_missing_key() {
    let mut world = World::new();
    world.pod("a/empty", "app=", "n2", &["10.0.1.9"]);
    world.pod("a/bare", "", "n2", &["10.0.1.8"]);
    ingress_from(&mut world, pods(None, "app="));
    assert!(world.tcp("10.0.1.9", X, 80) && !world.tcp("10.0.1.8", X, 80));
}

#[test]
fn rule_16_a_peer_or_named_port_of_nobody_matches_nothing() {
    let mut world = World::new();
    ingress_from(&mut world, pods(None, "app=nobody"));
    let side = world.explain(Y, X, 6, Some(80)).ingress;
    assert_eq!(
        side.steps[0].outcome,
        Outcome::NotMatched(NotMatched::Peers)
    );
    assert_eq!(side.verdict, Verdict::Denied);
    ingress_ports(
        &mut world,
        vec![port(Protocol::Tcp, PortMatch::Named("http".into()))],
    );
    let side = world.explain(Y, X, 6, Some(80)).ingress;
    assert_eq!(
        side.steps[0].outcome,
        Outcome::NotMatched(NotMatched::Ports)
    );
    assert_eq!(side.verdict, Verdict::Denied);
    world.policy("a/p", "app=x", Some(vec![rule(Some(vec![]), None)]), None);
    assert!(!world.tcp(Y, X, 80));
}

#[test]
fn rule_17_new_labels_of_pods_and_namespaces_count_at_once() {
    let mut world = World::new();
    ingress_from(&mut world, pods(Some("team=one"), "app=y"));
    assert!(world.tcp(Y, X, 80));
    world.edit("a/y").labels = labels("app=other");
    assert!(!world.tcp(Y, X, 80));
    world.edit("a/z").labels = labels("app=y");
    assert!(world.tcp(Z, X, 80));
    world.objects.namespaces.get_mut("a").unwrap().labels = labels("team=none");
    assert!(!world.tcp(Z, X, 80));
    world.edit("a/x").labels = labels("app=free");
    assert!(world.tcp(OUTSIDE, X, 80), "and a subject's");
}

#[test]
fn rule_18_a_pod_of_an_unseen_namespace_matches_once_it_is_seen() {
    let mut world = World::new();
    let namespace = world.objects.namespaces.remove("b").unwrap();
    ingress_from(&mut world, pods(Some(""), ""));
    assert!(!world.tcp(BX, X, 80));
    world.objects.namespaces.insert("b".to_owned(), namespace);
    assert!(world.tcp(BX, X, 80));
}

#[test]
fn rule_36_a_pods_own_node_always_reaches_it() {
    let mut world = World::new();
    world.policy("a/p", "", Some(vec![]), None);
    for (from, to) in [(NODE1, X), ("2001:db8::1", "fd00::1"), (NODE2, Z)] {
        let side = world.explain(from, to, 6, Some(80)).ingress;
        assert_eq!(side.decided_by, DecidedBy::FromOwnNode, "{from}");
    }
    assert!(
        !world.tcp(NODE2, X, 80) && !world.tcp(NODE1, Z, 80),
        "no other node does"
    );
}

#[test]
fn rule_37_what_goes_to_the_own_node_is_judged_only_where_that_is_wished() {
    let mut world = World::new();
    world.policy("a/p", "app=x", None, Some(vec![]));
    assert_eq!(
        world.explain(X, NODE1, 6, Some(80)).egress.decided_by,
        DecidedBy::ToOwnNode
    );
    assert!(world.tcp(X, NODE1, 80) && !world.tcp(X, NODE2, 80));
    world.settings.egress_to_own_node = EgressToOwnNode::Policed;
    assert!(!world.tcp(X, NODE1, 80));
}

#[test]
fn rule_39_a_host_network_pod_is_no_subject_and_no_peer() {
    let mut world = World::new();
    world.pod("a/host", "app=y", "n2", &[NODE2]).host_network = true;
    world.policy("a/deny", "", Some(vec![]), Some(vec![]));
    ingress_from(&mut world, pods(Some(""), "app=y"));
    assert!(!world.tcp(NODE2, X, 80), "its labels are not its node's");
    assert!(world.tcp(OUTSIDE, NODE2, 80) && world.tcp(NODE2, OUTSIDE, 80));
    ingress_from(&mut world, block("192.0.2.2/32", &[]));
    assert!(
        world.tcp(NODE2, X, 80),
        "a block with its node's address matches"
    );
    let side = world.explain(NODE2, X, 6, Some(80)).egress;
    assert_eq!(
        side.decided_by,
        DecidedBy::NoSubject(Stranger::Node("n2".into()))
    );
    assert_eq!((side.subject, side.node), (None, Some("n2".to_owned())));
    world.objects.nodes.clear();
    let side = world.explain(NODE2, X, 6, Some(80)).egress;
    assert_eq!(
        side.decided_by,
        DecidedBy::NoSubject(Stranger::HostNetwork(named("a/host")))
    );
}

#[test]
fn rule_40_a_pod_reaches_itself() {
    let mut world = World::new();
    world.policy("a/p", "", Some(vec![]), Some(vec![]));
    for address in [X, "fd00::1"] {
        let explanation = world.explain(address, address, 6, Some(80));
        assert!(explanation.allowed);
        assert_eq!(explanation.egress.decided_by, DecidedBy::Itself);
        assert_eq!(explanation.ingress.decided_by, DecidedBy::Itself);
    }
    assert!(!world.tcp(X, Y, 80));
}

#[test]
fn rule_45_a_finished_pod_is_no_subject_and_no_peer() {
    let mut world = World::new();
    world.edit("a/z").finished = true;
    ingress_from(&mut world, pods(None, "app=z"));
    assert!(!world.tcp(Z, X, 80));
    world.policy("a/deny", "app=z", Some(vec![]), None);
    let side = world.explain(OUTSIDE, Z, 6, Some(80)).ingress;
    assert_eq!(
        side.decided_by,
        DecidedBy::NoSubject(Stranger::Finished(named("a/z")))
    );
    world.pod("b/next", "app=n", "n2", &[Z]);
    let side = world.explain(OUTSIDE, Z, 6, Some(80)).ingress;
    assert_eq!(
        side.subject,
        Some(named("b/next")),
        "its address is another pod's by now"
    );
}

#[test]
fn rule_47_a_pod_made_anew_under_its_name_does_not_lend_its_labels_to_the_old_one() {
    let mut world = World::new();
    world.pod("a/y", "app=allowed", "n2", &["10.0.1.77"]).uid = "new".into();
    world.attach("ptl2", "a/y", "old", &[Y, "fd00::2"]);
    ingress_from(&mut world, pods(None, "app=allowed"));
    assert!(!world.tcp(Y, X, 80), "the old one is a peer without labels");
    assert!(
        world.tcp("10.0.1.77", X, 80),
        "the new one is a peer where its object says"
    );
    world.policy("a/deny", "app=allowed", Some(vec![]), None);
    assert!(
        !world.tcp(Z, Y, 80),
        "and the old one is isolated rather than left open"
    );
    world.edit("a/y").finished = true;
    assert!(
        !world.tcp(Z, Y, 80),
        "the new one's phase is not the old one's"
    );
}

#[test]
fn rule_47_an_address_that_is_attached_here_is_not_what_another_object_says() {
    let mut world = World::new();
    world.pod("a/late", "app=late", "n2", &[X]);
    assert_eq!(world.objects.holder(ip(X)).unwrap().pod, &named("a/x"));
    world.policy(
        "a/p",
        "app=y",
        Some(vec![rule(Some(vec![pods(None, "app=late")]), None)]),
        None,
    );
    assert!(!world.tcp(X, Y, 80));
    world.edit("a/x").pod_ips = vec![ip("10.0.0.50")];
    assert_eq!(
        world.objects.holder(ip("10.0.0.50")),
        None,
        "nor what its own object says late"
    );
}

#[test]
fn rule_48_a_pod_without_an_object_is_isolated_by_policies_for_all() {
    let mut world = World::new();
    world.attach("ptl9", "a/new", "u", &["10.0.0.9"]);
    assert!(world.tcp(Y, "10.0.0.9", 80));
    world.policy("a/some", "app=x", Some(vec![]), None);
    assert!(world.tcp(Y, "10.0.0.9", 80));
    world.policy("a/all", "", Some(vec![]), None);
    let side = world.explain(Y, "10.0.0.9", 6, Some(80)).ingress;
    assert_eq!(
        (side.verdict, side.node.as_deref()),
        (Verdict::Denied, Some("n1"))
    );
    assert!(
        world.tcp(NODE1, "10.0.0.9", 80),
        "its node still reaches it"
    );
}

#[test]
fn rule_53_icmp_is_judged_as_a_protocol_without_ports() {
    let mut world = World::new();
    world.policy("a/p", "app=x", Some(vec![]), None);
    assert!(!world.ping(Y, X));
    ingress_ports(&mut world, vec![tcp(80)]);
    assert!(!world.ping(Y, X), "a rule with ports is not about it");
    ingress_from(&mut world, pods(None, "app=y"));
    assert!(world.ping(Y, X) && world.explain("fd00::2", "fd00::1", 58, None).allowed);
}

#[test]
fn rule_56_and_57_egress_is_isolated_only_where_the_types_say_so() {
    let mut world = World::new();
    world.policy("a/p", "app=x", Some(vec![]), None);
    assert_eq!(
        world.explain(X, Y, 6, Some(80)).egress.decided_by,
        DecidedBy::Default
    );
}

#[test]
fn rule_58_an_isolated_pod_has_no_dns_unless_it_is_allowed() {
    let mut world = World::new();
    world.policy("a/p", "app=x", None, Some(vec![]));
    assert!(!world.udp(X, BX, 53));
    let dns = port(Protocol::Udp, PortMatch::Range(53, 53));
    let to = vec![pods(Some("team=two"), "app=x")];
    world.policy(
        "a/dns",
        "",
        None,
        Some(vec![rule(Some(to), Some(vec![dns]))]),
    );
    assert!(world.udp(X, BX, 53) && !world.tcp(X, BX, 53) && !world.udp(X, Z, 53));
}
