//! RFC 7606, row by row: what a bad attribute does to the routes, and when it ends the session.

use super::super::attribute::table::{OnError, TABLE};
use super::super::notification::{code, update as subcode};
use super::super::*;
use super::{
    decode_all, external, framed, hex, internal, net, plain, sequence, two_octet, update_body,
};

const ORIGIN: &str = "40 01 01 00";
const AS_PATH: &str = "40 02 06 02 01 0000fde9";
const NEXT_HOP: &str = "40 03 04 c0000201";
const REACH: &str = "80 0e 1a 0002 01 10 20010db8000000000000000000000001 00 20 20010db8";

fn update_of(attributes: &str, nlri: &str, ctx: &WireContext) -> Result<Vec<Update>, Notification> {
    let bytes = framed(2, &update_body(&[], &hex(attributes), &hex(nlri)));
    let take = |message| match message {
        Message::Update(update) => update,
        other => panic!("{other:?}"),
    };
    Ok(decode_all(&bytes, ctx)?.into_iter().map(take).collect())
}

/// An UPDATE that announces 10.0.0.0/8 with the mandatory attributes and one more.
fn with(extra: &str, ctx: &WireContext) -> Result<Update, Notification> {
    let attributes = [ORIGIN, AS_PATH, NEXT_HOP, extra].concat();
    update_of(&attributes, "08 0a", ctx).map(|mut updates| updates.remove(0))
}

#[track_caller]
fn assert_withdrawn(update: &Update, code: u8) {
    assert_eq!(update.withdrawn, [net("10.0.0.0/8")], "{update:?}");
    assert_eq!((&update.announced, &update.attributes), (&vec![], &None));
    let error = &update.errors[0];
    assert_eq!(
        (error.code, error.treatment),
        (code, Treatment::TreatAsWithdraw)
    );
}

#[track_caller]
fn assert_discarded(update: &Update, code: u8) {
    assert_eq!(update.announced, [net("10.0.0.0/8")], "{update:?}");
    let error = &update.errors[0];
    assert_eq!((error.code, error.treatment), (code, Treatment::Discard));
}

#[track_caller]
fn assert_reset<T: fmt::Debug>(outcome: Result<T, Notification>, subcode: u8) {
    let notification = outcome.unwrap_err();
    assert_eq!(
        (notification.code, notification.subcode),
        (code::UPDATE, subcode)
    );
}

/// A mandatory attribute replaced by another form of it.
#[track_caller]
fn assert_replaced_is_withdrawn(bad: &str, by: &str, code: u8) {
    let attributes = [ORIGIN, AS_PATH, NEXT_HOP].concat().replace(bad, by);
    let updates = update_of(&attributes, "08 0a", &external()).unwrap();
    assert_withdrawn(&updates[0], code);
}

#[test]
fn row_7_1_origin() {
    for bad in ["40 01 01 03", "40 01 00", "40 01 02 0000"] {
        assert_replaced_is_withdrawn(ORIGIN, bad, 1);
    }
}

#[test]
fn row_7_2_as_path() {
    for bad in [
        "40 02 06 05 01 0000fde9",    // unknown segment type
        "40 02 06 02 02 0000fde9",    // overruns
        "40 02 07 02 01 0000fde9 02", // one octet left
        "40 02 02 02 00",             // no AS in a segment
        "40 02 06 02 01 00000000",    // AS 0 (RFC 7607)
        "40 02 06 03 01 0000fde9",    // a confederation's, from outside (RFC 5065)
    ] {
        assert_replaced_is_withdrawn(AS_PATH, bad, 2);
    }
}

#[test]
fn row_7_3_next_hop() {
    for bad in [
        "40 03 03 c00002",
        "40 03 05 c000020100",
        "40 03 04 00000000",
        "40 03 04 7f000001",
        "40 03 04 e0000001",
        "40 03 04 ffffffff",
    ] {
        assert_replaced_is_withdrawn(NEXT_HOP, bad, 3);
    }
}

