//! The two WireGuard devices: keys, peers and routes by them, and what goes nowhere rather than in the clear.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use ::overlay::keys::{self, Action, Keys, PORTS, SlotState, Time, Timing};
use ::overlay::{Demand, Silence};
use api::resources::{WireGuardKey, WireGuardKeys};
use ipnet::IpNet;
use routes::{PublicKey, Target, WIREGUARD, WireGuardPeer, WireGuardReport, WireGuardTraffic};
use tokio::sync::watch;
use tracing::{info, warn};

use super::device::{Carried, mtu_of};
use crate::wireguard::{
    KeyStore, Publication, Settings, StoredKey, WireGuardNode, WireGuardSlot, WireGuardState, now,
};

/// How often it is looked at while keys change, or others are to hear of them.
const LOOK_SOON: Duration = Duration::from_secs(1);
/// After so long without an echo what was published is published again: its object may have been deleted.
const UNSEEN: Duration = Duration::from_secs(15);
/// From the publication of this node's keys to the first route by them, where packets have another way until then. A node that hears of
/// them later drops the first handshake, and the next one comes after five seconds.
const HEARD: Duration = Duration::from_secs(10);

/// Where keys are published, and told of.
#[derive(Debug)]
pub(crate) struct Publisher {
    pub(crate) wish: watch::Sender<Publication>,
    pub(crate) done: watch::Receiver<Option<(Time, Publication)>>,
    /// How often new keys were asked for.
    pub(crate) asked: watch::Receiver<u64>,
}

/// Both devices.
#[derive(Debug)]
pub(super) struct WireGuard {
    settings: Settings,
    publisher: Publisher,
    running: Option<Running>,
}

/// What is known while the devices are asked for.
#[derive(Debug)]
struct Running {
    store: KeyStore,
    stored: [StoredKey; 2],
    keys: Keys,
    /// Of each peer of each slot.
    traffic: [BTreeMap<PublicKey, WireGuardTraffic>; 2],
    silences: [BTreeMap<PublicKey, Silence>; 2],
    /// By which slot each node is sent to, and its key there.
    ways: BTreeMap<String, (usize, PublicKey)>,
    /// The newest wish for new keys that was heeded.
    asked: u64,
    /// The newest publication that was taken in.
    heard: u64,
    /// Since when what others see of this node is not what it says.
    unseen: Option<Time>,
    problems: Vec<String>,
    lacking: Vec<String>,
}

impl WireGuard {
    pub(super) fn new(settings: Settings, publisher: Publisher) -> Self {
        Self {
            settings,
            publisher,
            running: None,
        }
    }

    /// Makes devices, peers and keys what is asked for.
    ///
    /// # Errors
    /// Keys can't be kept, or a device can't be made.
    pub(super) async fn carry_out(&mut self, demand: &Demand) -> Result<Carried, String> {
        if demand.is_closed() {
            // Devices and keys stay as they are: the address may come back.
            return Ok(Carried {
                routes: closed(&demand.ranges),
                report: routes::TunnelReport::default(),
                is_ready: true,
                again: None,
            });
        }
        let now = now();
        if self.running.is_none() {
            let asked = *self.publisher.asked.borrow();
            self.running = Some(Running::begin(&self.settings, now, asked).await?);
        }
        let Some(running) = &mut self.running else {
            return Err("no keys".to_owned());
        };
        running.problems.clear();
        running.heed(&self.publisher);
        let mut others = demand.keys.clone();
        let seen = others.remove(&self.settings.node).unwrap_or_default();
        let (others, problems) = keys::accepted(running.keys.own(), &others);
        running.problems.extend(problems);
        running.keys.handle_others(now, &others);
        running.take_in(now, &self.publisher).await;
        if let Some(Action::MakeKey(slot)) = running.keys.poll(now) {
            running.replace(now, slot).await?;
        }
        let mut report = routes::TunnelReport::default();
        let mtu = mtu_of(demand, demand.peers.values().map(|peer| peer.underlay)).await;
        let mtu = mtu.map_err(|error| error.to_string())?;
        for (slot, device) in WIREGUARD.iter().enumerate() {
            let wanted = running.device(slot, demand, &others, mtu);
            let done = routes::apply_wireguard(&wanted).await;
            let done = done.map_err(|error| error.to_string())?;
            running.note_traffic(now, slot, &others, &done);
            report.made |= done.made;
            report.written += done.written;
            report.deleted += done.deleted;
            report.failed.extend(done.failed);
            if done.rekeyed {
                info!(device, "the device has this node's newest key");
            }
        }
        // Only now: what others hear of must be on the devices.
        running.publish(now, &seen, &self.publisher);
        let routes = running.routes(now, demand, &others);
        running.note_silence();
        report.failed.append(&mut running.problems);
        report.failed.extend(running.lacking.iter().cloned());
        Ok(Carried {
            is_ready: running.is_heard(now),
            again: running.is_busy(now).then_some(LOOK_SOON),
            routes,
            report,
        })
    }

