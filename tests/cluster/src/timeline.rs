//! A thread with a clock of its own, for tasks whose waits are longer than a test: the servers they talk to keep the real one.

use std::future::Future;
use std::sync::mpsc::channel;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// How long one thing that is run may take.
const LONG: Duration = Duration::from_secs(120);

/// A runtime in a thread of its own. Dropping it ends all that runs there, at once and without a word.
#[derive(Debug)]
pub struct Timeline {
    handle: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Timeline {
    /// Starts the thread.
    ///
    /// # Errors
    /// When there is none to be had.
    pub fn start() -> Result<Self> {
        // The clock of a runtime of several threads cannot be put forward.
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::Builder::new().spawn(move || {
            let _ = runtime.block_on(stopped);
        })?;
        Ok(Self {
            handle,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Runs something there, and waits for it here.
    ///
    /// # Errors
    /// When it isn't done within two minutes, or has panicked.
    pub fn run<F>(&self, future: F) -> Result<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        let (done, result) = channel();
        self.handle.spawn(async move {
            let _ = done.send(future.await);
        });
        result
            .recv_timeout(LONG)
            .context("it does not come to an end")
    }

    /// Puts the clock forward: what waits for a time until then is due.
    ///
    /// # Errors
    /// When the thread doesn't answer.
    pub fn forward(&self, by: Duration) -> Result<()> {
        self.run(async move {
            tokio::time::pause();
            tokio::time::advance(by).await;
            tokio::time::resume();
        })
    }
}

impl Drop for Timeline {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // One that has panicked has said so.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn an_hour_passes_at_once_there_and_not_here() {
        let began = Instant::now();
        let timeline = Timeline::start().unwrap();
        let (woken, wakes) = channel();
        timeline
            .run(async move {
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_secs(3600)).await;
                    let _ = woken.send(());
                });
            })
            .unwrap();
        wakes.recv_timeout(Duration::from_millis(200)).unwrap_err();
        timeline.forward(Duration::from_secs(3601)).unwrap();
        wakes.recv_timeout(Duration::from_secs(30)).unwrap();
        assert!(began.elapsed() < Duration::from_secs(60));
    }
}