#[test]
fn row_7_4_multi_exit_disc() {
    assert_withdrawn(&with("80 04 03 000001", &external()).unwrap(), 4);
}

#[test]
fn row_7_5_local_pref() {
    assert_withdrawn(&with("40 05 05 0000000001", &internal()).unwrap(), 5);
    for from_outside in ["40 05 04 00000064", "40 05 05 0000000001", "c0 05 01 00"] {
        let update = with(from_outside, &external()).unwrap();
        assert_discarded(&update, 5);
        assert_eq!(update.attributes.unwrap().local_pref, None);
    }
}

#[test]
fn row_7_6_atomic_aggregate() {
    assert_discarded(&with("40 06 01 00", &external()).unwrap(), 6);
}

#[test]
fn row_7_7_aggregator() {
    assert_discarded(&with("c0 07 06 0001 0a000001", &external()).unwrap(), 7);
    assert_discarded(&with("c0 07 08 00000000 0a000001", &external()).unwrap(), 7);
    let attributes = [
        ORIGIN,
        "40 02 04 02 01 fde9",
        NEXT_HOP,
        "c0 07 08 00000001 0a000001",
    ];
    let updates = update_of(&attributes.concat(), "08 0a", &two_octet()).unwrap();
    assert_discarded(&updates[0], 7);
}

#[test]
fn row_7_8_communities() {
    for bad in ["c0 08 00", "c0 08 03 000001", "c0 08 05 0000000100"] {
        assert_withdrawn(&with(bad, &external()).unwrap(), 8);
    }
}

#[test]
fn row_7_9_originator_id() {
    assert_withdrawn(&with("80 09 03 0a0000", &internal()).unwrap(), 9);
    assert_discarded(&with("80 09 04 0a000001", &external()).unwrap(), 9);
}

#[test]
fn row_7_10_cluster_list() {
    for bad in ["80 0a 00", "80 0a 06 0a0000010a00"] {
        assert_withdrawn(&with(bad, &internal()).unwrap(), 10);
    }
    assert_discarded(&with("80 0a 04 0a000001", &external()).unwrap(), 10);
}

#[test]
fn row_7_11_mp_reach() {
    for bad in [
        "80 0e 02 0002",                                                      // too short
        "80 0e 04 0019 41 00", // too short, of a family that is not spoken
        "80 0e 09 0002 01 04 c0000201 00", // a next hop of four octets
        "80 0e 15 0002 01 11 20010db800000000000000000000000100", // next hop overruns
        "80 0e 19 0002 01 10 20010db8000000000000000000000001 00 81 0000 00", // prefix length 129
        "80 0e 17 0002 01 10 20010db8000000000000000000000001 00 20 20", // prefix cut short
    ] {
        assert_reset(
            update_of(&[bad, ORIGIN, AS_PATH].concat(), "", &external()),
            9,
        );
    }
}

#[test]
fn row_7_12_mp_unreach() {
    for bad in [
        "80 0f 02 0002",
        "80 0f 04 0002 01 81",
        "80 0f 05 0002 01 20 20",
    ] {
        assert_reset(update_of(bad, "", &external()), 9);
    }
}

#[test]
fn row_7_14_extended_communities_and_7_15_of_ipv6() {
    assert_withdrawn(&with("c0 10 07 00000000000000", &external()).unwrap(), 16);
    assert_withdrawn(&with("c0 19 08 0000000000000000", &external()).unwrap(), 25);
}

#[test]
fn row_of_rfc_8092_large_communities() {
    assert_withdrawn(&with("c0 20 08 0000000000000000", &external()).unwrap(), 32);
}

