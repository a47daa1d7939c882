//! Tables of bytes and what they mean, checked in both directions.

use std::sync::Arc;

use bytes::Bytes;

use super::super::*;
use super::{decode_all, encode, external, framed, hex, internal, net, plain, sequence, two_octet};

fn both_ways(kind: u8, body: &str, message: Message, ctx: &WireContext) {
    let bytes = framed(kind, &hex(body));
    assert_eq!(
        decode_all(&bytes, ctx),
        Ok(vec![message.clone()]),
        "decoding {body}"
    );
    assert_eq!(encode(&message, ctx), bytes, "encoding {message:?}");
}

fn announce(attributes: PathAttributes, prefixes: &[&str]) -> Message {
    Message::Update(Update {
        announced: prefixes.iter().map(|prefix| net(prefix)).collect(),
        attributes: Some(Arc::new(attributes)),
        ..Update::default()
    })
}

fn withdraw(prefixes: &[&str]) -> Message {
    let withdrawn = prefixes.iter().map(|prefix| net(prefix)).collect();
    Message::Update(Update {
        withdrawn,
        ..Update::default()
    })
}

fn end_of_rib(family: Family) -> Message {
    Message::Update(Update {
        end_of_rib: Some(family),
        ..Update::default()
    })
}

fn open(asn: u32, capabilities: Vec<Capability>) -> Message {
    let bgp_id = "10.0.0.1".parse().unwrap();
    Message::Open(Open {
        asn: Asn(asn),
        hold_time: 90,
        bgp_id,
        capabilities,
    })
}

#[test]
fn messages_without_attributes() {
    let ctx = external();
    both_ways(4, "", Message::Keepalive, &ctx);
    both_ways(
        5,
        "0002 00 01",
        Message::RouteRefresh(RouteRefresh::request(Family::IPV6_UNICAST)),
        &ctx,
    );
    both_ways(
        3,
        "04 00",
        Message::Notification(Notification::hold_timer_expired()),
        &ctx,
    );
    let told = Notification::cease_with_text(notification::cease::ADMINISTRATIVE_SHUTDOWN, "bye");
    both_ways(3, "06 02 03 627965", Message::Notification(told), &ctx);
}

#[test]
fn opens_with_each_capability() {
    let ctx = external();
    let table = [
        ("04 fde8 005a 0a000001 00", open(65000, vec![])),
        (
            "04 fde8 005a 0a000001 08 02 06 01 04 0001 00 01",
            open(65000, vec![Capability::Multiprotocol(Family::IPV4_UNICAST)]),
        ),
        (
            "04 fde8 005a 0a000001 04 02 02 02 00",
            open(65000, vec![Capability::RouteRefresh]),
        ),
        (
            "04 5ba0 005a 0a000001 08 02 06 41 04 fa56ea00",
            open(
                4_200_000_000,
                vec![Capability::FourByteAs(Asn(4_200_000_000))],
            ),
        ),
        (
            "04 fde8 005a 0a000001 0e 02 0c 40 0a c078 0001 01 80 0002 01 00",
            open(
                65000,
                vec![Capability::GracefulRestart(GracefulRestart {
                    restarting: true,
                    notification: true,
                    restart_time: 120,
                    families: vec![(Family::IPV4_UNICAST, true), (Family::IPV6_UNICAST, false)],
                })],
            ),
        ),
        (
            "04 fde8 005a 0a000001 07 02 05 49 03 02 6e31",
            open(
                65000,
                vec![Capability::Unknown {
                    code: 73,
                    value: Bytes::from_static(b"\x02n1"),
                }],
            ),
        ),
    ];
    for (body, message) in table {
        both_ways(1, body, message, &ctx);
    }
}

#[test]
fn an_open_too_long_for_plain_parameters_takes_the_extended_form() {
    let value = Bytes::from(vec![7; 250]);
    let long = || Capability::Unknown {
        code: 200,
        value: value.clone(),
    };
    let body = format!(
        "04 fde8 005a 0a000001 ff ff 01fb 02 01f8 {0} {0}",
        format!("c8 fa {}", "07".repeat(250)),
    );
    both_ways(1, &body, open(65000, vec![long(), long()]), &external());
}

#[test]
fn capabilities_may_come_in_several_parameters_and_in_the_extended_form_without_need() {
    let expected = open(
        65000,
        vec![Capability::RouteRefresh, Capability::RouteRefresh],
    );
    for body in [
        "04 fde8 005a 0a000001 08 02 02 02 00 02 02 02 00",
        "04 fde8 005a 0a000001 ff ff 000a 02 0002 02 00 02 0002 02 00",
    ] {
        let bytes = framed(1, &hex(body));
        assert_eq!(decode_all(&bytes, &external()), Ok(vec![expected.clone()]));
    }
}

