//! Warnings as Events of events.k8s.io: one object a warning, however many nodes say it, and few writes a minute.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::{Duration, Instant};

use api::Key;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::calls::{Calls, up_to, without_nulls};
use super::text;
use crate::kubernetes::failure::Failure;
use crate::{EventRecord, EventType, Regarding};

/// `reportingController` of all our Events.
const CONTROLLER: &str = "portolan.io/agent";
/// The longest reason and instance that events.k8s.io takes, in octets.
const LONGEST_WORD: usize = 128;
/// The longest name of an object.
const LONGEST_NAME: usize = 253;
/// The most writes a minute.
const CAP: usize = 20;
const MINUTE: Duration = Duration::from_secs(60);
/// The least time between two writes that say the same of an object.
const PAUSE: Duration = Duration::from_secs(600);
/// So many texts of one reason are told of one object within a [`PAUSE`].
const MOST_TEXTS: usize = 5;
/// An API server forgets Events after an hour: what still holds then is told again.
const REFRESH: Duration = Duration::from_secs(3600);
/// What was refused is tried again so much later, each time [`PATIENCE_GROWS`] times later, up to a [`PAUSE`]: a server that has just
/// been started refuses what it takes soon after, as it does not know anybody's rights yet.
const PATIENCE: Duration = Duration::from_secs(10);
const PATIENCE_GROWS: u32 = 3;
/// So many warnings that do not hold any more are remembered.
const GONE: usize = 1000;

/// One warning. Not by node: what many nodes say of a policy is one Event, and all but the first find it there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Warning {
    regarding: Regarding,
    reason: String,
    uid: String,
    note: String,
}

impl Warning {
    /// Of one object.
    pub(crate) fn of(object: &Key, uid: &str, reason: &str, message: &str) -> Self {
        Self {
            regarding: object.into(),
            reason: text::cut(reason, LONGEST_WORD, ""),
            uid: uid.to_owned(),
            note: text::shortened(message),
        }
    }

    fn namespace(&self) -> &str {
        self.regarding.namespace.as_deref().unwrap_or("default")
    }

    /// The object's name and a mark of all that is said, so that the same is never told in two objects.
    fn name(&self) -> String {
        let mut hash = DefaultHasher::new();
        (self.regarding.api_version, self.regarding.kind).hash(&mut hash);
        (&self.uid, &self.reason, &self.note).hash(&mut hash);
        let mark = format!(".{:016x}", hash.finish());
        let object = text::cut(&self.regarding.name, LONGEST_NAME - mark.len(), "");
        format!("{}{mark}", object.trim_end_matches(['.', '-']))
    }

    fn collection(&self) -> String {
        let namespace = self.namespace();
        format!("/apis/events.k8s.io/v1/namespaces/{namespace}/events")
    }

    fn event(&self, node: &str, now: Timestamp) -> Value {
        let regarding = json!({
            "apiVersion": self.regarding.api_version,
            "kind": self.regarding.kind,
            "namespace": self.regarding.namespace,
            "name": self.regarding.name,
            "uid": Some(&self.uid).filter(|uid| !uid.is_empty()),
        });
        without_nulls(json!({
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": self.name(), "namespace": self.namespace()},
            "eventTime": MicroTime(now),
            "type": "Warning",
            "reason": self.reason,
            "action": "Apply",
            "note": self.note,
            "regarding": regarding,
            "reportingController": CONTROLLER,
            "reportingInstance": text::cut(node, LONGEST_WORD, ""),
        }))
    }
}

/// What was told of a warning.
#[derive(Clone, Copy, Debug)]
struct Told {
    count: u32,
    at: Instant,
    refresh: Instant,
    /// How often it has been refused in a row.
    refusals: u32,
}

/// What to write next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// The warning's Event, unless it is there.
    New(Warning, u32),
    /// How often the warning of an Event that is there has come.
    Again(Warning, u32),
    /// Nothing before then; never, as things are.
    Wait(Option<Instant>),
}

/// What is wrong at present, and what was told of it.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    present: BTreeMap<Warning, u32>,
    told: BTreeMap<Warning, Told>,
    written: VecDeque<Instant>,
}

impl Ledger {
    /// Takes all that is wrong now; `uid_of` knows the objects.
    pub(crate) fn take(
        &mut self,
        records: &[EventRecord],
        uid_of: impl Fn(&Regarding) -> Option<String>,
    ) {
        let warnings = records
            .iter()
            .filter(|record| record.event_type == EventType::Warning);
        self.present = warnings
            .map(|record| {
                let warning = Warning {
                    regarding: record.regarding.clone(),
                    uid: uid_of(&record.regarding).unwrap_or_default(),
                    reason: text::cut(&record.reason, LONGEST_WORD, ""),
                    note: text::shortened(&record.message),
                };
                (warning, record.count)
            })
            .collect();
        self.forget();
    }

