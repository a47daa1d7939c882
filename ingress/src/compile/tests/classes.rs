//! Whose an Ingress is.

use super::*;

fn of_class(name: &str, class: Option<&str>, annotation: Option<&str>) -> Value {
    let mut value = ingress(
        name,
        1,
        &json!({"rules": [rule(&format!("{name}.com"), &[path("Prefix", "/", "a")])]}),
    );
    value["spec"]["ingressClassName"] = class.map_or(Value::Null, Value::from);
    if let Some(annotation) = annotation {
        value["metadata"]["annotations"] = json!({"kubernetes.io/ingress.class": annotation});
    }
    value
}

fn other_class(is_default: bool) -> Value {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "IngressClass",
        "metadata": {"name": "other", "annotations": {"ingressclass.kubernetes.io/is-default-class": is_default.to_string()}},
        "spec": {"controller": "example.com/other"}})
}

fn default_class() -> Value {
    let mut class = class();
    class["metadata"]["annotations"] =
        json!({"ingressclass.kubernetes.io/is-default-class": "true"});
    class
}

#[test]
fn an_ingress_is_ours_by_its_class_and_by_the_annotation_before_it() {
    let compiled = compiled(&world(&[
        other_class(false),
        of_class("field", Some("portolan"), None),
        of_class("annotation", None, Some("portolan")),
        of_class("other", Some("other"), None),
        of_class("absent", Some("absent"), None),
        of_class("field-first", Some("other"), Some("portolan")),
        of_class("none", None, None),
    ]));
    let served: Vec<&str> = compiled
        .served
        .iter()
        .map(|name| name.name.as_str())
        .collect();
    assert_eq!(served, ["annotation", "field"]);
    assert_eq!(compiled.problems, [], "what is not ours is not judged");
    assert_eq!(asked(&compiled, "other.com", "/"), "-");
}

#[test]
fn a_class_is_ours_by_its_controller_and_not_by_its_name() {
    let mut named_as_ours = class();
    named_as_ours["spec"]["controller"] = "example.com/other".into();
    let mut values = world(&[of_class("field", Some("portolan"), None)]);
    values.push(named_as_ours);
    assert!(compiled(&values).served.is_empty());
    let mut second = class();
    second["metadata"]["name"] = "portolan-internal".into();
    values.extend([second, of_class("inner", Some("portolan-internal"), None)]);
    assert_eq!(asked(&compiled(&values), "inner.com", "/"), "a");
}

#[test]
fn ingresses_without_a_class_are_ours_where_our_class_is_the_default() {
    let mut values = world(&[of_class("none", None, None)]);
    assert!(compiled(&values).served.is_empty());
    values.push(default_class());
    assert_eq!(asked(&compiled(&values), "none.com", "/"), "a");
    values.push(other_class(true));
    let both = compiled(&values);
    assert!(both.served.is_empty());
    assert_eq!(
        reasons(&both),
        [("IngressClass portolan".to_owned(), Reason::AmbiguousClass)]
    );
}
