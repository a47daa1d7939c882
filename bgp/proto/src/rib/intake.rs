//! What a peer announces and withdraws, into its Adj-RIB-In (RFC 4271 §3.1, §9.1.1).

use bytes::Bytes;
use ipnet::IpNet;

use super::config::PrefixWarning;
use super::engine::Rib;
use super::export::family;
use super::import::{Judge, Verdict};
use super::members::slot;
use super::paths::{Content, LOCAL, mark};
use super::peers::PeerId;
use super::store::AttributesId;
use crate::wire::{Family, Nlri, Notification, PathAttributes, Update};

/// Paths of one prefix that are taken from one peer; whoever sends more means no good, as each has to be compared.
const MOST_PATHS: usize = 64;

impl Rib {
    /// An UPDATE of a peer with a session.
    ///
    /// # Errors
    ///
    /// The NOTIFICATION to end the session with: Cease, maximum number of prefixes (RFC 4486).
    pub fn handle_update(&mut self, id: PeerId, update: &Update) -> Result<(), Notification> {
        if !self.peers.with_id(id).is_some_and(|peer| peer.up) {
            return Ok(());
        }
        for nlri in &update.withdrawn {
            self.withdraw(id, nlri);
        }
        if let Some(attributes) = &update.attributes {
            self.announce_all(id, &update.announced, attributes)?;
        }
        if let Some(family) = update.end_of_rib {
            self.sweep_stale(id, Some(family));
        }
        Ok(())
    }

    fn announce_all(
        &mut self,
        id: PeerId,
        announced: &[Nlri],
        attributes: &PathAttributes,
    ) -> Result<(), Notification> {
        self.prefixes.warm(announced.iter().map(|nlri| nlri.prefix));
        let received = self.store.intern(attributes);
        let Some(judge) = judge_of(self, id) else {
            self.store.release(received);
            return Ok(());
        };
        let unusable = judge.unusable(attributes);
        let plain = judge.policy.import.filters.is_empty();
        let changed = match unusable {
            None => judge.prepared(attributes, false),
            Some(_) => None,
        };
        let effective = match &changed {
            Some(changed) => self.store.intern(changed),
            None => {
                self.store.hold(received);
                received
            }
        };
        let prepared = changed.as_ref().unwrap_or(attributes);
        let mut outcome = Ok(());
        for nlri in announced {
            let (verdict, filtered) = match (unusable, judge_of(self, id)) {
                (Some(verdict), _) => (verdict, None),
                (None, Some(judge)) if plain => (judge.by_default(&nlri.prefix), None),
                (None, Some(judge)) => {
                    let judgement = judge.judge(&nlri.prefix, prepared);
                    (judgement.verdict, judgement.changed)
                }
                (None, None) => break,
            };
            let changed = filtered.map(|filtered| self.store.intern(&filtered));
            let content = Content {
                received,
                effective: changed.unwrap_or(effective),
                path_id: nlri.path_id,
            };
            outcome = self.announce(id, &nlri.prefix, content, verdict);
            self.store.release(changed.unwrap_or_default());
            if outcome.is_err() {
                break;
            }
        }
        self.store.release(received);
        self.store.release(effective);
        outcome
    }

    fn announce(
        &mut self,
        id: PeerId,
        prefix: &IpNet,
        content: Content,
        verdict: Verdict,
    ) -> Result<(), Notification> {
        let prefix_id = self.prefixes.insert(prefix);
        if let Some(at) = self.paths.find(prefix_id, id.index, content.path_id) {
            self.replace(id, prefix_id, at, content, verdict);
            return Ok(());
        }
        let paths = self.paths.of(prefix_id);
        if content.path_id != 0
            && paths.iter().filter(|path| path.peer == id.index).count() >= MOST_PATHS
        {
            return Ok(());
        }
        self.hold_content(content);
        self.paths
            .add(prefix_id, id.index, content, verdict.to_marks());
        // A path that is not used concerns nobody.
        if verdict == Verdict::Accepted {
            self.dirty.push(prefix_id);
        }
        self.count_new(id, family(prefix), verdict)
    }

