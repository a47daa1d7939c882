//! Peers and protocols: what is read of them, and that a wrong one fails closed on its own.

use proptest::prelude::*;

use super::*;

#[test]
fn semantics_66_ingress_peers_are_pods_only() {
    assert_eq!(
        from(json!({"namespaces": {}})),
        ClusterPeer::Pods(all_pods())
    );
    let pods = from(json!({"pods": {"podSelector": {"matchLabels": {"app": "web"}}}}));
    let ClusterPeer::Pods(pods) = pods else {
        panic!("{pods:?}")
    };
    assert!(pods.namespaces.matches(&labels(&[])));
    assert!(pods.pods.matches(&labels(&[("app", "web")])) && !pods.pods.matches(&labels(&[])));
    for peer in [
        json!({"networks": ["10.0.0.0/8"]}),
        json!({"nodes": {}}),
        json!({"domainNames": ["a.b"]}),
    ] {
        let found = from(peer.clone());
        assert!(
            why(&found).starts_with("spec.ingress[0].from[0]: "),
            "{peer}"
        );
    }
}

#[test]
fn semantics_66_egress_peers_are_pods_nodes_networks_and_domain_names() {
    assert_eq!(to(json!({"namespaces": {}})), ClusterPeer::Pods(all_pods()));
    let nodes = to(json!({"nodes": {"matchLabels": {"role": "edge"}}}));
    let ClusterPeer::Nodes(nodes) = nodes else {
        panic!("{nodes:?}")
    };
    assert!(nodes.matches(&labels(&[("role", "edge")])) && !nodes.matches(&labels(&[])));
    let names = to(json!({"domainNames": ["*.Example.com.", "a.b", "A.b"]}));
    let expected = ["a.b", "*.example.com"].map(|name| DomainName::new(name).expect("a name"));
    let ClusterPeer::DomainNames(found) = names else {
        panic!("{names:?}")
    };
    assert_eq!(found.len(), 2, "one was there twice");
    assert!(expected.iter().all(|name| found.contains(name)));
}

#[test]
fn semantics_66_networks_are_masked_sorted_and_of_both_families() {
    let found = to(json!({"networks": ["fd00::1/8", "10.0.0.5/8", "0.0.0.0/0", "10.0.0.0/8"]}));
    let nets = ["0.0.0.0/0", "10.0.0.0/8", "fd00::/8"].map(|net| net.parse().expect("a CIDR"));
    assert_eq!(found, ClusterPeer::Networks(nets.to_vec()));
    for text in [
        "",
        "10.0.0.0",
        "10.0.0.0/33",
        "10.0.0/8",
        "::ffff:10.0.0.0/104",
        "fd00::/129",
        "10.0.0.0/8\n",
        "all",
    ] {
        let found = to(json!({"networks": ["10.0.0.0/8", text]}));
        assert!(why(&found).contains("is no CIDR"), "{text:?}");
    }
    assert!(why(&to(json!({"networks": []}))).contains("empty"));
    assert!(why(&to(json!({"networks": "10.0.0.0/8"}))).contains("sequence"));
}

#[test]
fn semantics_66_domain_names_are_names_with_a_dot_and_for_accept_only() {
    for text in [
        "", "*", "com", "com.", "*.com", "*.", "a.*.b", "*a.b", "**.a.b", "a b.c", "a.b\n", "a..b",
        ".a.b", "a.b..",
    ] {
        let found = to(json!({"domainNames": [text]}));
        assert!(why(&found).contains("domainNames"), "{text:?}");
    }
    assert!(why(&to(json!({"domainNames": []}))).contains("empty"));
    for action in ["Deny", "Pass"] {
        let rule = egress(json!({"action": action, "to": [{"domainNames": ["a.b"]}]}));
        let reason = "spec.egress[0].to[0]: domainNames are for rules that accept only";
        assert_eq!(why(&rule.peers[0]), reason);
    }
}

