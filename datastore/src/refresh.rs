//! Reading the source now instead of at the next notice, for those who must know that all of it was told.

use tokio::sync::{mpsc, oneshot};

/// How many may wait for a read.
const QUEUE: usize = 16;

/// Asks for a read; cheap to clone.
#[derive(Clone, Debug)]
pub struct Refresher {
    requests: mpsc::Sender<oneshot::Sender<()>>,
    /// Whether what this node writes comes back by itself.
    tells_own_writes: bool,
}

/// What the reading task answers.
pub(crate) type Refreshes = mpsc::Receiver<oneshot::Sender<()>>;

/// For a source that reads when it is asked to, and now and then.
pub(crate) fn channel() -> (Refresher, Refreshes) {
    let (requests, receiver) = mpsc::channel(QUEUE);
    let refresher = Refresher {
        requests,
        tells_own_writes: false,
    };
    (refresher, receiver)
}

/// For a source that is told of every change.
pub(crate) fn channel_of_a_watch() -> (Refresher, Refreshes) {
    let (refresher, receiver) = channel();
    let refresher = Refresher {
        tells_own_writes: true,
        ..refresher
    };
    (refresher, receiver)
}

impl Refresher {
    /// Returns when all that the source held at the call has been sent as events. A watch that has ended answers at
    /// once; one of a cluster that is away when it is back.
    pub async fn refresh(&self) {
        let (reply, done) = oneshot::channel();
        if self.requests.send(reply).await.is_ok() {
            // No answer means that the watch has ended: there is nothing to wait for.
            let _ = done.await;
        }
    }

    /// Has what this node has just written read back soon: a directory is read now, an API server's watch tells of it
    /// by itself.
    pub async fn hear_own_writes(&self) {
        if !self.tells_own_writes {
            self.refresh().await;
        }
    }
}
