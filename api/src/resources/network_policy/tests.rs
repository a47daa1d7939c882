//! The rules of semantics.md §1 that reading a NetworkPolicy decides, one test each.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::{Labels, ParseError, Resource, parse};

fn read(spec: Value) -> Result<NetworkPolicy, ParseError> {
    let value = json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"namespace": "shop", "name": "p"},
        "spec": spec,
    });
    match parse("NetworkPolicy", "networking.k8s.io/v1", value)? {
        Some((_, Resource::NetworkPolicy(policy))) => Ok(policy),
        other => panic!("{other:?}"),
    }
}

fn policy(spec: Value) -> NetworkPolicy {
    read(spec).expect("a policy")
}

/// The peers of the only ingress rule.
fn peers(from: Value) -> Option<Vec<Peer>> {
    let rules = policy(json!({"ingress": [{"from": from}]}))
        .ingress
        .expect("ingress");
    rules.into_iter().next().expect("a rule").peers
}

fn peer(from: Value) -> Peer {
    peers(json!([from])).expect("peers").remove(0)
}

/// The ports of the only ingress rule.
fn ports(ports: Value) -> Option<Vec<Port>> {
    let rules = policy(json!({"ingress": [{"ports": ports}]}))
        .ingress
        .expect("ingress");
    rules.into_iter().next().expect("a rule").ports
}

