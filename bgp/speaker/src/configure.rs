//! A configuration applied as a difference: the protocol's part by the speaker, sockets and BFD here.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use bgp_proto::speaker::{self, RangeConfig};

use crate::actor::Actor;
use crate::config::{Config, Peer, Target};
use crate::peer;

/// The part of a configuration that is the protocol's.
pub(crate) fn protocol(config: &Config) -> speaker::Config {
    let mut peers = BTreeMap::new();
    let mut ranges = BTreeMap::new();
    for (name, peer) in &config.peers {
        match &peer.target {
            Target::Address(_) | Target::Interface { .. } => {
                peers.insert(name.clone(), peer.session.clone());
            }
            Target::Range { range, limit } => {
                let range = RangeConfig {
                    range: *range,
                    limit: *limit,
                    peer: peer.session.clone(),
                };
                ranges.insert(name.clone(), range);
            }
        }
    }
    speaker::Config {
        speaker: config.speaker.clone(),
        peers,
        ranges,
        originate: config.originate.clone(),
        draining: config.draining,
    }
}

impl Actor {
    pub(crate) fn apply(&mut self, config: Config) {
        let now = Instant::now();
        warn_of_shared_addresses(&config);
        let former = std::mem::replace(&mut self.config, config);
        // Where to dial changed: the session starts again, as with any other change of who the peer is.
        let moved: BTreeSet<String> = self
            .config
            .peers
            .iter()
            .filter(|(name, new)| former.peers.get(*name).is_some_and(|old| moved(old, new)))
            .map(|(name, _)| name.clone())
            .collect();
        let next = protocol(&self.config);
        if !moved.is_empty() {
            let mut without = next.clone();
            without.peers.retain(|name, _| !moved.contains(name));
            without.ranges.retain(|name, _| !moved.contains(name));
            self.speaker.configure(now, without);
            self.follow();
        }
        self.place_peers();
        self.speaker.configure(now, next);
        self.doors.apply(&self.config, &self.peers);
        self.bfd.configure(&self.config, &self.peers);
        self.follow();
    }

    /// Sockets for every peer that can be named before it comes.
    fn place_peers(&mut self) {
        let mut interfaces = BTreeSet::new();
        for (name, peer) in &self.config.peers {
            let address = match &peer.target {
                Target::Address(address) => Some(*address),
                Target::Interface { name, .. } => {
                    interfaces.insert(name.clone());
                    None
                }
                Target::Range { .. } => continue,
            };
            let new = || peer::Peer::new(peer.target.clone(), peer.socket.clone(), address);
            let held = self.peers.entry(name.as_str().into()).or_insert_with(new);
            if held.target != peer.target || held.socket != peer.socket {
                // Its session was ended above, so no connection is lost with it.
                *held = new();
            }
        }
        self.interfaces.send_if_modified(|held| {
            let news = *held != interfaces;
            *held = interfaces;
            news
        });
    }
}

/// Whether sockets must be made anew.
fn moved(old: &Peer, new: &Peer) -> bool {
    old.target != new.target || old.socket != new.socket
}

/// A connection from an address is taken for the first peer there, so a second one must dial.
fn warn_of_shared_addresses(config: &Config) {
    let mut seen = BTreeSet::new();
    for (name, peer) in &config.peers {
        if let Target::Address(address) = &peer.target
            && !seen.insert(address.ip())
        {
            tracing::warn!(peer = name, %address, "address shared with another peer");
        }
    }
}
