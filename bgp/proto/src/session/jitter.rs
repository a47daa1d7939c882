//! Jitter for timers (RFC 4271 §10): the same seed gives the same session.

use std::time::Duration;

use crate::random::Random;

/// What timers are shortened by.
#[derive(Clone, Debug)]
pub(crate) struct Jitter(Random);

impl Jitter {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Random::new(seed))
    }

    /// Between three quarters of `duration` and all of it.
    pub(crate) fn apply(&mut self, duration: Duration) -> Duration {
        const STEPS: u32 = 1024;
        let step = u32::try_from(self.0.below(u64::from(STEPS) + 1)).unwrap_or(STEPS);
        duration - duration / 4 * step / STEPS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_keeps_within_three_quarters_and_one_and_uses_the_range() {
        let mut jitter = Jitter::new(7);
        let drawn: Vec<_> = (0..10_000)
            .map(|_| jitter.apply(Duration::from_secs(4)))
            .collect();
        assert!(
            drawn
                .iter()
                .all(|d| *d >= Duration::from_secs(3) && *d <= Duration::from_secs(4))
        );
        assert!(drawn.iter().min().unwrap() < &Duration::from_millis(3020));
        assert!(drawn.iter().max().unwrap() > &Duration::from_millis(3980));
    }

    #[test]
    fn the_same_seed_gives_the_same_jitter_and_another_does_not() {
        let draw = |seed| {
            let mut jitter = Jitter::new(seed);
            [0; 8].map(|_| jitter.apply(Duration::from_secs(100)))
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }

    #[test]
    fn zero_stays_zero() {
        assert_eq!(Jitter::new(3).apply(Duration::ZERO), Duration::ZERO);
    }
}