#[test]
fn row_of_rfc_6793_as4_path_and_as4_aggregator() {
    let two = [ORIGIN, "40 02 04 02 01 5ba0", NEXT_HOP].concat();
    for (bad, code) in [
        ("c0 11 06 02 02 00011170", 17),
        ("c0 11 06 02 01 00000000", 17),
        ("c0 11 00", 17), // no AS number (RFC 6793 §6)
        ("c0 12 06 0001 0a000001", 18),
    ] {
        let updates = update_of(&[&two, bad].concat(), "08 0a", &two_octet()).unwrap();
        assert_discarded(&updates[0], code);
    }
    assert_discarded(&with("c0 11 06 02 01 00011170", &external()).unwrap(), 17);
    assert_discarded(
        &with("c0 12 08 00011170 0a000001", &external()).unwrap(),
        18,
    );
}

#[test]
fn wrong_flags_of_any_attribute_withdraw_the_routes() {
    for row in &TABLE {
        if row.on_error == OnError::Reset || row.code <= 3 {
            continue;
        }
        let ctx = if row.taken_from(&external()) {
            external()
        } else {
            internal()
        };
        let ctx = if row.taken_from(&ctx) {
            ctx
        } else {
            two_octet()
        };
        let path = if ctx.four_byte_as {
            AS_PATH
        } else {
            "40 02 04 02 01 fde9"
        };
        let bad = format!("{:02x} {:02x} 00", row.flags ^ 0xc0, row.code);
        let attributes = [ORIGIN, path, NEXT_HOP, &bad].concat();
        assert_withdrawn(&update_of(&attributes, "08 0a", &ctx).unwrap()[0], row.code);
    }
    assert_replaced_is_withdrawn(ORIGIN, "c0 01 01 00", 1);
    assert_replaced_is_withdrawn(AS_PATH, "80 02 00", 2);
    assert_replaced_is_withdrawn(NEXT_HOP, "00 03 04 c0000201", 3);
    let reach = REACH.replacen("80", "40", 1);
    let outcome = update_of(&[&reach, ORIGIN, AS_PATH].concat(), "", &external());
    assert_reset(outcome, subcode::FLAGS);
}

#[test]
fn a_missing_mandatory_attribute_withdraws_the_routes() {
    for (missing, code) in [(ORIGIN, 1), (AS_PATH, 2), (NEXT_HOP, 3)] {
        assert_replaced_is_withdrawn(missing, "", code);
    }
    for (present, code) in [(AS_PATH, 1), (ORIGIN, 2)] {
        let updates = update_of(&[REACH, present].concat(), "", &external()).unwrap();
        assert_eq!(updates[0].withdrawn, [net("2001:db8::/32")]);
        assert_eq!(updates[0].errors[0].code, code);
    }
}

#[test]
fn of_an_attribute_that_comes_twice_the_first_counts() {
    let update = with("40 01 01 02", &external()).unwrap();
    assert_discarded(&update, 1);
    assert_eq!(update.attributes.unwrap().origin, Origin::Igp);
    assert_discarded(&with("e0 63 00 e0 63 00", &external()).unwrap(), 99);
}

#[test]
fn mp_attributes_that_come_twice_reset() {
    let twice = [REACH, REACH, ORIGIN, AS_PATH].concat();
    assert_reset(update_of(&twice, "", &external()), subcode::MALFORMED_LIST);
    let twice = "80 0f 03 0002 01 80 0f 03 0002 01";
    assert_reset(update_of(twice, "", &external()), subcode::MALFORMED_LIST);
}

#[test]
fn an_attribute_that_overruns_withdraws_and_the_nlri_is_still_found() {
    for rest in [
        "80",
        "80 04",
        "80 04 05 00000001",
        "90 04 00",
        "90 04 ffff 00",
    ] {
        let update = with(rest, &external()).unwrap();
        assert_eq!(update.withdrawn, [net("10.0.0.0/8")]);
        assert_eq!(update.announced, []);
    }
    for rest in ["80 0e", "80 0e 40 0002 01", "80 0f 04 0002 01"] {
        assert_reset(with(rest, &external()), subcode::LENGTH);
    }
}

