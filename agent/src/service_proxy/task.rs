//! The task: the chosen mode's objects first, then the others' go.

use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::sleep_until;
use tracing::{info, warn};

use super::nftables::{self, Brought};
use super::virtuals::{self, Virtuals};
use super::{Applied, Goal, ProxyMode};
use crate::firewall;

const FIRST_RETRY: Duration = Duration::from_millis(200);
const LAST_RETRY: Duration = Duration::from_secs(10);

/// Runs until the goal's sender is gone.
pub(crate) async fn run_task(
    goal: watch::Receiver<Goal>,
    firewall: watch::Receiver<firewall::Applied>,
    applied: watch::Sender<Applied>,
) {
    Task {
        goal,
        firewall,
        applied,
        writers: Writers::default(),
        backoff: FIRST_RETRY,
        are_others_gone: false,
        is_time_to_look: false,
        saw_other: false,
    }
    .run()
    .await;
}

/// What writes: one for each mode that is not iptables.
#[derive(Debug, Default)]
pub(super) struct Writers {
    nftables: nftables::Writer,
    virtuals: Virtuals,
}

impl Writers {
    /// Brings what the chosen mode wants into the kernel.
    async fn bring(&mut self, goal: &Goal) -> Result<Brought, String> {
        match (goal.mode, &goal.nftables) {
            (Some(ProxyMode::Nftables), Some(tables)) => {
                let brought = self.nftables.bring(tables).await;
                brought.map_err(|error| error.to_string())
            }
            (Some(ProxyMode::Ipvs), _) => self.virtuals.bring(&goal.ipvs).await.map(brought),
            // Those are the firewall's.
            _ => Ok(brought(false)),
        }
    }

    /// Takes away what an earlier run wrote in other modes.
    async fn remove_others(&mut self, mode: Option<ProxyMode>) -> Result<(), String> {
        if mode != Some(ProxyMode::Nftables) {
            self.remove_tables().await?;
        }
        if mode != Some(ProxyMode::Ipvs) {
            self.virtuals.drain().await?;
        }
        Ok(())
    }

    /// Takes the tables of the mode nftables away; true if there were some.
    async fn remove_tables(&mut self) -> Result<bool, String> {
        let gone = self.nftables.remove().await;
        let gone = gone.map_err(|error| error.to_string())?;
        if gone {
            info!("removed the tables of the mode nftables");
        }
        Ok(gone)
    }

    /// Waits until another may have changed what the chosen mode wrote.
    async fn next_doubt(&mut self, mode: Option<ProxyMode>) {
        match mode {
            Some(ProxyMode::Nftables) => self.nftables.next_doubt().await,
            None | Some(ProxyMode::Iptables | ProxyMode::Ipvs) => std::future::pending().await,
        }
    }

    /// Looks again at what is in the kernel, as it is time to.
    async fn look(&mut self, goal: &Goal) -> Result<Brought, String> {
        self.virtuals.doubt();
        if goal.mode != Some(ProxyMode::Ipvs) {
            self.virtuals.drain().await?;
        }
        self.bring(goal).await
    }

    /// After which time to look again.
    fn next_look(&self) -> Option<Duration> {
        self.virtuals.next_look()
    }
}

fn brought(has_written: bool) -> Brought {
    Brought {
        has_written,
        has_mended: false,
    }
}

/// Takes away all that modes other than iptables wrote, with the connections that go by IPVS.
///
/// # Errors
/// If the kernel cannot be read or written.
pub(crate) async fn clean() -> Result<(), String> {
    let gone = nftables::Writer::default().remove().await;
    gone.map_err(|error| error.to_string())?;
    let gone = virtuals::remove_all().await;
    gone.map_err(|error| error.to_string())
}

/// Waits until the firewall says something, or only until another proxy comes or goes since it was looked for.
async fn next_word(
    firewall: &mut watch::Receiver<firewall::Applied>,
    of_anything: bool,
    saw_other: bool,
) -> Result<(), watch::error::RecvError> {
    if of_anything {
        return firewall.changed().await;
    }
    let is_news = |state: &firewall::Applied| state.other_proxy.is_some() != saw_other;
    firewall.wait_for(is_news).await.map(drop)
}

struct Task {
    goal: watch::Receiver<Goal>,
    firewall: watch::Receiver<firewall::Applied>,
    applied: watch::Sender<Applied>,
    writers: Writers,
    backoff: Duration,
    /// Nothing of another mode is left.
    are_others_gone: bool,
    /// What is in the kernel is to be looked at again.
    is_time_to_look: bool,
    /// Whether another proxy was there at the last step.
    saw_other: bool,
}

