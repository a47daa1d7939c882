//! The speaker: peers by name, the RIBs they share, and one index of all their timers.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::config::{Config, Restart, SpeakerConfig};
use super::events::{Action, Endpoints};
use super::follow;
use super::peer::Peer;
use crate::rib::{BestChange, NextHopState, Rib, RibConfig};
use crate::session::{Direction, State, Stop};
use crate::wire::{Family, Notification};

/// A speaker. See the module for what its driver owes it.
pub struct Speaker {
    pub(super) config: Config,
    pub(super) restart: Restart,
    pub(super) rib: Rib,
    pub(super) peers: BTreeMap<Arc<str>, Peer>,
    pub(super) timers: BTreeSet<(Instant, Arc<str>)>,
    pub(super) actions: VecDeque<Action>,
    /// Until when the peers of an earlier run are waited for; `None`: `InitialSync` has been said.
    pub(super) initial_sync_by: Option<Instant>,
    pub(super) seeds: u64,
    rib_seed: u64,
    /// What went with former RIBs and has not been taken yet.
    left_over: Vec<BestChange>,
}

/// How a speaker stops its sessions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StopAs {
    /// Without a word: peers that help with graceful restart keep our routes.
    Restart,
    /// Cease, Administrative Shutdown, with a text for the other side's people (RFC 9003).
    Shutdown(String),
    /// Hard Reset (RFC 8538 §3): we do not come back, nobody is to keep our routes.
    Leave(String),
}

/// Cease subcodes (RFC 4486).
const ADMINISTRATIVE_SHUTDOWN: u8 = 2;
const ADMINISTRATIVE_RESET: u8 = 4;
/// How long a session that was reset rests.
const RESET_PAUSE: Duration = Duration::from_secs(1);

impl Speaker {
    /// A speaker that has no peers yet: `configure` it next.
    ///
    /// Do that when every local source is in sync: what it originates by then is announced, followed by End-of-RIB, as
    /// soon as a session is up. `seed` decides jitter and hashing: random in production, fixed in a simulation.
    #[must_use]
    pub fn new(speaker: SpeakerConfig, restart: Restart, seed: u64, now: Instant) -> Self {
        let config = Config {
            speaker,
            peers: BTreeMap::new(),
            ranges: BTreeMap::new(),
            originate: BTreeMap::new(),
            draining: false,
        };
        let mut rib = Rib::new(rib_config(&config), seed);
        rib.hold_output(true);
        Self {
            rib,
            restart,
            peers: BTreeMap::new(),
            timers: BTreeSet::new(),
            actions: VecDeque::new(),
            initial_sync_by: Some(now + restart.wait),
            seeds: seed,
            rib_seed: seed,
            left_over: Vec::new(),
            config,
        }
    }

    /// Whether a new connection of this direction is worth handing over; if not, the driver closes it.
    #[must_use]
    pub fn admits(&self, peer: &str, direction: Direction) -> bool {
        self.peers
            .get(peer)
            .is_some_and(|peer| peer.session.admits(direction))
    }

    /// TCP is up. It is refused by [`Action::Close`] where there is no use for it.
    pub fn handle_connected(
        &mut self,
        now: Instant,
        peer: &str,
        direction: Direction,
        endpoints: Endpoints,
    ) {
        self.act(now, peer, |peer, _| {
            *peer.endpoints(direction) = Some(endpoints);
            peer.unseen_until = None;
            peer.session.handle_connected(now, direction);
        });
    }

    /// The dial failed.
    pub fn handle_connect_failed(&mut self, now: Instant, peer: &str) {
        self.act(now, peer, |peer, _| peer.session.handle_connect_failed(now));
    }

    /// TCP was closed by the peer or broke.
    pub fn handle_disconnected(
        &mut self,
        now: Instant,
        peer: &str,
        direction: Direction,
        reason: &str,
    ) {
        self.act(now, peer, |peer, _| {
            *peer.endpoints(direction) = None;
            peer.session.handle_disconnected(now, direction, reason);
        });
    }

