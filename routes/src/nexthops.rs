//! Next-hop objects of ours in the kernel: which there are, which group serves which target, what is to be written.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::num::NonZeroU8;

use crate::PROTOCOL;
use crate::intern::Id;
use crate::wire::{DumpedNexthop, Nexthop};

/// Where our ids begin; the kernel itself numbers from 1.
const FIRST_ID: u32 = 0x0b30_0000;
const LAST_ID: u32 = 0x0b3f_ffff;

/// A gateway whose link is known: what a single next-hop object holds.
pub(crate) type Hop = (IpAddr, u32);
/// What a group should hold: every gateway once, in order, with its share.
pub(crate) type Hops = BTreeMap<Hop, NonZeroU8>;
/// What a group holds in the kernel.
type Members = Vec<(u32, NonZeroU8)>;

/// One write to the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Write {
    Single(u32, Hop),
    /// Id, members, and whether the kernel has none of that id yet.
    Group(u32, Members, bool),
    Delete(u32),
}

/// The objects of ours.
#[derive(Debug, Default)]
pub(crate) struct NextHops {
    singles: BTreeMap<Hop, u32>,
    groups: BTreeMap<u32, Members>,
    owners: BTreeMap<u32, Id>,
    /// Bear our protocol but have a shape we never write.
    strange: BTreeSet<u32>,
    foreign: BTreeSet<u32>,
    /// Groups without an owner, by what they hold: to be taken over or deleted.
    spare: BTreeSet<(Members, u32)>,
    /// A group has changed or gone: what it held may be held by none now.
    loose: bool,
    cursor: u32,
}

impl NextHops {
    /// Takes over what a dump says; who owns which group stays as it was, if the group is still there.
    pub(crate) fn adopt(&mut self, dumped: Vec<DumpedNexthop>) {
        self.singles.clear();
        self.groups.clear();
        self.strange.clear();
        self.foreign.clear();
        for object in dumped {
            match object.to {
                _ if object.protocol != PROTOCOL => {
                    self.foreign.insert(object.id);
                }
                Nexthop::Single(address, link) => {
                    // Two of the same gateway: one is enough.
                    if let Some(other) = self.singles.insert((address, link), object.id) {
                        self.strange.insert(other);
                    }
                }
                Nexthop::Group(members) => {
                    self.groups.insert(object.id, members);
                }
                Nexthop::Other => {
                    self.strange.insert(object.id);
                }
            }
        }
        self.owners.retain(|id, _| self.groups.contains_key(id));
        let spare = self
            .groups
            .iter()
            .filter(|(id, _)| !self.owners.contains_key(*id));
        self.spare = spare.map(|(id, held)| (sorted(held), *id)).collect();
        self.loose = true;
    }

    /// Forgets everything: the kernel knows no next-hop objects.
    pub(crate) fn forget(&mut self) {
        *self = Self::default();
    }

    /// Whose group this is.
    pub(crate) fn owner(&self, group: u32) -> Option<Id> {
        self.owners.get(&group).copied()
    }

    /// Chooses the group for a target and says what must be written first, singles before the group.
    pub(crate) fn plan(
        &mut self,
        target: Id,
        before: Option<u32>,
        hops: &Hops,
    ) -> (u32, Vec<Write>) {
        let mut writes = Vec::new();
        let mut members = Vec::with_capacity(hops.len());
        for (hop, weight) in hops {
            let id = self.singles.get(hop).copied().unwrap_or_else(|| {
                let id = self.unused();
                self.singles.insert(*hop, id);
                writes.push(Write::Single(id, *hop));
                id
            });
            members.push((id, *weight));
        }
        let mine = before.filter(|id| self.owners.get(id) == Some(&target));
        let id = mine
            .or_else(|| self.take_spare(sorted(&members)))
            .unwrap_or_else(|| self.unused());
        self.owners.insert(id, target);
        let there = self.groups.get(&id);
        if there.is_none_or(|there| sorted(there) != sorted(&members)) {
            writes.push(Write::Group(id, members.clone(), there.is_none()));
            self.groups.insert(id, members);
            self.loose = true;
        }
        (id, writes)
    }

    /// The kernel refused a write: it isn't there.
    pub(crate) fn handle_refusal(&mut self, write: &Write) {
        match write {
            Write::Single(_, hop) => {
                self.singles.remove(hop);
            }
            Write::Group(id, _, true) => {
                self.groups.remove(id);
                self.owners.remove(id);
                // Taken by somebody perhaps.
                self.foreign.insert(*id);
            }
            Write::Group(id, _, false) => {
                // What it holds is unknown: never equal to what anybody wants.
                self.groups.insert(*id, Vec::new());
            }
            Write::Delete(_) => {}
        }
    }

    /// The target of this group is nobody's any more; the group goes when no route uses it.
    pub(crate) fn release(&mut self, group: u32) {
        self.owners.remove(&group);
        if let Some(held) = self.groups.get(&group) {
            self.spare.insert((sorted(held), group));
        }
    }

