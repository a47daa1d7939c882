//! A thread that brings the journal to the disk behind those who write to it: one call serves all that wrote before it.

use std::fs::File;
use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tracing::{info, warn};

/// Between two calls: a burst of ADDs costs the disk (flash, often) a few calls, and a write seldom meets one. What a
/// power cut takes away by that is of pods that are dead then.
const PAUSE: Duration = Duration::from_millis(50);

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
            .spawn(move || run(&rings, &told, PAUSE, || file.sync_data()))?;
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

fn run(
    rings: &Receiver<()>,
    problem: &Problem,
    pause: Duration,
    sync: impl Fn() -> io::Result<()>,
) {
    let mut is_due = rings.recv().is_ok();
    while is_due {
        let now = sync().err().map(|error| error.to_string());
        let mut told = problem.lock().unwrap_or_else(PoisonError::into_inner);
        if *told != now {
            match &now {
                Some(error) => warn!(error, "the journal of leases cannot be brought to the disk"),
                None => info!("the journal of leases is brought to the disk again"),
            }
        }
        *told = now;
        drop(told);
        is_due = next(rings, pause);
    }
}

/// Waits for the next ring, and for the pause at least; without a pause once nobody can ring any more. Whether there
/// was a ring.
fn next(rings: &Receiver<()>, pause: Duration) -> bool {
    let end = Instant::now() + pause;
    let mut is_rung = false;
    loop {
        match rings.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(()) => is_rung = true,
            Err(RecvTimeoutError::Timeout) => return is_rung || rings.recv().is_ok(),
            Err(RecvTimeoutError::Disconnected) => return is_rung,
        }
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
            run(&rings, &problem, Duration::ZERO, || {
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
    fn a_burst_costs_a_few_calls_and_its_last_ring_is_heard_without_a_pause() {
        let (bell, rings) = sync_channel(1);
        let (calls, start) = (AtomicUsize::new(0), Instant::now());
        let pause = Duration::from_millis(20);
        let ringing = std::thread::spawn(move || {
            // Each has been heard when the next one finds room.
            let mut count = 0;
            while count < 100 && start.elapsed() < Duration::from_secs(10) {
                count += usize::from(bell.try_send(()).is_ok());
                std::thread::sleep(Duration::from_micros(100));
            }
            // The last one, in the queue when the bell goes away.
            let _ = bell.try_send(());
            count
        });
        run(&rings, &Problem::default(), pause, || {
            calls.fetch_add(1, Ordering::Relaxed);
            Ok(())
        });
        let (calls, rung) = (calls.into_inner(), ringing.join().unwrap());
        assert_eq!(rung, 100);
        // As many pauses as fit, the first call, and the last.
        let most = usize::try_from(start.elapsed().as_millis()).unwrap() / 20 + 2;
        assert!((1..=most).contains(&calls), "{calls} calls");
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
