//! Jitter for timers (RFC 4271 §10) from a small generator of our own: the same seed gives the same session.

use std::time::Duration;

/// A splitmix64 generator.
#[derive(Clone, Debug)]
pub(crate) struct Jitter(u64);

impl Jitter {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Between three quarters of `duration` and all of it.
    pub(crate) fn apply(&mut self, duration: Duration) -> Duration {
        const STEPS: u32 = 1024;
        let step = u32::try_from(self.next() % u64::from(STEPS + 1)).unwrap_or(STEPS);
        duration - duration / 4 * step / STEPS
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
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