    /// The next write, or how long there is none.
    pub(crate) fn next(&mut self, now: Instant) -> Next {
        while self.written.front().is_some_and(|at| now >= *at + MINUTE) {
            self.written.pop_front();
        }
        let free = match self.written.front() {
            Some(first) if self.written.len() >= CAP => *first + MINUTE,
            _ => now,
        };
        let mut soonest = None;
        for (warning, count) in &self.present {
            let (at, next) = match self.told.get(warning) {
                None => (self.room(warning, now), Next::New(warning.clone(), *count)),
                Some(told) if *count > told.count && told.refusals == 0 => {
                    (told.at + PAUSE, Next::Again(warning.clone(), *count))
                }
                Some(told) => (told.refresh, Next::New(warning.clone(), *count)),
            };
            let at = at.max(free);
            if at <= now {
                return next;
            }
            soonest = Some(soonest.map_or(at, |soonest: Instant| soonest.min(at)));
        }
        Next::Wait(soonest)
    }

    /// When a further text of this reason may be told of this object.
    fn room(&self, warning: &Warning, now: Instant) -> Instant {
        let alike = self.told.iter().filter(|(told, _)| {
            (&told.regarding, &told.reason) == (&warning.regarding, &warning.reason)
        });
        let mut lately: Vec<Instant> = alike
            .map(|(_, told)| told.at + PAUSE)
            .filter(|until| *until > now)
            .collect();
        lately.sort_unstable();
        match lately.len().checked_sub(MOST_TEXTS) {
            Some(over) => lately.get(over).copied().unwrap_or(now),
            None => now,
        }
    }

    /// Notes that it has been told.
    pub(crate) fn told(&mut self, now: Instant, warning: Warning, count: u32) {
        self.written.push_back(now);
        let told = Told {
            count,
            at: now,
            refresh: now + REFRESH + up_to(PAUSE),
            refusals: 0,
        };
        self.told.insert(warning, told);
    }

    /// Notes that the server will not have it: others go first, and it is tried again ever more seldom.
    pub(crate) fn refused(&mut self, now: Instant, warning: Warning, count: u32) {
        self.written.push_back(now);
        let refusals = self.told.get(&warning).map_or(0, |told| told.refusals);
        let patience = PATIENCE * PATIENCE_GROWS.saturating_pow(refusals.min(8));
        let told = Told {
            count,
            at: now,
            refresh: now + patience.min(PAUSE),
            refusals: refusals.saturating_add(1),
        };
        self.told.insert(warning, told);
    }

    /// Notes that the Event has gone.
    pub(crate) fn lost(&mut self, now: Instant, warning: &Warning) {
        self.written.push_back(now);
        self.told.remove(warning);
    }

    fn forget(&mut self) {
        let gone = self.told.iter();
        let gone = gone.filter(|(warning, _)| !self.present.contains_key(*warning));
        let mut gone: Vec<(Instant, Warning)> = gone
            .map(|(warning, told)| (told.at, warning.clone()))
            .collect();
        gone.sort();
        let over = gone.len().saturating_sub(GONE);
        let forgotten: BTreeSet<Warning> =
            gone.into_iter().take(over).map(|(_, one)| one).collect();
        self.told.retain(|warning, _| !forgotten.contains(warning));
    }
}

/// Makes the Event. One that is there says all already.
pub(crate) async fn create(calls: &Calls, node: &str, warning: &Warning) -> Result<(), Failure> {
    let event = warning.event(node, Timestamp::now());
    match calls.create::<Value>(&warning.collection(), &event).await {
        Err(failure) if !failure.is_conflict() => Err(failure),
        _ => Ok(()),
    }
}

