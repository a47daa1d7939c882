//! Which of a node's two WireGuard keys is in use, and when one is replaced so that no packet is lost: pure.
//!
//! A new private key ends all sessions of a device, and a prefix belongs to one key of a peer. So each node has two devices,
//! its *slots*, each with a key of its own, and takes packets by either. To replace the key of one, a node says that it
//! retires that slot; all others then send by the other one. When nothing comes by it any more, it gets its new key, which
//! is published. The node itself sends by it again once the others have had time to hear of it.
//!
//! Call [`Keys::handle_others`], [`Keys::handle_published`], [`Keys::handle_received`] and [`Keys::handle_handshake`] with what happens,
//! [`Keys::poll`] then, and again at every look; publish [`Keys::statement`] whenever it is another.

use std::collections::BTreeMap;
use std::time::Duration;

use api::resources::{WireGuardKey, WireGuardKeys, WireGuardPublicKey};
use sha2::{Digest as _, Sha256};

#[cfg(test)]
mod tests;

/// A point of time: since 1970-01-01 00:00 UTC, so that what outlives the process can be compared.
pub type Time = Duration;

/// The UDP ports of the slots.
pub const PORTS: [u16; 2] = [51820, 51821];

/// How long things take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// How long a key lives; zero: until someone asks for another.
    pub lifetime: Duration,
    /// For how long nothing must have come by a slot before its key goes.
    pub quiet: Duration,
    /// After which time all nodes have heard what was published.
    pub settle: Duration,
}

impl Timing {
    /// The least lifetime that leaves time for a change of both keys.
    pub const LEAST: Duration = Duration::from_secs(120);

    /// From the lifetime: 180 s and 60 s, less only where keys live for less than an hour.
    #[must_use]
    pub fn of_lifetime(lifetime: Duration) -> Self {
        let short = |longest: u64, share: u32| {
            let longest = Duration::from_secs(longest);
            match lifetime.is_zero() {
                true => longest,
                false => longest.min(lifetime / share),
            }
        };
        Self {
            lifetime,
            quiet: short(180, 10),
            settle: short(60, 30),
        }
    }
}

/// This node's key of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnKey {
    /// The key.
    pub public_key: WireGuardPublicKey,
    /// When it was made.
    pub made: Time,
    /// When it was first published; nothing if it was not yet.
    pub published: Option<Time>,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Make a new key for this slot, keep it, put it on the device, and say so by [`Keys::handle_key`].
    MakeKey(usize),
}

/// How far a slot is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SlotState {
    /// Its key is in use.
    InUse,
    /// Its key is new: other nodes may not know it yet.
    Settling,
    /// It is to be replaced, and waits for this, in words for people.
    Waiting(String),
    /// It is being replaced: nobody is to send by it, and something still came at that time.
    Retiring(Time),
}

/// What another node says, and when each slot of it was last another.
#[derive(Clone, Copy, Debug)]
struct Heard {
    keys: WireGuardKeys,
    changed: [Time; 2],
    /// When the last handshake with the key of each slot was completed.
    shaken: [Option<Time>; 2],
}

/// A slot that is being replaced.
#[derive(Clone, Copy, Debug)]
struct Retiring {
    slot: usize,
    /// When that was published, or something last came by it.
    last: Option<Time>,
}

/// The keys of one node, and what it knows of others'.
#[derive(Clone, Debug)]
pub struct Keys {
    node: String,
    timing: Timing,
    own: [OwnKey; 2],
    retiring: Option<Retiring>,
    /// Someone asked for new keys.
    asked: [bool; 2],
    others: BTreeMap<String, Heard>,
}

impl Keys {
    /// Starts with the keys that are on the devices.
    #[must_use]
    pub fn new(node: &str, timing: Timing, own: [OwnKey; 2]) -> Self {
        Self {
            node: node.to_owned(),
            timing,
            own,
            retiring: None,
            asked: [false; 2],
            others: BTreeMap::new(),
        }
    }

    /// This node's keys.
    #[must_use]
    pub fn own(&self) -> &[OwnKey; 2] {
        &self.own
    }

    /// What this node is to publish.
    #[must_use]
    pub fn statement(&self) -> WireGuardKeys {
        let mut keys = WireGuardKeys::default();
        for (slot, (place, own)) in keys.iter_mut().zip(&self.own).enumerate() {
            *place = Some(WireGuardKey {
                public_key: own.public_key,
                port: PORTS.get(slot).copied().unwrap_or_default(),
                retiring: self.is_retiring(slot),
            });
        }
        keys
    }

    /// Someone asks for new keys, as soon as that loses nothing.
    pub fn rotate(&mut self) {
        self.asked = [true; 2];
    }

