//! Whose turn it is to write: one Lease, judged by this replica's own clock alone. Pure: it is told what the server has, and the time.

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;

/// How long a Lease lasts from its last renewal.
const DURATION: Duration = Duration::from_secs(15);
/// How often it is looked at, and renewed by who holds it.
pub(super) const EVERY: Duration = Duration::from_secs(5);
/// This much before its end the holder writes no more: what it has sent may still be on its way.
const MARGIN: Duration = Duration::from_secs(5);

/// What is to be done about the Lease.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    /// It is to be made.
    Create(Lease),
    /// It is to be replaced by this, if it is still what was read.
    Replace(Lease),
    /// Another one holds it.
    Wait,
}

/// This replica's view of the Lease.
#[derive(Debug)]
pub(super) struct Election {
    name: String,
    namespace: String,
    identity: String,
    /// Another's Lease as it was read, and since when it has been so.
    seen: Option<(String, Instant)>,
    /// Until when it is ours for certain.
    ours_until: Option<Instant>,
}

impl Election {
    pub(super) fn new(namespace: &str, name: &str, identity: &str) -> Self {
        Self {
            name: name.to_owned(),
            namespace: namespace.to_owned(),
            identity: identity.to_owned(),
            seen: None,
            ours_until: None,
        }
    }

    /// Whether this replica may write now.
    pub(super) fn is_leader(&self, now: Instant) -> bool {
        self.ours_until.is_some_and(|until| now < until)
    }

    /// What is to be done, given the Lease that was read, or that there is none.
    pub(super) fn handle_read(
        &mut self,
        present: Option<Lease>,
        now: Instant,
        clock: Timestamp,
    ) -> Step {
        let Some(present) = present else {
            self.seen = None;
            return Step::Create(self.next(Lease::default(), clock));
        };
        let spec = present.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.unwrap_or_default();
        if holder.is_empty() || holder == self.identity {
            self.seen = None;
            return Step::Replace(self.next(present, clock));
        }
        self.ours_until = None;
        let version = present
            .metadata
            .resource_version
            .clone()
            .unwrap_or_default();
        let since = match &self.seen {
            Some((seen, since)) if *seen == version => *since,
            _ => {
                self.seen = Some((version, now));
                now
            }
        };
        let seconds = spec.lease_duration_seconds.unwrap_or_default();
        let lasts = u64::try_from(seconds).map_or(DURATION, Duration::from_secs);
        if now.saturating_duration_since(since) < lasts {
            return Step::Wait;
        }
        Step::Replace(self.next(present, clock))
    }

    /// The server has taken what [`Self::handle_read`] gave at `asked`.
    pub(super) fn handle_taken(&mut self, asked: Instant) {
        self.seen = None;
        self.ours_until = Some(asked + DURATION - MARGIN);
    }

    /// The server has refused it: another one was faster.
    pub(super) fn handle_refused(&mut self) {
        self.ours_until = None;
    }

    /// The Lease given back, if it is ours: nobody holds it, and whoever looks next may.
    pub(super) fn release(&mut self, mut present: Lease) -> Option<Lease> {
        self.ours_until = None;
        let spec = present.spec.as_mut()?;
        if spec.holder_identity.as_deref() != Some(&self.identity) {
            return None;
        }
        spec.holder_identity = Some(String::new());
        spec.lease_duration_seconds = Some(1);
        Some(present)
    }

    /// Its `resourceVersion` makes the write fail if another one was faster.
    fn next(&self, present: Lease, clock: Timestamp) -> Lease {
        let mut spec = present.spec.unwrap_or_default();
        if spec.holder_identity.as_deref() != Some(&self.identity) {
            let before = spec.lease_transitions.unwrap_or(-1);
            spec = LeaseSpec {
                acquire_time: Some(MicroTime(clock)),
                lease_transitions: Some(before.saturating_add(1)),
                ..spec
            };
        }
        spec.holder_identity = Some(self.identity.clone());
        spec.lease_duration_seconds = i32::try_from(DURATION.as_secs()).ok();
        spec.renew_time = Some(MicroTime(clock));
        Lease {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                namespace: Some(self.namespace.clone()),
                managed_fields: None,
                ..present.metadata
            },
            spec: Some(spec),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clock() -> Timestamp {
        "2026-01-01T00:00:00Z".parse().unwrap()
    }

    fn lease(step: Step, version: &str) -> Lease {
        let (Step::Create(mut lease) | Step::Replace(mut lease)) = step else {
            panic!("{step:?}")
        };
        lease.metadata.resource_version = Some(version.to_owned());
        lease
    }

    fn two() -> (Election, Election) {
        let new = |identity| Election::new("portolan-ingress", "portolan-ingress", identity);
        (new("a"), new("b"))
    }

    #[test]
    fn one_takes_it_and_the_other_waits_until_it_was_not_renewed_for_its_whole_time() {
        let (mut a, mut b) = two();
        let start = Instant::now();
        let held = lease(a.handle_read(None, start, clock()), "1");
        assert!(!a.is_leader(start), "before the server has said so");
        a.handle_taken(start);
        assert!(a.is_leader(start));
        // However old the other's clock says it is.
        assert_eq!(
            b.handle_read(Some(held.clone()), start, clock()),
            Step::Wait
        );
        let almost = start + DURATION - Duration::from_millis(1);
        assert_eq!(
            b.handle_read(Some(held.clone()), almost, clock()),
            Step::Wait
        );
        // It is renewed: all begins anew.
        let renewed = lease(a.handle_read(Some(held), almost, clock()), "2");
        let late = start + DURATION;
        assert_eq!(
            b.handle_read(Some(renewed.clone()), late, clock()),
            Step::Wait
        );
        let over = late + DURATION;
        let taken = b.handle_read(Some(renewed), over, clock());
        b.handle_taken(over);
        assert!(b.is_leader(over) && !a.is_leader(over));
        let spec = lease(taken, "3").spec.unwrap();
        assert_eq!(spec.holder_identity.as_deref(), Some("b"));
        assert_eq!(spec.lease_transitions, Some(1));
    }

    #[test]
    fn who_could_not_renew_ends_to_write_before_another_may_begin() {
        let (mut a, mut b) = two();
        let start = Instant::now();
        let held = lease(a.handle_read(None, start, clock()), "1");
        a.handle_taken(start);
        // The other one saw it at the very moment at which it was made: nobody could sooner.
        b.handle_read(Some(held.clone()), start, clock());
        let mut now = start;
        while b.handle_read(Some(held.clone()), now, clock()) == Step::Wait {
            now += Duration::from_millis(100);
        }
        assert!(!a.is_leader(now - MARGIN), "{:?}", now - start);
    }

    #[test]
    fn one_that_is_given_back_is_anybodys_at_once_and_anothers_is_not_given_back() {
        let (mut a, mut b) = two();
        let start = Instant::now();
        let held = lease(a.handle_read(None, start, clock()), "1");
        a.handle_taken(start);
        assert_eq!(b.release(held.clone()), None);
        let free = a.release(held).unwrap();
        assert!(!a.is_leader(start));
        let step = b.handle_read(Some(free), start, clock());
        assert!(matches!(step, Step::Replace(_)), "{step:?}");
    }

    #[test]
    fn who_was_too_slow_is_no_leader() {
        let (mut a, _) = two();
        let start = Instant::now();
        a.handle_read(None, start, clock());
        a.handle_taken(start);
        a.handle_refused();
        assert!(!a.is_leader(start));
    }
}
