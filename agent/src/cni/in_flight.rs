//! One request at a time for each attachment: a DEL waits for the ADD it undoes, and nothing else does.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use ipam::Holder;
use tokio::sync::OwnedMutexGuard;

type Locks = Arc<Mutex<BTreeMap<Holder, Arc<tokio::sync::Mutex<()>>>>>;

/// The attachments that requests are about now; cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct InFlight(Locks);

/// Holds an attachment until it is dropped.
#[derive(Debug)]
pub(crate) struct Entered {
    holder: Holder,
    locks: Locks,
    guard: Option<OwnedMutexGuard<()>>,
}

impl InFlight {
    /// Waits until no other request is about this attachment.
    pub(crate) async fn enter(&self, holder: &Holder) -> Entered {
        let lock = {
            let mut locks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(locks.entry(holder.clone()).or_default())
        };
        Entered {
            holder: holder.clone(),
            locks: Arc::clone(&self.0),
            guard: Some(lock.lock_owned().await),
        }
    }

    /// Whether a request is about this attachment now.
    pub(crate) fn is_busy(&self, holder: &Holder) -> bool {
        let locks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        locks.contains_key(holder)
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.guard = None;
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        // The map's own is the only one left: nobody waits.
        let idle = |lock: &Arc<_>| Arc::strong_count(lock) == 1;
        if locks.get(&self.holder).is_some_and(idle) {
            locks.remove(&self.holder);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn holder(id: &str) -> Holder {
        Holder {
            container_id: id.to_owned(),
            interface: "eth0".to_owned(),
        }
    }

    #[tokio::test]
    async fn requests_of_one_attachment_wait_for_each_other_and_leave_nothing_behind() {
        let all = InFlight::default();
        let first = all.enter(&holder("a")).await;
        let other = all.enter(&holder("b")).await;
        let waits = tokio::spawn({
            let all = all.clone();
            async move { drop(all.enter(&holder("a")).await) }
        });
        tokio::time::sleep(Duration::from_millis(30)).await;
        assert!(!waits.is_finished());
        drop(first);
        waits.await.unwrap();
        assert!(!all.is_busy(&holder("a")) && all.is_busy(&holder("b")));
        drop(other);
        assert!(!all.is_busy(&holder("b")));
    }

    #[tokio::test]
    async fn who_gives_up_waiting_leaves_nothing_behind() {
        let all = InFlight::default();
        let first = all.enter(&holder("a")).await;
        let limit = Duration::from_millis(20);
        let one = holder("a");
        assert!(tokio::time::timeout(limit, all.enter(&one)).await.is_err());
        drop(first);
        assert!(!all.is_busy(&holder("a")));
    }
}