#[test]
fn semantics_67_an_empty_or_unknown_peer_fails_closed_on_its_own() {
    for peer in [
        json!({}),
        json!(null),
        json!("x"),
        json!({"namespaces": null}),
        json!({"serviceAccounts": {"name": "x"}}),
        json!({"namespaces": {}, "serviceAccounts": {"name": "x"}}),
        json!({"namespaces": {}, "pods": {"podSelector": {}}}),
        json!({"namespaces": {"matchLabel": {"a": "b"}}}),
        json!({"pods": {"podSelector": {"app": "web"}}}),
        json!({"pods": {"namespaceSelector": {}}}),
        json!({"pods": {"podSelector": {}, "later": 1}}),
        json!({"namespaces": {"matchExpressions": [{"key": "a", "operator": "In"}]}}),
        json!({"namespaces": {"matchExpressions": [{"key": "a", "operator": "Exists", "later": 1}]}}),
    ] {
        let rule = json!({"action": "Deny", "from": [{"namespaces": {}}, peer.clone()]});
        let peers = ingress(rule).peers;
        assert_eq!(peers[0], ClusterPeer::Pods(all_pods()), "{peer}");
        assert!(why(&peers[1]).starts_with("spec.ingress[0].from[1]: "));
        assert!(why(&to(peer)).starts_with("spec.egress[0].to[0]: "));
    }
    let mixed = to(json!({"nodes": {}, "networks": ["10.0.0.0/8"]}));
    assert!(why(&mixed).contains("only one of"));
}

#[test]
fn semantics_67_a_rule_without_peers_or_with_an_unknown_field_fails_closed() {
    let several = vec![json!({"namespaces": {}}); 26];
    for (rule, word) in [
        (json!({"action": "Accept"}), "to: is missing"),
        (json!({"action": "Accept", "to": null}), "to: is missing"),
        (json!({"action": "Accept", "to": []}), "to: is empty"),
        (
            json!({"action": "Accept", "to": {"namespaces": {}}}),
            "to: is no list",
        ),
        (json!({"action": "Deny", "to": several}), "to: 26 entries"),
        (
            json!({"action": "Accept", "to": [{"namespaces": {}}], "sourcePorts": [1]}),
            "spec.egress[0].sourcePorts is not a known field",
        ),
        (
            json!({"action": "Accept", "to": [{"namespaces": {}}], "from": []}),
            "spec.egress[0].from is not a known field",
        ),
    ] {
        let peers = egress(rule).peers;
        assert_eq!(peers.len(), 1);
        assert!(why(&peers[0]).contains(word), "{peers:?}");
    }
    let tolerated = json!({"action": "Deny", "to": [{"namespaces": {}}], "later": null});
    assert_eq!(egress(tolerated).peers, [ClusterPeer::Pods(all_pods())]);
}

#[test]
fn semantics_67_lists_within_a_peer_have_at_most_25_entries() {
    let nets: Vec<String> = (0..26).map(|index| format!("10.{index}.0.0/16")).collect();
    let names: Vec<String> = (0..26).map(|index| format!("n{index}.example")).collect();
    let fits = to(json!({"networks": nets[..25]}));
    assert!(matches!(fits, ClusterPeer::Networks(nets) if nets.len() == 25));
    let fits = to(json!({"domainNames": names[..25]}));
    assert!(matches!(fits, ClusterPeer::DomainNames(names) if names.len() == 25));
    assert!(why(&to(json!({"networks": nets}))).contains("26 entries"));
    assert!(why(&to(json!({"domainNames": names}))).contains("26 entries"));
}

#[test]
fn semantics_68_a_protocol_is_one_of_three_with_a_port_or_a_range_or_a_named_port() {
    let range = |protocol, first, last| {
        ClusterPort::Port(Port {
            protocol,
            port: PortMatch::Range(first, last),
        })
    };
    let port = |number: i64| json!({"destinationPort": {"number": number}});
    assert_eq!(
        protocol(json!({"tcp": port(80)})),
        range(Protocol::Tcp, 80, 80)
    );
    assert_eq!(
        protocol(json!({"udp": port(53), "tcp": null, "destinationNamedPort": ""})),
        range(Protocol::Udp, 53, 53)
    );
    let ports = json!({"sctp": {"destinationPort": {"range": {"start": 1, "end": 65_535}}}});
    assert_eq!(protocol(ports), range(Protocol::Sctp, 1, 65_535));
    let named = protocol(json!({"destinationNamedPort": "http"}));
    assert_eq!(named, ClusterPort::Named("http".to_owned()));
}

