//! What is encoded is what is decoded, for messages of all kinds made at random; and no input makes the decoder panic.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::super::*;
use super::{decode_all, encode, framed};

const BOTH: [Family; 2] = [Family::IPV4_UNICAST, Family::IPV6_UNICAST];

/// Any session, as the one who sends sees it.
fn context() -> impl Strategy<Value = WireContext> {
    let some = || proptest::sample::subsequence(BOTH.to_vec(), 0..=2);
    (any::<[bool; 4]>(), some(), some(), some()).prop_map(
        |([four_byte_as, internal, extended_messages, enhanced], next_hop, receive, send)| {
            WireContext {
                four_byte_as,
                internal,
                families: BOTH.to_vec(),
                extended_next_hop: next_hop,
                add_path_receive: receive,
                add_path_send: send,
                extended_messages,
                enhanced_route_refresh: enhanced,
            }
        },
    )
}

/// The same session as the other side sees it.
fn mirrored(ctx: &WireContext) -> WireContext {
    WireContext {
        add_path_receive: ctx.add_path_send.clone(),
        add_path_send: ctx.add_path_receive.clone(),
        ..ctx.clone()
    }
}

/// What the other side makes of a message.
fn sent(message: &Message, ctx: &WireContext) -> Result<Vec<Message>, Notification> {
    decode_all(&encode(message, ctx), &mirrored(ctx))
}

fn family() -> impl Strategy<Value = Family> {
    (any::<u16>(), any::<u8>()).prop_map(|(afi, safi)| Family { afi, safi })
}

fn asn() -> impl Strategy<Value = Asn> {
    prop_oneof![1..65536u32, 1..=u32::MAX].prop_map(Asn)
}

fn bytes(max: usize) -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..max).prop_map(Bytes::from)
}

fn capability() -> impl Strategy<Value = Capability> {
    let restart = (
        any::<bool>(),
        any::<bool>(),
        0..4096u16,
        vec((family(), any::<bool>()), 0..5),
    )
        .prop_map(|(restarting, notification, restart_time, families)| {
            let restart = GracefulRestart {
                restarting,
                notification,
                restart_time,
                families,
            };
            Capability::GracefulRestart(restart)
        });
    let next_hops = vec((family(), any::<u16>()), 0..5);
    let mode = prop_oneof![
        Just(AddPathMode::Receive),
        Just(AddPathMode::Send),
        Just(AddPathMode::Both)
    ];
    let long_lived =
        (family(), any::<bool>(), 0..1u32 << 24).prop_map(|(family, forwarding, stale_time)| {
            LongLivedFamily {
                family,
                forwarding,
                stale_time,
            }
        });
    let role = prop_oneof![
        Just(Role::Provider),
        Just(Role::RouteServer),
        Just(Role::RouteServerClient),
        Just(Role::Customer),
        Just(Role::Peer),
        (5..=255u8).prop_map(Role::Unassigned),
    ];
    prop_oneof![
        family().prop_map(Capability::Multiprotocol),
        Just(Capability::RouteRefresh),
        next_hops.prop_map(Capability::ExtendedNextHop),
        Just(Capability::ExtendedMessage),
        role.prop_map(Capability::Role),
        restart,
        vec((family(), mode), 0..5).prop_map(Capability::AddPath),
        Just(Capability::EnhancedRouteRefresh),
        vec(long_lived, 0..5).prop_map(Capability::LongLivedGracefulRestart),
        (72..=255u8, bytes(200)).prop_map(|(code, value)| Capability::Unknown { code, value }),
    ]
}

fn refresh_kind() -> impl Strategy<Value = RefreshKind> {
    prop_oneof![
        Just(RefreshKind::Request),
        Just(RefreshKind::Begin),
        Just(RefreshKind::End)
    ]
}

fn open() -> impl Strategy<Value = Open> {
    let hold_time = prop_oneof![Just(0), 3..=u16::MAX];
    (asn(), hold_time, 1..=u32::MAX, vec(capability(), 0..12)).prop_map(
        |(asn, hold_time, id, mut capabilities)| {
            capabilities.push(Capability::FourByteAs(asn));
            Open {
                asn,
                hold_time,
                bgp_id: id.into(),
                capabilities,
            }
        },
    )
}

fn v4_nlri() -> impl Strategy<Value = Nlri> {
    (any::<u32>(), 0..=32u8, any::<u32>()).prop_map(|(address, len, path_id)| Nlri {
        prefix: Ipv4Net::new(address.into(), len).unwrap().trunc().into(),
        path_id,
    })
}

fn v6_nlri() -> impl Strategy<Value = Nlri> {
    (any::<u128>(), 0..=128u8, any::<u32>()).prop_map(|(address, len, path_id)| Nlri {
        prefix: Ipv6Net::new(address.into(), len).unwrap().trunc().into(),
        path_id,
    })
}

