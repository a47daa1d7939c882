//! Which update group a peer is in. A peer that changes groups is sent only what differs.

use super::engine::Rib;
use super::export::ExportKey;
use super::groups::{Group, Route};
use super::members::{Member, Position};
use super::peers::{PeerId, PeerPolicy};
use super::transmit::{Exports, Tables};

impl Rib {
    /// Changes a peer's rules: what it announced is judged again without a reset, and it is sent what differs.
    pub fn handle_policy(&mut self, id: PeerId, policy: PeerPolicy) {
        let Some(peer) = self.peers.with_id_mut(id) else {
            return;
        };
        if peer.policy == policy {
            return;
        }
        let former = std::mem::replace(&mut peer.policy, policy.clone());
        if former.import != policy.import {
            self.judge_again(id);
        }
        if former.route_reflector_client != policy.route_reflector_client {
            self.export_again(id);
        }
        self.rekey(id);
    }

    /// What came from a peer is to be sent differently now: every group that was told of it is told again.
    pub(super) fn export_again(&mut self, id: PeerId) {
        let from_it = |route: &Route| route.source == id.index;
        let end = self.prefixes.end();
        for group in self.groups.iter_mut().flatten() {
            for prefix in 0..end {
                let paths = self.paths.of(prefix);
                if group.told.get(prefix).iter().any(from_it)
                    || paths.iter().any(|path| path.peer == id.index)
                {
                    group.forced.insert(prefix);
                    group.pending.push(prefix);
                }
            }
        }
    }

    /// Puts a peer whose session came up into the group it belongs to.
    pub(super) fn join_group(&mut self, id: PeerId) {
        let Some(key) = self.key_of(id) else { return };
        let at = self
            .group_with(&key)
            .unwrap_or_else(|| self.add_group(Group::new(key)));
        let enhanced = self
            .peers
            .with_id(id)
            .and_then(|peer| peer.info.as_ref())
            .is_some_and(|info| info.enhanced_refresh);
        if let Some(Some(group)) = self.groups.get_mut(at) {
            group.join(id.index, enhanced);
        }
        if let Some(peer) = self.peers.with_id_mut(id) {
            peer.group = Some(at);
        }
    }

    /// Takes a peer out of its group, which goes with its last member.
    pub(super) fn leave_group(&mut self, id: PeerId) -> Option<Member> {
        let at = self.peers.with_id_mut(id)?.group.take()?;
        let place = self.groups.get_mut(at)?;
        let group = place.as_mut()?;
        let member = group.leave(id.index);
        if group.members.is_empty() {
            group.forget(&mut self.store, self.prefixes.end());
            *place = None;
        }
        member
    }

    /// All keys may have changed at once: groups that stay together are told what differs in one stream.
    pub(super) fn rekey_all(&mut self) {
        for at in 0..self.groups.len() {
            let Some(Some(group)) = self.groups.get(at) else {
                continue;
            };
            let keys = group.members.keys().map(|index| self.key_at(*index));
            let keys: Option<Vec<ExportKey>> = keys.collect();
            let Some([first, rest @ ..]) = keys.as_deref() else {
                continue;
            };
            if rest.iter().all(|key| key == first) && self.group_with(first).is_none() {
                self.change_key(at, first.clone());
            }
        }
        let ids: Vec<PeerId> = self.peers.iter().map(|(id, _)| id).collect();
        ids.into_iter().for_each(|id| self.rekey(id));
    }

    /// The key of one peer may have changed.
    fn rekey(&mut self, id: PeerId) {
        let Some(at) = self.peers.with_id(id).and_then(|peer| peer.group) else {
            return;
        };
        let Some(key) = self.key_of(id) else { return };
        let Some(Some(group)) = self.groups.get(at) else {
            return;
        };
        if group.key == key {
            return;
        }
        let target = self.group_with(&key);
        match target {
            None if group.members.len() == 1 => self.change_key(at, key),
            None => {
                let copy = self.copy_of(at);
                self.move_member(id, at, copy);
                self.change_key(copy, key);
            }
            Some(target) => {
                // So that what is compared is what the group is told in the end.
                self.bring_up_to_date(target);
                let differing = self.differing(id, at, target);
                self.move_member(id, at, target);
                if let Some(Some(group)) = self.groups.get_mut(target)
                    && let Some(member) = group.members.get_mut(&id.index)
                    && let Position::Behind(behind) = &mut member.position
                {
                    differing.into_iter().for_each(|id| behind.queue.push(id));
                }
            }
        }
    }

