//! The task that cuts flows: what a change of policy denies, and what pods leave behind, once the rules are in force.

mod judge;
mod ledger;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use routes::conntrack::{Filter, delete, list};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{info, warn};

use crate::firewall::Histogram;
use crate::service::InForce;
use crate::service_proxy::is_ipvs_loaded;
use judge::{Newest, Own, Sentence, judge};
pub(crate) use ledger::{Goal, UdpServices};
use ledger::{Ledger, Work};

/// After a look, rest for so many times its duration: under churn looking takes a fifth of a core at most.
const REST: u32 = 4;
/// No rest is longer: nobody notices less of a flow that goes on denied.
const LONGEST_REST: Duration = Duration::from_secs(1);
const FIRST_RETRY: Duration = Duration::from_millis(200);
const LAST_RETRY: Duration = Duration::from_secs(10);

/// What the task reports.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cut {
    /// The newest generation in force that no flow is known to violate.
    pub(crate) generation: u64,
    /// Flows deleted since the start because policy denies them.
    pub(crate) denied: u64,
    /// Flows deleted since the start because their pod is gone.
    pub(crate) orphaned: u64,
    /// Flows deleted since the start because their host port leads elsewhere.
    pub(crate) stale: u64,
    /// UDP flows deleted since the start because no endpoint of their Service answers them.
    pub(crate) unanswered: u64,
    /// How long each look took, deletions included.
    pub(crate) took: Histogram,
    /// Why the newest try failed.
    pub(crate) error: Option<String>,
}

/// What one look did.
#[derive(Default)]
struct Done {
    denied: u64,
    orphaned: u64,
    stale: u64,
    unanswered: u64,
    took: Duration,
}

/// Runs until the goals' sender is gone. Publish each goal here before the firewall hears of it.
pub(crate) async fn run_task(
    mut goals: watch::Receiver<Goal>,
    mut in_force: InForce,
    report: watch::Sender<Cut>,
    is_enforced: bool,
) {
    let mut ledger = Ledger::new(is_enforced);
    let mut looking: JoinSet<(Work, anyhow::Result<Done>)> = JoinSet::new();
    let mut next = tokio::time::Instant::now();
    let mut retry = FIRST_RETRY;
    loop {
        let is_idle = looking.is_empty();
        tokio::select! {
            changed = goals.changed() => if changed.is_err() { return },
            changed = in_force.changed() => if changed.is_err() { return },
            () = tokio::time::sleep_until(next), if is_idle && ledger.is_due() => {
                if let Some(work) = ledger.take() {
                    looking.spawn(look(work, goals.clone()));
                }
            }
            Some(ended) = looking.join_next() => {
                let rest = match ended {
                    Ok((_, Ok(done))) => {
                        retry = FIRST_RETRY;
                        handle_done(&done, &report);
                        (done.took * REST).min(LONGEST_REST)
                    }
                    Ok((work, Err(error))) => {
                        warn!(%error, "cannot cut flows that lead wrong or that policy may deny; trying again");
                        report.send_modify(|state| state.error = Some(format!("{error:#}")));
                        ledger.give_back(work);
                        retry = (retry * 2).min(LAST_RETRY);
                        retry
                    }
                    // Only a runtime that shuts down, or a bug, ends a look so.
                    Err(error) => {
                        warn!(%error, "a look at the flows was broken off");
                        return;
                    }
                };
                next = tokio::time::Instant::now() + rest;
            }
        }
        ledger.handle_goal(goals.borrow_and_update().clone());
        let (generation, served) = in_force.look();
        ledger.handle_applied(generation);
        ledger.handle_served(served);
        if looking.is_empty() {
            let settled = ledger.settled();
            report.send_if_modified(|state| {
                let grows = settled > state.generation;
                state.generation = state.generation.max(settled);
                grows
            });
        }
    }
}

fn handle_done(done: &Done, report: &watch::Sender<Cut>) {
    if done.denied + done.orphaned + done.stale + done.unanswered > 0 {
        info!(
            denied = done.denied,
            orphaned = done.orphaned,
            stale = done.stale,
            unanswered = done.unanswered,
            milliseconds = done.took.as_millis(),
            "cut flows"
        );
    }
    report.send_modify(|state| {
        state.denied += done.denied;
        state.orphaned += done.orphaned;
        state.stale += done.stale;
        state.unanswered += done.unanswered;
        state.took.observe(done.took);
        state.error = None;
    });
}

async fn look(work: Work, goals: watch::Receiver<Goal>) -> (Work, anyhow::Result<Done>) {
    let work = Arc::new(work);
    let outcome = cut(work.clone(), &goals).await;
    (Arc::unwrap_or_clone(work), outcome)
}

async fn cut(work: Arc<Work>, goals: &watch::Receiver<Goal>) -> anyhow::Result<Done> {
    let start = Instant::now();
    let listed = list(Filter::default()).await?;
    if listed.is_empty() {
        return Ok(Done {
            took: start.elapsed(),
            ..Done::default()
        });
    }
    let newest = {
        let goal = goals.borrow();
        Newest {
            endpoints: goal.endpoints.clone(),
            services: goal.services.clone(),
        }
    };
    let own = own_addresses()?;
    // With IPVS the node asks a Service from that Service's own address, before it is masqueraded.
    let mut sends_from = own.clone();
    if is_ipvs_loaded() {
        sends_from.extend(routes::packets_taken_for().await?);
    }
    let own = Own {
        addresses: own,
        sends_from,
    };
    let judged = tokio::task::spawn_blocking(move || judge(&work, &newest, &own, listed));
    let Sentence {
        entries,
        denied,
        stale,
        unanswered,
    } = judged.await?;
    let all = entries.len() as u64;
    delete(entries).await?;
    Ok(Done {
        denied,
        orphaned: all - denied - stale - unanswered,
        stale,
        unanswered,
        took: start.elapsed(),
    })
}

/// All flows that this node's kernel holds.
///
/// # Errors
/// If netlink refuses.
pub(crate) async fn flows() -> anyhow::Result<Vec<::policy::Entry>> {
    let listed = list(Filter::default()).await?;
    Ok(listed.iter().map(judge::entry).collect())
}

/// All addresses of this node's interfaces.
pub(crate) fn own_addresses() -> anyhow::Result<BTreeSet<IpAddr>> {
    let mut own = BTreeSet::new();
    for interface in nix::ifaddrs::getifaddrs()? {
        let Some(address) = interface.address else {
            continue;
        };
        let v4 = address.as_sockaddr_in().map(|at| IpAddr::V4(at.ip()));
        let v6 = address.as_sockaddr_in6().map(|at| IpAddr::V6(at.ip()));
        own.extend(v4.or(v6));
    }
    Ok(own)
}
