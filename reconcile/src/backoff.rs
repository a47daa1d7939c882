//! When to try again what failed: exponential, bounded, told the time.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// A doubling delay between a first and a greatest one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    first: Duration,
    greatest: Duration,
}

impl Backoff {
    /// Makes one; `greatest` below `first` counts as `first`.
    pub fn new(first: Duration, greatest: Duration) -> Self {
        Self {
            first,
            greatest: greatest.max(first),
        }
    }

    /// The delay after this many failures in a row (1 is the first failure).
    pub fn delay(&self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        self.first.saturating_mul(1 << doublings).min(self.greatest)
    }
}

#[derive(Clone, Copy, Debug)]
struct Failure {
    count: u32,
    due: Instant,
}

/// The keys that failed, each with the time of its next try.
#[derive(Clone, Debug)]
pub struct RetrySet<K> {
    backoff: Backoff,
    failures: BTreeMap<K, Failure>,
}

impl<K: Ord + Clone> RetrySet<K> {
    /// Makes an empty set.
    pub fn new(backoff: Backoff) -> Self {
        Self {
            backoff,
            failures: BTreeMap::new(),
        }
    }

    /// Notes that a try failed now; returns when it is due again.
    pub fn handle_failure(&mut self, key: K, now: Instant) -> Instant {
        let failure = self
            .failures
            .entry(key)
            .or_insert(Failure { count: 0, due: now });
        failure.count = failure.count.saturating_add(1);
        failure.due = now + self.backoff.delay(failure.count);
        failure.due
    }

    /// Forgets a key: it succeeded, or nobody wants it any more.
    pub fn handle_success(&mut self, key: &K) {
        self.failures.remove(key);
    }

    /// The keys due now, in order. They stay until they succeed or fail again.
    pub fn due(&self, now: Instant) -> impl Iterator<Item = &K> {
        self.failures
            .iter()
            .filter(move |(_, failure)| failure.due <= now)
            .map(|(key, _)| key)
    }

    /// When the next key is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.failures.values().map(|failure| failure.due).min()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.failures.is_empty()
    }
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "a test needs some instant to start from"
)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_greatest() {
        let backoff = Backoff::new(Duration::from_millis(10), Duration::from_secs(1));
        let delays: Vec<u128> = (1..=9).map(|n| backoff.delay(n).as_millis()).collect();
        assert_eq!(delays, [10, 20, 40, 80, 160, 320, 640, 1000, 1000]);
        assert_eq!(backoff.delay(u32::MAX), Duration::from_secs(1));
    }

    #[test]
    fn a_key_is_due_after_its_delay_and_until_it_succeeds() {
        let start = Instant::now();
        let ms = Duration::from_millis;
        let mut set = RetrySet::new(Backoff::new(ms(10), ms(100)));
        assert_eq!(set.handle_failure("a", start), start + ms(10));
        assert_eq!(set.due(start + ms(9)).count(), 0);
        assert_eq!(set.due(start + ms(10)).collect::<Vec<_>>(), [&"a"]);
        assert_eq!(set.handle_failure("a", start + ms(10)), start + ms(30));
        set.handle_failure("b", start + ms(10));
        assert_eq!(set.poll_timeout(), Some(start + ms(20)));
        set.handle_success(&"a");
        set.handle_success(&"b");
        assert!(set.is_empty());
        assert_eq!(set.poll_timeout(), None);
    }
}
