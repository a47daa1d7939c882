//! This node's BGPNodeStatus, by server-side apply: made when it is missing, gone with its Node.

use std::time::{Duration, Instant};

use api::crd::{BgpNodeStatusStatus, NodeSession, NodeWireGuard};
use serde_json::{Value, json};

use super::calls::{Calls, without_nulls};
use crate::kubernetes::failure::Failure;

const API_VERSION: &str = "portolan.io/v1alpha1";
const COLLECTION: &str = "/apis/portolan.io/v1alpha1/bgpnodestatuses";
/// The least time between two writes.
const PAUSE: Duration = Duration::from_secs(10);
/// So many sessions are told, those that are not Established first: an object has to fit in the server's store.
const MOST_SESSIONS: usize = 500;

/// When what was said last may be said anew.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    last: Option<(Instant, BgpNodeStatusStatus)>,
}

impl Pace {
    /// When this is to be written; `None` if it stands there already.
    pub(crate) fn due(&self, now: Instant, status: &BgpNodeStatusStatus) -> Option<Instant> {
        let Some((at, last)) = &self.last else {
            return Some(now);
        };
        let is_same = BgpNodeStatusStatus {
            last_updated: status.last_updated.clone(),
            ..last.clone()
        } == *status;
        (!is_same).then(|| now.max(*at + PAUSE))
    }

    /// What was said is not there any more.
    pub(crate) fn forget(&mut self) {
        self.last = None;
    }

    pub(crate) fn written(&mut self, now: Instant, status: BgpNodeStatusStatus) {
        self.last = Some((now, status));
    }
}

/// Writes the status. The object itself is applied before: at first, when the Node has another uid than `owner`, and when
/// it is found to be gone.
pub(crate) async fn write(
    calls: &Calls,
    node: &str,
    uid: &str,
    owner: &mut Option<String>,
    status: &BgpNodeStatusStatus,
) -> Result<(), Failure> {
    let path = format!("{COLLECTION}/{node}");
    let object = without_nulls(json!({
        "apiVersion": API_VERSION,
        "kind": "BGPNodeStatus",
        "metadata": {"name": node},
        "status": bounded(status.clone()),
    }));
    if owner.as_deref() == Some(uid) {
        match calls.apply(&format!("{path}/status"), &object).await {
            Err(failure) if failure.is_not_found() => *owner = None,
            outcome => return outcome,
        }
    }
    calls.apply(&path, &whole(node, uid)).await?;
    calls.apply(&format!("{path}/status"), &object).await?;
    *owner = Some(uid.to_owned());
    Ok(())
}

/// The manager of the keys: whoever writes the rest of the status must not take them away.
const KEYS_MANAGER: &str = "portolan-wireguard";

/// Writes the node's WireGuard keys and nothing else of its status.
pub(crate) async fn write_keys(
    calls: &Calls,
    node: &str,
    uid: &str,
    keys: &NodeWireGuard,
) -> Result<(), Failure> {
    let path = format!("{COLLECTION}/{node}");
    let object = json!({
        "apiVersion": API_VERSION,
        "kind": "BGPNodeStatus",
        "metadata": {"name": node},
        "status": {"wireGuard": keys},
    });
    let status = format!("{path}/status");
    match calls.apply_as(KEYS_MANAGER, &status, &object).await {
        Err(failure) if failure.is_not_found() => {
            calls.apply(&path, &whole(node, uid)).await?;
            calls.apply_as(KEYS_MANAGER, &status, &object).await
        }
        outcome => outcome,
    }
}

/// The object without its status: what is deleted with the Node of this uid.
fn whole(node: &str, uid: &str) -> Value {
    let owner = json!({"apiVersion": "v1", "kind": "Node", "name": node, "uid": uid});
    json!({
        "apiVersion": API_VERSION,
        "kind": "BGPNodeStatus",
        "metadata": {"name": node, "ownerReferences": [owner]},
        "spec": {"node": node},
    })
}

fn bounded(mut status: BgpNodeStatusStatus) -> BgpNodeStatusStatus {
    if status.sessions.len() > MOST_SESSIONS {
        let is_up = |session: &NodeSession| session.state == "Established";
        status.sessions.sort_by_key(is_up);
        status.sessions.truncate(MOST_SESSIONS);
        status.sessions.sort_by(|a, b| a.name.cmp(&b.name));
    }
    status.peers.truncate(MOST_SESSIONS);
    status
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use k8s_openapi::jiff::Timestamp;

    use super::*;

    fn status(established: u32, updated: i64) -> BgpNodeStatusStatus {
        BgpNodeStatusStatus {
            established,
            last_updated: Timestamp::from_second(updated).ok().map(Time),
            ..BgpNodeStatusStatus::default()
        }
    }

    #[test]
    fn a_status_is_written_when_it_changes_and_ten_seconds_after_the_last_at_the_earliest() {
        let start = Instant::now();
        let mut pace = Pace::default();
        assert_eq!(pace.due(start, &status(1, 1)), Some(start));
        pace.written(start, status(1, 1));
        assert_eq!(
            pace.due(start, &status(1, 2)),
            None,
            "only its time differs"
        );
        let next = start + PAUSE;
        assert_eq!(pace.due(start, &status(2, 2)), Some(next));
        let later = start + 3 * PAUSE;
        assert_eq!(pace.due(later, &status(2, 2)), Some(later));
    }

    #[test]
    fn of_more_sessions_than_an_object_holds_those_that_are_down_are_told() {
        let session = |number: usize| NodeSession {
            name: format!("{number:04}"),
            state: if number.is_multiple_of(2) {
                "Established"
            } else {
                "Idle"
            }
            .to_owned(),
            ..NodeSession::default()
        };
        let sessions = (0..800).map(session).collect();
        let told = bounded(BgpNodeStatusStatus {
            sessions,
            ..BgpNodeStatusStatus::default()
        });
        assert_eq!(told.sessions.len(), MOST_SESSIONS);
        let down = told.sessions.iter().filter(|one| one.state == "Idle");
        assert_eq!(down.count(), 400);
        assert!(told.sessions.is_sorted_by_key(|one| &one.name));
    }
}
