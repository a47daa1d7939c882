//! When the same may be written of an object again: ever more seldom, so that two who say different things do not write for ever.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// After a write of an object, how long its next is not before; it doubles while the same is to be written again.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
const LAST_PAUSE: Duration = Duration::from_secs(600);

/// What was last written of each object, and when the same may be written next.
#[derive(Debug)]
pub(crate) struct Paced<K, E>(BTreeMap<K, Written<E>>);

#[derive(Debug)]
struct Written<E> {
    essence: E,
    times: u32,
    due: Instant,
}

impl<K, E> Default for Paced<K, E> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Ord + Clone, E: PartialEq> Paced<K, E> {
    /// Until when this must wait; nothing that may be written now.
    pub(crate) fn wait(&self, now: Instant, key: &K, essence: &E) -> Option<Instant> {
        let written = self.0.get(key)?;
        (written.essence == *essence && written.due > now).then_some(written.due)
    }

    /// Notes that it has been written, or tried.
    pub(crate) fn note(&mut self, now: Instant, key: &K, essence: E) {
        let before = self.0.get(key);
        let times = before
            .filter(|written| written.essence == essence)
            .map_or(0, |written| written.times.saturating_add(1));
        let pause = FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(times.min(16)));
        let due = now + pause.min(LAST_PAUSE);
        let written = Written {
            essence,
            times,
            due,
        };
        self.0.insert(key.clone(), written);
    }

    /// Forgets those that are gone.
    pub(crate) fn retain(&mut self, is_there: impl Fn(&K) -> bool) {
        self.0.retain(|key, _| is_there(key));
    }
}
