//! Intervals, jitter, Poll Sequences and the order in which changed timers come into force (RFC 5880 §6.8.2 to §6.8.7).

use SessionState::{AdminDown, Down, Init, Up};

use super::*;

/// A session that is Up with its first Poll Sequence behind it.
fn settled(config: BfdConfig, now: Instant) -> BfdSession {
    let mut session = BfdSession::new(config, 1, 7);
    session.handle_start(now);
    session.handle_packet(now, &told(Init));
    session.handle_packet(now, &final_of(Up));
    drain(&mut session);
    assert_eq!(session.status().state, Up);
    assert!(!session.status().polling);
    session
}

fn final_of(state: SessionState) -> Packet {
    Packet {
        final_bit: true,
        ..told(state)
    }
}

/// The pauses between the packets of a session whose peer keeps it alive.
fn pauses(session: &mut BfdSession, mut now: Instant, count: usize) -> Vec<Duration> {
    let mut pauses = Vec::new();
    let mut last = now;
    while pauses.len() < count {
        session.handle_packet(now, &told(Up));
        now = session.poll_timeout().unwrap();
        session.handle_timeout(now);
        if !drain(session).0.is_empty() {
            pauses.push(now - last);
            last = now;
        }
    }
    pauses
}

#[test]
fn packets_keep_within_the_jitter_of_the_agreed_interval_and_use_it() {
    let now = any_instant();
    let pauses = pauses(&mut settled(config(50, 50, 3), now), now, 2000);
    let (least, most) = (pauses.iter().min().unwrap(), pauses.iter().max().unwrap());
    assert!(
        *least >= ms(75) && *most <= ms(100),
        "{least:?} to {most:?}"
    );
    assert!(*least < ms(76) && *most > ms(99), "{least:?} to {most:?}");
}

#[test]
fn with_a_multiplier_of_one_a_tenth_is_always_left() {
    let now = any_instant();
    let pauses = pauses(&mut settled(config(50, 50, 1), now), now, 2000);
    let (least, most) = (pauses.iter().min().unwrap(), pauses.iter().max().unwrap());
    assert!(*least >= ms(75) && *most <= ms(90), "{least:?} to {most:?}");
    assert!(*least < ms(76) && *most > ms(89), "{least:?} to {most:?}");
}

#[test]
fn no_more_than_one_packet_a_second_is_sent_or_promised_while_not_up() {
    let now = any_instant();
    let mut session = BfdSession::new(config(10, 10, 3), 1, 7);
    session.handle_start(now);
    let (mut sent, end) = (drain(&mut session).0, now + Duration::from_secs(60));
    while let Some(at) = session.poll_timeout().filter(|at| *at < end) {
        session.handle_timeout(at);
        sent.extend(drain(&mut session).0);
    }
    assert!(sent.len() >= 60 && sent.len() <= 81, "{}", sent.len());
    assert!(sent.iter().all(|packet| packet.desired_min_tx == ms(1000)));
    assert!(sent.iter().all(|packet| packet.required_min_rx == ms(10)));
    assert!(
        sent.iter()
            .all(|packet| packet.required_min_echo_rx.is_zero())
    );
}

#[test]
fn the_detection_time_is_the_peers_multiplier_times_the_slower_of_both() {
    for (required, desired, multiplier, expected) in [
        (100, 50, 3, 300),
        (50, 100, 3, 300),
        (20, 20, 5, 100),
        (1, 1000, 1, 1000),
    ] {
        let now = any_instant();
        let mut session = settled(config(10, required, 9), now);
        let packet = Packet {
            desired_min_tx: ms(desired),
            detect_multiplier: multiplier,
            ..told(Up)
        };
        session.handle_packet(now, &packet);
        assert_eq!(session.status().detection_time, Some(ms(expected)));
    }
}

#[test]
fn coming_up_starts_a_poll_sequence_that_final_ends() {
    let now = any_instant();
    let mut session = BfdSession::new(config(50, 50, 3), 1, 7);
    session.handle_start(now);
    drain(&mut session);
    session.handle_packet(now, &told(Init));
    let (packets, events) = drain(&mut session);
    assert_eq!(events, [BfdOutput::Up]);
    assert!(packets[0].poll && packets[0].desired_min_tx == ms(50));
    session.handle_packet(now, &told(Up));
    assert!(session.status().polling, "a packet without F ends nothing");
    session.handle_packet(now, &final_of(Up));
    session.handle_timeout(session.poll_timeout().unwrap());
    assert!(drain(&mut session).0.iter().all(|packet| !packet.poll));
}

