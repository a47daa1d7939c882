//! Host rules and default backends.

use super::*;

/// The suite's feature "host rules".
#[test]
fn a_precise_host_goes_before_a_wildcard_and_a_wildcard_is_for_one_label() {
    let compiled = compiled(&world(&[ingress(
        "one",
        1,
        &json!({"rules": [
            rule("*.foo.com", &[path("Prefix", "/", "a")]),
            rule("bar.foo.com", &[path("Prefix", "/", "b")]),
            {"http": {"paths": [path("Prefix", "/", "c")]}},
        ]}),
    )]));
    for (host, service) in [
        ("bar.foo.com", "b"),
        ("baz.foo.com", "a"),
        ("baz.bar.foo.com", "c"),
        ("foo.com", "c"),
        ("bar.com", "c"),
        ("10.0.0.1", "c"),
    ] {
        assert_eq!(asked(&compiled, host, "/"), service, "{host}");
    }
    assert_eq!(compiled.problems, []);
}

#[test]
fn the_host_is_chosen_before_the_path() {
    let compiled = compiled(&world(&[ingress(
        "one",
        1,
        &json!({"rules": [
            rule("*.foo.com", &[path("Prefix", "/", "a")]),
            rule("bar.foo.com", &[path("Prefix", "/app", "b")]),
        ]}),
    )]));
    assert_eq!(asked(&compiled, "bar.foo.com", "/app/x"), "b");
    assert_eq!(asked(&compiled, "bar.foo.com", "/other"), "-");
}

/// The suite's feature "default backend".
#[test]
fn what_no_rule_matches_is_for_the_default_backend() {
    let compiled = compiled(&world(&[ingress(
        "one",
        1,
        &json!({"defaultBackend": backend("d")}),
    )]));
    for (host, path) in [
        ("any.example.com", "/"),
        ("foo", "/x"),
        ("10.0.0.1", "/a/b"),
    ] {
        assert_eq!(asked(&compiled, host, path), "d");
    }
    assert_eq!(compiled.served.len(), 1);
}

#[test]
fn the_default_backend_of_an_ingress_with_rules_is_for_its_hosts_first() {
    let compiled = compiled(&world(&[
        ingress("old", 1, &json!({"defaultBackend": backend("a")})),
        ingress(
            "young",
            2,
            &json!({"defaultBackend": backend("b"), "rules": [rule("young.com", &[path("Exact", "/x", "c")])]}),
        ),
        ingress(
            "third",
            3,
            &json!({"rules": [rule("third.com", &[path("Exact", "/x", "e")])]}),
        ),
    ]));
    assert_eq!(asked(&compiled, "young.com", "/x"), "c");
    assert_eq!(asked(&compiled, "young.com", "/y"), "b");
    assert_eq!(asked(&compiled, "third.com", "/y"), "a");
    assert_eq!(asked(&compiled, "unknown.com", "/y"), "a");
    assert_eq!(compiled.problems, []);
}

#[test]
fn of_two_default_backends_the_older_holds_and_the_other_is_told() {
    let compiled = compiled(&world(&[
        ingress("young", 2, &json!({"defaultBackend": backend("b")})),
        ingress("old", 1, &json!({"defaultBackend": backend("a")})),
    ]));
    assert_eq!(asked(&compiled, "x.com", "/"), "a");
    let young = || "Ingress shop/young".to_owned();
    assert_eq!(
        reasons(&compiled),
        [
            (young(), Reason::NothingToServe),
            (young(), Reason::DefaultBackendConflict)
        ]
    );
    assert!(
        !compiled
            .served
            .contains(&NamespacedName::new("shop", "young"))
    );
}

#[test]
fn the_controllers_own_default_is_asked_last() {
    let mut settings = settings();
    settings.default_backend = Some((
        NamespacedName::new("shop", "e"),
        crate::objects::BackendPort::Number(80),
    ));
    let rules = json!({"rules": [rule("x.com", &[path("Exact", "/x", "a")])]});
    let mut values = world(&[ingress("one", 1, &rules)]);
    let own = compile(&objects(&values), &settings);
    assert_eq!(asked(&own, "x.com", "/y"), "e");
    assert_eq!(asked(&own, "y.com", "/"), "e");
    values.push(ingress("two", 2, &json!({"defaultBackend": backend("b")})));
    assert_eq!(
        asked(&compile(&objects(&values), &settings), "y.com", "/"),
        "b"
    );
}

#[test]
fn a_rule_without_paths_leads_its_host_to_the_default_backend() {
    let compiled = compiled(&world(&[
        ingress(
            "one",
            1,
            &json!({"defaultBackend": backend("d"), "rules": [{"host": "x.com"}]}),
        ),
        ingress(
            "two",
            2,
            &json!({"rules": [{"host": "*.com", "http": {"paths": [path("Prefix", "/", "a")]}}]}),
        ),
    ]));
    assert_eq!(asked(&compiled, "x.com", "/"), "d");
    assert_eq!(asked(&compiled, "y.com", "/"), "a");
}

#[test]
fn a_host_that_is_none_is_told_and_the_rest_is_served() {
    let compiled = compiled(&world(&[ingress(
        "one",
        1,
        &json!({"rules": [
            rule("a.*.com", &[path("Prefix", "/", "a")]),
            rule("x.com", &[path("Prefix", "/", "b")]),
        ]}),
    )]));
    assert_eq!(asked(&compiled, "x.com", "/"), "b");
    assert_eq!(
        reasons(&compiled),
        [("Ingress shop/one".to_owned(), Reason::InvalidHost)]
    );
    assert!(
        compiled.problems[0].message.contains("a.*.com"),
        "{}",
        compiled.problems[0]
    );
    assert_eq!(compiled.served.len(), 1);
}
