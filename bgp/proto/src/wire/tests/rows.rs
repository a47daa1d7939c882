//! Each row of the attribute table against each kind of error, and the lessons others paid for.

use super::super::attribute::table::{Length, OnError, Row, TABLE};
use super::super::notification::update as subcode;
use super::super::*;
use super::{decode_all, external, framed, hex, internal, net, sequence, two_octet, update_body};

const ORIGIN: &str = "40 01 01 00";
const NEXT_HOP: &str = "40 03 04 c0000201";

/// A session on which the row's attribute may come.
fn session(row: &Row) -> WireContext {
    [external(), internal(), two_octet()]
        .into_iter()
        .find(|ctx| row.taken_from(ctx))
        .unwrap()
}

fn mandatory(ctx: &WireContext) -> Vec<(u8, &'static str)> {
    let path = if ctx.four_byte_as {
        "40 02 06 02 01 0000fde9"
    } else {
        "40 02 04 02 01 fde9"
    };
    vec![(1, ORIGIN), (2, path), (3, NEXT_HOP)]
}

/// An UPDATE of 10.0.0.0/8 with these attributes, and the mandatory ones that are not among them.
fn update(row: &Row, attributes: &[u8], ctx: &WireContext) -> Result<Update, Notification> {
    let others = mandatory(ctx)
        .into_iter()
        .filter(|(code, _)| *code != row.code)
        .flat_map(|(_, bytes)| hex(bytes));
    let attributes: Vec<u8> = others.chain(attributes.iter().copied()).collect();
    let bytes = framed(2, &update_body(&[], &attributes, &hex("08 0a")));
    match decode_all(&bytes, ctx)?.remove(0) {
        Message::Update(update) => Ok(update),
        other => panic!("{other:?}"),
    }
}

/// An attribute of this row that is in order.
fn good(row: &Row, ctx: &WireContext) -> Vec<u8> {
    let value = match row.code {
        2 | 17 => hex(if ctx.four_byte_as || row.code == 17 {
            "02 01 0000fde9"
        } else {
            "02 01 fde9"
        }),
        3 => hex("c0000201"),
        7 | 18 => hex("0000fde9 0a000001"),
        14 => hex("0002 01 10 20010db8000000000000000000000001 00 20 20010db8"),
        15 => hex("0002 01 20 20010db8"),
        _ => match row.length {
            Length::Exactly(len) | Length::Each(len) => vec![0; len],
            Length::ByAs { .. } | Length::Any => unreachable!("named above"),
        },
    };
    let len = u8::try_from(value.len()).unwrap();
    [vec![row.flags, row.code, len], value].concat()
}

#[track_caller]
fn assert_treated(outcome: Result<Update, Notification>, code: u8, treatment: OnError) {
    let errors = |update: &Update| -> Vec<_> {
        update
            .errors
            .iter()
            .map(|error| (error.code, error.treatment))
            .collect()
    };
    match (treatment, outcome) {
        (OnError::Reset, Err(_)) => {}
        (OnError::Discard, Ok(update)) => {
            assert_eq!(errors(&update), [(code, Treatment::Discard)]);
            assert_eq!(update.announced, [net("10.0.0.0/8")]);
        }
        (OnError::Withdraw, Ok(update)) => {
            assert_eq!(errors(&update), [(code, Treatment::TreatAsWithdraw)]);
            assert_eq!(update.withdrawn, [net("10.0.0.0/8")]);
            assert_eq!(update.attributes, None);
        }
        (treatment, outcome) => panic!("attribute {code}: {outcome:?} is not {treatment:?}"),
    }
}

#[test]
fn each_row_takes_an_attribute_that_is_in_order() {
    for row in &TABLE {
        let ctx = session(row);
        let update = update(row, &good(row, &ctx), &ctx).unwrap();
        assert_eq!(update.errors, [], "attribute {}", row.code);
        assert!(update.attributes.is_some());
    }
}

#[test]
fn each_row_of_a_wrong_length_is_treated_as_its_rfc_says() {
    for row in &TABLE {
        let ctx = session(row);
        for longer in [false, true] {
            let mut bytes = good(row, &ctx);
            if longer {
                bytes.push(0);
                bytes[2] += 1;
            } else if bytes[2] == 0 {
                continue;
            } else {
                bytes.pop();
                bytes[2] -= 1;
            }
            if longer && matches!(row.code, 14 | 15) {
                // One octet more is one prefix more: 0.0.0.0/0 of its family.
                continue;
            }
            assert_treated(update(row, &bytes, &ctx), row.code, row.on_error);
        }
        if let Length::Each(_) = row.length {
            let empty = [row.flags, row.code, 0];
            assert_treated(update(row, &empty, &ctx), row.code, OnError::Withdraw);
        }
    }
}

