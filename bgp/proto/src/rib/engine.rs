//! The RIBs together: events in, best-path changes and packed messages out; what changed is decided, nothing else.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytes::Bytes;
use ipnet::IpNet;

use super::columns::Queue;
use super::config::{BestChange, Originated, PrefixWarning, RibConfig};
use super::groups::Group;
use super::hash::Seed;
use super::members::slot;
use super::next_hops::NextHopSets;
use super::paths::Paths;
use super::peers::{Held, Peer, PeerCounts, PeerId, PeerPolicy, Peers};
use super::prefixes::Prefixes;
use super::store::{AttributeStore, NextHopState};
use super::transmit::Tables;
use crate::wire::{Family, PathAttributes, RefreshKind, RouteRefresh};

/// Adj-RIBs-In, Loc-RIB and Adj-RIBs-Out.
///
/// Events only note what has to be decided; the `poll_*` calls decide so many prefixes at a time, so that none takes
/// long. While `has_work` there is more to come.
#[derive(Debug)]
pub struct Rib {
    pub(super) config: RibConfig,
    pub(super) store: AttributeStore,
    pub(super) prefixes: Prefixes,
    pub(super) paths: Paths,
    pub(super) peers: Peers,
    pub(super) groups: Vec<Option<Box<Group>>>,
    pub(super) sets: NextHopSets,
    pub(super) originated: BTreeMap<IpNet, Originated>,
    /// Prefixes to decide anew.
    pub(super) dirty: Queue,
    /// Prefixes whose next hops are not those last given out.
    pub(super) changed: Queue,
    /// Prefixes without a path, whose ids are free once nobody has to be told.
    pub(super) gone: Queue,
    pub(super) warnings: VecDeque<PrefixWarning>,
    pub(super) held: bool,
    pub(super) shutting_down: bool,
}

impl Rib {
    /// Empty RIBs; `seed` is random per process, so that nobody can choose prefixes that collide in the hash maps.
    #[must_use]
    pub fn new(config: RibConfig, seed: u64) -> Self {
        let seed = Seed::new(seed);
        Self {
            config,
            store: AttributeStore::new(seed),
            prefixes: Prefixes::new(seed),
            paths: Paths::default(),
            peers: Peers::default(),
            groups: Vec::new(),
            sets: NextHopSets::new(seed),
            originated: BTreeMap::new(),
            dirty: Queue::default(),
            changed: Queue::default(),
            gone: Queue::default(),
            warnings: VecDeque::new(),
            held: false,
            shutting_down: false,
        }
    }

    /// Changes how paths are used side by side, or the cluster. Another AS or BGP Identifier calls for new RIBs.
    pub fn set_config(&mut self, config: RibConfig) {
        let before = std::mem::replace(&mut self.config, config);
        if before == config {
            return;
        }
        if before.cluster_id != config.cluster_id {
            let all: Vec<PeerId> = self.peers.iter().map(|(id, _)| id).collect();
            all.into_iter().for_each(|id| self.judge_again(id));
            self.rekey_all();
        }
        for id in 0..self.prefixes.end() {
            if self.paths.of(id).len() > 1 {
                self.dirty.push(id);
            }
        }
    }

    /// Takes in a configured peer, without a session yet.
    pub fn add_peer(&mut self, policy: PeerPolicy) -> PeerId {
        self.peers.add(Peer {
            policy,
            info: None,
            up: false,
            held: Held::default(),
            group: None,
        })
    }

    /// Forgets a peer and all it announced.
    pub fn remove_peer(&mut self, id: PeerId) {
        self.handle_peer_down(id, &[]);
        self.peers.remove(id);
        self.warnings.retain(|warning| warning.peer != id);
    }

    /// Says what this node originates: the whole set, applied as a difference.
    pub fn set_originated(&mut self, originated: &BTreeMap<IpNet, Originated>) {
        let former = std::mem::take(&mut self.originated);
        for prefix in former.keys() {
            if !originated.contains_key(prefix) {
                self.withdraw_own(&prefix.trunc());
            }
        }
        for (prefix, how) in originated {
            if former.get(prefix) != Some(how) {
                let attributes = originated_attributes(prefix, how);
                self.announce_own(&prefix.trunc(), &attributes);
            }
        }
        self.originated.clone_from(originated);
    }

    /// While on, everything that is sent bears GRACEFUL_SHUTDOWN (RFC 8326): peers move their traffic elsewhere.
    pub fn set_graceful_shutdown(&mut self, on: bool) {
        if self.shutting_down != on {
            self.shutting_down = on;
            self.rekey_all();
        }
    }

    /// While on, learned routes that were not sent yet are held back, and so is End-of-RIB (RFC 4724 §4.1); what is
    /// originated here goes out all the same.
    pub fn hold_output(&mut self, held: bool) {
        let released = self.held && !held;
        self.held = held;
        if released {
            for group in self.groups.iter_mut().flatten() {
                group.scan = Some(0);
            }
        }
    }

    /// What is known of a gateway; all are reachable at no cost until this says otherwise.
    pub fn handle_next_hop(&mut self, address: IpAddr, state: NextHopState) {
        self.handle_next_hops([(address, state)]);
    }

