//! Whatever is read: what is written parses, every value is in the report, selectors select the same.

use api::{LabelSelector, Labels, Selector};
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use proptest::prelude::*;
use serde_json::json;

use super::super::input::read;
use super::super::report::leaves;
use super::super::selectors;
use super::*;

const TEXTS: [&str; 3] = [
    include_str!("calico.yaml"),
    include_str!("metallb.yaml"),
    include_str!("kube-router.yaml"),
];

/// What must hold of every conversion.
fn check(text: &str) {
    let Ok(conversion) = convert(text, "portolan") else {
        return;
    };
    for object in &conversion.objects {
        let field = |name: &str| object.value[name].as_str().unwrap();
        let parsed = api::parse(field("kind"), field("apiVersion"), object.value.clone());
        assert!(parsed.is_ok(), "{parsed:?}\n{text}");
    }
    for (input, report) in read(text).unwrap().iter().zip(&conversion.report) {
        leaves("", &input.value, &mut |path, _| {
            let holds = |entry: &Entry| {
                let rest = path.strip_prefix(entry.field.as_str());
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
            };
            let named = matches!(path, "apiVersion" | "kind") || report.fields.iter().any(holds);
            assert!(named, "{}: nothing of {path}\n{text}", report.object);
        });
    }
}

/// A value to put in another's place.
fn words() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-3_i64..70_000).prop_map(Value::from),
        Just(json!(4_294_967_296_u64)),
        "[a-z0-9.:/'\"=&|!(){} -]{0,20}".prop_map(Value::from),
        prop::sample::select(vec![
            "10.0.0.0/8",
            "fd00::1",
            "0s",
            "90s",
            "1ns",
            "all()",
            "65000:1",
            "large:1:2:3",
            "node.n1",
            "x\ny",
            "Always",
            "Manual",
            "10.0.0.9-10.0.0.1",
            "0.0.0.0-255.255.255.255",
            "::/0",
            "1,2,,3",
            "[{remoteip: 1, remoteasn: 2}]",
            "x' || all() || y == 'z",
        ])
        .prop_map(Value::from),
        Just(json!([])),
        Just(json!({})),
        Just(json!([{"a": [1]}])),
    ]
}

/// Puts a word in the place of the numbered value.
fn replace(value: &mut Value, number: &mut usize, word: &Value) {
    if *number == 0 {
        *value = word.clone();
        *number = usize::MAX;
        return;
    }
    *number = number.saturating_sub(1);
    match value {
        Value::Object(fields) => {
            for (key, inner) in fields {
                if *number != usize::MAX && !matches!(key.as_str(), "kind" | "apiVersion") {
                    replace(inner, number, word);
                }
            }
        }
        Value::Array(values) => {
            for inner in values {
                if *number != usize::MAX {
                    replace(inner, number, word);
                }
            }
        }
        _ => {}
    }
}

fn labels() -> impl Strategy<Value = Labels> {
    prop::collection::btree_map("[a-c]", "[x-z]", 0..4).prop_map(Labels::from)
}

fn selector() -> impl Strategy<Value = Value> {
    let expression = ("[a-c]", 0..4_usize, prop::collection::vec("[x-z]", 1..3)).prop_map(
        |(key, operator, values)| {
            let operator = ["In", "NotIn", "Exists", "DoesNotExist"][operator];
            match operator.ends_with("In") {
                true => json!({"key": key, "operator": operator, "values": values}),
                false => json!({"key": key, "operator": operator}),
            }
        },
    );
    (labels(), prop::collection::vec(expression, 0..3)).prop_map(
        |(labels, expressions)| json!({"matchLabels": *labels, "matchExpressions": expressions}),
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_value_that_is_wrong_is_named_and_never_written(
        which in 0..3_usize,
        changes in prop::collection::vec((0..60_usize, 0..40_usize, words()), 1..5),
    ) {
        let mut inputs: Vec<Value> = read(TEXTS[which]).unwrap().into_iter().map(|input| input.value).collect();
        for (object, mut number, word) in changes {
            let index = object % inputs.len();
            number += 1;
            replace(&mut inputs[index], &mut number, &word);
        }
        let documents: Vec<String> = inputs.iter().map(ToString::to_string).collect();
        check(&documents.join("\n---\n"));
    }

    #[test]
    fn label_selectors_select_the_same_nodes_in_the_other_language(
        written in prop::collection::vec(selector(), 0..4),
        labels in prop::collection::vec(labels(), 1..8),
    ) {
        let text = selectors::any_of(&written).unwrap();
        let ours = Selector::parse(&text).unwrap();
        for labels in labels {
            let mut theirs = written.iter().map(|value| {
                let selector: meta::LabelSelector = serde_json::from_value(value.clone()).unwrap();
                LabelSelector::try_from(selector).unwrap().matches(&labels)
            });
            let wanted = written.is_empty() || theirs.any(|matches| matches);
            prop_assert_eq!(ours.matches(&labels), wanted, "{}", text);
        }
    }

    #[test]
    fn no_key_or_value_of_a_selector_says_more_than_itself(key in "[a-z'\"|&!=() ]{1,12}", value in "[a-z'\"|&!=() ]{0,12}") {
        let written = json!({"matchExpressions": [{"key": key, "operator": "In", "values": [value]}]});
        if let Some(text) = selectors::any_of(&[written]) {
            let ours = Selector::parse(&text).unwrap();
            prop_assert!(!ours.matches(&Labels::new()), "{}", text);
            prop_assert!(ours.matches(&Labels::from([(key, value)])), "{}", text);
        }
    }

    #[test]
    fn no_text_panics(text in "(apiVersion: (v1|metallb.io/v1beta1|projectcalico.org/v3)\nkind: (List|Node|BGPPeer|BGPFilter|IPPool)\n)?[a-z:{}\\[\\] \n,'\"-]{0,60}") {
        check(&text);
    }
}
