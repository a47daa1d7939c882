//! The Lease that lets one node at a time do what concerns the whole cluster. It is taken when there is something to do,
//! so a quiet cluster's Lease is neither read nor written.

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::Lease as Object;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::calls::{Calls, ONCE};
use crate::kubernetes::failure::Failure;

/// The Lease's name.
pub(crate) const NAME: &str = "portolan-status";
/// How long it lasts from its last renewal.
pub(crate) const DURATION: Duration = Duration::from_secs(40);
/// How old a renewal is before the holder, if it has more to do, renews again.
const RENEW: Duration = Duration::from_secs(10);
/// How long after a renewal requests that it allowed may still be under way, at the most: one is sent until [`RENEW`] after it and
/// takes [`ONCE`]; the rest is for the way. A holder on another node has waited for longer.
const UNDER_WAY: Duration = Duration::from_secs(20);
/// By how much the nodes' clocks may differ.
const CLOCKS_DIFFER: Duration = Duration::from_secs(300);

/// Who may act.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hold {
    /// This node, for as long as a request may take.
    Ours,
    /// Another; there is no use in asking before so much time has passed.
    Theirs(Duration),
}

/// This node's view of the Lease.
#[derive(Debug)]
pub(crate) struct Lease {
    calls: Calls,
    collection: String,
    namespace: String,
    node: String,
    /// When this node last renewed it.
    renewed: Option<Instant>,
    /// How often it became this process's.
    tenure: u64,
    /// From when on no request is under way of who had it before.
    quiet_from: Option<Instant>,
    /// Whether there was none before.
    is_first: bool,
    /// The state of another's Lease, and since when it has been seen so.
    seen: Option<(String, Instant)>,
}

impl Lease {
    pub(crate) fn new(calls: Calls, namespace: &str, node: &str) -> Self {
        Self {
            calls,
            collection: format!("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"),
            namespace: namespace.to_owned(),
            node: node.to_owned(),
            renewed: None,
            tenure: 0,
            quiet_from: None,
            is_first: false,
            seen: None,
        }
    }

    /// The how manieth time it is that this process has it: between two of them others may have acted.
    pub(crate) fn tenure(&self) -> u64 {
        self.tenure
    }

    /// From when on no request is under way that whoever had it before was allowed to send.
    pub(crate) fn quiet_from(&self) -> Option<Instant> {
        self.quiet_from
    }

    /// Whether there was none when this process took it: nobody has had it yet, or it was deleted.
    pub(crate) fn is_first(&self) -> bool {
        self.is_first
    }

    /// Whether this node held it lately: who did the last work does the next, if it comes soon.
    pub(crate) fn was_ours(&self, now: Instant) -> bool {
        self.renewed
            .is_some_and(|at| now.saturating_duration_since(at) < DURATION)
    }

    /// Takes the Lease, or keeps it, if nobody else has it.
    pub(crate) async fn take(&mut self, now: Instant, clock: Timestamp) -> Result<Hold, Failure> {
        let is_fresh = |at: Instant| now.saturating_duration_since(at) < RENEW;
        if self.renewed.is_some_and(is_fresh) {
            return Ok(Hold::Ours);
        }
        self.renewed = None;
        let path = format!("{}/{NAME}", self.collection);
        let present: Object = match self.calls.get(&path).await {
            Ok(present) => present,
            Err(failure) if failure.is_not_found() => {
                let first = self.first(clock);
                let made = self.calls.create::<Value>(&self.collection, &first).await;
                let is_made = made.is_ok();
                let outcome = self.outcome(now, made);
                if is_made {
                    self.begin_tenure(now + UNDER_WAY, true);
                }
                return outcome;
            }
            Err(failure) => return Err(failure),
        };
        let wait = self.wait(&present, now, clock);
        if wait > Duration::ZERO {
            return Ok(Hold::Theirs(wait));
        }
        let (was_ours, age) = self.before(&present, clock);
        let next = self.next(present, clock);
        let replaced = self.calls.replace::<Value>(&path, &next).await;
        let is_taken = replaced.is_ok() && !was_ours;
        let outcome = self.outcome(now, replaced);
        if is_taken {
            self.begin_tenure(now + UNDER_WAY.saturating_sub(age), false);
        }
        outcome
    }

