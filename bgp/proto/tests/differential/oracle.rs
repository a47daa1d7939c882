//! The other codec's values as ours, and ours as its.

use std::net::IpAddr;
use std::sync::Arc;

use bgp_proto::wire::{
    AddPathMode, AsPathSegment, Asn, Capability, Family, GracefulRestart, LargeCommunity,
    LongLivedFamily, Nlri, Open, Origin, PathAttributes, Role, SegmentKind, UnknownAttribute,
    Update,
};
use bytes::{Bytes, BytesMut};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use rustbgpd_wire as other;
use rustbgpd_wire::attribute::{
    Aggregator, AsPath, AsPathSegment as Segment, ExtendedCommunity, LargeCommunity as Large,
    MpReachNlri, MpUnreachNlri, Origin as TheirOrigin, PathAttribute, RawAttribute,
};
use rustbgpd_wire::nlri::{Ipv4NlriEntry, Ipv4Prefix, Ipv6Prefix, NlriEntry, Prefix};
use rustbgpd_wire::update::{ParsedUpdate, RevisedParsedUpdate};

use crate::generate::Session;

const LONGEST: u16 = u16::MAX;

pub fn decode_open(bytes: &[u8]) -> Open {
    let message = other::decode_message(&mut Bytes::copy_from_slice(bytes), LONGEST).unwrap();
    let other::Message::Open(open) = message else {
        panic!("{message:?}")
    };
    Open {
        asn: Asn(open.four_byte_as()),
        hold_time: open.hold_time,
        bgp_id: open.bgp_identifier,
        capabilities: open.capabilities.into_iter().map(capability).collect(),
    }
}

pub fn encode_open(open: &Open) -> BytesMut {
    let message = other::Message::Open(other::OpenMessage {
        version: 4,
        my_as: u16::try_from(open.asn.0).unwrap_or(23456),
        hold_time: open.hold_time,
        bgp_identifier: open.bgp_id,
        capabilities: open.capabilities.iter().map(their_capability).collect(),
    });
    other::encode_message(&message).unwrap()
}

pub fn decode_update(
    bytes: &[u8],
    session: &Session,
) -> Result<RevisedParsedUpdate, other::DecodeError> {
    let message = other::decode_message(&mut Bytes::copy_from_slice(bytes), LONGEST)?;
    let other::Message::Update(update) = message else {
        panic!("{message:?}")
    };
    let ctx = &session.theirs;
    let families: Vec<_> = ctx
        .add_path_receive
        .iter()
        .map(|f| their_family(*f))
        .collect();
    let body = ctx.add_path_receive.contains(&Family::IPV4_UNICAST);
    update.parse_revised(ctx.four_byte_as, ctx.internal, body, &families)
}

/// As our decoder gives it: what MP_REACH_NLRI announces first.
pub fn as_ours(parsed: &ParsedUpdate, session: &Session) -> Vec<Update> {
    let mut attributes = PathAttributes::originated(IpAddr::from([0, 0, 0, 0]));
    let mut first = Update {
        withdrawn: parsed.withdrawn.iter().map(v4_nlri).collect(),
        ..Update::default()
    };
    let mut classic_hop = None;
    for attribute in &parsed.attributes {
        match attribute {
            PathAttribute::NextHop(hop) => classic_hop = Some(IpAddr::from(*hop)),
            PathAttribute::MpReachNlri(reach) => {
                first.announced = reach.announced.iter().map(nlri).collect();
                attributes.next_hop = reach.next_hop;
                attributes.link_local_next_hop = reach.link_local_next_hop;
            }
            PathAttribute::MpUnreachNlri(unreach) => {
                first.withdrawn.extend(unreach.withdrawn.iter().map(nlri));
            }
            other => take(other, &mut attributes),
        }
    }
    assert!(session.ours.internal || attributes.local_pref.is_none());
    if first.announced.is_empty() {
        first.announced = parsed.announced.iter().map(v4_nlri).collect();
        attributes.next_hop = classic_hop.unwrap();
    } else {
        assert!(
            parsed.announced.is_empty(),
            "the generator announces in one place"
        );
    }
    first.attributes = Some(Arc::new(attributes));
    vec![first]
}

