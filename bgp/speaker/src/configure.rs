//! A configuration applied as a difference: what a change does not concern is not touched.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use bgp_proto::rib::Originated;
use bgp_proto::session::Stop;
use bgp_proto::wire::Notification;

use crate::actor::{Actor, Running, new_rib, random, route_change};
use crate::config::{Config, PeerConfig};
use crate::listener::Listener;
use crate::peer::{Peer, family, graceful_restart, policy, same_session, session_config};

/// Cease subcodes (RFC 4486).
const PEER_DE_CONFIGURED: u8 = 3;
const OTHER_CONFIGURATION_CHANGE: u8 = 6;

impl Actor {
    /// `first` is given with the first configuration: until when peers of an earlier run are waited for.
    pub(crate) fn configure(&mut self, config: Config, first: Option<Instant>) {
        warn_of_shared_addresses(&config);
        self.forget_if_we_are_someone_else(&config);
        let running = self.running.get_or_insert_with(|| Running {
            config: config.clone(),
            peers: BTreeMap::new(),
            rib: new_rib(&config),
            listeners: BTreeMap::new(),
            initial_sync_by: first,
        });
        // Before any session comes up, so that End-of-RIB follows what we originate.
        let originated = config.originate.iter();
        let originated = originated.map(|net| (*net, Originated::default()));
        running.rib.set_originated(&originated.collect());
        let former = std::mem::replace(&mut running.config, config.clone());
        self.remove_peers(&config);
        self.apply_restart_time(&former, &config);
        for (name, peer) in &config.peers {
            self.apply_peer(name, peer, &config);
        }
        let addresses = config
            .peers
            .values()
            .map(|peer| peer.address.ip())
            .collect();
        self.admitted.send_replace(Arc::new(addresses));
        self.apply_listeners(&config);
    }

    /// Another AS or BGP Identifier: every session ends and every route goes.
    fn forget_if_we_are_someone_else(&mut self, config: &Config) {
        let Some(running) = &self.running else { return };
        let (old, new) = (&running.config.speaker, &config.speaker);
        if (old.asn, old.router_id) == (new.asn, new.router_id) {
            return;
        }
        self.stop_all(&Stop::Notify(Notification::cease(
            OTHER_CONFIGURATION_CHANGE,
        )));
        let Some(running) = &mut self.running else {
            return;
        };
        let mut gone = Vec::new();
        while running.rib.has_work() {
            gone.extend(running.rib.poll_best_changes(usize::MAX));
        }
        self.events.push(gone.into_iter().map(route_change));
        running.peers.clear();
        running.rib = new_rib(config);
    }

    fn remove_peers(&mut self, config: &Config) {
        let Some(running) = &self.running else { return };
        let gone = running
            .peers
            .keys()
            .filter(|name| !config.peers.contains_key(*name));
        for name in gone.cloned().collect::<Vec<_>>() {
            self.remove_peer(&name, PEER_DE_CONFIGURED);
        }
    }

    fn remove_peer(&mut self, name: &str, subcode: u8) {
        let cease = Stop::Notify(Notification::cease(subcode));
        self.with_peer(name, |actor, peer, now| actor.stop(peer, cease, now));
        if let Some(running) = &mut self.running
            && let Some(peer) = running.peers.remove(name)
        {
            running.rib.remove_peer(peer.rib_id);
        }
    }

    fn apply_peer(&mut self, name: &str, config: &PeerConfig, whole: &Config) {
        let held = self
            .running
            .as_ref()
            .and_then(|running| running.peers.get(name));
        match held.map(|peer| (peer.config == *config, same_session(&peer.config, config))) {
            Some((true, _)) => {}
            Some((false, true)) => self.change_rules(name, config),
            Some((false, false)) => {
                self.remove_peer(name, OTHER_CONFIGURATION_CHANGE);
                self.add_peer(name, config, whole);
            }
            None => self.add_peer(name, config, whole),
        }
    }

    fn add_peer(&mut self, name: &str, config: &PeerConfig, whole: &Config) {
        let forwarding = self.forwarding;
        let Some(running) = &mut self.running else {
            return;
        };
        let rib_id = running.rib.add_peer(policy(name, config));
        let restarting = running.initial_sync_by.is_some();
        let graceful = graceful_restart(&whole.speaker, config, forwarding, restarting);
        let session = session_config(&whole.speaker, config, graceful);
        let peer = Peer::new(name, config.clone(), session, rib_id, random());
        tracing::info!(peer = name, address = %config.address, family = ?family(config), "peer configured");
        running.peers.insert(name.to_owned(), peer);
        self.with_peer(name, |_, peer, now| peer.session.handle_start(now));
    }

    /// Import rules and bounds change under the running session.
    fn change_rules(&mut self, name: &str, config: &PeerConfig) {
        self.with_peer(name, |actor, peer, now| {
            peer.config = config.clone();
            if let Some(running) = &mut actor.running {
                running.rib.handle_policy(peer.rib_id, policy(name, config));
            }
            if peer.restart_at.take().is_some() {
                peer.session.handle_start(now);
            }
        });
    }

    fn apply_restart_time(&mut self, former: &Config, config: &Config) {
        if former.speaker.restart_time == config.speaker.restart_time {
            return;
        }
        let forwarding = self.forwarding;
        let Some(running) = &mut self.running else {
            return;
        };
        let restarting = running.initial_sync_by.is_some();
        for peer in running.peers.values_mut() {
            let restarting = restarting && peer.up.is_none() && peer.flaps == 0;
            let next = graceful_restart(&config.speaker, &peer.config, forwarding, restarting);
            peer.session.set_graceful_restart(Some(next));
        }
    }

    fn apply_listeners(&mut self, config: &Config) {
        let (admitted, inbox) = (&self.admitted, &self.inbox);
        let Some(running) = &mut self.running else {
            return;
        };
        let wanted: BTreeSet<_> = config.speaker.listen.iter().copied().collect();
        running
            .listeners
            .retain(|address, _| wanted.contains(address));
        for address in wanted {
            running
                .listeners
                .entry(address)
                .or_insert_with(|| Listener::start(address, admitted.subscribe(), inbox.clone()));
        }
    }
}

/// A connection from an address is taken for the first peer there, so a second one must dial.
fn warn_of_shared_addresses(config: &Config) {
    let mut seen = BTreeSet::new();
    for (name, peer) in &config.peers {
        if !seen.insert(peer.address.ip()) {
            tracing::warn!(peer = name, address = %peer.address, "address shared with another peer");
        }
    }
}