#[test]
fn polls_ride_on_periodic_packets_only() {
    let now = any_instant();
    let mut session = settled(config(100, 100, 3), now);
    session.handle_config(now + ms(1), config(200, 100, 3));
    assert_eq!(session.poll_output(), None);
    session.handle_timeout(session.poll_timeout().unwrap());
    assert!(drain(&mut session).0[0].poll);
}

#[test]
fn a_final_that_answers_no_poll_of_this_sequence_does_not_end_it() {
    let now = any_instant();
    let mut session = settled(config(100, 100, 3), now);
    session.handle_config(now, config(400, 100, 3));
    session.handle_packet(now, &final_of(Up));
    assert!(session.status().polling, "nothing with P was sent yet");
    session.handle_timeout(session.poll_timeout().unwrap());
    session.handle_packet(now + ms(100), &final_of(Up));
    assert!(!session.status().polling);
}

#[test]
fn a_longer_interval_of_ours_waits_for_the_polls_end_and_a_shorter_does_not() {
    let now = any_instant();
    let mut session = settled(config(100, 100, 3), now);
    session.handle_config(now, config(400, 100, 3));
    assert_eq!(session.status().transmit_interval, Some(ms(100)));
    session.handle_timeout(session.poll_timeout().unwrap());
    assert_eq!(drain(&mut session).0[0].desired_min_tx, ms(400));
    session.handle_packet(now + ms(100), &final_of(Up));
    assert_eq!(session.status().transmit_interval, Some(ms(400)));
    session.handle_config(now + ms(100), config(200, 100, 3));
    assert_eq!(session.status().transmit_interval, Some(ms(200)));
}

#[test]
fn a_shorter_interval_of_the_peer_waits_for_the_polls_end_and_a_longer_does_not() {
    let now = any_instant();
    let mut session = settled(config(100, 400, 3), now);
    session.handle_config(now, config(100, 200, 3));
    assert_eq!(session.status().detection_time, Some(ms(1200)));
    session.handle_timeout(session.poll_timeout().unwrap());
    session.handle_packet(now + ms(100), &final_of(Up));
    assert_eq!(session.status().detection_time, Some(ms(600)));
    session.handle_config(now + ms(100), config(100, 900, 3));
    assert_eq!(session.status().detection_time, Some(ms(2700)));
}

#[test]
fn a_change_during_a_poll_sequence_gets_one_of_its_own() {
    let now = any_instant();
    let mut session = settled(config(100, 100, 3), now);
    session.handle_config(now, config(200, 100, 3));
    session.handle_timeout(session.poll_timeout().unwrap());
    assert_eq!(drain(&mut session).0[0].desired_min_tx, ms(200));
    session.handle_config(now + ms(100), config(300, 100, 3));
    session.handle_packet(now + ms(110), &final_of(Up));
    assert!(
        session.status().polling,
        "the second change is still to be told"
    );
    assert_eq!(session.status().transmit_interval, Some(ms(200)));
    session.handle_timeout(session.poll_timeout().unwrap());
    let packet = drain(&mut session).0.remove(0);
    assert!(packet.poll && packet.desired_min_tx == ms(300));
    session.handle_packet(now + ms(300), &final_of(Up));
    assert!(!session.status().polling);
    assert_eq!(session.status().transmit_interval, Some(ms(300)));
}

#[test]
fn a_multiplier_or_c_bit_changes_without_a_poll() {
    let now = any_instant();
    let mut session = settled(config(100, 100, 3), now);
    let changed = BfdConfig {
        control_plane_independent: true,
        ..config(100, 100, 7)
    };
    session.handle_config(now, changed);
    assert!(!session.status().polling);
    session.handle_timeout(session.poll_timeout().unwrap());
    let packet = drain(&mut session).0.remove(0);
    assert!(packet.control_plane_independent && packet.detect_multiplier == 7);
    assert!(
        !session.status().control_plane_independent,
        "the peer has not set it"
    );
    let theirs = Packet {
        control_plane_independent: true,
        ..told(Up)
    };
    session.handle_packet(now, &theirs);
    assert!(session.status().control_plane_independent);
    session.handle_timeout(now + ms(500));
    let status = session.status();
    assert!(
        status.control_plane_independent,
        "still known when it is gone: {status:?}"
    );
}

