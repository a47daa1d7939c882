//! Namespace: its name and labels.

use k8s_openapi::api::core::v1 as core;

use crate::metadata::{Subject, is_dns_label};
use crate::{Labels, ParseError};

/// The label that the API server puts on every Namespace.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// A Namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Namespace {
    /// Its name.
    pub name: String,
    /// Its labels. `kubernetes.io/metadata.name` is there as the API server would set it.
    pub labels: Labels,
}

impl TryFrom<core::Namespace> for Namespace {
    type Error = ParseError;

    fn try_from(namespace: core::Namespace) -> Result<Self, ParseError> {
        let subject = Subject::raw("Namespace", &namespace.metadata);
        if !is_dns_label(subject.name()) {
            return Err(subject.error("metadata.name is not a DNS-1123 label"));
        }
        let mut labels = subject.labels(&namespace.metadata)?;
        labels.insert(NAME_LABEL.to_owned(), subject.name().to_owned());
        Ok(Self {
            name: subject.name().to_owned(),
            labels,
        })
    }
}
