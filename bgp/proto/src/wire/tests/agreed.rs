//! What the two OPENs agree on changes what is read and written: Path Identifiers, longer messages, other next hops.

use std::sync::Arc;

use bytes::BytesMut;

use super::super::notification::{code, header, route_refresh, update as subcode};
use super::super::*;
use super::{decode_all, encode, external, framed, hex, net, plain, update_body};

const BOTH: [Family; 2] = [Family::IPV4_UNICAST, Family::IPV6_UNICAST];

fn add_path() -> WireContext {
    WireContext {
        add_path_receive: BOTH.to_vec(),
        add_path_send: BOTH.to_vec(),
        ..external()
    }
}

fn extended() -> WireContext {
    WireContext {
        extended_messages: true,
        ..external()
    }
}

fn enhanced() -> WireContext {
    WireContext {
        enhanced_route_refresh: true,
        ..external()
    }
}

fn over_v6() -> WireContext {
    WireContext {
        extended_next_hop: vec![Family::IPV4_UNICAST],
        ..external()
    }
}

fn with_id(prefix: &str, path_id: u32) -> Nlri {
    Nlri {
        path_id,
        ..net(prefix)
    }
}

/// The first UPDATE of these attributes and NLRI, both with the mandatory attributes of 192.0.2.1.
fn update(
    withdrawn: &str,
    extra: &str,
    nlri: &str,
    ctx: &WireContext,
) -> Result<Vec<Update>, Notification> {
    let attributes = if nlri.is_empty() && !extra.contains("0e") {
        extra.to_owned()
    } else {
        [
            "40 01 01 00 40 02 06 02 01 0000fde9 40 03 04 c0000201",
            extra,
        ]
        .concat()
    };
    let body = update_body(&hex(withdrawn), &hex(&attributes), &hex(nlri));
    let take = |message| match message {
        Message::Update(update) => update,
        other => panic!("{other:?}"),
    };
    Ok(decode_all(&framed(2, &body), ctx)?
        .into_iter()
        .map(take)
        .collect())
}

#[test]
fn path_identifiers_stand_in_all_four_places() {
    let reach = "80 0e 1e 0002 01 10 20010db8000000000000000000000001 00 00000003 20 20010db8";
    let unreach = "80 0f 0c 0002 01 00000004 20 20010db9";
    let updates = update(
        "00000001 08 0b",
        &[reach, unreach].concat(),
        "00000002 08 0a ffffffff 08 0a",
        &add_path(),
    )
    .unwrap();
    assert_eq!(
        updates[0].withdrawn,
        [with_id("11.0.0.0/8", 1), with_id("2001:db9::/32", 4)]
    );
    assert_eq!(updates[0].announced, [with_id("2001:db8::/32", 3)]);
    assert_eq!(
        updates[1].announced,
        [with_id("10.0.0.0/8", 2), with_id("10.0.0.0/8", u32::MAX)]
    );
}

#[test]
fn path_identifiers_are_read_and_written_by_direction_and_by_family() {
    let receives = WireContext {
        add_path_receive: vec![Family::IPV6_UNICAST],
        ..external()
    };
    let updates = update(
        "08 0b",
        "80 0f 0c 0002 01 00000004 20 20010db9",
        "",
        &receives,
    )
    .unwrap();
    assert_eq!(
        updates[0].withdrawn,
        [net("11.0.0.0/8"), with_id("2001:db9::/32", 4)]
    );
    let sent = Message::Update(Update {
        withdrawn: vec![with_id("2001:db9::/32", 4)],
        ..Update::default()
    });
    let written = encode(&sent, &receives);
    assert!(
        written.ends_with(&hex("80 0f 08 0002 01 20 20010db9")),
        "{written:02x?}"
    );
}

#[test]
fn a_path_identifier_cut_short_resets() {
    let invalid = |outcome: Result<Vec<Update>, Notification>| {
        let notification = outcome.unwrap_err();
        (notification.code, notification.subcode)
    };
    let network = (code::UPDATE, subcode::INVALID_NETWORK);
    assert_eq!(invalid(update("000001", "", "", &add_path())), network);
    assert_eq!(invalid(update("", "", "00000001", &add_path())), network);
    // An identifier, and then a length no prefix has.
    let too_long = "00000018 21 0a00000000";
    assert_eq!(invalid(update("", "", too_long, &add_path())), network);
}