    /// Bytes of a connection, cut anywhere.
    pub fn handle_bytes(&mut self, now: Instant, peer: &str, direction: Direction, bytes: &[u8]) {
        self.act(now, peer, |peer, _| {
            peer.session.handle_bytes(now, direction, bytes);
        });
    }

    /// What was given by [`Action::Send`] or `poll_transmit` waits, and none of it went out (RFC 9687).
    pub fn handle_write_blocked(&mut self, now: Instant, peer: &str, direction: Direction) {
        self.act(now, peer, |peer, _| {
            peer.session.handle_write_blocked(now, direction);
        });
    }

    /// Some of what waited went out, or nothing waits any more.
    pub fn handle_write_progress(&mut self, now: Instant, peer: &str, direction: Direction) {
        self.act(now, peer, |peer, _| {
            peer.session.handle_write_progress(now, direction);
        });
    }

    /// Changes what is known of next hops (RFC 4271 §9.1.2.1); until then one counts as reachable at cost 0.
    pub fn handle_next_hops(&mut self, states: impl IntoIterator<Item = (IpAddr, NextHopState)>) {
        self.rib.handle_next_hops(states);
    }

    /// The next hops of what was learned: those worth tracking.
    #[must_use]
    pub fn next_hops(&self) -> BTreeSet<IpAddr> {
        self.rib.next_hops()
    }

    /// Does what is due at `now`. Bytes that have arrived must have been delivered before.
    pub fn handle_timeout(&mut self, now: Instant) {
        // Each once: a timer that is due again at once has its turn at the next call.
        let due: Vec<Arc<str>> = self
            .timers
            .iter()
            .take_while(|(at, _)| *at <= now)
            .map(|(_, name)| Arc::clone(name))
            .collect();
        for name in due {
            self.peer_timeout(now, &name);
        }
        self.end_initial_sync_if_due(now);
    }

