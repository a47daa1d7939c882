//! Semantics §1.3 and §1.4: NetworkPolicy's ports and blocks, rule by rule.

use super::*;

#[test]
fn rule_19_a_protocol_without_a_port_is_all_its_ports() {
    let mut world = World::new();
    ingress_ports(&mut world, vec![port(Protocol::Udp, PortMatch::Any)]);
    assert!(world.udp(Y, X, 1) && world.udp(Y, X, 65535));
    assert!(!world.tcp(Y, X, 1) && !world.ping(Y, X));
}

#[test]
fn rule_20_one_protocol_never_opens_another_and_an_unknown_one_opens_nothing() {
    let mut world = World::new();
    ingress_ports(
        &mut world,
        vec![port(Protocol::Sctp, PortMatch::Range(80, 80))],
    );
    assert!(world.explain(Y, X, 132, Some(80)).allowed);
    assert!(!world.tcp(Y, X, 80) && !world.udp(Y, X, 80));
    let unknown = port(Protocol::Tcp, PortMatch::Unsupported("protocol XTP".into()));
    ingress_ports(&mut world, vec![unknown.clone()]);
    let side = world.explain(Y, X, 6, Some(80)).ingress;
    let why = NotMatched::Unsupported("protocol XTP".into());
    assert_eq!(side.steps[0].outcome, Outcome::NotMatched(why));
    assert_eq!(side.verdict, Verdict::Denied, "isolation stands");
    ingress_ports(&mut world, vec![unknown, tcp(80)]);
    assert!(world.tcp(Y, X, 80), "the rule's other ports stay");
}

#[test]
fn rule_22_a_named_port_is_each_destination_pods_own() {
    let mut world = World::new();
    world.named_port("a/x", "http", Protocol::Tcp, 8080);
    world.named_port("a/y", "http", Protocol::Tcp, 9090);
    world.named_port("b/x", "http", Protocol::Udp, 7070);
    let http = || vec![port(Protocol::Tcp, PortMatch::Named("http".into()))];
    world.policy("a/p", "", Some(vec![rule(None, Some(http()))]), None);
    assert!(world.tcp(BX, X, 8080) && !world.tcp(BX, X, 9090));
    assert!(world.tcp(BX, Y, 9090) && !world.tcp(BX, Y, 8080));
    assert!(!world.udp(BX, X, 8080), "the protocol is the entry's");
    world.policy("a/p", "app=z", None, Some(vec![rule(None, Some(http()))]));
    assert!(world.tcp(Z, X, 8080) && world.tcp(Z, Y, 9090));
    assert!(!world.tcp(Z, X, 9090) && !world.tcp(Z, BX, 7070) && !world.udp(Z, BX, 7070));
}

#[test]
fn rule_23_a_named_port_of_an_address_that_is_no_pod_matches_nothing() {
    let mut world = World::new();
    world.named_port("a/y", "http", Protocol::Tcp, 80);
    let http = vec![port(Protocol::Tcp, PortMatch::Named("http".into()))];
    let anywhere = vec![block("0.0.0.0/0", &[])];
    world.policy(
        "a/p",
        "app=x",
        None,
        Some(vec![rule(Some(anywhere), Some(http.clone()))]),
    );
    assert!(world.tcp(X, Y, 80) && !world.tcp(X, OUTSIDE, 80));
    let narrow = vec![block("10.0.1.0/24", &[])];
    world.policy(
        "a/p",
        "app=x",
        None,
        Some(vec![rule(Some(narrow), Some(http))]),
    );
    assert!(!world.tcp(X, Y, 80), "only pods within the block");
}

#[test]
fn rule_24_one_name_may_be_a_port_of_two_protocols() {
    let mut world = World::new();
    world.named_port("a/x", "dns", Protocol::Tcp, 53);
    world.named_port("a/x", "dns", Protocol::Udp, 5353);
    ingress_ports(
        &mut world,
        vec![port(Protocol::Udp, PortMatch::Named("dns".into()))],
    );
    assert!(world.udp(Y, X, 5353) && !world.udp(Y, X, 53) && !world.tcp(Y, X, 53));
}

