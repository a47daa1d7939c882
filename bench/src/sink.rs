//! What a peer should end up with, and how far it is: counted by different prefixes, not by messages.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::prefix::{Prefix, PrefixSet};
use crate::walk::{Malformed, Prefixes, Update};

/// The prefixes to be had, and through which AS each: routes by another way don't count.
#[derive(Clone, Debug, Default)]
pub struct Expected {
    sources: Vec<(u32, Arc<PrefixSet>)>,
    total: usize,
}

impl Expected {
    /// Adds what is to come through the AS `source`.
    pub fn add(&mut self, source: u32, prefixes: &Arc<PrefixSet>, count: usize) {
        self.sources.push((source, Arc::clone(prefixes)));
        self.total += count;
    }

    /// How many prefixes that are.
    #[must_use]
    pub fn total(&self) -> usize {
        self.total
    }

    fn through(&self, source: Option<u32>) -> Option<&PrefixSet> {
        let found = self.sources.iter().find(|(asn, _)| Some(*asn) == source);
        found.map(|(_, prefixes)| &**prefixes)
    }
}

/// How far a sink is; read by other threads.
#[derive(Debug)]
pub struct Progress {
    epoch: Instant,
    total: usize,
    held: AtomicUsize,
    /// Nanoseconds since `epoch` when the last missing prefix came; zero while one is missing.
    complete: AtomicU64,
    octets: AtomicU64,
    announced: AtomicU64,
}

impl Progress {
    /// How many of the expected prefixes are held.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// How many are expected.
    #[must_use]
    pub fn total(&self) -> usize {
        self.total
    }

    /// When the last missing prefix came; `None` while one is missing.
    #[must_use]
    pub fn complete(&self) -> Option<Instant> {
        match self.complete.load(Ordering::Relaxed) {
            0 => None,
            nanos => Some(self.epoch + Duration::from_nanos(nanos)),
        }
    }

    /// Octets received in UPDATEs, without headers.
    #[must_use]
    pub fn octets(&self) -> u64 {
        self.octets.load(Ordering::Relaxed)
    }

    /// Prefixes announced to it, counted each time.
    #[must_use]
    pub fn announced(&self) -> u64 {
        self.announced.load(Ordering::Relaxed)
    }
}

/// The receiving side of one session.
#[derive(Debug)]
pub struct Sink {
    expected: Expected,
    held: PrefixSet,
    progress: Arc<Progress>,
}

impl Sink {
    /// A sink that has nothing yet.
    #[must_use]
    pub fn new(expected: Expected) -> Self {
        let progress = Progress {
            epoch: Instant::now(),
            total: expected.total,
            held: AtomicUsize::new(0),
            complete: AtomicU64::new(0),
            octets: AtomicU64::new(0),
            announced: AtomicU64::new(0),
        };
        Self {
            expected,
            held: PrefixSet::default(),
            progress: Arc::new(progress),
        }
    }

    /// What others may read.
    #[must_use]
    pub fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }

    /// Takes the body of an UPDATE.
    ///
    /// # Errors
    /// If its lengths don't fit.
    pub fn update(&mut self, body: &[u8]) -> Result<(), Malformed> {
        let update = Update::read(body)?;
        let before = self.progress.held();
        let mut held = before;
        for prefix in update.withdrawn.into_iter().flat_map(Prefixes) {
            held -= usize::from(self.held.remove(prefix?));
        }
        let wanted = self.expected.through(update.source);
        let mut announced = 0;
        for prefix in update.announced.into_iter().flat_map(Prefixes) {
            let prefix: Prefix = prefix?;
            announced += 1;
            if wanted.is_some_and(|wanted| wanted.contains(prefix)) {
                held += usize::from(self.held.insert(prefix));
            } else {
                // Another path has replaced the one that counts.
                held -= usize::from(self.held.remove(prefix));
            }
        }
        let progress = &self.progress;
        progress
            .octets
            .fetch_add(body.len() as u64, Ordering::Relaxed);
        progress.announced.fetch_add(announced, Ordering::Relaxed);
        if held != before {
            let nanos = progress.epoch.elapsed().as_nanos();
            let complete = if held == progress.total {
                u64::try_from(nanos).unwrap_or(u64::MAX).max(1)
            } else {
                0
            };
            progress.complete.store(complete, Ordering::Relaxed);
            progress.held.store(held, Ordering::Relaxed);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::table::{Announcer, Distance, Table};
    use crate::walk::message;

    fn feed(sink: &mut Sink, mut bytes: &[u8]) {
        while let Some((_, body, rest)) = message(bytes).unwrap() {
            sink.update(body).unwrap();
            bytes = rest;
        }
    }

    /// What a daemon would pass on: its own AS in front of the announcer's.
    fn passed_on(table: &Table, source: u32) -> Vec<u8> {
        let by = Announcer {
            asn: source,
            next_hop: Ipv4Addr::LOCALHOST,
            distance: Distance::Equal,
        };
        let mut out = Vec::new();
        let announced = table.announce(&by);
        let mut bytes = announced.as_slice();
        while let Some((kind, body, rest)) = message(bytes).unwrap() {
            bytes = rest;
            let mut longer = body.to_vec();
            if longer.len() > 4 {
                longer[3] += 4;
                longer[10] += 4;
                longer[12] += 1;
                longer.splice(13..13, 65_000_u32.to_be_bytes());
            }
            crate::table::put_message(kind, &longer, &mut out);
        }
        out
    }

    #[test]
    fn only_routes_through_the_right_source_count_and_withdrawals_uncount() {
        let table = Table::draw(1, 500);
        let mut expected = Expected::default();
        expected.add(65_002, &Arc::new(table.prefixes().collect()), table.len());
        let mut sink = Sink::new(expected);
        let progress = sink.progress();
        feed(&mut sink, &passed_on(&table, 65_001));
        assert_eq!(progress.held(), 0);
        feed(&mut sink, &passed_on(&table, 65_002));
        assert_eq!(progress.held(), 500);
        let first = progress.complete().unwrap();
        feed(&mut sink, &passed_on(&table, 65_002));
        assert_eq!((progress.held(), progress.complete()), (500, Some(first)));
        feed(&mut sink, &passed_on(&table, 65_001));
        assert_eq!((progress.held(), progress.complete()), (0, None));
        feed(&mut sink, &passed_on(&table, 65_002));
        feed(&mut sink, &table.withdraw());
        assert_eq!((progress.held(), progress.complete()), (0, None));
        assert_eq!(progress.announced(), 2_500);
    }
}
