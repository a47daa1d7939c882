//! What this node's Node is told: its NetworkUnavailable condition, and that startup taints have done their duty.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Node, NodeCondition, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::watch;
use tracing::warn;

use super::calls::{Calls, Retry, without_nulls};
use super::duties::{now, until};
use super::text;
use crate::NodeHealth;
use crate::kubernetes::Facts;
use crate::kubernetes::failure::Failure;

/// The condition that says whether the node's pods are reached (semantics 154).
const CONDITION: &str = "NetworkUnavailable";
/// How often a patch that what another has changed makes fail is made anew before the failure is told.
const TRIES: u32 = 5;
/// How long the watch gets to show what has changed.
const PAUSE: Duration = Duration::from_millis(500);

/// What is to be written to this node's Node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeWrites {
    /// Whether the NetworkUnavailable condition is written.
    pub condition: bool,
    /// The keys of taints that are taken off once the network is up.
    pub remove_taints: Vec<String>,
}

impl Default for NodeWrites {
    /// The condition, and no taints.
    fn default() -> Self {
        Self {
            condition: true,
            remove_taints: Vec::new(),
        }
    }
}

impl NodeWrites {
    /// Whether the Node already says all that it should.
    pub(crate) fn are_done(&self, node: &Node, health: &NodeHealth) -> bool {
        let present = condition_of(node);
        let is_said = !self.condition || is_said(present, &Said::from(health));
        is_said && (*health != NodeHealth::Up || !self.has_taint(node))
    }

    fn has_taint(&self, node: &Node) -> bool {
        taints_of(node)
            .iter()
            .any(|taint| self.remove_taints.contains(&taint.key))
    }
}

/// How long after a write what another has put in its place is put right; it doubles while that goes on.
const FIRST_CORRECTION: Duration = Duration::from_secs(30);
const LAST_CORRECTION: Duration = Duration::from_secs(600);

/// The task that tells the Node, and again where that is lost: the Node was registered anew, say. What the Node says
/// is known from the watch, so nothing is read.
#[derive(Debug)]
pub(crate) struct Teller {
    calls: Calls,
    path: String,
    writes: NodeWrites,
    retry: Retry,
    /// When the Node is to be told.
    due: Option<Instant>,
    /// What it was told last, and when: the watch shows it later.
    last: Option<(NodeHealth, Instant)>,
    /// How often it was put right since the last news.
    corrections: u32,
    conflicts: u32,
}

impl Teller {
    pub(crate) fn new(calls: Calls, name: &str, writes: NodeWrites) -> Self {
        Self {
            calls,
            path: format!("/api/v1/nodes/{name}"),
            writes,
            retry: Retry::default(),
            due: None,
            last: None,
            corrections: 0,
            conflicts: 0,
        }
    }

