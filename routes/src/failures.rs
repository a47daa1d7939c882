//! Routes that are not as desired: why, and when to try again; cheap also when all of 100,000 fail.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use ipnet::IpNet;
use reconcile::Backoff;

/// First and greatest delay before a refused route is tried again; a notice of change tries at once.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));

#[derive(Debug)]
struct Failure {
    count: u32,
    due: Instant,
    why: Arc<str>,
    /// The protocol whose route has the key.
    clash: Option<u8>,
}

/// The failed routes.
#[derive(Debug)]
pub(crate) struct Failures {
    backoff: Backoff,
    by_prefix: HashMap<IpNet, Failure>,
    by_time: BTreeSet<(Instant, IpNet)>,
    clashes: usize,
}

impl Failures {
    pub(crate) fn new() -> Self {
        Self {
            backoff: Backoff::new(RETRY.0, RETRY.1),
            by_prefix: HashMap::new(),
            by_time: BTreeSet::new(),
            clashes: 0,
        }
    }

    pub(crate) fn add(&mut self, prefix: IpNet, why: Arc<str>, clash: Option<u8>, now: Instant) {
        let before = self.take(&prefix).map_or(0, |failure| failure.count);
        let count = before.saturating_add(1);
        let due = now + self.backoff.delay(count);
        self.clashes += usize::from(clash.is_some());
        self.by_time.insert((due, prefix));
        let failure = Failure {
            count,
            due,
            why,
            clash,
        };
        self.by_prefix.insert(prefix, failure);
    }

    /// It succeeded, or nobody wants it any more.
    pub(crate) fn clear(&mut self, prefix: &IpNet) {
        if !self.by_prefix.is_empty() {
            self.take(prefix);
        }
    }

    /// The prefixes due now. They stay until they succeed or fail again.
    pub(crate) fn due(&self, now: Instant) -> impl Iterator<Item = IpNet> {
        let due = self.by_time.iter().take_while(move |(due, _)| *due <= now);
        due.map(|(_, prefix)| *prefix)
    }

    pub(crate) fn next(&self) -> Option<Instant> {
        self.by_time.first().map(|(due, _)| *due)
    }

    pub(crate) fn why(&self, prefix: &IpNet) -> Option<&str> {
        self.by_prefix.get(prefix).map(|failure| &*failure.why)
    }

    /// All, by prefix.
    pub(crate) fn all(&self) -> Vec<(IpNet, Arc<str>)> {
        let all = self.by_prefix.iter();
        let mut all: Vec<_> = all.map(|(p, f)| (*p, Arc::clone(&f.why))).collect();
        all.sort_unstable_by_key(|(prefix, _)| *prefix);
        all
    }

    pub(crate) fn count(&self) -> usize {
        self.by_prefix.len()
    }

    pub(crate) fn clashes(&self) -> usize {
        self.clashes
    }

    fn take(&mut self, prefix: &IpNet) -> Option<Failure> {
        let failure = self.by_prefix.remove(prefix)?;
        self.by_time.remove(&(failure.due, *prefix));
        self.clashes -= usize::from(failure.clash.is_some());
        Some(failure)
    }
}
