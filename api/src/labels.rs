//! Kubernetes label selectors (`matchLabels`, `matchExpressions`), parsed so that they cannot be wrong.

use std::collections::{BTreeMap, BTreeSet};

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
        self.requirements.iter().all(|requirement| requirement.matches(labels))
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
