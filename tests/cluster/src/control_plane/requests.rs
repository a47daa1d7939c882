//! What was asked of the API server, from its audit log.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::Result;
use serde_json::Value;

/// One request that was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Who asked: `system:serviceaccount:portolan:portolan-agent`.
    pub user: String,
    /// The program that asked, as it calls itself.
    pub agent: String,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`.
    pub verb: String,
    /// With its subresource: `nodes/status`. Empty for other paths.
    pub resource: String,
    /// Empty for objects without one.
    pub namespace: String,
    /// Empty for lists.
    pub name: String,
    /// The path with its query.
    pub uri: String,
    /// HTTP's status code.
    pub code: u16,
    /// When it came, RFC 3339 in UTC with microseconds: can be compared as text.
    pub at: String,
}

/// Reads the log; a line that is being written is left out.
pub(super) fn read(log: &Path) -> Result<Vec<Request>> {
    let text = std::fs::read_to_string(log)?;
    let mut seen = BTreeSet::new();
    let mut requests: Vec<Request> = Vec::new();
    for line in text.lines() {
        let Ok(event) = serde_json::from_str::<Value>(line) else {
            continue;
        };
        // A watch is told when it begins and when it ends.
        if seen.insert(word(&event, "/auditID")) {
            requests.push(request(&event));
        }
    }
    requests.sort_by(|one, other| one.at.cmp(&other.at));
    Ok(requests)
}

fn request(event: &Value) -> Request {
    let subresource = word(event, "/objectRef/subresource");
    let mut resource = word(event, "/objectRef/resource");
    if !subresource.is_empty() {
        resource = format!("{resource}/{subresource}");
    }
    let code = event
        .pointer("/responseStatus/code")
        .and_then(Value::as_u64);
    Request {
        user: word(event, "/user/username"),
        agent: word(event, "/userAgent"),
        verb: word(event, "/verb"),
        resource,
        namespace: word(event, "/objectRef/namespace"),
        name: word(event, "/objectRef/name"),
        uri: word(event, "/requestURI"),
        code: code.and_then(|code| code.try_into().ok()).unwrap_or(0),
        at: word(event, "/requestReceivedTimestamp"),
    }
}

fn word(event: &Value, pointer: &str) -> String {
    let value = event.pointer(pointer).and_then(Value::as_str);
    value.unwrap_or_default().to_owned()
}
