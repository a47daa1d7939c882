//! The sessions of the BFD thread: which packet is whose, when each is due, and a new set of peers as a difference.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::{Duration, Instant};

use bgp_proto::bfd::{BfdOutput, BfdSession, Packet, Received, SessionState};

use super::discriminators::Random;
use super::events::Events;
use super::peer::{BfdEvent, BfdPeer, BfdPeerStatus, BfdSettings};
use super::socket::{Datagram, Listening, Sender, TTL};

/// The longest that a removed session goes on telling AdminDown (RFC 5880 §6.8.16).
const LONGEST_FAREWELL: Duration = Duration::from_secs(5);

/// All sessions, by our discriminators.
#[derive(Debug)]
pub(super) struct Sessions {
    settings: BfdSettings,
    random: Random,
    entries: BTreeMap<u32, Entry>,
    names: BTreeMap<String, u32>,
    /// When which session is due.
    timers: BTreeSet<(Instant, u32)>,
    events: Events,
    /// Set by [`Self::admin_down_all`]: no session starts any more.
    stopping: bool,
    /// Whether a session came or went since [`Self::take_changed`].
    changed: bool,
}

#[derive(Debug)]
struct Entry {
    name: String,
    peer: BfdPeer,
    session: BfdSession,
    sender: Option<Sender>,
    send_error: Option<String>,
    sent: u64,
    received: u64,
    armed: Option<Instant>,
    /// The detection time and C bit last told.
    told: (Option<Duration>, bool),
    /// When a removed session has said AdminDown for long enough.
    leaves_at: Option<Instant>,
}

impl Sessions {
    pub(super) fn new(settings: BfdSettings, events: Events) -> Self {
        Self {
            settings,
            random: Random::default(),
            entries: BTreeMap::new(),
            names: BTreeMap::new(),
            timers: BTreeSet::new(),
            events,
            stopping: false,
            changed: false,
        }
    }

    /// Makes `peers` the peers: new ones start, missing ones say AdminDown and go, the others only learn what changed.
    pub(super) fn configure(&mut self, now: Instant, peers: BTreeMap<String, BfdPeer>) {
        if self.stopping {
            return;
        }
        let gone: Vec<_> = self
            .names
            .iter()
            .filter(|(name, id)| {
                let entry = self.entries.get(*id);
                let wanted = peers.get(*name);
                !wanted.is_some_and(|peer| entry.is_some_and(|e| same_path(&e.peer, peer)))
            })
            .map(|(name, id)| (name.clone(), *id))
            .collect();
        for (name, id) in gone {
            self.names.remove(&name);
            self.events.forget(&name);
            self.dismiss(now, id);
        }
        for (name, mut peer) in peers {
            peer.config.control_plane_independent = self.settings.control_plane_independent;
            match self.names.get(&name).copied() {
                Some(id) => self.reconfigure(now, id, peer),
                None => self.add(now, name, peer),
            }
        }
    }

    /// Tells every peer AdminDown now; nothing starts again after this.
    pub(super) fn admin_down_all(&mut self, now: Instant) {
        self.stopping = true;
        let all: Vec<_> = self.entries.keys().copied().collect();
        for id in all {
            self.touch(now, id, |session| session.handle_admin_down(now));
        }
    }

    /// Undoes [`Self::admin_down_all`] from the next set of peers on.
    pub(super) fn resume(&mut self) {
        self.stopping = false;
    }