#[test]
fn each_row_with_wrong_flags_withdraws_and_mp_resets() {
    for row in &TABLE {
        let ctx = session(row);
        for wrong in [0x80, 0x40, 0xc0] {
            let mut bytes = good(row, &ctx);
            bytes[0] ^= wrong;
            if row.on_error == OnError::Reset {
                let notification = update(row, &bytes, &ctx).unwrap_err();
                assert_eq!(notification.subcode, subcode::FLAGS);
                continue;
            }
            let update = update(row, &bytes, &ctx).unwrap();
            assert!(update.announced.is_empty(), "attribute {}", row.code);
            assert!(update.withdrawn.contains(&net("10.0.0.0/8")));
            assert_eq!(update.errors[0].code, row.code);
            assert_eq!(update.errors[0].treatment, Treatment::TreatAsWithdraw);
        }
    }
}

#[test]
fn each_row_that_comes_twice_is_taken_once_and_two_of_mp_reset() {
    for row in &TABLE {
        let ctx = session(row);
        let good = good(row, &ctx);
        let twice = [good.clone(), good].concat();
        assert_treated(
            update(row, &twice, &ctx),
            row.code,
            if row.on_error == OnError::Reset {
                OnError::Reset
            } else {
                OnError::Discard
            },
        );
    }
}

#[test]
fn only_the_mandatory_rows_may_not_be_missing() {
    for row in &TABLE {
        let ctx = session(row);
        let outcome = update(row, &[], &ctx);
        if mandatory(&ctx).iter().any(|(code, _)| *code == row.code) {
            assert_treated(outcome, row.code, OnError::Withdraw);
        } else {
            assert_eq!(outcome.unwrap().errors, [], "attribute {}", row.code);
        }
    }
}

#[test]
fn each_row_that_is_not_for_this_peer_is_discarded_unread() {
    for row in &TABLE {
        for ctx in [external(), internal(), two_octet()] {
            if row.taken_from(&ctx) {
                continue;
            }
            for bytes in [good(row, &ctx), vec![row.flags, row.code, 1, 0]] {
                assert_treated(update(row, &bytes, &ctx), row.code, OnError::Discard);
            }
        }
    }
}

/// A row that stands for any attribute that is not mandatory.
fn no_row() -> &'static Row {
    TABLE.iter().find(|row| row.code == 6).unwrap()
}

#[test]
fn lesson_1_a_deprecated_or_unknown_optional_transitive_attribute_never_resets() {
    // ENTROPY_LABEL (28, RFC 7447) with a value that made routers fall over, and every other code nobody here knows.
    let known = |code: u8| TABLE.iter().any(|row| row.code == code);
    for code in (0..=255).filter(|code| !known(*code)) {
        for value in [vec![], vec![0xff; 3], vec![0; 200]] {
            let len = u8::try_from(value.len()).unwrap();
            let bytes = [vec![0xc0, code, len], value.clone()].concat();
            let update = update(no_row(), &bytes, &external()).unwrap();
            assert_eq!(update.errors, []);
            let kept = UnknownAttribute {
                flags: 0xe0,
                code,
                value: value.into(),
            };
            assert_eq!(update.attributes.unwrap().unknown, [kept]);
        }
    }
}

#[test]
fn lesson_2_the_nlri_is_found_by_the_length_of_all_attributes_after_any_error() {
    for row in &TABLE {
        if row.on_error == OnError::Reset {
            continue;
        }
        let ctx = session(row);
        // Says it has 200 octets, where there are two.
        let update = update(row, &[row.flags, row.code, 200, 0, 0], &ctx).unwrap();
        assert_eq!(update.withdrawn, [net("10.0.0.0/8")]);
    }
}

#[test]
fn lesson_3_an_error_without_a_reachable_prefix_resets_for_every_row() {
    for row in &TABLE {
        let ctx = session(row);
        let bytes = framed(
            2,
            &update_body(&hex("08 0a"), &[row.flags ^ 0x80, row.code, 0], &[]),
        );
        assert!(decode_all(&bytes, &ctx).is_err(), "attribute {}", row.code);
    }
}

