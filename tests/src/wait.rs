//! Bounded waiting: the only way tests and the demo wait for something to become true.

use std::fmt::Display;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// How long between two looks.
const INTERVAL: Duration = Duration::from_millis(50);

/// The environment variable that says how many times as long is waited where all is slower, such as in a machine in
/// software (`scripts/vm-test`): a whole number, 1 if it is not set.
const SCALE: &str = "PORTOLAN_TIME_SCALE";

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

/// `time` as it is to be waited here: multiplied by `PORTOLAN_TIME_SCALE`.
///
/// # Errors
/// When that is set to something else than a number above 0.
pub fn scaled(time: Duration) -> Result<Duration> {
    times(time, std::env::var(SCALE).ok().as_deref())
}

fn times(time: Duration, scale: Option<&str>) -> Result<Duration> {
    let scale: u32 = scale.unwrap_or("1").parse().context(SCALE)?;
    if scale == 0 {
        bail!("{SCALE} is 0");
    }
    Ok(time * scale)
}

/// Calls `probe` until it gives `Ok`, at most for `deadline` ([`scaled`]); then its value, or its last error.
///
/// # Errors
/// When [`interrupt`] was called, or `deadline` passed: names `what` and the last error.
pub fn eventually<T, E: Display>(
    deadline: Duration,
    what: &str,
    mut probe: impl FnMut() -> Result<T, E>,
) -> Result<T> {
    let (start, deadline) = (Instant::now(), scaled(deadline)?);
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
    fn waits_are_as_many_times_as_long_as_the_environment_says() {
        let second = Duration::from_secs(1);
        assert_eq!(times(second, None).unwrap(), second);
        assert_eq!(times(second, Some("4")).unwrap(), 4 * second);
        for wrong in ["0", "", "-1", "two"] {
            let error = times(second, Some(wrong)).unwrap_err();
            assert!(format!("{error:#}").contains(SCALE), "{wrong}: {error:#}");
        }
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