#[test]
fn end_of_rib_is_the_same_with_path_identifiers() {
    for family in BOTH {
        let mut out = BytesMut::new();
        encode_end_of_rib(family, &add_path(), &mut out);
        let expected = Update {
            end_of_rib: Some(family),
            ..Update::default()
        };
        let seen = decode_all(&out, &add_path()).unwrap();
        assert_eq!(seen, [Message::Update(expected)]);
    }
}

#[test]
fn ipv4_routes_over_ipv6_come_with_one_next_hop_or_two() {
    let one = "80 0e 17 0001 01 10 20010db8000000000000000000000001 00 08 0a";
    let two = "80 0e 27 0001 01 20 20010db8000000000000000000000001 \
               fe800000000000000000000000000001 00 08 0a";
    let only_link_local = "80 0e 17 0001 01 10 fe800000000000000000000000000001 00 08 0a";
    let four = "80 0e 0b 0001 01 04 c0000207 00 08 0a";
    for (reach, next_hop, link_local) in [
        (one, "2001:db8::1", None),
        (two, "2001:db8::1", Some("fe80::1")),
        (only_link_local, "fe80::1", None),
        (four, "192.0.2.7", None),
    ] {
        let updates = update("", reach, "", &over_v6()).unwrap();
        assert_eq!(updates[0].announced, [net("10.0.0.0/8")]);
        let attributes = updates[0].attributes.as_deref().unwrap();
        assert_eq!(attributes.next_hop, next_hop.parse::<IpAddr>().unwrap());
        let link_local = link_local.map(|address| address.parse().unwrap());
        assert_eq!(attributes.link_local_next_hop, link_local);
    }
}

#[test]
fn an_ipv6_next_hop_of_ipv4_routes_that_was_not_agreed_on_resets() {
    // RFC 7606 §7.11: the length of the next hop is not the one expected, so the prefixes cannot be found.
    let reach = "80 0e 17 0001 01 10 20010db8000000000000000000000001 00 08 0a";
    let notification = update("", reach, "", &external()).unwrap_err();
    assert_eq!(notification.subcode, subcode::OPTIONAL_ATTRIBUTE);
    for length in ["05", "0f", "11", "1f", "21"] {
        let len = usize::from_str_radix(length, 16).unwrap();
        let hop = "20".repeat(len);
        let reach = format!("80 0e {:02x} 0001 01 {length} {hop} 00", 5 + len);
        assert!(update("", &reach, "", &over_v6()).is_err(), "{length}");
    }
}

#[test]
fn ipv4_routes_over_ipv6_are_written_into_mp_reach() {
    let attributes = Arc::new(plain("2001:db8::1", &[65001]));
    let mut out = BytesMut::new();
    encode_updates(&attributes, &[net("10.0.0.0/8")], &over_v6(), &mut out);
    let reach = hex("80 0e 17 0001 01 10 20010db8000000000000000000000001 00 08 0a");
    assert!(out.windows(reach.len()).any(|bytes| bytes == reach));
    assert!(
        !out.windows(3).any(|bytes| bytes == hex("40 03 04")),
        "a NEXT_HOP"
    );
}

#[test]
fn messages_may_be_as_long_as_was_agreed_on() {
    let notification = |len: usize| framed(3, &vec![6; len - 19]);
    for (ctx, len, fits) in [
        (external(), 4096, true),
        (external(), 4097, false),
        (extended(), 4097, true),
        (extended(), 65535, true),
    ] {
        let outcome = decode_all(&notification(len), &ctx);
        assert_eq!(outcome.is_ok(), fits, "{len}");
        if let Err(error) = outcome {
            assert_eq!(
                (error.code, error.subcode),
                (code::HEADER, header::BAD_LENGTH)
            );
            assert_eq!(
                error.data,
                u16::try_from(len).unwrap().to_be_bytes().to_vec()
            );
        }
    }
}