/// Says that it has come again, so often in all.
pub(crate) async fn repeat(calls: &Calls, warning: &Warning, count: u32) -> Result<(), Failure> {
    let path = format!("{}/{}", warning.collection(), warning.name());
    let series = json!({"count": count, "lastObservedTime": MicroTime(Timestamp::now())});
    calls.merge(&path, &json!({"series": series})).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(name: &str, message: &str, count: u32) -> EventRecord {
        EventRecord {
            regarding: (&Key::ClusterNetworkPolicy(name.to_owned())).into(),
            reason: "PolicyNotEnforced".to_owned(),
            event_type: EventType::Warning,
            message: message.to_owned(),
            count,
            first_timestamp: None,
            last_timestamp: None,
        }
    }

    /// Writes all that is due; how many were new and how many came again.
    fn write_all(ledger: &mut Ledger, now: Instant) -> (usize, usize) {
        let (mut new, mut again) = (0, 0);
        loop {
            match ledger.next(now) {
                Next::New(warning, count) => {
                    new += 1;
                    ledger.told(now, warning, count);
                }
                Next::Again(warning, count) => {
                    again += 1;
                    ledger.told(now, warning, count);
                }
                Next::Wait(_) => return (new, again),
            }
        }
    }

    #[expect(
        clippy::unnecessary_wraps,
        reason = "as of an object that may be unknown"
    )]
    fn uid(_: &Regarding) -> Option<String> {
        Some("uid".to_owned())
    }

    #[test]
    fn a_warning_is_told_once_however_often_it_is_published() {
        let mut ledger = Ledger::default();
        let start = Instant::now();
        let mut written = 0;
        for round in 0..100 {
            ledger.take(&[record("a", "x", 1)], uid);
            written += write_all(&mut ledger, start + Duration::from_secs(round)).0;
        }
        assert_eq!(written, 1);
        let Next::Wait(Some(at)) = ledger.next(start + MINUTE) else {
            panic!("nothing is due");
        };
        assert!(at >= start + REFRESH, "until the server has forgotten it");
    }

    #[test]
    fn what_comes_again_is_one_write_in_ten_minutes_with_its_count() {
        let mut ledger = Ledger::default();
        let start = Instant::now();
        let mut written = Vec::new();
        for minute in 0..31_u32 {
            let now = start + MINUTE * minute;
            ledger.take(&[record("a", "x", minute + 1)], uid);
            while let Next::Again(warning, count) | Next::New(warning, count) = ledger.next(now) {
                written.push((minute, count));
                ledger.told(now, warning, count);
            }
        }
        assert_eq!(written, [(0, 1), (10, 11), (20, 21), (30, 31)]);
    }

    #[test]
    fn a_changed_text_is_told_at_once_but_only_some_of_many() {
        let mut ledger = Ledger::default();
        let start = Instant::now();
        let mut written = 0;
        for number in 0..50 {
            ledger.take(&[record("a", &format!("{number}"), 1)], uid);
            written += write_all(&mut ledger, start).0;
        }
        assert_eq!(written, MOST_TEXTS);
        ledger.take(&[record("b", "x", 1)], uid);
        assert_eq!(write_all(&mut ledger, start), (1, 0), "another object");
        ledger.take(&[record("a", "49", 1)], uid);
        assert_eq!(ledger.next(start), Next::Wait(Some(start + PAUSE)));
        assert_eq!(write_all(&mut ledger, start + PAUSE), (1, 0));
    }

    #[test]
    fn no_more_than_the_cap_is_written_in_a_minute_and_all_in_the_end() {
        let mut ledger = Ledger::default();
        let start = Instant::now();
        let records: Vec<EventRecord> = (0..50)
            .map(|number| record(&format!("p{number}"), "x", 1))
            .collect();
        ledger.take(&records, uid);
        assert_eq!(write_all(&mut ledger, start), (CAP, 0));
        assert_eq!(ledger.next(start), Next::Wait(Some(start + MINUTE)));
        assert_eq!(write_all(&mut ledger, start + MINUTE), (CAP, 0));
        assert_eq!(write_all(&mut ledger, start + 2 * MINUTE), (10, 0));
        assert_eq!(write_all(&mut ledger, start + 3 * MINUTE), (0, 0));
    }

    #[test]
    fn what_was_forgotten_by_the_server_is_told_again_while_it_holds() {
        let mut ledger = Ledger::default();
        let start = Instant::now();
        ledger.take(&[record("a", "x", 1)], uid);
        assert_eq!(write_all(&mut ledger, start), (1, 0));
        let later = start + REFRESH + PAUSE;
        assert_eq!(write_all(&mut ledger, later), (1, 0));
        ledger.take(&[], uid);
        assert_eq!(ledger.next(later + 2 * REFRESH), Next::Wait(None));
    }

    #[test]
    fn only_warnings_are_told_and_those_that_are_gone_are_remembered_within_bounds() {
        let mut ledger = Ledger::default();
        let mut normal = record("a", "x", 1);
        normal.event_type = EventType::Normal;
        ledger.take(&[normal], uid);
        let start = Instant::now();
        assert_eq!(ledger.next(start), Next::Wait(None));
        for number in 0..GONE + 50 {
            let now = start + MINUTE * u32::try_from(number).unwrap();
            ledger.take(&[record(&format!("p{number}"), "x", 1)], uid);
            assert_eq!(write_all(&mut ledger, now), (1, 0));
        }
        assert_eq!(ledger.told.len(), GONE + 1);
    }

    #[test]
    fn an_event_is_one_that_the_server_takes() {
        let mut ledger = Ledger::default();
        let long = "ä".repeat(5000);
        let mut record = record(&"a.".repeat(126), &long, 1);
        record.regarding.namespace = Some("ns".to_owned());
        ledger.take(&[record], uid);
        let Next::New(warning, 1) = ledger.next(Instant::now()) else {
            panic!("it is new");
        };
        let event = warning.event(&"n".repeat(253), Timestamp::UNIX_EPOCH);
        let length = |pointer: &str| event.pointer(pointer).unwrap().as_str().unwrap().len();
        assert!(length("/note") <= 1024);
        assert_eq!(length("/reportingInstance"), 128);
        assert!(length("/metadata/name") <= 253);
        let name = event["metadata"]["name"].as_str().unwrap();
        assert!(api::metadata::is_dns_subdomain(name), "{name}");
        assert_eq!(event["metadata"]["namespace"], "ns");
        assert_eq!(event["regarding"]["uid"], "uid");
        assert_eq!(event["eventTime"], "1970-01-01T00:00:00.000000Z");
    }
}