    fn begin_tenure(&mut self, quiet_from: Instant, is_first: bool) {
        self.tenure += 1;
        self.quiet_from = Some(quiet_from);
        self.is_first = is_first;
    }

    /// Whether this process has it already, and how long ago it was renewed, at least: another node's has been seen unchanged for
    /// its duration, and an earlier process's on this node goes by the same clock.
    fn before(&self, present: &Object, clock: Timestamp) -> (bool, Duration) {
        let spec = present.spec.as_ref();
        let holder = spec.and_then(|spec| spec.holder_identity.as_deref());
        let holder = holder.unwrap_or_default();
        if !holder.is_empty() && holder != self.node {
            return (false, DURATION);
        }
        let renewed = spec.and_then(|spec| spec.renew_time.as_ref());
        let age = renewed
            .and_then(|MicroTime(renewed)| Duration::try_from(clock.duration_since(*renewed)).ok());
        let is_ours = holder == self.node && self.tenure > 0;
        (is_ours, age.unwrap_or_default())
    }

    fn outcome(&mut self, now: Instant, written: Result<Value, Failure>) -> Result<Hold, Failure> {
        match written {
            Ok(_) => {
                self.renewed = Some(now);
                self.seen = None;
                Ok(Hold::Ours)
            }
            Err(failure) if failure.is_conflict() => Ok(Hold::Theirs(DURATION)),
            Err(failure) => Err(failure),
        }
    }

    /// How long the Lease is still another's: until it has been seen unchanged for its duration, by this node's clock
    /// alone, or was renewed so long ago that no difference of clocks explains it.
    fn wait(&mut self, present: &Object, now: Instant, clock: Timestamp) -> Duration {
        let spec = present.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.unwrap_or_default();
        if holder.is_empty() || holder == self.node {
            return Duration::ZERO;
        }
        let seconds = spec
            .lease_duration_seconds
            .and_then(|s| u64::try_from(s).ok());
        let duration = seconds.map_or(DURATION, Duration::from_secs);
        let age = spec
            .renew_time
            .and_then(|MicroTime(renewed)| Duration::try_from(clock.duration_since(renewed)).ok());
        if age.is_some_and(|age| age > duration + CLOCKS_DIFFER) {
            return Duration::ZERO;
        }
        let version = present.metadata.resource_version.clone();
        let version = version.unwrap_or_default();
        let since = match &self.seen {
            Some((seen, since)) if *seen == version => *since,
            _ => {
                self.seen = Some((version, now));
                now
            }
        };
        duration.saturating_sub(now.saturating_duration_since(since))
    }

    fn first(&self, clock: Timestamp) -> Value {
        json!({
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": NAME, "namespace": self.namespace},
            "spec": {
                "holderIdentity": self.node,
                "leaseDurationSeconds": DURATION.as_secs(),
                "acquireTime": MicroTime(clock),
                "renewTime": MicroTime(clock),
                "leaseTransitions": 0,
            },
        })
    }

    /// The same object: its `resourceVersion` makes the write fail if another was faster.
    fn next(&self, mut present: Object, clock: Timestamp) -> Value {
        let spec = present.spec.get_or_insert_default();
        if spec.holder_identity.as_deref() != Some(&self.node) {
            spec.acquire_time = Some(MicroTime(clock));
            let transitions = spec.lease_transitions.unwrap_or(0);
            spec.lease_transitions = Some(transitions.saturating_add(1));
        }
        spec.holder_identity = Some(self.node.clone());
        spec.lease_duration_seconds = i32::try_from(DURATION.as_secs()).ok();
        spec.renew_time = Some(MicroTime(clock));
        json!(present)
    }
}

const _: () = assert!(
    RENEW.as_secs() + ONCE.as_secs() < UNDER_WAY.as_secs()
        && UNDER_WAY.as_secs() < DURATION.as_secs()
);
