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

/// Of these requests, oldest first, those that were refused for want of a right and never granted later: a server that
/// has just been started doesn't know its roles yet.
#[must_use]
pub fn refused(requests: &[Request]) -> Vec<&Request> {
    let what = |one: &Request| {
        let words = [
            &one.user,
            &one.verb,
            &one.resource,
            &one.namespace,
            &one.name,
        ];
        words.map(Clone::clone)
    };
    let is_granted_later = |number: usize, refused: &Request| {
        let mut later = requests.iter().skip(number + 1);
        later.any(|one| one.code < 300 && what(one) == what(refused))
    };
    let all = requests.iter().enumerate();
    all.filter(|(number, one)| one.code == 403 && !is_granted_later(*number, one))
        .map(|(_, one)| one)
        .collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_granted_later_was_not_refused_for_good() {
        let request = |verb: &str, name: &str, code| Request {
            user: "agent".to_owned(),
            agent: "portolan".to_owned(),
            verb: verb.to_owned(),
            resource: "nodes/status".to_owned(),
            namespace: String::new(),
            name: name.to_owned(),
            uri: String::new(),
            code,
            at: String::new(),
        };
        let requests = [
            request("patch", "n1", 403),
            request("patch", "n2", 200),
            request("patch", "n2", 403),
            request("get", "n1", 200),
            request("patch", "n1", 200),
        ];
        assert_eq!(refused(&requests), [&requests[2]]);
    }
}
