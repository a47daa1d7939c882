//! Sets and chains that the kernel refused: left out so that all else is enforced, and tried again ever more seldom.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use netfilter::{ChainName, SetName};

const FIRST_PAUSE: Duration = Duration::from_secs(10);
const LAST_PAUSE: Duration = Duration::from_secs(600);

/// Names of ours that a program refused.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Culprits {
    pub(crate) sets: BTreeSet<SetName>,
    pub(crate) chains: BTreeSet<ChainName>,
}

impl Culprits {
    pub(crate) fn is_empty(&self) -> bool {
        self.sets.is_empty() && self.chains.is_empty()
    }
}

/// What is left out now.
#[derive(Clone, Debug)]
pub(crate) struct Quarantine {
    held: Culprits,
    pause: Duration,
    retry: Option<Instant>,
    released: Option<Instant>,
}

impl Quarantine {
    pub(crate) fn new() -> Self {
        Self {
            held: Culprits::default(),
            pause: FIRST_PAUSE,
            retry: None,
            released: None,
        }
    }

    /// Leaves these out too, and says all that is left out.
    pub(crate) fn add(&mut self, now: Instant, culprits: Culprits) -> Culprits {
        if let Some(released) = self.released.take() {
            // Refused again soon after it was tried again: the next try is later. Else this is a new trouble.
            let is_again = now.saturating_duration_since(released) < FIRST_PAUSE;
            self.pause = if is_again {
                (self.pause * 2).min(LAST_PAUSE)
            } else {
                FIRST_PAUSE
            };
        }
        self.held.sets.extend(culprits.sets);
        self.held.chains.extend(culprits.chains);
        self.retry = Some(now + self.pause);
        self.held.clone()
    }

    /// When to try again what is left out.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.retry
    }

    /// Nothing is left out any more.
    pub(crate) fn release(&mut self, now: Instant) {
        self.held = Culprits::default();
        self.retry = None;
        self.released = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(name: &str) -> Culprits {
        Culprits {
            chains: BTreeSet::from([ChainName::hashed("T", &[name])]),
            ..Culprits::default()
        }
    }

    #[test]
    fn what_is_refused_again_waits_longer_and_what_is_new_does_not() {
        let start = Instant::now();
        let mut quarantine = Quarantine::new();
        assert_eq!(quarantine.add(start, chain("a")).chains.len(), 1);
        assert_eq!(quarantine.add(start, chain("b")).chains.len(), 2);
        let mut now = start;
        for pause in [10, 20, 40] {
            assert_eq!(quarantine.due(), Some(now + Duration::from_secs(pause)));
            now = quarantine.due().unwrap();
            quarantine.release(now);
            assert_eq!(quarantine.due(), None);
            quarantine.add(now, chain("a"));
        }
        quarantine.release(now);
        now += Duration::from_secs(60);
        quarantine.add(now, chain("c"));
        assert_eq!(quarantine.due(), Some(now + FIRST_PAUSE));
    }
}
