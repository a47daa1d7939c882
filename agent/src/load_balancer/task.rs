//! Works out addresses beside the core: with ten thousand Services that takes tens of milliseconds, which nobody waits for.

use std::sync::Arc;
use std::time::Duration;

use datastore::StatusWriter;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::{Allocator, Note, State};

/// So many batches of changes may wait.
pub(super) const QUEUE: usize = 16;
/// It rests for so many times as long as the last working out took, so that it never takes more than a part of a processor.
const REST: u32 = 20;
/// Changes that come together are worked out together.
const SETTLE: Duration = Duration::from_millis(20);

/// Runs until its sender is gone. `state`: what was worked out last.
pub(super) async fn run_task(
    mut notes: mpsc::Receiver<Vec<Note>>,
    status: StatusWriter,
    state: watch::Sender<Arc<State>>,
) {
    let mut allocator = Allocator::default();
    let (mut is_stale, mut in_sync, mut not_before) = (false, false, Instant::now());
    loop {
        tokio::select! {
            batch = notes.recv() => {
                let Some(batch) = batch else { return };
                if !is_stale {
                    not_before = not_before.max(Instant::now() + SETTLE);
                }
                for note in batch {
                    in_sync |= matches!(note, Note::InSync);
                    is_stale |= allocator.note(note);
                }
            }
            () = tokio::time::sleep_until(not_before), if is_stale && in_sync => {
                let began = Instant::now();
                let worked_out = allocator.allocate();
                status.publish_addresses(Arc::new(allocator.verdicts(&worked_out)));
                state.send_replace(Arc::new(worked_out));
                is_stale = false;
                let now = Instant::now();
                tracing::debug!(took = ?(now - began), "addresses of load balancers worked out");
                not_before = now + (now - began) * REST;
            }
        }
    }
}
