//! Sessions that come and go: what stays as stale (RFC 4724, RFC 9494), what is not refreshed (RFC 7313), what goes.

use super::attributes::flag;
use super::engine::Rib;
use super::paths::{Path, mark};
use super::peers::{PeerId, PeerInfo};
use crate::wire::Family;

impl Rib {
    /// A session came up: the peer is told of all it is to know, then End-of-RIB.
    ///
    /// Stale paths of its last session stay until its End-of-RIB or `sweep_stale`, but not those of families that are
    /// no longer spoken.
    pub fn handle_peer_up(&mut self, id: PeerId, info: PeerInfo) {
        self.leave_group(id);
        let Some(peer) = self.peers.with_id_mut(id) else {
            return;
        };
        peer.up = true;
        let families = info.context.families.clone();
        let router_id = info.router_id;
        let former = peer.info.replace(info.clone());
        self.drop_where(id, |_, family| !families.contains(&family));
        if former.as_ref().is_some_and(|former| *former != info) {
            self.judge_again(id);
            // What the decision and the next hops read of the session may differ too.
            for prefix in self.prefixes_of(id) {
                self.dirty.push(prefix);
            }
            if former.is_some_and(|former| former.router_id != router_id) {
                self.export_again(id);
            }
        }
        self.join_group(id);
    }

    /// A session went down: its paths go or, of the families in `retain`, stay as stale (RFC 4724 §4.2).
    /// What was stale already goes in either case.
    pub fn handle_peer_down(&mut self, id: PeerId, retain: &[Family]) {
        self.leave_group(id);
        let Some(peer) = self.peers.with_id_mut(id) else {
            return;
        };
        if !std::mem::take(&mut peer.up) && !retain.is_empty() {
            return;
        }
        self.drop_where(id, |path, family| {
            path.is(mark::STALE) || !retain.contains(&family)
        });
        let mut kept = 0;
        self.change_marks(id, |path, _| {
            path.mark(mark::STALE, true);
            path.mark(mark::UNREFRESHED, false);
            kept += 1;
        });
        if let Some(peer) = self.peers.with_id_mut(id) {
            peer.held.stale = kept;
        }
    }

    /// Drops what is still stale of a peer, of one family or of all.
    pub fn sweep_stale(&mut self, id: PeerId, of: Option<Family>) {
        if self.stale(id) > 0 {
            self.drop_where(id, |path, family| {
                path.is(mark::STALE) && of.is_none_or(|wanted| wanted == family)
            });
        }
    }

    /// How many paths of a peer are stale.
    #[must_use]
    pub fn stale(&self, id: PeerId) -> usize {
        self.peers.with_id(id).map_or(0, |peer| peer.held.stale)
    }

    /// What is stale of a peer stays for long (RFC 9494 §4.2): as the last choice, marked LLGR_STALE, and without what
    /// bears NO_LLGR.
    pub fn mark_long_lived(&mut self, id: PeerId, family: Family) {
        let mut goes = Vec::new();
        for prefix in self.prefixes_of(id) {
            if !self.prefixes.is_of(prefix, family) {
                continue;
            }
            for at in (0..self.paths.of(prefix).len()).rev() {
                let Some(path) = self.paths.of_mut(prefix).get_mut(at) else {
                    continue;
                };
                if path.peer != id.index || !path.is(mark::STALE) {
                    continue;
                }
                path.mark(mark::LONG_LIVED, true);
                let path = *path;
                let received = self.paths.content(&path).received;
                if self.store.flags(received) & flag::NO_LLGR != 0 {
                    goes.push((prefix, at));
                } else {
                    self.judge_path(id, prefix, at);
                }
            }
        }
        for (prefix, at) in goes {
            self.drop_path(id, prefix, at);
        }
    }

    /// The peer begins to send a family again (RFC 7313 §4.1).
    pub(super) fn mark_unrefreshed(&mut self, id: PeerId, of: Family) {
        self.change_marks(id, |path, family| {
            if family == of {
                path.mark(mark::UNREFRESHED, true);
            }
        });
    }

    /// That was all: what did not come again is gone.
    pub(super) fn sweep_unrefreshed(&mut self, id: PeerId, of: Family) {
        self.drop_where(id, |path, family| {
            family == of && path.is(mark::UNREFRESHED)
        });
    }

    fn drop_where(&mut self, id: PeerId, goes: impl Fn(&Path, Family) -> bool) {
        for prefix in self.prefixes_of(id) {
            let family = self.family_of(prefix);
            // From the end, so that the places of those before it stay.
            for at in (0..self.paths.of(prefix).len()).rev() {
                let path = self.paths.of(prefix).get(at);
                if path.is_some_and(|path| path.peer == id.index && goes(path, family)) {
                    self.drop_path(id, prefix, at);
                }
            }
        }
    }

    fn change_marks(&mut self, id: PeerId, mut change: impl FnMut(&mut Path, Family)) {
        for prefix in self.prefixes_of(id) {
            let family = self.family_of(prefix);
            for path in self.paths.of_mut(prefix) {
                if path.peer == id.index {
                    change(path, family);
                }
            }
        }
    }

    fn family_of(&self, prefix: u32) -> Family {
        if self.prefixes.is_of(prefix, Family::IPV4_UNICAST) {
            Family::IPV4_UNICAST
        } else {
            Family::IPV6_UNICAST
        }
    }
}
