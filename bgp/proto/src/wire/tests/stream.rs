//! Framing, the errors of headers and OPENs, and messages cut anywhere.

use bytes::Bytes;

use super::super::notification::{code, header, open};
use super::super::*;
use super::{decode_all, external, framed, hex, update_body};

fn refused(bytes: &[u8]) -> (u8, u8, Bytes) {
    let notification = decode_all(bytes, &external()).unwrap_err();
    (notification.code, notification.subcode, notification.data)
}

/// One good message of each kind.
fn samples() -> Vec<Vec<u8>> {
    let attributes = hex("4001 01 00 4002 06 02 01 0000fde9 4003 04 c0000201 c008 04 00010002");
    let multi = hex(
        "80 0e 1a 0002 01 10 20010db8000000000000000000000001 00 20 20010db8 4001 01 00 4002 00",
    );
    vec![
        framed(
            1,
            &hex("04 fde8 005a 0a000001 10 02 0e 01 04 0001 00 01 41 04 0000fde8 02 00"),
        ),
        framed(1, &hex("04 fde8 005a 0a000001 ff ff 0005 02 0002 02 00")),
        framed(
            2,
            &update_body(&hex("08 0a"), &attributes, &hex("18 c00002 18 c00003")),
        ),
        framed(2, &update_body(&[], &multi, &[])),
        framed(3, &hex("06 02 03 627965")),
        framed(4, &[]),
        framed(5, &hex("0001 00 01")),
    ]
}

#[test]
fn a_stream_may_come_one_octet_at_a_time() {
    let bytes = samples().concat();
    let mut decoder = Decoder::new();
    let mut count = 0;
    for octet in &bytes {
        decoder.push(&[*octet]);
        while decoder.next(&external()).unwrap().is_some() {
            count += 1;
        }
        assert!(decoder.buffered() < MAX_MESSAGE_LEN);
    }
    assert_eq!(count, samples().len());
    assert_eq!(decoder.buffered(), 0);
}

#[test]
fn a_message_cut_anywhere_is_waited_for() {
    for bytes in samples() {
        for end in 0..bytes.len() {
            let mut decoder = Decoder::new();
            decoder.push(&bytes[..end]);
            assert_eq!(decoder.next(&external()), Ok(None));
            decoder.push(&bytes[end..]);
            assert!(decoder.next(&external()).unwrap().is_some());
        }
    }
}

#[test]
fn a_message_shortened_anywhere_is_an_error_or_says_less() {
    for bytes in samples() {
        let whole = decode_all(&bytes, &external()).unwrap();
        let body = &bytes[HEADER_LEN..];
        for end in 0..body.len() {
            match decode_all(&framed(bytes[18], &body[..end]), &external()) {
                Err(_) => {}
                // Only where the rest is optional by its nature: data of a NOTIFICATION, a prefix of the NLRI field.
                Ok(fewer) => {
                    assert!(matches!(bytes[18], 2 | 3), "{fewer:?}");
                    assert_ne!(fewer, whole);
                }
            }
        }
    }
}

#[test]
fn a_marker_that_is_not_all_ones_is_refused_at_once() {
    for at in 0..16 {
        let mut bytes = framed(4, &[]);
        bytes[at] = 0xfe;
        let expected = (code::HEADER, header::NOT_SYNCHRONIZED, Bytes::new());
        assert_eq!(refused(&bytes), expected);
        assert_eq!(refused(&bytes[..=at]), expected);
    }
}

#[test]
fn a_length_no_message_of_the_type_has_is_refused_by_its_header_alone() {
    let table = [
        (4, 18),
        (4, 0),
        (2, 4097),
        (2, 65535),
        (1, 28),
        (2, 22),
        (3, 20),
        (4, 20),
        (5, 22),
        (5, 24),
    ];
    for (kind, len) in table {
        let len = u16::to_be_bytes(len);
        let bytes = [[0xff; 16].as_slice(), &len, &[kind]].concat();
        let expected = (
            code::HEADER,
            header::BAD_LENGTH,
            Bytes::copy_from_slice(&len),
        );
        assert_eq!(refused(&bytes), expected, "type {kind}");
    }
}

#[test]
fn an_unknown_type_is_refused_with_the_type() {
    for kind in [0, 6, 255] {
        let expected = (
            code::HEADER,
            header::BAD_TYPE,
            Bytes::copy_from_slice(&[kind]),
        );
        assert_eq!(refused(&framed(kind, &[])), expected);
    }
}

#[test]
fn an_error_ends_the_stream_for_good() {
    let mut decoder = Decoder::new();
    decoder.push(&framed(9, &[]));
    decoder.push(&framed(4, &[]));
    let first = decoder.next(&external()).unwrap_err();
    assert_eq!(decoder.next(&external()), Err(first));
}

#[test]
fn an_open_is_refused_for_what_it_says() {
    let table = [
        (
            "03 fde8 005a 0a000001 00",
            open::UNSUPPORTED_VERSION,
            hex("0004"),
        ),
        (
            "05 fde8 005a 0a000001 00",
            open::UNSUPPORTED_VERSION,
            hex("0004"),
        ),
        ("04 0000 005a 0a000001 00", open::BAD_PEER_AS, vec![]),
        (
            "04 5ba0 005a 0a000001 08 02 06 41 04 00000000",
            open::BAD_PEER_AS,
            vec![],
        ),
        (
            "04 fde8 0001 0a000001 00",
            open::UNACCEPTABLE_HOLD_TIME,
            vec![],
        ),
        (
            "04 fde8 0002 0a000001 00",
            open::UNACCEPTABLE_HOLD_TIME,
            vec![],
        ),
        ("04 fde8 005a 00000000 00", open::BAD_BGP_ID, vec![]),
        (
            "04 fde8 005a 0a000001 03 01 01 00",
            open::UNSUPPORTED_PARAMETER,
            vec![],
        ),
        // Parameters that lie about their length, or are followed by something.
        ("04 fde8 005a 0a000001 01", open::UNSPECIFIC, vec![]),
        ("04 fde8 005a 0a000001 00 00", open::UNSPECIFIC, vec![]),
        ("04 fde8 005a 0a000001 02 02 01", open::UNSPECIFIC, vec![]),
        (
            "04 fde8 005a 0a000001 04 02 02 02 01",
            open::UNSPECIFIC,
            vec![],
        ),
        (
            "04 fde8 005a 0a000001 ff ff 0006 02 0003 02 00",
            open::UNSPECIFIC,
            vec![],
        ),
        // Known capabilities of a wrong length.
        (
            "04 fde8 005a 0a000001 05 02 03 02 01 00",
            open::UNSPECIFIC,
            vec![],
        ),
        (
            "04 fde8 005a 0a000001 06 02 04 41 02 fde8",
            open::UNSPECIFIC,
            vec![],
        ),
        (
            "04 fde8 005a 0a000001 07 02 05 40 03 0078 00",
            open::UNSPECIFIC,
            vec![],
        ),
        (
            "04 fde8 005a 0a000001 07 02 05 01 03 0001 00",
            open::UNSPECIFIC,
            vec![],
        ),
    ];
    for (body, subcode, data) in table {
        let expected = (code::OPEN, subcode, Bytes::from(data));
        assert_eq!(refused(&framed(1, &hex(body))), expected, "{body}");
    }
}

#[test]
fn hold_times_of_zero_and_three_are_taken() {
    for hold_time in ["0000", "0003", "ffff"] {
        let body = format!("04 fde8 {hold_time} 0a000001 00");
        assert!(decode_all(&framed(1, &hex(&body)), &external()).is_ok());
    }
}