#[test]
fn withdrawals_and_ends_of_rib() {
    let ctx = external();
    both_ways(
        2,
        "0005 08 0a 10 ac10 0000",
        withdraw(&["10.0.0.0/8", "172.16.0.0/16"]),
        &ctx,
    );
    both_ways(2, "0001 00 0000", withdraw(&["0.0.0.0/0"]), &ctx);
    both_ways(
        2,
        "0000 000b 80 0f 08 0002 01 20 20010db8",
        withdraw(&["2001:db8::/32"]),
        &ctx,
    );
    both_ways(2, "0000 0000", end_of_rib(Family::IPV4_UNICAST), &ctx);
    both_ways(
        2,
        "0000 0006 80 0f 03 0002 01",
        end_of_rib(Family::IPV6_UNICAST),
        &ctx,
    );
}

/// The body of an UPDATE that announces 10.10.0.0/24 with one more attribute than it must have.
fn route_with(extra: &str) -> String {
    let attributes = format!("40 01 01 00  40 02 06 02 01 0000fde9  40 03 04 c0000201 {extra}");
    format!("0000 {:04x} {attributes} 18 0a0a00", hex(&attributes).len())
}

#[test]
fn attributes_that_are_passed_on_unread() {
    let table = [
        (
            "c0 19 14 0002fde8000000010002fde80000000100000000",
            0xc0,
            25,
            "0002fde8000000010002fde80000000100000000",
        ),
        ("e0 63 02 cafe", 0xe0, 99, "cafe"),
        ("e0 1c 00", 0xe0, 28, ""),
    ];
    for (extra, flags, code, value) in table {
        let unknown = vec![UnknownAttribute {
            flags,
            code,
            value: hex(value).into(),
        }];
        let attributes = PathAttributes {
            unknown,
            ..plain("192.0.2.1", &[65001])
        };
        both_ways(
            2,
            &route_with(extra),
            announce(attributes, &["10.10.0.0/24"]),
            &external(),
        );
    }
}

fn large(global: u32, local1: u32, local2: u32) -> LargeCommunity {
    LargeCommunity {
        global,
        local1,
        local2,
    }
}

#[test]
fn each_attribute_of_a_route() {
    let ctx = internal();
    let base = || plain("192.0.2.1", &[65001]);
    let id = || "10.0.0.9".parse().unwrap();
    let table = [
        ("", base()),
        (
            "80 04 04 0000000a",
            PathAttributes {
                med: Some(10),
                ..base()
            },
        ),
        (
            "40 05 04 00000064",
            PathAttributes {
                local_pref: Some(100),
                ..base()
            },
        ),
        (
            "40 06 00",
            PathAttributes {
                atomic_aggregate: true,
                ..base()
            },
        ),
        (
            "c0 07 08 fa56ea00 0a000009",
            PathAttributes {
                aggregator: Some((Asn(4_200_000_000), id())),
                ..base()
            },
        ),
        (
            "c0 08 08 fde90001 ffffff01",
            PathAttributes {
                communities: vec![0xfde9_0001, 0xffff_ff01],
                ..base()
            },
        ),
        (
            "80 09 04 0a000009",
            PathAttributes {
                originator_id: Some(id()),
                ..base()
            },
        ),
        (
            "80 0a 04 0a000009",
            PathAttributes {
                cluster_list: vec![id()],
                ..base()
            },
        ),
    ];
    for (extra, attributes) in table {
        both_ways(
            2,
            &route_with(extra),
            announce(attributes, &["10.10.0.0/24"]),
            &ctx,
        );
    }
}

#[test]
fn each_kind_of_longer_community_and_the_otc() {
    let ctx = external();
    let base = || plain("192.0.2.1", &[65001]);
    let table = [
        (
            "c0 10 10 0002fde800000001 4004fde84b189680",
            PathAttributes {
                extended_communities: vec![0x0002_fde8_0000_0001, 0x4004_fde8_4b18_9680],
                ..base()
            },
        ),
        (
            "c0 20 18 fa56ea000000000200000003 000000010000000200000003",
            PathAttributes {
                large_communities: vec![large(4_200_000_000, 2, 3), large(1, 2, 3)],
                ..base()
            },
        ),
        (
            "e0 08 04 fde90001 c0 10 08 0002fde800000001 e0 20 0c 000000010000000200000003",
            PathAttributes {
                communities: vec![0xfde9_0001],
                extended_communities: vec![0x0002_fde8_0000_0001],
                large_communities: vec![large(1, 2, 3)],
                partial: 1 << 8 | 1 << 32,
                ..base()
            },
        ),
        (
            "c0 23 04 0000fde9",
            PathAttributes {
                only_to_customer: Some(Asn(65001)),
                ..base()
            },
        ),
    ];
    for (extra, attributes) in table {
        both_ways(
            2,
            &route_with(extra),
            announce(attributes, &["10.10.0.0/24"]),
            &ctx,
        );
    }
}

