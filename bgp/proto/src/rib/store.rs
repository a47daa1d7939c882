//! Interned path attributes: each distinct set is held once, counted by who holds it, known by a dense id.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};

use hashbrown::{HashMap, HashTable};
use rustc_hash::FxSeededState;

use super::attributes::{self, DecisionKey};
use super::hash::Seed;
use crate::wire::PathAttributes;

/// The id of a set of attributes; never 0.
pub(super) type AttributesId = u32;

/// What the kernel's routes say of a gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NextHopState {
    /// Packets can be sent there.
    Reachable {
        /// The cost of the way there (RFC 4271 §9.1.2.2 e).
        igp_cost: u32,
    },
    /// Paths through it are not used (RFC 4271 §9.1.2).
    Unreachable,
}

/// A next hop that some set of attributes has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hop {
    pub(super) address: IpAddr,
    pub(super) link_local: Option<Ipv6Addr>,
    /// `None`: unreachable.
    pub(super) cost: Option<u32>,
    users: u32,
}

#[derive(Debug, Default)]
struct Entry {
    octets: Box<[u8]>,
    holders: u32,
    hop: u32,
    /// Read from the octets once: decisions between many paths are about nothing else.
    key: DecisionKey,
}

/// The store. Two routes have equal attributes exactly when their ids are equal.
#[derive(Debug)]
pub(super) struct AttributeStore {
    seed: Seed,
    entries: Vec<Entry>,
    free: Vec<AttributesId>,
    table: HashTable<AttributesId>,
    scratch: Vec<u8>,
    hops: Vec<Hop>,
    free_hops: Vec<u32>,
    hop_of: HashMap<(IpAddr, Option<Ipv6Addr>), u32, FxSeededState>,
    last_hop: u32,
    states: BTreeMap<IpAddr, NextHopState>,
}

impl AttributeStore {
    pub(super) fn new(seed: Seed) -> Self {
        let words = seed.word(0);
        Self {
            seed,
            entries: vec![Entry::default()],
            free: Vec::new(),
            table: HashTable::new(),
            scratch: Vec::new(),
            hops: Vec::new(),
            free_hops: Vec::new(),
            hop_of: HashMap::with_hasher(FxSeededState::with_seed(words as usize)),
            last_hop: 0,
            states: BTreeMap::new(),
        }
    }

    /// The id of these attributes, held once more: for every `intern` and `hold` there is one `release`.
    pub(super) fn intern(&mut self, attributes: &PathAttributes) -> AttributesId {
        let mut octets = std::mem::take(&mut self.scratch);
        octets.clear();
        attributes::encode(attributes, &mut octets);
        let hash = self.seed.octets(&octets);
        let entries = &self.entries;
        let same = |id: &AttributesId| {
            let held = entries.get(*id as usize);
            held.is_some_and(|held| *held.octets == *octets)
        };
        let id = match self.table.find(hash, same) {
            Some(id) => *id,
            None => self.add(&octets, hash, attributes),
        };
        self.scratch = octets;
        self.hold(id);
        id
    }

    fn add(&mut self, octets: &[u8], hash: u64, attributes: &PathAttributes) -> AttributesId {
        let entry = Entry {
            octets: octets.into(),
            holders: 0,
            key: DecisionKey::of(octets),
            hop: self.hop(attributes.next_hop, attributes.link_local_next_hop),
        };
        let id = match self.free.pop() {
            Some(id) => {
                if let Some(place) = self.entries.get_mut(id as usize) {
                    *place = entry;
                }
                id
            }
            None => {
                let id = u32::try_from(self.entries.len()).expect("fewer sets than ids");
                self.entries.push(entry);
                id
            }
        };
        let (entries, seed) = (&self.entries, &self.seed);
        let rehash = |id: &AttributesId| {
            let held = entries.get(*id as usize);
            held.map_or(0, |held| seed.octets(&held.octets))
        };
        self.table.insert_unique(hash, id, rehash);
        id
    }

    /// One more holder. 0 is nobody's.
    pub(super) fn hold(&mut self, id: AttributesId) {
        if id != 0
            && let Some(entry) = self.entries.get_mut(id as usize)
        {
            entry.holders += 1;
        }
    }

    /// One holder less; the last one frees the id. 0 is nobody's.
    pub(super) fn release(&mut self, id: AttributesId) {
        if id == 0 {
            return;
        }
        let Some(entry) = self.entries.get_mut(id as usize) else {
            return;
        };
        entry.holders -= 1;
        if entry.holders > 0 {
            return;
        }
        let gone = std::mem::take(entry);
        let hash = self.seed.octets(&gone.octets);
        if let Ok(found) = self.table.find_entry(hash, |held| *held == id) {
            found.remove();
        }
        self.free.push(id);
        self.leave_hop(gone.hop);
        if self.table.is_empty() {
            self.entries.truncate(1);
            self.entries.shrink_to_fit();
            self.free = Vec::new();
            self.table = HashTable::new();
        }
    }

    pub(super) fn decode(&self, id: AttributesId) -> PathAttributes {
        attributes::decode(self.octets(id))
    }

    pub(super) fn key(&self, id: AttributesId) -> DecisionKey {
        let entry = self.entries.get(id as usize);
        entry.map(|entry| entry.key).expect("held by who asks")
    }

    /// The bits of [`attributes::flag`].
    pub(super) fn flags(&self, id: AttributesId) -> u16 {
        attributes::flags_of(self.octets(id))
    }

    /// AS_PATH, to be compared.
    pub(super) fn as_path(&self, id: AttributesId) -> &[u8] {
        attributes::as_path_of(self.octets(id))
    }

