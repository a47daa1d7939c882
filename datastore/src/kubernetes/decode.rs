//! From what the API server sends to what is kept: an object, or one event of a watch.

use std::borrow::Cow;

use api::{ParseError, Resource};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::facts::ObjectFacts;
use super::failure::Failure;
use super::kind::Kind;
use super::world::Names;

/// An object as the server has it.
#[derive(Debug)]
pub(super) struct Object {
    pub(super) kind: Kind,
    /// `namespace/name`, or the name where its kind has no namespaces.
    pub(super) name: Box<str>,
    pub(super) facts: ObjectFacts,
    /// What is kept of it, or why it cannot be understood.
    pub(super) resource: Result<Resource, ParseError>,
}

/// One line of a watch.
#[derive(Debug)]
pub(super) enum WatchEvent {
    /// An object is so now.
    Is(Box<Object>),
    /// An object is gone.
    Gone(Box<str>),
    /// Nothing has changed up to here.
    Bookmark {
        /// Whether a streamed list ends here.
        ends_list: bool,
    },
    /// The server ends the watch.
    Error(Failure),
}

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(rename = "type", borrow)]
    type_: Cow<'a, str>,
    #[serde(borrow)]
    object: &'a RawValue,
}

/// What is read of every object, whatever else is wrong with it.
#[derive(Deserialize)]
struct Envelope {
    metadata: Metadata,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Metadata {
    name: String,
    namespace: String,
    resource_version: String,
    annotations: Option<Marks>,
}

/// Marks the bookmark after the last object of a streamed list.
#[derive(Deserialize)]
struct Marks {
    #[serde(rename = "k8s.io/initial-events-end", default)]
    initial_events_end: Option<String>,
}

/// What of a kind is read.
pub(super) struct Lens<'a> {
    pub(super) kind: Kind,
    /// The names of the objects that are wanted, where not all are.
    pub(super) names: Option<&'a Names>,
}

impl Lens<'_> {
    /// Reads a line of a watch: what it says, and the resource version that the watch has reached with it. Objects that
    /// are not wanted are gone as far as anybody here is concerned, and are not read.
    pub(super) fn event(&self, line: &[u8]) -> Result<(WatchEvent, Option<String>), Failure> {
        let kind = self.kind;
        let read: Line<'_> =
            serde_json::from_slice(line).map_err(|error| unreadable(kind, &error))?;
        let text = read.object.get().as_bytes();
        if read.type_ == "ERROR" {
            return Ok((
                WatchEvent::Error(Failure::refused_in_words(None, text)),
                None,
            ));
        }
        let metadata = metadata(kind, text)?;
        let version = metadata.resource_version.clone();
        let event = match &*read.type_ {
            "ADDED" | "MODIFIED" if self.is_wanted(&metadata) => {
                WatchEvent::Is(Box::new(self.object(&metadata, text)))
            }
            "ADDED" | "MODIFIED" | "DELETED" => WatchEvent::Gone(full_name(&metadata)),
            "BOOKMARK" => {
                let mark = metadata
                    .annotations
                    .and_then(|marks| marks.initial_events_end);
                let ends_list = mark.as_deref() == Some("true");
                WatchEvent::Bookmark { ends_list }
            }
            other => {
                let why = format!("a watch of {} has an event {other:?}", kind.name());
                return Err(Failure::Unanswered(why));
            }
        };
        Ok((event, Some(version).filter(|version| !version.is_empty())))
    }

    /// Reads an item of a list; none if it is not wanted.
    pub(super) fn item(&self, text: &[u8]) -> Result<Option<Box<Object>>, Failure> {
        let metadata = metadata(self.kind, text)?;
        let is_wanted = self.is_wanted(&metadata);
        Ok(is_wanted.then(|| Box::new(self.object(&metadata, text))))
    }

    fn is_wanted(&self, metadata: &Metadata) -> bool {
        self.names
            .is_none_or(|names| names.contains(&metadata.name))
    }

    fn object(&self, metadata: &Metadata, text: &[u8]) -> Object {
        let kind = self.kind;
        let name = full_name(metadata);
        let resource = match api::parse_json(kind.name(), kind.api_version(), text) {
            Ok(Some((key, resource))) if key == kind.key(&name) => Ok(resource),
            Ok(_) => Err(ParseError::Invalid {
                object: kind.key(&name).to_string(),
                message: "it is not what its name says".to_owned(),
            }),
            Err(error) => Err(error),
        };
        let mut facts = ObjectFacts::default();
        if kind.is_noted() {
            facts = ObjectFacts::read(kind.name(), text);
            match &resource {
                Ok(resource) => facts.set_read(resource),
                Err(error) => facts.problem = Some(error.to_string()),
            }
        }
        Object {
            kind,
            name,
            facts,
            resource,
        }
    }
}

