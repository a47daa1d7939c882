//! The task: the chosen mode's objects first, then the others' go.

use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::sleep_until;
use tracing::{info, warn};

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
    }
    .run()
    .await;
}

/// What writes: one for each mode that is not iptables.
#[derive(Debug, Default)]
pub(super) struct Writers {}

impl Writers {
    /// Brings what the chosen mode wants into the kernel; true if something was written.
    #[expect(
        clippy::unused_async,
        clippy::needless_pass_by_ref_mut,
        reason = "the modes to come write"
    )]
    async fn bring(&mut self, goal: &Goal) -> Result<bool, String> {
        match goal.mode {
            // Those are the firewall's.
            None | Some(ProxyMode::Iptables) => Ok(false),
        }
    }

    /// Takes away what an earlier run wrote in other modes.
    #[expect(
        clippy::unused_async,
        clippy::needless_pass_by_ref_mut,
        reason = "the modes to come write"
    )]
    async fn remove_others(&mut self, _mode: Option<ProxyMode>) -> Result<(), String> {
        Ok(())
    }
}

struct Task {
    goal: watch::Receiver<Goal>,
    firewall: watch::Receiver<firewall::Applied>,
    applied: watch::Sender<Applied>,
    writers: Writers,
    backoff: Duration,
    /// Nothing of another mode is left.
    are_others_gone: bool,
}

impl Task {
    async fn run(mut self) {
        if self
            .goal
            .wait_for(|goal| goal.generation > 0)
            .await
            .is_err()
        {
            return;
        }
        loop {
            let goal = self.goal.borrow_and_update().clone();
            let retry = self.step(&goal).await;
            let at = Instant::now() + retry.unwrap_or_default();
            // Until our rules of iptables are there, the others' objects serve.
            let waits_for_rules = !self.are_others_gone && retry.is_none();
            tokio::select! {
                changed = self.goal.changed() => if changed.is_err() { return },
                Ok(()) = self.firewall.changed(), if waits_for_rules => {}
                () = sleep_until(at.into()), if retry.is_some() => {}
            }
        }
    }

    /// Does what is to be done now; says after which time to try again, if something failed.
    async fn step(&mut self, goal: &Goal) -> Option<Duration> {
        let start = Instant::now();
        let mut outcome = self.writers.bring(goal).await;
        let took = start.elapsed();
        if let Ok(has_written) = outcome {
            self.applied.send_modify(|state| {
                state.generation = goal.generation;
                if has_written {
                    state.writes += 1;
                    state.last_duration = took;
                }
            });
            if !self.are_others_gone && self.is_in_force(goal) {
                outcome = self.writers.remove_others(goal.mode).await.map(|()| false);
                self.are_others_gone = outcome.is_ok();
            }
        }
        let error = outcome.err();
        self.applied.send_if_modified(|state| {
            let changed = state.error != error;
            state.error.clone_from(&error);
            changed
        });
        let Some(error) = error else {
            self.backoff = FIRST_RETRY;
            return None;
        };
        warn!(%error, "cannot program Services; what is in the kernel stays, trying again");
        let retry = self.backoff;
        self.backoff = (self.backoff * 2).min(LAST_RETRY);
        Some(retry)
    }

    /// Whether the chosen mode serves what is to be served: only then may what served before go.
    fn is_in_force(&mut self, goal: &Goal) -> bool {
        let in_force = match goal.mode {
            Some(ProxyMode::Iptables) => {
                let firewall = self.firewall.borrow_and_update();
                firewall.generation >= goal.generation && firewall.other_proxy.is_none()
            }
            None => true,
        };
        if in_force {
            info!(mode = ?goal.mode, "Services are served by this mode; what others left goes");
        }
        in_force
    }
}
