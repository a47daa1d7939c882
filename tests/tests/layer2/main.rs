//! Addresses of a Service that one node answers for by ARP and neighbour discovery: who asks is a real kernel, which sees each
//! question answered once, and a node's death cost less than a second.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

mod doctor;
mod segment;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use segment::{BOTH, NODES, PATIENCE, Segment, V4, V6};
use tests::capture::{Capture, Seen, What};
use tests::flow::{Flow, Kind, measure};
use tests::netns::Netns;
use tests::rack::{say, sum};
use tests::reach::Verdict;
use tests::require_root;
use tests::wait::eventually;

/// Probes per second of each flow.
const RATE: u32 = 200;

#[test]
fn one_node_answers_and_its_death_costs_less_than_a_second() {
    require_root!();
    let mut segment = Segment::start("l2a").unwrap();
    for address in BOTH {
        let first = segment.order(address).unwrap()[0];
        segment.wait_for(address, first);
    }
    each_question_has_one_answer(&segment);
    an_address_that_is_free_is_not_answered_for(&segment);
    who_wants_the_address_is_told_that_it_is_in_use(&segment);
    a_service_without_endpoints_is_not_answered_for(&mut segment);
    an_idle_client_learns_of_it_by_announcements(&segment);
    a_death_costs_less_than_a_second(&segment);
    an_agents_end_costs_nothing(&mut segment);
    the_doctor_finds_why_nobody_or_another_answers(&mut segment);
    a_node_that_is_excluded_hands_over(&mut segment);
}

fn the_doctor_finds_why_nobody_or_another_answers(segment: &mut Segment) {
    doctor::finds_nothing(segment);
    doctor::finds_another_machine(segment);
    doctor::finds_the_interface(segment);
    doctor::finds_that_nobody_may(segment);
    segment.wait_synced().unwrap();
    restore(segment);
    doctor::finds_nothing(segment);
}

fn questions(seen: &[Seen]) -> usize {
    seen.iter()
        .filter(|one| one.is_sent && one.what == What::Question)
        .count()
}

fn answers(seen: &[Seen]) -> Vec<&Seen> {
    seen.iter()
        .filter(|one| !one.is_sent && one.what == What::Answer)
        .collect()
}

/// The client's kernel asks; every question of either family has one answer, by the node that says so.
fn each_question_has_one_answer(segment: &Segment) {
    const TIMES: usize = 10;
    for address in BOTH {
        let capture = Capture::open(&segment.client).unwrap();
        let mac = segment.mac(segment.answering(address)[0]).unwrap();
        for _ in 0..TIMES {
            segment.forget_neighbours().unwrap();
            assert_eq!(segment.ask(address), Verdict::Answered);
        }
        let seen = capture.take(address).unwrap();
        let (asked, answered) = (questions(&seen), answers(&seen));
        say(&format!(
            "{address}: {asked} questions of the kernel, {} answers",
            answered.len()
        ));
        assert!(asked >= TIMES, "{asked}");
        assert_eq!(answered.len(), asked);
        assert!(answered.iter().all(|one| one.mac == mac), "{answered:?}");
    }
}

fn an_address_that_is_free_is_not_answered_for(segment: &Segment) {
    let capture = Capture::open(&segment.client).unwrap();
    let answers = capture.ask("10.72.0.242", [10, 72, 0, 200], 5).unwrap();
    assert_eq!(answers, [0; 5], "nobody has it");
    let control = capture.ask(V4, [10, 72, 0, 200], 5).unwrap();
    assert_eq!(control, [1; 5]);
}

/// RFC 5227 probes by hand, and the kernel's own duplicate address detection.
fn who_wants_the_address_is_told_that_it_is_in_use(segment: &Segment) {
    let capture = Capture::open(&segment.client).unwrap();
    assert_eq!(capture.ask(V4, [0; 4], 5).unwrap(), [1; 5]);
    segment
        .client
        .ip(&format!("addr add {V6}/64 dev eth0"))
        .unwrap();
    let failed = eventually(PATIENCE, "the address to be found in use", || {
        let shown = segment.client.ip("-6 addr show dev eth0")?;
        ensure!(shown.contains("dadfailed"), "{shown}");
        Ok(())
    });
    segment
        .client
        .ip(&format!("addr del {V6}/64 dev eth0"))
        .unwrap();
    failed.unwrap();
}

fn a_service_without_endpoints_is_not_answered_for(segment: &mut Segment) {
    let first = BOTH.map(|address| segment.order(address).unwrap()[0]);
    segment.serve(false).unwrap();
    eventually(PATIENCE, "nobody to answer", || {
        let answering = segment.answering(V4);
        ensure!(answering.is_empty(), "{answering:?}");
        Ok(())
    })
    .unwrap();
    let capture = Capture::open(&segment.client).unwrap();
    assert_eq!(capture.ask(V4, [10, 72, 0, 200], 3).unwrap(), [0; 3]);
    segment.serve(true).unwrap();
    segment.wait_synced().unwrap();
    for (address, first) in BOTH.into_iter().zip(first) {
        segment.wait_for(address, first);
        assert_eq!(segment.ask(address), Verdict::Answered);
    }
}

/// Waits until the other nodes agree again that the first one in the order has an address.
fn restore(segment: &Segment) {
    for address in BOTH {
        let first = segment.order(address).unwrap()[0];
        segment.wait_for(address, first);
        assert_eq!(segment.ask(address), Verdict::Answered);
        let mac = segment.mac(first).unwrap();
        eventually(PATIENCE, "the client to know the first one", || {
            let entry = segment.neighbour(address)?;
            ensure!(entry.as_ref() == Some(&mac), "{entry:?} instead of {mac}");
            Ok(())
        })
        .unwrap();
    }
}