impl Task {
    async fn run(mut self) {
        let is_published = |goal: &Goal| goal.generation > 0;
        if self.goal.wait_for(is_published).await.is_err() {
            return;
        }
        loop {
            let goal = self.goal.borrow_and_update().clone();
            let retry = self.step(&goal).await;
            let now = Instant::now();
            let at = now + retry.unwrap_or_default();
            let look = self.writers.next_look().filter(|_| retry.is_none());
            let look_at = now + look.unwrap_or_default();
            // Until our rules of iptables are there, the others' objects serve.
            let waits = self.waits(&goal);
            let waits_for_rules = retry.is_none() && (!self.are_others_gone || waits);
            tokio::select! {
                changed = self.goal.changed() => if changed.is_err() { return },
                Ok(()) = next_word(&mut self.firewall, waits_for_rules, self.saw_other), if retry.is_none() => {}
                () = sleep_until(at.into()), if retry.is_some() => {}
                () = self.writers.next_doubt(goal.mode), if retry.is_none() && !waits => {}
                () = sleep_until(look_at.into()), if look.is_some() => self.is_time_to_look = true,
            }
        }
    }

    /// Does what is to be done now; says after which time to try again, if something failed.
    async fn step(&mut self, goal: &Goal) -> Option<Duration> {
        let start = Instant::now();
        if !self.is_turn_of(goal) {
            return None;
        }
        let is_time_to_look = std::mem::take(&mut self.is_time_to_look);
        let is_left_to_other = self.firewall.borrow().other_proxy.is_some();
        self.saw_other = is_left_to_other;
        let outcome = match goal.mode {
            Some(ProxyMode::Ipvs) if is_left_to_other => {
                self.writers.virtuals.drain().await.map(brought)
            }
            Some(ProxyMode::Nftables) if is_left_to_other => {
                self.writers.remove_tables().await.map(brought)
            }
            _ if is_time_to_look => self.writers.look(goal).await,
            _ => self.writers.bring(goal).await,
        };
        let took = start.elapsed();
        let (mut error, mut is_served) = (None, true);
        match outcome {
            Ok(brought) => {
                self.report(goal, brought, took);
                if !self.are_others_gone && self.is_in_force(goal) {
                    error = self.writers.remove_others(goal.mode).await.err();
                    self.are_others_gone = error.is_none();
                }
            }
            Err(why) => {
                is_served = false;
                error = Some(why);
            }
        }
        self.applied.send_if_modified(|state| {
            let changed = state.error != error;
            state.error.clone_from(&error);
            // What is left of another mode is told, and Services are served.
            state.failing_since = (!is_served).then(|| state.failing_since.unwrap_or(start));
            changed
        });
        let Some(error) = error else {
            self.backoff = FIRST_RETRY;
            return None;
        };
        match is_served {
            true => warn!(%error, "cannot remove what another mode left; trying again"),
            false => {
                warn!(%error, "cannot program Services; what is in the kernel stays, trying again")
            }
        }
        let retry = self.backoff;
        self.backoff = (self.backoff * 2).min(LAST_RETRY);
        Some(retry)
    }

    fn report(&self, goal: &Goal, brought: Brought, took: Duration) {
        if brought.has_written {
            info!(microseconds = took.as_micros(), "programmed Services");
        }
        if brought.has_mended {
            warn!("the tables of Services were changed by someone else; they are mended");
        }
        self.applied.send_modify(|state| {
            state.generation = goal.generation;
            if brought.has_written {
                state.writes += 1;
                state.last_duration = took;
            }
            state.repairs += u64::from(brought.has_mended);
        });
    }

    /// Whether the firewall has had its turn. Rules say which packets are IPVS's: they are there before it gets them (what an
    /// earlier run left excepted, which stays until IPVS serves). Other proxies are seen by it in any mode, before anything is written.
    fn is_turn_of(&mut self, goal: &Goal) -> bool {
        let firewall = self.firewall.borrow_and_update();
        match goal.mode {
            Some(ProxyMode::Ipvs) => firewall.generation >= goal.generation,
            Some(ProxyMode::Nftables) => firewall.generation > 0,
            Some(ProxyMode::Iptables) | None => true,
        }
    }

    /// Whether the firewall's next word may change what is to be done.
    fn waits(&mut self, goal: &Goal) -> bool {
        let is_turn = self.is_turn_of(goal);
        let is_here = matches!(goal.mode, Some(ProxyMode::Ipvs | ProxyMode::Nftables));
        is_here && (!is_turn || self.firewall.borrow().other_proxy.is_some())
    }

    /// Whether the chosen mode serves what is to be served: only then may what served before go.
    fn is_in_force(&mut self, goal: &Goal) -> bool {
        match goal.mode {
            Some(ProxyMode::Iptables) => {
                let firewall = self.firewall.borrow_and_update();
                firewall.generation >= goal.generation && firewall.other_proxy.is_none()
            }
            None | Some(ProxyMode::Nftables | ProxyMode::Ipvs) => true,
        }
    }
}
