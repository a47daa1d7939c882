//! Tests of selectors: meaning, canonical text, errors and odd input.

use proptest::collection::{btree_map, btree_set, vec};
use proptest::prelude::*;

use super::*;

fn labels(text: &str) -> Labels {
    let pairs = text
        .split_whitespace()
        .filter_map(|pair| pair.split_once('='));
    pairs
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

fn selects(selector: &str, on: &str) -> bool {
    Selector::parse(selector)
        .expect(selector)
        .matches(&labels(on))
}

#[test]
fn comparisons_mean_what_calico_says() {
    for (selector, on, expected) in [
        ("rack == 'r1'", "rack=r1", true),
        ("rack == \"r1\"", "rack=r1", true),
        ("rack == 'r1'", "rack=r2", false),
        ("rack == 'r1'", "", false),
        ("rack == ''", "rack=", true),
        ("rack == ''", "", false),
        ("rack != 'r1'", "rack=r2", true),
        ("rack != 'r1'", "", true),
        ("rack in {'r1', \"r2\"}", "rack=r2", true),
        ("rack in {'r1','r2'}", "rack=r3", false),
        ("rack in {}", "rack=r3", false),
        ("rack not in {'r1'}", "rack=r1", false),
        ("rack not   in {'r1'}", "", true),
        ("has(rack)", "rack=", true),
        ("!has(rack)", "rack=", false),
        ("! has( rack )", "", true),
        ("rack contains 'b'", "rack=abc", true),
        ("rack contains 'd'", "rack=abc", false),
        ("rack contains 'b'", "", false),
        ("rack starts with 'ab'", "rack=abc", true),
        ("rack starts with 'b'", "rack=abc", false),
        ("rack ends with 'bc'", "rack=abc", true),
        ("rack ends with 'b'", "rack=abc", false),
        (
            "kubernetes.io/hostname == 'node1'",
            "kubernetes.io/hostname=node1",
            true,
        ),
        ("all == 'x' && has == 'y'", "all=x has=y", true),
        ("in in {'x'}", "in=x", true),
        ("all()", "", true),
        ("!all()", "", false),
        ("global()", "", true),
        ("", "", true),
        ("  \n", "a=b", true),
    ] {
        assert_eq!(selects(selector, on), expected, "{selector:?} on {on:?}");
    }
}

#[test]
fn and_binds_tighter_than_or_and_not_tightest() {
    assert!(selects("has(a) || has(b) && has(c)", "a=1"));
    assert!(!selects("(has(a) || has(b)) && has(c)", "a=1"));
    assert!(selects("!has(a) || has(a)", "a=1"));
    assert!(!selects("!(has(a) || has(b))", "b=1"));
    assert!(selects("!a == 'x' && has(b)", "a=y b=1"));
}

#[test]
fn canonical_text_is_the_same_for_the_same_selector() {
    for (text, canonical) in [
        ("", "all()"),
        ("rack==\"r1\"&&has( gpu )", "rack == 'r1' && has(gpu)"),
        ("a in {'y',\"x\", 'y'}", "a in {'x', 'y'}"),
        ("((has(a)))", "has(a)"),
        ("has(a) && (has(b) && has(c))", "has(a) && has(b) && has(c)"),
        (
            "has(a) && (has(b) || has(c))",
            "has(a) && (has(b) || has(c))",
        ),
        ("!a == 'x'", "!a == 'x'"),
        ("a == \"it's\"", "a == \"it's\""),
    ] {
        let selector = Selector::parse(text).expect(text);
        assert_eq!(selector.to_string(), canonical);
        assert_eq!(Selector::parse(canonical).as_ref(), Ok(&selector));
    }
}

#[test]
fn errors_say_where_and_what_was_expected() {
    for (text, position, expected) in [
        ("rack = 'r1'", 6, "`==`"),
        ("rack == r1", 9, "a text in quotes"),
        ("rack == 'r1", 12, "a closing quote"),
        ("rack == 'r1' and has(b)", 14, "`&&`, `||` or the end"),
        ("rack == 'r1' && ", 17, "a label"),
        ("has(rack", 9, "`)`"),
        ("has()", 5, "a label"),
        ("(has(a)", 8, "`)`"),
        ("has(a))", 7, "the end"),
        ("a in 'x'", 6, "`{`"),
        ("a in {'x' 'y'}", 11, "`}`"),
        ("a in {'x',}", 11, "a text in quotes"),
        ("é == 'x'", 1, "a label"),
        ("a == 'é' é", 10, "the end"),
        ("&& has(a)", 1, "a label"),
        ("a starts 'x'", 10, "`with`"),
        ("a maybe 'x'", 3, "starts with"),
        ("all(", 5, "`)`"),
    ] {
        let error = Selector::parse(text).expect_err(text);
        assert!(error.expected.contains(expected), "{text:?}: {error}");
        assert_eq!(error.position, position, "{text:?}: {error}");
    }
}

#[test]
fn nesting_is_bounded() {
    let nested = |depth: usize| format!("{}has(a){}", "(".repeat(depth), ")".repeat(depth));
    assert!(Selector::parse(&nested(MAX_DEPTH)).is_ok());
    let error = Selector::parse(&nested(MAX_DEPTH + 1)).expect_err("too deep");
    assert!(error.expected.contains("less nesting"), "{error}");
    let error = Selector::parse(&format!("{}has(a)", "!".repeat(10_000))).expect_err("too deep");
    assert!(error.expected.contains("less nesting"), "{error}");
    assert!(Selector::parse(&"(".repeat(MAX_LENGTH + 1)).is_err());
}

#[test]
fn a_wide_selector_of_the_greatest_length_is_read() {
    let text = vec!["has(a)"; MAX_LENGTH / 10 - 1].join(" || ");
    assert!(
        Selector::parse(&text)
            .expect("wide")
            .matches(&labels("a=1"))
    );
}

fn key() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-d]",
        "[a-z0-9]{1,4}(/[a-z.]{1,4})?",
        Just("in".to_owned())
    ]
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof!["[a-c]{0,2}", "[^']{0,6}", "[^\"]{0,6}"]
}