/// What can be sent on a session: Path Identifiers only where they are agreed on.
fn with_ids_for(ctx: &WireContext, nlri: Vec<Nlri>) -> Vec<Nlri> {
    let of = |nlri: Nlri| {
        let family = match nlri.prefix {
            IpNet::V4(_) => Family::IPV4_UNICAST,
            IpNet::V6(_) => Family::IPV6_UNICAST,
        };
        let agreed = ctx.add_path_send.contains(&family);
        if agreed { nlri } else { nlri.prefix.into() }
    };
    nlri.into_iter().map(of).collect()
}

fn path() -> impl Strategy<Value = Vec<AsPathSegment>> {
    let kind = prop_oneof![Just(SegmentKind::Sequence), Just(SegmentKind::Set)];
    let segment = (kind, vec(asn(), 1..6)).prop_map(|(kind, asns)| AsPathSegment { kind, asns });
    // On a two-octet session, sequences that meet come back as one.
    vec(segment, 0..4).prop_filter("sequences apart", |path| {
        path.windows(2)
            .all(|pair| pair.iter().any(|s| s.kind == SegmentKind::Set))
    })
}

fn unknown() -> impl Strategy<Value = Vec<UnknownAttribute>> {
    vec((40..=255u8, bytes(300)), 0..3).prop_map(|list| {
        let mut list: Vec<_> = list
            .into_iter()
            .map(|(code, value)| UnknownAttribute {
                flags: 0xe0,
                code,
                value,
            })
            .collect();
        list.sort_by_key(|attribute| attribute.code);
        list.dedup_by_key(|attribute| attribute.code);
        list
    })
}

fn v4_hop() -> impl Strategy<Value = Ipv4Addr> {
    (1..224u8, any::<[u8; 3]>())
        .prop_filter("not loopback", |(first, _)| *first != 127)
        .prop_map(|(a, [b, c, d])| Ipv4Addr::new(a, b, c, d))
}

type Hops = (IpAddr, Option<Ipv6Addr>);

fn v6_hops() -> impl Strategy<Value = Hops> {
    (any::<[u8; 15]>(), option::of(any::<[u8; 8]>())).prop_map(|(low, link_local)| {
        let global: [u8; 16] = [&[0x20], low.as_slice()].concat().try_into().unwrap();
        let link_local = link_local.map(|low| {
            let octets: [u8; 16] = [&[0xfe, 0x80, 0, 0, 0, 0, 0, 0], low.as_slice()]
                .concat()
                .try_into()
                .unwrap();
            Ipv6Addr::from(octets)
        });
        (Ipv6Addr::from(global).into(), link_local)
    })
}

fn attributes() -> impl Strategy<Value = PathAttributes> {
    let origin = prop_oneof![
        Just(Origin::Igp),
        Just(Origin::Egp),
        Just(Origin::Incomplete)
    ];
    let numbers = (
        option::of(any::<u32>()),
        option::of(any::<u32>()),
        any::<bool>(),
    );
    let reflection = (
        option::of(any::<Ipv4Addr>()),
        vec(any::<Ipv4Addr>(), 0..4),
        vec(any::<u32>(), 0..80),
    );
    let aggregator = option::of((asn(), any::<Ipv4Addr>()));
    let tags = (
        vec(any::<u64>(), 0..20),
        vec(large_community(), 0..20),
        option::of(any::<u32>().prop_map(Asn)),
    );
    let partial = proptest::sample::subsequence(vec![7u8, 8, 16, 32, 35], 0..=5);
    let tail = (tags, unknown(), partial);
    (origin, path(), numbers, aggregator, reflection, tail).prop_map(
        |(
            origin,
            as_path,
            (med, local_pref, atomic_aggregate),
            aggregator,
            reflection,
            ((extended_communities, mut large_communities, only_to_customer), unknown, partial),
        )| {
            let there = [
                (7, aggregator.is_some()),
                (8, !reflection.2.is_empty()),
                (16, !extended_communities.is_empty()),
                (32, !large_communities.is_empty()),
                (35, only_to_customer.is_some()),
            ];
            let partial = there
                .iter()
                .filter(|(code, there)| *there && partial.contains(code))
                .fold(0u64, |bits, (code, _)| bits | 1 << code);
            large_communities.sort_unstable();
            large_communities.dedup();
            let (originator_id, cluster_list, communities) = reflection;
            PathAttributes {
                origin,
                as_path,
                next_hop: Ipv4Addr::new(192, 0, 2, 1).into(),
                link_local_next_hop: None,
                med,
                local_pref,
                atomic_aggregate,
                aggregator,
                communities,
                originator_id,
                cluster_list,
                extended_communities,
                large_communities,
                only_to_customer,
                unknown,
                partial,
            }
        },
    )
}

