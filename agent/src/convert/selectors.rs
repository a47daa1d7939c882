//! Kubernetes' label selectors in Calico's selector language.

use std::collections::BTreeSet;

use api::LabelSelector;
use api::labels::Requirement;
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use serde_json::Value;

use super::cluster::literal;

/// One label selector, parsed.
pub(super) fn parse(value: &Value) -> Option<LabelSelector> {
    let selector: meta::LabelSelector = serde_json::from_value(value.clone()).ok()?;
    LabelSelector::try_from(selector).ok()
}

/// Any of these: an object is selected if one of them selects it. None of them selects everything, as in MetalLB.
pub(super) fn any_of(values: &[Value]) -> Option<String> {
    let each: Option<Vec<String>> = values.iter().map(|value| text(&parse(value)?)).collect();
    match each?.as_slice() {
        [] => Some("all()".to_owned()),
        [one] => Some(one.clone()),
        many => {
            let grouped: Vec<String> = many.iter().map(|one| format!("({one})")).collect();
            Some(grouped.join(" || "))
        }
    }
}

/// The same selector in the other language; `None` for a key or value that it cannot hold.
pub(super) fn text(selector: &LabelSelector) -> Option<String> {
    let parts: Option<Vec<String>> = selector.requirements.iter().map(requirement).collect();
    let parts = parts?;
    match parts.is_empty() {
        true => Some("all()".to_owned()),
        false => Some(parts.join(" && ")),
    }
}

fn requirement(requirement: &Requirement) -> Option<String> {
    Some(match requirement {
        Requirement::In(key, values) => match values.iter().collect::<Vec<_>>().as_slice() {
            [one] => format!("{} == {}", label(key)?, literal(one)?),
            _ => format!("{} in {}", label(key)?, set(values)?),
        },
        Requirement::NotIn(key, values) => format!("{} not in {}", label(key)?, set(values)?),
        Requirement::Exists(key) => format!("has({})", label(key)?),
        Requirement::DoesNotExist(key) => format!("!has({})", label(key)?),
    })
}

fn set(values: &BTreeSet<String>) -> Option<String> {
    let values: Option<Vec<String>> = values.iter().map(|value| literal(value)).collect();
    Some(format!("{{{}}}", values?.join(", ")))
}

/// A key that the language can hold as a word, so that no key is read as more than a key.
fn label(key: &str) -> Option<&str> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '/' | '-');
    (!key.is_empty() && key.chars().all(plain)).then_some(key)
}