#[test]
fn lesson_4_routes_that_differ_in_the_next_hop_alone_are_not_equal() {
    let of = |next_hop: &str| PathAttributes::originated(next_hop.parse().unwrap());
    assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
    let with_link_local = PathAttributes {
        link_local_next_hop: Some("fe80::1".parse().unwrap()),
        ..of("2001:db8::1")
    };
    assert_ne!(of("2001:db8::1"), with_link_local);
}

#[test]
fn lesson_23_nothing_a_length_says_makes_the_decoder_take_memory_for_it() {
    // 255 AS numbers, a next hop of 255 octets, 65535 octets of an attribute, none of which are there.
    for (code, bad) in [
        (2, "40 02 02 02 ff"),
        (14, "80 0e 04 0002 01 ff"),
        (8, "d0 08 ffff 00"),
    ] {
        let row = TABLE.iter().find(|row| row.code == code).unwrap();
        let outcome = update(row, &hex(bad), &external());
        assert!(outcome.is_err() || outcome.unwrap().attributes.is_none());
    }
}

#[test]
fn large_communities_that_come_twice_are_kept_once_in_the_order_of_the_first() {
    let (a, b) = ("000000020000000200000003", "000000010000000200000003");
    let bytes = hex(&["c0 20 30", a, b, a, b].concat());
    let update = update(no_row(), &bytes, &external()).unwrap();
    let globals: Vec<u32> = update
        .attributes
        .unwrap()
        .large_communities
        .iter()
        .map(|community| community.global)
        .collect();
    assert_eq!((globals, update.errors), (vec![2, 1], vec![]));
}

#[test]
fn a_large_or_extended_community_of_any_value_is_well_formed() {
    for bytes in [
        "c0 20 0c 000000000000000000000000",
        "c0 20 0c ffffffffffffffffffffffff",
        "c0 10 08 ffffffffffffffff",
        "c0 10 08 0000000000000000",
    ] {
        let update = update(no_row(), &hex(bytes), &external()).unwrap();
        assert_eq!(update.errors, []);
    }
}

#[test]
fn an_unknown_non_transitive_attribute_ends_here_without_a_word() {
    let update = update(no_row(), &hex("80 63 01 07"), &external()).unwrap();
    assert_eq!(update.errors, []);
    assert_eq!(update.attributes.unwrap().unknown, []);
}

#[test]
fn confederation_segments_are_taken_from_inside_and_malformed_from_outside() {
    let row = TABLE.iter().find(|row| row.code == 2).unwrap();
    for kind in ["03", "04"] {
        let path = hex(&format!("40 02 0c {kind} 01 0000fde9 02 01 0000fdea"));
        assert_treated(update(row, &path, &external()), 2, OnError::Withdraw);
        let inside = update(row, &path, &internal()).unwrap();
        let path = inside.attributes.unwrap().as_path.clone();
        assert_eq!(path[1], sequence(&[65002]));
    }
}

#[test]
fn an_attribute_that_is_discarded_leaves_no_partial_bit_behind() {
    let row = TABLE.iter().find(|row| row.code == 7).unwrap();
    let kept = update(row, &hex("e0 07 08 0000fde9 0a000001"), &external()).unwrap();
    assert_eq!(kept.attributes.unwrap().partial, 1 << 7);
    let discarded = update(row, &hex("e0 07 04 01020304"), &external()).unwrap();
    assert_eq!(discarded.attributes.unwrap().partial, 0);
}

#[test]
fn as_0_is_malformed_wherever_it_stands() {
    // RFC 7607 §2: as RFC 7606 says for AS_PATH and AGGREGATOR, as RFC 6793 says for the AS4 ones.
    for (code, bytes, ctx, treatment) in [
        (
            2,
            "40 02 0a 02 02 0000fde9 00000000",
            external(),
            OnError::Withdraw,
        ),
        (
            7,
            "c0 07 08 00000000 0a000001",
            external(),
            OnError::Discard,
        ),
        (17, "c0 11 06 02 01 00000000", two_octet(), OnError::Discard),
        (
            18,
            "c0 12 08 00000000 0a000001",
            two_octet(),
            OnError::Discard,
        ),
    ] {
        let row = TABLE.iter().find(|row| row.code == code).unwrap();
        assert_treated(update(row, &hex(bytes), &ctx), code, treatment);
    }
}

#[test]
fn a_notification_about_an_attribute_carries_it_whole() {
    let bytes = framed(2, &update_body(&[], &hex("40 01 01 09"), &[]));
    let notification = decode_all(&bytes, &external()).unwrap_err();
    assert_eq!(notification.subcode, subcode::INVALID_ORIGIN);
    assert_eq!(notification.data, hex("40 01 01 09"));
}
