//! No word of a ClusterNetworkPolicy reaches a kernel program's text (ARCHITECTURE.md invariant 10).
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

use std::collections::BTreeMap;

use api::labels::Requirement;
use api::resources::{
    ClusterAction, ClusterNetworkPolicy, ClusterPeer, ClusterPort, ClusterRule, ClusterSubject,
    ContainerPort, Namespace, NamespacedPods, Pod, Protocol, Tier,
};
use api::{Change, Key, LabelSelector, NamespacedName, Resource};
use netfilter::{Actual, ActualSets, Effort, plan, plan_sets};
use policy::{Endpoint, Index};
use proptest::prelude::*;

fn word() -> impl Strategy<Value = String> {
    let bad = [
        "\n-A FORWARD -j ACCEPT",
        "\nCOMMIT\n",
        "\"",
        "'",
        "\\",
        "\0",
        "../..",
        "\r",
        " -j ACCEPT",
        "$(id)",
    ];
    prop_oneof![
        prop::collection::vec(prop::sample::select(bad.to_vec()), 1..4)
            .prop_map(|words| words.concat()),
        any::<String>(),
    ]
}

fn selector(key: &str, value: &str) -> LabelSelector {
    let requirement = Requirement::In(key.to_owned(), [value.to_owned()].into());
    LabelSelector {
        requirements: [requirement].into(),
    }
}

/// A policy that has these words wherever it has words.
fn cluster_policy(words: &[String], tier: Tier) -> ClusterNetworkPolicy {
    let [name, rule_name, key, value, port_name] = words else {
        unreachable!()
    };
    let pods = NamespacedPods {
        namespaces: selector(key, value),
        pods: selector(key, value),
    };
    let rule = |action, peers| ClusterRule {
        name: rule_name.clone(),
        action,
        peers,
        protocols: Some(vec![ClusterPort::Named(port_name.clone())]),
    };
    let rules = |extra: Vec<ClusterPeer>| {
        vec![
            rule(
                ClusterAction::Accept,
                vec![
                    ClusterPeer::Pods(pods.clone()),
                    ClusterPeer::Unsupported(value.clone()),
                ],
            ),
            rule(ClusterAction::Pass, vec![ClusterPeer::Pods(pods.clone())]),
            rule(ClusterAction::Deny, extra),
            ClusterRule {
                protocols: Some(vec![ClusterPort::Unsupported(value.clone())]),
                ..rule(ClusterAction::Deny, vec![ClusterPeer::Pods(pods.clone())])
            },
        ]
    };
    ClusterNetworkPolicy {
        name: name.clone(),
        tier,
        priority: 7,
        subject: ClusterSubject::Pods(pods.clone()),
        ingress: rules(vec![ClusterPeer::Unsupported(rule_name.clone())]),
        egress: rules(vec![ClusterPeer::Nodes(selector(key, value))]),
    }
}

/// The lines of both families' restores, for a pod that the policy selects.
fn lines(words: &[String], tier: Option<Tier>) -> Vec<String> {
    let [name, _, key, value, port_name] = words else {
        unreachable!()
    };
    let labels: api::Labels = [(key.clone(), value.clone())].into();
    let pod = Pod {
        name: NamespacedName::new(name, name),
        uid: value.clone(),
        labels: labels.clone(),
        node_name: Some(name.clone()),
        host_network: false,
        finished: false,
        pod_ips: vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
        fixed_ips: Vec::new(),
        named_ports: vec![ContainerPort {
            name: port_name.clone(),
            protocol: Protocol::Tcp,
            port: 80,
        }],
    };
    let endpoint = Endpoint {
        pod: pod.name.clone(),
        uid: value.clone(),
        addresses: pod.pod_ips.clone(),
    };
    let namespace = Namespace {
        name: name.clone(),
        labels,
    };
    let mut resources = vec![
        (Key::Namespace(name.clone()), Resource::Namespace(namespace)),
        (Key::Pod(pod.name.clone()), Resource::Pod(pod)),
    ];
    if let Some(tier) = tier {
        let policy = cluster_policy(words, tier);
        let key = Key::ClusterNetworkPolicy(policy.name.clone());
        resources.push((key, Resource::ClusterNetworkPolicy(policy)));
    }
    let mut index = Index::new();
    for (key, value) in resources {
        let value = Some(value);
        index.handle(&Change { key, value });
    }
    index.set_endpoints(BTreeMap::from([("ptl00000000001".to_owned(), endpoint)]));
    let compiled = index.compile();
    let mut lines = Vec::new();
    for family in [&compiled.v4, &compiled.v6] {
        let sets = plan_sets(&ActualSets::default(), &family.sets).before;
        let rules = plan(&Actual::default(), &family.rules, Effort::Exact).restore;
        let text = format!("{}{}", sets.unwrap_or_default(), rules.unwrap_or_default());
        lines.extend(text.split('\n').map(str::to_owned));
    }
    lines
}

/// Of each line its first word without a hash, and its length in words, sorted.
fn shapes(lines: &[String]) -> Vec<(String, usize)> {
    let shape = |line: &String| {
        let mut words = line.split(' ');
        let first = words.next().unwrap_or_default().split('-').next();
        (first.unwrap_or_default().to_owned(), words.count())
    };
    let mut shapes: Vec<_> = lines.iter().map(shape).collect();
    shapes.sort();
    shapes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn words_in_every_field_of_a_cluster_policy_leave_the_lines_as_they_are(
        words in prop::collection::vec(word(), 5), baseline in any::<bool>()
    ) {
        let tier = if baseline { Tier::Baseline } else { Tier::Admin };
        let harmless = ["name", "rule", "key", "value", "port"].map(str::to_owned);
        let hostile = lines(&words, Some(tier));
        let plain = lines(&harmless, Some(tier));
        prop_assert!(plain.len() > lines(&harmless, None).len() + 8, "the policy is compiled");
        prop_assert_eq!(shapes(&hostile), shapes(&plain));
        for line in hostile {
            let plain = |c: char| c.is_ascii_alphanumeric() || " -_.:,/*+!\"[]".contains(c);
            prop_assert!(line.chars().all(plain), "{:?}", line);
            let quotes = line.matches('"').count();
            prop_assert!(quotes == 0 || quotes == 2, "{:?}", line);
            // A word that climbs in a path; an interface may well be named "A..".
            let mut parts = line.split([' ', '/', '"']);
            prop_assert!(parts.all(|part| part != ".."), "{:?}", line);
        }
    }
}
