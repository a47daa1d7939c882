//! How often it is tried again: retries, jitter, back-off.

use std::collections::BTreeSet;
use std::time::Duration;

use super::super::*;
use super::scripted::*;
use crate::wire::{Capability, Message, Notification};

use Direction::{Incoming, Outgoing};

#[test]
fn a_refused_dial_is_repeated_after_the_connect_retry_time_with_jitter() {
    let mut waits = BTreeSet::new();
    for seed in 0..200 {
        let mut peer = Scripted::new(config());
        peer.session = PeerSession::new(config(), seed);
        peer.session.handle_start(peer.now);
        peer.session.handle_connect_failed(peer.now);
        assert_eq!(peer.session.state(), State::Active);
        waits.insert(peer.next_timer());
        assert_eq!(peer.seen(), [Seen::Connect, Seen::Connect]);
    }
    assert!(waits.first().unwrap() >= &Duration::from_millis(3750));
    assert!(waits.last().unwrap() <= &Duration::from_secs(5));
    assert!(waits.len() > 100, "peers of a rack do not dial in step");
}

#[test]
fn a_dial_without_an_answer_is_given_up_and_made_anew() {
    let mut peer = Scripted::started(config());
    assert_eq!(peer.session.state(), State::Connect);
    assert!(peer.next_timer() <= Duration::from_secs(5));
    assert_eq!(peer.seen(), [Seen::Close(Outgoing), Seen::Connect]);
    assert_eq!(peer.session.last_down(), Some("could not connect in time"));
}

#[test]
fn errors_hold_the_session_back_longer_each_time_up_to_half_a_minute() {
    let mut peer = Scripted::started(config());
    let mut waits = Vec::new();
    for _ in 0..8 {
        peer.connect(Outgoing);
        peer.receive(Outgoing, &Message::Keepalive);
        assert_eq!(peer.session.state(), State::Idle);
        assert!(!peer.session.admits(Incoming));
        waits.push(peer.next_timer());
        assert_eq!(peer.session.state(), State::Connect);
    }
    for (wait, seconds) in waits.iter().zip([1, 2, 4, 8, 16, 30, 30, 30]) {
        let longest = Duration::from_secs(seconds);
        assert!(*wait <= longest && *wait >= longest * 3 / 4, "{waits:?}");
    }
}

#[test]
fn a_connection_is_refused_while_held_back() {
    let mut peer = Scripted::open_sent(config(), Outgoing);
    peer.receive(Outgoing, &Message::Keepalive);
    peer.seen();
    peer.connect(Incoming);
    assert_eq!(peer.seen(), [Seen::Close(Incoming)]);
    assert_eq!(peer.session.state(), State::Idle);
}

#[test]
fn a_start_ends_the_wait_after_an_error() {
    let mut peer = Scripted::open_sent(config(), Outgoing);
    peer.receive(Outgoing, &Message::Keepalive);
    peer.seen();
    peer.session.handle_start(peer.now);
    assert_eq!(peer.seen(), [Seen::Connect]);
}

#[test]
fn a_silent_half_open_connection_is_ended_after_four_minutes() {
    let mut peer = Scripted::open_sent(config(), Outgoing);
    assert_eq!(peer.next_timer(), Duration::from_secs(240));
    assert_eq!(notifications(&peer.seen()), [(Outgoing, (4, 0))]);
}

#[test]
fn a_peer_silent_after_its_open_is_ended_after_the_hold_time() {
    let mut peer = Scripted::open_confirm(config(), Outgoing, &open(LOW_ID));
    let mut waited = Duration::ZERO;
    while peer.session.state() == State::OpenConfirm {
        waited += peer.next_timer();
    }
    assert_eq!(waited, Duration::from_secs(90));
    assert_eq!(notifications(&peer.seen()), [(Outgoing, (4, 0))]);
}

#[test]
fn keepalives_go_out_with_jitter() {
    let mut peer = Scripted::established(config(), Outgoing, &open(LOW_ID));
    for _ in 0..50 {
        let wait = peer.next_timer();
        assert!(wait >= Duration::from_millis(22_500) && wait <= Duration::from_secs(30));
        assert_eq!(peer.seen(), [Seen::Sent(Outgoing, Message::Keepalive)]);
        peer.receive(Outgoing, &Message::Keepalive);
    }
}

#[test]
fn updates_keep_the_hold_timer_from_expiring() {
    let mut peer = Scripted::established(config(), Outgoing, &open(LOW_ID));
    for _ in 0..50 {
        peer.next_timer();
        let family = crate::wire::Family::IPV4_UNICAST;
        let update = crate::wire::Update {
            end_of_rib: Some(family),
            ..Default::default()
        };
        peer.receive(Outgoing, &Message::Update(update));
    }
    assert_eq!(peer.session.state(), State::Established);
}

#[test]
fn a_peer_that_refuses_capabilities_gets_an_open_without_them() {
    for subcode in [4, 7] {
        let mut peer = Scripted::open_sent(config(), Outgoing);
        peer.receive(
            Outgoing,
            &Message::Notification(Notification::open_error(subcode)),
        );
        peer.next_timer();
        peer.seen();
        peer.connect(Outgoing);
        let seen = peer.seen();
        let [Seen::Sent(Outgoing, Message::Open(open))] = seen.as_slice() else {
            panic!("{seen:?}")
        };
        assert_eq!(open.capabilities, []);
    }
}

#[test]
fn the_r_bit_is_sent_until_it_is_cleared() {
    let mut config = config();
    config.graceful_restart = Some(graceful_restart());
    let mut peer = Scripted::started(config);
    for restarting in [true, false] {
        peer.session.set_restarting(restarting);
        peer.connect(Outgoing);
        let sent = peer.seen();
        let mut expected = graceful_restart();
        expected.restarting = restarting;
        let has = sent.iter().any(|seen| {
            matches!(seen, Seen::Sent(_, Message::Open(open))
                if open.capabilities.contains(&Capability::GracefulRestart(expected.clone())))
        });
        assert!(has, "{sent:?}");
        peer.session
            .handle_disconnected(peer.now, Outgoing, "reset");
        peer.next_timer();
    }
}