fn large_community() -> impl Strategy<Value = LargeCommunity> {
    any::<[u32; 3]>().prop_map(|[global, local1, local2]| LargeCommunity {
        global,
        local1,
        local2,
    })
}

/// IPv4 routes may have an IPv6 next hop; one that is to be decoded needs RFC 8950 in its session.
fn routes() -> impl Strategy<Value = (PathAttributes, Vec<Nlri>)> {
    let v4 = (
        v4_hop().prop_map(|hop| -> Hops { (hop.into(), None) }),
        vec(v4_nlri(), 1..40),
    );
    let v6 = (v6_hops(), vec(v6_nlri(), 1..40));
    let v4_over_v6 = (v6_hops(), vec(v4_nlri(), 1..40));
    let any = prop_oneof![v4.boxed(), v6.boxed(), v4_over_v6.boxed()];
    (attributes(), any).prop_map(
        |(attributes, ((next_hop, link_local_next_hop), announced))| {
            (
                PathAttributes {
                    next_hop,
                    link_local_next_hop,
                    ..attributes
                },
                announced,
            )
        },
    )
}

/// A route that can be sent on a session.
fn fit_for(
    ctx: &WireContext,
    (attributes, announced): (PathAttributes, Vec<Nlri>),
) -> (Arc<PathAttributes>, Vec<Nlri>) {
    let announced = with_ids_for(ctx, announced);
    let mut attributes = attributes;
    if !ctx.internal {
        attributes.local_pref = None;
        attributes.originator_id = None;
        attributes.cluster_list = Vec::new();
    }
    let v4 = matches!(
        announced.first().map(|nlri| nlri.prefix),
        Some(IpNet::V4(_))
    );
    if v4 && !ctx.extended_next_hop.contains(&Family::IPV4_UNICAST) {
        attributes.next_hop = Ipv4Addr::new(192, 0, 2, 1).into();
        attributes.link_local_next_hop = None;
    }
    (Arc::new(attributes), announced)
}

proptest! {
    #[test]
    fn every_open_comes_back(open in open(), ctx in context()) {
        let message = Message::Open(open);
        prop_assert_eq!(sent(&message, &ctx), Ok(vec![message]));
    }

    #[test]
    fn every_notification_comes_back(
        code in any::<u8>(), subcode in any::<u8>(), data in bytes(4000), ctx in context(),
    ) {
        let message = Message::Notification(Notification { code, subcode, data });
        prop_assert_eq!(sent(&message, &ctx), Ok(vec![message]));
    }

    #[test]
    fn every_route_refresh_comes_back(family in family(), kind in refresh_kind(), ctx in context()) {
        let kind = if ctx.enhanced_route_refresh { kind } else { RefreshKind::Request };
        let message = Message::RouteRefresh(RouteRefresh { family, kind });
        prop_assert_eq!(sent(&message, &ctx), Ok(vec![message]));
    }

    #[test]
    fn every_update_comes_back(
        routes in routes(),
        v4 in vec(v4_nlri(), 0..20),
        v6 in vec(v6_nlri(), 0..20),
        ctx in context(),
    ) {
        let (attributes, announced) = fit_for(&ctx, routes);
        let message = Message::Update(Update {
            withdrawn: with_ids_for(&ctx, [v4, v6].concat()),
            announced,
            attributes: Some(attributes),
            ..Update::default()
        });
        prop_assert_eq!(sent(&message, &ctx), Ok(vec![message]));
    }

    #[test]
    fn every_end_of_rib_comes_back(v6 in any::<bool>(), ctx in context()) {
        let family = if v6 { Family::IPV6_UNICAST } else { Family::IPV4_UNICAST };
        let mut out = BytesMut::new();
        encode_end_of_rib(family, &ctx, &mut out);
        let update = Update { end_of_rib: Some(family), ..Update::default() };
        prop_assert_eq!(decode_all(&out, &mirrored(&ctx)), Ok(vec![Message::Update(update)]));
    }

    #[test]
    fn an_update_cut_anywhere_and_changed_anywhere_is_survived(
        routes in routes(),
        at in any::<prop::sample::Index>(),
        octet in any::<u8>(),
        ctx in context(),
    ) {
        let (attributes, announced) = fit_for(&ctx, routes);
        let update = Update {
            announced,
            attributes: Some(attributes),
            ..Update::default()
        };
        let body = encode(&Message::Update(update), &ctx).split_off(HEADER_LEN);
        let at = at.index(body.len());
        let mut changed = body.clone();
        changed[at] = octet;
        let _ = decode_all(&framed(2, &body[..at]), &mirrored(&ctx));
        let _ = decode_all(&framed(2, &changed), &mirrored(&ctx));
    }

    #[test]
    fn no_body_makes_the_decoder_panic(
        kind in 0..7u8, body in vec(any::<u8>(), 0..200), ctx in context(),
    ) {
        let _ = decode_all(&framed(kind, &body), &ctx);
    }
}
