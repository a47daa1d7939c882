//! The table against a judge that reads the specification word by word and keeps no index.

use proptest::prelude::*;
use proptest::sample::select;

use super::*;

/// A rule's path: host, type, path, Service; the order is that of age.
type Flat = (&'static str, &'static str, String, &'static str);

const HOSTS: [&str; 5] = ["", "foo.com", "*.foo.com", "bar.foo.com", "*.bar.foo.com"];
const ASKED: [&str; 6] = [
    "foo.com",
    "bar.foo.com",
    "baz.foo.com",
    "a.bar.foo.com",
    "a.b.foo.com",
    "x.org",
];

fn flat() -> impl Strategy<Value = Flat> {
    let types = select(vec!["Exact", "Prefix", "ImplementationSpecific"]);
    (
        select(HOSTS.to_vec()),
        types,
        paths(),
        select(vec!["a", "b", "c", "d", "e"]),
    )
}

fn paths() -> impl Strategy<Value = String> {
    let elements = prop::collection::vec(select(vec!["a", "b", "aa"]), 0..4);
    (elements, any::<bool>()).prop_map(|(elements, slash)| match elements.is_empty() {
        true => "/".to_owned(),
        false => format!("/{}{}", elements.join("/"), if slash { "/" } else { "" }),
    })
}

/// How specifically a rule's host matches; none where it does not.
fn host_match(rule: &str, host: &str) -> Option<u8> {
    if rule.is_empty() {
        return Some(0);
    }
    if let Some(suffix) = rule.strip_prefix('*') {
        let label = host.strip_suffix(suffix)?;
        return (!label.is_empty() && !label.contains('.')).then_some(1);
    }
    (rule == host).then_some(2)
}

/// "Matching is done on a path element by element basis. A path element refers to the list of labels in the path split by the / separator."
fn elements(path: &str) -> Vec<&str> {
    path.split('/')
        .filter(|element| !element.is_empty())
        .collect()
}

/// The rule that decides: most specific host that has any rule; among its paths the longest match, Exact first, the older first.
fn judge<'a>(rules: &'a [Flat], host: &str, path: &str) -> Option<&'a Flat> {
    let best = rules
        .iter()
        .filter_map(|(rule, ..)| host_match(rule, host))
        .max()?;
    let mut found: Option<(&Flat, (bool, usize))> = None;
    for rule in rules {
        let (of, path_type, own, _) = rule;
        if host_match(of, host) != Some(best) {
            continue;
        }
        let is_exact = *path_type == "Exact";
        let matches = match is_exact {
            true => own == path,
            false => elements(path).starts_with(&elements(own)),
        };
        let rank = (is_exact, elements(own).len());
        if matches && found.is_none_or(|(_, known)| rank > known) {
            found = Some((rule, rank));
        }
    }
    found.map(|(rule, _)| rule)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_rules_lead_every_request_where_the_specification_says(
        rules in prop::collection::vec(flat(), 0..12),
        asked_for in prop::collection::vec(paths(), 8),
        split in 1_usize..4,
    ) {
        let ingresses = rules.chunks(split).zip(1..).map(|(part, age)| {
            let rules: Vec<Value> = part
                .iter()
                .map(|(host, path_type, own, service)| rule(host, &[path(path_type, own, service)]))
                .collect();
            // The name's order is not the age's.
            ingress(&format!("i{}", 60 - age), age, &json!({"rules": rules}))
        });
        let compiled = compiled(&world(&ingresses.collect::<Vec<_>>()));
        for host in ASKED {
            for path in &asked_for {
                let wanted = judge(&rules, host, path).map_or("-", |(.., service)| service);
                prop_assert_eq!(asked(&compiled, host, path), wanted, "{} {}", host, path);
            }
        }
        let conflicts = compiled.problems.iter().filter(|problem| problem.reason == Reason::PathConflict);
        let mut places = BTreeSet::new();
        let repeated = rules.iter().filter(|(host, path_type, own, _)| {
            let is_exact = *path_type == "Exact";
            let form = if is_exact { own.clone() } else { elements(own).join("/") };
            !places.insert((*host, is_exact, form))
        });
        // Each that has no place is told, unless its own Ingress repeats itself word by word.
        prop_assert!(conflicts.count() <= repeated.count());
    }
}
