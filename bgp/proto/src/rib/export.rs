//! Export: which best paths a peer is sent, and with what attributes (RFC 4271 §5.1, §9.2).

use std::net::IpAddr;

use ipnet::IpNet;

use super::decision::DEFAULT_LOCAL_PREF;
use super::engine::RibConfig;
use super::peers::PeerInfo;
use crate::wire::{AsPathSegment, Asn, Family, PathAttributes, SegmentKind};

/// What a peer is sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExportPolicy {
    /// Also what was learned from others. Off unless asked for: a node is no transit.
    pub transit: bool,
}

/// Where a best path comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// Originated here.
    Local,
    /// Learned from the peer in this slot.
    Peer {
        /// The slot.
        index: u32,
        /// It is in another AS.
        external: bool,
    },
}

const NO_EXPORT: u32 = 0xFFFF_FF01;
const NO_ADVERTISE: u32 = 0xFFFF_FF02;
const NO_EXPORT_SUBCONFED: u32 = 0xFFFF_FF03;

/// RFC 4271 §4.3: a segment's length is one octet.
const LONGEST_SEGMENT: usize = 255;

/// Whether the peer in slot `to` is to be told of a path from `source`.
pub(super) fn is_exported(
    config: &RibConfig,
    (to, peer, policy): (u32, &PeerInfo, &ExportPolicy),
    source: Source,
    prefix: &IpNet,
    attributes: &PathAttributes,
) -> bool {
    if !peer.families.contains(&family(prefix)) || next_hop_self(peer, prefix).is_none() {
        return false;
    }
    let to_external = peer.asn != config.asn;
    let learned_may_go = match source {
        Source::Local => true,
        Source::Peer { index, external } => {
            policy.transit && index != to && (external || to_external)
        }
    };
    learned_may_go && communities_allow(&attributes.communities, to_external)
}

/// The attributes as the peer is to see them.
pub(super) fn exported(
    config: &RibConfig,
    peer: &PeerInfo,
    source: Source,
    attributes: &PathAttributes,
) -> PathAttributes {
    let mut out = attributes.clone();
    out.link_local_next_hop = None;
    let own = source == Source::Local;
    if peer.asn == config.asn {
        out.local_pref = Some(out.local_pref.unwrap_or(DEFAULT_LOCAL_PREF));
        if own {
            out.next_hop = peer.local_address;
        } else {
            out.link_local_next_hop = attributes.link_local_next_hop;
        }
        return out;
    }
    out.next_hop = peer.local_address;
    out.local_pref = None;
    out.originator_id = None;
    out.cluster_list.clear();
    if !own {
        out.med = None;
    }
    prepend(&mut out.as_path, config.asn);
    out
}

/// The family a prefix belongs to.
pub(super) fn family(prefix: &IpNet) -> Family {
    match prefix {
        IpNet::V4(_) => Family::IPV4_UNICAST,
        IpNet::V6(_) => Family::IPV6_UNICAST,
    }
}

/// Our end of the session, if it can be a next hop for this prefix: no IPv4 route over an IPv6 session yet (RFC 8950).
fn next_hop_self(peer: &PeerInfo, prefix: &IpNet) -> Option<IpAddr> {
    let same = matches!(
        (peer.local_address, prefix),
        (IpAddr::V4(_), IpNet::V4(_)) | (IpAddr::V6(_), IpNet::V6(_))
    );
    same.then_some(peer.local_address)
}

/// RFC 1997 §3 "Well-known Communities".
fn communities_allow(communities: &[u32], to_external: bool) -> bool {
    !communities.iter().any(|&community| match community {
        NO_ADVERTISE => true,
        NO_EXPORT | NO_EXPORT_SUBCONFED => to_external,
        _ => false,
    })
}