fn take(attribute: &PathAttribute, into: &mut PathAttributes) {
    match attribute {
        PathAttribute::Origin(origin) => {
            into.origin = match origin {
                TheirOrigin::Igp => Origin::Igp,
                TheirOrigin::Egp => Origin::Egp,
                TheirOrigin::Incomplete => Origin::Incomplete,
            }
        }
        PathAttribute::AsPath(path) => {
            into.as_path = path.segments.iter().map(segment).collect();
        }
        PathAttribute::Aggregator(aggregator) => {
            into.aggregator = Some((Asn(aggregator.asn), aggregator.router_id));
        }
        PathAttribute::AtomicAggregate => into.atomic_aggregate = true,
        PathAttribute::LocalPref(value) => into.local_pref = Some(*value),
        PathAttribute::Med(value) => into.med = Some(*value),
        PathAttribute::Communities(all) => into.communities.clone_from(all),
        PathAttribute::ExtendedCommunities(all) => {
            into.extended_communities = all.iter().map(|one| one.as_u64()).collect();
        }
        PathAttribute::LargeCommunities(all) => {
            into.large_communities = all
                .iter()
                .map(|one| LargeCommunity {
                    global: one.global_admin,
                    local1: one.local_data1,
                    local2: one.local_data2,
                })
                .collect();
        }
        PathAttribute::OriginatorId(id) => into.originator_id = Some(*id),
        PathAttribute::ClusterList(ids) => into.cluster_list.clone_from(ids),
        PathAttribute::OnlyToCustomer(asn) => into.only_to_customer = Some(Asn(*asn)),
        PathAttribute::Unknown(raw) => into.unknown.push(UnknownAttribute {
            // They set Partial when they write, we when we read; the length bit is the writer's.
            flags: raw.flags & 0xe0 | 0x20,
            code: raw.type_code,
            value: raw.data.clone(),
        }),
        other => panic!("{other:?} is not generated"),
    }
}

fn segment(segment: &Segment) -> AsPathSegment {
    let (kind, asns) = match segment {
        Segment::AsSet(asns) => (SegmentKind::Set, asns),
        Segment::AsSequence(asns) => (SegmentKind::Sequence, asns),
    };
    AsPathSegment {
        kind,
        asns: asns.iter().map(|asn| Asn(*asn)).collect(),
    }
}

pub fn encode_update(update: &Update, session: &Session) -> BytesMut {
    let attributes = update.attributes.as_deref().unwrap();
    let body = |all: &[Nlri]| -> Vec<Ipv4NlriEntry> { all.iter().filter_map(their_v4).collect() };
    let classic = attributes.next_hop.is_ipv4();
    let announced = if classic {
        body(&update.announced)
    } else {
        Vec::new()
    };
    let message = other::UpdateMessage::build(
        &announced,
        &body(&update.withdrawn),
        &their_attributes(update, attributes),
        session.ours.four_byte_as,
        !session.ours.add_path_send.is_empty(),
        other::Ipv4UnicastMode::Body,
    );
    other::encode_message_with_limit(&other::Message::Update(message), LONGEST).unwrap()
}

