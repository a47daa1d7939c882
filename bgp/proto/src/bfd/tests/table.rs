//! The state machine of RFC 5880 §6.2 and §6.8.6, every state by every state received, timer and command.

use SessionState::{AdminDown, Down, Init, Up};

use super::*;

const STATES: [SessionState; 4] = [AdminDown, Down, Init, Up];

/// A session brought to `state`, its outputs taken.
fn session_in(state: SessionState, now: Instant) -> BfdSession {
    let mut session = BfdSession::new(config(100, 100, 3), 1, 7);
    session.handle_start(now);
    match state {
        AdminDown => session.handle_admin_down(now),
        Down => {}
        Init => assert_eq!(session.handle_packet(now, &told(Down)), Received::Accepted),
        Up => assert_eq!(session.handle_packet(now, &told(Init)), Received::Accepted),
    }
    drain(&mut session);
    assert_eq!(session.status().state, state);
    session
}

#[test]
fn every_state_takes_every_received_state_as_the_rfc_says() {
    let neighbor = Diagnostic::NeighborSignaledSessionDown;
    let down = |remote_admin_down| {
        vec![BfdOutput::Down {
            diagnostic: neighbor,
            remote_admin_down,
            begun_anew: false,
        }]
    };
    let table = [
        (AdminDown, [AdminDown, AdminDown, AdminDown, AdminDown]),
        (Down, [Down, Init, Up, Down]),
        (Init, [Down, Init, Up, Up]),
        (Up, [Down, Down, Up, Up]),
    ];
    for (state, row) in table {
        for (received, expected) in STATES.into_iter().zip(row) {
            let now = any_instant();
            let mut session = session_in(state, now);
            session.handle_packet(now, &told(received));
            let (packets, events) = drain(&mut session);
            let what = format!("{} told {}", state.name(), received.name());
            assert_eq!(session.status().state, expected, "{what}");
            let expected_events = match (state, expected) {
                (Up, Down) => down(received == AdminDown),
                (Down | Init, Up) => vec![BfdOutput::Up],
                _ => vec![],
            };
            assert_eq!(events, expected_events, "{what}");
            let changed = state != expected;
            assert_eq!(packets.len(), usize::from(changed), "{what}: told at once");
            assert!(
                packets.iter().all(|packet| packet.state == expected),
                "{what}"
            );
            if changed && expected == Down {
                assert_eq!(session.status().diagnostic, neighbor, "{what}");
            }
        }
    }
}

#[test]
fn silence_for_a_detection_time_ends_init_and_up_and_forgets_the_peer_in_all() {
    for state in STATES {
        let now = any_instant();
        let mut session = session_in(state, now);
        if state == Down {
            session.handle_packet(now, &told(Up));
        }
        let before = now + ms(299);
        session.handle_timeout(before);
        drain(&mut session);
        assert_eq!(session.status().state, state);
        session.handle_timeout(now + ms(300));
        let (packets, events) = drain(&mut session);
        let status = session.status();
        let expired = Diagnostic::ControlDetectionTimeExpired;
        let (expected, told_down) = match state {
            AdminDown | Down => (state, false),
            Init => (Down, false),
            Up => (Down, true),
        };
        assert_eq!(status.state, expected);
        assert_eq!(status.remote_discriminator, 0);
        assert_eq!(events.len(), usize::from(told_down), "{}", state.name());
        if matches!(state, Init | Up) {
            assert_eq!(status.diagnostic, expired);
            assert_eq!(packets.len(), 1);
            assert_eq!((packets[0].state, packets[0].diagnostic), (Down, expired));
            assert_eq!(packets[0].your_discriminator, 0);
        }
        if told_down {
            assert!(matches!(
                events[0],
                BfdOutput::Down { remote_admin_down: false, begun_anew: false, diagnostic } if diagnostic == expired
            ));
        }
    }
}

#[test]
fn admin_down_is_told_at_once_kept_up_slowly_and_left_by_start() {
    for state in [Down, Init, Up] {
        let now = any_instant();
        let mut session = session_in(state, now);
        session.handle_admin_down(now);
        let (packets, events) = drain(&mut session);
        assert!(events.is_empty(), "its caller knows");
        let [packet] = packets.as_slice() else {
            panic!("one packet, not {packets:?}");
        };
        assert_eq!(packet.state, AdminDown);
        assert_eq!(packet.diagnostic, Diagnostic::AdministrativelyDown);
        assert!(packet.desired_min_tx >= ms(1000));
        for received in STATES {
            assert_eq!(
                session.handle_packet(now, &told(received)),
                Received::SessionDisabled
            );
            assert_eq!(session.status().state, AdminDown);
        }
        session.handle_timeout(now + ms(1000));
        assert_eq!(drain(&mut session).0.len(), 1);
        session.handle_start(now + ms(1000));
        assert_eq!(session.status().state, Down);
        assert_eq!(drain(&mut session).0.len(), 1);
    }
}

#[test]
fn a_session_not_started_says_nothing_and_takes_nothing() {
    let now = any_instant();
    let mut session = BfdSession::new(config(100, 100, 3), 1, 7);
    assert_eq!(session.poll_timeout(), None);
    assert_eq!(
        session.handle_packet(now, &told(Down)),
        Received::SessionDisabled
    );
    session.handle_admin_down(now);
    session.handle_timeout(now + ms(10_000));
    assert_eq!(session.poll_output(), None);
}

#[test]
fn a_packet_for_another_discriminator_is_no_sign_of_life() {
    let now = any_instant();
    let mut session = session_in(Up, now);
    let stray = Packet {
        your_discriminator: 9,
        ..told(Down)
    };
    let later = now + ms(200);
    assert_eq!(
        session.handle_packet(later, &stray),
        Received::WrongDiscriminator
    );
    assert_eq!(session.status().state, Up);
    session.handle_timeout(now + ms(300));
    assert_eq!(session.status().state, Down);
}

#[test]
fn the_passive_role_waits_to_be_spoken_to_and_falls_silent_with_the_peer() {
    let now = any_instant();
    let passive = BfdConfig {
        passive: true,
        ..config(100, 100, 3)
    };
    let mut session = BfdSession::new(passive, 1, 7);
    session.handle_start(now);
    assert_eq!(
        (session.poll_output(), session.poll_timeout()),
        (None, None)
    );
    session.handle_packet(now, &told(Down));
    let (packets, _) = drain(&mut session);
    assert_eq!(packets[0].state, Init);
    session.handle_timeout(now + ms(300));
    drain(&mut session);
    assert_eq!(
        (session.status().state, session.poll_timeout()),
        (Down, None)
    );
}

#[test]
fn a_poll_is_answered_at_once_with_final_in_every_enabled_state() {
    for state in [Down, Init, Up] {
        let now = any_instant();
        let mut session = session_in(state, now);
        let poll = Packet {
            poll: true,
            ..told(Up)
        };
        session.handle_packet(now, &poll);
        let (packets, _) = drain(&mut session);
        let finals = packets.iter().filter(|packet| packet.final_bit).count();
        assert_eq!((packets.len(), finals), (1, 1), "{}", state.name());
        assert!(!packets[0].poll);
    }
}
