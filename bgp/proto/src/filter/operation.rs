//! What an accepting rule does to a route's attributes.

use super::Operation;
use crate::wire::{AsPathSegment, Asn, PathAttributes, SegmentKind};

/// RFC 4271 §4.3: a segment's length is one octet.
const LONGEST_SEGMENT: usize = 255;

impl Operation {
    /// Whether applying it to these would make a difference.
    pub(super) fn changes(&self, attributes: &PathAttributes) -> bool {
        match self {
            Self::SetLocalPref(value) => attributes.local_pref != Some(*value),
            Self::SetMed(value) => attributes.med != Some(*value),
            Self::PrependAs { times, .. } => *times > 0,
            Self::AddCommunity(community) => !community.is_in(attributes),
            Self::RemoveCommunity(community) => community.is_in(attributes),
        }
    }
}

pub(super) fn apply(operation: &Operation, own_as: Asn, attributes: &mut PathAttributes) {
    match *operation {
        Operation::SetLocalPref(value) => attributes.local_pref = Some(value),
        Operation::SetMed(value) => attributes.med = Some(value),
        Operation::PrependAs { asn, times } => {
            prepend(
                &mut attributes.as_path,
                asn.unwrap_or(own_as),
                usize::from(times),
            );
        }
        Operation::AddCommunity(community) => community.add_to(attributes),
        Operation::RemoveCommunity(community) => community.remove_from(attributes),
    }
}

/// Puts an AS number in front (RFC 4271 §5.1.2 b), into the first AS_SEQUENCE as far as it has room.
fn prepend(path: &mut Vec<AsPathSegment>, asn: Asn, times: usize) {
    // Confederation segments stay in front of everything else (RFC 5065 §5.3).
    let place = path
        .iter()
        .position(|segment| matches!(segment.kind, SegmentKind::Sequence | SegmentKind::Set))
        .unwrap_or(path.len());
    let mut left = times;
    if let Some(first) = path.get_mut(place)
        && first.kind == SegmentKind::Sequence
    {
        let fits = left.min(LONGEST_SEGMENT.saturating_sub(first.asns.len()));
        first.asns.splice(0..0, std::iter::repeat_n(asn, fits));
        left -= fits;
    }
    if left > 0 {
        let segment = AsPathSegment {
            kind: SegmentKind::Sequence,
            asns: vec![asn; left],
        };
        path.insert(place, segment);
    }
}
