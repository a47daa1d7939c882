//! An installation that is looked after: done again every minute until the process is told to end.

use std::time::Duration;

use super::disk::RealDisk;
use super::install::{Settings, install};
use super::report::{Change, Report};
use crate::stay::until_told;

/// How often all is looked at.
const PAUSE: Duration = Duration::from_secs(60);
/// How soon a failure is tried again: the agent may be ready by then.
const AGAIN: Duration = Duration::from_secs(1);

/// Installs, again and again; `show` is called where something changed. Ends when the process is told to: an installation
/// may be cut off at any step.
///
/// # Errors
/// If no signal can be listened to.
pub(super) fn stay(
    settings: Settings,
    show: impl Fn(&Report) -> anyhow::Result<()> + Send + 'static,
) -> anyhow::Result<()> {
    until_told(move || look_after(&settings, show))
}

fn look_after(settings: &Settings, show: impl Fn(&Report) -> anyhow::Result<()>) {
    let mut said = Said::default();
    loop {
        let outcome = install(&mut RealDisk, settings);
        let pause = if outcome.is_ok() { PAUSE } else { AGAIN };
        match said.news(outcome) {
            // Nobody reads what is printed: no reason to stop.
            Some(Ok(report)) => drop(show(&report)),
            Some(Err(error)) => complain(&error),
            None => {}
        }
        std::thread::sleep(pause);
    }
}

/// What was said last: it is not said again every minute.
#[derive(Debug, Default)]
pub(super) struct Said {
    once: bool,
    error: String,
    warnings: Vec<String>,
}

impl Said {
    /// What is new in an outcome.
    pub(super) fn news(
        &mut self,
        outcome: anyhow::Result<Report>,
    ) -> Option<anyhow::Result<Report>> {
        match outcome {
            Ok(report) => {
                let mut files = report.files.iter();
                let changed = files.any(|file| file.change != Change::Unchanged);
                let other = !self.error.is_empty() || report.warnings != self.warnings;
                let news = changed || other || !self.once;
                self.once = true;
                self.error.clear();
                self.warnings.clone_from(&report.warnings);
                news.then_some(Ok(report))
            }
            Err(error) => {
                let text = format!("{error:#}");
                let news = text != self.error;
                self.error = text;
                news.then_some(Err(error))
            }
        }
    }
}

#[expect(
    clippy::print_stderr,
    reason = "the command line's errors go to standard error"
)]
fn complain(error: &anyhow::Error) {
    eprintln!("portolan: {error:#}; trying again");
}
