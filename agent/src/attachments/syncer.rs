//! A thread that brings the journal to the disk behind those who write to it: one call serves all that wrote before it.

use std::fs::File;
use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use tracing::{info, warn};

type Problem = Arc<Mutex<Option<String>>>;

/// The thread, its bell, and what went wrong at the last call.
#[derive(Debug)]
pub(super) struct Syncer {
    bell: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
    problem: Problem,
}

impl Syncer {
    /// Starts the thread.
    ///
    /// # Errors
    /// If there can be no thread.
    pub(super) fn start(file: File) -> io::Result<Self> {
        // One ring that waits is enough: the call it leads to serves all until then.
        let (bell, rings) = sync_channel(1);
        let problem = Problem::default();
        let told = Arc::clone(&problem);
        let thread = std::thread::Builder::new()
            .name("ipam-sync".to_owned())
            .spawn(move || run(&rings, &told, || file.sync_data()))?;
        Ok(Self {
            bell: Some(bell),
            thread: Some(thread),
            problem,
        })
    }

    /// What has been written is brought to the disk soon; never waits.
    pub(super) fn soon(&self) {
        if let Some(bell) = &self.bell {
            // A full queue has a ring that is not heard yet.
            let _ = bell.try_send(());
        }
    }

    /// Why the last call failed, if it did.
    pub(super) fn problem(&self) -> Option<String> {
        let problem = self.problem.lock();
        problem.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Syncer {
    /// What is to be brought to the disk still is, first.
    fn drop(&mut self) {
        self.bell = None;
        if let Some(thread) = self.thread.take() {
            // It has panicked at worst, and said so.
            let _ = thread.join();
        }
    }
}

fn run(rings: &Receiver<()>, problem: &Problem, sync: impl Fn() -> io::Result<()>) {
    while rings.recv().is_ok() {
        let now = sync().err().map(|error| error.to_string());
        let mut told = problem.lock().unwrap_or_else(PoisonError::into_inner);
        if *told != now {
            match &now {
                Some(error) => warn!(error, "the journal of leases cannot be brought to the disk"),
                None => info!("the journal of leases is brought to the disk again"),
            }
        }
        *told = now;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn a_failure_is_told_until_a_call_succeeds_and_the_last_ring_is_heard() {
        let problem = Problem::default();
        let calls = AtomicUsize::new(0);
        let ring = |error: Option<i32>| {
            let (bell, rings) = sync_channel(1);
            bell.send(()).unwrap();
            drop(bell);
            run(&rings, &problem, || {
                calls.fetch_add(1, Ordering::Relaxed);
                error.map_or(Ok(()), |code| Err(io::Error::from_raw_os_error(code)))
            });
            problem.lock().unwrap().clone()
        };
        assert!(ring(Some(5)).unwrap().contains("Input/output error"));
        assert_eq!(ring(None), None);
        assert_eq!(calls.into_inner(), 2);
    }

    #[test]
    fn many_rings_never_wait_for_the_disk() {
        let folder = tempfile::tempdir().unwrap();
        let file = File::create(folder.path().join("journal")).unwrap();
        let syncer = Syncer::start(file).unwrap();
        for _ in 0..10_000 {
            syncer.soon();
        }
        assert_eq!(syncer.problem(), None);
    }
}