    /// This was published.
    pub fn handle_published(&mut self, now: Time, said: &WireGuardKeys) {
        for (own, said) in self.own.iter_mut().zip(said) {
            if said.is_some_and(|said| said.public_key == own.public_key) {
                own.published.get_or_insert(now);
            }
        }
        if let Some(retiring) = &mut self.retiring
            && said
                .get(retiring.slot)
                .is_some_and(|key| key.is_some_and(|key| key.retiring))
        {
            retiring.last.get_or_insert(now);
        }
    }

    /// This is what the other nodes say; one that is not named is gone.
    pub fn handle_others(&mut self, now: Time, others: &BTreeMap<String, WireGuardKeys>) {
        self.others.retain(|name, _| others.contains_key(name));
        for (name, keys) in others.iter().filter(|(name, _)| **name != self.node) {
            let heard = self.others.entry(name.clone()).or_insert(Heard {
                keys: WireGuardKeys::default(),
                changed: [now; 2],
                shaken: [None; 2],
            });
            let slots = heard.changed.iter_mut().zip(&mut heard.shaken);
            for ((before, new), (changed, shaken)) in heard.keys.iter().zip(keys).zip(slots) {
                if before != new {
                    *changed = now;
                }
                let public = |key: &Option<WireGuardKey>| key.map(|key| key.public_key);
                if public(before) != public(new) {
                    *shaken = None;
                }
            }
            heard.keys = *keys;
        }
        // Two that retire different slots leave each other none: the one of the lower name goes on.
        if let Some(retiring) = self.retiring
            && self
                .rival(retiring.slot)
                .is_some_and(|rival| rival < &self.node)
        {
            self.retiring = None;
        }
    }

    /// Something came by a slot.
    pub fn handle_received(&mut self, now: Time, slot: usize) {
        if let Some(retiring) = &mut self.retiring
            && retiring.slot == slot
            && retiring.last.is_some()
        {
            retiring.last = Some(now);
        }
    }

    /// A handshake with the key that a node has for a slot was completed then.
    pub fn handle_handshake(&mut self, peer: &str, slot: usize, at: Time) {
        let heard = self.others.get_mut(peer);
        if let Some(shaken) = heard.and_then(|heard| heard.shaken.get_mut(slot)) {
            *shaken = Some(at);
        }
    }

    /// A slot has a new key, on the device and on disk.
    pub fn handle_key(&mut self, now: Time, slot: usize, public_key: WireGuardPublicKey) {
        if let Some(own) = self.own.get_mut(slot) {
            *own = OwnKey {
                public_key,
                made: now,
                published: None,
            };
        }
        if let Some(asked) = self.asked.get_mut(slot) {
            *asked = false;
        }
        if self.is_retiring(slot) {
            self.retiring = None;
        }
    }

    /// What is to be done now.
    pub fn poll(&mut self, now: Time) -> Option<Action> {
        if let Some(Retiring { slot, last }) = self.retiring {
            let is_quiet = last.is_some_and(|last| last + self.timing.quiet <= now);
            return (is_quiet && self.rival(slot).is_none()).then_some(Action::MakeKey(slot));
        }
        let slot =
            (0..2).find(|slot| self.is_due(*slot, now) && self.hindrance(*slot, now).is_none())?;
        self.retiring = Some(Retiring { slot, last: None });
        None
    }

    /// By which slot packets go to a node; none where it has published no key. Keys that both ends are known to have, by a
    /// handshake, come first, then those that the other end must have heard of by now, then those that are about to go, then one that it may
    /// not have heard of.
    #[must_use]
    pub fn choose(&self, now: Time, peer: &str) -> Option<usize> {
        let heard = self.others.get(peer)?;
        let slots = (0..).zip(&heard.keys).zip(&self.own);
        let ranked = slots.filter_map(|((slot, theirs), own)| {
            let theirs = theirs.as_ref()?;
            let lower_retires = match self.node.as_str() < peer {
                true => self.is_retiring(slot),
                false => theirs.retiring,
            };
            let is_settled = own
                .published
                .is_some_and(|at| at + self.timing.settle <= now);
            let shaken = heard.shaken.get(slot).copied().flatten();
            let rank = match (is_settled, lower_retires) {
                (true, true) => 3,
                (true, false) if theirs.retiring || self.is_retiring(slot) => 2,
                (true, false) if shaken.is_none_or(|at| at <= own.made) => 1,
                (true, false) => 0,
                (false, _) => 4,
            };
            Some((rank, slot))
        });
        ranked.min().map(|(_, slot)| slot)
    }