fn expression() -> impl Strategy<Value = Expression> {
    let leaf = prop_oneof![
        Just(Expression::All),
        Just(Expression::Global),
        key().prop_map(Expression::Has),
        (key(), text()).prop_map(|(k, v)| Expression::Equal(k, v)),
        (key(), text()).prop_map(|(k, v)| Expression::NotEqual(k, v)),
        (key(), btree_set(text(), 0..4)).prop_map(|(k, v)| Expression::In(k, v)),
        (key(), btree_set(text(), 0..4)).prop_map(|(k, v)| Expression::NotIn(k, v)),
        (key(), text()).prop_map(|(k, v)| Expression::Contains(k, v)),
        (key(), text()).prop_map(|(k, v)| Expression::StartsWith(k, v)),
        (key(), text()).prop_map(|(k, v)| Expression::EndsWith(k, v)),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            inner.clone().prop_map(|e| Expression::Not(Box::new(e))),
            vec(inner.clone(), 1..4).prop_map(Expression::and),
            vec(inner, 1..4).prop_map(Expression::or),
        ]
    })
}

proptest! {
    #[test]
    fn what_is_displayed_parses_to_the_same(expression in expression()) {
        let selector = Selector { expression };
        prop_assert_eq!(Selector::parse(&selector.to_string()), Ok(selector));
    }

    #[test]
    fn negation_and_de_morgan_hold(
        a in expression(),
        b in expression(),
        labels in btree_map("[a-d]", "[a-c]{0,2}", 0..4),
    ) {
        let not = |e: &Expression| Expression::Not(Box::new(e.clone()));
        let both = Expression::and(vec![a.clone(), b.clone()]);
        let neither = Expression::or(vec![not(&a), not(&b)]);
        let labels = Labels::from(labels);
        prop_assert_ne!(both.matches(&labels), neither.matches(&labels));
    }

    #[test]
    fn no_text_panics_and_errors_point_into_it(text in "\\PC{0,40}") {
        if let Err(error) = Selector::parse(&text) {
            prop_assert!(error.position <= text.chars().count() + 1);
        }
    }

    #[test]
    fn no_mix_of_tokens_panics(
        tokens in vec(prop::sample::select(vec![
            "a", "==", "!=", "in", "not", "{", "}", "'x'", "\"y\"", ",", "has(", "all()", "(", ")", "&&", "||",
            "!", "starts with", "contains", " ", "'",
        ]), 0..20)
    ) {
        if let Ok(selector) = Selector::parse(&tokens.concat()) {
            prop_assert_eq!(Selector::parse(&selector.to_string()), Ok(selector));
        }
    }
}
