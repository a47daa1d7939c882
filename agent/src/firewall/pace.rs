//! When what is done: changes at once, doubts soon but boundedly often, removals in quiet times.

use std::time::{Duration, Instant};

/// Removals wait for so long a silence ...
const QUIET: Duration = Duration::from_secs(1);
/// ... but never for longer than this.
const LATEST_CLEAN_UP: Duration = Duration::from_secs(10);
/// Between two read-backs: at least this, and some times what the last one cost ...
const LEAST_GAP: Duration = Duration::from_millis(250);
const GAP_PER_COST: u32 = 4;
/// ... and never more than this, so that damage heals within two seconds.
const MOST_GAP: Duration = Duration::from_secs(1);
/// Without a notice, the kernel is read back so often.
const CHECK: Duration = Duration::from_secs(30);
/// A doubt older than this is looked at before further changes are taken.
const PATIENCE: Duration = Duration::from_millis(500);
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(10);
/// Who holds the lock of the old tables lets go of it soon.
const LOCKED_RETRY: Duration = Duration::from_millis(200);
/// While the host's owner has to act, it is looked at so often whether he has.
const BLOCKED_RETRY: Duration = Duration::from_secs(3);

/// What is to be done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Bring the kernel to the desired state: additions and what enforcement hangs on.
    Apply,
    /// Remove what is not needed any more.
    CleanUp,
    /// Read the kernel back: somebody may have changed what is ours.
    ReadBack,
    /// Look at both back ends: the host may have changed its own.
    Recheck,
}

/// Why a try failed, as far as the next one's time hangs on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// Another holds the lock.
    Locked,
    /// Others' rules are in both back ends.
    Blocked,
    /// All else.
    Other,
}

/// What is left that is not needed any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leftover {
    None,
    Some,
    /// So much that it should go now.
    TooMuch,
}

/// How a try went that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) has_written: bool,
    pub(crate) leftover: Leftover,
}

/// The times of what was done and is to be done.
#[derive(Clone, Debug)]
pub(crate) struct Pace {
    retry: Option<Instant>,
    is_blocked: bool,
    backoff: Duration,
    last_change: Instant,
    leftover_since: Option<Instant>,
    has_too_much_left: bool,
    doubt_since: Option<Instant>,
    /// A reading that looked after this doubt was given up for a change.
    is_given_up: bool,
    last_read: Instant,
    gap: Duration,
    last_recheck: Instant,
}