    /// Gives a group another key: what it was told stands, but for what the new key has sent differently.
    fn change_key(&mut self, at: usize, key: ExportKey) {
        let Some(Some(mut group)) = self.groups.get_mut(at).map(Option::take) else {
            return;
        };
        let (mut before, mut now) = (Exports::default(), Exports::default());
        let tables = self.tables();
        for id in 0..tables.prefixes.end() {
            let Some(prefix) = tables.prefixes.get(id) else {
                continue;
            };
            for route in group.told.get(id) {
                let before_at = before.ask(&group.key, &tables, &prefix, &route);
                let now_at = now.ask(&key, &tables, &prefix, &route);
                if before.answer(before_at) != now.answer(now_at) {
                    group.forced.insert(id);
                    group.pending.push(id);
                }
            }
        }
        group.key = key;
        group.scan = Some(0);
        if let Some(place) = self.groups.get_mut(at) {
            *place = Some(group);
        }
    }

    fn bring_up_to_date(&mut self, at: usize) {
        if let Some(Some(mut group)) = self.groups.get_mut(at).map(Option::take) {
            group.bring_up_to_date(&mut self.tables());
            if let Some(place) = self.groups.get_mut(at) {
                *place = Some(group);
            }
        }
    }

    /// A new group that was told the same as another one.
    fn copy_of(&mut self, at: usize) -> usize {
        let Some(Some(group)) = self.groups.get(at) else {
            return at;
        };
        let mut copy = Group::new(group.key.clone());
        for id in 0..self.prefixes.end() {
            let told = group.told.get(id);
            if !told.is_empty() {
                copy.tell(&mut self.store, id, &told);
            }
            if group.pending.contains(id) {
                copy.pending.push(id);
            }
            if group.forced.contains(id) {
                copy.forced.insert(id);
            }
        }
        self.add_group(copy)
    }

    /// Moves a member; it is behind in its new group by what it had not been told in the old one.
    fn move_member(&mut self, id: PeerId, from: usize, to: usize) {
        // Taken out before the old group may go.
        let Some(member) = self.leave_group(id) else {
            return;
        };
        debug_assert_ne!(from, to);
        if let Some(Some(group)) = self.groups.get_mut(to) {
            group.members.insert(id.index, member);
        }
        if let Some(peer) = self.peers.with_id_mut(id) {
            peer.group = Some(to);
        }
    }

    /// The prefixes of which a member was told something else in one group than others in another.
    fn differing(&mut self, id: PeerId, from: usize, to: usize) -> Vec<u32> {
        let (Some(Some(old)), Some(Some(new))) = (
            self.groups.get_mut(from).map(Option::take),
            self.groups.get_mut(to).map(Option::take),
        ) else {
            return Vec::new();
        };
        let (mut before, mut now) = (Exports::default(), Exports::default());
        let mut differing = Vec::new();
        let tables = self.tables();
        for prefix_id in 0..tables.prefixes.end() {
            let Some(prefix) = tables.prefixes.get(prefix_id) else {
                continue;
            };
            let visible = |group: &Group| {
                let told = group.told.get(prefix_id);
                told.into_iter().find(|route| route.source != id.index)
            };
            let (was, is) = (visible(&old), visible(&new));
            let was = was.map(|route| before.ask(&old.key, &tables, &prefix, &route));
            let is = is.map(|route| now.ask(&new.key, &tables, &prefix, &route));
            let was = was.and_then(|at| before.answer(at));
            let is = is.and_then(|at| now.answer(at));
            // Forced: the old group itself has not said what its key has it say now.
            if was != is || old.forced.contains(prefix_id) {
                differing.push(prefix_id);
            }
        }
        for (at, group) in [(from, old), (to, new)] {
            if let Some(place) = self.groups.get_mut(at) {
                *place = Some(group);
            }
        }
        differing
    }

    pub(super) fn tables(&mut self) -> Tables<'_> {
        Tables {
            prefixes: &self.prefixes,
            paths: &self.paths,
            peers: &self.peers,
            store: &mut self.store,
            held: self.held,
            settled: self.dirty.is_empty(),
        }
    }

    fn key_of(&self, id: PeerId) -> Option<ExportKey> {
        self.peers.with_id(id)?;
        self.key_at(id.index)
    }

    fn key_at(&self, index: u16) -> Option<ExportKey> {
        let peer = self.peers.at(index)?;
        let info = peer.info.as_ref()?;
        let peer = (index, info, &peer.policy);
        Some(ExportKey::new(&self.config, peer, self.shutting_down))
    }

    fn group_with(&self, key: &ExportKey) -> Option<usize> {
        let is = |group: &Option<Box<Group>>| group.as_ref().is_some_and(|group| group.key == *key);
        self.groups.iter().position(is)
    }

    fn add_group(&mut self, group: Group) -> usize {
        let free = self.groups.iter().position(Option::is_none);
        let at = free.unwrap_or(self.groups.len());
        if free.is_none() {
            self.groups.push(None);
        }
        if let Some(place) = self.groups.get_mut(at) {
            *place = Some(Box::new(group));
        }
        at
    }
}
