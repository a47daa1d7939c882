//! Path attributes as one short string of octets: equal sets have equal strings; what decisions read stands first.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytes::Bytes;

use crate::wire::{
    AsPathSegment, Asn, LargeCommunity, Origin, PathAttributes, SegmentKind, UnknownAttribute,
};

/// GRACEFUL_SHUTDOWN (RFC 8326 §5).
pub(super) const GRACEFUL_SHUTDOWN: u32 = 0xFFFF_0000;
/// LLGR_STALE (RFC 9494 §4.6).
pub(super) const LLGR_STALE: u32 = 0xFFFF_0006;
/// NO_LLGR (RFC 9494 §4.6).
pub(super) const NO_LLGR: u32 = 0xFFFF_0007;

/// What is said in the first word.
pub(super) mod flag {
    pub(in crate::rib) const ORIGIN: u16 = 0b11;
    pub(in crate::rib) const ATOMIC: u16 = 1 << 2;
    pub(in crate::rib) const MED: u16 = 1 << 3;
    pub(in crate::rib) const LOCAL_PREF: u16 = 1 << 4;
    pub(in crate::rib) const AGGREGATOR: u16 = 1 << 5;
    pub(in crate::rib) const ORIGINATOR: u16 = 1 << 6;
    pub(in crate::rib) const ONLY_TO_CUSTOMER: u16 = 1 << 7;
    pub(in crate::rib) const HOP_V6: u16 = 1 << 8;
    pub(in crate::rib) const LINK_LOCAL: u16 = 1 << 9;
    pub(in crate::rib) const GRACEFUL_SHUTDOWN: u16 = 1 << 10;
    pub(in crate::rib) const LLGR_STALE: u16 = 1 << 11;
    pub(in crate::rib) const NO_LLGR: u16 = 1 << 12;
    pub(in crate::rib) const NEIGHBOUR: u16 = 1 << 13;
    pub(in crate::rib) const PARTIAL: u16 = 1 << 14;
}

/// What the decision process compares of a set of attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DecisionKey {
    /// As it came; the decision knows the default.
    pub(super) local_pref: Option<u32>,
    pub(super) as_path_length: u16,
    pub(super) origin: Origin,
    /// A missing MULTI_EXIT_DISC counts as the lowest value (RFC 4271 §9.1.2.2 c).
    pub(super) med: u32,
    /// The AS the route was received from; `None` for a path that starts inside our own AS.
    pub(super) neighbour: Option<Asn>,
    pub(super) originator_id: Option<Ipv4Addr>,
    pub(super) cluster_list_length: u16,
    /// It bears GRACEFUL_SHUTDOWN.
    pub(super) shutting_down: bool,
    /// It bears LLGR_STALE.
    pub(super) long_lived_stale: bool,
}

impl Default for DecisionKey {
    fn default() -> Self {
        Self {
            local_pref: None,
            as_path_length: 0,
            origin: Origin::Igp,
            med: 0,
            neighbour: None,
            originator_id: None,
            cluster_list_length: 0,
            shutting_down: false,
            long_lived_stale: false,
        }
    }
}

impl DecisionKey {
    pub(super) fn new(attributes: &PathAttributes) -> Self {
        let bears = |community| attributes.communities.contains(&community);
        Self {
            local_pref: attributes.local_pref,
            as_path_length: as_path_length(&attributes.as_path),
            origin: attributes.origin,
            med: attributes.med.unwrap_or(0),
            neighbour: neighbour_as(&attributes.as_path),
            originator_id: attributes.originator_id,
            cluster_list_length: narrow(attributes.cluster_list.len()),
            shutting_down: bears(GRACEFUL_SHUTDOWN),
            long_lived_stale: bears(LLGR_STALE),
        }
    }

