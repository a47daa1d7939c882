//! The smallest `ipset restore -exist` texts that lead from the sets that are there to those that are wanted.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;

use crate::names::{Family, SetName};
use crate::sets::{ActualSet, ActualSets, IpSet, MAX_ELEMENTS, Member, SetKind};

/// What is to be written, in two parts: rules that need new sets come after the first, rules that hold on to old
/// ones must be gone before the second.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetPlan {
    /// Creates, adds and deletes members: before the rules. For `ipset restore -exist`.
    pub before: Option<String>,
    /// Destroys what is not wanted: after the rules, and not while a [`Plan`](crate::Plan) has `leftover`. For
    /// `ipset restore`.
    pub after: Option<String>,
    /// How many members are added or deleted.
    pub members_written: usize,
    /// Sets that have, for a moment, more members than before and than after, and how many.
    pub peaks: BTreeMap<SetName, usize>,
    /// What is there between the two, if no one else writes. Keep it even if there is nothing to write: it remembers what
    /// was compared.
    pub applied: ActualSets,
    /// What is there after both.
    pub applied_after: ActualSets,
}

impl SetPlan {
    /// Which set a line of [`SetPlan::before`] (from 1, as [`failed_line`](crate::failed_line) finds it) is about.
    pub fn set_at_line(&self, line: usize) -> Option<SetName> {
        self.name_at(self.before.as_deref()?, line)
    }

    /// Which set a line of [`SetPlan::after`] would destroy.
    pub fn destroyed_at_line(&self, line: usize) -> Option<SetName> {
        self.name_at(self.after.as_deref()?, line)
    }

    fn name_at(&self, text: &str, line: usize) -> Option<SetName> {
        let line = text.lines().nth(line.checked_sub(1)?)?;
        let name = SetName::read(line.split(' ').nth(1)?)?;
        if !name.is_temporary() {
            return Some(name);
        }
        let replaced = |known: &&SetName| known.temporary() == name;
        self.applied.sets.keys().find(replaced).cloned()
    }
}

/// Compares the sets that are there with those that are wanted. A set that is the same allocation as when it was last
/// planned costs one comparison of pointers.
pub fn plan_sets(actual: &ActualSets, desired: &BTreeMap<SetName, Arc<IpSet>>) -> SetPlan {
    let mut planner = Planner::default();
    let mut present = actual.sets.iter().peekable();
    for (name, wanted) in desired {
        while let Some((unwanted, _)) = present.next_if(|(held, _)| *held < name) {
            planner.unwanted(unwanted);
        }
        let held = present.next_if(|(held, _)| *held == name);
        planner.wanted(name, wanted, held.map(|(_, set)| &**set));
    }
    for (unwanted, _) in present {
        planner.unwanted(unwanted);
    }
    planner.finish(actual)
}

#[derive(Default)]
struct Planner<'a> {
    writer: Writer,
    /// Sets that are written, or were found as they should be.
    known: Vec<(SetName, Arc<ActualSet>)>,
    /// What an earlier run left half done would be in the way.
    left_half_done: Vec<&'a SetName>,
    stale: Vec<&'a SetName>,
}

impl<'a> Planner<'a> {
    fn unwanted(&mut self, name: &'a SetName) {
        if name.is_temporary() {
            self.left_half_done.push(name);
        } else {
            self.stale.push(name);
        }
    }

    fn wanted(&mut self, name: &SetName, wanted: &Arc<IpSet>, present: Option<&ActualSet>) {
        if present.is_some_and(|held| held.is(wanted)) {
            return;
        }
        self.writer.update(name, wanted, present);
        let held = Arc::new(ActualSet::written(wanted));
        self.known.push((name.clone(), held));
    }

