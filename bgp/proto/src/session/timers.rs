//! How long to wait: the fixed times, and the back-off that damps a peer whose sessions keep failing.

use std::time::Duration;

/// Hold time until the peer's OPEN is in (RFC 4271 §8.2.2 suggests 4 minutes).
pub(super) const LARGE_HOLD_TIME: Duration = Duration::from_secs(240);

/// SendHoldTime where none is configured (RFC 9687 §3.1), unless twice the HoldTime is more.
pub(super) const SEND_HOLD_TIME: Duration = Duration::from_secs(8 * 60);

/// How long a connection that would lose a collision waits for the other's OPEN before it sends its KEEPALIVE.
pub(super) const YIELD_TIME: Duration = Duration::from_secs(1);

/// DampPeerOscillations (RFC 4271 §8.1.1): each failure doubles the wait, a session that lasted forgets them.
#[derive(Clone, Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    const FIRST: Duration = Duration::from_secs(1);
    pub(super) const LONGEST: Duration = Duration::from_secs(30);

    /// The wait after one more failure of a session that was Established for `established`; before jitter.
    pub(super) fn failed(&mut self, established: Duration) -> Duration {
        if established >= Self::LONGEST {
            self.failures = 0;
        }
        let wait = Self::FIRST.saturating_mul(1 << self.failures.min(5));
        self.failures = self.failures.saturating_add(1);
        wait.min(Self::LONGEST)
    }

    pub(super) fn forget(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn back_off_doubles_from_one_second_to_thirty_and_stays() {
        let mut backoff = Backoff::default();
        let waits = [0; 8].map(|_| backoff.failed(Duration::ZERO).as_secs());
        assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30, 30]);
    }

    #[test]
    fn a_session_that_lasted_starts_the_back_off_afresh() {
        let mut backoff = Backoff { failures: 9 };
        assert_eq!(
            backoff.failed(Duration::from_secs(29)),
            Duration::from_secs(30)
        );
        assert_eq!(
            backoff.failed(Duration::from_secs(30)),
            Duration::from_secs(1)
        );
        assert_eq!(backoff.failed(Duration::ZERO), Duration::from_secs(2));
    }
}
