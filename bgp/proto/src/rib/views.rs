//! The RIBs for people: tables in the order of prefixes, attributes spelled out.

use std::collections::BTreeSet;
use std::sync::Arc;

use ipnet::IpNet;

use super::config::BestChange;
use super::engine::Rib;
use super::import::Verdict;
use super::paths::{LOCAL, Path, mark};
use super::peers::PeerId;
use super::transmit::Exports;
use crate::wire::{Nlri, PathAttributes};

/// A prefix and the paths to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteView {
    /// The prefix.
    pub prefix: IpNet,
    /// Its paths, the best one first.
    pub paths: Vec<PathView>,
}

/// A path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathView {
    /// Who announced it; `None`: originated here.
    pub peer: Option<Arc<str>>,
    /// The Path Identifier the peer gave it.
    pub path_id: u32,
    /// Its attributes after import.
    pub attributes: Arc<PathAttributes>,
    /// It is the best path.
    pub best: bool,
    /// It is used beside the best path.
    pub multipath: bool,
    /// Its session is gone, and the peer is expected back.
    pub stale: bool,
    /// It has been so for long (RFC 9494).
    pub long_lived_stale: bool,
    /// What import made of it.
    pub verdict: Verdict,
    /// Packets can be sent to its next hop.
    pub reachable: bool,
}

impl Rib {
    /// The prefixes equal to or inside `filter`, or all; at most `limit`, in order.
    pub fn routes(&mut self, filter: Option<IpNet>, limit: usize) -> Vec<RouteView> {
        self.settle_all();
        let wanted = |prefix: &IpNet| filter.is_none_or(|filter| filter.contains(prefix));
        let found = self.ids_in_order(|_, prefix| wanted(prefix), limit);
        let view = |(prefix, id)| RouteView {
            prefix,
            paths: self.views_of(id),
        };
        found.into_iter().map(view).collect()
    }

    /// What a peer announced, as it came; at most `limit`, in order of prefixes.
    pub fn received(
        &mut self,
        id: PeerId,
        limit: usize,
    ) -> Vec<(Nlri, Arc<PathAttributes>, Verdict)> {
        let by_it = |path: &&Path| path.peer == id.index && self.peers.with_id(id).is_some();
        let announced = |at: u32, _: &IpNet| self.paths.of(at).iter().any(|path| by_it(&path));
        let mut received = Vec::new();
        for (prefix, at) in self.ids_in_order(announced, limit) {
            for path in self.paths.of(at).iter().filter(by_it) {
                let content = self.paths.content(path);
                let nlri = Nlri {
                    prefix,
                    path_id: content.path_id,
                };
                let attributes = Arc::new(self.store.decode(content.received));
                received.push((nlri, attributes, Verdict::from_marks(path.marks)));
            }
        }
        received.truncate(limit);
        received
    }

    /// What a peer was sent, or is about to be; at most `limit`, in order of prefixes.
    pub fn advertised(&mut self, id: PeerId, limit: usize) -> Vec<(Nlri, Arc<PathAttributes>)> {
        self.settle_all();
        let Some(at) = self.peers.with_id(id).and_then(|peer| peer.group) else {
            return Vec::new();
        };
        let Some(Some(mut group)) = self.groups.get_mut(at).map(Option::take) else {
            return Vec::new();
        };
        let mut tables = self.tables();
        group.bring_up_to_date(&mut tables);
        let visible = |told: u32| {
            let told = group.told.get(told);
            told.into_iter().filter(|route| route.source != id.index)
        };
        let found = self.ids_in_order(|told, _| visible(told).next().is_some(), limit);
        let mut exports = Exports::default();
        let tables = self.tables();
        let mut advertised = Vec::new();
        for (prefix, told) in found {
            for route in visible(told) {
                let answer = exports.ask(&group.key, &tables, &prefix, &route);
                if let Some(attributes) = exports.answer(answer) {
                    let path_id = route.path_id;
                    advertised.push((Nlri { prefix, path_id }, Arc::clone(attributes)));
                }
            }
        }
        if let Some(place) = self.groups.get_mut(at) {
            *place = Some(group);
        }
        advertised.truncate(limit);
        advertised
    }

    /// The next hops of every prefix that has a learned best path, in order: what the kernel is to hold.
    pub fn learned(&mut self) -> Vec<BestChange> {
        self.settle_all();
        let found = self.ids_in_order(|id, _| !self.next_hops_of(id).is_empty(), usize::MAX);
        let change = |(prefix, id)| BestChange {
            prefix,
            next_hops: self.next_hops_of(id),
        };
        found.into_iter().map(change).collect()
    }

    /// Decides all there is to decide: for people, who want the whole truth.
    pub(super) fn settle_all(&mut self) {
        while !self.dirty.is_empty() {
            self.settle();
        }
    }

    fn ids_in_order(
        &self,
        wanted: impl Fn(u32, &IpNet) -> bool,
        limit: usize,
    ) -> Vec<(IpNet, u32)> {
        // No more than `limit` are held at any time.
        let mut found = BTreeSet::new();
        for id in 0..self.prefixes.end() {
            let Some(prefix) = self.prefixes.get(id) else {
                continue;
            };
            if wanted(id, &prefix) {
                found.insert((prefix, id));
                if found.len() > limit {
                    found.pop_last();
                }
            }
        }
        found.into_iter().collect()
    }

    fn views_of(&self, id: u32) -> Vec<PathView> {
        let mut views: Vec<PathView> = self
            .paths
            .of(id)
            .iter()
            .map(|path| self.view(path))
            .collect();
        let rank = |view: &PathView| (!view.best, !view.multipath, view.verdict);
        views.sort_by(|one, other| {
            let by_name = || (&one.peer, one.path_id).cmp(&(&other.peer, other.path_id));
            rank(one).cmp(&rank(other)).then_with(by_name)
        });
        views
    }

    pub(super) fn view(&self, path: &Path) -> PathView {
        let content = self.paths.content(path);
        let hop = self.store.next_hop(content.effective);
        PathView {
            peer: self
                .peers
                .at(path.peer)
                .map(|peer| Arc::clone(&peer.policy.name)),
            path_id: content.path_id,
            attributes: Arc::new(self.store.decode(content.effective)),
            best: path.is(mark::BEST),
            multipath: path.is(mark::MULTIPATH),
            stale: path.is(mark::STALE),
            long_lived_stale: path.is(mark::LONG_LIVED),
            verdict: Verdict::from_marks(path.marks),
            reachable: path.peer == LOCAL || hop.is_some_and(|hop| hop.cost.is_some()),
        }
    }
}