    fn finish(self, actual: &ActualSets) -> SetPlan {
        let mut applied = actual.clone();
        let mut text = String::new();
        if !self.left_half_done.is_empty() || !self.known.is_empty() {
            let sets = Arc::make_mut(&mut applied.sets);
            for name in &self.left_half_done {
                line(&mut text, format_args!("destroy {name}"));
                sets.remove(*name);
            }
            sets.extend(self.known);
        }
        text.push_str(&self.writer.text);
        let mut applied_after = applied.clone();
        let mut after = String::new();
        if !self.stale.is_empty() {
            let sets = Arc::make_mut(&mut applied_after.sets);
            for name in &self.stale {
                line(&mut after, format_args!("destroy {name}"));
                sets.remove(*name);
            }
        }
        SetPlan {
            before: (!text.is_empty()).then_some(text),
            after: (!after.is_empty()).then_some(after),
            members_written: self.writer.members_written,
            peaks: self.writer.peaks,
            applied,
            applied_after,
        }
    }
}

#[derive(Default)]
struct Writer {
    text: String,
    members_written: usize,
    peaks: BTreeMap<SetName, usize>,
}

impl Writer {
    fn update(&mut self, name: &SetName, wanted: &IpSet, present: Option<&ActualSet>) {
        let shape = (wanted.kind(), wanted.family());
        match present {
            None => self.make(name, shape, wanted),
            Some(present) if present.shape != Some(shape) => {
                // The kernel swaps no sets of different types. Names say what a set holds, so this is another's doing,
                // and no rule of ours can hold on to a set that another was able to replace.
                self.destroy(name);
                self.make(name, shape, wanted);
            }
            Some(present) if !present.plain => {
                let temporary = name.temporary();
                self.make(&temporary, shape, wanted);
                line(&mut self.text, format_args!("swap {temporary} {name}"));
                self.destroy(&temporary);
            }
            Some(present) => self.change(name, wanted.members(), present.members.get()),
        }
    }

    /// One walk over both; what is added comes first, for an address must not be missing from two sets at once.
    fn change(&mut self, name: &SetName, wanted: &BTreeSet<Member>, held: &BTreeSet<Member>) {
        let (mut extra, mut added, before) = (Vec::new(), 0, held.len());
        let (mut wanted, mut held) = (wanted.iter().peekable(), held.iter().peekable());
        loop {
            let order = match (wanted.peek(), held.peek()) {
                (None, None) => break,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(new), Some(old)) => new.cmp(old),
            };
            let new = if order.is_le() { wanted.next() } else { None };
            let old = if order.is_ge() { held.next() } else { None };
            match (new, old) {
                (Some(new), None) => {
                    self.member("add", name, new);
                    added += 1;
                }
                (None, Some(old)) => extra.push(old),
                _ => {}
            }
        }
        if added > 0 && !extra.is_empty() {
            self.peaks.insert(name.clone(), before + added);
        }
        for member in extra {
            self.member("del", name, member);
        }
    }

    fn make(&mut self, name: &SetName, (kind, family): (SetKind, Family), set: &IpSet) {
        let (kind, family) = (
            kind.name(),
            match family {
                Family::V4 => "inet",
                Family::V6 => "inet6",
            },
        );
        line(
            &mut self.text,
            format_args!("create {name} {kind} family {family} maxelem {MAX_ELEMENTS}"),
        );
        for member in set.members() {
            self.member("add", name, member);
        }
    }

    fn member(&mut self, verb: &str, name: &SetName, member: &Member) {
        self.members_written += 1;
        line(&mut self.text, format_args!("{verb} {name} {member}"));
    }

    fn destroy(&mut self, name: &SetName) {
        line(&mut self.text, format_args!("destroy {name}"));
    }
}

