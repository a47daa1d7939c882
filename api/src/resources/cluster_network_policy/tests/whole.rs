//! What is read of the object as a whole, and for what it is refused whole.

use super::*;

#[test]
fn semantics_62_one_kind_with_two_tiers_is_read_and_the_older_kinds_are_refused_by_name() {
    assert_eq!(policy(json!({})).tier, Tier::Admin);
    assert_eq!(policy(json!({"tier": "Baseline"})).tier, Tier::Baseline);
    for (kind, tier) in [
        ("AdminNetworkPolicy", "Admin"),
        ("BaselineAdminNetworkPolicy", "Baseline"),
    ] {
        let value = json!({"metadata": {"name": "old"}, "spec": {"priority": 1}});
        let error = parse(kind, "policy.networking.k8s.io/v1alpha1", value).expect_err(kind);
        assert_eq!(error.object(), Some(format!("{kind} old").as_str()));
        let text = error.to_string();
        assert!(
            text.contains("ClusterNetworkPolicy") && text.ends_with(&format!("tier {tier}")),
            "{text}"
        );
    }
    let later = "policy.networking.k8s.io/v1";
    assert!(parse("ClusterNetworkPolicy", later, json!({})).is_err());
}

#[test]
fn semantics_63_the_tier_is_one_of_two() {
    for tier in [
        json!(null),
        json!(""),
        json!("admin"),
        json!("NetworkPolicy"),
        json!(1),
    ] {
        let message = refused(json!({"tier": tier}));
        assert!(
            message.starts_with("ClusterNetworkPolicy p: spec.tier"),
            "{message}"
        );
    }
}

#[test]
fn semantics_63_the_priority_is_0_to_1000() {
    for priority in [0, 1, 1000] {
        let read = policy(json!({"priority": priority})).priority;
        assert_eq!(i32::from(read), priority);
    }
    for priority in [
        json!(null),
        json!(-1),
        json!(1001),
        json!(65_536),
        json!(1.5),
        json!("7"),
        json!(u64::MAX),
    ] {
        let message = refused(json!({"priority": priority}));
        assert!(message.contains("spec.priority"), "{message}");
    }
}

#[test]
fn semantics_64_the_action_is_one_of_three_and_rules_keep_their_order() {
    let rule =
        |action: &str| json!({"name": action, "action": action, "from": [{"namespaces": {}}]});
    let rules = policy(json!({"ingress": [rule("Pass"), rule("Deny"), rule("Accept")]})).ingress;
    let actions: Vec<_> = rules.iter().map(|rule| rule.action).collect();
    use ClusterAction::{Accept, Deny, Pass};
    assert_eq!(actions, [Pass, Deny, Accept]);
    let names: Vec<_> = rules.iter().map(|rule| rule.name.as_str()).collect();
    assert_eq!(names, ["Pass", "Deny", "Accept"]);
    for action in [
        json!(null),
        json!("Allow"),
        json!("accept"),
        json!("Log"),
        json!({}),
    ] {
        let good = rule("Deny");
        let bad = json!({"action": action, "from": [{"namespaces": {}}]});
        let message = refused(json!({"ingress": [good, bad]}));
        assert!(message.contains("spec.ingress[1].action"), "{message}");
    }
}

#[test]
fn semantics_64_no_rules_of_a_direction_change_nothing_there() {
    for none in [json!(null), json!([])] {
        let policy = policy(json!({"ingress": none, "egress": none}));
        assert!(policy.ingress.is_empty() && policy.egress.is_empty());
    }
    assert!(refused(json!({"egress": {}})).contains("spec.egress"));
    assert!(refused(json!({"egress": ["x"]})).contains("spec.egress[0]"));
}

