//! What BFD says of the paths to peers, and what that means for sessions, gateways and stale routes (RFC 5882).

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::core::Speaker;
use super::events::{Action, PeerEvent};

/// How long after BFD came up a peer's word that it is down may be about the peer's session, not about the path.
const BFD_SETTLES: Duration = Duration::from_secs(3);

/// How long a speaker that was restarted, and waited for BFD, leaves the peer's BGP to hear of it too.
///
/// The peer's BFD goes down and comes up again within a millisecond, its BGP is told a while later, on a busy machine
/// tens of milliseconds. FRR (8.4) resets a session that stands by then, takes it for no restart, and drops the routes;
/// and of a connection it makes itself on that news it may lose one that comes at the same moment. Both sides go on
/// forwarding meanwhile.
const BFD_IS_TOLD: Duration = Duration::from_millis(500);

impl Speaker {
    /// BFD says that the path to a peer is there. A session that waits for it after a restart starts a little later.
    pub fn handle_bfd_up(&mut self, now: Instant, peer: &str) {
        self.bfd_is_up(now, peer, BFD_IS_TOLD);
    }

    /// Like [`Self::handle_bfd_up`], where BFD outlives this speaker's runs: a restart is no news to the peer's BFD, so
    /// a session need not wait.
    pub fn handle_bfd_up_all_along(&mut self, now: Instant, peer: &str) {
        self.bfd_is_up(now, peer, Duration::ZERO);
    }

    fn bfd_is_up(&mut self, now: Instant, peer: &str, wait: Duration) {
        let mut events = Vec::new();
        self.act(now, peer, |peer, _| {
            if peer.bfd_up != Some(true) {
                events.push(Action::Event(Arc::clone(&peer.name), PeerEvent::BfdUp));
            }
            peer.bfd_up = Some(true);
            peer.bfd_up_at = Some(now);
            peer.bfd_doubt = None;
            peer.session.handle_bfd(now, true);
            if std::mem::take(&mut peer.awaits_bfd) {
                peer.restart_at = Some(now + wait);
            }
            events.extend(peer.gateway_down.take().map(Action::GatewayUp));
        });
        self.actions.extend(events);
    }

    /// BFD says that the path to a peer is gone: packets leave its gateway at once, then the session ends.
    ///
    /// `independent`: both sides said that BFD outlives their control planes (the C bit). Then stale routes of a peer
    /// that restarts go too; else its BFD went down with it, which is no news (RFC 5882 §4.3.2).
    pub fn handle_bfd_down(&mut self, now: Instant, peer: &str, independent: bool) {
        let Some(held) = self.peers.get_mut(peer) else {
            return;
        };
        held.bfd_up = Some(false);
        held.bfd_doubt = None;
        let name = Arc::clone(&held.name);
        let restarts = held.up.is_none() && !held.stale_until.is_empty();
        if restarts && !independent {
            return;
        }
        self.actions
            .push_back(Action::Event(name, PeerEvent::BfdDown));
        let gateway = held.gateway;
        if held.gateway_down.is_none() && (held.up.is_some() || restarts) {
            held.gateway_down = gateway;
            self.actions.extend(gateway.map(Action::GatewayDown));
        }
        self.act(now, peer, |peer, rib| {
            peer.session.handle_bfd(now, false);
            if restarts {
                peer.stale_until.clear();
                rib.sweep_stale(peer.rib_id, None);
            }
        });
    }

    /// Like [`Self::handle_bfd_down`], where the peer itself said so, and so was heard over the path.
    ///
    /// FRR (8.4) ends its BFD session by such a word, and makes another, when it learns the addresses of a BGP session
    /// that has just come up. So for a short while after BFD came up that word is believed only if BFD stays down.
    pub fn handle_bfd_signaled_down(&mut self, now: Instant, peer: &str, independent: bool) {
        let settles = |at: Instant| now.saturating_duration_since(at) < BFD_SETTLES;
        let held = self.peers.get(peer);
        if !held.is_some_and(|held| held.bfd_up_at.is_some_and(settles)) {
            return self.handle_bfd_down(now, peer, independent);
        }
        self.act(now, peer, |peer, _| {
            peer.bfd_up = Some(false);
            peer.bfd_doubt = Some((now + BFD_SETTLES, independent));
        });
    }

    /// Believes that a path is gone whose BFD did not come back.
    pub(super) fn end_bfd_doubt(&mut self, now: Instant, peer: &str) {
        let held = self.peers.get_mut(peer);
        let over = held.and_then(|held| held.bfd_doubt.take_if(|(at, _)| *at <= now));
        if let Some((_, independent)) = over {
            self.handle_bfd_down(now, peer, independent);
        }
    }

    /// The peer stopped BFD on purpose (AdminDown): that says nothing of the path (RFC 5882 §4.2).
    pub fn handle_bfd_admin_down(&mut self, now: Instant, peer: &str) {
        self.act(now, peer, |peer, _| {
            peer.bfd_up = None;
            peer.bfd_doubt = None;
            peer.session.handle_bfd(now, true);
        });
    }
}
