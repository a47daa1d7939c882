//! When to tell which notice: many changes in one, a flood of them at a bearable rate. It is told the time.

use std::time::Duration;

use tokio::time::Instant;

use crate::monitor::Notice;

/// What comes within this time of the first change is told with it.
const GATHER: Duration = Duration::from_millis(50);
const LINKS_GAP: Duration = Duration::from_millis(100);
/// A re-read of 100,000 routes takes about 0.1 s: foreign churn must not make us do nothing else.
const ROUTES_GAP: Duration = Duration::from_millis(500);
/// What made notices get lost is likely to go on: looking again the whole time would only add to it.
const OVERRUN_GAP: Duration = Duration::from_secs(10);

/// What is to be told, and when something was told last.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    pending: Option<(Notice, Instant)>,
    /// When to tell that notices were lost: apart, so that it keeps its own pace.
    lost: Option<Instant>,
    told: Option<Instant>,
    overrun: Option<Instant>,
}

impl Pace {
    /// Something has changed.
    pub(crate) fn note(&mut self, notice: Notice, now: Instant) {
        let gap = match notice {
            Notice::Mtu | Notice::Links => LINKS_GAP,
            Notice::Routes => ROUTES_GAP,
            Notice::Overrun => {
                let due = self.overrun.map_or(now, |told| told + OVERRUN_GAP);
                self.lost.get_or_insert(due.max(now + GATHER));
                return;
            }
        };
        let due = self.told.map_or(now, |told| told + gap).max(now + GATHER);
        self.pending = Some(match self.pending {
            None => (notice, due),
            Some((before, planned)) => (before.max(notice), planned.min(due)),
        });
    }

    /// When there is something to tell.
    pub(crate) fn due(&self) -> Option<Instant> {
        let pending = self.pending.map(|(_, due)| due);
        pending.into_iter().chain(self.lost).min()
    }

    /// What is due now; an overrun includes everything else.
    pub(crate) fn take(&mut self, now: Instant) -> Option<Notice> {
        if self.lost.is_some_and(|due| due <= now) {
            *self = Self {
                told: Some(now),
                overrun: Some(now),
                ..Self::default()
            };
            return Some(Notice::Overrun);
        }
        let (notice, _) = self.pending.take_if(|(_, due)| *due <= now)?;
        self.told = Some(now);
        Some(notice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lets time pass in steps of 10 ms while `notice` comes at every one; returns what is told and when.
    fn flood(pace: &mut Pace, notice: Notice, seconds: u64) -> Vec<(Notice, Duration)> {
        let start = Instant::now();
        let mut told = Vec::new();
        for step in 0..seconds * 100 {
            let now = start + Duration::from_millis(step * 10);
            pace.note(notice, now);
            if pace.due().is_some_and(|due| due <= now) {
                told.extend(pace.take(now).map(|notice| (notice, now - start)));
            }
        }
        told
    }

    #[test]
    fn an_overrun_is_told_at_once_and_then_every_ten_seconds() {
        let told = flood(&mut Pace::default(), Notice::Overrun, 25);
        assert!(told.iter().all(|(notice, _)| *notice == Notice::Overrun));
        let times: Vec<_> = told.iter().map(|(_, at)| at.as_millis()).collect();
        assert_eq!(times, [50, 10_050, 20_050]);
    }

    #[test]
    fn a_waiting_overrun_holds_back_no_other_notice() {
        let mut pace = Pace::default();
        assert_eq!(flood(&mut pace, Notice::Overrun, 1).len(), 1);
        pace.note(Notice::Overrun, Instant::now());
        let told = flood(&mut pace, Notice::Links, 1);
        assert!(told.len() > 5 && told.iter().all(|(notice, _)| *notice == Notice::Links));
    }

    #[test]
    fn churn_of_routes_is_told_twice_a_second_and_a_link_with_it() {
        let mut pace = Pace::default();
        assert_eq!(flood(&mut pace, Notice::Routes, 5).len(), 10);
        let now = Instant::now() + Duration::from_secs(60);
        pace.note(Notice::Routes, now);
        pace.note(Notice::Links, now);
        assert_eq!(pace.take(now + GATHER), Some(Notice::Links));
        assert_eq!((pace.take(now + GATHER), pace.due()), (None, None));
    }
}
