//! What is wrong with policies, told on their objects: each problem with when it was first and last seen, and how often.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant, SystemTime};

use api::Key;
use datastore::{EventRecord, EventType, StatusWriter};
use policy::Problem;
use tokio::sync::watch;
use tracing::warn;

use crate::bgp_status::time;
use crate::dns::due;
use crate::load_balancer::{self, Unserved};
use crate::service::HealthReport;

/// The least time between two writes that only say that a problem was seen again, or is gone again.
const PAUSE: Duration = Duration::from_secs(10);
/// How long before a failed write is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// So many problems that are gone are remembered: they may come again.
const GONE: usize = 1_000;

/// Writes the node's events: news at once. Ends with the sender of problems.
/// `health`: ports of Services that cannot be had; none where none are served. `unserved`: who has no address of a load balancer.
pub(crate) async fn run_task(
    status: StatusWriter,
    mut problems: watch::Receiver<Vec<Problem>>,
    (mut health, mut unserved): (
        Option<watch::Receiver<HealthReport>>,
        Option<load_balancer::Told>,
    ),
) {
    let mut events = Events::default();
    let mut pace = Pace::default();
    loop {
        let mut all: Vec<Told> = problems
            .borrow_and_update()
            .iter()
            .map(Told::of_policy)
            .collect();
        all.extend(
            health
                .iter_mut()
                .flat_map(|health| refused(&health.borrow_and_update())),
        );
        if let Some((state, left_alone)) = &mut unserved {
            let unserved = state.borrow_and_update().unserved(*left_alone);
            all.extend(unserved.into_iter().map(Told::of_service));
        }
        let news = events.take(SystemTime::now(), &all);
        pace.change(Instant::now(), news);
        tokio::select! {
            changed = problems.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            () = changed(&mut health) => {}
            () = changed_addresses(&mut unserved) => {}
            () = due(pace.next) => match status.publish_events(events.records()).await {
                Ok(()) => pace.written(Instant::now()),
                Err(error) => {
                    warn!(%error, "cannot publish what is wrong with policies");
                    pace.next = Some(Instant::now() + RETRY);
                }
            },
        }
    }
}

/// A problem, and what programs know it by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Told {
    reason: &'static str,
    problem: Problem,
}

impl Told {
    fn of_policy(problem: &Problem) -> Self {
        Self {
            reason: "PolicyNotEnforced",
            problem: problem.clone(),
        }
    }

    fn of_service(unserved: Unserved) -> Self {
        Self {
            reason: unserved.reason,
            problem: Problem {
                key: Key::Service(unserved.name),
                message: unserved.message,
            },
        }
    }
}

/// Waits for news; for ever where none come.
async fn changed_addresses(unserved: &mut Option<load_balancer::Told>) {
    let is_there = match unserved {
        Some((state, _)) => state.changed().await.is_ok(),
        None => false,
    };
    if !is_there {
        std::future::pending::<()>().await;
    }
}

/// In kube-proxy's word.
fn refused(health: &HealthReport) -> Vec<Told> {
    let refused = health.refused.iter();
    let told = refused.map(|(service, why)| Told {
        reason: "FailedToStartServiceHealthcheck",
        problem: Problem {
            key: Key::Service(service.clone()),
            message: why.clone(),
        },
    });
    told.collect()
}

/// Waits for news; for ever where none come.
async fn changed(health: &mut Option<watch::Receiver<HealthReport>>) {
    let is_there = match health {
        Some(health) => health.changed().await.is_ok(),
        None => false,
    };
    if !is_there {
        std::future::pending::<()>().await;
    }
}

/// What changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum News {
    /// Nothing.
    None,
    /// A problem that was seen before has come again, or is gone once more.
    Again,
    /// A problem has come for the first time, or is gone for the first time.
    First,
}

/// When the file is written next.
#[derive(Debug, Default)]
struct Pace {
    next: Option<Instant>,
    last: Option<Instant>,
}

impl Pace {
    fn change(&mut self, now: Instant, news: News) {
        let at = match news {
            News::None => return,
            News::First => now,
            News::Again => self.last.map_or(now, |last| now.max(last + PAUSE)),
        };
        self.next = Some(self.next.map_or(at, |next| next.min(at)));
    }

    fn written(&mut self, now: Instant) {
        self.next = None;
        self.last = Some(now);
    }
}

/// How often a problem came, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    first: SystemTime,
    last: SystemTime,
    count: u32,
}

/// The problems that were seen: those of now, and some that may come again.
#[derive(Debug, Default)]
struct Events {
    seen: BTreeMap<Told, Seen>,
    present: BTreeSet<Told>,
}

