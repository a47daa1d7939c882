//! No word from outside changes the lines of a restore (DESIGN.md invariant 10).

use api::resources::*;
use api::{LabelSelector, NamespacedName};
use netfilter::{Actual, ActualSets, Effort, plan, plan_sets};
use proptest::prelude::*;

use super::fixture::*;
use crate::{Compiled, Endpoint};

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

fn requirement(key: &str, value: &str) -> LabelSelector {
    let mut chosen = LabelSelector::default();
    let values = [value.to_owned()].into();
    chosen
        .requirements
        .insert(api::labels::Requirement::In(key.to_owned(), values));
    chosen
}

/// The same cluster with these words in every field that has words.
fn cluster(words: &[String]) -> Cluster {
    let [namespace, name, uid, key, value, port_name, interface] = words else {
        unreachable!()
    };
    let mut cluster = Cluster::default();
    let labels: api::Labels = [(key.clone(), value.clone())].into();
    cluster.namespaces.push(Namespace {
        name: namespace.clone(),
        labels: labels.clone(),
    });
    let mut one = pod("a/x", "", &["10.0.0.1", "fd00::1"]);
    one.name = NamespacedName::new(namespace, name);
    (one.uid, one.labels, one.node_name) = (uid.clone(), labels, Some(name.clone()));
    let endpoint = Endpoint {
        pod: one.name.clone(),
        uid: uid.clone(),
        addresses: one.pod_ips.clone(),
    };
    cluster
        .endpoints
        .insert(interface.clone(), endpoint.clone());
    cluster
        .endpoints
        .insert("ptl00000000001".to_owned(), endpoint);
    cluster.pods.push(one);
    let mut isolating = policy("a/p", "");
    isolating.name = NamespacedName::new(namespace, name);
    isolating.pod_selector = requirement(key, value);
    let peer = Peer::Pods {
        namespaces: Some(requirement(key, value)),
        pods: requirement(key, value),
    };
    let named = Port {
        protocol: Protocol::Tcp,
        port: PortMatch::Named(port_name.clone()),
    };
    let odd = Port {
        protocol: Protocol::Tcp,
        port: PortMatch::Unsupported(port_name.clone()),
    };
    let rules = vec![
        rule(Some(vec![peer, Peer::Unsupported(value.clone())]), None),
        rule(None, Some(vec![named, odd])),
    ];
    (isolating.ingress, isolating.egress) = (Some(rules.clone()), Some(rules));
    cluster.policies.push(isolating);
    cluster
}

fn lines(compiled: &Compiled) -> Vec<String> {
    let mut lines = Vec::new();
    for family in [&compiled.v4, &compiled.v6] {
        let sets = plan_sets(&ActualSets::default(), &family.sets)
            .before
            .unwrap_or_default();
        let rules = plan(&Actual::default(), &family.rules, Effort::Exact)
            .restore
            .unwrap_or_default();
        lines.extend(format!("{sets}{rules}").split('\n').map(str::to_owned));
    }
    lines
}

/// A line with every hash replaced, and of each line only its first word and its length in words.
fn shape(line: &str) -> (String, usize) {
    let words: Vec<&str> = line.split(' ').collect();
    (
        words[0].split('-').next().unwrap_or_default().to_owned(),
        words.len(),
    )
}

proptest! {
    #[test]
    fn words_in_every_field_leave_the_lines_as_they_are(
        words in prop::collection::vec(word(), 7)
    ) {
        // A refused interface name is left out, as if no such endpoint were there.
        let mut harmless = ["ns", "pod", "uid", "key", "value", "port", "!"].map(str::to_owned).to_vec();
        if netfilter::InterfaceName::new(&words[6]).is_ok() {
            harmless[6].clone_from(&words[6]);
        }
        let hostile = lines(&cluster(&words).compile());
        let plain = lines(&cluster(&harmless).compile());
        let sorted = |lines: &[String]| {
            let mut shapes: Vec<_> = lines.iter().map(|line| shape(line)).collect();
            shapes.sort();
            shapes
        };
        prop_assert_eq!(sorted(&hostile), sorted(&plain));
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