impl Pace {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            retry: None,
            is_blocked: false,
            backoff: FIRST_RETRY,
            last_change: now,
            leftover_since: None,
            has_too_much_left: false,
            doubt_since: None,
            is_given_up: false,
            last_read: now,
            gap: LEAST_GAP,
            last_recheck: now,
        }
    }

    /// The desired state is in the kernel.
    pub(crate) fn applied(&mut self, now: Instant, outcome: Outcome) {
        (self.retry, self.backoff, self.is_blocked) = (None, FIRST_RETRY, false);
        if outcome.has_written {
            self.last_change = now;
        }
        self.has_too_much_left = outcome.leftover == Leftover::TooMuch;
        self.leftover_since = match outcome.leftover {
            Leftover::None => None,
            Leftover::Some | Leftover::TooMuch => self.leftover_since.or(Some(now)),
        };
    }

    /// Whether only the host's owner can help, and the time to look whether he has is not yet.
    pub(crate) fn is_blocked(&self, now: Instant) -> bool {
        self.is_blocked && self.retry.is_some_and(|at| now < at)
    }

    /// What must not wait for further changes any more.
    pub(crate) fn overdue(&self, now: Instant) -> Option<Turn> {
        let (at, turn) = self.next();
        let patience = match turn {
            Turn::ReadBack if self.is_given_up => Duration::ZERO,
            Turn::ReadBack if self.doubt_since.is_some() => PATIENCE,
            Turn::CleanUp => LATEST_CLEAN_UP,
            _ => CHECK,
        };
        (turn != Turn::Apply && now >= at + patience).then_some(turn)
    }

    /// A try failed.
    pub(crate) fn failed(&mut self, now: Instant, why: Failure) {
        let pause = match why {
            Failure::Locked => LOCKED_RETRY,
            Failure::Blocked => BLOCKED_RETRY,
            Failure::Other => {
                self.backoff = (self.backoff * 2).min(LAST_RETRY);
                self.backoff
            }
        };
        self.is_blocked = why == Failure::Blocked;
        self.retry = Some(now + pause);
    }

    /// Somebody has changed something.
    pub(crate) fn doubt(&mut self, now: Instant) {
        self.doubt_since.get_or_insert(now);
    }

    /// The kernel was read back, which began at `start`.
    pub(crate) fn read_back(&mut self, start: Instant, now: Instant) {
        // What happened during the reading may not be in it.
        self.doubt_since = self.doubt_since.filter(|since| *since > start);
        self.is_given_up = false;
        self.last_read = now;
        let cost = now.saturating_duration_since(start);
        self.gap = (cost * GAP_PER_COST).clamp(LEAST_GAP, MOST_GAP);
    }

    /// Both back ends were looked at.
    pub(crate) fn rechecked(&mut self, now: Instant) {
        self.last_recheck = now;
    }

    /// Whether a reading may be given up for a change that has come.
    pub(crate) fn may_wait(&self, now: Instant) -> bool {
        let is_young = |since| now.saturating_duration_since(since) < PATIENCE;
        self.doubt_since.is_none_or(is_young)
    }

    /// A reading was given up for a change. It is begun once more, after a while, and then it goes first: in a stream
    /// of changes every reading would be given up, and each has three programs run.
    pub(crate) fn gave_up(&mut self, now: Instant) {
        self.doubt(now);
        self.is_given_up = true;
    }

    /// What is due first, and when.
    pub(crate) fn next(&self) -> (Instant, Turn) {
        if let Some(retry) = self.retry {
            return (retry, Turn::Apply);
        }
        let read = match self.doubt_since {
            Some(since) => {
                let begin = if self.is_given_up {
                    since + PATIENCE
                } else {
                    since
                };
                begin.max(self.last_read + self.gap)
            }
            None => self.last_read + CHECK,
        };
        let mut next = (read, Turn::ReadBack);
        let recheck = self.last_recheck + CHECK;
        if recheck < next.0 {
            next = (recheck, Turn::Recheck);
        }
        if let Some(since) = self.leftover_since {
            let quiet = (self.last_change + QUIET).min(since + LATEST_CLEAN_UP);
            let at = if self.has_too_much_left {
                self.last_change
            } else {
                quiet
            };
            if at < next.0 {
                next = (at, Turn::CleanUp);
            }
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn wrote(leftover: Leftover) -> Outcome {
        Outcome {
            has_written: true,
            leftover,
        }
    }

    #[test]
    fn removals_wait_for_quiet_but_not_for_ever() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        pace.applied(start, wrote(Leftover::Some));
        assert_eq!(pace.next(), (start + QUIET, Turn::CleanUp));
        let mut now = start;
        for _ in 0..40 {
            now += MS * 300;
            pace.applied(now, wrote(Leftover::Some));
        }
        assert_eq!(pace.next(), (start + LATEST_CLEAN_UP, Turn::CleanUp));
        pace.applied(now, wrote(Leftover::TooMuch));
        assert_eq!(pace.next(), (now, Turn::CleanUp));
        pace.applied(now, wrote(Leftover::None));
        assert_ne!(pace.next().1, Turn::CleanUp);
    }

    #[test]
    fn a_storm_of_others_changes_makes_few_read_backs_and_each_doubt_is_looked_at_within_two_seconds()
     {
        for (cost, bound) in [(MS, 41), (MS * 350, 12), (MS * 2000, 6)] {
            let start = Instant::now();
            let mut pace = Pace::new(start);
            let (mut now, mut reads) = (start, 0);
            while now < start + Duration::from_secs(10) {
                now += MS * 100;
                pace.doubt(now);
                let (at, turn) = pace.next();
                assert_eq!(turn, Turn::ReadBack);
                assert!(at <= now + MOST_GAP, "{:?}", at - now);
                if at <= now {
                    reads += 1;
                    pace.read_back(now, now + cost);
                    now += cost;
                }
            }
            assert!((3..=bound).contains(&reads), "{reads} of {cost:?} each");
        }
    }

    #[test]
    fn a_reading_is_given_up_once_for_a_stream_of_changes_and_not_again() {
        for is_doubted in [false, true] {
            let start = Instant::now();
            let mut pace = Pace::new(start);
            let mut now = start + CHECK;
            // Not what this is about, and due at the same time.
            pace.rechecked(now);
            if is_doubted {
                pace.doubt(now);
            }
            let (mut given_up, mut read) = (0, 0);
            for _ in 0..100 {
                now += MS * 20;
                let is_due = pace.next().0 <= now && pace.next().1 == Turn::ReadBack;
                if pace.overdue(now).is_none() && !is_due {
                    continue;
                }
                if pace.may_wait(now) {
                    given_up += 1;
                    pace.gave_up(now);
                } else {
                    read += 1;
                    pace.read_back(now, now + MS * 100);
                }
            }
            assert_eq!((given_up, read), (1, 1), "{is_doubted}");
        }
    }

    #[test]
    fn what_happens_while_the_kernel_is_read_is_looked_at_again() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        pace.doubt(start);
        pace.read_back(start, start + MS);
        assert_eq!(pace.next().1, Turn::Recheck);
        pace.doubt(start + MS * 5);
        pace.read_back(start + MS * 4, start + MS * 9);
        assert_eq!(pace.next().1, Turn::ReadBack);
    }

    #[test]
    fn failures_back_off_and_a_held_lock_does_not() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        for _ in 0..20 {
            pace.failed(start, Failure::Other);
        }
        assert_eq!(pace.next(), (start + LAST_RETRY, Turn::Apply));
        pace.failed(start, Failure::Locked);
        assert_eq!(pace.next(), (start + LOCKED_RETRY, Turn::Apply));
        pace.applied(start, wrote(Leftover::None));
        pace.failed(start, Failure::Other);
        assert_eq!(pace.next(), (start + FIRST_RETRY * 2, Turn::Apply));
    }
}
