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

fn context() -> impl Strategy<Value = WireContext> {
    (any::<bool>(), any::<bool>()).prop_map(|(four_byte_as, internal)| WireContext {
        four_byte_as,
        internal,
        families: vec![Family::IPV4_UNICAST, Family::IPV6_UNICAST],
    })
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
    prop_oneof![
        family().prop_map(Capability::Multiprotocol),
        Just(Capability::RouteRefresh),
        restart,
        (66..=255u8, bytes(200)).prop_map(|(code, value)| Capability::Unknown { code, value }),
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

fn v4_net() -> impl Strategy<Value = IpNet> {
    (any::<u32>(), 0..=32u8)
        .prop_map(|(address, len)| Ipv4Net::new(address.into(), len).unwrap().trunc().into())
}

fn v6_net() -> impl Strategy<Value = IpNet> {
    (any::<u128>(), 0..=128u8)
        .prop_map(|(address, len)| Ipv6Net::new(address.into(), len).unwrap().trunc().into())
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
    (origin, path(), numbers, aggregator, reflection, unknown()).prop_map(
        |(
            origin,
            as_path,
            (med, local_pref, atomic_aggregate),
            aggregator,
            reflection,
            unknown,
        )| {
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
                unknown,
            }
        },
    )
}

fn routes() -> impl Strategy<Value = (PathAttributes, Vec<IpNet>)> {
    let v4 = (
        v4_hop().prop_map(|hop| -> Hops { (hop.into(), None) }),
        vec(v4_net(), 1..40),
    );
    let v6 = (v6_hops(), vec(v6_net(), 1..40));
    (attributes(), prop_oneof![v4.boxed(), v6.boxed()]).prop_map(
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

/// What an external peer must not send.
fn fit_for(ctx: &WireContext, attributes: PathAttributes) -> PathAttributes {
    if ctx.internal {
        return attributes;
    }
    let cluster_list = Vec::new();
    PathAttributes {
        local_pref: None,
        originator_id: None,
        cluster_list,
        ..attributes
    }
}

proptest! {
    #[test]
    fn every_open_comes_back(open in open(), ctx in context()) {
        let message = Message::Open(open);
        prop_assert_eq!(decode_all(&encode(&message, &ctx), &ctx), Ok(vec![message]));
    }

    #[test]
    fn every_notification_comes_back(
        code in any::<u8>(), subcode in any::<u8>(), data in bytes(4000), ctx in context(),
    ) {
        let message = Message::Notification(Notification { code, subcode, data });
        prop_assert_eq!(decode_all(&encode(&message, &ctx), &ctx), Ok(vec![message]));
    }

    #[test]
    fn every_route_refresh_comes_back(family in family(), ctx in context()) {
        let message = Message::RouteRefresh(family);
        prop_assert_eq!(decode_all(&encode(&message, &ctx), &ctx), Ok(vec![message]));
    }

    #[test]
    fn every_update_comes_back(
        (attributes, announced) in routes(),
        v4 in vec(v4_net(), 0..20),
        v6 in vec(v6_net(), 0..20),
        ctx in context(),
    ) {
        let message = Message::Update(Update {
            withdrawn: [v4, v6].concat(),
            announced,
            attributes: Some(Arc::new(fit_for(&ctx, attributes))),
            ..Update::default()
        });
        prop_assert_eq!(decode_all(&encode(&message, &ctx), &ctx), Ok(vec![message]));
    }

    #[test]
    fn every_end_of_rib_comes_back(v6 in any::<bool>(), ctx in context()) {
        let family = if v6 { Family::IPV6_UNICAST } else { Family::IPV4_UNICAST };
        let mut out = BytesMut::new();
        encode_end_of_rib(family, &ctx, &mut out);
        let update = Update { end_of_rib: Some(family), ..Update::default() };
        prop_assert_eq!(decode_all(&out, &ctx), Ok(vec![Message::Update(update)]));
    }

    #[test]
    fn an_update_cut_anywhere_and_changed_anywhere_is_survived(
        (attributes, announced) in routes(),
        at in any::<prop::sample::Index>(),
        octet in any::<u8>(),
        ctx in context(),
    ) {
        let update = Update {
            announced,
            attributes: Some(Arc::new(fit_for(&ctx, attributes))),
            ..Update::default()
        };
        let body = encode(&Message::Update(update), &ctx).split_off(HEADER_LEN);
        let at = at.index(body.len());
        let mut changed = body.clone();
        changed[at] = octet;
        let _ = decode_all(&framed(2, &body[..at]), &ctx);
        let _ = decode_all(&framed(2, &changed), &ctx);
    }

    #[test]
    fn no_body_makes_the_decoder_panic(
        kind in 0..7u8, body in vec(any::<u8>(), 0..200), ctx in context(),
    ) {
        let _ = decode_all(&framed(kind, &body), &ctx);
    }
}
