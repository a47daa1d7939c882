//! Many prefixes in few messages.

use std::sync::Arc;

use bytes::BytesMut;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::super::*;
use super::{decode_all, external, plain, two_octet};

fn v4_nets(count: u32) -> Vec<Nlri> {
    (0..count)
        .map(|n| IpNet::from(Ipv4Net::new((0x0a00_0000 + (n << 8)).into(), 24).unwrap()).into())
        .collect()
}

fn v6_nets(count: u128) -> Vec<Nlri> {
    let base = 0x2001_0db8 << 96;
    (0..count)
        .map(|n| IpNet::from(Ipv6Net::new((base | n << 64).into(), 64).unwrap()).into())
        .collect()
}

fn updates(bytes: &[u8], ctx: &WireContext) -> Vec<Update> {
    let take = |message| match message {
        Message::Update(update) => update,
        other => panic!("{other:?}"),
    };
    decode_all(bytes, ctx)
        .unwrap()
        .into_iter()
        .map(take)
        .collect()
}

/// The lengths in the headers of a stream.
fn lengths(mut bytes: &[u8]) -> Vec<usize> {
    let mut lengths = Vec::new();
    while !bytes.is_empty() {
        let len = usize::from(u16::from_be_bytes([bytes[16], bytes[17]]));
        lengths.push(len);
        bytes = &bytes[len..];
    }
    lengths
}

#[test]
fn announcements_fill_each_message_and_all_arrive_in_order() {
    let v6 = PathAttributes {
        link_local_next_hop: Some("fe80::1".parse().unwrap()),
        ..plain("2001:db8::1", &[65001])
    };
    for (attributes, nets, len) in [
        (plain("192.0.2.1", &[65001]), v4_nets(5000), 4),
        (v6, v6_nets(5000), 9),
    ] {
        let mut out = BytesMut::new();
        let attributes = Arc::new(attributes);
        let count = encode_updates(&attributes, &nets, &external(), &mut out);
        let lengths = lengths(&out);
        assert_eq!(lengths.len(), count);
        assert!(
            lengths[..count - 1]
                .iter()
                .all(|l| (4096 - len + 1..=4096).contains(l))
        );
        let updates = updates(&out, &external());
        assert!(
            updates
                .iter()
                .all(|update| update.attributes.as_ref() == Some(&attributes))
        );
        let announced: Vec<Nlri> = updates.into_iter().flat_map(|u| u.announced).collect();
        assert_eq!(announced, nets);
    }
}

#[test]
fn withdrawals_of_both_families_fill_each_message() {
    let nets = [v4_nets(3000), v6_nets(3000)].concat();
    let mut out = BytesMut::new();
    let count = encode_withdrawals(&nets, &external(), &mut out);
    assert_eq!(lengths(&out).len(), count);
    assert!(lengths(&out).iter().all(|len| *len <= 4096));
    let withdrawn: Vec<Nlri> = updates(&out, &external())
        .into_iter()
        .flat_map(|update| update.withdrawn)
        .collect();
    assert_eq!(withdrawn, nets);
}

#[test]
fn nothing_to_say_is_no_message() {
    let mut out = BytesMut::new();
    let attributes = Arc::new(plain("192.0.2.1", &[]));
    assert_eq!(encode_updates(&attributes, &[], &external(), &mut out), 0);
    assert_eq!(encode_withdrawals(&[], &external(), &mut out), 0);
    Message::Update(Update::default()).encode(&external(), &mut out);
    assert!(out.is_empty());
}

#[test]
fn routes_whose_attributes_fill_a_message_are_withdrawn() {
    let attributes = PathAttributes {
        communities: vec![1; 1020],
        ..plain("192.0.2.1", &[1])
    };
    let mut out = BytesMut::new();
    let nets = [v4_nets(2), v6_nets(2)].concat();
    assert_eq!(
        encode_updates(&Arc::new(attributes), &nets, &external(), &mut out),
        2
    );
    let updates = updates(&out, &external());
    assert!(updates.iter().all(|update| update.announced.is_empty()));
    let withdrawn: Vec<Nlri> = updates
        .into_iter()
        .flat_map(|update| update.withdrawn)
        .collect();
    assert_eq!(withdrawn, nets);
}

#[test]
fn a_prefix_that_just_fits_is_announced() {
    let nets = v4_nets(1);
    let mut seen = [false; 2];
    for extra in 4000..4080 {
        let attributes = PathAttributes {
            unknown: vec![UnknownAttribute {
                flags: 0xe0,
                code: 99,
                value: vec![0; extra].into(),
            }],
            ..plain("192.0.2.1", &[70000])
        };
        let mut out = BytesMut::new();
        assert_eq!(
            encode_updates(&Arc::new(attributes), &nets, &two_octet(), &mut out),
            1
        );
        let update = &updates(&out, &two_octet())[0];
        let announced = update.announced == nets;
        assert!(announced || update.withdrawn == nets);
        assert!(!announced || out.len() <= 4096);
        seen[usize::from(announced)] = true;
    }
    assert_eq!(seen, [true, true], "both sides of the edge");
}