fn their_attributes(update: &Update, from: &PathAttributes) -> Vec<PathAttribute> {
    let mut all = vec![
        PathAttribute::Origin(match from.origin {
            Origin::Igp => TheirOrigin::Igp,
            Origin::Egp => TheirOrigin::Egp,
            Origin::Incomplete => TheirOrigin::Incomplete,
        }),
        PathAttribute::AsPath(AsPath {
            segments: from.as_path.iter().map(their_segment).collect(),
        }),
    ];
    match from.next_hop {
        IpAddr::V4(hop) => all.push(PathAttribute::NextHop(hop)),
        IpAddr::V6(_) => all.push(PathAttribute::MpReachNlri(Box::new(reach(update, from)))),
    }
    let v6: Vec<NlriEntry> = update
        .withdrawn
        .iter()
        .filter(|nlri| nlri.prefix.addr().is_ipv6())
        .map(their_nlri)
        .collect();
    if !v6.is_empty() {
        all.push(PathAttribute::MpUnreachNlri(Box::new(unreach(v6))));
    }
    all.extend(from.med.map(PathAttribute::Med));
    all.extend(from.local_pref.map(PathAttribute::LocalPref));
    all.extend(
        from.atomic_aggregate
            .then_some(PathAttribute::AtomicAggregate),
    );
    all.extend(from.aggregator.map(|(asn, router_id)| {
        PathAttribute::Aggregator(Aggregator {
            asn: asn.0,
            router_id,
            partial: false,
        })
    }));
    if !from.communities.is_empty() {
        all.push(PathAttribute::Communities(from.communities.clone()));
    }
    all.extend(from.originator_id.map(PathAttribute::OriginatorId));
    if !from.cluster_list.is_empty() {
        all.push(PathAttribute::ClusterList(from.cluster_list.clone()));
    }
    let extended: Vec<_> = from
        .extended_communities
        .iter()
        .map(|one| ExtendedCommunity::new(*one))
        .collect();
    if !extended.is_empty() {
        all.push(PathAttribute::ExtendedCommunities(extended));
    }
    let large: Vec<_> = from
        .large_communities
        .iter()
        .map(|one| Large::new(one.global, one.local1, one.local2))
        .collect();
    if !large.is_empty() {
        all.push(PathAttribute::LargeCommunities(large));
    }
    all.extend(
        from.only_to_customer
            .map(|asn| PathAttribute::OnlyToCustomer(asn.0)),
    );
    all.extend(from.unknown.iter().map(|one| {
        PathAttribute::Unknown(RawAttribute {
            flags: one.flags,
            type_code: one.code,
            data: one.value.clone(),
        })
    }));
    all
}

fn their_segment(segment: &AsPathSegment) -> Segment {
    let asns = segment.asns.iter().map(|asn| asn.0).collect();
    match segment.kind {
        SegmentKind::Sequence => Segment::AsSequence(asns),
        kind => panic!("{kind:?} is not generated"),
    }
}

fn reach(update: &Update, from: &PathAttributes) -> MpReachNlri {
    let v4 = update.announced[0].prefix.addr().is_ipv4();
    MpReachNlri {
        afi: if v4 {
            other::Afi::Ipv4
        } else {
            other::Afi::Ipv6
        },
        safi: other::Safi::Unicast,
        next_hop: from.next_hop,
        link_local_next_hop: from.link_local_next_hop,
        announced: update.announced.iter().map(their_nlri).collect(),
        flowspec_announced: Vec::new(),
        evpn_announced: Vec::new(),
        bgpls_announced: Vec::new(),
        vpn_announced: Vec::new(),
        labeled_announced: Vec::new(),
        rtc_announced: Vec::new(),
    }
}

fn unreach(withdrawn: Vec<NlriEntry>) -> MpUnreachNlri {
    MpUnreachNlri {
        afi: other::Afi::Ipv6,
        safi: other::Safi::Unicast,
        withdrawn,
        flowspec_withdrawn: Vec::new(),
        evpn_withdrawn: Vec::new(),
        bgpls_withdrawn: Vec::new(),
        vpn_withdrawn: Vec::new(),
        labeled_withdrawn: Vec::new(),
        rtc_withdrawn: Vec::new(),
    }
}

fn v4_nlri(entry: &Ipv4NlriEntry) -> Nlri {
    let prefix = Ipv4Net::new(entry.prefix.addr, entry.prefix.len)
        .unwrap()
        .into();
    Nlri {
        prefix,
        path_id: entry.path_id,
    }
}

fn nlri(entry: &NlriEntry) -> Nlri {
    let prefix = match entry.prefix {
        Prefix::V4(prefix) => Ipv4Net::new(prefix.addr, prefix.len).unwrap().into(),
        Prefix::V6(prefix) => Ipv6Net::new(prefix.addr, prefix.len).unwrap().into(),
    };
    Nlri {
        prefix,
        path_id: entry.path_id,
    }
}

fn their_v4(nlri: &Nlri) -> Option<Ipv4NlriEntry> {
    match nlri.prefix {
        IpNet::V4(net) => Some(Ipv4NlriEntry {
            path_id: nlri.path_id,
            prefix: Ipv4Prefix::new(net.addr(), net.prefix_len()),
        }),
        IpNet::V6(_) => None,
    }
}