fn metadata(kind: Kind, text: &[u8]) -> Result<Metadata, Failure> {
    let envelope: Envelope =
        serde_json::from_slice(text).map_err(|error| unreadable(kind, &error))?;
    Ok(envelope.metadata)
}

fn unreadable(kind: Kind, error: &serde_json::Error) -> Failure {
    // Not what it quotes: it may be a part of a Secret.
    let (line, column) = (error.line(), error.column());
    let what = kind.name();
    Failure::Unanswered(format!(
        "the server sent a {what} that is no JSON (at {line}:{column})"
    ))
}

fn full_name(metadata: &Metadata) -> Box<str> {
    match metadata.namespace.as_str() {
        "" => metadata.name.as_str().into(),
        namespace => format!("{namespace}/{}", metadata.name).into(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use api::Key;

    use super::*;

    fn event(kind: Kind, line: &str) -> (WatchEvent, Option<String>) {
        lens(kind, None).event(line.as_bytes()).expect("a line")
    }

    fn lens(kind: Kind, names: Option<&Names>) -> Lens<'_> {
        Lens { kind, names }
    }

    #[test]
    fn an_object_of_a_watch_is_read_with_its_version() {
        let line = r#"{"type":"ADDED","object":{"kind":"Pod","metadata":{"name":"a","namespace":"n","uid":"u","resourceVersion":"7","managedFields":[{"x":{}}],"annotations":{"o":"x"}},"spec":{"nodeName":"n1","containers":[{"image":5}]},"status":{"podIPs":[{"ip":"10.0.0.1"}]}}}"#;
        let (WatchEvent::Is(object), version) = event(Kind::Pod, line) else {
            panic!("no object");
        };
        assert_eq!((&*object.name, version.as_deref()), ("n/a", Some("7")));
        let Ok(Resource::Pod(pod)) = object.resource else {
            panic!("no pod");
        };
        assert_eq!(pod.node_name.as_deref(), Some("n1"));
        assert_eq!(pod.uid, "u");
        assert_eq!(Kind::Pod.key(&object.name), Key::Pod(pod.name));
    }

    #[test]
    fn a_bookmark_says_whether_the_list_ends_with_it() {
        for (annotations, expected) in [
            ("", false),
            (r#","annotations":{"other":"true"}"#, false),
            (
                r#","annotations":{"k8s.io/initial-events-end":"true"}"#,
                true,
            ),
        ] {
            let line = format!(
                r#"{{"type":"BOOKMARK","object":{{"metadata":{{"resourceVersion":"9"{annotations}}}}}}}"#
            );
            let (WatchEvent::Bookmark { ends_list }, version) = event(Kind::Node, &line) else {
                panic!("no bookmark");
            };
            assert_eq!((ends_list, version.as_deref()), (expected, Some("9")));
        }
    }

    #[test]
    fn an_error_of_a_watch_is_the_servers_refusal() {
        let line = r#"{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired","message":"too old","details":{"retryAfterSeconds":3}}}"#;
        let (WatchEvent::Error(failure), None) = event(Kind::Node, line) else {
            panic!("no error");
        };
        assert!(failure.is_expired());
        assert_eq!(
            failure.retry_after(),
            Some(std::time::Duration::from_secs(3))
        );
    }

    #[test]
    fn a_secret_that_nobody_wants_is_not_read_and_one_that_is_no_json_not_quoted() {
        let line = r#"{"type":"ADDED","object":{"metadata":{"name":"s","namespace":"portolan","resourceVersion":"7"},"data":{"p":"aHVzaA=="}}}"#;
        let nothing = Names::These(BTreeSet::new());
        let unwanted = lens(Kind::Secret, Some(&nothing));
        let (event, _) = unwanted.event(line.as_bytes()).expect("a line");
        assert!(matches!(event, WatchEvent::Gone(name) if &*name == "portolan/s"));
        let broken = line.replace(r#""aHVzaA==""#, "aHVzaA==");
        let error = lens(Kind::Secret, None)
            .event(broken.as_bytes())
            .expect_err("no JSON");
        assert!(!error.to_string().contains("aHVz"), "{error}");
    }

    #[test]
    fn an_object_that_is_wrong_is_named_and_its_version_is_known() {
        let line = r#"{"type":"MODIFIED","object":{"metadata":{"name":"p","resourceVersion":"8","generation":3},"spec":{"cidr":"no"}}}"#;
        let (WatchEvent::Is(object), Some(version)) = event(Kind::IpPool, line) else {
            panic!("no object");
        };
        assert_eq!((object.facts.generation, version.as_str()), (3, "8"));
        let error = object.resource.expect_err("it is wrong").to_string();
        assert!(error.starts_with("IPPool p: "), "{error}");
    }
}