#[test]
fn semantics_65_the_subject_is_namespaces_or_pods() {
    let subject = |value: Value| match policy(json!({"subject": value})).subject {
        ClusterSubject::Pods(pods) => pods,
        ClusterSubject::Unsupported(why) => panic!("{why}"),
    };
    assert_eq!(subject(json!({"namespaces": {}})), all_pods());
    let everything = json!({"pods": {"namespaceSelector": {}, "podSelector": {}}});
    assert_eq!(subject(everything), all_pods());
    assert_eq!(subject(json!({"pods": {"podSelector": {}}})), all_pods());
    let some = subject(json!({"pods": {
        "namespaceSelector": {"matchLabels": {"team": "a"}},
        "podSelector": {"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["db"]}]},
    }}));
    assert!(some.namespaces.matches(&labels(&[("team", "a")])));
    assert!(!some.namespaces.matches(&labels(&[])));
    assert!(some.pods.matches(&labels(&[])) && !some.pods.matches(&labels(&[("app", "db")])));
}

#[test]
fn semantics_67_a_subject_that_cannot_be_read_selects_nobody_and_says_why() {
    for (subject, word) in [
        (json!(null), "null"),
        (json!({}), "none of"),
        (json!({"namespaces": null}), "none of"),
        (
            json!({"namespaces": {}, "pods": {"podSelector": {}}}),
            "only one of",
        ),
        (json!({"serviceAccounts": {}}), "serviceAccounts"),
        (
            json!({"namespaces": {}, "serviceAccounts": {}}),
            "serviceAccounts",
        ),
        (json!({"namespaces": {"app": "web"}}), "app"),
        (json!({"pods": {"namespaceSelector": {}}}), "podSelector"),
        (
            json!({"pods": {"podSelector": {}, "podSelecter": {}}}),
            "podSelecter",
        ),
        (
            json!({"namespaces": {"matchExpressions": [{"key": "a", "operator": "in", "values": ["b"]}]}}),
            "operator",
        ),
        (json!(["namespaces"]), "spec.subject"),
    ] {
        match policy(json!({"subject": subject})).subject {
            ClusterSubject::Unsupported(why) => {
                assert!(
                    why.starts_with("spec.subject: ") && why.contains(word),
                    "{why}"
                );
            }
            ClusterSubject::Pods(pods) => panic!("{subject}: {pods:?}"),
        }
    }
}

#[test]
fn semantics_68_a_list_of_rules_has_at_most_25_and_a_name_100_characters() {
    let rule = json!({"action": "Deny", "from": [{"namespaces": {}}]});
    let rules = |count: usize| json!({"ingress": vec![rule.clone(); count]});
    assert_eq!(policy(rules(25)).ingress.len(), 25);
    assert!(refused(rules(26)).contains("spec.ingress: 26 rules"));
    let named =
        |name: Value| json!({"egress": [{"name": name, "action": "Deny", "to": [{"nodes": {}}]}]});
    let longest = "é".repeat(100);
    assert_eq!(
        policy(named(json!(longest.clone()))).egress[0].name,
        longest
    );
    for name in [json!(format!("{longest}x")), json!(7), json!({})] {
        let message = refused(named(name));
        assert!(message.contains("spec.egress[0].name"), "{message}");
    }
}

#[test]
fn a_field_of_spec_that_is_not_known_is_an_error_that_names_it() {
    assert_eq!(
        refused(json!({"ingres": []})),
        "ClusterNetworkPolicy p: spec.ingres is not a known field"
    );
    assert_eq!(policy(json!({"later": null})), policy(json!({})));
}

#[test]
fn an_object_without_spec_or_name_is_refused() {
    let read = |value| {
        parse(
            "ClusterNetworkPolicy",
            "policy.networking.k8s.io/v1alpha2",
            value,
        )
    };
    let error = read(json!({"metadata": {"name": "p"}})).expect_err("no spec");
    assert_eq!(error.to_string(), "ClusterNetworkPolicy p: spec is missing");
    assert!(read(json!({"spec": spec(json!({}))})).is_err());
    assert!(read(json!({"metadata": {"name": "a_b"}, "spec": spec(json!({}))})).is_err());
    assert!(read(json!({"metadata": {"name": "p"}, "spec": []})).is_err());
}
