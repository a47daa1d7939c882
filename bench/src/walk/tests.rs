//! The walker against the project's decoder, and its speed.

use std::net::Ipv4Addr;

use bgp_proto::wire::{Asn, Decoder, Message, WireContext};

use super::*;
use crate::table::{Announcer, Distance, Table};

fn stream(count: usize) -> Vec<u8> {
    let table = Table::draw(7, count);
    let by = Announcer {
        asn: 65_001,
        next_hop: Ipv4Addr::new(10, 99, 0, 10),
        distance: Distance::Any,
    };
    [table.announce(&by), table.withdraw()].concat()
}

/// What the walker reads: whether announced, the source, the prefix.
fn walked(mut bytes: &[u8]) -> Vec<(bool, Option<u32>, String)> {
    let mut all = Vec::new();
    while let Some((kind, body, rest)) = message(bytes).unwrap() {
        bytes = rest;
        assert_eq!(kind, kind::UPDATE);
        let update = Update::read(body).unwrap();
        let text = |p: Result<Prefix, Malformed>| {
            let p = p.unwrap();
            format!("{}/{}", p.address(), p.length())
        };
        for field in update.withdrawn {
            all.extend(Prefixes(field).map(|p| (false, None, text(p))));
        }
        for field in update.announced {
            all.extend(Prefixes(field).map(|p| (true, update.source, text(p))));
        }
    }
    assert!(bytes.is_empty());
    all
}

fn decoded(bytes: &[u8]) -> Vec<(bool, Option<u32>, String)> {
    let mut decoder = Decoder::new();
    decoder.push(bytes);
    let context = WireContext {
        four_byte_as: true,
        ..WireContext::default()
    };
    let mut all = Vec::new();
    while let Some(message) = decoder.next(&context).unwrap() {
        let Message::Update(update) = message else {
            panic!("{message:?}");
        };
        assert!(update.errors.is_empty(), "{:?}", update.errors);
        all.extend(
            update
                .withdrawn
                .iter()
                .map(|p| (false, None, p.prefix.to_string())),
        );
        let source = update.attributes.as_deref().and_then(|attributes| {
            let Asn(second) = *attributes.as_path.first()?.asns.get(1)?;
            Some(second)
        });
        all.extend(
            update
                .announced
                .iter()
                .map(|p| (true, source, p.prefix.to_string())),
        );
    }
    all
}

#[test]
fn the_walker_reads_what_the_decoder_reads() {
    let bytes = stream(5_000);
    let seen = walked(&bytes);
    assert_eq!(seen.len(), 10_000);
    assert_eq!(seen, decoded(&bytes));
}

#[test]
fn routes_in_mp_attributes_are_read_too() {
    // MP_REACH_NLRI with an IPv6 next hop, then MP_UNREACH_NLRI: 1.2.0.0/16 comes, 1.3.4.0/24 goes.
    let mut reach = vec![0, 1, 1, 16];
    reach.extend([0; 16]);
    reach.extend([0, 16, 1, 2]);
    let mut body = vec![0, 0, 0, 0, 0x80, 14, u8::try_from(reach.len()).unwrap()];
    body.extend(&reach);
    body.extend([0x80, 15, 7, 0, 1, 1, 24, 1, 3, 4]);
    body[3] = u8::try_from(body.len() - 4).unwrap();
    let update = Update::read(&body).unwrap();
    assert_eq!(update.announced[1], [16, 1, 2]);
    assert_eq!(update.withdrawn[1], [24, 1, 3, 4]);
}

#[test]
fn broken_lengths_are_errors_and_short_input_waits() {
    assert_eq!(message(&[0xff; 18]), Ok(None));
    let mut short = vec![0xff; 16];
    short.extend([0, 18, 2]);
    assert_eq!(message(&short), Err(Malformed));
    assert_eq!(Update::read(&[0, 9, 0, 0]), Err(Malformed));
    assert_eq!(Update::read(&[0, 0, 0, 3, 0x40, 1, 9]), Err(Malformed));
    let read = |field: &'static [u8]| Prefixes(field).collect::<Vec<_>>();
    assert_eq!(read(&[24, 1, 2]), [Err(Malformed)]);
    assert_eq!(read(&[32, 1, 2, 3, 4]), [Err(Malformed)]);
}

/// By processor time, as other tests run beside it; a debug build is to reach a part of the 20 million a second that a
/// release build must.
#[test]
fn the_walker_is_never_the_bottleneck() {
    let bytes = stream(500_000);
    let start = processor_time();
    let mut count = 0_u64;
    let mut rest = bytes.as_slice();
    while let Some((_, body, after)) = message(rest).unwrap() {
        rest = after;
        let update = Update::read(body).unwrap();
        for field in [update.withdrawn, update.announced].into_iter().flatten() {
            count += Prefixes(field).filter(Result::is_ok).count() as u64;
        }
    }
    let rate = count as f64 / (processor_time() - start);
    assert_eq!(count, 1_000_000);
    let least = if cfg!(debug_assertions) { 5e5 } else { 20e6 };
    assert!(rate > least, "{rate:.0} prefixes/s");
}

/// What this thread has run for, seconds.
fn processor_time() -> f64 {
    use nix::sys::resource::{UsageWho, getrusage};
    let usage = getrusage(UsageWho::RUSAGE_THREAD).unwrap();
    let seconds =
        |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    seconds(usage.user_time()) + seconds(usage.system_time())
}