    /// The same from the octets.
    pub(super) fn of(octets: &[u8]) -> Self {
        let mut read = Octets(octets);
        let flags = read.u16();
        let as_path_length = read.u16();
        read.hops(flags);
        let mut number = |bit| (flags & bit != 0).then(|| read.u32());
        let med = number(flag::MED);
        let local_pref = number(flag::LOCAL_PREF);
        let originator_id = number(flag::ORIGINATOR).map(Ipv4Addr::from_bits);
        let neighbour = number(flag::NEIGHBOUR).map(Asn);
        Self {
            local_pref,
            as_path_length,
            origin: origin(flags),
            med: med.unwrap_or(0),
            neighbour,
            originator_id,
            cluster_list_length: narrow(read.count()),
            shutting_down: flags & flag::GRACEFUL_SHUTDOWN != 0,
            long_lived_stale: flags & flag::LLGR_STALE != 0,
        }
    }
}

/// The first word of the octets.
pub(super) fn flags_of(octets: &[u8]) -> u16 {
    Octets(octets).u16()
}

/// Writes the octets of a set of attributes.
pub(super) fn encode(attributes: &PathAttributes, out: &mut Vec<u8>) {
    let neighbour = neighbour_as(&attributes.as_path);
    put16(out, flags(attributes, neighbour));
    put16(out, as_path_length(&attributes.as_path));
    match attributes.next_hop {
        IpAddr::V4(hop) => out.extend_from_slice(&hop.octets()),
        IpAddr::V6(hop) => out.extend_from_slice(&hop.octets()),
    }
    if let Some(hop) = attributes.link_local_next_hop {
        out.extend_from_slice(&hop.octets());
    }
    let originator = attributes.originator_id.map(Ipv4Addr::to_bits);
    let neighbour = neighbour.map(|asn| asn.0);
    for number in [attributes.med, attributes.local_pref, originator, neighbour] {
        number.into_iter().for_each(|number| put32(out, number));
    }
    put_count(out, attributes.cluster_list.len());
    for id in &attributes.cluster_list {
        put32(out, id.to_bits());
    }
    if let Some(asn) = attributes.only_to_customer {
        put32(out, asn.0);
    }
    if let Some((asn, router)) = attributes.aggregator {
        put32(out, asn.0);
        put32(out, router.to_bits());
    }
    put_count(out, attributes.as_path.len());
    for segment in &attributes.as_path {
        out.push(segment_octet(segment.kind));
        put_count(out, segment.asns.len());
        segment.asns.iter().for_each(|asn| put32(out, asn.0));
    }
    put_count(out, attributes.communities.len());
    for community in &attributes.communities {
        put32(out, *community);
    }
    put_count(out, attributes.extended_communities.len());
    for community in &attributes.extended_communities {
        out.extend_from_slice(&community.to_be_bytes());
    }
    put_count(out, attributes.large_communities.len());
    for community in &attributes.large_communities {
        put32(out, community.global);
        put32(out, community.local1);
        put32(out, community.local2);
    }
    put_count(out, attributes.unknown.len());
    for unknown in &attributes.unknown {
        out.push(unknown.flags);
        out.push(unknown.code);
        put_count(out, unknown.value.len());
        out.extend_from_slice(&unknown.value);
    }
    if attributes.partial != 0 {
        out.extend_from_slice(&attributes.partial.to_be_bytes());
    }
}

/// Reads what [`encode`] wrote.
pub(super) fn decode(octets: &[u8]) -> PathAttributes {
    let mut read = Octets(octets);
    let flags = read.u16();
    let _as_path_length = read.u16();
    let (next_hop, link_local_next_hop) = read.hops(flags);
    let mut number = |bit| (flags & bit != 0).then(|| read.u32());
    let med = number(flag::MED);
    let local_pref = number(flag::LOCAL_PREF);
    let originator_id = number(flag::ORIGINATOR).map(Ipv4Addr::from_bits);
    let _neighbour = number(flag::NEIGHBOUR);
    let cluster_list = read.list(|read| Ipv4Addr::from_bits(read.u32()));
    let only_to_customer = (flags & flag::ONLY_TO_CUSTOMER != 0).then(|| Asn(read.u32()));
    let aggregator =
        (flags & flag::AGGREGATOR != 0).then(|| (Asn(read.u32()), Ipv4Addr::from_bits(read.u32())));
    PathAttributes {
        origin: origin(flags),
        next_hop,
        link_local_next_hop,
        med,
        local_pref,
        atomic_aggregate: flags & flag::ATOMIC != 0,
        aggregator,
        originator_id,
        cluster_list,
        only_to_customer,
        as_path: read.list(|read| AsPathSegment {
            kind: segment_kind(read.u8()),
            asns: read.list(|read| Asn(read.u32())),
        }),
        communities: read.list(Octets::u32),
        extended_communities: read.list(|read| u64::from_be_bytes(read.array())),
        large_communities: read.list(|read| LargeCommunity {
            global: read.u32(),
            local1: read.u32(),
            local2: read.u32(),
        }),
        unknown: read.list(|read| UnknownAttribute {
            flags: read.u8(),
            code: read.u8(),
            value: {
                let len = read.count();
                Bytes::copy_from_slice(read.take(len))
            },
        }),
        partial: if flags & flag::PARTIAL == 0 {
            0
        } else {
            u64::from_be_bytes(read.array())
        },
    }
}

