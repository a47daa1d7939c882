//! How long it takes to read an UPDATE: ns for each prefix, and ns for the attributes. Run with `--release`.
#![expect(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "it measures, and prints what it measured"
)]

use std::hint::black_box;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bgp_proto::wire::{
    AsPathSegment, Asn, Decoder, Family, Message, MessageKind, Nlri, PathAttributes, SegmentKind,
    Update, WireContext,
};
use bytes::BytesMut;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// How often each measurement is made; the best counts, as the machine is shared.
const ROUNDS: usize = 300;
/// How long one measurement takes.
const ROUND: Duration = Duration::from_millis(2);

fn main() {
    let families = vec![Family::IPV4_UNICAST, Family::IPV6_UNICAST];
    let plain = WireContext {
        four_byte_as: true,
        families: families.clone(),
        ..WireContext::default()
    };
    let add_path = WireContext {
        add_path_receive: families.clone(),
        add_path_send: families,
        ..plain.clone()
    };
    let attributes = Arc::new(six_attributes());
    for (name, nlri, ctx) in [
        ("500 of IPv4", v4(500), &plain),
        ("500 of IPv4 with Path Identifiers", v4(500), &add_path),
        ("200 of IPv6", v6(200), &plain),
    ] {
        let count = nlri.len();
        let announced = measure(&update(&attributes, nlri.clone()), ctx);
        let withdrawn = measure(&withdrawal(nlri), ctx);
        println!(
            "UPDATE that announces {name}: {announced:.0} ns, {:.2} ns each",
            announced / as_f64(count)
        );
        println!(
            "UPDATE that withdraws {name}: {withdrawn:.0} ns, {:.2} ns each",
            withdrawn / as_f64(count)
        );
    }
    let one = measure(&update(&attributes, v4(1)), &plain);
    let bare = measure(&withdrawal(v4(1)), &plain);
    println!(
        "six attributes: {:.0} ns (an UPDATE of one prefix {one:.0}, without attributes {bare:.0})",
        one - bare
    );
    println!("KEEPALIVE: {:.0} ns", measure(&Message::Keepalive, &plain));
    println!(
        "the stream of the first: {:.2} ns each",
        stream(&update(&attributes, v4(500)), &plain) / 500.0
    );
}

fn as_f64(count: usize) -> f64 {
    u32::try_from(count).map_or(f64::MAX, f64::from)
}

/// ORIGIN, AS_PATH, NEXT_HOP, MULTI_EXIT_DISC, COMMUNITIES, LARGE_COMMUNITIES.
fn six_attributes() -> PathAttributes {
    let asns = [65001, 65010, 4_200_000_000].map(Asn).to_vec();
    PathAttributes {
        as_path: vec![AsPathSegment {
            kind: SegmentKind::Sequence,
            asns,
        }],
        med: Some(10),
        communities: vec![0xfde9_0001, 0xfde9_0002, 0xffff_ff01],
        large_communities: vec![bgp_proto::wire::LargeCommunity {
            global: 65001,
            local1: 1,
            local2: 2,
        }],
        ..PathAttributes::originated(Ipv4Addr::new(192, 0, 2, 1).into())
    }
}

fn v4(count: u32) -> Vec<Nlri> {
    (0..count)
        .filter_map(|n| Ipv4Net::new((0x0a00_0000 + (n << 8)).into(), 24).ok())
        .map(|net| IpNet::from(net).into())
        .collect()
}

fn v6(count: u128) -> Vec<Nlri> {
    (0..count)
        .filter_map(|n| Ipv6Net::new((0x2001_0db8 << 96 | n << 80).into(), 48).ok())
        .map(|net| IpNet::from(net).into())
        .collect()
}

fn update(attributes: &Arc<PathAttributes>, announced: Vec<Nlri>) -> Message {
    let v6 = announced
        .first()
        .is_some_and(|nlri| nlri.prefix.addr().is_ipv6());
    let attributes = if v6 {
        Arc::new(PathAttributes {
            next_hop: Ipv4Addr::new(192, 0, 2, 1).to_ipv6_mapped().into(),
            ..(**attributes).clone()
        })
    } else {
        Arc::clone(attributes)
    };
    Message::Update(Update {
        announced,
        attributes: Some(attributes),
        ..Update::default()
    })
}

fn withdrawal(withdrawn: Vec<Nlri>) -> Message {
    Message::Update(Update {
        withdrawn,
        ..Update::default()
    })
}

/// Nanoseconds to decode the body of a message, and to drop what came out.
fn measure(message: &Message, ctx: &WireContext) -> f64 {
    let mut bytes = BytesMut::new();
    message.encode(ctx, &mut bytes);
    let body = bytes.split_off(bgp_proto::wire::HEADER_LEN);
    let kind: MessageKind = message.kind();
    best(|| {
        let decoded = Message::decode(kind, black_box(&body), ctx);
        assert!(black_box(decoded).is_ok(), "the message decodes");
    })
}

/// The same by way of a [`Decoder`].
fn stream(message: &Message, ctx: &WireContext) -> f64 {
    let mut bytes = BytesMut::new();
    message.encode(ctx, &mut bytes);
    let mut decoder = Decoder::new();
    best(|| {
        decoder.push(black_box(&bytes));
        let decoded = decoder.next(ctx);
        assert!(black_box(decoded).is_ok(), "the message decodes");
    })
}

/// The nanoseconds of one call, at its best.
fn best(mut call: impl FnMut()) -> f64 {
    let mut best = f64::MAX;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        let mut calls = 0u32;
        while start.elapsed() < ROUND {
            for _ in 0..64 {
                call();
            }
            calls += 64;
        }
        best = best.min(start.elapsed().as_secs_f64() * 1e9 / f64::from(calls));
    }
    best
}
