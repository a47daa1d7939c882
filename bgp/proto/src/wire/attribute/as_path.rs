//! AS_PATH in two and four octets, and AS4_PATH, by which the one carries the other (RFC 4271 §4.3, RFC 6793 §4.2).

use bytes::{BufMut, BytesMut};

use super::table::Fault;
use crate::wire::notification::update as subcode;
use crate::wire::open::AS_TRANS;
use crate::wire::reader::{Reader, Short};
use crate::wire::{AsPathSegment, Asn, SegmentKind, WireContext};

/// The most AS numbers of one segment.
const MAX_SEGMENT: usize = 255;

/// Octets of an AS number in this attribute on this session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AsSize {
    Two,
    Four,
}

impl AsSize {
    /// In AS_PATH; in AS4_PATH it is always four.
    pub(super) fn of(ctx: &WireContext) -> Self {
        if ctx.four_byte_as {
            Self::Four
        } else {
            Self::Two
        }
    }
}

pub(super) fn decode(value: &[u8], size: AsSize) -> Result<Vec<AsPathSegment>, Fault> {
    let mut reader = Reader::new(value);
    // Nearly all paths are one sequence.
    let mut path = Vec::with_capacity(usize::from(!value.is_empty()));
    while !reader.is_empty() {
        path.push(segment(&mut reader, size)?);
    }
    Ok(path)
}

/// AS4_PATH: one that carries no AS number at all is malformed (RFC 6793 §6).
pub(super) fn decode_as4(value: &[u8]) -> Result<Vec<AsPathSegment>, Fault> {
    if value.is_empty() {
        return Err(malformed("no AS number"));
    }
    decode(value, AsSize::Four)
}

/// Writes a path; a segment that is too long for its one-octet count is written as several.
pub(super) fn encode(path: &[AsPathSegment], size: AsSize, out: &mut BytesMut) {
    for segment in path {
        for asns in segment.asns.chunks(MAX_SEGMENT) {
            out.put_u8(octet(segment.kind));
            out.put_u8(u8::try_from(asns.len()).unwrap_or(u8::MAX));
            for asn in asns {
                match size {
                    AsSize::Two => out.put_u16(u16::try_from(asn.0).unwrap_or(AS_TRANS)),
                    AsSize::Four => out.put_u32(asn.0),
                }
            }
        }
    }
}

/// Whether a segment is of a confederation (RFC 5065).
pub(in crate::wire) fn is_confederation(segment: &AsPathSegment) -> bool {
    matches!(
        segment.kind,
        SegmentKind::ConfedSequence | SegmentKind::ConfedSet
    )
}

/// That a path is one that an external peer may send: without confederation segments (RFC 5065 §5).
pub(super) fn check_external(path: &[AsPathSegment]) -> Result<(), Fault> {
    if path.iter().any(is_confederation) {
        return Err(malformed("confederation segment from outside"));
    }
    Ok(())
}

/// The AS4_PATH that goes with a two-octet AS_PATH: the path without confederation segments (RFC 6793 §4.2.2);
/// `None` when no AS number of it needs four octets.
pub(super) fn as4_path(path: &[AsPathSegment]) -> Option<Vec<AsPathSegment>> {
    let public = || path.iter().filter(|segment| !is_confederation(segment));
    let wide = public()
        .flat_map(|segment| &segment.asns)
        .any(|asn| asn.0 > u32::from(u16::MAX));
    wide.then(|| public().cloned().collect())
}

/// Reads AS_PATH and AS4_PATH together (RFC 6793 §4.2.3): the AS numbers that two-octet speakers put in front
/// are taken from AS_PATH, the rest from AS4_PATH. An AS4_PATH longer than the AS_PATH is not believed.
pub(super) fn merge(path: Vec<AsPathSegment>, as4: Vec<AsPathSegment>) -> Vec<AsPathSegment> {
    let as4: Vec<_> = as4
        .into_iter()
        .filter(|segment| !is_confederation(segment))
        .collect();
    let (Some(mut ahead), false) = (count(&path).checked_sub(count(&as4)), as4.is_empty()) else {
        return path;
    };
    let mut merged: Vec<AsPathSegment> = Vec::with_capacity(path.len() + as4.len());
    for mut segment in path {
        if is_confederation(&segment) {
            // A confederation's segments stand in front of everything else; elsewhere they have no meaning.
            if merged.iter().all(is_confederation) {
                merged.push(segment);
            }
            continue;
        }
        if ahead == 0 {
            break;
        }
        if segment.kind == SegmentKind::Sequence {
            segment.asns.truncate(ahead);
            ahead -= segment.asns.len();
        } else {
            ahead -= 1;
        }
        merged.push(segment);
    }
    for segment in as4 {
        append(&mut merged, segment);
    }
    merged
}

/// Appends a segment; two sequences that meet become one.
fn append(path: &mut Vec<AsPathSegment>, segment: AsPathSegment) {
    if let Some(last) = path.last_mut()
        && last.kind == SegmentKind::Sequence
        && segment.kind == SegmentKind::Sequence
        && last.asns.len() + segment.asns.len() <= MAX_SEGMENT
    {
        last.asns.extend(segment.asns);
        return;
    }
    path.push(segment);
}

/// The length of a path as decisions count it: a set is one, confederations are none (RFC 4271 §9.1.2.2, RFC 5065 §5.3).
fn count(path: &[AsPathSegment]) -> usize {
    let of = |segment: &AsPathSegment| match segment.kind {
        SegmentKind::Sequence => segment.asns.len(),
        SegmentKind::Set => 1,
        SegmentKind::ConfedSequence | SegmentKind::ConfedSet => 0,
    };
    path.iter().map(of).sum()
}

fn segment(reader: &mut Reader<'_>, size: AsSize) -> Result<AsPathSegment, Fault> {
    let kind = match reader.u8() {
        Ok(1) => SegmentKind::Set,
        Ok(2) => SegmentKind::Sequence,
        Ok(3) => SegmentKind::ConfedSequence,
        Ok(4) => SegmentKind::ConfedSet,
        _ => return Err(malformed("unknown segment type")),
    };
    let overrun = |Short| malformed("segment overruns the attribute");
    let len = usize::from(reader.u8().map_err(overrun)?);
    if len == 0 {
        return Err(malformed("segment without an AS"));
    }
    let asns: Vec<Asn> = match size {
        AsSize::Two => pick(reader.take(2 * len).map_err(overrun)?, |asn| {
            u16::from_be_bytes(asn).into()
        }),
        AsSize::Four => pick(reader.take(4 * len).map_err(overrun)?, u32::from_be_bytes),
    };
    if asns.contains(&Asn(0)) {
        return Err(malformed("AS 0"));
    }
    Ok(AsPathSegment { kind, asns })
}

fn pick<const N: usize>(bytes: &[u8], number: impl Fn([u8; N]) -> u32) -> Vec<Asn> {
    bytes
        .as_chunks::<N>()
        .0
        .iter()
        .map(|asn| Asn(number(*asn)))
        .collect()
}

fn octet(kind: SegmentKind) -> u8 {
    match kind {
        SegmentKind::Set => 1,
        SegmentKind::Sequence => 2,
        SegmentKind::ConfedSequence => 3,
        SegmentKind::ConfedSet => 4,
    }
}

fn malformed(reason: &'static str) -> Fault {
    Fault::new(subcode::MALFORMED_AS_PATH, reason)
}