/// RFC 4271 §5.1.2 b; leading confederation segments never leave the confederation (RFC 5065 §4.1).
fn prepend(path: &mut Vec<AsPathSegment>, asn: Asn) {
    path.retain(|segment| matches!(segment.kind, SegmentKind::Sequence | SegmentKind::Set));
    match path.first_mut() {
        Some(first)
            if first.kind == SegmentKind::Sequence && first.asns.len() < LONGEST_SEGMENT =>
        {
            first.asns.insert(0, asn);
        }
        _ => path.insert(
            0,
            AsPathSegment {
                kind: SegmentKind::Sequence,
                asns: vec![asn],
            },
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rib::tests::fixtures::{attributes, external_peer, internal_peer, rib_config};

    fn sent(peer: &PeerInfo, transit: bool, source: Source, out: &PathAttributes) -> bool {
        let policy = ExportPolicy { transit };
        let prefix = "10.1.0.0/16".parse().unwrap();
        is_exported(&rib_config(), (7, peer, &policy), source, &prefix, out)
    }

    const FROM_EXTERNAL: Source = Source::Peer {
        index: 1,
        external: true,
    };
    const FROM_INTERNAL: Source = Source::Peer {
        index: 1,
        external: false,
    };

    #[test]
    fn only_what_is_originated_here_goes_out_unless_transit_is_asked_for() {
        let (e, i, a) = (external_peer(2), internal_peer(3), attributes(&[5]));
        assert!(sent(&e, false, Source::Local, &a));
        assert!(!sent(&e, false, FROM_EXTERNAL, &a));
        assert!(!sent(&i, false, FROM_EXTERNAL, &a));
        assert!(sent(&e, true, FROM_EXTERNAL, &a));
        assert!(sent(&e, true, FROM_INTERNAL, &a));
        assert!(sent(&i, true, FROM_EXTERNAL, &a));
        assert!(
            !sent(&i, true, FROM_INTERNAL, &a),
            "an internal route to an internal peer"
        );
        assert!(
            !sent(
                &e,
                true,
                Source::Peer {
                    index: 7,
                    external: true
                },
                &a
            ),
            "back to its source"
        );
    }

    #[test]
    fn well_known_communities_are_respected() {
        for (community, external, internal) in [
            (NO_EXPORT, false, true),
            (NO_EXPORT_SUBCONFED, false, true),
            (NO_ADVERTISE, false, false),
            (0x0001_0002, true, true),
        ] {
            let mut a = attributes(&[]);
            a.communities = vec![community];
            assert_eq!(sent(&external_peer(2), false, Source::Local, &a), external);
            assert_eq!(sent(&internal_peer(2), false, Source::Local, &a), internal);
        }
    }

    #[test]
    fn an_external_peer_sees_our_as_and_address_and_no_internal_attributes() {
        let mut a = attributes(&[5, 6]);
        a.local_pref = Some(300);
        a.med = Some(7);
        a.originator_id = Some([1; 4].into());
        a.cluster_list = vec![[1; 4].into()];
        let peer = external_peer(2);
        let out = exported(&rib_config(), &peer, FROM_EXTERNAL, &a);
        assert_eq!(out.next_hop, peer.local_address);
        assert_eq!(out.as_path[0].asns, [rib_config().asn, Asn(5), Asn(6)]);
        assert_eq!(
            (out.local_pref, out.med, out.originator_id),
            (None, None, None)
        );
        assert!(out.cluster_list.is_empty());
        let own = exported(&rib_config(), &peer, Source::Local, &a);
        assert_eq!(own.med, Some(7), "our own MED is meant for the neighbour");
    }

    #[test]
    fn an_internal_peer_sees_local_pref_and_the_path_as_it_was() {
        let peer = internal_peer(2);
        let a = attributes(&[5]);
        let out = exported(&rib_config(), &peer, FROM_EXTERNAL, &a);
        assert_eq!((out.local_pref, out.next_hop), (Some(100), a.next_hop));
        assert_eq!(out.as_path, a.as_path);
        let own = exported(&rib_config(), &peer, Source::Local, &attributes(&[]));
        assert_eq!(own.next_hop, peer.local_address);
        assert!(own.as_path.is_empty());
    }

    #[test]
    fn a_full_segment_is_not_grown() {
        let mut path = attributes(&[1; 255]).as_path;
        prepend(&mut path, Asn(9));
        assert_eq!(path.len(), 2);
        assert_eq!(path[0].asns, [Asn(9)]);
    }
}
