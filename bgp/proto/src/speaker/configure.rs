//! A configuration applied as a difference: what a change does not concern is not touched.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::config::{Config, PeerConfig};
use super::core::{Speaker, rib_config};
use super::events::Action;
use super::peer::{Peer, UNSEEN_TIME, graceful_restart, long_lived, policy, session_config};
use crate::session::Stop;
use crate::wire::Notification;

/// Cease subcodes (RFC 4486).
const ADMINISTRATIVE_SHUTDOWN: u8 = 2;
const PEER_DE_CONFIGURED: u8 = 3;
const OTHER_CONFIGURATION_CHANGE: u8 = 6;

/// How long a speaker that was restarted waits for BFD before it tries a session without. Until it is up BFD sends
/// once a second (RFC 5880 §6.8.3), and needs three packets.
const BFD_AFTER_RESTART: Duration = Duration::from_secs(5);

impl Speaker {
    /// Brings the speaker to this configuration.
    pub fn configure(&mut self, now: Instant, config: Config) {
        let (old, new) = (&self.config.speaker, &config.speaker);
        if (old.asn, old.router_id, old.cluster_id) != (new.asn, new.router_id, new.cluster_id) {
            self.become_someone_else(now, &config);
        }
        self.rib.set_config(rib_config(&config));
        // Before any session comes up, so that End-of-RIB follows what we originate.
        self.rib.set_originated(&config.originate);
        self.rib.set_graceful_shutdown(config.draining);
        let former = std::mem::replace(&mut self.config, config);
        self.remove_absent(now, &former);
        let peers: Vec<_> = self
            .config
            .peers
            .iter()
            .map(|(name, peer)| (Arc::from(name.as_str()), peer.clone()))
            .collect();
        for (name, peer) in peers {
            self.apply_peer(now, name, peer, None);
        }
        self.apply_ranges(now);
        self.end_initial_sync_if_due(now);
    }

    /// Another AS, BGP Identifier or CLUSTER_ID: every session ends and every route goes.
    fn become_someone_else(&mut self, now: Instant, config: &Config) {
        let names: Vec<_> = self.peers.keys().cloned().collect();
        for name in names {
            self.remove_peer(now, &name, OTHER_CONFIGURATION_CHANGE);
        }
        self.forget_routes(config);
    }

    fn remove_absent(&mut self, now: Instant, former: &Config) {
        let config = &self.config;
        let gone: Vec<_> = self
            .peers
            .iter()
            .filter(|(name, peer)| match &peer.range {
                None => !config.peers.contains_key(&***name),
                // Whoever was let in by a range goes with it, or with its limits.
                Some(range) => match (config.ranges.get(&**range), former.ranges.get(&**range)) {
                    (Some(now), Some(then)) => now.range != then.range,
                    _ => true,
                },
            })
            .map(|(name, _)| Arc::clone(name))
            .collect();
        for name in gone {
            self.remove_peer(now, &name, PEER_DE_CONFIGURED);
        }
    }

    fn remove_peer(&mut self, now: Instant, name: &str, subcode: u8) {
        let cease = Notification::cease(subcode);
        self.act(now, name, |peer, _| {
            peer.session.handle_stop(now, Stop::Notify(cease));
        });
        self.forget(name);
    }

    /// Takes a peer out of all the books.
    pub(super) fn forget(&mut self, name: &str) {
        let Some(peer) = self.peers.remove(name) else {
            return;
        };
        if let Some(at) = peer.armed {
            self.timers.remove(&(at, Arc::clone(&peer.name)));
        }
        self.rib.remove_peer(peer.rib_id);
        if let Some(gateway) = peer.gateway_down {
            self.actions.push_back(Action::GatewayUp(gateway));
        }
        self.actions.push_back(Action::Forget { peer: peer.name });
    }

    pub(super) fn apply_peer(
        &mut self,
        now: Instant,
        name: Arc<str>,
        config: PeerConfig,
        range: Option<Arc<str>>,
    ) {
        let held = self.peers.get(&name);
        match held.map(|held| held.config.same_session(&config)) {
            Some(true) => self.change_rules(now, &name, config),
            Some(false) => {
                self.remove_peer(now, &name, OTHER_CONFIGURATION_CHANGE);
                self.add_peer(now, name, config, range);
            }
            None => self.add_peer(now, name, config, range),
        }
    }

    fn add_peer(
        &mut self,
        now: Instant,
        name: Arc<str>,
        config: PeerConfig,
        range: Option<Arc<str>>,
    ) {
        let restarting = self.initial_sync_by.is_some();
        let session = session_config(&self.config.speaker, &config, self.restart, restarting);
        let rib_id = self.rib.add_peer(policy(&name, &config));
        let seed = self.next_seed();
        let mut peer = Peer::new(Arc::clone(&name), config, session, rib_id, seed);
        peer.range = range;
        peer.unseen_until = peer.range.is_some().then(|| now + UNSEEN_TIME);
        // Who comes by a range is not expected, so it is not waited for either.
        peer.synced = peer.range.is_some();
        // BFD that ended with the earlier run may still be up at the peer: a session that stands before the peer sees
        // it go down would be ended for it, and not gracefully (RFC 5882 §4.3).
        let restarted = restarting && self.restart.forwarding_preserved;
        let awaits_bfd = restarted && peer.config.bfd.is_some() && peer.range.is_none();
        self.peers.insert(Arc::clone(&name), peer);
        self.act(now, &name, |peer, _| {
            if peer.config.shutdown.is_some() {
                return;
            }
            if awaits_bfd {
                peer.awaits_bfd = true;
                peer.restart_at = Some(now + BFD_AFTER_RESTART);
            } else {
                peer.session.handle_start(now);
            }
        });
    }

    /// Import and export rules, bounds and restart times change under the running session.
    fn change_rules(&mut self, now: Instant, name: &Arc<str>, config: PeerConfig) {
        let restart = self.restart;
        let restarting = self.initial_sync_by.is_some();
        self.act(now, name, |peer, rib| {
            if peer.config == config {
                return;
            }
            let before = std::mem::replace(&mut peer.config, config);
            rib.handle_policy(peer.rib_id, policy(&peer.name, &peer.config));
            let restarting = restarting && peer.up.is_none() && peer.flaps == 0;
            let next = graceful_restart(&peer.config, restart, restarting);
            peer.session.set_graceful_restart(next);
            peer.session
                .set_long_lived(long_lived(&peer.config, restart));
            if std::mem::take(&mut peer.over_limit) {
                peer.restart_at = None;
                peer.session.handle_start(now);
            }
            match (&before.shutdown, &peer.config.shutdown) {
                (_, Some(text)) if before.shutdown.as_ref() != Some(text) => {
                    let cease = Notification::cease_with_text(ADMINISTRATIVE_SHUTDOWN, text);
                    peer.session.handle_stop(now, Stop::Notify(cease));
                }
                (Some(_), None) => peer.session.handle_start(now),
                _ => {}
            }
        });
    }
}