    fn replace(&mut self, id: PeerId, prefix: u32, at: usize, content: Content, verdict: Verdict) {
        const PASSING: u16 = mark::STALE | mark::LONG_LIVED | mark::UNREFRESHED;
        self.hold_content(content);
        let Some(before) = self.paths.replace(prefix, at, content) else {
            return;
        };
        let Some(path) = self.paths.of_mut(prefix).get_mut(at) else {
            return;
        };
        let marks = path.marks;
        path.marks = marks & !(mark::VERDICT | PASSING) | verdict.to_marks();
        if let Some(peer) = self.peers.with_id_mut(id) {
            let held = &mut peer.held;
            held.count(Verdict::from_marks(marks), false);
            held.count(verdict, true);
            held.stale -= usize::from(marks & mark::STALE != 0);
        }
        self.release_content(before);
        if before != content || Verdict::from_marks(marks) != verdict {
            self.dirty.push(prefix);
        }
    }

    fn count_new(
        &mut self,
        id: PeerId,
        family: Family,
        verdict: Verdict,
    ) -> Result<(), Notification> {
        let Some(peer) = self.peers.with_id_mut(id) else {
            return Ok(());
        };
        peer.held.count(verdict, true);
        let count = peer.held.family_mut(family);
        *count += 1;
        let (held, limit) = (*count, peer.policy.max_prefixes);
        if peer.policy.warn_at.is_some_and(|warn_at| held >= warn_at)
            && let Some(warned) = peer.held.warned.get_mut(slot(family))
            && !std::mem::replace(warned, true)
        {
            self.warnings.push_back(PrefixWarning {
                peer: id,
                family,
                held,
                limit,
            });
        }
        if held > limit {
            return Err(too_many_prefixes(family, limit));
        }
        Ok(())
    }

    fn withdraw(&mut self, id: PeerId, nlri: &Nlri) {
        if let Some(prefix) = self.prefixes.find(&nlri.prefix)
            && let Some(at) = self.paths.find(prefix, id.index, nlri.path_id)
        {
            self.drop_path(id, prefix, at);
        }
    }

    /// Takes a path of a peer out.
    pub(super) fn drop_path(&mut self, id: PeerId, prefix: u32, at: usize) {
        let Some(marks) = self.paths.of(prefix).get(at).map(|path| path.marks) else {
            return;
        };
        let Some(content) = self.paths.remove(prefix, at) else {
            return;
        };
        self.release_content(content);
        self.dirty.push(prefix);
        let family = if self.prefixes.is_of(prefix, Family::IPV4_UNICAST) {
            Family::IPV4_UNICAST
        } else {
            Family::IPV6_UNICAST
        };
        if let Some(peer) = self.peers.with_id_mut(id) {
            let held = &mut peer.held;
            held.count(Verdict::from_marks(marks), false);
            held.stale -= usize::from(marks & mark::STALE != 0);
            let count = held.family_mut(family);
            *count -= 1;
            if peer.policy.warn_at.is_some_and(|warn_at| *count < warn_at)
                && let Some(warned) = held.warned.get_mut(slot(family))
            {
                *warned = false;
            }
        }
    }

    pub(super) fn announce_own(&mut self, prefix: &IpNet, attributes: &PathAttributes) {
        let id = self.prefixes.insert(prefix);
        let attributes = self.store.intern(attributes);
        let content = own(attributes);
        match self.paths.find(id, LOCAL, 0) {
            Some(at) => {
                if let Some(before) = self.paths.replace(id, at, content) {
                    self.release_content(before);
                }
            }
            None => self
                .paths
                .add(id, LOCAL, content, Verdict::Accepted.to_marks()),
        }
        self.dirty.push(id);
    }

    pub(super) fn withdraw_own(&mut self, prefix: &IpNet) {
        if let Some(id) = self.prefixes.find(prefix)
            && let Some(at) = self.paths.find(id, LOCAL, 0)
            && let Some(content) = self.paths.remove(id, at)
        {
            self.release_content(content);
            self.dirty.push(id);
        }
    }

