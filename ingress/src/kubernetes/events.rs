//! A problem as an Event of the object it is about.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;

use crate::objects::Key;
use crate::problem::Problem;

/// The server takes no longer notes.
const LONGEST_NOTE: usize = 1024;
/// Names of objects are at most 253 bytes; the rest is for the hash.
const LONGEST_NAME: usize = 230;

/// Who reports it.
#[derive(Clone, Debug)]
pub(super) struct Reporter {
    /// The controller's name.
    pub(super) controller: String,
    /// The replica.
    pub(super) instance: String,
}

/// The Event of a problem of the object with this uid. Its name follows from what it says: written a second time, by
/// whichever replica, it is there already.
pub(super) fn event(problem: &Problem, uid: &str, by: &Reporter, clock: Timestamp) -> Event {
    let (kind, api_version, namespace, name) = reference(&problem.object);
    let mut hasher = DefaultHasher::new();
    (uid, problem.reason.as_str(), &problem.message).hash(&mut hasher);
    let short: String = name.chars().take(LONGEST_NAME).collect();
    let short = short.trim_end_matches(['.', '-']);
    // Of an object without a namespace Events are in this one.
    let home = namespace.unwrap_or("default");
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{short}.{:016x}", hasher.finish())),
            namespace: Some(home.to_owned()),
            ..ObjectMeta::default()
        },
        event_time: Some(MicroTime(clock)),
        action: Some("Serve".to_owned()),
        reason: Some(problem.reason.as_str().to_owned()),
        type_: Some("Warning".to_owned()),
        note: Some(cut(&problem.message, LONGEST_NOTE)),
        regarding: Some(ObjectReference {
            api_version: Some(api_version.to_owned()),
            kind: Some(kind.to_owned()),
            namespace: namespace.map(str::to_owned),
            name: Some(name.to_owned()),
            uid: Some(uid.to_owned()).filter(|uid| !uid.is_empty()),
            ..ObjectReference::default()
        }),
        reporting_controller: Some(by.controller.clone()),
        reporting_instance: Some(cut(&by.instance, 128)),
        ..Event::default()
    }
}

fn reference(key: &Key) -> (&'static str, &'static str, Option<&str>, &str) {
    let (kind, version, name) = match key {
        Key::IngressClass(name) => return ("IngressClass", "networking.k8s.io/v1", None, name),
        Key::Ingress(name) => ("Ingress", "networking.k8s.io/v1", name),
        Key::Service(name) => ("Service", "v1", name),
        Key::EndpointSlice(name) => ("EndpointSlice", "discovery.k8s.io/v1", name),
        Key::Secret(name) => ("Secret", "v1", name),
    };
    (kind, version, Some(&name.namespace), &name.name)
}

/// At most so many bytes of a text, whole characters.
fn cut(text: &str, most: usize) -> String {
    let mut end = text.len().min(most);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use api::NamespacedName;

    use super::*;
    use crate::problem::Reason;

    fn made(object: Key, message: &str) -> Event {
        let problem = Problem {
            object,
            reason: Reason::ServiceNotFound,
            message: message.to_owned(),
        };
        let by = Reporter {
            controller: "portolan.io/ingress-controller".to_owned(),
            instance: "a".to_owned(),
        };
        event(&problem, "u", &by, "2026-01-01T00:00:00Z".parse().unwrap())
    }

    #[test]
    fn an_event_is_of_its_object_and_the_same_problem_has_the_same_name() {
        let web = || Key::Ingress(NamespacedName::new("shop", "web"));
        let one = made(web(), "no Service");
        assert_eq!(one.metadata.namespace.as_deref(), Some("shop"));
        assert_eq!(one.metadata.name, made(web(), "no Service").metadata.name);
        assert_ne!(one.metadata.name, made(web(), "other").metadata.name);
        let regarding = one.regarding.unwrap();
        assert_eq!(regarding.kind.as_deref(), Some("Ingress"));
        assert_eq!(regarding.uid.as_deref(), Some("u"));
        let class = made(Key::IngressClass("portolan".to_owned()), "x");
        assert_eq!(class.metadata.namespace.as_deref(), Some("default"));
        assert_eq!(class.regarding.unwrap().namespace, None);
    }

    #[test]
    fn what_is_too_long_for_the_server_is_cut_between_characters() {
        let name = NamespacedName::new("shop", "a.".repeat(126));
        let long = made(Key::Ingress(name), &"ä".repeat(1000));
        assert!(long.metadata.name.unwrap().len() <= 253);
        assert_eq!(long.note.unwrap().len(), 1024);
        assert_eq!(cut("aä", 2), "a");
    }
}