/// The client says nothing meanwhile, and so asks nothing: its entry is another all the same.
fn an_idle_client_learns_of_it_by_announcements(segment: &Segment) {
    for address in BOTH {
        let order = segment.order(address).unwrap();
        let next = segment.mac(order[1]).unwrap();
        assert_eq!(segment.ask(address), Verdict::Answered);
        let capture = Capture::open(&segment.client).unwrap();
        let began = Instant::now();
        segment.rack.cut(&format!("p{}", order[0] + 1)).unwrap();
        let moved = eventually(
            Duration::from_secs(5),
            "the neighbour entry to change",
            || {
                let entry = segment.neighbour(address)?;
                ensure!(entry.as_ref() == Some(&next), "{entry:?}");
                Ok(())
            },
        );
        let took = began.elapsed();
        let seen = capture.take(address).unwrap();
        segment
            .rack
            .heal("s1", &format!("p{}", order[0] + 1))
            .unwrap();
        moved.unwrap();
        say(&format!(
            "{address}: the client's entry is another {took:?} after the holder fell silent"
        ));
        assert!(took < Duration::from_secs(1), "{took:?}");
        let of_next = |what: What| {
            seen.iter()
                .filter(|one| one.what == what && one.mac == next)
                .count()
        };
        match address {
            V4 => assert!(of_next(What::AnnouncedRequest) > 0 && of_next(What::AnnouncedReply) > 0),
            _ => assert!(of_next(What::Advertised) > 0),
        }
        assert!(
            answers(&seen).is_empty(),
            "announced, not asked for: {seen:?}"
        );
        restore(segment);
    }
}

fn flows(segment: &Segment) -> Vec<(&Netns, Flow)> {
    let of = |address| {
        [
            segment.flow(address, Kind::Udp, RATE),
            segment.flow(address, Kind::NewTcp, RATE / 2),
        ]
    };
    BOTH.into_iter().flat_map(of).collect()
}

/// For how long each flow was without an answer, at most.
fn measured(segment: &Segment, title: &str, during: impl FnOnce() -> Result<()>) -> Duration {
    let flows = flows(segment);
    let outcomes = measure(&flows, Duration::from_secs(3), || {
        std::thread::sleep(Duration::from_millis(500));
        during()
    })
    .unwrap();
    sum(title, &flows, &outcomes).unwrap();
    let worst = flows.iter().zip(&outcomes).map(|((_, flow), outcome)| {
        Duration::from_secs(1) * u32::try_from(outcome.lost).unwrap() / flow.rate
    });
    worst.max().unwrap()
}

fn a_death_costs_less_than_a_second(segment: &Segment) {
    let holder = segment.answering(V4)[0];
    let order: [Vec<usize>; 2] = BOTH.map(|address| segment.order(address).unwrap());
    let bystander = (0..NODES).find(|node| order.iter().all(|order| order[0] != *node));
    let port = |node: usize| format!("p{}", node + 1);
    if let Some(node) = bystander {
        let lost = measured(
            segment,
            "control: a node that answers for nothing dies",
            || segment.rack.cut(&port(node)),
        );
        segment.rack.heal("s1", &port(node)).unwrap();
        assert_eq!(lost, Duration::ZERO);
        restore(segment);
    }
    let lost = measured(segment, "the node that answers dies", || {
        segment.rack.cut(&port(holder))
    });
    say(&format!(
        "the longest that a flow was without an answer: {lost:?}"
    ));
    let moved = segment.mac(order[0][1]).unwrap();
    assert_eq!(segment.neighbour(V4).unwrap(), Some(moved));
    segment.rack.heal("s1", &port(holder)).unwrap();
    assert!(lost > Duration::ZERO, "it was in use");
    assert!(lost < Duration::from_secs(1), "{lost:?}");
    restore(segment);
}

/// Stopped, or killed: what is in the kernel forwards still, and who asks anew is answered by the next.
fn an_agents_end_costs_nothing(segment: &mut Segment) {
    for is_killed in [false, true] {
        let holder = segment.answering(V4)[0];
        let next = segment.order(V4).unwrap()[1];
        let mac = segment.mac(next).unwrap();
        let how = if is_killed { "is killed" } else { "stops" };
        let mut ended = segment.stations.remove(holder);
        let began = Instant::now();
        let mut took = None;
        let lost = measured(
            segment,
            &format!("the agent of the node that answers {how}"),
            || {
                match is_killed {
                    true => ended.agent.kill()?,
                    false => ended.agent.terminate()?,
                }
                eventually(Duration::from_secs(3), "the next to answer", || {
                    let entry = segment.neighbour(V4)?.context("no entry")?;
                    ensure!(entry == mac, "{entry}");
                    Ok(())
                })?;
                took = Some(began.elapsed());
                Ok(())
            },
        );
        say(&format!(
            "the agent {how}: lost {lost:?}, moved after {took:?}"
        ));
        assert!(lost <= Duration::from_millis(20), "{lost:?}");
        segment.stations.insert(holder, ended);
        segment.stations[holder].start().unwrap();
        segment.wait_synced().unwrap();
        restore(segment);
    }
}

fn a_node_that_is_excluded_hands_over(segment: &mut Segment) {
    let holder = segment.answering(V4)[0];
    let next = segment.order(V4).unwrap()[1];
    let lost = measured(segment, "the node that answers is excluded", || {
        segment.exclude(holder, true)
    });
    segment.wait_for(V4, next);
    let capture = Capture::open(&segment.client).unwrap();
    assert_eq!(capture.ask(V4, [10, 72, 0, 200], 5).unwrap(), [1; 5]);
    assert!(lost <= Duration::from_millis(20), "{lost:?}");
}
