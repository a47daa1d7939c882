//! Objects with every field that upstream has: each field is in the report, and known by name.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::super::input::read;
use super::super::report::{UNKNOWN, leaves};
use super::*;

const CALICO: &str = include_str!("calico.yaml");
const METALLB: &str = include_str!("metallb.yaml");
const KUBE_ROUTER: &str = include_str!("kube-router.yaml");

/// How many values stand in the objects of a text, and how many of them the report names: by their own path or one they stand in.
fn accounted(text: &str) -> (usize, usize) {
    let conversion = converted(text);
    let inputs = read(text).unwrap();
    assert_eq!(inputs.len(), conversion.report.len());
    let (mut all, mut named) = (0, 0);
    for (input, report) in inputs.iter().zip(&conversion.report) {
        leaves("", &input.value, &mut |path, _| {
            if matches!(path, "apiVersion" | "kind") {
                return;
            }
            all += 1;
            let holds = |entry: &Entry| {
                let rest = path.strip_prefix(entry.field.as_str());
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
            };
            match report.fields.iter().any(holds) {
                true => named += 1,
                false => panic!("{}: nothing of {path}", report.object),
            }
        });
    }
    (all, named)
}

#[test]
fn every_value_of_every_object_is_in_the_report() {
    for (text, at_least) in [(CALICO, 190), (METALLB, 95), (KUBE_ROUTER, 105)] {
        let (all, named) = accounted(text);
        assert_eq!(all, named);
        assert!(all >= at_least, "only {all} values");
    }
}

#[test]
fn every_field_of_the_upstream_schemas_is_known_and_what_is_written_is_taken() {
    for text in [CALICO, METALLB, KUBE_ROUTER] {
        let conversion = converted(text);
        for report in &conversion.report {
            for entry in &report.fields {
                let unknown = entry.note.contains("does not know") || entry.note == UNKNOWN;
                assert!(!unknown, "{} {}", report.object, entry.field);
                let refused = entry.note.contains("would be refused");
                let expected = report.object == "BGPFilter unsayable";
                assert!(!refused || expected, "{} {entry:?}", report.object);
                let needs_note = matches!(
                    entry.outcome,
                    Outcome::Changed | Outcome::NoCounterpart | Outcome::NotNeeded
                );
                assert!(!needs_note || !entry.note.is_empty(), "{entry:?}");
            }
        }
        for object in &conversion.objects {
            let field = |name: &str| object.value[name].as_str().unwrap();
            let parsed = api::parse(field("kind"), field("apiVersion"), object.value.clone());
            assert!(parsed.is_ok(), "{parsed:?}");
        }
    }
}

#[test]
fn a_field_that_upstream_adds_one_day_is_named_too() {
    for text in [CALICO, METALLB] {
        let mut added = 0;
        for input in read(text).unwrap() {
            let mut value = input.value.clone();
            let Some(Value::Object(spec)) = value.get_mut("spec") else {
                continue;
            };
            spec.insert("tomorrow".to_owned(), json!({"deep": [1]}));
            let conversion = converted(&value.to_string());
            let fields = &conversion.report[0].fields;
            let named =
                |entry: &&Entry| entry.field.starts_with("spec.tomorrow") || entry.field == "spec";
            let named: Vec<&Entry> = fields.iter().filter(named).collect();
            assert!(!named.is_empty(), "{} {}", input.kind, input.name);
            // A Node's spec is Kubernetes' own, notes of the old agent are nobody's configuration.
            let quiet = ["Node", "CalicoNodeStatus"].contains(&input.kind.as_str());
            let bad = named
                .iter()
                .any(|entry| entry.outcome == Outcome::NoCounterpart);
            assert!(bad || quiet, "{} {}: {named:?}", input.kind, input.name);
            added += 1;
        }
        assert!(added >= 10, "{added}");
    }
}

#[test]
fn the_counts_are_those_of_the_report_and_every_outcome_occurs() {
    for text in [CALICO, METALLB, KUBE_ROUTER] {
        let conversion = converted(text);
        let mut by_outcome: BTreeMap<Outcome, usize> = BTreeMap::new();
        for entry in conversion.report.iter().flat_map(|report| &report.fields) {
            *by_outcome.entry(entry.outcome).or_default() += 1;
        }
        assert_eq!(by_outcome.len(), 4, "{by_outcome:?}");
        assert_eq!(by_outcome[&Outcome::Carried], conversion.counts.carried);
        assert_eq!(by_outcome[&Outcome::Changed], conversion.counts.changed);
        assert_eq!(
            by_outcome[&Outcome::NoCounterpart],
            conversion.counts.no_counterpart
        );
        assert_eq!(
            by_outcome[&Outcome::NotNeeded],
            conversion.counts.not_needed
        );
    }
}

#[test]
fn no_password_is_in_a_report() {
    for text in [CALICO, METALLB, KUBE_ROUTER] {
        let conversion = converted(text);
        let report = serde_json::to_string(&conversion.report).unwrap();
        for secret in ["not-this-one", "bm90LXRoaXMtb25l", "bWVzaA=="] {
            assert!(!report.contains(secret), "{secret}");
        }
        let secrets = conversion.objects.iter();
        let secrets = secrets.filter(|object| object.value["kind"] == "Secret");
        assert!(secrets.count() >= 1);
    }
}
