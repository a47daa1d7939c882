//! Several Ingresses for one host, and backends that are wrong.

use super::*;

#[test]
fn rules_of_several_ingresses_for_one_host_are_one() {
    let compiled = compiled(&world(&[
        ingress(
            "one",
            1,
            &json!({"rules": [rule("x.com", &[path("Prefix", "/one", "a")])]}),
        ),
        ingress(
            "two",
            2,
            &json!({"rules": [rule("x.com", &[path("Prefix", "/two", "b")])]}),
        ),
    ]));
    assert_eq!(asked(&compiled, "x.com", "/one"), "a");
    assert_eq!(asked(&compiled, "x.com", "/two"), "b");
    assert_eq!(compiled.problems, []);
}

#[test]
fn of_two_ingresses_with_one_host_and_path_the_older_holds_and_the_other_is_told() {
    let compiled = compiled(&world(&[
        ingress(
            "a-young",
            2,
            &json!({"rules": [rule("x.com", &[path("Prefix", "/p/", "b"), path("Prefix", "/q", "b")])]}),
        ),
        ingress(
            "z-old",
            1,
            &json!({"rules": [rule("x.com", &[path("Prefix", "/p", "a")])]}),
        ),
    ]));
    assert_eq!(asked(&compiled, "x.com", "/p"), "a");
    assert_eq!(asked(&compiled, "x.com", "/q"), "b");
    assert_eq!(
        reasons(&compiled),
        [("Ingress shop/a-young".to_owned(), Reason::PathConflict)]
    );
    let message = &compiled.problems[0].message;
    assert!(
        message.contains("shop/z-old") && message.contains("/p/"),
        "{message}"
    );
    assert_eq!(compiled.served.len(), 2);
}

/// A wrong backend does not let its requests fall to a rule that was written for others.
#[test]
fn a_backend_that_is_wrong_answers_for_nobody_and_is_told() {
    let by = |backend: Value| json!({"path": "/x", "pathType": "Prefix", "backend": backend});
    let cases = [
        (
            json!({"service": {"name": "gone", "port": {"number": 80}}}),
            Reason::ServiceNotFound,
        ),
        (
            json!({"service": {"name": "a", "port": {"number": 81}}}),
            Reason::PortNotFound,
        ),
        (
            json!({"service": {"name": "a", "port": {"name": "http"}}}),
            Reason::PortNotFound,
        ),
        (
            json!({"resource": {"kind": "Bucket", "name": "b", "apiGroup": "x"}}),
            Reason::UnsupportedBackend,
        ),
        (json!({}), Reason::UnsupportedBackend),
    ];
    for (backend, reason) in cases {
        let rules =
            json!({"rules": [rule("x.com", &[path("Prefix", "/", "a"), by(backend.clone())])]});
        let compiled = compiled(&world(&[ingress("one", 1, &rules)]));
        assert_eq!(
            reasons(&compiled),
            [("Ingress shop/one".to_owned(), reason)],
            "{backend}"
        );
        let route = compiled.table.find("x.com", "/x/y").unwrap();
        assert!(route.backend.endpoints.is_empty(), "{backend}");
        assert_eq!(asked(&compiled, "x.com", "/"), "a");
    }
}

#[test]
fn an_ingress_of_which_nothing_is_served_is_told_and_gets_no_address() {
    let bad = json!({"rules": [rule("x.com", &[path("Regex", "/", "a")])]});
    let resource = json!({"defaultBackend": {"resource": {"kind": "Bucket", "name": "b"}}});
    let compiled = compiled(&world(&[
        ingress("bad", 1, &bad),
        ingress("bucket", 2, &resource),
    ]));
    assert!(compiled.served.is_empty());
    assert_eq!(compiled.ours.len(), 2);
    let nothing = |(_, reason): &&(String, Reason)| *reason == Reason::NothingToServe;
    assert_eq!(reasons(&compiled).iter().filter(nothing).count(), 2);
}

#[test]
fn the_redirect_is_only_where_it_is_asked_for() {
    let with = |name: &str, value: &str| {
        let mut one = ingress(
            name,
            1,
            &json!({"rules": [rule(&format!("{name}.com"), &[path("Prefix", "/", "a")])]}),
        );
        one["metadata"]["annotations"] = json!({"portolan.io/ssl-redirect": value});
        one
    };
    let compiled = compiled(&world(&[
        with("yes", "true"),
        with("no", "false"),
        with("wrong", "1"),
    ]));
    let redirects = |host: &str| compiled.table.find(host, "/").unwrap().ssl_redirect;
    assert!(redirects("yes.com"));
    assert!(!redirects("no.com"));
    assert!(!redirects("wrong.com"));
    assert_eq!(
        reasons(&compiled),
        [("Ingress shop/wrong".to_owned(), Reason::InvalidAnnotation)]
    );
}
