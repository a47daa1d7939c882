//! The load: prefixes in groups of one origin each, and the UPDATEs by which a peer announces them.

use std::net::Ipv4Addr;

use crate::prefix::{Prefix, PrefixSet};
use crate::random::{Random, mix};
use crate::walk::{HEADER, kind};

/// Octets of the longest message without RFC 8654.
const MESSAGE: usize = 4096;

/// A routing table as a full feed is made: some 6.5 prefixes share their attributes, lengths are /16 to /24, most of
/// them /24, and neighbours in a group are often neighbours in number.
#[derive(Clone, Debug)]
pub struct Table {
    groups: Vec<Group>,
}

/// Prefixes of one origin.
#[derive(Clone, Debug)]
struct Group {
    origin: u32,
    prefixes: Vec<Prefix>,
}

/// Who announces a table.
#[derive(Clone, Copy, Debug)]
pub struct Announcer {
    /// Its AS.
    pub asn: u32,
    /// Its address: the next hop.
    pub next_hop: Ipv4Addr,
    /// How far the origins are.
    pub distance: Distance,
}

/// How long the paths of an announcer are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Distance {
    /// Two to six ASes, at random.
    Any,
    /// Two ASes for the groups that this one of so many announcers wins, three to six for all others.
    Contest {
        /// Which announcer this is, from zero.
        index: u32,
        /// How many there are.
        of: u32,
    },
    /// Always two: as good as another announcer's.
    Equal,
}

impl Table {
    /// Draws `count` different prefixes.
    #[must_use]
    pub fn draw(seed: u64, count: usize) -> Self {
        let mut random = Random::new(seed);
        let mut taken = PrefixSet::default();
        let mut groups = Vec::new();
        let mut left = count;
        while left > 0 {
            let size = group_size(&mut random).min(left);
            let prefixes = draw_group(&mut random, &mut taken, size);
            groups.push(Group {
                origin: origin_as(&mut random),
                prefixes,
            });
            left -= size;
        }
        Self { groups }
    }

    /// Cuts it into `parts` tables of the same number of prefixes (the last may have fewer).
    #[must_use]
    pub fn split(self, parts: usize) -> Vec<Self> {
        let size = self.len().div_ceil(parts.max(1)).max(1);
        let mut tables = vec![Self { groups: Vec::new() }];
        let mut room = size;
        for group in self.groups {
            let mut rest = group.prefixes;
            while !rest.is_empty() {
                if room == 0 {
                    tables.push(Self { groups: Vec::new() });
                    room = size;
                }
                let tail = rest.split_off(room.min(rest.len()));
                room -= rest.len();
                if let Some(table) = tables.last_mut() {
                    table.groups.push(Group {
                        origin: group.origin,
                        prefixes: rest,
                    });
                }
                rest = tail;
            }
        }
        tables
    }

    /// How many prefixes it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.groups.iter().map(|group| group.prefixes.len()).sum()
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// How many different sets of attributes an announcer makes of it at most.
    #[must_use]
    pub fn groups(&self) -> usize {
        self.groups.len()
    }

    /// All its prefixes.
    pub fn prefixes(&self) -> impl Iterator<Item = Prefix> + '_ {
        self.groups
            .iter()
            .flat_map(|group| group.prefixes.iter().copied())
    }

    /// The prefixes for which `winner` of so many announcers has the shortest path ([`Distance::Contest`]).
    pub fn won_by(&self, winner: u32, of: u32) -> impl Iterator<Item = Prefix> + '_ {
        let won = move |(index, _): &(usize, &Group)| winner_of(*index, of) == winner;
        self.groups
            .iter()
            .enumerate()
            .filter(won)
            .flat_map(|(_, group)| group.prefixes.iter().copied())
    }

    /// The UPDATEs that announce all of it, then End-of-RIB.
    #[must_use]
    pub fn announce(&self, by: &Announcer) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.len() * 20);
        let mut attributes = Vec::with_capacity(256);
        for (index, group) in self.groups.iter().enumerate() {
            attributes.clear();
            put_attributes(index, group, by, &mut attributes);
            put_updates(&attributes, &group.prefixes, &mut out);
        }
        put_message(kind::UPDATE, &[0; 4], &mut out);
        out
    }

    /// The UPDATEs that withdraw all of it.
    #[must_use]
    pub fn withdraw(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.len() * 5);
        let mut field = Vec::with_capacity(MESSAGE);
        let mut flush = |field: &mut Vec<u8>| {
            let mut body = Vec::with_capacity(field.len() + 4);
            put_sized(field, &mut body);
            body.extend([0, 0]);
            put_message(kind::UPDATE, &body, &mut out);
            field.clear();
        };
        for prefix in self.prefixes() {
            if HEADER + 4 + field.len() + 4 > MESSAGE {
                flush(&mut field);
            }
            put_prefix(prefix, &mut field);
        }
        if !field.is_empty() {
            flush(&mut field);
        }
        out
    }
}

/// Appends a message with its header.
pub fn put_message(kind: u8, body: &[u8], out: &mut Vec<u8>) {
    out.extend([0xff; 16]);
    out.extend(u16_of(HEADER + body.len()));
    out.push(kind);
    out.extend_from_slice(body);
}

