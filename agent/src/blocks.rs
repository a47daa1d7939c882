//! The task that claims blocks of pools for this node and gives them back, and tries again what fails.

use std::time::{Duration, Instant};

use datastore::{Claim, Refresher, StatusWriter};
use reconcile::Backoff;
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use crate::core::Goal;
use crate::dns;
use crate::message::Message;

/// How long until a claim or release that failed is tried again.
const FIRST_RETRY: Duration = Duration::from_millis(250);
const LAST_RETRY: Duration = Duration::from_secs(30);

/// Runs until the goal's sender is gone. `failed` says what cannot be done now, for people.
pub(crate) async fn run_task(
    status: StatusWriter,
    refresh: Refresher,
    mut goals: watch::Receiver<Goal>,
    core: mpsc::Sender<Message>,
    failed: watch::Sender<Option<String>>,
) {
    let backoff = Backoff::new(FIRST_RETRY, LAST_RETRY);
    let (mut failures, mut retry) = (0_u32, None);
    loop {
        tokio::select! {
            changed = goals.changed() => if changed.is_err() { return },
            () = dns::due(retry) => {}
        }
        let goal = goals.borrow_and_update().clone();
        let outcome = carry_out(&status, &goal, &core).await;
        if goal != Goal::default() {
            // What was done is a change that every agent reads, this one too.
            refresh.hear_own_writes().await;
        }
        let error = outcome.err().map(|error| error.to_string());
        (failures, retry) = match &error {
            None => (0, None),
            Some(error) => {
                warn!(error, "blocks");
                let failures = failures.saturating_add(1);
                (failures, Some(Instant::now() + backoff.delay(failures)))
            }
        };
        failed.send_replace(error);
    }
}

/// Everything is tried; the last thing that failed is told.
async fn carry_out(
    status: &StatusWriter,
    goal: &Goal,
    core: &mpsc::Sender<Message>,
) -> Result<(), datastore::Error> {
    let mut outcome = Ok(());
    for block in &goal.release {
        match status.release_block(*block).await {
            Ok(()) => info!(%block, "gave back a block without pods"),
            Err(error) => outcome = Err(error),
        }
    }
    for block in &goal.claim {
        match status.claim_block(*block).await {
            Ok(Claim::Ours) => info!(%block, "this node has a block more"),
            Ok(Claim::Taken { node }) => {
                info!(%block, ?node, "another node was faster, or the block cannot be read");
                // The core is gone only when the agent stops.
                let _ = core.send(Message::BlockTaken(*block)).await;
            }
            Err(error) => outcome = Err(error),
        }
    }
    outcome
}