#[test]
fn semantics_67_an_empty_or_unknown_protocol_fails_closed_on_its_own() {
    let range = |start: i64, end: i64| json!({"tcp": {"destinationPort": {"range": {"start": start, "end": end}}}});
    for entry in [
        json!({}),
        json!(null),
        json!("TCP"),
        json!({"icmp": {}}),
        json!({"tcp": {}}),
        json!({"tcp": {"sourcePort": {"number": 1}}}),
        json!({"tcp": {"destinationPort": {"number": 1}, "flags": 2}}),
        json!({"tcp": {"destinationPort": {}}}),
        json!({"tcp": {"destinationPort": {"number": 0}}}),
        json!({"tcp": {"destinationPort": {"number": -1}}}),
        json!({"tcp": {"destinationPort": {"number": 65_536}}}),
        json!({"tcp": {"destinationPort": {"number": "80"}}}),
        json!({"tcp": {"destinationPort": {"number": 1, "range": {"start": 1, "end": 2}}}}),
        json!({"tcp": {"destinationPort": {"range": {"start": 1}}}}),
        range(2, 2),
        range(3, 2),
        range(0, 2),
        range(1, 65_536),
        json!({"tcp": {"destinationPort": {"number": 1}}, "udp": {"destinationPort": {"number": 1}}}),
        json!({"tcp": {"destinationPort": {"number": 1}}, "destinationNamedPort": "http"}),
        json!({"destinationNamedPort": "HTTP"}),
        json!({"destinationNamedPort": "80"}),
        json!({"destinationNamedPort": "a\nb"}),
        json!({"destinationNamedPort": 80}),
    ] {
        let good = json!({"tcp": {"destinationPort": {"number": 443}}});
        let rule = json!({"action": "Accept", "to": [{"namespaces": {}}], "protocols": [good, entry.clone()]});
        let protocols = egress(rule).protocols.expect("protocols");
        assert!(matches!(protocols[0], ClusterPort::Port(_)));
        let why = why_port(&protocols[1]);
        assert!(
            why.starts_with("spec.egress[0].protocols[1]: "),
            "{entry}: {why}"
        );
    }
}

#[test]
fn semantics_68_empty_protocols_are_all_traffic_and_more_than_25_fail_closed() {
    let rule =
        |protocols: Value| json!({"action": "Deny", "to": [{"nodes": {}}], "protocols": protocols});
    assert_eq!(egress(rule(json!(null))).protocols, None);
    assert_eq!(egress(rule(json!([]))).protocols, None);
    let entry = json!({"tcp": {"destinationPort": {"number": 1}}});
    let fits = egress(rule(json!(vec![entry.clone(); 25]))).protocols;
    assert_eq!(fits.map(|protocols| protocols.len()), Some(25));
    for wrong in [json!(vec![entry.clone(); 26]), json!({}), entry] {
        let protocols = egress(rule(wrong)).protocols.expect("never all traffic");
        assert_eq!(protocols.len(), 1);
        assert!(why_port(&protocols[0]).starts_with("spec.egress[0].protocols: "));
    }
}

#[test]
fn semantics_68_a_named_port_stands_beside_pods_only() {
    let rule = |peer: Value| {
        egress(json!({
            "action": "Deny",
            "to": [{"namespaces": {}}, peer],
            "protocols": [{"destinationNamedPort": "http"}, {"tcp": {"destinationPort": {"number": 80}}}],
        }))
    };
    for peer in [json!({"networks": ["10.0.0.0/8"]}), json!({"nodes": {}})] {
        let protocols = rule(peer).protocols.expect("protocols");
        assert!(why_port(&protocols[0]).contains("destinationNamedPort"));
        assert!(matches!(protocols[1], ClusterPort::Port(_)));
    }
    let pods = rule(json!({"pods": {"podSelector": {}}}));
    let protocols = pods.protocols.expect("protocols");
    assert_eq!(protocols[0], ClusterPort::Named("http".to_owned()));
    let named = json!({"action": "Accept", "to": [{"domainNames": ["a.b"]}],
        "protocols": [{"destinationNamedPort": "http"}]});
    let protocols = egress(named).protocols.expect("protocols");
    assert!(why_port(&protocols[0]).contains("destinationNamedPort"));
}

/// Whether a text could break a line or steer a terminal.
fn is_raw(text: &str) -> bool {
    text.contains(char::is_control)
}

