//! Reading the directory now instead of at the next notice, for those who must know that all of it was told.

use tokio::sync::{mpsc, oneshot};

/// How many may wait for a read.
const QUEUE: usize = 16;

/// Asks for a read; cheap to clone.
#[derive(Clone, Debug)]
pub struct Refresher(mpsc::Sender<oneshot::Sender<()>>);

/// What the reading task answers.
pub(crate) type Refreshes = mpsc::Receiver<oneshot::Sender<()>>;

pub(crate) fn channel() -> (Refresher, Refreshes) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    (Refresher(sender), receiver)
}

impl Refresher {
    /// Returns when all that the directory held at the call has been sent as events. A watch that has ended answers at
    /// once.
    pub async fn refresh(&self) {
        let (reply, done) = oneshot::channel();
        if self.0.send(reply).await.is_ok() {
            // No answer means that the watch has ended: there is nothing to wait for.
            let _ = done.await;
        }
    }
}
