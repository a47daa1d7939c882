//! Bounded waiting: the only way tests and the demo wait for something to become true.

use std::fmt::Display;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How long between two looks.
const INTERVAL: Duration = Duration::from_millis(50);

/// Set when the user wants the lab to end.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Makes every wait, present and future, fail, so that the lab unwinds and cleans up after itself.
pub fn interrupt() {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

/// Sleeps for `time`.
///
/// # Errors
/// When [`interrupt`] was called.
pub fn pause(time: Duration) -> Result<()> {
    std::thread::sleep(time);
    if INTERRUPTED.load(Ordering::Relaxed) {
        bail!("interrupted");
    }
    Ok(())
}

/// Calls `probe` until it gives `Ok`, at most for `deadline`; then its value, or its last error.
///
/// # Errors
/// When [`interrupt`] was called, or `deadline` passed: names `what` and the last error.
pub fn eventually<T, E: Display>(
    deadline: Duration,
    what: &str,
    mut probe: impl FnMut() -> Result<T, E>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        let error = match probe() {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        if start.elapsed() >= deadline {
            bail!("{what}: not within {deadline:?}: {error:#}");
        }
        pause(INTERVAL)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_that_succeeds_later_is_waited_for() {
        let mut left = 3;
        let got = eventually(Duration::from_secs(10), "countdown", || {
            left -= 1;
            if left == 0 { Ok(7) } else { Err("not yet") }
        });
        assert_eq!(got.unwrap(), 7);
    }

    #[test]
    fn a_probe_that_never_succeeds_ends_with_its_last_error() {
        let got = eventually(Duration::ZERO, "the impossible", || {
            Err::<(), _>("still no")
        });
        let text = got.unwrap_err().to_string();
        assert!(
            text.contains("the impossible") && text.contains("still no"),
            "{text}"
        );
    }
}
