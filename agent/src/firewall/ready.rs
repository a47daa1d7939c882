//! Programs that write, started before there is anything to write: to start one takes longer than most writes.

use std::collections::BTreeMap;

use netfilter::Family;

use super::programs::Programs;
use crate::exec::{ExecError, Started};

/// The program that writes sets.
pub(super) const IPSET: &str = "ipset";

/// Programs that wait for their input. Where the agent is killed they read its end, and change nothing.
#[derive(Debug, Default)]
pub(crate) struct Ready {
    waiting: BTreeMap<&'static str, Started>,
}

impl Ready {
    /// The one that waits, or a new one.
    ///
    /// # Errors
    /// If it cannot be started.
    pub(super) fn take(&mut self, program: &'static str) -> Result<Started, ExecError> {
        if let Some(mut started) = self.waiting.remove(program)
            && started.is_running()
        {
            return Ok(started);
        }
        Started::waiting(program, arguments(program))
    }

    /// Starts those that the next write may want.
    pub(super) fn prepare(&mut self, programs: &Programs) {
        let wanted = [
            IPSET,
            programs.restore(Family::V4),
            programs.restore(Family::V6),
        ];
        self.waiting.retain(|program, _| wanted.contains(program));
        for program in wanted {
            if !self.waiting.contains_key(program)
                && let Ok(started) = Started::waiting(program, arguments(program))
            {
                self.waiting.insert(program, started);
            }
        }
    }
}

/// What it is started with; the input comes later.
pub(super) fn arguments(program: &'static str) -> &'static [&'static str] {
    if program == IPSET {
        &["restore", "-exist"]
    } else {
        &["--noflush", "--wait", "5"]
    }
}
