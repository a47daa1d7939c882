//! For how long attachments have been without their host end, and host ends without an attachment; pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use ipam::Holder;

/// A host end as the kernel has it: one that is made again under the same name has another index.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct HostEnd {
    pub(crate) name: String,
    pub(crate) index: u32,
    /// Whether it was ever put to use: one that is made and not raised yet is down.
    pub(crate) up: bool,
}

/// Since when things do not fit together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Absence {
    holders: BTreeMap<Holder, Instant>,
    host_ends: BTreeMap<HostEnd, Instant>,
}

/// What has been so for longer than the grace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Due {
    /// Attachments whose host end is gone.
    pub(crate) holders: Vec<Holder>,
    /// Host ends that no attachment explains.
    pub(crate) host_ends: Vec<HostEnd>,
}

impl Absence {
    /// Takes one look: all attachments with their host ends' names, and all host ends. What fits together again, and
    /// what a request is about now, begins anew.
    ///
    /// A host end that is up is never due: it is a pod's whose lease was lost with the state folder, and may come back
    /// with it. Until then what it sends is dropped as from no pod of ours.
    pub(crate) fn look(
        &mut self,
        now: Instant,
        attachments: &[(Holder, String)],
        host_ends: &BTreeSet<HostEnd>,
        is_busy: impl Fn(&Holder) -> bool,
    ) {
        let there: BTreeSet<&str> = host_ends.iter().map(|end| end.name.as_str()).collect();
        let explained: BTreeSet<&str> = attachments.iter().map(|(_, name)| name.as_str()).collect();
        let absent = attachments
            .iter()
            .filter(|(holder, name)| !there.contains(name.as_str()) && !is_busy(holder));
        let absent = absent.map(|(holder, _)| holder);
        self.holders = since(&self.holders, absent, now);
        let unknown = host_ends
            .iter()
            .filter(|end| !end.up && !explained.contains(end.name.as_str()));
        self.host_ends = since(&self.host_ends, unknown, now);
    }

    /// What has been so for as long as the grace.
    pub(crate) fn due(&self, now: Instant, grace: Duration) -> Due {
        Due {
            holders: longer(&self.holders, now, grace),
            host_ends: longer(&self.host_ends, now, grace),
        }
    }

    /// Since when attachments have been without their host end.
    pub(crate) fn holders(&self) -> &BTreeMap<Holder, Instant> {
        &self.holders
    }
}

fn since<'a, K: Clone + Ord + 'a>(
    before: &BTreeMap<K, Instant>,
    present: impl Iterator<Item = &'a K>,
    now: Instant,
) -> BTreeMap<K, Instant> {
    present
        .map(|key| (key.clone(), before.get(key).copied().unwrap_or(now)))
        .collect()
}

fn longer<K: Clone>(since: &BTreeMap<K, Instant>, now: Instant, grace: Duration) -> Vec<K> {
    let due = since
        .iter()
        .filter(|(_, at)| now.saturating_duration_since(**at) >= grace);
    due.map(|(key, _)| key.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(60);

    fn holder(id: &str) -> Holder {
        Holder {
            container_id: id.to_owned(),
            interface: "eth0".to_owned(),
        }
    }

    fn attachment(id: &str) -> (Holder, String) {
        (holder(id), format!("ptl{id}"))
    }

    fn ends(all: &[(&str, u32)]) -> BTreeSet<HostEnd> {
        let end = |(name, index): &(&str, u32)| HostEnd {
            name: (*name).to_owned(),
            index: *index,
            up: false,
        };
        all.iter().map(end).collect()
    }

    #[test]
    fn an_attachment_is_due_once_its_host_end_has_been_gone_for_the_grace() {
        let (mut absence, start) = (Absence::default(), Instant::now());
        let all = [attachment("a"), attachment("b")];
        let there = ends(&[("ptla", 3)]);
        absence.look(start, &all, &there, |_| false);
        assert_eq!(absence.due(start, GRACE), Due::default());
        let late = start + GRACE;
        absence.look(late, &all, &there, |_| false);
        assert_eq!(
            absence.due(late - Duration::from_millis(1), GRACE),
            Due::default()
        );
        assert_eq!(absence.due(late, GRACE).holders, [holder("b")]);
    }

    #[test]
    fn a_host_end_that_is_seen_once_or_an_add_under_way_begins_the_grace_anew() {
        let (mut absence, start) = (Absence::default(), Instant::now());
        let all = [attachment("a")];
        let second = Duration::from_secs(1);
        absence.look(start, &all, &ends(&[]), |_| false);
        absence.look(start + GRACE / 2, &all, &ends(&[("ptla", 9)]), |_| false);
        absence.look(start + GRACE - second, &all, &ends(&[]), |_| false);
        assert_eq!(absence.due(start + GRACE, GRACE), Due::default());
        absence.look(start + GRACE, &all, &ends(&[]), |_| true);
        let late = start + GRACE * 2 - second;
        absence.look(late, &all, &ends(&[]), |_| false);
        assert_eq!(absence.due(late, GRACE), Due::default());
    }

    #[test]
    fn an_attachment_that_was_detached_is_forgotten() {
        let (mut absence, start) = (Absence::default(), Instant::now());
        absence.look(start, &[attachment("a")], &ends(&[]), |_| false);
        absence.look(start + GRACE, &[], &ends(&[]), |_| false);
        assert_eq!(absence.due(start + GRACE, GRACE), Due::default());
        assert!(absence.holders().is_empty());
    }

    #[test]
    fn a_host_end_without_an_attachment_is_due_unless_it_was_made_again() {
        let (mut absence, start) = (Absence::default(), Instant::now());
        absence.look(start, &[], &ends(&[("ptla", 3), ("ptlb", 4)]), |_| false);
        let late = start + GRACE;
        let all = ends(&[("ptla", 3), ("ptlb", 5)]);
        absence.look(late, &[], &all, |_| false);
        let due = absence.due(late, GRACE).host_ends;
        assert_eq!(due, ends(&[("ptla", 3)]).into_iter().collect::<Vec<_>>());
        // One that got an attachment is explained.
        absence.look(late, &[attachment("a")], &all, |_| false);
        assert_eq!(absence.due(late, GRACE), Due::default());
    }
    #[test]
    fn a_pods_host_end_whose_lease_was_lost_is_never_deleted() {
        let (mut absence, start) = (Absence::default(), Instant::now());
        let lost = HostEnd {
            name: "ptla".to_owned(),
            index: 3,
            up: true,
        };
        let all = BTreeSet::from([lost]);
        absence.look(start, &[], &all, |_| false);
        absence.look(start + GRACE, &[], &all, |_| false);
        assert_eq!(absence.due(start + GRACE, GRACE), Due::default());
    }
}
