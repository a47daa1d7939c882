//! Tests of reading Secrets: what they say is in no error and in no debug text.

use serde_json::json;

use super::*;
use crate::NamespacedName;

fn secret(rest: Value) -> Result<Secret, ParseError> {
    match read("v1", "Secret", rest)? {
        Resource::Secret(secret) => Ok(secret),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_secrets_values_are_read_from_both_of_its_fields() {
    let secret = secret(json!({
        "metadata": {"name": "bgp", "namespace": "portolan"}, "type": "Opaque",
        "data": {"tor": "aHVudGVyMg==", "both": "b2xk", "bytes": "/wA="},
        "stringData": {"spine": "correct horse", "both": "new"},
    }))
    .expect("a Secret");
    assert_eq!(secret.name, NamespacedName::new("portolan", "bgp"));
    let value = |key| secret.get(key).map(crate::resources::SecretValue::expose);
    assert_eq!(value("tor"), Some(b"hunter2".as_slice()));
    assert_eq!(value("spine"), Some(b"correct horse".as_slice()));
    assert_eq!(value("bytes"), Some([0xFF, 0].as_slice()));
    assert_eq!(value("both"), Some(b"new".as_slice()), "as an API server");
    assert_eq!(value("absent"), None);
}

#[test]
fn no_debug_text_of_a_secret_says_what_it_holds() {
    let rest = json!({
        "metadata": {"name": "bgp", "namespace": "portolan"},
        "data": {"tor": "aHVudGVyMg=="}, "stringData": {"spine": "correct horse"},
    });
    let secret = secret(rest).expect("a Secret");
    let change = crate::Change {
        key: Key::Secret(secret.name.clone()),
        value: Some(Resource::Secret(secret)),
    };
    let text = format!("{change:?} {change:#?}");
    assert!(text.contains("SecretValue(7 octets)"), "{text}");
    for word in ["hunter2", "correct", "aHVu", "104"] {
        assert!(!text.contains(word), "{text}");
    }
}

#[test]
fn no_error_about_a_secret_says_what_it_holds() {
    for rest in [
        json!({"data": {"tor": "hunter2!"}}),
        json!({"data": {"tor": 1_234_567}}),
        json!({"stringData": {"tor": 1_234_567}}),
        json!({"stringData": "hunter2!"}),
        json!({"data": ["hunter2!"]}),
    ] {
        let mut whole = rest.clone();
        whole["metadata"] = json!({"name": "bgp", "namespace": "portolan"});
        let error = secret(whole).expect_err("wrong").to_string();
        assert!(
            error.starts_with("Secret portolan/bgp: its data must map"),
            "{error}"
        );
        assert!(
            !error.contains("hunter2") && !error.contains("1234567"),
            "{error}"
        );
    }
}