    /// How far a slot is.
    #[must_use]
    pub fn state(&self, slot: usize, now: Time) -> SlotState {
        if let Some(retiring) = self.retiring.filter(|retiring| retiring.slot == slot) {
            return match self.rival(slot) {
                Some(rival) => SlotState::Waiting(told_of_rival(rival, 1 - slot)),
                None => SlotState::Retiring(retiring.last.unwrap_or(now)),
            };
        }
        if !self.is_settled(slot, now) {
            return SlotState::Settling;
        }
        match self.hindrance(slot, now).filter(|_| self.is_due(slot, now)) {
            Some(why) => SlotState::Waiting(why),
            None => SlotState::InUse,
        }
    }

    fn is_retiring(&self, slot: usize) -> bool {
        self.retiring.is_some_and(|retiring| retiring.slot == slot)
    }

    /// Whether other nodes are sure to know this node's key.
    fn is_settled(&self, slot: usize, now: Time) -> bool {
        let published = self.own.get(slot).and_then(|own| own.published);
        published.is_some_and(|at| at + self.timing.settle <= now)
    }

    /// Of each lifetime the first half is for slot 0, the second for slot 1, and each node has its own moment in it: so
    /// nodes seldom wait for each other, and never all change at once.
    fn is_due(&self, slot: usize, now: Time) -> bool {
        let asked = self.asked.get(slot).copied().unwrap_or_default();
        let Some(own) = self.own.get(slot) else {
            return false;
        };
        let lifetime = self.timing.lifetime;
        if asked || lifetime.is_zero() {
            return asked;
        }
        let period = u32::try_from(now.as_nanos() / lifetime.as_nanos()).unwrap_or(u32::MAX);
        let half = lifetime / 2;
        let moment = u32::from(self.jitter()) * (half / 512);
        let offset = if slot == 0 { moment } else { half + moment };
        let start = lifetime.saturating_mul(period) + offset;
        start <= now && own.made < start
    }

    /// Of this node's name: of 256 moments one.
    fn jitter(&self) -> u8 {
        Sha256::digest(self.node.as_bytes())
            .first()
            .copied()
            .unwrap_or_default()
    }

    /// A node that retires the other slot.
    fn rival(&self, slot: usize) -> Option<&String> {
        let others = self.others.iter();
        let mut rivals = others.filter(|(_, heard)| {
            heard
                .keys
                .get(1 - slot)
                .is_some_and(|key| key.is_some_and(|key| key.retiring))
        });
        rivals.next().map(|(name, _)| name)
    }

    /// Why a slot can't be retired now: everybody must be able to send by the other one.
    fn hindrance(&self, slot: usize, now: Time) -> Option<String> {
        let other = 1 - slot;
        if !self.is_settled(slot, now) || !self.is_settled(other, now) {
            return Some("the other nodes are to hear of this node's newest key first".to_owned());
        }
        if let Some(rival) = self.rival(slot) {
            return Some(told_of_rival(rival, other));
        }
        let settle = self.timing.settle * 2;
        let fresh = self.others.iter().find(|(_, heard)| {
            let is_there = heard.keys.iter().any(Option::is_some);
            is_there
                && heard
                    .changed
                    .get(other)
                    .is_some_and(|at| *at + settle > now)
        });
        fresh.map(|(name, _)| format!("node {name} has changed its key of slot {other} just now"))
    }
}

/// What others say, without keys that two nodes say are theirs, or that are this node's own: nobody can tell whose they are,
/// and a device has one peer of a key. Beside it what is wrong, in words for people.
#[must_use]
pub fn accepted(
    own: &[OwnKey; 2],
    others: &BTreeMap<String, WireGuardKeys>,
) -> (BTreeMap<String, WireGuardKeys>, Vec<String>) {
    let mut holders: BTreeMap<WireGuardPublicKey, Vec<&str>> = BTreeMap::new();
    for (name, keys) in others {
        for key in keys.iter().flatten() {
            holders.entry(key.public_key).or_default().push(name);
        }
    }
    let (mut accepted, mut problems) = (others.clone(), Vec::new());
    for (key, names) in holders {
        let is_own = own.iter().any(|own| own.public_key == key);
        if names.len() == 1 && !is_own {
            continue;
        }
        let own = if is_own { " and this node" } else { "" };
        problems.push(format!(
            "node {}{own} have one WireGuard key: nothing is sent by it; whoever can write another node's BGPNodeStatus may have copied it",
            names.join(", node ")
        ));
        for name in names {
            for place in accepted.get_mut(name).into_iter().flatten() {
                place.take_if(|held| held.public_key == key);
            }
        }
    }
    (accepted, problems)
}

fn told_of_rival(rival: &str, slot: usize) -> String {
    format!("node {rival} is replacing its key of slot {slot}: that comes first")
}