fn line(text: &mut String, line: std::fmt::Arguments<'_>) {
    // A String takes every write.
    let _ = writeln!(text, "{line}");
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use proptest::prelude::*;

    use super::*;
    use crate::sets::parse_sets;

    fn set(number: u16, members: &BTreeSet<u8>) -> (SetName, Arc<IpSet>) {
        let name = SetName::numbered(Family::V4, "bit", number);
        let mut set = IpSet::new(name.clone(), Family::V4, SetKind::HashIp);
        for member in members {
            set.insert_ip(IpAddr::V4(Ipv4Addr::new(10, 0, 0, *member)));
        }
        (name, set.into())
    }

    /// Carries a text out as `ipset restore -exist` would, and gives what `ipset save` would print.
    fn carry_out(sets: &mut BTreeMap<String, BTreeSet<String>>, text: &str) {
        for line in text.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            match words.as_slice() {
                ["create", name, ..] => drop(sets.entry((*name).to_owned()).or_default()),
                ["add", name, member] => {
                    assert!(sets.get_mut(*name).unwrap().insert((*member).to_owned()));
                }
                ["del", name, member] => assert!(sets.get_mut(*name).unwrap().remove(*member)),
                ["destroy", name] => assert!(sets.remove(*name).is_some()),
                _ => panic!("{line}"),
            }
        }
    }

    fn saved(sets: &BTreeMap<String, BTreeSet<String>>) -> ActualSets {
        let mut text = String::new();
        for (name, members) in sets {
            let options = "hash:ip family inet hashsize 64 maxelem 1048576";
            line(&mut text, format_args!("create {name} {options}"));
            for member in members {
                line(&mut text, format_args!("add {name} {member}"));
            }
        }
        parse_sets(&text).unwrap()
    }

    proptest! {
        #[test]
        fn any_sequence_of_plans_leads_to_the_wanted_sets_by_the_difference_alone(
            steps in prop::collection::vec(
                (prop::collection::btree_map(0u16..5, prop::collection::btree_set(0u8..9, 0..6), 0..5), any::<bool>()),
                1..8
            )
        ) {
            let (mut kernel, mut actual) = (BTreeMap::new(), ActualSets::default());
            for (wanted, read_back) in steps {
                let desired: BTreeMap<_, _> =
                    wanted.iter().map(|(number, members)| set(*number, members)).collect();
                if read_back {
                    actual = saved(&kernel);
                }
                let made = plan_sets(&actual, &desired);
                let held = saved(&kernel);
                let members = |sets: &ActualSets, name: &SetName| sets.addresses(name);
                let names: BTreeSet<&SetName> = desired.keys().collect();
                let differences: usize = names
                    .iter()
                    .map(|name| {
                        members(&held, name).symmetric_difference(&members(&made.applied, name)).count()
                    })
                    .sum();
                prop_assert_eq!(made.members_written, differences);
                carry_out(&mut kernel, made.before.as_deref().unwrap_or_default());
                prop_assert_eq!(&saved(&kernel), &made.applied);
                carry_out(&mut kernel, made.after.as_deref().unwrap_or_default());
                prop_assert_eq!(&saved(&kernel), &made.applied_after);
                let plain: BTreeMap<SetName, usize> =
                    desired.iter().map(|(name, set)| (name.clone(), set.members().len())).collect();
                prop_assert_eq!(made.applied_after.sizes(), plain);
                let again = plan_sets(&made.applied_after, &desired);
                prop_assert_eq!((again.before, again.after), (None, None));
                actual = made.applied_after;
            }
        }
    }

    #[test]
    fn a_set_that_gains_and_loses_members_has_more_of_them_for_a_moment() {
        let (name, held) = set(1, &[1, 2, 3].into());
        let known = plan_sets(
            &ActualSets::default(),
            &BTreeMap::from([(name.clone(), held)]),
        );
        assert_eq!(known.peaks, BTreeMap::new());
        for (members, peak) in [
            ([3, 4, 5].as_slice(), Some(5)),
            (&[3], None),
            (&[1, 2, 3, 4], None),
        ] {
            let wanted = set(1, &members.iter().copied().collect());
            let planned = plan_sets(&known.applied, &BTreeMap::from([wanted]));
            let text = planned.before.unwrap();
            let (mut now, mut most) = (3, 3);
            for line in text.lines() {
                now = if line.starts_with("add") {
                    now + 1
                } else {
                    now - 1
                };
                most = most.max(now);
            }
            assert_eq!(planned.peaks.get(&name).copied(), peak, "{members:?}");
            assert_eq!(peak.unwrap_or(members.len().max(3)), most, "{members:?}");
        }
    }

    #[test]
    fn what_did_not_change_is_shared() {
        let desired = BTreeMap::from([set(1, &[1, 2].into()), set(2, &[3].into())]);
        let known = plan_sets(&ActualSets::default(), &desired).applied_after;
        let again = plan_sets(&known, &desired).applied_after;
        assert!(Arc::ptr_eq(&known.sets, &again.sets));
    }
}