    /// The same of many at once: that costs one walk through the prefixes, not one for each.
    pub fn handle_next_hops(&mut self, states: impl IntoIterator<Item = (IpAddr, NextHopState)>) {
        let changed = self.store.set_states(states);
        if changed.is_empty() {
            return;
        }
        for id in 0..self.prefixes.end() {
            let uses = |path| {
                let hop = self.store.next_hop(self.paths.effective(path));
                hop.is_some_and(|hop| changed.contains(&hop.address))
            };
            if self.paths.of(id).iter().any(uses) {
                self.dirty.push(id);
            }
        }
    }

    /// The gateways of all paths, but for link-local ones: what to keep track of.
    #[must_use]
    pub fn next_hops(&self) -> BTreeSet<IpAddr> {
        self.store.addresses()
    }

    /// ROUTE-REFRESH from a peer: it asks for all of a family (RFC 2918), or frames what it sends again (RFC 7313).
    pub fn handle_route_refresh(&mut self, id: PeerId, refresh: RouteRefresh) {
        let family = refresh.family;
        let Some(peer) = self.peers.with_id(id).filter(|peer| peer.up) else {
            return;
        };
        let info = peer.info.as_ref();
        if !info.is_some_and(|info| info.context.families.contains(&family)) {
            return;
        }
        match refresh.kind {
            RefreshKind::Request => {
                let member = self
                    .group_of(id)
                    .and_then(|group| group.members.get_mut(&id.index));
                if let Some(asked) = member.and_then(|member| member.asked.get_mut(slot(family))) {
                    *asked = true;
                }
            }
            RefreshKind::Begin => self.mark_unrefreshed(id, family),
            RefreshKind::End => self.sweep_unrefreshed(id, family),
        }
    }

    /// Prefixes whose next hops changed since the last call, each once, in the order in which they changed; at most so
    /// many.
    pub fn poll_best_changes(&mut self, at_most: usize) -> Vec<BestChange> {
        self.settle();
        let mut changes = Vec::new();
        while changes.len() < at_most
            && let Some(id) = self.changed.pop()
        {
            let next_hops = self.next_hops_of(id);
            let (before, now) = (self.paths.reported(id), self.sets.hold(&next_hops));
            self.sets.release(before);
            if before == now {
                continue;
            }
            self.paths.set_reported(id, now);
            if let Some(prefix) = self.prefixes.get(id) {
                changes.push(BestChange { prefix, next_hops });
            }
        }
        self.reap();
        changes
    }

    /// Messages due to a peer, about `budget` octets of them; `None`: nothing is due now.
    pub fn poll_transmit(&mut self, id: PeerId, budget: usize) -> Option<Bytes> {
        self.settle();
        let group = self.peers.with_id(id).filter(|peer| peer.up)?.group?;
        let mut tables = Tables {
            prefixes: &self.prefixes,
            paths: &self.paths,
            peers: &self.peers,
            store: &mut self.store,
            held: self.held,
            settled: self.dirty.is_empty(),
        };
        let group = self.groups.get_mut(group)?.as_mut()?;
        let octets = group.poll(&mut tables, id.index, budget);
        self.reap();
        octets
    }

    /// Whether the next `poll_*` has more to decide or to give out: call them again soon.
    #[must_use]
    pub fn has_work(&self) -> bool {
        !self.dirty.is_empty() || !self.changed.is_empty()
    }

    /// A peer that holds as many prefixes as it is to be warned of: once until it holds fewer.
    pub fn poll_warning(&mut self) -> Option<PrefixWarning> {
        self.warnings.pop_front()
    }

    /// How many prefixes a peer announced and is told.
    #[must_use]
    pub fn counts(&self, id: PeerId) -> PeerCounts {
        let Some(peer) = self.peers.with_id(id) else {
            return PeerCounts::default();
        };
        let group = peer.group.and_then(|at| self.groups.get(at)?.as_ref());
        let families = [Family::IPV4_UNICAST, Family::IPV6_UNICAST];
        let by_family = families.map(|family| (family, peer.held.family(family) as usize));
        PeerCounts {
            accepted: peer.held.accepted,
            rejected: peer.held.rejected,
            sent: group.map_or(0, |group| group.sent_to(id.index)),
            stale: peer.held.stale,
            by_family: by_family
                .into_iter()
                .filter(|(_, held)| *held > 0)
                .collect(),
        }
    }

    /// Prefixes and sets of attributes that take memory, once all that can be told has been.
    #[cfg(test)]
    pub(super) fn sizes(&mut self) -> (usize, usize) {
        self.settle_all();
        self.poll_best_changes(usize::MAX);
        let all: Vec<PeerId> = self.peers.iter().map(|(id, _)| id).collect();
        for id in all {
            while self.poll_transmit(id, usize::MAX).is_some() {}
        }
        for _ in 0..=self.gone.len() {
            self.reap();
        }
        (self.prefixes.len(), self.store.len())
    }

    pub(super) fn group_of(&mut self, id: PeerId) -> Option<&mut Group> {
        let at = self.peers.with_id(id)?.group?;
        self.groups.get_mut(at)?.as_deref_mut()
    }
}

fn originated_attributes(prefix: &IpNet, how: &Originated) -> PathAttributes {
    let nobody = match prefix {
        IpNet::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpNet::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    PathAttributes {
        communities: how.communities.clone(),
        large_communities: how.large.clone(),
        local_pref: how.local_pref,
        med: how.med,
        ..PathAttributes::originated(nobody)
    }
}