fn group_size(random: &mut Random) -> usize {
    let (low, high) = match random.below(100) {
        0..45 => (1, 1),
        45..70 => (2, 4),
        70..90 => (5, 12),
        90..99 => (13, 40),
        _ => (41, 200),
    };
    random.between(low, high) as usize
}

fn draw_group(random: &mut Random, taken: &mut PrefixSet, size: usize) -> Vec<Prefix> {
    let mut prefixes: Vec<Prefix> = Vec::with_capacity(size);
    while prefixes.len() < size {
        let next = prefixes.last().map(|last| Prefix(last.0 + 1));
        let drawn = match next.filter(|_| random.below(10) < 6) {
            Some(next) => next,
            None => draw_prefix(random),
        };
        if is_public(drawn) && taken.insert(drawn) {
            prefixes.push(drawn);
        } else if let Some(other) = Some(draw_prefix(random)).filter(|p| is_public(*p))
            && taken.insert(other)
        {
            prefixes.push(other);
        }
    }
    prefixes
}

fn draw_prefix(random: &mut Random) -> Prefix {
    let length = match random.below(100) {
        0..62 => 24,
        62..73 => 23,
        73..84 => 22,
        84..89 => 21,
        89..94 => 20,
        94..97 => 19,
        97..98 => 18,
        98..99 => 17,
        _ => 16,
    };
    Prefix((1 << length) | random.below(1 << length))
}

/// Whether daemons take it: no private, loopback, link-local or multicast range, and none of the bench's own.
fn is_public(prefix: Prefix) -> bool {
    let first = prefix.address().octets()[0];
    !matches!(
        first,
        0 | 10 | 100 | 127 | 169 | 172 | 192 | 198 | 203 | 224..
    )
}

fn origin_as(random: &mut Random) -> u32 {
    // Half of today's origins have numbers beyond two octets; neither range holds private or reserved ones.
    if random.below(2) == 0 {
        random.between(1000, 23_000)
    } else {
        random.between(131_072, 400_000)
    }
}

fn winner_of(group: usize, of: u32) -> u32 {
    Random::new(mix(group as u64)).below(of)
}

fn put_attributes(index: usize, group: &Group, by: &Announcer, out: &mut Vec<u8>) {
    // Of the group and the announcer alone, so that a table announced twice is the same.
    let mut random = Random::new(mix(index as u64 ^ (u64::from(by.asn) << 32)));
    let hops = match by.distance {
        Distance::Any => random.between(2, 6),
        Distance::Contest { index: own, of } if winner_of(index, of) == own => 2,
        Distance::Contest { .. } => random.between(3, 6),
        Distance::Equal => 2,
    };
    // INCOMPLETE for a tenth; not where paths are to be as good as each other.
    let incomplete = random.below(10) == 0 && by.distance != Distance::Equal;
    let origin_code = u8::from(incomplete) * 2;
    out.extend([0x40, 1, 1, origin_code]);
    out.extend([0x40, 2]);
    out.push(u8::try_from(2 + 4 * hops).unwrap_or(u8::MAX));
    out.push(2);
    out.push(u8::try_from(hops).unwrap_or(u8::MAX));
    out.extend(by.asn.to_be_bytes());
    for _ in 2..hops {
        out.extend(origin_as(&mut random).to_be_bytes());
    }
    out.extend(group.origin.to_be_bytes());
    out.extend([0x40, 3, 4]);
    out.extend(by.next_hop.octets());
    if by.distance == Distance::Any && random.below(5) == 0 {
        out.extend([0x80, 4, 4]);
        out.extend(random.below(1000).to_be_bytes());
    }
    if random.below(4) != 0 {
        let count = random.between(1, 12);
        out.extend([0xc0, 8, u8::try_from(4 * count).unwrap_or(u8::MAX)]);
        for _ in 0..count {
            // The first half an AS, the second a small number; not of the well-known 65535.
            out.extend(u16_of(random.between(1000, 60_000) as usize));
            out.extend(u16_of(random.below(5000) as usize));
        }
    }
}

fn put_updates(attributes: &[u8], prefixes: &[Prefix], out: &mut Vec<u8>) {
    let room = (MESSAGE - HEADER - 4 - attributes.len()) / 4;
    let mut body = Vec::with_capacity(256);
    for batch in prefixes.chunks(room.max(1)) {
        body.clear();
        body.extend([0, 0]);
        put_sized(attributes, &mut body);
        for prefix in batch {
            put_prefix(*prefix, &mut body);
        }
        put_message(kind::UPDATE, &body, out);
    }
}

fn put_prefix(prefix: Prefix, out: &mut Vec<u8>) {
    let length = prefix.length();
    out.push(length);
    let octets = prefix.address().octets();
    out.extend(octets.iter().take(usize::from(length.div_ceil(8))));
}

fn put_sized(bytes: &[u8], out: &mut Vec<u8>) {
    out.extend(u16_of(bytes.len()));
    out.extend_from_slice(bytes);
}

fn u16_of(value: usize) -> [u8; 2] {
    u16::try_from(value).unwrap_or(u16::MAX).to_be_bytes()
}

#[cfg(test)]
mod tests;
