//! What is done once for the whole cluster: conditions of our kinds, and blocks of nodes that are gone. All nodes see
//! what is to be done; the one that takes the Lease does it. While there is nothing to do nothing is asked of the server.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use api::Key;
use k8s_openapi::jiff::Timestamp;
use tokio::sync::watch;
use tracing::{info, warn};

use super::calls::{Calls, Retry, up_to};
use super::conditions::{self, Patch, Wanted};
use super::lease::{Hold, Lease};
use super::orphans::{self, Orphan, Orphans};
use crate::ObjectCondition;
use crate::kubernetes::failure::Failure;
use crate::kubernetes::{Connection, Facts};

/// How long the holder waits for more, and for its own view to settle, before it writes.
const SETTLE: Duration = Duration::from_millis(300);
/// How long another waits at least, so that the holder is first.
const DEFER: Duration = Duration::from_secs(1);
/// After a write of an object, how long its next is not before; it doubles while the same is to be written again.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
const LAST_PAUSE: Duration = Duration::from_secs(600);

/// Over how long so many nodes spread what they all would do at once.
pub(crate) fn spread(nodes: usize) -> Duration {
    let nodes = u32::try_from(nodes).unwrap_or(u32::MAX);
    Duration::from_millis(10)
        .saturating_mul(nodes)
        .min(Duration::from_secs(30))
}

/// Runs until the sender of what is wanted is gone.
pub(crate) async fn run(
    connection: Connection,
    facts: Facts,
    mut wanted: watch::Receiver<Vec<ObjectCondition>>,
) {
    let calls = Calls::new(connection.client.clone());
    let mut lease = Lease::new(calls.clone(), &connection.namespace, &connection.node);
    let mut changes = facts.changes();
    let (mut duties, mut retry) = (Duties::default(), Retry::default());
    loop {
        duties.look(now(), &facts, &mut wanted);
        if duties.jobs.is_empty() {
            let next = duties.next;
            tokio::select! {
                changed = wanted.changed() => match changed {
                    // It is read when this node looks.
                    Ok(()) => wanted.mark_changed(),
                    Err(_) => return,
                },
                _ = changes.changed() => {}
                () = until(next) => {}
            }
            tokio::time::sleep(SETTLE).await;
            continue;
        }
        let patience = match lease.was_ours(now()) {
            true => SETTLE,
            false => DEFER + up_to(spread(facts.nodes().len())),
        };
        tokio::time::sleep(patience).await;
        duties.look(now(), &facts, &mut wanted);
        let pause = match duties.carry_out(&calls, &mut lease).await {
            Ok(Hold::Ours) => {
                retry.succeeded();
                continue;
            }
            Ok(Hold::Theirs(left)) => left + up_to(spread(facts.nodes().len())),
            Err(failure) => {
                warn!(%failure, "cannot take the Lease to write conditions; trying again");
                retry.failed(&failure)
            }
        };
        // Whoever publishes is gone when the agent stops: no need to wait for the others' Lease then.
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = gone(&mut wanted) => return,
        }
    }
}

async fn gone(wanted: &mut watch::Receiver<Vec<ObjectCondition>>) {
    while wanted.changed().await.is_ok() {}
}

/// The runtime's clock.
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Waits for a time that may never come.
pub(crate) async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// Something to do.
#[derive(Clone, Debug)]
enum Job {
    Say(Key, Patch, Essence),
    Release(Orphan),
}

/// What makes a write of an object's conditions another one: what is said, and of which generation.
type Essence = (Vec<ObjectCondition>, i64);

/// What was last written of an object, and when the next write may be.
#[derive(Debug)]
struct Written {
    essence: Essence,
    times: u32,
    due: Instant,
}

#[derive(Debug, Default)]
struct Duties {
    wanted: Wanted,
    written: BTreeMap<Key, Written>,
    orphans: Orphans,
    jobs: Vec<Job>,
    /// When there is something to do that must wait.
    next: Option<Instant>,
}

impl Duties {
    /// Finds what is to be done now.
    fn look(
        &mut self,
        now: Instant,
        facts: &Facts,
        wanted: &mut watch::Receiver<Vec<ObjectCondition>>,
    ) {
        if wanted.has_changed().unwrap_or(false) {
            self.wanted = conditions::by_object(wanted.borrow_and_update().clone());
        }
        self.jobs.clear();
        self.next = None;
        self.look_at_conditions(now, facts);
        if facts.are_whole() {
            let nodes: BTreeSet<String> = facts.nodes();
            let blocks = facts.blocks();
            let blocks = blocks.into_iter().map(|(cidr, node)| Orphan { cidr, node });
            self.orphans.take(now, blocks, &nodes);
            self.jobs
                .extend(self.orphans.due(now).into_iter().map(Job::Release));
            self.next = earlier(self.next, self.orphans.next(now));
        }
    }

    fn look_at_conditions(&mut self, now: Instant, facts: &Facts) {
        let clock = Timestamp::now();
        self.written.retain(|key, _| facts.get(key).is_some());
        for (key, known) in facts.judged() {
            let wanted = conditions::of_object(&key, self.wanted.get(&key), &known);
            let Some(patch) = conditions::patch(&key, &wanted, &known, clock) else {
                continue;
            };
            let essence = (wanted, known.generation);
            let earlier_write = self.written.get(&key);
            match earlier_write.filter(|written| written.essence == essence && written.due > now) {
                Some(written) => self.next = earlier(self.next, Some(written.due)),
                None => self.jobs.push(Job::Say(key, patch, essence)),
            }
        }
    }

    /// Does what there is to do while this node has the Lease.
    async fn carry_out(&mut self, calls: &Calls, lease: &mut Lease) -> Result<Hold, Failure> {
        for job in std::mem::take(&mut self.jobs) {
            let hold = lease.take(now(), Timestamp::now()).await?;
            if hold != Hold::Ours {
                return Ok(hold);
            }
            match job {
                Job::Say(key, patch, essence) => {
                    let said = conditions::apply(calls, &patch).await;
                    self.note(now(), &key, essence);
                    match said {
                        // It has changed meanwhile, and is told to us again, or others hold the field.
                        Err(failure) if failure.is_conflict() || failure.is_not_found() => {
                            tracing::debug!(%key, %failure, "conditions not written");
                        }
                        Err(failure) => {
                            warn!(%key, %failure, "cannot write conditions; trying again");
                        }
                        Ok(()) => {}
                    }
                }
                Job::Release(orphan) => match orphans::release(calls, &orphan).await {
                    Ok(true) => info!(
                        block = %orphan.cidr, node = %orphan.node,
                        "gave back the block of a node that has been deleted"
                    ),
                    Ok(false) => self.orphans.postpone(now(), &orphan),
                    Err(failure) => {
                        warn!(block = %orphan.cidr, %failure, "cannot give back a deleted node's block");
                        self.orphans.postpone(now(), &orphan);
                    }
                },
            }
        }
        Ok(Hold::Ours)
    }

    fn note(&mut self, now: Instant, key: &Key, essence: Essence) {
        let before = self.written.get(key);
        let times = before
            .filter(|written| written.essence == essence)
            .map_or(0, |written| written.times.saturating_add(1));
        let pause = FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(times.min(16)));
        let written = Written {
            essence,
            times,
            due: now + pause.min(LAST_PAUSE),
        };
        self.written.insert(key.clone(), written);
    }
}

fn earlier(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    a.into_iter().chain(b).min()
}

#[cfg(test)]
mod tests;
