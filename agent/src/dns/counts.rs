//! What became of answers, counted.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

/// What became of one answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// No policy gives its name, or it holds nothing of use: let go at once.
    Passed,
    /// It is no message of the DNS: let go at once.
    Malformed,
    /// Its addresses were in force when it was let go.
    Held,
    /// The firewall took too long: it was let go before its addresses were in force.
    Late,
    /// Too many were held already: it was let go at once, and its addresses follow.
    Unheld,
    /// Too much waits: it was let go, and nothing was learned from it.
    Unread,
    /// A TCP segment of a connection whose beginning was not seen, or with more than may wait of one message: let go at
    /// once, unread.
    Unfollowed,
}

impl Outcome {
    const ALL: [(Self, &'static str); 7] = [
        (Self::Passed, "passed"),
        (Self::Malformed, "malformed"),
        (Self::Held, "held"),
        (Self::Late, "late"),
        (Self::Unheld, "unheld"),
        (Self::Unread, "unread"),
        (Self::Unfollowed, "unfollowed"),
    ];
}

/// Grows while the agent runs; shared by the task and the core.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    answers: [AtomicU64; Outcome::ALL.len()],
    truncated: AtomicU64,
    overruns: AtomicU64,
    refused: AtomicU64,
    evicted: AtomicU64,
}

/// The counts at one moment.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct DnsReport {
    /// Answers by what became of them.
    pub(crate) answers: Vec<(String, u64)>,
    /// Answers with the TC bit that a policy gives the name of.
    pub(crate) truncated: u64,
    /// How often the kernel had no room left for more answers.
    pub(crate) overruns: u64,
    /// Addresses of pods, nodes or no host.
    pub(crate) refused: u64,
    /// Addresses let go because a limit was reached.
    pub(crate) evicted: u64,
    /// Names that policies give.
    pub(crate) names: usize,
    /// Addresses that they stand for now.
    pub(crate) addresses: usize,
}

impl Counts {
    pub(super) fn add(&self, outcome: Outcome) {
        let place = Outcome::ALL.iter().position(|(one, _)| *one == outcome);
        if let Some(count) = place.and_then(|place| self.answers.get(place)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn add_truncated(&self) {
        self.truncated.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn add_overruns(&self, more: u64) {
        self.overruns.fetch_add(more, Ordering::Relaxed);
    }

    pub(super) fn add_learned(&self, learned: policy::Learned) {
        let number = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        self.refused
            .fetch_add(number(learned.refused), Ordering::Relaxed);
        self.evicted
            .fetch_add(number(learned.evicted), Ordering::Relaxed);
    }

    /// The counts now.
    pub(super) fn report(&self) -> DnsReport {
        let answers = Outcome::ALL.iter().zip(&self.answers);
        let answers = answers.map(|((_, name), count)| {
            let count = count.load(Ordering::Relaxed);
            ((*name).to_owned(), count)
        });
        DnsReport {
            answers: answers.collect(),
            truncated: self.truncated.load(Ordering::Relaxed),
            overruns: self.overruns.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
            evicted: self.evicted.load(Ordering::Relaxed),
            names: 0,
            addresses: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_outcome_is_counted_under_its_own_name() {
        let counts = Counts::default();
        for (outcome, _) in Outcome::ALL {
            counts.add(outcome);
        }
        counts.add(Outcome::Late);
        let report = counts.report();
        let late = report.answers.iter().find(|(name, _)| name == "late");
        assert_eq!(late, Some(&("late".to_owned(), 2)));
        assert_eq!(
            report.answers.iter().map(|(_, count)| count).sum::<u64>(),
            8
        );
    }
}