/// AS_PATH as it lies in the octets.
pub(super) fn as_path_of(octets: &[u8]) -> &[u8] {
    let mut read = Octets(octets);
    let flags = read.u16();
    let _as_path_length = read.u16();
    read.hops(flags);
    let numbers = [
        flag::MED,
        flag::LOCAL_PREF,
        flag::ORIGINATOR,
        flag::NEIGHBOUR,
    ];
    let numbers = numbers.iter().filter(|bit| flags & **bit != 0).count();
    read.take(4 * numbers);
    let clusters = read.count();
    read.take(4 * clusters);
    for (bit, len) in [(flag::ONLY_TO_CUSTOMER, 4), (flag::AGGREGATOR, 8)] {
        read.take(if flags & bit == 0 { 0 } else { len });
    }
    let from = read.0;
    for _ in 0..read.count() {
        let _kind = read.u8();
        let asns = read.count();
        read.take(4 * asns);
    }
    from.get(..from.len() - read.0.len()).unwrap_or(from)
}

fn flags(attributes: &PathAttributes, neighbour: Option<Asn>) -> u16 {
    let mut flags = match attributes.origin {
        Origin::Igp => 0,
        Origin::Egp => 1,
        Origin::Incomplete => 2,
    };
    for (set, bit) in [
        (attributes.atomic_aggregate, flag::ATOMIC),
        (attributes.med.is_some(), flag::MED),
        (attributes.local_pref.is_some(), flag::LOCAL_PREF),
        (attributes.aggregator.is_some(), flag::AGGREGATOR),
        (attributes.originator_id.is_some(), flag::ORIGINATOR),
        (
            attributes.only_to_customer.is_some(),
            flag::ONLY_TO_CUSTOMER,
        ),
        (attributes.next_hop.is_ipv6(), flag::HOP_V6),
        (attributes.link_local_next_hop.is_some(), flag::LINK_LOCAL),
        (neighbour.is_some(), flag::NEIGHBOUR),
        (attributes.partial != 0, flag::PARTIAL),
    ] {
        flags |= if set { bit } else { 0 };
    }
    for community in &attributes.communities {
        flags |= match *community {
            GRACEFUL_SHUTDOWN => flag::GRACEFUL_SHUTDOWN,
            LLGR_STALE => flag::LLGR_STALE,
            NO_LLGR => flag::NO_LLGR,
            _ => 0,
        };
    }
    flags
}

fn origin(flags: u16) -> Origin {
    match flags & flag::ORIGIN {
        0 => Origin::Igp,
        1 => Origin::Egp,
        _ => Origin::Incomplete,
    }
}

fn segment_octet(kind: SegmentKind) -> u8 {
    match kind {
        SegmentKind::Set => 1,
        SegmentKind::Sequence => 2,
        SegmentKind::ConfedSequence => 3,
        SegmentKind::ConfedSet => 4,
    }
}

fn segment_kind(octet: u8) -> SegmentKind {
    match octet {
        1 => SegmentKind::Set,
        3 => SegmentKind::ConfedSequence,
        4 => SegmentKind::ConfedSet,
        _ => SegmentKind::Sequence,
    }
}

