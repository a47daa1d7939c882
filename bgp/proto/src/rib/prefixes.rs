//! Every prefix that is known has a dense id: chunks of ids belong to one family, a hash table finds the id.

use std::net::{Ipv4Addr, Ipv6Addr};

use hashbrown::HashTable;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::columns::{CHUNK, place};
use super::hash::Seed;
use crate::wire::Family;

/// The length octet of an id that is not in use.
const UNUSED: u8 = u8::MAX;

/// A prefix of IPv4: its address, then its length.
type Key4 = [u8; 5];
/// A prefix of IPv6.
type Key6 = [u8; 17];

/// The known prefixes and their ids. An id stays until `remove`, and is given out again after it.
#[derive(Debug)]
pub(super) struct Prefixes {
    seed: Seed,
    chunks: Vec<Keys>,
    v4: Half,
    v6: Half,
}

#[derive(Debug)]
enum Keys {
    V4(Box<[Key4]>),
    V6(Box<[Key6]>),
}

/// The prefixes of one family.
#[derive(Debug, Default)]
struct Half {
    table: HashTable<u32>,
    free: Vec<u32>,
    /// The first id of its newest chunk that was never used, and the end of the chunk.
    next: u32,
    end: u32,
}

impl Half {
    fn fresh_id(&mut self) -> Option<u32> {
        if let Some(id) = self.free.pop() {
            return Some(id);
        }
        let id = self.next;
        self.next += u32::from(id < self.end);
        (id < self.end).then_some(id)
    }

    fn grow(&mut self, chunks: usize) {
        self.next = u32::try_from(chunks * CHUNK).expect("fewer prefixes than ids");
        self.end = self.next + CHUNK as u32;
    }
}

impl Prefixes {
    pub(super) fn new(seed: Seed) -> Self {
        Self {
            seed,
            chunks: Vec::new(),
            v4: Half::default(),
            v6: Half::default(),
        }
    }

    pub(super) fn find(&self, prefix: &IpNet) -> Option<u32> {
        let (chunks, seed) = (&self.chunks, &self.seed);
        match prefix {
            IpNet::V4(net) => {
                let key = key4(net);
                let same = |id: &u32| at4(chunks, *id) == Some(&key);
                self.v4.table.find(hash4(seed, &key), same).copied()
            }
            IpNet::V6(net) => {
                let key = key6(net);
                let same = |id: &u32| at6(chunks, *id) == Some(&key);
                self.v6.table.find(seed.octets(&key), same).copied()
            }
        }
    }

    /// Looks prefixes up for nothing but the processor's caches: lookups that do not wait for each other overlap.
    pub(super) fn warm(&self, prefixes: impl Iterator<Item = IpNet>) {
        let mut any = 0;
        for prefix in prefixes {
            any |= self.find(&prefix).unwrap_or_default();
        }
        std::hint::black_box(any);
    }

    /// The id of a prefix, which is given one if it has none.
    pub(super) fn insert(&mut self, prefix: &IpNet) -> u32 {
        match prefix {
            IpNet::V4(net) => self.insert4(key4(net)),
            IpNet::V6(net) => self.insert6(key6(net)),
        }
    }

    fn insert4(&mut self, key: Key4) -> u32 {
        let (chunks, seed) = (&self.chunks, &self.seed);
        let hash = hash4(seed, &key);
        if let Some(id) = self
            .v4
            .table
            .find(hash, |id| at4(chunks, *id) == Some(&key))
        {
            return *id;
        }
        let id = self.v4.fresh_id().unwrap_or_else(|| {
            self.v4.grow(self.chunks.len());
            self.chunks
                .push(Keys::V4(vec![[UNUSED; 5]; CHUNK].into_boxed_slice()));
            self.v4.fresh_id().expect("the chunk is new")
        });
        let (chunk, at) = place(id);
        if let Some(Keys::V4(keys)) = self.chunks.get_mut(chunk)
            && let Some(place) = keys.get_mut(at)
        {
            *place = key;
        }
        let chunks = &self.chunks;
        let rehash = |id: &u32| at4(chunks, *id).map_or(0, |key| hash4(&self.seed, key));
        self.v4.table.insert_unique(hash, id, rehash);
        id
    }

    fn insert6(&mut self, key: Key6) -> u32 {
        let (chunks, seed) = (&self.chunks, &self.seed);
        let hash = seed.octets(&key);
        if let Some(id) = self
            .v6
            .table
            .find(hash, |id| at6(chunks, *id) == Some(&key))
        {
            return *id;
        }
        let id = self.v6.fresh_id().unwrap_or_else(|| {
            self.v6.grow(self.chunks.len());
            self.chunks
                .push(Keys::V6(vec![[UNUSED; 17]; CHUNK].into_boxed_slice()));
            self.v6.fresh_id().expect("the chunk is new")
        });
        let (chunk, at) = place(id);
        if let Some(Keys::V6(keys)) = self.chunks.get_mut(chunk)
            && let Some(place) = keys.get_mut(at)
        {
            *place = key;
        }
        let chunks = &self.chunks;
        let rehash = |id: &u32| at6(chunks, *id).map_or(0, |key| self.seed.octets(key));
        self.v6.table.insert_unique(hash, id, rehash);
        id
    }