    /// Forgets all: the devices are gone.
    pub(super) fn end(&mut self) {
        self.running = None;
    }

    /// For people.
    pub(super) fn state(&self) -> Option<WireGuardState> {
        let (running, now) = (self.running.as_ref()?, now());
        let slots = running.keys.own().iter().enumerate();
        let slots = slots.map(|(slot, own)| {
            let (state, detail) = match running.keys.state(slot, now) {
                SlotState::InUse => ("InUse", String::new()),
                SlotState::Settling => ("Settling", "other nodes are to hear of it".to_owned()),
                SlotState::Waiting(why) => ("Waiting", why),
                SlotState::Retiring(last) => {
                    let ago = now.saturating_sub(last).as_secs();
                    ("Retiring", format!("nothing has come for {ago} s"))
                }
            };
            WireGuardSlot::new(slot, own, now, (state, detail))
        });
        Some(WireGuardState {
            slots: slots.collect(),
            peers: running.nodes(now),
            without_key: running.lacking.clone(),
        })
    }
}

/// Nothing of these ranges goes out in the clear: each is a route to nowhere, beside those of prefixes with a way.
pub(super) fn closed(ranges: &BTreeSet<IpNet>) -> BTreeMap<IpNet, Target> {
    let ranges = ranges.iter();
    ranges.map(|range| (*range, Target::Blackhole)).collect()
}

impl Running {
    async fn begin(settings: &Settings, now: Time, asked: u64) -> Result<Self, String> {
        let store = KeyStore::new(&settings.state_dir);
        let opened = store.clone();
        let opened = blocking(move || Ok([opened.open(0, now)?, opened.open(1, now)?])).await?;
        let stored = opened.map(|(key, lost)| {
            if let Some(lost) = lost {
                warn!("{lost}");
            }
            key
        });
        let own = [stored[0].own, stored[1].own];
        let timing = Timing::of_lifetime(settings.lifetime);
        Ok(Self {
            keys: Keys::new(&settings.node, timing, own),
            store,
            stored,
            traffic: Default::default(),
            silences: Default::default(),
            ways: BTreeMap::new(),
            asked,
            heard: 0,
            unseen: None,
            problems: Vec::new(),
            lacking: Vec::new(),
        })
    }

    /// What was published since the last look.
    async fn take_in(&mut self, now: Time, publisher: &Publisher) {
        let done = publisher.done.borrow().clone();
        let Some((at, publication)) = done.filter(|(_, done)| done.number > self.heard) else {
            return;
        };
        self.heard = publication.number;
        self.keys.handle_published(at.min(now), &publication.keys);
        for slot in 0..self.stored.len() {
            let (Some(own), Some(stored)) = (self.keys.own().get(slot), self.stored.get_mut(slot))
            else {
                continue;
            };
            if stored.own == *own {
                continue;
            }
            stored.own = *own;
            let (store, stored) = (self.store.clone(), stored.clone());
            if let Err(why) = blocking(move || store.keep(slot, &stored)).await {
                self.problems
                    .push(format!("{why}: after a restart the key counts as new"));
            }
        }
    }

    /// A new key for a slot: on disk before anything else.
    async fn replace(&mut self, now: Time, slot: usize) -> Result<(), String> {
        let store = self.store.clone();
        let key = blocking(move || store.make(slot, now)).await?;
        info!(device = WIREGUARD.get(slot), "a new WireGuard key");
        self.keys.handle_key(now, slot, key.own.public_key);
        if let Some(stored) = self.stored.get_mut(slot) {
            *stored = key;
        }
        Ok(())
    }

    fn publish(&mut self, now: Time, seen: &WireGuardKeys, publisher: &Publisher) {
        let said = self.keys.statement();
        let is_seen = *seen == said;
        let unseen = *self.unseen.get_or_insert(now);
        if is_seen {
            self.unseen = None;
        }
        let is_lost = !is_seen && unseen + UNSEEN <= now;
        let is_new = publisher.wish.borrow().keys != said;
        if is_new || is_lost {
            self.unseen = Some(now);
            publisher.wish.send_modify(|wish| {
                wish.number += 1;
                wish.keys = said;
            });
        }
    }

    /// What a device is to be: all nodes that have a key of this slot, with all that they hold.
    fn device(
        &self,
        slot: usize,
        demand: &Demand,
        others: &BTreeMap<String, WireGuardKeys>,
        mtu: u32,
    ) -> routes::WireGuard {
        let peers = demand.peers.iter().filter_map(|(name, peer)| {
            let key = key_of(others.get(name)?, slot)?;
            let peer = WireGuardPeer {
                endpoint: SocketAddr::new(peer.underlay, key.port),
                allowed: peer.prefixes.keys().copied().collect(),
            };
            Some((key.public_key, peer))
        });
        let key = self.stored.get(slot).unwrap_or(&self.stored[0]);
        routes::WireGuard {
            slot,
            private_key: key.private.clone(),
            listen_port: PORTS.get(slot).copied().unwrap_or_default(),
            mtu,
            addresses: demand.addresses.clone(),
            peers: peers.collect(),
        }
    }

