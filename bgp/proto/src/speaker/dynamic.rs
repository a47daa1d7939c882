//! Peers that nobody named: whoever dials from a range, and whoever answers on an interface.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use super::core::Speaker;
use super::events::{Action, PeerEvent};
use crate::session::Direction;
use crate::wire::Family;

impl Speaker {
    /// The peer that a connection from `address` is of, made if a range takes it; `None`: it is nobody's.
    ///
    /// The driver asks only for addresses that are no configured peer's own.
    pub fn peer_from_range(&mut self, now: Instant, address: IpAddr) -> Option<Arc<str>> {
        let (range, config) = self
            .config
            .ranges
            .iter()
            .filter(|(_, config)| config.range.contains(&address))
            .max_by_key(|(_, config)| config.range.prefix_len())?;
        let name: Arc<str> = format!("{range}/{address}").into();
        if self.peers.contains_key(&name) {
            return Some(name);
        }
        let range: Arc<str> = range.as_str().into();
        let held = |peer: &&super::peer::Peer| peer.range.as_ref() == Some(&range);
        if self.peers.values().filter(held).count() >= config.limit {
            let event = PeerEvent::RangeFull { address };
            self.actions.push_back(Action::Event(range, event));
            return None;
        }
        let mut peer = config.peer.clone();
        peer.passive = true;
        self.apply_peer(now, Arc::clone(&name), peer, Some(range));
        Some(name)
    }

    /// Brings the peers of every range to its configuration.
    pub(super) fn apply_ranges(&mut self, now: Instant) {
        let held: Vec<_> = self
            .peers
            .values()
            .filter_map(|peer| Some((Arc::clone(&peer.name), peer.range.clone()?)))
            .collect();
        for (name, range) in held {
            if let Some(config) = self.config.ranges.get(&*range) {
                let mut peer = config.peer.clone();
                peer.passive = true;
                self.apply_peer(now, name, peer, Some(range));
            }
        }
    }

    /// A peer on an interface showed itself, or the driver wants a dial tried at once: the next dial is due now.
    pub fn handle_discovered(&mut self, now: Instant, peer: &str) {
        self.act(now, peer, |peer, _| {
            let waits = peer.restart_at.is_some();
            if peer.up.is_none() && peer.config.shutdown.is_none() && !waits {
                peer.session.handle_start(now);
            }
        });
    }

    /// BFD says that the path to a peer is there.
    pub fn handle_bfd_up(&mut self, now: Instant, peer: &str) {
        let mut events = Vec::new();
        self.act(now, peer, |peer, _| {
            if peer.bfd_up != Some(true) {
                events.push(Action::Event(Arc::clone(&peer.name), PeerEvent::BfdUp));
            }
            peer.bfd_up = Some(true);
            peer.session.handle_bfd(now, true);
            if !peer.over_limit && peer.restart_at.take().is_some() {
                peer.session.handle_start(now);
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

    /// The peer stopped BFD on purpose (AdminDown): that says nothing of the path (RFC 5882 §4.2).
    pub fn handle_bfd_admin_down(&mut self, now: Instant, peer: &str) {
        self.act(now, peer, |peer, _| {
            peer.bfd_up = None;
            peer.session.handle_bfd(now, true);
        });
    }

    /// Families of a peer's session, for what asks by family.
    #[must_use]
    pub fn families(&self, peer: &str) -> Vec<Family> {
        let up = self.peers.get(peer).and_then(|peer| peer.up.as_ref());
        up.map(|up| up.negotiated.context.families.clone())
            .unwrap_or_default()
    }

    /// The connection that carries a peer's session.
    #[must_use]
    pub fn carrier(&self, peer: &str) -> Option<Direction> {
        super::follow::carrier(self.peers.get(peer)?)
    }
}
