//! Kubernetes label selectors (`matchLabels`, `matchExpressions`), parsed so that they cannot be wrong.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::hash::{Hash, Hasher};
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;

static NONE: BTreeMap<String, String> = BTreeMap::new();

/// An object's labels, to be used as the map they are. Copies share it: a cluster has many pods, kept by some, with few
/// different labels.
#[derive(Clone, Default)]
pub struct Labels(Option<Arc<BTreeMap<String, String>>>);

impl Labels {
    /// No labels.
    pub const fn new() -> Self {
        Self(None)
    }

    /// Whether nobody else has a copy.
    pub fn is_alone(&self) -> bool {
        self.0
            .as_ref()
            .is_none_or(|labels| Arc::strong_count(labels) == 1)
    }
}

impl PartialEq for Labels {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Labels {}

impl Hash for Labels {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (**self).hash(state);
    }
}

impl std::fmt::Debug for Labels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        (**self).fmt(f)
    }
}

impl Deref for Labels {
    type Target = BTreeMap<String, String>;

    fn deref(&self) -> &BTreeMap<String, String> {
        self.0.as_deref().unwrap_or(&NONE)
    }
}

impl DerefMut for Labels {
    /// The labels, which are this copy's alone from here on.
    fn deref_mut(&mut self) -> &mut BTreeMap<String, String> {
        Arc::make_mut(self.0.get_or_insert_default())
    }
}

impl From<BTreeMap<String, String>> for Labels {
    fn from(labels: BTreeMap<String, String>) -> Self {
        Self((!labels.is_empty()).then(|| Arc::new(labels)))
    }
}

impl<const N: usize> From<[(String, String); N]> for Labels {
    fn from(labels: [(String, String); N]) -> Self {
        BTreeMap::from(labels).into()
    }
}

impl FromIterator<(String, String)> for Labels {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(labels: I) -> Self {
        BTreeMap::from_iter(labels).into()
    }
}

/// One copy of each set of labels that is in use: the pods of a ReplicaSet have the same ones.
#[derive(Debug, Default)]
pub struct LabelPool {
    known: HashSet<Labels>,
    /// With so many it is time to look which are still in use.
    most: usize,
}

impl LabelPool {
    const FEW: usize = 1024;

    /// Has these labels be the copy that others of the same labels have.
    pub fn share(&mut self, labels: &mut Labels) {
        if labels.is_empty() {
            return;
        }
        if let Some(known) = self.known.get(labels) {
            *labels = known.clone();
            return;
        }
        if self.known.len() >= self.most {
            self.known.retain(|labels| !labels.is_alone());
            self.known.shrink_to(self.known.len() * 2);
            self.most = Self::FEW.max(self.known.len() * 2);
        }
        self.known.insert(labels.clone());
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(app: usize) -> Labels {
        [("app".to_owned(), format!("a{app}"))].into()
    }

    fn is_one(one: &Labels, other: &Labels) -> bool {
        std::ptr::eq(&**one, &**other)
    }

    #[test]
    fn equal_labels_are_one_copy_until_one_of_them_is_changed() {
        let mut pool = LabelPool::default();
        let (mut one, mut other, mut third) = (labels(1), labels(1), labels(2));
        for labels in [&mut one, &mut other, &mut third] {
            pool.share(labels);
        }
        assert!(is_one(&one, &other) && !is_one(&one, &third));
        other.insert("tier".to_owned(), "web".to_owned());
        assert_eq!((one.len(), other.len()), (1, 2));
    }

    #[test]
    fn labels_that_nobody_has_any_more_are_forgotten() {
        let mut pool = LabelPool::default();
        let mut kept = labels(0);
        pool.share(&mut kept);
        for app in 1..100_000 {
            pool.share(&mut labels(app));
        }
        assert!(
            pool.known.len() <= LabelPool::FEW * 2,
            "{}",
            pool.known.len()
        );
        let mut again = labels(0);
        pool.share(&mut again);
        assert!(is_one(&kept, &again));
    }

    #[test]
    fn no_labels_are_equal_however_they_came_to_be() {
        let mut emptied = labels(1);
        emptied.clear();
        assert_eq!(emptied, Labels::new());
        let hasher = std::hash::RandomState::new();
        let hash = |labels: &Labels| std::hash::BuildHasher::hash_one(&hasher, labels);
        assert_eq!(hash(&emptied), hash(&Labels::new()));
    }
}
