//! Path rules: the table of the page "Ingress", the cases of the suite's feature "path rules", and precedence.

use super::*;

fn with_paths(paths: &[Value]) -> Compiled {
    compiled(&world(&[ingress(
        "one",
        1,
        &json!({"rules": [rule("x.com", paths)]}),
    )]))
}

/// The page's table: kind, paths of rules, path of the request, whether it matches.
#[test]
fn the_examples_of_the_documentation_hold() {
    let table: &[(&str, &[&str], &str, &str)] = &[
        ("Prefix", &["/"], "/any/path", "a"),
        ("Exact", &["/foo"], "/foo", "a"),
        ("Exact", &["/foo"], "/bar", "-"),
        ("Exact", &["/foo"], "/foo/", "-"),
        ("Exact", &["/foo/"], "/foo", "-"),
        ("Prefix", &["/foo"], "/foo", "a"),
        ("Prefix", &["/foo"], "/foo/", "a"),
        ("Prefix", &["/foo/"], "/foo", "a"),
        ("Prefix", &["/foo/"], "/foo/", "a"),
        ("Prefix", &["/aaa/bb"], "/aaa/bbb", "-"),
        ("Prefix", &["/aaa/bbb"], "/aaa/bbb", "a"),
        ("Prefix", &["/aaa/bbb/"], "/aaa/bbb", "a"),
        ("Prefix", &["/aaa/bbb"], "/aaa/bbb/", "a"),
        ("Prefix", &["/aaa/bbb"], "/aaa/bbb/ccc", "a"),
        ("Prefix", &["/aaa/bbb"], "/aaa/bbbxyz", "-"),
        ("Prefix", &["/", "/aaa"], "/aaa/ccc", "b"),
        ("Prefix", &["/", "/aaa", "/aaa/bbb"], "/aaa/bbb", "c"),
        ("Prefix", &["/", "/aaa", "/aaa/bbb"], "/ccc", "a"),
        ("Prefix", &["/aaa"], "/ccc", "-"),
        // The suite's: paths are case sensitive, and a prefix is one by whole elements.
        ("Exact", &["/foo"], "/FOO", "-"),
        ("Prefix", &["/foo"], "/FOO", "-"),
        ("Prefix", &["/aaa/bbb"], "/aaa", "-"),
        ("ImplementationSpecific", &["/foo"], "/foo/bar", "a"),
    ];
    for (path_type, rules, asked_for, service) in table {
        let services = ["a", "b", "c"];
        let paths: Vec<Value> = rules
            .iter()
            .zip(services)
            .map(|(rule, service)| path(path_type, rule, service))
            .collect();
        let compiled = with_paths(&paths);
        assert_eq!(
            asked(&compiled, "x.com", asked_for),
            *service,
            "{path_type} {rules:?} {asked_for}"
        );
    }
}

#[test]
fn exact_goes_before_prefix_whatever_stands_first() {
    for paths in [
        [path("Prefix", "/foo", "a"), path("Exact", "/foo", "b")],
        [path("Exact", "/foo", "b"), path("Prefix", "/foo/", "a")],
    ] {
        let compiled = with_paths(&paths);
        assert_eq!(asked(&compiled, "x.com", "/foo"), "b");
        assert_eq!(asked(&compiled, "x.com", "/foo/bar"), "a");
        assert_eq!(compiled.problems, []);
    }
}

#[test]
fn a_rule_that_guards_a_path_is_for_its_other_spellings_too() {
    let compiled = with_paths(&[
        path("Prefix", "/", "a"),
        path("Prefix", "/admin", "b"),
        path("Exact", "/login", "c"),
    ]);
    for (asked_for, service) in [
        ("//admin", "b"),
        ("/%61dmin/x", "b"),
        ("/admin//x", "b"),
        ("///login", "c"),
        ("/adm%2Fin", "a"),
    ] {
        assert_eq!(asked(&compiled, "x.com", asked_for), service, "{asked_for}");
    }
}

#[test]
fn a_long_path_is_looked_up_no_further_than_rules_go() {
    let compiled = with_paths(&[path("Prefix", "/a/b", "a")]);
    let long = format!("/a/b{}", "/c".repeat(8000));
    assert_eq!(asked(&compiled, "x.com", &long), "a");
    assert_eq!(asked(&compiled, "x.com", &"/c".repeat(8000)), "-");
}

#[test]
fn paths_that_cannot_be_are_told_and_the_rest_is_served() {
    let compiled = with_paths(&[
        path("Exact", "foo", "a"),
        path("Prefix", "/a/../b", "a"),
        path("Prefix", "/a//b", "a"),
        path("Regex", "/a", "a"),
        json!({"pathType": "Prefix", "backend": backend("a")}),
        json!({"pathType": "ImplementationSpecific", "backend": backend("b")}),
    ]);
    assert_eq!(asked(&compiled, "x.com", "/anything"), "b");
    assert_eq!(compiled.problems.len(), 5, "{:?}", compiled.problems);
    assert!(
        reasons(&compiled)
            .iter()
            .all(|(_, reason)| *reason == Reason::InvalidPath)
    );
}