#[test]
fn open_and_keepalive_never_get_longer() {
    for kind in [1, 4] {
        let error = decode_all(&framed(kind, &[4; 4078]), &extended()).unwrap_err();
        assert_eq!(
            (error.code, error.subcode),
            (code::HEADER, header::BAD_LENGTH)
        );
    }
    assert_eq!(MessageKind::Open.max_len(&extended()), 4096);
    assert_eq!(MessageKind::Keepalive.max_len(&extended()), 4096);
    assert_eq!(MessageKind::Update.max_len(&extended()), 65535);
}

#[test]
fn an_update_of_65535_octets_comes_back() {
    let attributes = PathAttributes {
        communities: (0..4000).collect(),
        ..plain("192.0.2.1", &[65001])
    };
    let announced: Vec<Nlri> = (0..16_000u32)
        .map(|n| {
            let prefix = ipnet::Ipv4Net::new((0x0a00_0000 + (n << 8)).into(), 24).unwrap();
            IpNet::from(prefix).into()
        })
        .collect();
    let mut out = BytesMut::new();
    let attributes = Arc::new(attributes);
    let count = encode_updates(&attributes, &announced, &extended(), &mut out);
    assert_eq!(count, 2, "16 KB of attributes and 64 KB of prefixes");
    let mut seen = Vec::new();
    for message in decode_all(&out, &extended()).unwrap() {
        let Message::Update(update) = message else {
            panic!("{message:?}")
        };
        assert_eq!(update.attributes.as_ref(), Some(&attributes));
        seen.extend(update.announced);
    }
    assert_eq!(seen, announced);
}

#[test]
fn each_kind_of_route_refresh_has_its_subtype() {
    for (octet, kind) in [
        (0, RefreshKind::Request),
        (1, RefreshKind::Begin),
        (2, RefreshKind::End),
    ] {
        let bytes = framed(5, &[0, 2, octet, 1]);
        let family = Family::IPV6_UNICAST;
        let message = Message::RouteRefresh(RouteRefresh { family, kind });
        assert_eq!(decode_all(&bytes, &enhanced()), Ok(vec![message.clone()]));
        assert_eq!(encode(&message, &enhanced()), bytes);
    }
}

#[test]
fn an_unknown_subtype_is_ignored_and_what_follows_is_not() {
    let bytes = [
        framed(5, &[0, 1, 3, 1]),
        framed(5, &[0, 1, 255, 1]),
        framed(4, &[]),
    ]
    .concat();
    assert_eq!(
        decode_all(&bytes, &enhanced()),
        Ok(vec![Message::Keepalive])
    );
    assert_eq!(
        decode_all(&framed(5, &[0, 1, 9, 1]), &enhanced()),
        Ok(vec![])
    );
}

#[test]
fn the_subtype_is_reserved_where_enhanced_refresh_was_not_agreed_on() {
    let request = Message::RouteRefresh(RouteRefresh::request(Family::IPV4_UNICAST));
    for reserved in [0, 1, 2, 77] {
        let bytes = framed(5, &[0, 1, reserved, 1]);
        assert_eq!(decode_all(&bytes, &external()), Ok(vec![request.clone()]));
    }
}

#[test]
fn a_route_refresh_of_a_wrong_length_is_sent_back_whole() {
    for body in [
        vec![],
        vec![0, 1, 0],
        vec![0, 1, 0, 1, 0],
        vec![0, 1, 1, 1, 9],
    ] {
        let bytes = framed(5, &body);
        let error = decode_all(&bytes, &enhanced()).unwrap_err();
        let seen = (error.code, error.subcode);
        assert_eq!(seen, (code::ROUTE_REFRESH, route_refresh::INVALID_LENGTH));
        assert_eq!(error.data, bytes);
        let plain = decode_all(&bytes, &external()).unwrap_err();
        assert_eq!(
            (plain.code, plain.subcode),
            (code::HEADER, header::BAD_LENGTH)
        );
    }
}
