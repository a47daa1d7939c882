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
        let peer = config.one_of_it();
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
                let peer = config.one_of_it();
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
        self.peers.get(peer)?.carrier()
    }
}
