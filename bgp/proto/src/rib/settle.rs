//! Deciding what is dirty, a bounded number of prefixes at a time, and handing on to whom it concerns.

use smallvec::SmallVec;

use super::decision::{Candidate, best_of, outcome};
use super::engine::Rib;
use super::next_hops::{NextHop, NextHops, bandwidth, weights};
use super::paths::{LOCAL, Path, mark};
use super::store::is_link_local;
use super::transmit::candidate;

/// Prefixes decided by one call.
const AT_ONCE: usize = 16 * 1024;
/// Ids in a row that cannot be freed yet before it is left for the next call.
const MOST_AWAITED: usize = 64;

impl Rib {
    /// Decides dirty prefixes, at most so many that nobody waits long.
    pub(super) fn settle(&mut self) {
        for _ in 0..AT_ONCE {
            let Some(id) = self.dirty.pop() else { return };
            self.decide(id);
        }
    }

    /// Frees the ids of prefixes of which nobody has to be told any more.
    pub(super) fn reap(&mut self) {
        let mut awaited_in_a_row = 0;
        for _ in 0..self.gone.len().min(AT_ONCE) {
            let Some(id) = self.gone.pop() else { break };
            if !self.paths.of(id).is_empty() || self.dirty.contains(id) {
                continue;
            }
            let awaited = self.changed.contains(id)
                || self.paths.reported(id) != 0
                || self.groups.iter().flatten().any(|group| group.holds(id));
            if !awaited {
                self.prefixes.remove(id);
                awaited_in_a_row = 0;
                continue;
            }
            // Behind the others, so that the next call looks at those.
            self.gone.push(id);
            awaited_in_a_row += 1;
            if awaited_in_a_row == MOST_AWAITED {
                break;
            }
        }
        if self.prefixes.len() == 0 && self.prefixes.end() > 0 && self.dirty.is_empty() {
            self.prefixes.reset();
            self.paths.reset();
            for group in self.groups.iter_mut().flatten() {
                group.reset();
            }
        }
    }

    fn decide(&mut self, id: u32) {
        match self.paths.of(id) {
            [] => self.gone.push(id),
            [only] => {
                let usable = self.is_usable(only);
                for path in self.paths.of_mut(id) {
                    path.mark(mark::BEST, usable);
                    path.mark(mark::MULTIPATH, false);
                }
            }
            _ => self.decide_between(id),
        }
        let next_hops = self.next_hops_of(id);
        if self.sets.get(self.paths.reported(id)) != next_hops.as_slice() {
            self.changed.push(id);
        }
        for group in self.groups.iter_mut().flatten() {
            group.pending.push(id);
        }
    }

    fn is_usable(&self, path: &Path) -> bool {
        if path.marks & mark::VERDICT != 0 {
            return false;
        }
        let hop = || self.store.next_hop(self.paths.effective(path));
        path.peer == LOCAL || hop().is_some_and(|hop| hop.cost.is_some())
    }

    fn decide_between(&mut self, id: u32) {
        let mut places: SmallVec<[usize; 16]> = SmallVec::new();
        let mut candidates: SmallVec<[Candidate; 16]> = SmallVec::new();
        for (at, path) in self.paths.of(id).iter().enumerate() {
            if let Some(found) = candidate(&self.paths, &self.peers, &self.store, path) {
                places.push(at);
                candidates.push(found);
            }
        }
        let outcome = outcome(&candidates);
        let place = |index: usize| places.get(index).copied();
        let best = outcome.as_ref().and_then(|outcome| place(outcome.best));
        let mut beside: SmallVec<[usize; 8]> = SmallVec::new();
        if let Some(outcome) = &outcome
            && self.config.multipath.max_paths > 1
        {
            let equal: SmallVec<[usize; 8]> = outcome
                .equal
                .iter()
                .copied()
                .filter(|index| self.is_as_good(id, best, place(*index)))
                .collect();
            let chosen: SmallVec<[Candidate; 8]> = equal
                .iter()
                .filter_map(|index| candidates.get(*index).copied())
                .collect();
            let count = usize::from(self.config.multipath.max_paths);
            let chosen = best_of(&chosen, count);
            beside = chosen
                .iter()
                .filter_map(|at| place(*equal.get(*at)?))
                .collect();
        }
        for (at, path) in self.paths.of_mut(id).iter_mut().enumerate() {
            path.mark(mark::BEST, best == Some(at));
            path.mark(mark::MULTIPATH, best != Some(at) && beside.contains(&at));
        }
    }

    /// Whether a path that ties with the best one may be used beside it: the same way, unless that is relaxed.
    fn is_as_good(&self, id: u32, best: Option<usize>, other: Option<usize>) -> bool {
        let paths = self.paths.of(id);
        let path = |at: Option<usize>| paths.get(at?);
        let (Some(best), Some(other)) = (path(best), path(other)) else {
            return false;
        };
        if best.peer == LOCAL || other.peer == LOCAL {
            return false;
        }
        let as_path = |path: &Path| self.store.as_path(self.paths.effective(path));
        self.config.multipath.as_path_relax || as_path(best) == as_path(other)
    }

    /// Where packets for a prefix go: nowhere for us to say if it is our own.
    pub(super) fn next_hops_of(&self, id: u32) -> NextHops {
        let used = |path: &&Path| path.is(mark::BEST | mark::MULTIPATH) && path.peer != LOCAL;
        if let [only] = self.paths.of(id) {
            let only = Some(only).filter(used);
            return only
                .and_then(|only| self.next_hop_of(only, 1))
                .into_iter()
                .collect();
        }
        let used: SmallVec<[&Path; 4]> = self.paths.of(id).iter().filter(used).collect();
        if let [only] = used.as_slice() {
            return self.next_hop_of(only, 1).into_iter().collect();
        }
        let bandwidths: SmallVec<[Option<f32>; 4]> = used
            .iter()
            .map(|path| {
                let attributes = self.paths.effective(path);
                let weighted = self.config.multipath.link_bandwidth;
                weighted.then(|| bandwidth(&self.store.decode(attributes).extended_communities))?
            })
            .collect();
        let mut next_hops: NextHops = used
            .iter()
            .zip(weights(&bandwidths))
            .filter_map(|(path, weight)| self.next_hop_of(path, weight))
            .collect();
        // The heaviest of those that differ in nothing else comes first, and stays.
        next_hops.sort_unstable_by_key(|hop| (hop.address, hop.link, u8::MAX - hop.weight));
        next_hops.dedup_by_key(|hop| (hop.address, hop.link));
        next_hops
    }

    fn next_hop_of(&self, path: &Path, weight: u8) -> Option<NextHop> {
        let hop = self.store.next_hop(self.paths.effective(path))?;
        let info = self.peers.at(path.peer)?.info.as_ref()?;
        // On a shared link the link-local address is the surer one (RFC 2545 §3).
        let beside = hop.link_local.filter(|_| info.link.is_some());
        let address = beside.map_or(hop.address, Into::into);
        Some(NextHop {
            address,
            link: info.link.filter(|_| is_link_local(&address)),
            weight,
        })
    }
}
