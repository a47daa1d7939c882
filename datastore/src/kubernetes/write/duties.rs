//! What is done once for the whole cluster: conditions of our kinds, blocks of nodes that are gone, and addresses of load
//! balancers. All nodes see what is to be done; the one that takes the Lease does it. While there is nothing to do nothing is
//! asked of the server.

use std::collections::BTreeSet;
use std::mem::discriminant;
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::{Key, NamespacedName};
use k8s_openapi::jiff::Timestamp;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{info, warn};

use super::addresses::{Addresses, Ready};
use super::calls::{Calls, Retry, up_to};
use super::conditions::{self, Patch, Wanted};
use super::lease::{Hold, Lease};
use super::orphans::{self, Orphan, Orphans};
use super::paced::Paced;
use crate::kubernetes::failure::Failure;
use crate::kubernetes::{Connection, Facts};
use crate::{AllocatedAddresses, ObjectCondition, Refresher};

/// How long the holder waits for more, and for its own view to settle, before it writes.
const SETTLE: Duration = Duration::from_millis(300);
/// How long another waits at least, so that the holder is first.
const DEFER: Duration = Duration::from_secs(1);
/// How long the server's newest state may take to be read before addresses are given.
const READ: Duration = Duration::from_secs(30);
/// How long jobs of one kind are done in one go: a server that is slow to write objects of one kind holds up nothing else.
const TURN: Duration = Duration::from_secs(2);

/// Over how long so many nodes spread what they all would do at once.
pub(crate) fn spread(nodes: usize) -> Duration {
    let nodes = u32::try_from(nodes).unwrap_or(u32::MAX);
    Duration::from_millis(10)
        .saturating_mul(nodes)
        .min(Duration::from_secs(30))
}

/// What agents find that one of them is to write.
#[derive(Debug)]
pub(crate) struct Found {
    /// Conditions of objects of our kinds.
    pub(crate) conditions: watch::Receiver<Vec<ObjectCondition>>,
    /// Addresses of Services.
    pub(crate) addresses: watch::Receiver<Arc<AllocatedAddresses>>,
}

impl Found {
    /// Waits for something new; an error when the agent stops.
    async fn changed(&mut self) -> Result<(), watch::error::RecvError> {
        tokio::select! {
            changed = self.conditions.changed() => changed.map(|()| self.conditions.mark_changed()),
            changed = self.addresses.changed() => changed.map(|()| self.addresses.mark_changed()),
        }
    }
}

/// Runs until the senders of what is found are gone.
pub(crate) async fn run(
    connection: Connection,
    facts: Facts,
    refresher: Refresher,
    mut found: Found,
) {
    let calls = Calls::new(connection.client.clone());
    let mut lease = Lease::new(calls.clone(), &connection.namespace, &connection.node);
    let mut changes = facts.changes();
    let (mut duties, mut retry) = (Duties::default(), Retry::default());
    let shell = Shell {
        calls,
        facts,
        refresher,
        node: connection.node,
    };
    let facts = &shell.facts;
    loop {
        duties.look(now(), facts, &mut found);
        if duties.jobs.is_empty() {
            let next = duties.next;
            tokio::select! {
                // It is read when this node looks.
                changed = found.changed() => if changed.is_err() { return },
                _ = changes.changed() => {}
                () = until(next) => {}
                Some(read) = duties.reads.join_next() => {
                    duties.note_read(read.ok().flatten());
                    continue;
                }
            }
            tokio::time::sleep(SETTLE).await;
            continue;
        }
        let patience = match lease.was_ours(now()) {
            true => SETTLE,
            false => DEFER + up_to(spread(facts.nodes().len())),
        };
        tokio::time::sleep(patience).await;
        duties.look(now(), facts, &mut found);
        let pause = match duties.carry_out(&shell, &mut lease).await {
            Ok(Hold::Ours) => {
                retry.succeeded();
                continue;
            }
            Ok(Hold::Theirs(left)) => left + up_to(spread(facts.nodes().len())),
            Err(failure) => {
                warn!(%failure, "cannot take the Lease to write conditions and addresses; trying again");
                retry.failed(&failure)
            }
        };
        // Whoever publishes is gone when the agent stops: no need to wait for the others' Lease then.
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = gone(&mut found.conditions) => return,
        }
    }
}