    /// Runs until the sender of the health is gone.
    pub(crate) async fn run(
        mut self,
        facts: Facts,
        mut health: watch::Receiver<(u64, Option<NodeHealth>)>,
        outcome: watch::Sender<(u64, Result<(), Failure>)>,
    ) {
        let mut own = facts.own_node();
        loop {
            tokio::select! {
                changed = health.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    (self.corrections, self.conflicts) = (0, 0);
                    self.due = Some(now());
                }
                _ = own.changed(), if self.due.is_none() => {
                    let node = own.borrow_and_update().clone();
                    if let (Some(node), (_, Some(health))) = (node, &*health.borrow()) {
                        self.look(now(), &node, health);
                    }
                }
                () = until(self.due) => {
                    let (number, present) = health.borrow().clone();
                    let Some(present) = present else { continue };
                    let seen = own.borrow_and_update().clone();
                    if let Some(told) = self.tell(seen.as_deref(), &present).await {
                        outcome.send_modify(|outcome| *outcome = (number, told));
                    }
                }
            }
        }
    }

    /// Looks at what the watch shows of the Node since it was told.
    fn look(&mut self, now: Instant, node: &Node, health: &NodeHealth) {
        let Some((_, last)) = &self.last else { return };
        if self.writes.are_done(node, health) {
            return;
        }
        let pause = FIRST_CORRECTION.saturating_mul(2_u32.saturating_pow(self.corrections.min(16)));
        self.due = Some(now.max(*last + pause.min(LAST_CORRECTION)));
        self.corrections = self.corrections.saturating_add(1);
    }

    /// Makes the Node say that the network is so, and what came of it; nothing while it is tried again at once.
    async fn tell(
        &mut self,
        seen: Option<&Node>,
        health: &NodeHealth,
    ) -> Option<Result<(), Failure>> {
        self.due = None;
        let told = match seen {
            Some(seen) => self.write(seen, health).await,
            None => {
                let why = "the server has not told of this node's Node yet";
                Err(Failure::Unanswered(why.to_owned()))
            }
        };
        match &told {
            Ok(()) => {
                self.retry.succeeded();
                self.last = Some((health.clone(), now()));
            }
            Err(failure)
                if self.conflicts < TRIES
                    && (failure.is_conflict() || failure.is_failed_test()) =>
            {
                self.conflicts += 1;
                self.due = Some(now() + PAUSE);
                return None;
            }
            Err(failure) => {
                warn!(%failure, "cannot write to this node's Node; trying again");
                self.due = Some(now() + self.retry.failed(failure));
            }
        }
        Some(told)
    }

    /// Writes what is missing of what was seen.
    async fn write(&self, seen: &Node, health: &NodeHealth) -> Result<(), Failure> {
        let last = self.last.as_ref().map(|(health, _)| health);
        let present = condition_of(seen);
        if self.writes.condition
            && let Some(patch) = condition_patch(present, last, health, Timestamp::now())
        {
            let path = format!("{}/status", self.path);
            self.calls.strategic_merge(&path, &patch).await?;
        }
        if *health != NodeHealth::Up {
            return Ok(());
        }
        match taints_patch(taints_of(seen), &self.writes.remove_taints) {
            Some(patch) => self.calls.json_patch(&self.path, &patch).await,
            None => Ok(()),
        }
    }
}

fn condition_of(node: &Node) -> Option<&NodeCondition> {
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    conditions
        .iter()
        .find(|condition| condition.type_ == CONDITION)
}

fn taints_of(node: &Node) -> &[Taint] {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref());
    taints.unwrap_or_default()
}

/// The condition's words.
#[derive(PartialEq)]
struct Said {
    status: &'static str,
    reason: &'static str,
    message: String,
}

impl From<&NodeHealth> for Said {
    fn from(health: &NodeHealth) -> Self {
        match health {
            NodeHealth::Up => Self {
                status: "False",
                reason: "PortolanIsUp",
                message: "Portolan's data plane and BGP are up on this node".to_owned(),
            },
            NodeHealth::Down { message } => Self {
                status: "True",
                reason: "PortolanIsDown",
                message: text::shortened(message),
            },
        }
    }
}

fn is_said(present: Option<&NodeCondition>, said: &Said) -> bool {
    present.is_some_and(|present| {
        present.status == said.status
            && present.reason.as_deref() == Some(said.reason)
            && present.message.as_deref() == Some(&said.message)
    })
}

/// A patch of this one condition: the server merges conditions by their type, so no other is touched. None if it says so
/// already, and was not told otherwise since.
fn condition_patch(
    present: Option<&NodeCondition>,
    told: Option<&NodeHealth>,
    health: &NodeHealth,
    now: Timestamp,
) -> Option<Value> {
    let said = Said::from(health);
    let told = told.map(Said::from);
    if is_said(present, &said) && told.as_ref().is_none_or(|told| *told == said) {
        return None;
    }
    let is_flip = present.is_none_or(|present| present.status != said.status)
        || told.is_some_and(|told| told.status != said.status);
    let condition = without_nulls(json!({
        "type": CONDITION,
        "status": said.status,
        "reason": said.reason,
        "message": said.message,
        "lastHeartbeatTime": Time(now),
        "lastTransitionTime": is_flip.then_some(Time(now)),
    }));
    Some(json!({"status": {"conditions": [condition]}}))
}

