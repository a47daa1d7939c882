//! The task that publishes this node's keys, and says when that is done.

use std::time::Duration;

use api::resources::WireGuardKeys;
use datastore::StatusWriter;
use tokio::sync::watch;
use tracing::{debug, warn};

use super::now;
use overlay::keys::Time;

/// The pause after a failure; it doubles, up to the longest.
const RETRY: Duration = Duration::from_millis(500);
const LONGEST_RETRY: Duration = Duration::from_secs(15);

/// What is to be published, and how manieth that is: the same again is published again where it was lost.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Publication {
    /// Grows with each wish to publish; 0 means that nothing is to be.
    pub(crate) number: u64,
    /// The keys.
    pub(crate) keys: WireGuardKeys,
}

/// Publishes the newest, and says at what time which was; until nobody wishes any more.
pub(crate) async fn run_task(
    writer: StatusWriter,
    mut wished: watch::Receiver<Publication>,
    done: watch::Sender<Option<(Time, Publication)>>,
) {
    while wished.changed().await.is_ok() {
        let mut pause = RETRY;
        loop {
            let publication = wished.borrow_and_update().clone();
            let Err(error) = writer.publish_keys(&publication.keys).await else {
                debug!(number = publication.number, "WireGuard keys published");
                done.send_replace(Some((now(), publication)));
                break;
            };
            if pause == RETRY {
                warn!(%error, "cannot publish this node's WireGuard keys, which other nodes need; trying again");
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_RETRY);
        }
    }
}