fn put16(out: &mut Vec<u8>, number: u16) {
    out.extend_from_slice(&number.to_be_bytes());
}

fn put32(out: &mut Vec<u8>, number: u32) {
    out.extend_from_slice(&number.to_be_bytes());
}

/// A number of things: one octet, or 255 and four.
fn put_count(out: &mut Vec<u8>, count: usize) {
    match u8::try_from(count) {
        Ok(count) if count < u8::MAX => out.push(count),
        _ => {
            out.push(u8::MAX);
            put32(out, u32::try_from(count).unwrap_or(u32::MAX));
        }
    }
}

fn narrow(count: usize) -> u16 {
    u16::try_from(count).unwrap_or(u16::MAX)
}

/// Reads octets that [`encode`] wrote, so that they are always long enough.
struct Octets<'a>(&'a [u8]);

impl<'a> Octets<'a> {
    fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at_checked(len).expect("written by `encode`");
        self.0 = rest;
        taken
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let (taken, rest) = self.0.split_first_chunk().expect("written by `encode`");
        self.0 = rest;
        *taken
    }

    fn u8(&mut self) -> u8 {
        let [octet] = self.array();
        octet
    }

    fn u16(&mut self) -> u16 {
        u16::from_be_bytes(self.array())
    }

    fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.array())
    }

    fn count(&mut self) -> usize {
        match self.u8() {
            u8::MAX => self.u32() as usize,
            count => usize::from(count),
        }
    }

    fn list<T>(&mut self, mut one: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..self.count()).map(|_| one(self)).collect()
    }

    fn hops(&mut self, flags: u16) -> (IpAddr, Option<Ipv6Addr>) {
        let next_hop = if flags & flag::HOP_V6 == 0 {
            Ipv4Addr::from(self.array::<4>()).into()
        } else {
            Ipv6Addr::from(self.array::<16>()).into()
        };
        let link_local =
            (flags & flag::LINK_LOCAL != 0).then(|| Ipv6Addr::from(self.array::<16>()));
        (next_hop, link_local)
    }
}

/// RFC 4271 §9.1.2.2 a: an AS_SET counts as one however many are in it; RFC 5065 §5.3: confederation segments count zero.
fn as_path_length(path: &[AsPathSegment]) -> u16 {
    let of = |segment: &AsPathSegment| match segment.kind {
        SegmentKind::Sequence => segment.asns.len(),
        SegmentKind::Set => 1,
        SegmentKind::ConfedSequence | SegmentKind::ConfedSet => 0,
    };
    narrow(path.iter().map(of).sum())
}

/// The AS a path was received from: the first of its first segment outside confederations, if that is in order.
pub(super) fn neighbour_as(path: &[AsPathSegment]) -> Option<Asn> {
    let first = path
        .iter()
        .find(|segment| matches!(segment.kind, SegmentKind::Sequence | SegmentKind::Set))?;
    match first.kind {
        SegmentKind::Sequence => first.asns.first().copied(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::rib::tests::fixtures::any_attributes;

    #[test]
    fn sets_count_one_and_confederation_segments_nothing() {
        let segment = |kind, asns: &[u32]| AsPathSegment {
            kind,
            asns: asns.iter().map(|&n| Asn(n)).collect(),
        };
        let path = [
            segment(SegmentKind::ConfedSequence, &[9, 8]),
            segment(SegmentKind::Sequence, &[1, 2]),
            segment(SegmentKind::Set, &[3, 4, 5]),
            segment(SegmentKind::ConfedSet, &[7]),
        ];
        assert_eq!(as_path_length(&path), 3);
        assert_eq!(neighbour_as(&path), Some(Asn(1)));
        assert_eq!(neighbour_as(&[]), None);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_and_the_decision_reads_the_same(attributes in any_attributes()) {
            let mut octets = Vec::new();
            encode(&attributes, &mut octets);
            prop_assert_eq!(DecisionKey::of(&octets), DecisionKey::new(&attributes));
            prop_assert_eq!(decode(&octets), attributes);
        }
    }
}