fn port(port: Value) -> Port {
    ports(json!([port])).expect("ports").remove(0)
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

fn block(cidr: &str, except: &[&str]) -> Peer {
    let except = except
        .iter()
        .map(|text| text.parse().expect("a CIDR"))
        .collect();
    Peer::IpBlock(IpBlock {
        cidr: cidr.parse().expect("a CIDR"),
        except,
    })
}

fn is_unsupported(peer: &Peer) -> bool {
    matches!(peer, Peer::Unsupported(_))
}

#[test]
fn semantics_2_no_rules_and_one_empty_rule_are_opposites() {
    let everything = PolicyRule {
        peers: None,
        ports: None,
    };
    assert_eq!(
        policy(json!({"policyTypes": ["Ingress"]})).ingress,
        Some(vec![])
    );
    assert_eq!(policy(json!({"ingress": []})).ingress, Some(vec![]));
    assert_eq!(policy(json!({"ingress": null})).ingress, Some(vec![]));
    assert_eq!(
        policy(json!({"ingress": [{}]})).ingress,
        Some(vec![everything])
    );
}

#[test]
fn semantics_8_an_absent_or_empty_pod_selector_selects_all_pods() {
    for spec in [
        json!({}),
        json!({"podSelector": {}}),
        json!({"podSelector": null}),
    ] {
        let policy = policy(spec);
        assert_eq!(policy.pod_selector, LabelSelector::default());
        assert!(policy.pod_selector.matches(&labels(&[("a", "b")])));
    }
}

#[test]
fn semantics_9_a_nil_selector_is_no_part_of_the_peer_and_an_empty_one_matches_all() {
    let all = LabelSelector::default;
    let own = Peer::Pods {
        namespaces: None,
        pods: all(),
    };
    assert_eq!(peer(json!({"podSelector": {}})), own);
    let every = Peer::Pods {
        namespaces: Some(all()),
        pods: all(),
    };
    assert_eq!(peer(json!({"namespaceSelector": {}})), every);
    assert_eq!(
        peer(json!({"namespaceSelector": {}, "podSelector": {}})),
        every
    );
    let chosen = peer(json!({"podSelector": {"matchLabels": {"app": "web"}}}));
    let Peer::Pods {
        namespaces: None,
        pods,
    } = chosen
    else {
        panic!("{chosen:?}")
    };
    assert!(pods.matches(&labels(&[("app", "web")])) && !pods.matches(&labels(&[])));
}

#[test]
fn semantics_10_an_empty_from_is_everyone_and_not_the_same_as_all_pods() {
    assert_eq!(peers(json!([])), None);
    assert_eq!(peers(json!(null)), None);
    assert!(peers(json!([{"namespaceSelector": {}}])).is_some());
}

#[test]
fn semantics_11_empty_ports_are_every_port_and_protocol() {
    assert_eq!(ports(json!([])), None);
    assert_eq!(ports(json!(null)), None);
}

#[test]
fn semantics_12_match_labels_and_expressions_are_anded() {
    let policy = policy(json!({"podSelector": {
        "matchLabels": {"app": "web"},
        "matchExpressions": [
            {"key": "tier", "operator": "In", "values": ["a", "b"]},
            {"key": "old", "operator": "DoesNotExist"},
            {"key": "env", "operator": "NotIn", "values": ["dev"]},
            {"key": "team", "operator": "Exists"},
        ],
    }}));
    let selector = policy.pod_selector;
    let fit = [("app", "web"), ("tier", "b"), ("team", "")];
    assert!(
        selector.matches(&labels(&fit)),
        "NotIn and DoesNotExist hold without the key"
    );
    assert!(
        !selector.matches(&labels(&[("app", "web"), ("team", "")])),
        "In needs the key"
    );
    for spoilt in [("tier", "c"), ("old", ""), ("env", "dev"), ("app", "db")] {
        let mut labels = labels(&fit);
        labels.insert(spoilt.0.to_owned(), spoilt.1.to_owned());
        assert!(!selector.matches(&labels), "{spoilt:?}");
    }
}

#[test]
fn semantics_13_a_selector_with_a_wrong_operator_is_an_error_at_the_object() {
    for expression in [
        json!({"key": "a", "operator": "in", "values": ["b"]}),
        json!({"key": "a", "operator": "Gt", "values": ["1"]}),
        json!({"key": "a", "operator": "In"}),
        json!({"key": "a", "operator": "NotIn", "values": []}),
        json!({"key": "a", "operator": "Exists", "values": ["b"]}),
        json!({"key": "a", "operator": "DoesNotExist", "values": ["b"]}),
    ] {
        let selector = json!({"matchExpressions": [expression]});
        let specs = [
            json!({"podSelector": selector}),
            json!({"ingress": [{"from": [{"podSelector": selector}]}]}),
            json!({"egress": [{}, {"to": [{"namespaceSelector": selector}]}]}),
        ];
        for spec in specs {
            let error = read(spec).expect_err("a wrong operator");
            assert_eq!(error.object(), Some("NetworkPolicy shop/p"));
        }
    }
}

#[test]
fn semantics_13_an_absent_selector_is_nobody_and_an_empty_one_everybody() {
    for absent in [
        json!({"podSelector": null, "namespaceSelector": null}),
        json!({"namespaceSelector": null}),
        json!({"ipBlock": null}),
    ] {
        assert_eq!(
            peer(absent),
            Peer::Unsupported("the peer names nobody".to_owned())
        );
    }
    for empty in [
        json!({}),
        json!({"matchLabels": {}}),
        json!({"matchLabels": null, "matchExpressions": []}),
    ] {
        let found = peer(json!({"namespaceSelector": empty, "podSelector": null}));
        let every = Peer::Pods {
            namespaces: Some(LabelSelector::default()),
            pods: LabelSelector::default(),
        };
        assert_eq!(found, every, "{empty}");
    }
}

#[test]
fn semantics_15_an_empty_value_matches_only_an_empty_value() {
    let selector = policy(json!({"podSelector": {"matchLabels": {"key": ""}}})).pod_selector;
    assert!(selector.matches(&labels(&[("key", "")])));
    assert!(!selector.matches(&labels(&[("key", "x")])));
    assert!(!selector.matches(&labels(&[])));
}

#[test]
fn semantics_16_what_cannot_match_stays_as_a_peer_and_is_never_left_out() {
    assert!(is_unsupported(&peer(json!({}))));
    assert_eq!(peers(json!([{}])).map(|peers| peers.len()), Some(1));
    let both = json!({"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}});
    assert!(is_unsupported(&peer(both)));
}

#[test]
fn semantics_19_an_absent_protocol_is_tcp_and_an_absent_port_every_port_of_it() {
    let any = |protocol| Port {
        protocol,
        port: PortMatch::Any,
    };
    assert_eq!(port(json!({})), any(Protocol::Tcp));
    assert_eq!(port(json!({"protocol": "UDP"})), any(Protocol::Udp));
    assert_eq!(port(json!({"protocol": "SCTP"})), any(Protocol::Sctp));
    let one = Port {
        protocol: Protocol::Tcp,
        port: PortMatch::Range(80, 80),
    };
    assert_eq!(port(json!({"port": 80})), one);
}

#[test]
fn semantics_20_an_unknown_protocol_matches_nothing_and_isolation_stands() {
    for protocol in ["tcp", "ICMP", "6", "TCP\n"] {
        let port = port(json!({"protocol": protocol, "port": 80}));
        assert!(
            matches!(port.port, PortMatch::Unsupported(_)),
            "{protocol:?}"
        );
    }
}

#[test]
fn semantics_20_an_unknown_protocol_costs_neither_its_rule_nor_the_policy_what_is_known() {
    let found = policy(json!({"ingress": [
        {"ports": [{"protocol": "QUIC", "port": 443}, {"protocol": "UDP", "port": 53}]},
        {"ports": [{"protocol": "QUIC"}]},
    ]}));
    let rules = found.ingress.expect("isolation stands");
    let ports = rules[0].ports.as_ref().expect("ports");
    let why = "protocol \"QUIC\" is unknown".to_owned();
    assert_eq!(ports[0].port, PortMatch::Unsupported(why));
    assert_eq!(ports[1].protocol, Protocol::Udp);
    assert_eq!(ports[1].port, PortMatch::Range(53, 53));
    let alone = rules[1].ports.as_ref().map(Vec::len);
    assert_eq!(alone, Some(1), "without it the rule would allow every port");
}

#[test]
fn semantics_22_a_named_port_is_of_its_entrys_protocol() {
    for (protocol, read) in [
        (json!(null), Protocol::Tcp),
        (json!(""), Protocol::Tcp),
        (json!("UDP"), Protocol::Udp),
        (json!("SCTP"), Protocol::Sctp),
    ] {
        let found = port(json!({"protocol": protocol, "port": "dns"}));
        let expected = Port {
            protocol: read,
            port: PortMatch::Named("dns".to_owned()),
        };
        assert_eq!(found, expected, "{protocol}");
    }
    let longest = port(json!({"port": "fifteen-letters"})).port;
    assert_eq!(longest, PortMatch::Named("fifteen-letters".to_owned()));
    let digits_first = port(json!({"port": "8080-a"})).port;
    assert_eq!(digits_first, PortMatch::Named("8080-a".to_owned()));
}

#[test]
fn semantics_26_a_rule_keeps_as_many_ports_as_it_has() {
    let many: Vec<Value> = (1..=40).map(|number| json!({"port": number})).collect();
    assert_eq!(ports(json!(many)).map(|ports| ports.len()), Some(40));
}

#[test]
fn semantics_22_a_named_port_keeps_its_name_if_it_is_one() {
    assert_eq!(
        port(json!({"port": "http"})).port,
        PortMatch::Named("http".to_owned())
    );
    for name in [
        "",
        "80",
        "-a",
        "a-",
        "a--b",
        "HTTP",
        "a b",
        "a\n",
        "sixteen-letters-",
    ] {
        let found = port(json!({"port": name})).port;
        assert!(matches!(found, PortMatch::Unsupported(_)), "{name:?}");
    }
}

#[test]
fn semantics_25_end_port_is_included_not_less_than_port_and_needs_a_number() {
    assert_eq!(
        port(json!({"port": 80, "endPort": 90})).port,
        PortMatch::Range(80, 90)
    );
    assert_eq!(
        port(json!({"port": 80, "endPort": 80})).port,
        PortMatch::Range(80, 80)
    );
    for wrong in [
        json!({"port": 80, "endPort": 79}),
        json!({"port": "http", "endPort": 90}),
        json!({"endPort": 90}),
        json!({"port": 0}),
        json!({"port": 65536}),
        json!({"port": -1}),
        json!({"port": 80, "endPort": 65536}),
        json!({"port": 80, "endPort": 0}),
        json!({"port": 80, "endPort": -1}),
    ] {
        let found = port(wrong.clone()).port;
        assert!(matches!(found, PortMatch::Unsupported(_)), "{wrong}");
    }
}

#[test]
fn semantics_27_rules_and_their_peers_and_ports_keep_together() {
    let rules = policy(json!({"ingress": [
        {"from": [{"podSelector": {}}], "ports": [{"port": 1}, {"port": 2}]},
        {"ports": [{"port": 3}]},
    ]}))
    .ingress
    .expect("ingress");
    let counts: Vec<_> = rules
        .iter()
        .map(|rule| {
            (
                rule.peers.as_ref().map(Vec::len),
                rule.ports.as_ref().map(Vec::len),
            )
        })
        .collect();
    assert_eq!(counts, [(Some(1), Some(2)), (None, Some(1))]);
}

#[test]
fn semantics_28_exceptions_are_of_their_own_peer_sorted_and_clipped_to_the_cidr() {
    let found = peers(json!([
        {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.9.0.0/16", "10.1.0.0/16", "10.1.0.0/16"]}},
        {"ipBlock": {"cidr": "10.0.0.0/8"}},
        {"ipBlock": {"cidr": "10.1.0.0/16", "except": ["10.0.0.0/8"]}},
        {"ipBlock": {"cidr": "10.1.0.0/16", "except": ["192.0.2.0/24"]}},
    ]));
    let expected = vec![
        block("10.0.0.0/8", &["10.1.0.0/16", "10.9.0.0/16"]),
        block("10.0.0.0/8", &[]),
        block("10.1.0.0/16", &["10.1.0.0/16"]),
        block("10.1.0.0/16", &[]),
    ];
    assert_eq!(found, Some(expected));
}

#[test]
fn semantics_30_odd_cidrs_are_read_and_bad_ones_match_nothing_without_costing_the_policy() {
    for (text, cidr) in [
        ("10.0.0.5/8", "10.0.0.0/8"),
        ("010.000.0.0/08", "10.0.0.0/8"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("2001:db8::1/32", "2001:db8::/32"),
    ] {
        assert_eq!(
            peer(json!({"ipBlock": {"cidr": text}})),
            block(cidr, &[]),
            "{text}"
        );
    }
    for text in [
        "",
        "10.0.0.0",
        "10.0.0/8",
        "10.0.0.0/33",
        "10.0.0.256/8",
        "::/129",
        "a/8",
        "10.0.0.0/8\n",
        "::ffff:10.0.0.0/104",
        "1.2.3.4.5/8",
        "10.0.0.0/-1",
        "10.0.0.0/+8",
    ] {
        assert!(
            is_unsupported(&peer(json!({"ipBlock": {"cidr": text}}))),
            "{text:?}"
        );
        let except = json!({"ipBlock": {"cidr": "0.0.0.0/0", "except": [text]}});
        assert!(is_unsupported(&peer(except)), "{text:?}");
    }
    let mixed = policy(json!({"ingress": [{"from": [
        {"ipBlock": {"cidr": "bad"}}, {"ipBlock": {"cidr": "10.0.0.0/8"}},
    ]}]}));
    let rules = mixed.ingress.expect("isolation stands");
    let peers = rules[0].peers.as_ref().expect("peers");
    assert!(is_unsupported(&peers[0]));
    assert_eq!(peers[1], block("10.0.0.0/8", &[]));
}

#[test]
fn semantics_31_an_exception_of_the_other_family_is_never_taken_for_one_of_this() {
    let mixed = json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["fd00::/8"]}});
    assert!(is_unsupported(&peer(mixed)));
}

#[test]
fn semantics_56_policy_types_default_to_ingress_and_to_egress_only_with_egress_rules() {
    for (spec, ingress, egress) in [
        (json!({}), true, false),
        (json!({"egress": []}), true, false),
        (json!({"egress": [{}]}), true, true),
        (json!({"policyTypes": [], "egress": [{}]}), true, true),
        (json!({"policyTypes": ["Egress"]}), false, true),
        (json!({"policyTypes": ["Ingress", "Egress"]}), true, true),
        (json!({"policyTypes": null, "egress": null}), true, false),
        (json!({"policyTypes": ["Ingress", "Ingress"]}), true, false),
    ] {
        let policy = policy(spec.clone());
        assert_eq!(
            (policy.ingress.is_some(), policy.egress.is_some()),
            (ingress, egress),
            "{spec}"
        );
    }
    assert!(read(json!({"policyTypes": ["ingress"]})).is_err());
}

#[test]
fn semantics_57_rules_of_a_direction_that_is_not_listed_are_ignored() {
    assert_eq!(
        policy(json!({"policyTypes": ["Ingress"], "egress": [{}]})).egress,
        None
    );
    assert_eq!(
        policy(json!({"policyTypes": ["Egress"], "ingress": [{}]})).ingress,
        None
    );
}

#[test]
fn a_field_with_a_slip_of_the_pen_is_an_error_that_names_it() {
    for (spec, field) in [
        (json!({"podSelecter": {}}), "spec.podSelecter"),
        (json!({"ingress": [{"form": []}]}), "spec.ingress[0].form"),
        (
            json!({"ingress": [{}, {"from": [{"podSelector": {"app": "x"}}]}]}),
            "spec.ingress[1].from[0].podSelector.app",
        ),
        (
            json!({"ingress": [{"ports": [{"prot": "UDP"}]}]}),
            "spec.ingress[0].ports[0].prot",
        ),
    ] {
        let message = read(spec).expect_err(field).to_string();
        assert_eq!(
            message,
            format!("NetworkPolicy shop/p: {field} is not a known field")
        );
    }
}

proptest! {
    #[test]
    fn no_cidr_text_panics_and_what_is_read_has_no_host_bits(text in "[0-9a-f:./]{0,24}") {
        if let Some(cidr) = legacy_cidr::read(&text) {
            prop_assert_eq!(cidr, cidr.trunc());
        }
    }

    #[test]
    fn a_canonical_cidr_is_read_as_it_is(bits in any::<u32>(), length in 0_u8..=32) {
        let net = ipnet::Ipv4Net::new(bits.into(), length).expect("a length").trunc();
        prop_assert_eq!(legacy_cidr::read(&net.to_string()), Some(IpNet::V4(net)));
    }

    #[test]
    fn every_exception_lies_in_its_cidr(
        cidr in (any::<u32>(), 0_u8..=32), except in prop::collection::vec((any::<u32>(), 0_u8..=32), 0..4)
    ) {
        let text = |(bits, length): (u32, u8)| format!("{}/{length}", std::net::Ipv4Addr::from(bits));
        let except: Vec<String> = except.into_iter().map(text).collect();
        let found = peer(json!({"ipBlock": {"cidr": text(cidr), "except": except}}));
        let Peer::IpBlock(block) = found else { panic!("{found:?}") };
        prop_assert!(block.except.iter().all(|net| block.cidr.contains(net)));
    }
}