    fn note_traffic(
        &mut self,
        now: Time,
        slot: usize,
        others: &BTreeMap<String, WireGuardKeys>,
        report: &WireGuardReport,
    ) {
        let (Some(before), Some(silences)) =
            (self.traffic.get_mut(slot), self.silences.get_mut(slot))
        else {
            return;
        };
        let grew = |(key, new): (&PublicKey, &WireGuardTraffic)| {
            new.received > before.get(key).map_or(0, |before| before.received)
        };
        if report.traffic.iter().any(grew) {
            self.keys.handle_received(now, slot);
        }
        silences.retain(|key, _| report.traffic.contains_key(key));
        for (key, traffic) in &report.traffic {
            let silence = silences.entry(*key).or_default();
            silence.note(now, traffic.received, traffic.sent);
        }
        for (name, keys) in others {
            let key = key_of(keys, slot);
            let traffic = key.and_then(|key| report.traffic.get(&key.public_key));
            if let Some(at) = traffic.and_then(|traffic| traffic.handshake) {
                self.keys.handle_handshake(name, slot, at);
            }
        }
        before.clone_from(&report.traffic);
    }

    /// Nodes that are sent to and do not answer.
    fn note_silence(&mut self) {
        for (node, (slot, key)) in &self.ways {
            let silence = self.silences.get(*slot).and_then(|all| all.get(key));
            let (Some(time), Some(port)) = (
                silence.and_then(Silence::is_too_long),
                PORTS.get(*slot).copied(),
            ) else {
                continue;
            };
            self.problems.push(format!(
                "Node {node} has answered nothing for {} s by WireGuard: let the network pass UDP {port} between the nodes both ways, and look whether its agent runs (`portolan status` there)",
                time.as_secs()
            ));
        }
    }

    /// Somebody asked for new keys.
    fn heed(&mut self, publisher: &Publisher) {
        let asked = *publisher.asked.borrow();
        if asked != self.asked {
            self.asked = asked;
            self.keys.rotate();
            info!("new WireGuard keys are asked for");
        }
    }

    /// For people: each node that is sent to.
    fn nodes(&self, now: Time) -> Vec<WireGuardNode> {
        let ways = self.ways.iter().map(|(node, (slot, key))| {
            let traffic = self.traffic.get(*slot).and_then(|all| all.get(key));
            WireGuardNode::new(node, (*slot, key), traffic.copied(), now)
        });
        ways.collect()
    }

    /// By the slot that both ends agree on; what no key leads to goes nowhere.
    fn routes(
        &mut self,
        now: Time,
        demand: &Demand,
        others: &BTreeMap<String, WireGuardKeys>,
    ) -> BTreeMap<IpNet, Target> {
        self.lacking.clear();
        self.ways.clear();
        let mut routes = closed(&demand.ranges);
        for (name, peer) in &demand.peers {
            let slot = self.keys.choose(now, name);
            if slot.is_none() {
                self.lacking.push(format!(
                    "Node {name} has published no WireGuard key (its agent is older, has just started, or can't write its BGPNodeStatus): nothing is sent to its pods"
                ));
            }
            if let Some(slot) = slot
                && let Some(key) = others.get(name).and_then(|keys| key_of(keys, slot))
            {
                self.ways.insert(name.clone(), (slot, key.public_key));
            }
            let device = slot.and_then(|slot| WIREGUARD.get(slot));
            let target = match device {
                Some(device) => Target::Interface((*device).to_owned()),
                None => Target::Blackhole,
            };
            for prefix in peer.prefixes.keys() {
                routes.insert(*prefix, target.clone());
            }
        }
        routes
    }

    /// Whether this node's keys are published for a while, and all that it sends to have some.
    fn is_heard(&self, now: Time) -> bool {
        let mut own = self.keys.own().iter();
        let is_published = own.all(|own| own.published.is_some_and(|at| at + HEARD <= now));
        is_published && self.lacking.is_empty()
    }

    fn is_busy(&self, now: Time) -> bool {
        let state = |slot| self.keys.state(slot, now);
        self.unseen.is_some()
            || [0, 1]
                .map(state)
                .iter()
                .any(|state| *state != SlotState::InUse)
    }
}

fn key_of(keys: &WireGuardKeys, slot: usize) -> Option<WireGuardKey> {
    keys.get(slot).copied().flatten()
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, String> {
    let done = tokio::task::spawn_blocking(work).await;
    let done = done.unwrap_or_else(|_| Err(std::io::Error::other("stopped")));
    done.map_err(|error| format!("WireGuard keys can't be kept in the state folder: {error}"))
}