#[test]
fn a_peer_that_becomes_faster_is_served_from_the_last_packet_on() {
    let now = any_instant();
    let mut session = settled(config(100, 100, 3), now);
    let slow = Packet {
        required_min_rx: ms(5000),
        ..told(Up)
    };
    session.handle_packet(now, &slow);
    session.handle_timeout(now + ms(100));
    drain(&mut session);
    assert!(
        session.poll_timeout().is_some_and(|at| at <= now + ms(300)),
        "detection"
    );
    session.handle_packet(now + ms(200), &told(Up));
    session.handle_timeout(now + ms(201));
    assert_eq!(
        drain(&mut session).0.len(),
        1,
        "due since 100 ms after the last one"
    );
}

#[test]
fn a_peer_that_wants_no_packets_gets_none_but_finals() {
    let now = any_instant();
    let mut session = settled(config(100, 100, 3), now);
    let deaf = Packet {
        required_min_rx: Duration::ZERO,
        ..told(Up)
    };
    session.handle_packet(now, &deaf);
    assert_eq!(session.status().transmit_interval, None);
    assert_eq!(
        session.poll_timeout(),
        Some(now + ms(300)),
        "detection alone"
    );
    session.handle_packet(now, &Packet { poll: true, ..deaf });
    assert_eq!(drain(&mut session).0.len(), 1);
}

#[test]
fn a_peer_in_demand_mode_gets_periodic_packets_only_for_a_poll() {
    let now = any_instant();
    let mut session = settled(config(100, 100, 3), now);
    let demand = Packet {
        demand: true,
        ..told(Up)
    };
    session.handle_packet(now, &demand);
    assert_eq!(session.status().transmit_interval, None);
    session.handle_config(now, config(200, 100, 3));
    assert!(session.status().transmit_interval.is_some());
    session.handle_timeout(session.poll_timeout().unwrap());
    assert!(drain(&mut session).0[0].poll);
    session.handle_packet(
        now + ms(100),
        &Packet {
            final_bit: true,
            ..demand
        },
    );
    assert_eq!(session.status().transmit_interval, None);
}

#[test]
fn demand_counts_only_while_both_are_up() {
    let now = any_instant();
    let mut session = settled(config(100, 100, 3), now);
    let demand = |state| Packet {
        demand: true,
        ..told(state)
    };
    session.handle_packet(now, &demand(Init));
    assert!(session.status().transmit_interval.is_some());
    session.handle_packet(now, &demand(Down));
    assert!(session.status().transmit_interval.is_some());
}

#[test]
fn leaving_up_ends_the_poll_and_takes_what_was_queued() {
    for last in [Down, AdminDown] {
        let now = any_instant();
        let mut session = settled(config(100, 100, 3), now);
        session.handle_config(now, config(200, 100, 3));
        session.handle_timeout(session.poll_timeout().unwrap());
        session.handle_config(now, config(100, 700, 3));
        drain(&mut session);
        session.handle_packet(now, &told(last));
        let packet = drain(&mut session).0.remove(0);
        assert!(
            !packet.poll && packet.required_min_rx == ms(700),
            "{packet:?}"
        );
        assert!(!session.status().polling);
    }
}

#[test]
fn durations_that_do_not_fit_the_field_are_taken_as_the_nearest_that_do() {
    let now = any_instant();
    let mut session = BfdSession::new(config(0, 9_000_000_000, 3), 1, 7);
    session.handle_start(now);
    session.handle_packet(now, &told(Init));
    let packet = drain(&mut session).0.remove(1);
    assert_eq!(packet.desired_min_tx, Duration::from_micros(1));
    assert_eq!(
        packet.required_min_rx,
        Duration::from_micros(u64::from(u32::MAX))
    );
}