/// Takes off the taints of these keys, if each still stands where it stood: a taint that another has added or removed in
/// between makes the patch fail.
fn taints_patch(present: &[Taint], keys: &[String]) -> Option<Value> {
    let ours = present.iter().enumerate().rev();
    let operations: Vec<Value> = ours
        .filter(|(_, taint)| keys.contains(&taint.key))
        .flat_map(|(index, taint)| {
            let path = format!("/spec/taints/{index}");
            [
                json!({"op": "test", "path": path, "value": taint}),
                json!({"op": "remove", "path": path}),
            ]
        })
        .collect();
    (!operations.is_empty()).then_some(Value::Array(operations))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).expect("a time")
    }

    fn taint(key: &str, effect: &str) -> Taint {
        Taint {
            key: key.to_owned(),
            effect: effect.to_owned(),
            ..Taint::default()
        }
    }

    fn patched(present: Option<&NodeCondition>, health: &NodeHealth, now: i64) -> NodeCondition {
        let patch = condition_patch(present, None, health, at(now)).expect("a patch");
        let conditions = &patch["status"]["conditions"];
        assert_eq!(conditions.as_array().expect("a list").len(), 1);
        let mut condition: NodeCondition =
            serde_json::from_value(conditions[0].clone()).expect("a condition");
        if let (None, Some(present)) = (&condition.last_transition_time, present) {
            condition.last_transition_time = present.last_transition_time.clone();
        }
        condition
    }

    #[test]
    fn the_condition_is_written_once_and_its_transition_only_when_it_flips() {
        let up = patched(None, &NodeHealth::Up, 1);
        assert_eq!(
            (up.type_.as_str(), up.status.as_str()),
            (CONDITION, "False")
        );
        assert_eq!(up.reason.as_deref(), Some("PortolanIsUp"));
        assert_eq!(up.last_transition_time, Some(Time(at(1))));
        assert_eq!(
            condition_patch(Some(&up), None, &NodeHealth::Up, at(2)),
            None
        );

        let down = |message: &str| NodeHealth::Down {
            message: message.to_owned(),
        };
        let first = patched(Some(&up), &down("no BGP"), 3);
        assert_eq!(first.status, "True");
        assert_eq!(first.reason.as_deref(), Some("PortolanIsDown"));
        assert_eq!(first.last_transition_time, Some(Time(at(3))));
        let second = patched(Some(&first), &down("stopped"), 4);
        assert_eq!(second.message.as_deref(), Some("stopped"));
        assert_eq!(second.last_heartbeat_time, Some(Time(at(4))));
        assert_eq!(second.last_transition_time, Some(Time(at(3))), "no flip");
    }

    #[test]
    fn what_was_told_and_the_watch_does_not_show_yet_counts() {
        let up = patched(None, &NodeHealth::Up, 1);
        let down = NodeHealth::Down {
            message: "no BGP".to_owned(),
        };
        let patch = condition_patch(Some(&up), Some(&down), &NodeHealth::Up, at(2));
        let condition = &patch.expect("a patch")["status"]["conditions"][0];
        assert_eq!(condition["status"], "False");
        assert_eq!(condition["lastTransitionTime"], json!(Time(at(2))));
        let told = Some(&NodeHealth::Up);
        assert_eq!(
            condition_patch(Some(&up), told, &NodeHealth::Up, at(2)),
            None
        );
    }

    #[test]
    fn what_a_cloud_says_of_the_network_is_replaced() {
        let cloud = NodeCondition {
            type_: CONDITION.to_owned(),
            status: "False".to_owned(),
            reason: Some("RouteCreated".to_owned()),
            ..NodeCondition::default()
        };
        let patch = condition_patch(Some(&cloud), None, &NodeHealth::Up, at(1)).expect("a patch");
        let condition = &patch["status"]["conditions"][0];
        assert_eq!(condition["reason"], "PortolanIsUp");
        assert!(condition.get("lastTransitionTime").is_none());
    }

    #[test]
    fn only_taints_of_the_given_keys_go_each_tested_where_it_stands_from_the_last_to_the_first() {
        let present = [
            taint("portolan.io/not-ready", "NoSchedule"),
            taint("gpu", "NoSchedule"),
            taint("portolan.io/not-ready", "NoExecute"),
        ];
        let keys = ["portolan.io/not-ready".to_owned()];
        let patch = taints_patch(&present, &keys).expect("a patch");
        let expected = json!([
            {"op": "test", "path": "/spec/taints/2",
             "value": {"key": "portolan.io/not-ready", "effect": "NoExecute"}},
            {"op": "remove", "path": "/spec/taints/2"},
            {"op": "test", "path": "/spec/taints/0",
             "value": {"key": "portolan.io/not-ready", "effect": "NoSchedule"}},
            {"op": "remove", "path": "/spec/taints/0"},
        ]);
        assert_eq!(patch, expected);
        assert_eq!(taints_patch(&present[1..2], &keys), None);
        assert_eq!(taints_patch(&present, &[]), None);
    }
}