fn hostile() -> impl Strategy<Value = String> {
    "[a-z]{0,3}[\"'\\\\\n\r\0\u{1b}\u{85}/; $`|{}A-Z]{1,3}[a-z]{0,400}"
}

fn fields() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(json!(null)),
        Just(json!({})),
        Just(json!("Accept")),
        any::<i32>().prop_map(Value::from),
        hostile().prop_map(Value::from),
    ];
    let names = vec![
        "action",
        "from",
        "to",
        "name",
        "protocols",
        "namespaces",
        "pods",
        "nodes",
        "networks",
        "domainNames",
        "podSelector",
        "matchLabels",
        "tcp",
        "destinationPort",
        "number",
        "range",
        "destinationNamedPort",
        "later",
    ];
    let name = prop_oneof![
        9 => prop::sample::select(names).prop_map(str::to_owned),
        1 => hostile(),
    ];
    leaf.prop_recursive(5, 48, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(name.clone(), inner, 0..5)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

fn reasons(policy: &ClusterNetworkPolicy) -> Vec<&str> {
    let subject = match &policy.subject {
        ClusterSubject::Unsupported(why) => Some(why.as_str()),
        ClusterSubject::Pods(_) => None,
    };
    let rules = || policy.ingress.iter().chain(&policy.egress);
    let peers = rules().flat_map(|rule| &rule.peers);
    let peers = peers.filter_map(|peer| match peer {
        ClusterPeer::Unsupported(why) => Some(why.as_str()),
        _ => None,
    });
    let ports = rules().flat_map(|rule| rule.protocols.iter().flatten());
    let ports = ports.filter_map(|port| match port {
        ClusterPort::Unsupported(why) => Some(why.as_str()),
        _ => None,
    });
    subject.into_iter().chain(peers).chain(ports).collect()
}

proptest! {
    #[test]
    fn hostile_text_in_a_name_is_never_taken_and_no_message_bears_it_raw(name in hostile()) {
        let value = json!({"metadata": {"name": name}, "spec": spec(json!({}))});
        let error = parse("ClusterNetworkPolicy", "policy.networking.k8s.io/v1alpha2", value.clone());
        prop_assert!(!is_raw(&error.expect_err("no name").to_string()));
        let older = parse("AdminNetworkPolicy", "policy.networking.k8s.io/v1alpha1", value);
        prop_assert!(!is_raw(&older.expect_err("an older kind").to_string()));
    }

    #[test]
    fn hostile_text_anywhere_is_quoted_and_cut_short_in_every_reason(text in hostile()) {
        let peers = json!([
            {text.clone(): 1}, {"networks": [text]}, {"domainNames": [text]}, {"namespaces": text},
            {"namespaces": {"matchExpressions": [{"key": text, "operator": text}]}},
            {"pods": {"podSelector": {"matchLabels": {text.clone(): text}}}},
        ]);
        let policy = policy(json!({
            "subject": {text.clone(): {}},
            "egress": [
                {"name": "", "action": "Accept", "to": peers, "protocols": [
                    {"destinationNamedPort": text}, {text.clone(): {}}, {"tcp": text},
                ]},
                {"action": "Accept", "to": [{"namespaces": {}}], text: 1},
            ],
        }));
        let reasons = reasons(&policy);
        prop_assert_eq!(reasons.len(), 10, "{:?}", reasons);
        for why in reasons {
            prop_assert!(!is_raw(why), "{:?}", why);
            prop_assert!(why.chars().count() <= 400, "{}", why.len());
        }
    }

    #[test]
    fn whatever_a_rule_is_it_is_refused_or_fails_closed(rule in fields(), action in 0_usize..3) {
        let mut rule = rule;
        if let Some(fields) = rule.as_object_mut() {
            fields.insert("action".to_owned(), json!(["Accept", "Deny", "Pass"][action]));
        }
        match read(spec(json!({"egress": [rule], "ingress": [rule]}))) {
            Err(error) => prop_assert!(!is_raw(&error.to_string())),
            Ok(policy) => {
                for rule in policy.ingress.iter().chain(&policy.egress) {
                    prop_assert!(!rule.peers.is_empty(), "a rule without peers would match everyone");
                    prop_assert!(rule.protocols.as_ref().is_none_or(|list| !list.is_empty()));
                }
                for why in reasons(&policy) {
                    prop_assert!(!is_raw(why), "{:?}", why);
                }
            }
        }
    }
}