fn their_nlri(nlri: &Nlri) -> NlriEntry {
    let prefix = match nlri.prefix {
        IpNet::V4(net) => Prefix::V4(Ipv4Prefix::new(net.addr(), net.prefix_len())),
        IpNet::V6(net) => Prefix::V6(Ipv6Prefix::new(net.addr(), net.prefix_len())),
    };
    NlriEntry {
        path_id: nlri.path_id,
        prefix,
    }
}

fn family(afi: other::Afi, safi: other::Safi) -> Family {
    Family {
        afi: afi as u16,
        safi: safi as u8,
    }
}

fn their_family(family: Family) -> (other::Afi, other::Safi) {
    let afi = if family == Family::IPV4_UNICAST {
        other::Afi::Ipv4
    } else {
        other::Afi::Ipv6
    };
    (afi, other::Safi::Unicast)
}

/// A message read and written by them.
pub fn through(bytes: &[u8]) -> BytesMut {
    let message = other::decode_message(&mut Bytes::copy_from_slice(bytes), LONGEST).unwrap();
    other::encode_message(&message).unwrap()
}

fn capability(capability: other::Capability) -> Capability {
    use other::Capability as Their;
    match capability {
        Their::MultiProtocol { afi, safi } => Capability::Multiprotocol(family(afi, safi)),
        Their::RouteRefresh => Capability::RouteRefresh,
        Their::EnhancedRouteRefresh => Capability::EnhancedRouteRefresh,
        Their::ExtendedMessage => Capability::ExtendedMessage,
        Their::FourOctetAs { asn } => Capability::FourByteAs(Asn(asn)),
        Their::Role { role } => Capability::Role(match role {
            other::BgpRole::Provider => Role::Provider,
            other::BgpRole::RouteServer => Role::RouteServer,
            other::BgpRole::RouteServerClient => Role::RouteServerClient,
            other::BgpRole::Customer => Role::Customer,
            other::BgpRole::Peer => Role::Peer,
            other => panic!("{other:?} is not generated"),
        }),
        Their::ExtendedNextHop(all) => Capability::ExtendedNextHop(
            all.iter()
                .map(|one| (family(one.nlri_afi, one.nlri_safi), one.next_hop_afi as u16))
                .collect(),
        ),
        Their::GracefulRestart {
            restart_state,
            notification,
            restart_time,
            families,
        } => Capability::GracefulRestart(GracefulRestart {
            restarting: restart_state,
            notification,
            restart_time,
            families: families
                .iter()
                .map(|one| (family(one.afi, one.safi), one.forwarding_preserved))
                .collect(),
        }),
        Their::AddPath(all) => Capability::AddPath(
            all.iter()
                .map(|one| (family(one.afi, one.safi), mode(one.send_receive)))
                .collect(),
        ),
        Their::LongLivedGracefulRestart(all) => Capability::LongLivedGracefulRestart(
            all.iter()
                .map(|one| LongLivedFamily {
                    family: family(one.afi, one.safi),
                    forwarding: one.forwarding_preserved,
                    stale_time: one.stale_time,
                })
                .collect(),
        ),
        Their::Unknown { code, data } => Capability::Unknown { code, value: data },
        other => panic!("{other:?} is not generated"),
    }
}

fn mode(mode: other::AddPathMode) -> AddPathMode {
    match mode {
        other::AddPathMode::Receive => AddPathMode::Receive,
        other::AddPathMode::Send => AddPathMode::Send,
        other::AddPathMode::Both => AddPathMode::Both,
    }
}

/// Their value of ours: found by reading what it must look like, so that this file has one table, not two.
fn their_capability(capability: &Capability) -> other::Capability {
    let open = Open {
        asn: Asn(1),
        hold_time: 0,
        bgp_id: [1, 1, 1, 1].into(),
        capabilities: vec![capability.clone()],
    };
    let mut bytes = BytesMut::new();
    let message = bgp_proto::wire::Message::Open(open);
    message.encode(&bgp_proto::wire::WireContext::default(), &mut bytes);
    let read = other::decode_message(&mut bytes.freeze(), LONGEST).unwrap();
    let other::Message::Open(mut open) = read else {
        panic!("{read:?}")
    };
    open.capabilities.remove(0)
}
