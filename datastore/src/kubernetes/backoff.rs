//! How long to wait before the server is asked again: longer each time, and differently on every node.

use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

const FIRST: Duration = Duration::from_millis(500);
const LAST: Duration = Duration::from_secs(30);

/// Failures in a row.
#[derive(Debug, Default)]
pub(super) struct Backoff(u32);

impl Backoff {
    /// Something worked.
    pub(super) fn reset(&mut self) {
        self.0 = 0;
    }

    /// Something failed: how long to wait. What the server asks for is the least.
    pub(super) fn fail(&mut self, retry_after: Option<Duration>) -> Duration {
        let doubled = FIRST.saturating_mul(2_u32.saturating_pow(self.0.min(16)));
        self.0 = self.0.saturating_add(1);
        let pause = between(doubled.min(LAST) / 2, doubled.min(LAST));
        match retry_after {
            Some(wanted) => between(wanted, wanted + wanted / 4 + FIRST).max(pause),
            None => pause,
        }
    }

    /// How many failures there were in a row.
    pub(super) fn failures(&self) -> u32 {
        self.0
    }
}

/// Any duration between two.
pub(super) fn between(shortest: Duration, longest: Duration) -> Duration {
    // Every RandomState has keys of its own.
    let random = RandomState::new().hash_one(0_u8) % 1_000;
    let part = f64::from(u32::try_from(random).unwrap_or(0)) / 1_000.0;
    shortest + longest.saturating_sub(shortest).mul_f64(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_bound_and_begin_anew_after_a_success() {
        let mut backoff = Backoff::default();
        for failure in 0..40_u32 {
            let longest = (FIRST * 2_u32.pow(failure.min(10))).min(LAST);
            let pause = backoff.fail(None);
            assert!(
                pause >= longest / 2 && pause <= longest,
                "{failure}: {pause:?}"
            );
        }
        assert_eq!(backoff.failures(), 40);
        backoff.reset();
        assert!(backoff.fail(None) <= FIRST);
    }

    #[test]
    fn what_the_server_asks_for_is_the_least_and_nodes_differ() {
        let mut pauses: Vec<Duration> = (0..50)
            .map(|_| Backoff::default().fail(Some(Duration::from_secs(7))))
            .collect();
        assert!(pauses.iter().all(|pause| *pause >= Duration::from_secs(7)));
        assert!(pauses.iter().all(|pause| *pause < Duration::from_secs(10)));
        pauses.sort();
        pauses.dedup();
        assert!(pauses.len() > 25);
    }
}
