//! What a choice costs when much is held: it does not grow with what is held in a row.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test that measures"
)]

use std::time::{Duration, Instant};

use ipam::{Choice, Holder, Ipam, Request, Span};

fn request(id: u32, now: u64) -> Request {
    let holder = Holder {
        container_id: format!("c{id}"),
        interface: "eth0".to_owned(),
    };
    Request::new(holder, now)
}

fn full(cidr: &str, count: u32) -> Ipam {
    let mut ipam = Ipam::new(vec![cidr.parse().unwrap()]);
    for id in 0..count {
        ipam.allocate(&request(id, 100)).unwrap();
    }
    ipam
}

/// The median of many choices of the first address from the bottom of the CIDR, whatever was given last.
fn median(ipam: &mut Ipam, now: u64) -> Duration {
    let span = Span::of_subnet("10.0.0.0/16".parse().unwrap(), None, None).unwrap();
    let request = Request {
        ranges: vec![vec![span]],
        ..request(u32::MAX, now)
    };
    let mut took: Vec<Duration> = (0..501)
        .map(|_| {
            let start = Instant::now();
            let choice = ipam.choose(&request).unwrap();
            let took = start.elapsed();
            assert!(matches!(choice, Choice::New(_)));
            took
        })
        .collect();
    took.sort();
    took.into_iter().nth(250).unwrap()
}

#[test]
fn sixty_five_thousand_held_in_a_row_cost_no_more_than_a_few() {
    let few = median(&mut full("10.0.0.0/16", 10), 100);
    let mut ipam = full("10.0.0.0/16", 65_000);
    let many = median(&mut ipam, 100);
    println!("a choice: {few:?} with 10 held, {many:?} with 65,000 held in a row");
    // Walking them takes a millisecond and more.
    assert!(
        many < few * 20 + Duration::from_micros(100),
        "{few:?}, {many:?}"
    );
}

#[test]
fn the_last_free_address_among_resting_ones_is_found_as_fast() {
    let mut ipam = full("10.0.0.0/16", 65_534);
    for id in 0..30_000 {
        let holder = request(id * 2, 0).holder;
        ipam.release(&holder, 200).unwrap();
    }
    // Every other one rests and none is free: the one that has rested longest is looked for.
    let many = median(&mut ipam, 201);
    println!("a choice: {many:?} with 30,000 resting among 35,534 held");
    assert!(many < Duration::from_millis(1), "{many:?}");
}

#[test]
fn a_small_cidr_that_is_near_full_turns_over_fast() {
    let mut ipam = full("10.0.0.0/24", 253);
    let start = Instant::now();
    for turn in 0..100 {
        ipam.allocate(&request(1_000 + turn, 100 + u64::from(turn)))
            .unwrap();
        let holder = request(turn, 0).holder;
        ipam.release(&holder, 100 + u64::from(turn)).unwrap();
    }
    let took = start.elapsed();
    println!("100 allocations in a full /24: {took:?}");
    assert!(took < Duration::from_millis(100), "{took:?}");
}