/// With what it is done.
struct Shell {
    calls: Calls,
    facts: Facts,
    refresher: Refresher,
    node: String,
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

/// Something to do, by kind.
#[derive(Clone, Debug)]
enum Job {
    Say(Key, Patch, Essence),
    Release(Orphan),
    Give(NamespacedName),
}

/// What makes a write of an object's conditions another one: what is said, and of which generation.
type Essence = (Vec<ObjectCondition>, i64);

#[derive(Debug, Default)]
struct Duties {
    wanted: Wanted,
    written: Paced<Key, Essence>,
    orphans: Orphans,
    addresses: Addresses,
    /// The read of all that is known under way before addresses are given, beside everything else; it ends with the tenure that it
    /// was begun in, or nothing if it took too long.
    reads: JoinSet<Option<u64>>,
    jobs: Vec<Job>,
    /// When there is something to do that must wait.
    next: Option<Instant>,
}

impl Duties {
    /// Finds what is to be done now.
    fn look(&mut self, now: Instant, facts: &Facts, found: &mut Found) {
        let wanted = &mut found.conditions;
        if wanted.has_changed().unwrap_or(false) {
            self.wanted = conditions::by_object(wanted.borrow_and_update().clone());
        }
        if found.addresses.has_changed().unwrap_or(false) {
            let wanted = found.addresses.borrow_and_update().clone();
            self.addresses.set(wanted);
        }
        while let Some(read) = self.reads.try_join_next() {
            self.note_read(read.ok().flatten());
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
            if self.reads.is_empty() {
                let (services, next) = self.addresses.look(now, facts);
                self.jobs.extend(services.into_iter().map(Job::Give));
                self.next = earlier(self.next, next);
            }
        }
    }

    fn look_at_conditions(&mut self, now: Instant, facts: &Facts) {
        let clock = Timestamp::now();
        self.written.retain(|key| facts.get(key).is_some());
        for (key, known) in facts.judged() {
            let wanted = conditions::of_object(&key, self.wanted.get(&key), &known);
            let Some(patch) = conditions::patch(&key, &wanted, &known, clock) else {
                continue;
            };
            let essence = (wanted, known.generation);
            match self.written.wait(now, &key, &essence) {
                Some(due) => self.next = earlier(self.next, Some(due)),
                None => self.jobs.push(Job::Say(key, patch, essence)),
            }
        }
    }

    /// Does what there is to do while this node has the Lease.
    async fn carry_out(&mut self, shell: &Shell, lease: &mut Lease) -> Result<Hold, Failure> {
        let calls = &shell.calls;
        let mut turn = None;
        for job in std::mem::take(&mut self.jobs) {
            let kind = discriminant(&job);
            let began = match turn {
                Some((of, began)) if of == kind => began,
                _ => now(),
            };
            turn = Some((kind, began));
            if now().saturating_duration_since(began) >= TURN {
                continue;
            }
            let hold = lease.take(now(), Timestamp::now()).await?;
            if hold != Hold::Ours {
                return Ok(hold);
            }
            match job {
                Job::Say(key, patch, essence) => {
                    let said = conditions::apply(calls, &patch).await;
                    self.written.note(now(), &key, essence);
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
                Job::Give(service) => {
                    if !self.may_give(shell, lease) {
                        break;
                    }
                    let (node, facts) = (&shell.node, &shell.facts);
                    self.addresses
                        .write(now(), calls, node, facts, &service)
                        .await;
                }
            }
        }
        Ok(Hold::Ours)
    }

    /// Whether addresses may be given by what was found; if not, this node is to look anew.
    fn may_give(&mut self, shell: &Shell, lease: &Lease) -> bool {
        match self.addresses.readiness(now(), lease, &shell.facts) {
            Ready::Yes => return true,
            Ready::Wait => {}
            Ready::Unread => {
                let (refresher, tenure) = (shell.refresher.clone(), lease.tenure());
                self.reads.spawn(async move {
                    let read = tokio::time::timeout(READ, refresher.refresh()).await;
                    read.is_ok().then_some(tenure)
                });
            }
        }
        false
    }

    /// Takes note of the tenure for which all has been read.
    fn note_read(&mut self, read: Option<u64>) {
        if let Some(tenure) = read {
            self.addresses.set_ready(tenure);
        }
    }
}

fn earlier(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    a.into_iter().chain(b).min()
}

#[cfg(test)]
mod tests;
