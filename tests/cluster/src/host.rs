//! What of the machine itself a test cluster needs: that no other one runs, and enough inotify instances.

use std::fs::{File, TryLockError};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use tests::rack::say;
use tests::wait::eventually;

use crate::{cgroups, leftovers};

/// A cluster is four hundred processes and two gigabytes: one at a time.
const TURN: Duration = Duration::from_secs(1800);

const INOTIFY: &str = "/proc/sys/fs/inotify/max_user_instances";

/// Kubelets, containerds and agents, all root's, need more than the usual 128.
const INOTIFY_INSTANCES: u32 = 4096;

/// The file that holds what it was before.
const INOTIFY_BEFORE: &str = "portolan-cluster.inotify";

/// The machine is this cluster's until it is dropped; then its settings are as they were.
#[derive(Debug)]
pub struct Host {
    inotify: Option<String>,
    _turn: File,
}

impl Host {
    /// Waits for its turn, and takes away what runs that were killed have left.
    ///
    /// # Errors
    /// When another cluster runs for half an hour, the machine has no cgroups of version 1, what was left stays, or a
    /// setting can't be written.
    pub fn take() -> Result<Self> {
        cgroups::mounted()?;
        let path = std::env::temp_dir().join("portolan-cluster.lock");
        let turn = File::create(&path).with_context(|| path.display().to_string())?;
        eventually(TURN, "the end of another test cluster", || {
            match turn.try_lock() {
                Ok(()) => Ok(()),
                Err(TryLockError::WouldBlock) => Err(anyhow!("{} is locked", path.display())),
                Err(TryLockError::Error(error)) => Err(error.into()),
            }
        })?;
        for swept in leftovers::sweep()? {
            say(&format!(
                "taken away, left by a run that was killed: {swept}"
            ));
        }
        Ok(Self {
            inotify: raise_inotify(&std::env::temp_dir())?,
            _turn: turn,
        })
    }
}

/// Gives what is to be put back in the end, if anything. It stands in a file meanwhile, for the next run if this one is killed.
fn raise_inotify(folder: &Path) -> Result<Option<String>> {
    let now = std::fs::read_to_string(INOTIFY)?;
    let count = |text: &str| text.trim().parse::<u32>().ok();
    let is_enough = count(&now).is_some_and(|count| count >= INOTIFY_INSTANCES);
    let record = folder.join(INOTIFY_BEFORE);
    let earlier = std::fs::read_to_string(&record).ok();
    let before = earlier.filter(|text| count(text).is_some());
    let before = before.or_else(|| (!is_enough).then_some(now));
    if let Some(before) = &before {
        std::fs::write(&record, before).with_context(|| record.display().to_string())?;
    }
    if !is_enough {
        std::fs::write(INOTIFY, INOTIFY_INSTANCES.to_string())?;
    }
    Ok(before)
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some(before) = &self.inotify {
            // Nothing can be done about a failure here, and more instances hurt nobody.
            let _ = std::fs::write(INOTIFY, before);
            let _ = std::fs::remove_file(std::env::temp_dir().join(INOTIFY_BEFORE));
        }
    }
}