    /// What nothing uses, groups before what they hold; `used` says whether a route in the kernel names an id.
    pub(crate) fn garbage(&mut self, used: impl Fn(u32) -> bool) -> Vec<Write> {
        let spare = self.spare.extract_if(.., |(_, id)| !used(*id));
        let mut gone: Vec<u32> = spare.map(|(_, id)| id).collect();
        for id in &gone {
            self.groups.remove(id);
        }
        if self.loose || !gone.is_empty() {
            let members = self.groups.values().flatten().map(|(id, _)| *id);
            let held: BTreeSet<u32> = members.collect();
            let idle = |id: &u32| !held.contains(id) && !used(*id);
            gone.extend(self.strange.extract_if(.., |id| idle(id)));
            let singles = self.singles.extract_if(.., |_, id| idle(id));
            gone.extend(singles.map(|(_, id)| id));
            self.loose = false;
        }
        gone.into_iter().map(Write::Delete).collect()
    }

    /// All ids of ours, groups first.
    pub(crate) fn all(&self) -> Vec<u32> {
        let groups = self.groups.keys().chain(&self.strange);
        groups.chain(self.singles.values()).copied().collect()
    }

    /// How many objects of ours there are.
    pub(crate) fn count(&self) -> usize {
        self.groups.len() + self.strange.len() + self.singles.len()
    }

    fn take_spare(&mut self, sorted: Members) -> Option<u32> {
        let from = (sorted, 0);
        let fits = |(held, _): &&(Members, u32)| *held == from.0;
        let found = self.spare.range(&from..).next().filter(fits)?.clone();
        self.spare.remove(&found);
        Some(found.1)
    }

    fn unused(&mut self) -> u32 {
        loop {
            let id = FIRST_ID + self.cursor;
            self.cursor = (self.cursor + 1) % (LAST_ID - FIRST_ID + 1);
            let taken = self.groups.contains_key(&id)
                || self.foreign.contains(&id)
                || self.strange.contains(&id)
                || self.singles.values().any(|single| *single == id);
            if !taken {
                return id;
            }
        }
    }
}

fn sorted(members: &Members) -> Members {
    let mut sorted = members.clone();
    sorted.sort_unstable();
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::intern::Interner;

    fn hops(list: &[(&str, u8)]) -> Hops {
        let hop = |(ip, weight): &(&str, u8)| {
            ((ip.parse().unwrap(), 3), NonZeroU8::new(*weight).unwrap())
        };
        list.iter().map(hop).collect()
    }

    #[test]
    fn targets_share_gateways_and_keep_their_group_when_it_changes() {
        let mut ids: Interner<u8, ()> = Interner::default();
        let (a, b) = (ids.acquire(1, |_| ()), ids.acquire(2, |_| ()));
        let mut all = NextHops::default();
        let (first, writes) = all.plan(a, None, &hops(&[("192.0.2.1", 1), ("192.0.2.2", 1)]));
        assert_eq!(writes.len(), 3);
        let (second, writes) = all.plan(b, None, &hops(&[("192.0.2.1", 1), ("192.0.2.2", 9)]));
        assert!(writes.len() == 1 && second != first, "{writes:?}");
        let (same, writes) = all.plan(a, Some(first), &hops(&[("192.0.2.2", 1)]));
        assert!(
            same == first && matches!(&writes[..], [Write::Group(_, m, false)] if m.len() == 1)
        );
        assert_eq!(all.garbage(|_| false), []);
        all.release(first);
        assert_eq!(all.garbage(|id| id == first), [], "a route still uses it");
        assert_eq!(all.garbage(|_| false), [Write::Delete(first)]);
        all.release(second);
        assert_eq!(all.garbage(|_| false).len(), 3);
        assert_eq!(all.count(), 0);
    }

    #[test]
    fn a_group_of_an_earlier_run_is_taken_over_and_anothers_id_is_never_used() {
        let mut ids: Interner<u8, ()> = Interner::default();
        let a = ids.acquire(1, |_| ());
        let one = NonZeroU8::MIN;
        let object = |id, protocol, to| DumpedNexthop { id, protocol, to };
        let single = |ip: &str| Nexthop::Single(ip.parse().unwrap(), 3);
        let mut all = NextHops::default();
        all.adopt(vec![
            object(5, PROTOCOL, single("192.0.2.1")),
            object(6, PROTOCOL, single("192.0.2.2")),
            object(7, PROTOCOL, Nexthop::Group(vec![(6, one), (5, one)])),
            object(FIRST_ID, 4, single("192.0.2.9")),
        ]);
        let wanted = hops(&[("192.0.2.1", 1), ("192.0.2.2", 1)]);
        assert_eq!(all.plan(a, None, &wanted), (7, vec![]));
        let b = ids.acquire(2, |_| ());
        let (id, _) = all.plan(b, None, &wanted);
        assert_eq!(id, FIRST_ID + 1);
    }
}
