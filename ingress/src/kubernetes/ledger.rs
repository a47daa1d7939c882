//! Which problems are still to be told by Events: each once as long as it lasts, and not too many at a time. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::problem::Problem;

/// How many Events may be written at once, and how often another one may follow.
const BURST: u32 = 25;
const EVERY: Duration = Duration::from_secs(2);
/// How long a problem is remembered that is no more: one that comes and goes is told once in that time. Servers forget an
/// Event after an hour.
const REMEMBERED: Duration = Duration::from_secs(1800);

/// What has been told.
#[derive(Debug)]
pub(super) struct Ledger {
    /// When each was last told or seen.
    told: BTreeMap<Problem, Instant>,
    present: BTreeSet<Problem>,
    allowance: u32,
    counted: Instant,
}

impl Ledger {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            told: BTreeMap::new(),
            present: BTreeSet::new(),
            allowance: BURST,
            counted: now,
        }
    }

    /// The problems there are now.
    pub(super) fn handle_problems(&mut self, problems: &[Problem], now: Instant) {
        self.present = problems.iter().cloned().collect();
        let present = &self.present;
        self.told.retain(|problem, seen| {
            let is_remembered = now.saturating_duration_since(*seen) < REMEMBERED;
            if present.contains(problem) {
                *seen = now;
            }
            is_remembered
        });
    }

    /// One that is to be told now, if any.
    pub(super) fn poll(&mut self, now: Instant) -> Option<Problem> {
        let passed = now.saturating_duration_since(self.counted);
        let more = u32::try_from(passed.as_millis() / EVERY.as_millis()).unwrap_or(BURST);
        if more > 0 {
            self.counted += EVERY.saturating_mul(more);
            self.allowance = self.allowance.saturating_add(more).min(BURST);
        }
        let due = self
            .present
            .iter()
            .find(|one| !self.told.contains_key(*one));
        let due = due.filter(|_| self.allowance > 0)?.clone();
        self.allowance -= 1;
        Some(due)
    }

    /// It is told, by this replica or an earlier one; or nobody will ever take it.
    pub(super) fn handle_told(&mut self, problem: Problem, now: Instant) {
        self.told.insert(problem, now);
    }

    /// Whether something waits to be told.
    #[cfg(test)]
    fn waits(&self) -> usize {
        let left = self
            .present
            .iter()
            .filter(|one| !self.told.contains_key(*one));
        left.count()
    }
}

#[cfg(test)]
mod tests {
    use api::NamespacedName;

    use super::*;
    use crate::objects::Key;
    use crate::problem::Reason;

    fn problem(number: usize) -> Problem {
        Problem {
            object: Key::Ingress(NamespacedName::new("shop", format!("i{number}"))),
            reason: Reason::ServiceNotFound,
            message: "there is no Service".to_owned(),
        }
    }

    fn tell_all(ledger: &mut Ledger, now: Instant) -> usize {
        let mut told = 0;
        while let Some(problem) = ledger.poll(now) {
            ledger.handle_told(problem, now);
            told += 1;
        }
        told
    }

    #[test]
    fn a_problem_is_told_once_as_long_as_it_lasts_and_again_long_after() {
        let start = Instant::now();
        let mut ledger = Ledger::new(start);
        let there = [problem(1)];
        for second in 0..7200 {
            let now = start + Duration::from_secs(second);
            ledger.handle_problems(&there, now);
            assert_eq!(tell_all(&mut ledger, now), usize::from(second == 0));
        }
        let mut now = start + Duration::from_secs(7200);
        // It flaps.
        for _ in 0..100 {
            ledger.handle_problems(&[], now);
            assert_eq!(tell_all(&mut ledger, now), 0);
            now += Duration::from_secs(10);
            ledger.handle_problems(&there, now);
            assert_eq!(tell_all(&mut ledger, now), 0);
        }
        ledger.handle_problems(&[], now);
        now += REMEMBERED;
        ledger.handle_problems(&there, now);
        assert_eq!(tell_all(&mut ledger, now), 1);
    }

    #[test]
    fn a_thousand_at_once_are_told_slowly_and_each_is() {
        let start = Instant::now();
        let mut ledger = Ledger::new(start);
        let many: Vec<Problem> = (0..1000).map(problem).collect();
        ledger.handle_problems(&many, start);
        assert_eq!(tell_all(&mut ledger, start), 25);
        assert_eq!(tell_all(&mut ledger, start + EVERY / 2), 0);
        let minute = start + Duration::from_secs(60);
        assert_eq!(tell_all(&mut ledger, minute), 25);
        let mut now = minute;
        while ledger.waits() > 0 {
            now += EVERY;
            assert_eq!(tell_all(&mut ledger, now), 1);
        }
    }

    #[test]
    fn what_could_not_be_written_waits_for_its_turn_again() {
        let start = Instant::now();
        let mut ledger = Ledger::new(start);
        ledger.handle_problems(&[problem(1)], start);
        assert_eq!(ledger.poll(start), Some(problem(1)));
        assert_eq!(ledger.poll(start), Some(problem(1)));
        ledger.handle_told(problem(1), start);
        assert_eq!(ledger.poll(start), None);
    }
}
