//! What of the machine itself a test cluster needs: that no other one runs, and enough inotify instances.

use std::fs::{File, TryLockError};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use tests::wait::eventually;

/// A cluster is four hundred processes and two gigabytes: one at a time.
const TURN: Duration = Duration::from_secs(1800);

const INOTIFY: &str = "/proc/sys/fs/inotify/max_user_instances";

/// Kubelets, containerds and agents, all root's, need more than the usual 128.
const INOTIFY_INSTANCES: u32 = 4096;

/// The machine is this cluster's until it is dropped; then its settings are as they were.
#[derive(Debug)]
pub struct Host {
    inotify: Option<String>,
    _turn: File,
}

impl Host {
    /// Waits for its turn.
    ///
    /// # Errors
    /// When another cluster runs for half an hour, or a setting can't be written.
    pub fn take() -> Result<Self> {
        let path = std::env::temp_dir().join("portolan-cluster.lock");
        let turn = File::create(&path).with_context(|| path.display().to_string())?;
        eventually(TURN, "the end of another test cluster", || {
            match turn.try_lock() {
                Ok(()) => Ok(()),
                Err(TryLockError::WouldBlock) => Err(anyhow!("{} is locked", path.display())),
                Err(TryLockError::Error(error)) => Err(error.into()),
            }
        })?;
        let before = std::fs::read_to_string(INOTIFY)?;
        let is_enough = before
            .trim()
            .parse()
            .is_ok_and(|count: u32| count >= INOTIFY_INSTANCES);
        if !is_enough {
            std::fs::write(INOTIFY, INOTIFY_INSTANCES.to_string())?;
        }
        Ok(Self {
            inotify: (!is_enough).then_some(before),
            _turn: turn,
        })
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some(before) = &self.inotify {
            // Nothing can be done about a failure here, and more instances hurt nobody.
            let _ = std::fs::write(INOTIFY, before);
        }
    }
}