#[test]
fn section_5_2_an_error_without_a_reachable_prefix_resets() {
    assert_reset(
        update_of("40 01 01 03", "", &external()),
        subcode::INVALID_ORIGIN,
    );
    assert_reset(update_of("40 01 05", "", &external()), subcode::LENGTH);
    let withdrawing = framed(2, &update_body(&hex("08 0a"), &hex("80 04 01 00"), &[]));
    assert_reset(decode_all(&withdrawing, &external()), subcode::LENGTH);
    let empty_reach = "80 0e 15 0002 01 10 20010db8000000000000000000000001 00";
    let attributes = [empty_reach, "40 01 01 03", AS_PATH].concat();
    assert_reset(
        update_of(&attributes, "", &external()),
        subcode::INVALID_ORIGIN,
    );
    // What is only discarded is no reason.
    assert!(update_of("40 06 01 00", "", &external()).is_ok());
}

#[test]
fn fields_that_overrun_and_prefixes_that_cannot_be_read_reset() {
    for body in ["0001 0000", "0000 0001", "0005 08 0a 0000", "0000 ffff 40"] {
        let outcome = decode_all(&framed(2, &hex(body)), &external());
        assert_reset(outcome, subcode::MALFORMED_LIST);
    }
    for nlri in ["21 0a00000000", "20 0a0000", "ff"] {
        let attributes = [ORIGIN, AS_PATH, NEXT_HOP].concat();
        assert_reset(
            update_of(&attributes, nlri, &external()),
            subcode::INVALID_NETWORK,
        );
        let withdrawn = framed(2, &update_body(&hex(nlri), &[], &[]));
        assert_reset(
            decode_all(&withdrawn, &external()),
            subcode::INVALID_NETWORK,
        );
    }
}

#[test]
fn an_unknown_well_known_attribute_resets() {
    let notification = with("40 63 01 07", &external()).unwrap_err();
    assert_eq!(notification.subcode, subcode::UNRECOGNIZED_WELL_KNOWN);
    assert_eq!(notification.data, hex("40 63 01 07"));
}

#[test]
fn unknown_optional_attributes_go_on_with_the_partial_bit_or_end_here() {
    let update = with("c0 63 01 07  80 64 01 07  d0 1c 0001 00", &external()).unwrap();
    let unknown = &update.attributes.unwrap().unknown;
    let seen: Vec<_> = unknown
        .iter()
        .map(|u| (u.flags, u.code, u.value.to_vec()))
        .collect();
    assert_eq!(seen, [(0xe0, 0x63, vec![7]), (0xe0, 28, vec![0])]);
    assert_eq!(update.errors, []);
}

#[test]
fn an_ipv6_next_hop_that_cannot_be_one_withdraws() {
    for hop in [0u128, 1, (0xff02 << 112) | 1, 0xffff_7f00_0001] {
        let hop = format!("{hop:032x}");
        let reach = REACH.replace("20010db8000000000000000000000001", &hop);
        let updates = update_of(&[&reach, ORIGIN, AS_PATH].concat(), "", &external()).unwrap();
        assert_eq!(updates[0].withdrawn, [net("2001:db8::/32")], "{hop}");
    }
}

#[test]
fn a_peer_without_a_global_address_is_reached_by_its_link_local_one() {
    let reach = "80 0e 2a 0002 01 20 00000000000000000000000000000000 \
                 fe800000000000000000000000000001 00 20 20010db8";
    let updates = update_of(&[reach, ORIGIN, AS_PATH].concat(), "", &external()).unwrap();
    let attributes = updates[0].attributes.as_deref().unwrap();
    assert_eq!(attributes.next_hop, "fe80::1".parse::<IpAddr>().unwrap());
    assert_eq!(
        attributes.link_local_next_hop,
        Some("fe80::1".parse().unwrap())
    );
}