    /// Judges all paths of a peer by its present rules and session, and has the changed ones decided anew.
    pub(super) fn judge_again(&mut self, id: PeerId) {
        for prefix in self.prefixes_of(id) {
            for at in 0..self.paths.of(prefix).len() {
                if self
                    .paths
                    .of(prefix)
                    .get(at)
                    .is_some_and(|path| path.peer == id.index)
                {
                    self.judge_path(id, prefix, at);
                }
            }
        }
    }

    /// Judges one path by what was received; what follows from its being long-lived stale included.
    pub(super) fn judge_path(&mut self, id: PeerId, prefix_id: u32, at: usize) {
        let Some(path) = self.paths.of(prefix_id).get(at).copied() else {
            return;
        };
        let Some(prefix) = self.prefixes.get(prefix_id) else {
            return;
        };
        let content = self.paths.content(&path);
        let attributes = self.store.decode(content.received);
        let Some(judge) = judge_of(self, id) else {
            return;
        };
        let (verdict, changed) = match judge.unusable(&attributes) {
            Some(verdict) => (verdict, None),
            None => {
                let prepared = judge.prepared(&attributes, path.is(mark::LONG_LIVED));
                let judged = judge.judge(&prefix, prepared.as_ref().unwrap_or(&attributes));
                (judged.verdict, judged.changed.or(prepared))
            }
        };
        let effective = match &changed {
            Some(changed) => self.store.intern(changed),
            None => {
                self.store.hold(content.received);
                content.received
            }
        };
        let now = Content {
            effective,
            ..content
        };
        let before = Verdict::from_marks(path.marks);
        if now != content {
            self.hold_content(now);
            if let Some(before) = self.paths.replace(prefix_id, at, now) {
                self.release_content(before);
            }
        }
        self.store.release(effective);
        if let Some(path) = self.paths.of_mut(prefix_id).get_mut(at) {
            path.marks = path.marks & !mark::VERDICT | verdict.to_marks();
        }
        if let Some(peer) = self.peers.with_id_mut(id) {
            peer.held.count(before, false);
            peer.held.count(verdict, true);
        }
        if now != content || before != verdict {
            self.dirty.push(prefix_id);
        }
    }

    /// The ids of all prefixes that a peer has announced.
    pub(super) fn prefixes_of(&self, id: PeerId) -> Vec<u32> {
        if self
            .peers
            .with_id(id)
            .is_none_or(|peer| peer.held.is_empty())
        {
            return Vec::new();
        }
        (0..self.prefixes.end())
            .filter(|prefix| {
                let paths = self.paths.of(*prefix);
                paths.iter().any(|path| path.peer == id.index)
            })
            .collect()
    }

    fn hold_content(&mut self, content: Content) {
        self.store.hold(content.received);
        if content.effective != content.received {
            self.store.hold(content.effective);
        }
    }

    fn release_content(&mut self, content: Content) {
        self.store.release(content.received);
        if content.effective != content.received {
            self.store.release(content.effective);
        }
    }
}

/// The judge of a peer that has, or had, a session.
pub(super) fn judge_of(rib: &Rib, id: PeerId) -> Option<Judge<'_>> {
    let peer = rib.peers.with_id(id)?;
    Some(Judge {
        config: &rib.config,
        info: peer.info.as_ref()?,
        policy: &peer.policy,
    })
}

fn own(attributes: AttributesId) -> Content {
    Content {
        received: attributes,
        effective: attributes,
        path_id: 0,
    }
}

/// RFC 4486 §4: the data may say which family, and the bound.
fn too_many_prefixes(family: Family, limit: u32) -> Notification {
    let mut data = Vec::with_capacity(7);
    data.extend(family.afi.to_be_bytes());
    data.push(family.safi);
    data.extend(limit.to_be_bytes());
    Notification {
        code: 6,
        subcode: 1,
        data: Bytes::from(data),
    }
}
