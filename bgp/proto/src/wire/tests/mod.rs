//! Tests of the codec as a whole.

mod agreed;
mod both_ways;
mod opens;
mod packing;
mod revised;
mod round_trip;
mod rows;
mod stream;

use std::net::IpAddr;

use bytes::BytesMut;
use ipnet::IpNet;

use super::{
    AsPathSegment, Asn, Decoder, Family, Message, Nlri, Notification, PathAttributes, SegmentKind,
    WireContext,
};

fn external() -> WireContext {
    WireContext {
        four_byte_as: true,
        internal: false,
        families: vec![Family::IPV4_UNICAST, Family::IPV6_UNICAST],
        ..WireContext::default()
    }
}

fn internal() -> WireContext {
    WireContext {
        internal: true,
        ..external()
    }
}

fn two_octet() -> WireContext {
    WireContext {
        four_byte_as: false,
        ..external()
    }
}

/// The bytes of hex digits; blanks are for the reader.
fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text
        .chars()
        .filter_map(|c| c.to_digit(16))
        .map(|d| u8::try_from(d).unwrap())
        .collect();
    digits
        .chunks(2)
        .map(|pair| pair[0] << 4 | pair[1])
        .collect()
}

/// A whole message of this type and body.
fn framed(kind: u8, body: &[u8]) -> Vec<u8> {
    let len = u16::try_from(19 + body.len()).unwrap().to_be_bytes();
    [[0xff; 16].as_slice(), &len, &[kind], body].concat()
}

/// The body of an UPDATE of these three fields.
fn update_body(withdrawn: &[u8], attributes: &[u8], nlri: &[u8]) -> Vec<u8> {
    let len = |field: &[u8]| u16::try_from(field.len()).unwrap().to_be_bytes();
    [
        &len(withdrawn),
        withdrawn,
        &len(attributes),
        attributes,
        nlri,
    ]
    .concat()
}

/// All the messages of a stream, which must end with the last of them.
fn decode_all(bytes: &[u8], ctx: &WireContext) -> Result<Vec<Message>, Notification> {
    let mut decoder = Decoder::new();
    decoder.push(bytes);
    let mut messages = Vec::new();
    while let Some(message) = decoder.next(ctx)? {
        messages.push(message);
    }
    assert_eq!(decoder.buffered(), 0, "bytes left over");
    Ok(messages)
}

fn encode(message: &Message, ctx: &WireContext) -> Vec<u8> {
    let mut out = BytesMut::new();
    message.encode(ctx, &mut out);
    out.to_vec()
}

fn net(text: &str) -> Nlri {
    text.parse::<IpNet>().unwrap().into()
}

fn sequence(asns: &[u32]) -> AsPathSegment {
    let asns = asns.iter().map(|asn| Asn(*asn)).collect();
    AsPathSegment {
        kind: SegmentKind::Sequence,
        asns,
    }
}

/// The fewest attributes a route can have.
fn plain(next_hop: &str, asns: &[u32]) -> PathAttributes {
    PathAttributes {
        as_path: if asns.is_empty() {
            Vec::new()
        } else {
            vec![sequence(asns)]
        },
        ..PathAttributes::originated(next_hop.parse::<IpAddr>().unwrap())
    }
}