#[test]
fn a_family_that_is_not_spoken_is_ignored_and_the_rest_is_not() {
    let only_v4 = WireContext {
        families: vec![Family::IPV4_UNICAST],
        ..external()
    };
    let attributes = [REACH, "80 0f 03 0001 80", ORIGIN, AS_PATH, NEXT_HOP].concat();
    let updates = update_of(&attributes, "08 0a", &only_v4).unwrap();
    assert_eq!(updates.len(), 1);
    assert_eq!(updates[0].announced, [net("10.0.0.0/8")]);
    assert_eq!(
        updates[0].errors.iter().map(|e| e.code).collect::<Vec<_>>(),
        [14, 15]
    );
    // Unread prefixes are prefixes too: no reset.
    assert!(update_of(&[REACH, "40 01 01 03", AS_PATH].concat(), "", &only_v4).is_ok());
}

#[test]
fn routes_in_both_places_come_out_as_two_updates() {
    let attributes = [REACH, ORIGIN, AS_PATH, NEXT_HOP].concat();
    let updates = update_of(&attributes, "08 0a", &external()).unwrap();
    let seen: Vec<_> = updates
        .iter()
        .map(|update| {
            (
                update.announced.clone(),
                update.attributes.as_deref().cloned().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        seen,
        [
            (vec![net("2001:db8::/32")], plain("2001:db8::1", &[65001])),
            (vec![net("10.0.0.0/8")], plain("192.0.2.1", &[65001])),
        ]
    );
}

/// AS_PATH and AS4_PATH as lists of AS numbers, merged by a decoder on a two-octet session.
fn merged(path: &str, extra: &str) -> PathAttributes {
    let attributes = [ORIGIN, path, NEXT_HOP, extra].concat();
    let updates = update_of(&attributes, "08 0a", &two_octet()).unwrap();
    updates[0].attributes.as_deref().cloned().unwrap()
}

#[test]
fn as4_path_replaces_the_tail_of_as_path() {
    let path = "40 02 08 02 03 0001 5ba0 0003";
    let one = merged(path, "c0 11 0a 02 02 00011170 00000003");
    assert_eq!(one.as_path, [sequence(&[1, 70000, 3])]);
    let whole = merged(path, "c0 11 0e 02 03 00000001 00011170 00000003");
    assert_eq!(whole.as_path, [sequence(&[1, 70000, 3])]);
}

#[test]
fn an_as4_path_longer_than_as_path_is_not_believed() {
    let merged = merged("40 02 04 02 01 5ba0", "c0 11 0a 02 02 00011170 00000003");
    assert_eq!(merged.as_path, [sequence(&[23456])]);
}

#[test]
fn a_set_counts_as_one_when_paths_are_merged() {
    let merged = merged(
        "40 02 0c 02 02 0001 5ba0 01 02 0007 0008",
        "c0 11 10 02 01 00011170 01 02 00000007 00000008",
    );
    let set = AsPathSegment {
        kind: SegmentKind::Set,
        ..sequence(&[7, 8])
    };
    assert_eq!(merged.as_path, [sequence(&[1, 70000]), set]);
}

#[test]
fn an_aggregator_that_spoke_two_octets_makes_the_as4_attributes_outdated() {
    let as4 = "c0 11 06 02 01 00011170 c0 12 08 00011171 0a000009";
    let trusted = merged(
        "40 02 04 02 01 5ba0",
        &["c0 07 06 5ba0 0a000009", as4].concat(),
    );
    assert_eq!(trusted.as_path, [sequence(&[70000])]);
    assert_eq!(trusted.aggregator.unwrap().0, Asn(70001));
    let outdated = merged(
        "40 02 04 02 01 5ba0",
        &["c0 07 06 0007 0a000009", as4].concat(),
    );
    assert_eq!(outdated.as_path, [sequence(&[23456])]);
    assert_eq!(outdated.aggregator.unwrap().0, Asn(7));
}

#[test]
fn an_error_reads_well_in_a_log() {
    let update = with("c0 08 03 000001", &external()).unwrap();
    let words = "COMMUNITIES: wrong length (routes treated as withdrawn)";
    assert_eq!(update.errors[0].to_string(), words);
}
