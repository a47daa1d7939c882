//! Graceful restart between the sessions: how long others' routes stay, and when our own restart is over (RFC 4724 §4).

use std::sync::Arc;
use std::time::Instant;

use super::core::Speaker;
use super::events::{Action, PeerEvent};
use super::peer::{Peer, Stale, graceful_restart, long_lived};
use crate::rib::Rib;

impl Speaker {
    /// Does what is due for one peer.
    pub(super) fn peer_timeout(&mut self, now: Instant, name: &Arc<str>) {
        self.end_bfd_doubt(now, name);
        let mut events = Vec::new();
        self.act(now, name, |peer, rib| {
            if peer.session.poll_timeout().is_some_and(|at| at <= now) {
                peer.session.handle_timeout(now);
            }
            if peer.restart_at.is_some_and(|at| at <= now) {
                peer.restart_at = None;
                peer.awaits_bfd = false;
                peer.over_limit = false;
                if peer.config.shutdown.is_none() {
                    peer.session.handle_start(now);
                }
            }
            peer.unseen_until.take_if(|at| *at <= now);
            stale_time_is_over(peer, rib, now, &mut events);
            peer.synced |= peer.silent_at().is_some_and(|at| at <= now);
        });
        let named = events
            .into_iter()
            .map(|event| Action::Event(Arc::clone(name), event));
        self.actions.extend(named);
    }

    /// Ends the wait for the peers of an earlier run when none is left to wait for, or its time is over.
    pub(super) fn end_initial_sync_if_due(&mut self, now: Instant) {
        let Some(by) = self.initial_sync_by else {
            return;
        };
        let waits = |peer: &Peer| !peer.synced && peer.config.shutdown.is_none();
        if by > now && self.peers.values().any(waits) {
            return;
        }
        self.initial_sync_by = None;
        // From here on what is in force is what peers told us, and a session that is lost takes none of it away.
        self.restart.forwarding_preserved = true;
        for peer in self.peers.values_mut() {
            let next = graceful_restart(&peer.config, self.restart, false);
            peer.session.set_graceful_restart(next);
            let next = long_lived(&peer.config, self.restart);
            peer.session.set_long_lived(next);
        }
        self.rib.hold_output(false);
        self.actions.push_back(Action::InitialSync);
    }
}

fn stale_time_is_over(peer: &mut Peer, rib: &mut Rib, now: Instant, events: &mut Vec<PeerEvent>) {
    let over: Vec<_> = peer
        .stale_until
        .iter()
        .filter(|(_, stale)| stale.until <= now)
        .map(|(family, stale)| (*family, *stale))
        .collect();
    for (family, stale) in over {
        if let Some(time) = stale.then_long_lived.filter(|_| peer.up.is_none()) {
            rib.mark_long_lived(peer.rib_id, family);
            let longer = Stale {
                until: now + time,
                then_long_lived: None,
            };
            peer.stale_until.insert(family, longer);
            events.push(PeerEvent::LongLivedStale { family });
        } else {
            peer.stale_until.remove(&family);
            let before = rib.counts(peer.rib_id).stale;
            rib.sweep_stale(peer.rib_id, Some(family));
            let count = before.saturating_sub(rib.counts(peer.rib_id).stale);
            if count > 0 {
                events.push(PeerEvent::StaleRoutesRemoved { count });
            }
        }
    }
}