    /// A packet that came to the listener of this kind; whether a session took it.
    pub(super) fn receive(
        &mut self,
        now: Instant,
        listening: Listening,
        datagram: &Datagram,
        packet: &Packet,
    ) -> bool {
        let Some(id) = self.select(listening, datagram, packet) else {
            return false;
        };
        let mut accepted = false;
        self.touch(now, id, |session| {
            accepted = session.handle_packet(now, packet) == Received::Accepted;
        });
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.received += u64::from(accepted);
        }
        accepted
    }

    /// Does what is due.
    pub(super) fn handle_timeouts(&mut self, now: Instant) {
        while let Some(&(at, id)) = self.timers.first() {
            if at > now {
                break;
            }
            let leaves = |entry: &Entry| entry.leaves_at.is_some_and(|at| at <= now);
            if self.entries.get(&id).is_some_and(leaves) {
                self.remove(id);
            } else {
                self.touch(now, id, |session| session.handle_timeout(now));
            }
        }
    }

    /// When [`Self::handle_timeouts`] is next due.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Hands on events that had to wait; whether some still do.
    pub(super) fn flush_events(&mut self) -> bool {
        self.events.flush()
    }

    /// Whether [`Self::listeners`] may be others than when this was last asked.
    pub(super) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// The listeners that the sessions need.
    pub(super) fn listeners(&self) -> BTreeSet<Listening> {
        let entries = self.entries.values();
        entries.map(|entry| Listening::of(&entry.peer)).collect()
    }

    /// Each configured session as it is now.
    pub(super) fn status(&self) -> BTreeMap<String, BfdPeerStatus> {
        let named = self.names.iter();
        named
            .filter_map(|(name, id)| {
                let entry = self.entries.get(id)?;
                let status = BfdPeerStatus {
                    session: entry.session.status(),
                    sent: entry.sent,
                    received: entry.received,
                    send_error: entry.send_error.clone(),
                };
                Some((name.clone(), status))
            })
            .collect()
    }

    fn add(&mut self, now: Instant, name: String, peer: BfdPeer) {
        let former = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.leaves_at.is_some() && same_path(&entry.peer, &peer));
        for id in former.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.remove(id);
        }
        let id = self.random.discriminator(&self.entries);
        let session = BfdSession::new(peer.config.clone(), id, self.random.next());
        let entry = Entry {
            name: name.clone(),
            peer,
            session,
            sender: None,
            send_error: None,
            sent: 0,
            received: 0,
            armed: None,
            told: (None, false),
            leaves_at: None,
        };
        self.entries.insert(id, entry);
        self.changed = true;
        self.names.insert(name, id);
        self.touch(now, id, |session| session.handle_start(now));
    }

    fn reconfigure(&mut self, now: Instant, id: u32, peer: BfdPeer) {
        let Some(entry) = self.entries.get_mut(&id) else {
            return;
        };
        let changed = (entry.peer.config != peer.config).then(|| peer.config.clone());
        entry.peer = peer;
        self.touch(now, id, |session| {
            if let Some(config) = changed {
                session.handle_config(now, config);
            }
            // Only after an AdminDown that was undone is there anything to start.
            session.handle_start(now);
        });
    }

    /// Lets a session say AdminDown until its peer has heard it or found it silent.
    fn dismiss(&mut self, now: Instant, id: u32) {
        self.touch(now, id, |session| session.handle_admin_down(now));
        let Some(entry) = self.entries.get_mut(&id) else {
            return;
        };
        let multiplier = u32::from(entry.peer.config.detect_multiplier.get());
        let interval = entry.session.status().transmit_interval.unwrap_or_default();
        entry.leaves_at = Some(now + (interval * multiplier).min(LONGEST_FAREWELL));
        self.touch(now, id, |_| {});
    }

    fn remove(&mut self, id: u32) {
        self.changed = true;
        if let Some(entry) = self.entries.remove(&id)
            && let Some(at) = entry.armed
        {
            self.timers.remove(&(at, id));
        }
    }

    /// The session a packet is for (RFC 5880 §6.8.6; RFC 5881 §3), if the packet may come from its peer at all.
    fn select(&self, listening: Listening, datagram: &Datagram, packet: &Packet) -> Option<u32> {
        let may_be = |entry: &Entry| {
            let peer = &entry.peer;
            let least_ttl = peer.multihop.unwrap_or(TTL);
            Listening::of(peer) == listening
                && peer.remote == datagram.from
                && peer.local.is_none_or(|local| local == datagram.to)
                && peer
                    .interface
                    .is_none_or(|index| index == datagram.interface)
                && datagram.ttl >= least_ttl
        };
        if packet.your_discriminator != 0 {
            let entry = self.entries.get(&packet.your_discriminator)?;
            return may_be(entry).then_some(packet.your_discriminator);
        }
        let mut named = self.names.values();
        named
            .find(|id| self.entries.get(*id).is_some_and(may_be))
            .copied()
    }

    /// Does something to a session, then all that the session wants, then arms its timer.
    fn touch(&mut self, now: Instant, id: u32, work: impl FnOnce(&mut BfdSession)) {
        let Some(entry) = self.entries.get_mut(&id) else {
            return;
        };
        work(&mut entry.session);
        while let Some(output) = entry.session.poll_output() {
            match output {
                BfdOutput::Send(packet) => entry.send(&packet, &self.settings, &mut self.random),
                event => self.events.push(entry.event(&event)),
            }
        }
        if let Some(event) = entry.change() {
            self.events.push(event);
        }
        let next = entry
            .session
            .poll_timeout()
            .into_iter()
            .chain(entry.leaves_at);
        let next = next.min().map(|at| at.max(now));
        if next != entry.armed {
            if let Some(at) = entry.armed {
                self.timers.remove(&(at, id));
            }
            entry.armed = next;
            self.timers.extend(next.map(|at| (at, id)));
        }
    }
}

