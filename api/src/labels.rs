//! Kubernetes label selectors (`matchLabels`, `matchExpressions`), parsed so that they cannot be wrong.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;

/// An object's labels.
pub type Labels = BTreeMap<String, String>;

/// A label selector: all requirements must hold; none at all matches everything.
///
/// Kubernetes' nil selector ("nothing") is an `Option` at its user's, never a value of this type.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LabelSelector {
    /// The requirements, sorted, so that equal selectors compare equal.
    pub requirements: BTreeSet<Requirement>,
}

/// One requirement on one label key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Requirement {
    /// The key is there and its value is one of these.
    In(String, BTreeSet<String>),
    /// The key is absent, or its value is none of these.
    NotIn(String, BTreeSet<String>),
    /// The key is there.
    Exists(String),
    /// The key is absent.
    DoesNotExist(String),
}

impl LabelSelector {
    /// Says whether an object with these labels is selected.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.requirements
            .iter()
            .all(|requirement| requirement.matches(labels))
    }
}

impl Requirement {
    fn matches(&self, labels: &Labels) -> bool {
        match self {
            Self::In(key, values) => labels.get(key).is_some_and(|value| values.contains(value)),
            Self::NotIn(key, values) => labels.get(key).is_none_or(|value| !values.contains(value)),
            Self::Exists(key) => labels.contains_key(key),
            Self::DoesNotExist(key) => !labels.contains_key(key),
        }
    }
}

impl TryFrom<meta::LabelSelector> for LabelSelector {
    type Error = String;

    /// `matchLabels` and `matchExpressions`, ANDed (semantics 12).
    fn try_from(selector: meta::LabelSelector) -> Result<Self, String> {
        let labels = selector.match_labels.unwrap_or_default().into_iter();
        let mut requirements: BTreeSet<Requirement> = labels
            .map(|(key, value)| Requirement::In(key, BTreeSet::from([value])))
            .collect();
        for expression in selector.match_expressions.unwrap_or_default() {
            requirements.insert(Requirement::try_from(expression)?);
        }
        Ok(Self { requirements })
    }
}

impl TryFrom<meta::LabelSelectorRequirement> for Requirement {
    type Error = String;

    fn try_from(expression: meta::LabelSelectorRequirement) -> Result<Self, String> {
        let meta::LabelSelectorRequirement {
            key,
            operator,
            values,
        } = expression;
        let values: BTreeSet<String> = values.unwrap_or_default().into_iter().collect();
        let takes_values = matches!(operator.as_str(), "In" | "NotIn");
        match operator.as_str() {
            "In" | "NotIn" | "Exists" | "DoesNotExist" if takes_values == values.is_empty() => {
                let needs = if takes_values {
                    "needs values"
                } else {
                    "takes no values"
                };
                Err(format!("operator {operator} on {key:?} {needs}"))
            }
            "In" => Ok(Self::In(key, values)),
            "NotIn" => Ok(Self::NotIn(key, values)),
            "Exists" => Ok(Self::Exists(key)),
            "DoesNotExist" => Ok(Self::DoesNotExist(key)),
            _ => Err(format!(
                "operator {operator:?} on {key:?} is not In, NotIn, Exists or DoesNotExist"
            )),
        }
    }
}