impl Events {
    /// Takes all that is wrong now.
    fn take(&mut self, now: SystemTime, problems: &[Told]) -> News {
        let present: BTreeSet<Told> = problems.iter().cloned().collect();
        let mut news = News::None;
        for problem in present.difference(&self.present) {
            let seen = self.seen.entry(problem.clone()).or_insert(Seen {
                first: now,
                last: now,
                count: 0,
            });
            seen.last = now;
            seen.count = seen.count.saturating_add(1);
        }
        for problem in present.symmetric_difference(&self.present) {
            let count = self.seen.get(problem).map_or(1, |seen| seen.count);
            if count <= 1 {
                news = News::First;
            } else if news == News::None {
                news = News::Again;
            }
        }
        self.present = present;
        self.forget();
        news
    }

    /// Forgets those that are gone for longest.
    fn forget(&mut self) {
        while self.seen.len() > self.present.len() + GONE {
            let gone = self.seen.iter();
            let gone = gone.filter(|(problem, _)| !self.present.contains(*problem));
            let oldest = gone.min_by_key(|(_, seen)| seen.last);
            let Some(oldest) = oldest.map(|(problem, _)| problem.clone()) else {
                return;
            };
            self.seen.remove(&oldest);
        }
    }

    /// A record of each problem of now.
    fn records(&self) -> Vec<EventRecord> {
        let present = self.present.iter();
        let seen = present.filter_map(|problem| Some((problem, self.seen.get(problem)?)));
        seen.map(|(Told { reason, problem }, seen)| EventRecord {
            regarding: (&problem.key).into(),
            reason: (*reason).to_owned(),
            event_type: EventType::Warning,
            message: problem.message.clone(),
            count: seen.count,
            first_timestamp: Some(time(seen.first)),
            last_timestamp: Some(time(seen.last)),
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(message: &str) -> Told {
        Told::of_policy(&Problem {
            key: Key::ClusterNetworkPolicy("a".to_owned()),
            message: message.to_owned(),
        })
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn a_problem_is_told_with_when_it_came_first_and_last_and_how_often() {
        let mut events = Events::default();
        assert_eq!(events.take(at(1), &[problem("x")]), News::First);
        assert_eq!(events.take(at(2), &[problem("x")]), News::None);
        let both = [problem("x"), problem("y")];
        assert_eq!(events.take(at(3), &both), News::First);
        assert_eq!(events.take(at(4), &both[1..]), News::First);
        assert_eq!(events.records().len(), 1);
        assert_eq!(events.take(at(5), &both), News::Again);
        assert_eq!(events.take(at(6), &both[1..]), News::Again);
        assert_eq!(events.take(at(7), &both), News::Again);
        let told = serde_json::to_value(events.records()).unwrap();
        assert_eq!(told[0]["count"], 3);
        assert_eq!(told[0]["firstTimestamp"], "1970-01-01T00:00:01Z");
        assert_eq!(told[0]["lastTimestamp"], "1970-01-01T00:00:07Z");
        assert_eq!(told[1]["count"], 1);
        assert_eq!(told[1]["lastTimestamp"], "1970-01-01T00:00:03Z");
    }

    #[test]
    fn the_same_again_is_written_every_ten_seconds_at_most_and_news_at_once() {
        let start = Instant::now();
        let seconds = |seconds| start + Duration::from_secs(seconds);
        let mut pace = Pace::default();
        pace.change(start, News::None);
        assert_eq!(pace.next, None);
        pace.change(start, News::First);
        assert_eq!(pace.next, Some(start));
        pace.written(start);
        pace.change(seconds(1), News::Again);
        pace.change(seconds(4), News::Again);
        assert_eq!(pace.next, Some(seconds(10)));
        pace.change(seconds(5), News::First);
        assert_eq!(pace.next, Some(seconds(5)));
        pace.written(seconds(5));
        pace.change(seconds(20), News::Again);
        assert_eq!(pace.next, Some(seconds(20)));
    }

    #[test]
    fn problems_that_are_gone_are_remembered_within_bounds() {
        let mut events = Events::default();
        for number in 0..3 * u64::try_from(GONE).unwrap() {
            events.take(at(number), &[problem(&number.to_string())]);
        }
        assert_eq!(events.seen.len(), GONE + 1);
        let last = problem(&(3 * GONE - 2).to_string());
        assert_eq!(events.take(at(9_999), &[last]), News::First);
        assert_eq!(events.records()[0].count, 2);
        assert_eq!(
            events.take(at(10_000), &[problem("0")]),
            News::First,
            "forgotten"
        );
        assert_eq!(events.records()[0].count, 1);
    }
}
