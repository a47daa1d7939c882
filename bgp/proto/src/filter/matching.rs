//! Whether a rule is about a route.

use ipnet::IpNet;

use super::{Facts, Match, PeerType, PrefixMatch, PrefixOperator};
use crate::wire::{AsPathSegment, Asn, Family, PathAttributes, SegmentKind};

impl Match {
    /// Whether every condition holds; attributes are asked for last, and only if one looks at them.
    pub(super) fn holds<'a>(
        &self,
        facts: &Facts,
        attributes: &mut impl FnMut() -> &'a PathAttributes,
    ) -> bool {
        self.family.is_none_or(|of| of == family(&facts.prefix))
            && self.source.is_none_or(|of| of == facts.source())
            && self
                .peer_type
                .is_none_or(|of| (of == PeerType::External) == facts.peer_external)
            && self
                .prefixes
                .as_ref()
                .is_none_or(|nets| nets.holds(&facts.prefix))
            && self
                .as_path_prefix
                .as_ref()
                .is_none_or(|wanted| begins_with(&attributes().as_path, wanted))
            && (self.communities.is_empty() || self.communities_in(attributes()))
    }

    fn communities_in(&self, attributes: &PathAttributes) -> bool {
        self.communities.iter().all(|one| one.is_in(attributes))
    }
}

impl PrefixMatch {
    fn holds(&self, prefix: &IpNet) -> bool {
        if family(&self.net) != family(prefix) {
            return false;
        }
        match self.operator {
            PrefixOperator::Equal => *prefix == self.net.trunc(),
            PrefixOperator::NotEqual => *prefix != self.net.trunc(),
            PrefixOperator::In => self.is_inside(prefix),
            PrefixOperator::NotIn => !self.is_inside(prefix),
        }
    }

    fn is_inside(&self, prefix: &IpNet) -> bool {
        let allowed = self.length.as_ref();
        self.net.contains(prefix)
            && allowed.is_none_or(|range| range.contains(&prefix.prefix_len()))
    }
}

/// Whether the path's leading AS_SEQUENCEs begin so; confederation segments are not of the path (RFC 5065 §5.3).
fn begins_with(path: &[AsPathSegment], wanted: &[Asn]) -> bool {
    let confederation = |segment: &&AsPathSegment| {
        matches!(
            segment.kind,
            SegmentKind::ConfedSequence | SegmentKind::ConfedSet
        )
    };
    let mut leading = path
        .iter()
        .skip_while(confederation)
        .take_while(|segment| segment.kind == SegmentKind::Sequence)
        .flat_map(|segment| &segment.asns);
    wanted.iter().all(|asn| leading.next() == Some(asn))
}

fn family(prefix: &IpNet) -> Family {
    match prefix {
        IpNet::V4(_) => Family::IPV4_UNICAST,
        IpNet::V6(_) => Family::IPV6_UNICAST,
    }
}