    /// Frees an id. When no prefix is left all memory goes.
    pub(super) fn remove(&mut self, id: u32) {
        let (chunk, at) = place(id);
        match self.chunks.get_mut(chunk) {
            Some(Keys::V4(keys)) => {
                let Some(key) = keys.get_mut(at) else { return };
                let hash = hash4(&self.seed, key);
                if let Ok(entry) = self.v4.table.find_entry(hash, |held| *held == id) {
                    entry.remove();
                    self.v4.free.push(id);
                }
                *key = [UNUSED; 5];
            }
            Some(Keys::V6(keys)) => {
                let Some(key) = keys.get_mut(at) else { return };
                let hash = self.seed.octets(key.as_slice());
                if let Ok(entry) = self.v6.table.find_entry(hash, |held| *held == id) {
                    entry.remove();
                    self.v6.free.push(id);
                }
                *key = [UNUSED; 17];
            }
            None => {}
        }
    }

    /// The prefix of an id; `None` if it is not in use.
    pub(super) fn get(&self, id: u32) -> Option<IpNet> {
        let (chunk, at) = place(id);
        match self.chunks.get(chunk)? {
            Keys::V4(keys) => {
                let [a, b, c, d, len] = *keys.get(at)?;
                let net = Ipv4Net::new(Ipv4Addr::new(a, b, c, d), len).ok()?;
                Some(IpNet::V4(net))
            }
            Keys::V6(keys) => {
                let (address, len) = keys.get(at)?.split_first_chunk::<16>()?;
                let net = Ipv6Net::new(Ipv6Addr::from(*address), *len.first()?).ok()?;
                Some(IpNet::V6(net))
            }
        }
    }

    /// Whether an id, in use or not, is one for prefixes of this family.
    pub(super) fn is_of(&self, id: u32, family: Family) -> bool {
        match self.chunks.get(place(id).0) {
            Some(Keys::V4(_)) => family == Family::IPV4_UNICAST,
            Some(Keys::V6(_)) => family == Family::IPV6_UNICAST,
            None => false,
        }
    }

    /// One past the highest id that was ever given out.
    pub(super) fn end(&self) -> u32 {
        self.v4.next.max(self.v6.next)
    }

    pub(super) fn len(&self) -> usize {
        self.v4.table.len() + self.v6.table.len()
    }

    /// Gives all memory back; for when no prefix is left.
    pub(super) fn reset(&mut self) {
        *self = Self::new(self.seed);
    }
}

fn key4(net: &Ipv4Net) -> Key4 {
    let [a, b, c, d] = net.addr().octets();
    [a, b, c, d, net.prefix_len()]
}

fn key6(net: &Ipv6Net) -> Key6 {
    let mut key = [0; 17];
    if let Some((address, len)) = key.split_first_chunk_mut::<16>() {
        *address = net.addr().octets();
        len.fill(net.prefix_len());
    }
    key
}

fn hash4(seed: &Seed, key: &Key4) -> u64 {
    let [a, b, c, d, len] = *key;
    seed.word(u64::from(u32::from_be_bytes([a, b, c, d])) << 8 | u64::from(len))
}

fn at4(chunks: &[Keys], id: u32) -> Option<&Key4> {
    let (chunk, at) = place(id);
    match chunks.get(chunk)? {
        Keys::V4(keys) => keys.get(at),
        Keys::V6(_) => None,
    }
}

fn at6(chunks: &[Keys], id: u32) -> Option<&Key6> {
    let (chunk, at) = place(id);
    match chunks.get(chunk)? {
        Keys::V6(keys) => keys.get(at),
        Keys::V4(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rib::tests::fixtures::net;

    #[test]
    fn ids_are_dense_and_of_one_family_to_a_chunk() {
        let mut prefixes = Prefixes::new(Seed::new(1));
        let four = prefixes.insert(&net("10.0.0.0/8"));
        let six = prefixes.insert(&net("2001:db8::/32"));
        let other = prefixes.insert(&net("10.0.0.0/16"));
        assert_eq!([four, six, other], [0, CHUNK as u32, 1]);
        assert_eq!(prefixes.insert(&net("10.0.0.0/16")), other);
        assert_eq!(prefixes.find(&net("2001:db8::/32")), Some(six));
        assert_eq!(prefixes.get(six), Some(net("2001:db8::/32")));
        assert!(prefixes.is_of(four, Family::IPV4_UNICAST));
        assert!(!prefixes.is_of(six, Family::IPV4_UNICAST));
        assert_eq!(prefixes.get(2), None, "never used");
    }

    #[test]
    fn a_freed_id_is_given_out_again_and_its_prefix_is_unknown() {
        let mut prefixes = Prefixes::new(Seed::new(1));
        let id = prefixes.insert(&net("0.0.0.0/0"));
        prefixes.remove(id);
        assert_eq!(
            (prefixes.find(&net("0.0.0.0/0")), prefixes.get(id)),
            (None, None)
        );
        assert_eq!(prefixes.insert(&net("192.0.2.0/24")), id);
        assert_eq!(prefixes.len(), 1);
    }

    #[test]
    fn many_prefixes_are_all_found() {
        let mut prefixes = Prefixes::new(Seed::new(1));
        let all: Vec<IpNet> = (0..20_000u32)
            .map(|n| IpNet::V4(Ipv4Net::new((n << 12).into(), 24).unwrap()))
            .collect();
        for net in &all {
            prefixes.insert(net);
        }
        assert!(all.iter().all(|net| {
            let id = prefixes.find(net).unwrap();
            prefixes.get(id) == Some(*net)
        }));
        assert_eq!(prefixes.len(), all.len());
        assert_eq!(prefixes.end(), 20_000);
    }
}