    /// When `handle_timeout` is to be called next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let first = self.timers.first().map(|(at, _)| *at);
        first.into_iter().chain(self.initial_sync_by).min()
    }

    /// The next thing to do; called until there is none after every `handle_*`.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// UPDATEs due to a peer, about `budget` bytes of them, for the connection that carries its session.
    pub fn poll_transmit(&mut self, peer: &str, budget: usize) -> Option<(Direction, Bytes)> {
        let peer = self.peers.get_mut(peer)?;
        let direction = peer.carrier()?;
        let bytes = self.rib.poll_transmit(peer.rib_id, budget)?;
        peer.updates.1 += messages_in(&bytes);
        Some((direction, bytes))
    }

    /// Prefixes whose next hops changed since the last call, at most about `at_most`.
    pub fn poll_route_changes(&mut self, at_most: usize) -> Vec<BestChange> {
        if self.left_over.is_empty() {
            return self.rib.poll_best_changes(at_most);
        }
        std::mem::take(&mut self.left_over)
    }

    /// Whether routes wait to be decided: then `poll_route_changes` has more to give.
    #[must_use]
    pub fn has_work(&self) -> bool {
        !self.left_over.is_empty() || self.rib.has_work()
    }

    /// Names of the peers with an Established session, and the connection that carries it.
    pub fn established(&self) -> impl Iterator<Item = (&Arc<str>, Direction)> {
        self.peers
            .iter()
            .filter_map(|(name, peer)| Some((name, peer.carrier()?)))
    }

    /// The state of a peer's session.
    #[must_use]
    pub fn state(&self, peer: &str) -> Option<State> {
        Some(self.peers.get(peer)?.session.state())
    }

    /// Whether stale routes and peers of an earlier run are still waited for (RFC 4724 §4.1).
    #[must_use]
    pub fn is_in_initial_sync(&self) -> bool {
        self.initial_sync_by.is_some()
    }

    /// Ends every session.
    pub fn stop(&mut self, now: Instant, how: &StopAs) {
        let stop = match how {
            StopAs::Restart => Stop::Silent,
            StopAs::Shutdown(text) => {
                Stop::Notify(Notification::cease_with_text(ADMINISTRATIVE_SHUTDOWN, text))
            }
            StopAs::Leave(text) => Stop::Notify(Notification::hard_reset(
                &Notification::cease_with_text(ADMINISTRATIVE_SHUTDOWN, text),
            )),
        };
        let names: Vec<_> = self.peers.keys().cloned().collect();
        for name in names {
            let stop = stop.clone();
            self.act(now, &name, |peer, _| peer.session.handle_stop(now, stop));
        }
    }

    /// Ends a session (Cease, Administrative Reset) and tries it again a second later; false: there is no such peer.
    pub fn reset(&mut self, now: Instant, peer: &str, text: &str) -> bool {
        let known = self.peers.contains_key(peer);
        self.act(now, peer, |peer, _| {
            let cease = Notification::cease_with_text(ADMINISTRATIVE_RESET, text);
            peer.session.handle_stop(now, Stop::Notify(cease));
            // A new connection within a millisecond is taken for a graceful restart by FRR, which may drop the old
            // one before it has read why it ended.
            peer.awaits_bfd = false;
            peer.restart_at = Some(now + RESET_PAUSE);
        });
        known
    }

    /// Asks a peer for all its routes of a family again (RFC 2918); false: it cannot be asked now.
    pub fn request_refresh(&mut self, now: Instant, peer: &str, family: Family) -> bool {
        let mut asked = false;
        self.act(now, peer, |peer, _| {
            asked = peer.session.request_refresh(now, family);
        });
        asked
    }

    /// Does something to a peer, then what its session asks for, then arms its timer.
    pub(super) fn act(&mut self, now: Instant, name: &str, act: impl FnOnce(&mut Peer, &mut Rib)) {
        let Some(peer) = self.peers.get_mut(name) else {
            return;
        };
        act(peer, &mut self.rib);
        follow::follow(peer, &mut self.rib, &mut self.actions, now);
        let wanted = peer.timeout();
        if wanted != peer.armed {
            if let Some(former) = peer.armed.take() {
                self.timers.remove(&(former, Arc::clone(&peer.name)));
            }
            self.timers
                .extend(wanted.map(|at| (at, Arc::clone(&peer.name))));
            peer.armed = wanted;
        }
        if peer.range.is_some() && peer.is_over() {
            self.forget(name);
        }
    }

    /// Every route goes; what that changes is still to be taken.
    pub(super) fn forget_routes(&mut self, config: &Config) {
        self.rib.set_originated(&BTreeMap::new());
        loop {
            let gone = self.rib.poll_best_changes(usize::MAX);
            if gone.is_empty() && !self.rib.has_work() {
                break;
            }
            self.left_over.extend(gone);
        }
        self.rib = Rib::new(rib_config(config), self.rib_seed);
        self.rib.hold_output(self.initial_sync_by.is_some());
    }

    /// A seed of its own for each session.
    pub(super) fn next_seed(&mut self) -> u64 {
        // The step of splitmix64: any constant does that is odd and has no pattern.
        self.seeds = self.seeds.wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.seeds
    }
}

pub(super) fn rib_config(config: &Config) -> RibConfig {
    RibConfig {
        asn: config.speaker.asn,
        router_id: config.speaker.router_id,
        cluster_id: config.speaker.cluster_id,
        multipath: config.speaker.multipath,
    }
}

/// How many messages a run of whole messages holds (RFC 4271 §4.1: the length is at octets 16 and 17).
fn messages_in(bytes: &[u8]) -> u64 {
    let (mut count, mut rest) = (0, bytes);
    while let Some(&[high, low]) = rest.get(16..18) {
        count += 1;
        let length = usize::from(u16::from_be_bytes([high, low])).max(crate::wire::HEADER_LEN);
        rest = rest.get(length..).unwrap_or_default();
    }
    count
}
