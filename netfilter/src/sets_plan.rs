//! The smallest `ipset restore -exist` texts that lead from the sets that are there to those that are wanted.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;

use reconcile::DeltaMap;

use crate::names::{Family, SetName};
use crate::sets::{ActualSet, ActualSets, IpSet, MAX_ELEMENTS, Member};

/// What is to be written, in two parts: rules that need new sets come after the first, rules that hold on to old
/// ones must be gone before the second.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetPlan {
    /// Creates, adds and deletes members: before the rules. For `ipset restore -exist`.
    pub before: Option<String>,
    /// Destroys what is not wanted: after the rules. For `ipset restore`.
    pub after: Option<String>,
    /// How many members are added or deleted.
    pub members_written: usize,
    /// What is there between the two, if no one else writes.
    pub applied: ActualSets,
    /// What is there after both.
    pub applied_after: ActualSets,
}

/// Compares the sets that are there with those that are wanted.
pub fn plan_sets(actual: &ActualSets, desired: &BTreeMap<SetName, Arc<IpSet>>) -> SetPlan {
    let wanted = desired
        .iter()
        .map(|(name, set)| (name.clone(), ActualSet::of(set)))
        .collect();
    let delta = DeltaMap::new(wanted, actual.sets.clone());
    let mut writer = Writer::default();
    // What an earlier run left half done would be in the way.
    let left: Vec<&SetName> = delta
        .pending_deletions()
        .map(|(name, _)| name)
        .filter(|name| is_temporary(name))
        .collect();
    for name in &left {
        writer.destroy(name);
    }
    let mut applied = actual.clone();
    for name in &left {
        applied.sets.remove(*name);
    }
    for (name, wanted, present) in delta.pending_updates() {
        writer.update(name, wanted, present);
        applied.sets.insert(name.clone(), wanted.clone());
    }
    let mut after = Writer::default();
    for (name, _) in delta
        .pending_deletions()
        .filter(|(name, _)| !is_temporary(name))
    {
        after.destroy(name);
    }
    SetPlan {
        before: writer.finish(),
        after: after.finish(),
        members_written: writer.members_written,
        applied,
        applied_after: ActualSets {
            sets: delta.desired().clone(),
        },
    }
}

fn is_temporary(name: &SetName) -> bool {
    name.as_str()
        .get(5..)
        .is_some_and(|rest| rest.starts_with("tmp-"))
}

impl ActualSet {
    fn of(set: &IpSet) -> Self {
        let shape = Some((set.kind(), set.family()));
        Self {
            shape,
            plain: true,
            members: set.members().clone(),
        }
    }
}

#[derive(Default)]
struct Writer {
    text: String,
    members_written: usize,
}

impl Writer {
    fn update(&mut self, name: &SetName, wanted: &ActualSet, present: Option<&ActualSet>) {
        let Some(present) = present else {
            self.create(name, wanted);
            return self.members("add", name, wanted.members.iter());
        };
        if present.shape != wanted.shape {
            // The kernel swaps no sets of different types. Names say what a set holds, so this is another's doing, and
            // no rule of ours can hold on to a set that another was able to replace.
            self.destroy(name);
            self.create(name, wanted);
            return self.members("add", name, wanted.members.iter());
        }
        if !present.plain {
            let temporary = name.temporary();
            self.create(&temporary, wanted);
            self.members("add", &temporary, wanted.members.iter());
            self.line(format_args!("swap {temporary} {name}"));
            return self.destroy(&temporary);
        }
        let missing: BTreeSet<&Member> = wanted.members.difference(&present.members).collect();
        let extra: BTreeSet<&Member> = present.members.difference(&wanted.members).collect();
        self.members("add", name, missing.into_iter());
        self.members("del", name, extra.into_iter());
    }

    fn create(&mut self, name: &SetName, set: &ActualSet) {
        let Some((kind, family)) = set.shape else {
            return;
        };
        let family = match family {
            Family::V4 => "inet",
            Family::V6 => "inet6",
        };
        self.line(format_args!(
            "create {name} {} family {family} maxelem {MAX_ELEMENTS}",
            kind.name()
        ));
    }

    fn members<'a>(
        &mut self,
        verb: &str,
        name: &SetName,
        members: impl Iterator<Item = &'a Member>,
    ) {
        for member in members {
            self.members_written += 1;
            self.line(format_args!("{verb} {name} {member}"));
        }
    }

    fn destroy(&mut self, name: &SetName) {
        self.line(format_args!("destroy {name}"));
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        // A String takes every write.
        let _ = writeln!(self.text, "{line}");
    }

    fn finish(&mut self) -> Option<String> {
        (!self.text.is_empty()).then(|| std::mem::take(&mut self.text))
    }
}