#[test]
fn each_origin_and_each_kind_of_segment() {
    let ctx = internal();
    for (octet, origin) in [
        ("00", Origin::Igp),
        ("01", Origin::Egp),
        ("02", Origin::Incomplete),
    ] {
        let body = format!("0000 000e 4001 01 {octet} 4002 00 4003 04 c0000201 20 01020304");
        let attributes = PathAttributes {
            origin,
            ..plain("192.0.2.1", &[])
        };
        both_ways(2, &body, announce(attributes, &["1.2.3.4/32"]), &ctx);
    }
    let kinds = [
        ("01", SegmentKind::Set),
        ("02", SegmentKind::Sequence),
        ("03", SegmentKind::ConfedSequence),
        ("04", SegmentKind::ConfedSet),
    ];
    for (octet, kind) in kinds {
        let body = format!(
            "0000 0018 4001 01 00 4002 0a {octet} 02 00000001 00000002 4003 04 c0000201 00"
        );
        let path = AsPathSegment {
            kind,
            ..sequence(&[1, 2])
        };
        let attributes = PathAttributes {
            as_path: vec![path],
            ..plain("192.0.2.1", &[])
        };
        both_ways(2, &body, announce(attributes, &["0.0.0.0/0"]), &ctx);
    }
}

#[test]
fn ipv6_routes_with_one_next_hop_and_with_two() {
    let ctx = external();
    let tail = "4001 01 00 4002 06 02 01 0000fde9";
    let one = format!(
        "0000 002a 80 0e 1a 0002 01 10 20010db8000000000000000000000001 00 20 20010db8 {tail}"
    );
    both_ways(
        2,
        &one,
        announce(plain("2001:db8::1", &[65001]), &["2001:db8::/32"]),
        &ctx,
    );
    let two = format!(
        "0000 003a 80 0e 2a 0002 01 20 20010db8000000000000000000000001 \
         fe800000000000000000000000000001 00 20 20010db8 {tail}"
    );
    let attributes = PathAttributes {
        link_local_next_hop: Some("fe80::1".parse().unwrap()),
        ..plain("2001:db8::1", &[65001])
    };
    both_ways(2, &two, announce(attributes, &["2001:db8::/32"]), &ctx);
}

#[test]
fn a_two_octet_peer_is_told_of_wide_numbers_beside() {
    let body = "0000 0035 4001 01 00 4002 06 02 02 0001 5ba0 4003 04 c0000201 \
                c007 06 5ba0 0a000009 \
                c011 0a 02 02 00000001 00011170 c012 08 00011171 0a000009 18 0a0a00";
    let attributes = PathAttributes {
        aggregator: Some((Asn(70001), "10.0.0.9".parse().unwrap())),
        ..plain("192.0.2.1", &[1, 70000])
    };
    both_ways(
        2,
        body,
        announce(attributes, &["10.10.0.0/24"]),
        &two_octet(),
    );
}

#[test]
fn a_value_longer_than_255_takes_the_extended_length() {
    let body = format!(
        "0000 {:04x} 4001 01 00 4002 00 4003 04 c0000201 d008 0100 {} 18 0a0a00",
        4 + 3 + 7 + 4 + 256,
        "0000ffff".repeat(64)
    );
    let attributes = PathAttributes {
        communities: vec![0xffff; 64],
        ..plain("192.0.2.1", &[])
    };
    both_ways(
        2,
        &body,
        announce(attributes, &["10.10.0.0/24"]),
        &external(),
    );
}

#[test]
fn a_segment_longer_than_255_is_written_as_two() {
    let asns: Vec<u32> = (1..=300).collect();
    let message = announce(plain("192.0.2.1", &asns), &["10.0.0.0/8"]);
    let attributes = PathAttributes {
        as_path: vec![sequence(&asns[..255]), sequence(&asns[255..])],
        ..plain("192.0.2.1", &[])
    };
    let read = decode_all(&encode(&message, &external()), &external());
    assert_eq!(read, Ok(vec![announce(attributes, &["10.0.0.0/8"])]));
}