impl Entry {
    fn send(&mut self, packet: &Packet, settings: &BfdSettings, random: &mut Random) {
        match self.try_send(packet, settings, random) {
            Ok(()) => {
                self.sent += 1;
                self.send_error = None;
            }
            Err(error) => {
                let text = error.to_string();
                if self.send_error.as_ref() != Some(&text) {
                    tracing::warn!("BFD packets to {} can't be sent: {text}", self.name);
                }
                self.send_error = Some(text);
                // The address or the interface may be another by the next time.
                self.sender = None;
            }
        }
    }

    fn try_send(
        &mut self,
        packet: &Packet,
        settings: &BfdSettings,
        random: &mut Random,
    ) -> io::Result<()> {
        let sender = match self.sender.take() {
            Some(sender) => sender,
            None => {
                let port = match self.peer.multihop {
                    Some(_) => settings.multihop_port,
                    None => settings.single_hop_port,
                };
                Sender::open(&self.peer, port, random.next())?
            }
        };
        self.sender.insert(sender).send(&packet.encode())
    }

    fn event(&mut self, output: &BfdOutput) -> BfdEvent {
        let status = self.session.status();
        self.told = (status.detection_time, status.control_plane_independent);
        let peer = self.name.clone();
        match output {
            BfdOutput::Down {
                diagnostic,
                remote_admin_down,
                begun_anew,
            } => BfdEvent::Down {
                peer,
                diagnostic: *diagnostic,
                remote_admin_down: *remote_admin_down,
                begun_anew: *begun_anew,
                control_plane_independent: status.control_plane_independent,
            },
            BfdOutput::Up | BfdOutput::Send(_) => BfdEvent::Up { peer },
        }
    }

    /// The event of an Up session whose timers or C bit are not those last told.
    fn change(&mut self) -> Option<BfdEvent> {
        let status = self.session.status();
        let now = (status.detection_time, status.control_plane_independent);
        if status.state != SessionState::Up || now == self.told {
            return None;
        }
        self.told = now;
        Some(BfdEvent::Changed {
            peer: self.name.clone(),
        })
    }
}

/// Whether both are one session: all but timers and the least TTL is the same.
fn same_path(one: &BfdPeer, other: &BfdPeer) -> bool {
    let path = |peer: &BfdPeer| {
        (
            peer.remote,
            peer.local,
            peer.interface,
            peer.multihop.is_some(),
        )
    };
    path(one) == path(other)
}
