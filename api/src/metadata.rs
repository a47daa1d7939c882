//! Names and labels of objects, checked against the grammars that Kubernetes gives them.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::time::SystemTime;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::parse::ParseError;
use crate::{Labels, NamespacedName};

/// Says whether a text is a DNS-1123 label (at most 63 of `a-z0-9-`, no dash at an end).
pub fn is_dns_label(text: &str) -> bool {
    let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    (1..=63).contains(&text.len())
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// Says whether a text is a DNS-1123 subdomain: labels joined by dots, at most 253 characters.
///
/// As in Kubernetes a part between dots may be longer than 63.
pub fn is_dns_subdomain(text: &str) -> bool {
    let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    text.len() <= 253
        && text.split('.').all(|part| {
            !part.is_empty()
                && part.bytes().all(inner)
                && !part.starts_with('-')
                && !part.ends_with('-')
        })
}

/// What is read of an object's metadata. In a cluster most of it is bookkeeping (`managedFields`) and notes of others
/// (annotations, such as the whole manifest once more): that is passed over without being kept.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Metadata {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    creation_timestamp: Option<String>,
    deletion_timestamp: Option<String>,
    labels: Option<BTreeMap<String, String>>,
    annotations: Option<Annotations>,
}

impl Metadata {
    /// Whether there is such a label, whatever its value.
    pub(crate) fn has_label(&self, key: &str) -> bool {
        self.labels
            .as_ref()
            .is_some_and(|labels| labels.contains_key(key))
    }

    /// Takes out when the API server made the object: RFC 3339 in UTC to the second, so that texts sort as times do.
    pub(crate) fn take_created(&mut self) -> Option<String> {
        self.creation_timestamp.take()
    }

    /// Whether somebody wants the object gone.
    pub(crate) fn is_being_deleted(&self) -> bool {
        self.deletion_timestamp.is_some()
    }

    /// When what the object tells of happened, by the clock of who wrote it; none where that is no time.
    pub(crate) fn last_change(&self) -> Option<SystemTime> {
        let text = self.annotations.as_ref()?.0.get(LAST_CHANGE)?;
        // The longest that RFC 3339 writes with nanoseconds and a zone.
        let text = (text.len() <= 35).then_some(text)?;
        text.parse().ok().map(|time: Timestamp| time.into())
    }

    /// Takes the value of one label out, for who needs no other.
    pub(crate) fn take_label(&mut self, key: &str) -> Option<String> {
        self.labels.take()?.remove(key)
    }
}

impl From<Metadata> for ObjectMeta {
    fn from(metadata: Metadata) -> Self {
        Self {
            name: metadata.name,
            namespace: metadata.namespace,
            uid: metadata.uid,
            labels: metadata.labels,
            annotations: metadata.annotations.map(|kept| kept.0),
            ..Self::default()
        }
    }
}

/// The annotations that mean something here.
#[derive(Debug, Default)]
struct Annotations(BTreeMap<String, String>);

/// How the keys begin of annotations that are read.
const READ_ANNOTATIONS: [&str; 3] = ["portolan.io/", "kubernetes.io/config.", LAST_CHANGE];
/// When what an EndpointSlice tells of happened, in RFC 3339.
const LAST_CHANGE: &str = "endpoints.kubernetes.io/last-change-trigger-time";

impl<'de> Deserialize<'de> for Annotations {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(AnnotationVisitor)
    }
}

struct AnnotationVisitor;

impl<'de> Visitor<'de> for AnnotationVisitor {
    type Value = Annotations;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map of annotations")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Annotations, A::Error> {
        let mut kept = BTreeMap::new();
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            if READ_ANNOTATIONS.iter().any(|start| key.starts_with(start)) {
                kept.insert(key.into_owned(), map.next_value()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(Annotations(kept))
    }
}

/// One object on its way from a manifest, so that every error names it.
pub(crate) struct Subject {
    kind: &'static str,
    name: String,
}

impl Subject {
    /// A cluster-scoped object whose name is a subdomain.
    pub(crate) fn cluster(kind: &'static str, metadata: &ObjectMeta) -> Result<Self, ParseError> {
        let subject = Self::raw(kind, metadata);
        if is_dns_subdomain(&subject.name) {
            return Ok(subject);
        }
        Err(subject.error("metadata.name is not a DNS-1123 subdomain"))
    }

    /// A namespaced object. Without a namespace it is in `default`, as for kubectl.
    pub(crate) fn namespaced(
        kind: &'static str,
        metadata: &ObjectMeta,
    ) -> Result<(Self, NamespacedName), ParseError> {
        let subject = Self::cluster(kind, metadata)?;
        let namespace = metadata
            .namespace
            .as_deref()
            .filter(|text| !text.is_empty());
        let namespace = namespace.unwrap_or("default");
        if !is_dns_label(namespace) {
            return Err(subject.error("metadata.namespace is not a DNS-1123 label"));
        }
        let name = NamespacedName::new(namespace, &subject.name);
        Ok((
            Self {
                kind,
                name: name.to_string(),
            },
            name,
        ))
    }

    /// An object whose name the caller checks.
    pub(crate) fn raw(kind: &'static str, metadata: &ObjectMeta) -> Self {
        Self {
            kind,
            name: metadata.name.clone().unwrap_or_default(),
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// An error of this object.
    pub(crate) fn error(&self, message: impl Into<String>) -> ParseError {
        let object = format!("{} {}", self.kind, self.name.escape_debug());
        ParseError::Invalid {
            object,
            message: message.into(),
        }
    }

    /// The object's labels, each checked.
    pub(crate) fn labels(&self, metadata: &ObjectMeta) -> Result<Labels, ParseError> {
        let labels = metadata.labels.clone().unwrap_or_default();
        for (key, value) in &labels {
            if !is_label_key(key) || !is_label_value(value) {
                return Err(self.error(format!("metadata.labels: {key:?}: {value:?} is no label")));
            }
        }
        Ok(labels.into())
    }

    /// One annotation, parsed by `read`, whose error says what it should have been.
    pub(crate) fn annotation<T>(
        &self,
        metadata: &ObjectMeta,
        key: &str,
        read: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<Option<T>, ParseError> {
        let text = metadata
            .annotations
            .as_ref()
            .and_then(|annotations| annotations.get(key));
        let Some(text) = text else { return Ok(None) };
        let wrong = |why| self.error(format!("annotation {key} is {text:?}: {why}"));
        read(text).map(Some).map_err(wrong)
    }
}

/// A label key: an optional DNS subdomain and `/`, then a name.
fn is_label_key(text: &str) -> bool {
    match text.split_once('/') {
        Some((prefix, name)) => is_dns_subdomain(prefix) && is_label_name(name),
        None => is_label_name(text),
    }
}

fn is_label_value(text: &str) -> bool {
    text.is_empty() || is_label_name(text)
}

fn is_label_name(text: &str) -> bool {
    let inner = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.');
    let outer = |c: Option<&u8>| c.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    bytes.len() <= 63
        && bytes.iter().copied().all(inner)
        && outer(bytes.first())
        && outer(bytes.last())
}
