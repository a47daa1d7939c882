//! What this node's Node is told: its NetworkUnavailable condition, and that startup taints have done their duty.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Node, NodeCondition, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::watch;
use tracing::warn;

use super::calls::{Calls, Failure, Retry, without_nulls};
use super::duties::{now, until};
use super::text;
use crate::NodeHealth;
use crate::kubernetes::Facts;

/// The condition that says whether the node's pods are reached (semantics 154).
const CONDITION: &str = "NetworkUnavailable";
/// How often what another changed in between is read again before the failure is told.
const TRIES: u32 = 5;

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

/// The task that tells the Node, and again where that is lost: the Node was registered anew, say.
#[derive(Debug)]
pub(crate) struct Teller {
    calls: Calls,
    name: String,
    writes: NodeWrites,
    retry: Retry,
    /// When the Node is to be told.
    due: Option<Instant>,
    /// When it was told last, and how often since the last news.
    last: Option<Instant>,
    corrections: u32,
}

impl Teller {
    pub(crate) fn new(calls: Calls, name: &str, writes: NodeWrites) -> Self {
        Self {
            calls,
            name: name.to_owned(),
            writes,
            retry: Retry::default(),
            due: None,
            last: None,
            corrections: 0,
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
                    self.corrections = 0;
                    self.due = Some(now());
                    health.mark_unchanged();
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
                    let told = self.tell(seen.as_deref(), &present).await;
                    outcome.send_modify(|outcome| *outcome = (number, told));
                }
            }
        }
    }

    /// Looks at what the watch shows of the Node since it was told.
    fn look(&mut self, now: Instant, node: &Node, health: &NodeHealth) {
        let Some(last) = self.last else { return };
        if self.writes.are_done(node, health) {
            return;
        }
        let pause = FIRST_CORRECTION.saturating_mul(2_u32.saturating_pow(self.corrections.min(16)));
        self.due = Some(now.max(last + pause.min(LAST_CORRECTION)));
        self.corrections = self.corrections.saturating_add(1);
    }

    async fn tell(&mut self, seen: Option<&Node>, health: &NodeHealth) -> Result<(), Failure> {
        self.due = None;
        let is_done = |node: &Node| self.writes.are_done(node, health);
        if self.corrections > 0 && seen.is_some_and(is_done) {
            return Ok(());
        }
        let told = tell(&self.calls, &self.name, &self.writes, health).await;
        match &told {
            Ok(()) => {
                self.retry.succeeded();
                self.last = Some(now());
            }
            Err(failure) => {
                warn!(%failure, "cannot write to this node's Node; trying again");
                self.due = Some(now() + self.retry.failed(failure));
            }
        }
        told
    }
}

/// Makes this node's Node say that the network is so. What it says already is not written.
pub(crate) async fn tell(
    calls: &Calls,
    name: &str,
    writes: &NodeWrites,
    health: &NodeHealth,
) -> Result<(), Failure> {
    let path = format!("/api/v1/nodes/{name}");
    let mut tries = 1;
    loop {
        let node: Node = calls.get(&path).await?;
        match bring_up_to_date(calls, &path, writes, health, &node).await {
            Err(failure)
                if tries < TRIES && (failure.is_conflict() || failure.is_failed_test()) =>
            {
                tries += 1;
            }
            outcome => return outcome,
        }
    }
}

async fn bring_up_to_date(
    calls: &Calls,
    path: &str,
    writes: &NodeWrites,
    health: &NodeHealth,
    node: &Node,
) -> Result<(), Failure> {
    let condition = writes
        .condition
        .then(|| condition_patch(condition_of(node), health, Timestamp::now()))
        .flatten();
    if let Some(patch) = condition {
        let path = format!("{path}/status");
        calls.strategic_merge(&path, &patch).await?;
    }
    if *health != NodeHealth::Up {
        return Ok(());
    }
    match taints_patch(taints_of(node), &writes.remove_taints) {
        Some(patch) => calls.json_patch(path, &patch).await,
        None => Ok(()),
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

/// A patch of this one condition: the server merges conditions by their type, so no other is touched.
fn condition_patch(
    present: Option<&NodeCondition>,
    health: &NodeHealth,
    now: Timestamp,
) -> Option<Value> {
    let said = Said::from(health);
    if is_said(present, &said) {
        return None;
    }
    let is_flip = present.is_none_or(|present| present.status != said.status);
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
        let patch = condition_patch(present, health, at(now)).expect("a patch");
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
        assert_eq!(condition_patch(Some(&up), &NodeHealth::Up, at(2)), None);

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
    fn what_a_cloud_says_of_the_network_is_replaced() {
        let cloud = NodeCondition {
            type_: CONDITION.to_owned(),
            status: "False".to_owned(),
            reason: Some("RouteCreated".to_owned()),
            ..NodeCondition::default()
        };
        let patch = condition_patch(Some(&cloud), &NodeHealth::Up, at(1)).expect("a patch");
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
