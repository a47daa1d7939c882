//! Addresses of Services of type LoadBalancer: what each is to have of which pool, as this node sees it. In a cluster one of
//! all agents writes that into their statuses; in a directory every agent comes to the same.

mod allocator;
mod report;
mod task;

use std::sync::Arc;

use datastore::Source;
use tokio::sync::{mpsc, watch};

pub(crate) use allocator::{Allocator, Note, State, Unserved};
pub(crate) use report::{LoadBalancerReport, PoolReport, pools};

/// What is worked out, for those who tell of it; the flag: only of what is written nowhere.
pub(crate) type Told = (watch::Receiver<Arc<State>>, bool);

/// Where addresses are worked out, and what was, seen from the core.
pub(crate) struct Balancing {
    /// What was worked out last.
    pub(crate) state: watch::Sender<Arc<State>>,
    /// To the task that does it; none where the core does.
    notes: Option<mpsc::Sender<Vec<Note>>>,
}

impl Balancing {
    /// Starts the task where there is a cluster; nothing unless that is wanted.
    pub(crate) fn start(is_wanted: bool, source: &Source) -> Option<Self> {
        is_wanted.then(|| Self::of(source))
    }

    fn of(source: &Source) -> Self {
        let state = watch::Sender::default();
        let is_cluster = source.pods.is_some();
        let notes = is_cluster.then(|| {
            let (notes, reader) = mpsc::channel(task::QUEUE);
            tokio::spawn(task::run_task(reader, source.status.clone(), state.clone()));
            notes
        });
        Self { state, notes }
    }

    /// For Events. In a cluster the one that writes statuses makes those of what it writes.
    pub(crate) fn unserved(&self) -> Told {
        (self.state.subscribe(), self.notes.is_some())
    }

    /// Hands on what the core has.
    pub(crate) async fn take(&self, batch: Vec<Note>, news: Option<Arc<State>>) {
        if let Some(notes) = self.notes.as_ref().filter(|_| !batch.is_empty()) {
            // Without the task the agent is stopping.
            let _ = notes.send(batch).await;
        }
        if let Some(news) = news {
            self.state.send_replace(news);
        }
    }
}