    /// The next hop of a set of attributes.
    pub(super) fn next_hop(&self, id: AttributesId) -> Option<&Hop> {
        let hop = self.entries.get(id as usize)?.hop;
        self.hops.get(hop as usize)
    }

    /// What is known of gateways; `Reachable` at no cost until somebody says otherwise. Those of them that changed and
    /// that a path has.
    pub(super) fn set_states(
        &mut self,
        states: impl IntoIterator<Item = (IpAddr, NextHopState)>,
    ) -> BTreeSet<IpAddr> {
        let default = NextHopState::Reachable { igp_cost: 0 };
        let mut changed = BTreeMap::new();
        for (address, state) in states {
            let before = if state == default {
                self.states.remove(&address)
            } else {
                self.states.insert(address, state)
            };
            if before.unwrap_or(default) != state {
                changed.insert(address, state);
            }
        }
        let mut used = BTreeSet::new();
        if changed.is_empty() {
            return used;
        }
        for hop in &mut self.hops {
            if let (Some(state), None) = (changed.get(&hop.address), hop.link_local) {
                hop.cost = cost(*state);
                if hop.users > 0 {
                    used.insert(hop.address);
                }
            }
        }
        used
    }

    /// The gateways in use, without those on the very link of their peer: a link-local address beside says that
    /// (RFC 2545 §3).
    pub(super) fn addresses(&self) -> BTreeSet<IpAddr> {
        let used = self.hops.iter().filter(|hop| hop.users > 0);
        let used = used.filter(|hop| hop.link_local.is_none());
        used.map(|hop| hop.address)
            .filter(|address| !address.is_unspecified() && !is_link_local(address))
            .collect()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    fn octets(&self, id: AttributesId) -> &[u8] {
        let entry = self.entries.get(id as usize);
        entry.map(|entry| &*entry.octets).expect("held by who asks")
    }

    fn hop(&mut self, address: IpAddr, link_local: Option<Ipv6Addr>) -> u32 {
        let last = self.hops.get_mut(self.last_hop as usize);
        if let Some(hop) = last
            && hop.users > 0
            && (hop.address, hop.link_local) == (address, link_local)
        {
            hop.users += 1;
            return self.last_hop;
        }
        let id = match self.hop_of.get(&(address, link_local)) {
            Some(id) => *id,
            None => self.add_hop(address, link_local),
        };
        if let Some(hop) = self.hops.get_mut(id as usize) {
            hop.users += 1;
        }
        self.last_hop = id;
        id
    }

    fn add_hop(&mut self, address: IpAddr, link_local: Option<Ipv6Addr>) -> u32 {
        let state = self.states.get(&address).copied();
        let state = state.filter(|_| link_local.is_none());
        let hop = Hop {
            address,
            link_local,
            cost: state.map_or(Some(0), cost),
            users: 0,
        };
        let id = match self.free_hops.pop() {
            Some(id) => {
                if let Some(place) = self.hops.get_mut(id as usize) {
                    *place = hop;
                }
                id
            }
            None => {
                self.hops.push(hop);
                u32::try_from(self.hops.len() - 1).expect("fewer next hops than ids")
            }
        };
        self.hop_of.insert((address, link_local), id);
        id
    }

    fn leave_hop(&mut self, id: u32) {
        let Some(hop) = self.hops.get_mut(id as usize) else {
            return;
        };
        hop.users -= 1;
        if hop.users == 0 {
            self.hop_of.remove(&(hop.address, hop.link_local));
            self.free_hops.push(id);
        }
    }
}

fn cost(state: NextHopState) -> Option<u32> {
    match state {
        NextHopState::Reachable { igp_cost } => Some(igp_cost),
        NextHopState::Unreachable => None,
    }
}

/// Only good together with a link.
pub(super) fn is_link_local(address: &IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rib::tests::fixtures::{attributes, from};

    #[test]
    fn equal_attributes_are_held_once_and_go_with_their_last_holder() {
        let mut store = AttributeStore::new(Seed::new(1));
        let one = store.intern(&attributes(&[1, 2]));
        assert_eq!(store.intern(&attributes(&[1, 2])), one);
        let other = store.intern(&attributes(&[1, 3]));
        assert_ne!(one, other);
        store.release(one);
        assert_eq!(store.decode(one), attributes(&[1, 2]));
        store.release(one);
        assert_eq!(store.len(), 1);
        assert_eq!(store.intern(&attributes(&[7])), one, "the id is free again");
    }

    #[test]
    fn next_hops_are_shared_and_their_state_is_kept_for_those_to_come() {
        let mut store = AttributeStore::new(Seed::new(1));
        let gone = NextHopState::Unreachable;
        let hop: IpAddr = [10, 0, 0, 7].into();
        assert!(store.set_states([(hop, gone)]).is_empty(), "nobody uses it");
        let id = store.intern(&from([10, 0, 0, 7], &[1]));
        assert_eq!(store.next_hop(id).unwrap().cost, None);
        let near = NextHopState::Reachable { igp_cost: 5 };
        assert_eq!(store.set_states([(hop, near)]), [hop].into());
        assert!(store.set_states([(hop, near)]).is_empty());
        assert_eq!(store.next_hop(id).unwrap().cost, Some(5));
        assert_eq!(store.addresses(), [hop].into());
        store.set_states([(hop, gone)]);
        let beside = store.intern(&PathAttributes {
            link_local_next_hop: Some("fe80::7".parse().unwrap()),
            ..from([10, 0, 0, 7], &[1])
        });
        let cost = store.next_hop(beside).unwrap().cost;
        assert_eq!(cost, Some(0), "it is on the peer's link");
        store.release(id);
        assert!(store.addresses().is_empty());
    }
}