#[test]
fn rule_25_both_ends_of_a_range_count() {
    let mut world = World::new();
    ingress_ports(
        &mut world,
        vec![port(Protocol::Tcp, PortMatch::Range(80, 90))],
    );
    let found = [79, 80, 85, 90, 91].map(|number| world.tcp(Y, X, number));
    assert_eq!(found, [false, true, true, true, false]);
    ingress_ports(
        &mut world,
        vec![port(Protocol::Tcp, PortMatch::Range(80, 80))],
    );
    assert_eq!(
        [79, 80, 81].map(|number| world.tcp(Y, X, number)),
        [false, true, false]
    );
}

#[test]
fn rule_26_more_than_fifteen_ports_all_count() {
    let mut world = World::new();
    ingress_ports(
        &mut world,
        (0..40).map(|number| tcp(1000 + 2 * number)).collect(),
    );
    assert!((0..40).all(|number| world.tcp(Y, X, 1000 + 2 * number)));
    assert!((0..40).all(|number| !world.tcp(Y, X, 1001 + 2 * number)));
}

#[test]
fn rule_27_peers_of_one_rule_never_go_with_ports_of_another() {
    let mut world = World::new();
    let one = rule(
        Some(vec![pods(None, "app=y")]),
        Some(vec![tcp(80), tcp(81)]),
    );
    let two = rule(Some(vec![pods(None, "app=z")]), Some(vec![tcp(90)]));
    world.policy("a/p", "app=x", Some(vec![one, two]), None);
    assert!(world.tcp(Y, X, 80) && world.tcp(Y, X, 81) && !world.tcp(Y, X, 90));
    assert!(!world.tcp(Z, X, 80) && world.tcp(Z, X, 90));
}

#[test]
fn rule_28_an_exception_limits_its_own_peer_only() {
    let mut world = World::new();
    ingress_from(&mut world, block("10.0.0.0/8", &["10.0.1.0/24"]));
    assert!(world.tcp(Y, X, 80) && !world.tcp(Z, X, 80) && !world.tcp(OUTSIDE, X, 80));
    let both = vec![
        block("10.0.0.0/8", &["10.0.1.0/24"]),
        block("10.0.1.3/32", &[]),
    ];
    world.policy("a/p", "app=x", Some(vec![rule(Some(both), None)]), None);
    assert!(world.tcp(Z, X, 80) && !world.tcp(BX, X, 80));
}

#[test]
fn rule_29_all_addresses_less_some_and_overlapping_blocks_are_a_union() {
    let mut world = World::new();
    let both = vec![
        block("10.0.0.0/8", &["10.0.0.0/16"]),
        block("10.0.0.0/12", &[]),
    ];
    world.policy("a/p", "app=x", Some(vec![rule(Some(both), None)]), None);
    assert!(
        world.tcp(Y, X, 80),
        "the second block holds what the first leaves out"
    );
    ingress_from(&mut world, block("0.0.0.0/0", &["10.0.0.0/8"]));
    assert!(!world.tcp(Y, X, 80) && world.tcp(OUTSIDE, X, 80));
}

#[test]
fn rule_31_a_block_of_one_family_says_nothing_of_the_other() {
    let mut world = World::new();
    ingress_from(&mut world, block("0.0.0.0/0", &[]));
    assert!(world.tcp(Y, X, 80) && !world.tcp("fd00::2", "fd00::1", 80));
    ingress_from(&mut world, block("::/0", &[]));
    assert!(!world.tcp(Y, X, 80) && world.tcp("fd00::2", "fd00::1", 80));
    ingress_from(&mut world, pods(None, "app=y"));
    assert!(
        world.tcp(Y, X, 80) && world.tcp("fd00::2", "fd00::1", 80),
        "pods by all addresses"
    );
}

#[test]
fn rule_32_a_block_matches_pods_too() {
    let mut world = World::new();
    world.policy(
        "a/p",
        "app=x",
        None,
        Some(vec![rule(Some(vec![block("10.0.1.4/32", &[])]), None)]),
    );
    assert!(world.tcp(X, BX, 80) && !world.tcp(X, Z, 80));
}
