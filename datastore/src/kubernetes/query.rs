//! The paths by which one kind is listed and watched.

use std::time::Duration;

use super::backoff::between;
use super::kind::Kind;
use super::request::encoded;

/// How many objects a page has, where lists come in pages.
const PAGE: usize = 500;

/// How long a watch lasts: nodes that start together do not begin theirs anew together.
const WATCH: (Duration, Duration) = (Duration::from_secs(300), Duration::from_secs(600));

/// Where a kind is, and what of it is read.
#[derive(Debug)]
pub(super) struct Query {
    path: String,
    /// The parameters that every request has.
    always: String,
}

impl Query {
    pub(super) fn new(kind: Kind, namespace: &str) -> Self {
        let selectors = [
            ("fieldSelector", kind.field_selector()),
            ("labelSelector", kind.label_selector()),
        ];
        let selectors = selectors.into_iter().filter_map(|(name, selector)| {
            selector.map(|text| format!("{name}={}&", encoded(text)))
        });
        Self {
            path: kind.path(namespace),
            always: selectors.collect(),
        }
    }

    /// A watch that begins with all objects there are, as new as when it is asked for.
    pub(super) fn streamed_list(&self) -> String {
        let parameters = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan";
        self.watching(parameters, None)
    }

    /// A watch of what happens after a version.
    pub(super) fn watch(&self, version: &str, lasts: Option<Duration>) -> String {
        self.watching(&format!("resourceVersion={}", encoded(version)), lasts)
    }

    /// A page of a list: the first one, or the one that another says is next. `is_any`: however old.
    pub(super) fn page(&self, is_any: bool, next: &str) -> String {
        let from = match (next, is_any) {
            ("", true) => "&resourceVersion=0".to_owned(),
            ("", false) => String::new(),
            (next, _) => format!("&continue={}", encoded(next)),
        };
        format!("{}?{}limit={PAGE}{from}", self.path, self.always)
    }

    /// A list so short that it says little more than the newest version.
    pub(super) fn newest(&self) -> String {
        format!("{}?{}limit=1", self.path, self.always)
    }

    fn watching(&self, parameters: &str, lasts: Option<Duration>) -> String {
        let seconds = lasts.unwrap_or_else(|| between(WATCH.0, WATCH.1)).as_secs();
        format!(
            "{}?{}watch=1&allowWatchBookmarks=true&timeoutSeconds={seconds}&{parameters}",
            self.path, self.always
        )
    }
}
