//! Namespace: its name and labels.

use crate::Labels;

/// A Namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// Its name.
    pub name: String,
    /// Its labels. `kubernetes.io/metadata.name` is there as the API server would set it.
    pub labels: Labels,
}
