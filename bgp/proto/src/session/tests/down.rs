//! Why a session ends and whether the peer's routes may be kept: NOTIFICATIONs, silence, BFD, a peer that does not read.

use std::time::Duration;

use bytes::Bytes;

use super::super::*;
use super::scripted::*;
use crate::wire::{Message, Notification};

use Direction::{Incoming, Outgoing};

/// Established, with the N bit on both sides or on ours only.
fn established(both: bool) -> Scripted {
    let config = SessionConfig {
        graceful_restart: Some(graceful_restart()),
        ..config()
    };
    let theirs = if both {
        restartable_open(LOW_ID)
    } else {
        open(LOW_ID)
    };
    Scripted::established(config, Outgoing, &theirs)
}

fn down(peer: &mut Scripted) -> Down {
    let seen = peer.seen();
    let downs = seen.iter().filter_map(|seen| match seen {
        Seen::Down(down) => Some(down.clone()),
        _ => None,
    });
    let downs: Vec<_> = downs.collect();
    assert_eq!(downs.len(), 1, "{seen:?}");
    downs[0].clone()
}

type End = fn(&mut Scripted);

/// How a session ends, and whether routes may be kept without and with the N bit (RFC 4724 §4.2, RFC 8538 §4).
const TABLE: [(&str, End, [bool; 2]); 13] = [
    (
        "TCP breaks",
        |peer| {
            peer.session
                .handle_disconnected(peer.now, Outgoing, "reset")
        },
        [true, true],
    ),
    (
        "the hold timer expires",
        |peer| {
            peer.now += Duration::from_secs(91);
            peer.session.handle_timeout(peer.now);
        },
        [false, true],
    ),
    (
        "received Administrative Shutdown",
        |peer| peer.receive(Outgoing, &Message::Notification(Notification::cease(2))),
        [false, true],
    ),
    (
        "received Administrative Reset",
        |peer| peer.receive(Outgoing, &Message::Notification(Notification::cease(4))),
        [false, true],
    ),
    (
        "received Hold Timer Expired",
        |peer| {
            let expired = Notification::hold_timer_expired();
            peer.receive(Outgoing, &Message::Notification(expired));
        },
        [false, true],
    ),
    (
        "received Hard Reset",
        |peer| peer.receive(Outgoing, &Message::Notification(Notification::cease(9))),
        [false, false],
    ),
    (
        "sent an FSM error",
        |peer| peer.receive(Outgoing, &Message::Open(open(LOW_ID))),
        [false, true],
    ),
    (
        "stopped by Administrative Shutdown, which goes as a Hard Reset",
        |peer| {
            peer.session
                .handle_stop(peer.now, Stop::Notify(Notification::cease(2)))
        },
        [false, false],
    ),
    (
        "stopped by Maximum Number of Prefixes, which goes as a Hard Reset",
        |peer| {
            peer.session
                .handle_stop(peer.now, Stop::Notify(Notification::cease(1)))
        },
        [false, false],
    ),
    (
        "stopped by Other Configuration Change",
        |peer| {
            peer.session
                .handle_stop(peer.now, Stop::Notify(Notification::cease(6)))
        },
        [false, true],
    ),
    (
        "stopped without a word",
        |peer| peer.session.handle_stop(peer.now, Stop::Silent),
        [true, true],
    ),
    (
        "BFD down",
        |peer| {
            peer.session.handle_bfd(peer.now, true);
            peer.session.handle_bfd(peer.now, false);
        },
        [false, false],
    ),
    (
        "the send hold timer expires",
        |peer| {
            peer.session.handle_write_blocked(peer.now, Outgoing);
            for _ in 0..8 {
                peer.now += Duration::from_secs(60);
                peer.receive(Outgoing, &Message::Keepalive);
                peer.session.handle_timeout(peer.now);
            }
        },
        [false, true],
    ),
];

#[test]
fn routes_may_be_kept_after_each_way_to_end_as_the_rfcs_say() {
    for (name, end, expected) in TABLE {
        for (both, expected) in [false, true].into_iter().zip(expected) {
            let mut peer = established(both);
            end(&mut peer);
            assert_eq!(
                down(&mut peer).retain,
                expected,
                "{name}, N bit on both: {both}"
            );
        }
    }
}

#[test]
fn a_reason_that_lasts_goes_as_a_hard_reset_only_to_a_peer_that_knows_it() {
    let text = "maintenance";
    for (both, codes) in [(true, (6, 9)), (false, (6, 2))] {
        let mut peer = established(both);
        let cease = Notification::cease_with_text(2, text);
        peer.session
            .handle_stop(peer.now, Stop::Notify(cease.clone()));
        let sent = down(&mut peer).notification_sent.unwrap();
        assert_eq!((sent.code, sent.subcode), codes);
        let told = peer.session.last_down().unwrap();
        assert!(
            told.contains("Administrative Shutdown \"maintenance\""),
            "{told}"
        );
        if both {
            let inside = [&[6, 2], &cease.data[..]].concat();
            assert_eq!(sent.data, inside, "RFC 8538 §3.1");
        }
    }
}

#[test]
fn the_words_of_the_peers_operator_are_in_the_reason() {
    let inside = [&[6, 2, 11], &b"maintenance"[..]].concat();
    let rows = [
        (
            Notification::cease_with_text(2, "maintenance"),
            "received NOTIFICATION 6/2 (Cease: Administrative Shutdown \"maintenance\")",
        ),
        (
            Notification::cease(9).with_data(Bytes::from(inside)),
            "received NOTIFICATION 6/9 (Cease: Hard Reset (Cease: Administrative Shutdown \"maintenance\"))",
        ),
        (
            Notification::cease(9).with_data(Bytes::from_static(&[6])),
            "received NOTIFICATION 6/9 (Cease: Hard Reset)",
        ),
    ];
    for (notification, reason) in rows {
        let mut peer = established(true);
        peer.receive(Outgoing, &Message::Notification(notification));
        assert_eq!(down(&mut peer).reason, reason);
    }
}

#[test]
fn a_silent_stop_sends_no_notification_so_that_graceful_restart_holds() {
    let mut peer = established(true);
    peer.session.handle_stop(peer.now, Stop::Silent);
    let seen = peer.seen();
    assert_eq!(notifications(&seen), []);
    assert_eq!(seen[0], Seen::Close(Outgoing));
}

#[test]
fn a_peer_that_takes_no_byte_is_dropped_without_a_notification_behind_half_a_message() {
    let mut peer = established(true);
    peer.session.handle_write_blocked(peer.now, Outgoing);
    for minute in 1..=8 {
        assert_eq!(
            peer.session.state(),
            State::Established,
            "after {minute} minutes"
        );
        // Half an hour of blocked bytes is told once: said again, the timer runs on.
        peer.session.handle_write_blocked(peer.now, Outgoing);
        peer.seen();
        peer.now += Duration::from_secs(60);
        peer.receive(Outgoing, &Message::Keepalive);
        peer.session.handle_timeout(peer.now);
    }
    let seen = peer.seen();
    assert_eq!(notifications(&seen), []);
    assert!(seen.contains(&Seen::Close(Outgoing)), "{seen:?}");
    assert_eq!(
        peer.session.state(),
        State::Idle,
        "held back: it would be stuck again"
    );
    let told = peer.session.last_down().unwrap();
    assert!(
        told.starts_with("send hold timer expired: the peer took no byte for 480 s"),
        "{told}"
    );
}

#[test]
fn any_progress_stops_the_send_hold_timer() {
    let mut peer = established(true);
    for _ in 0..20 {
        peer.session.handle_write_blocked(peer.now, Outgoing);
        peer.now += Duration::from_secs(60);
        peer.receive(Outgoing, &Message::Keepalive);
        peer.session.handle_timeout(peer.now);
        peer.session.handle_write_progress(peer.now, Outgoing);
    }
    assert_eq!(peer.session.state(), State::Established);
}

#[test]
fn the_send_hold_time_is_longer_than_the_hold_time_and_runs_without_one() {
    let seconds = Duration::from_secs;
    // (configured, HoldTime, SendHoldTime)
    for (configured, hold_time, expected) in [
        (None, seconds(90), Some(seconds(480))),
        (None, seconds(600), Some(seconds(1200))),
        (None, Duration::ZERO, Some(seconds(480))),
        (Some(seconds(10)), seconds(90), Some(seconds(91))),
        (Some(seconds(100)), Duration::ZERO, Some(seconds(100))),
        (Some(Duration::ZERO), Duration::ZERO, None),
    ] {
        let config = SessionConfig {
            send_hold_time: configured,
            hold_time,
            ..config()
        };
        let mut theirs = open(LOW_ID);
        theirs.hold_time = u16::MAX;
        let mut peer = Scripted::established(config, Outgoing, &theirs);
        peer.session.handle_write_blocked(peer.now, Outgoing);
        let (began, hold) = (peer.now, (!hold_time.is_zero()).then_some(()));
        let mut ended = None;
        while let Some(at) = peer
            .session
            .poll_timeout()
            .filter(|at| *at < began + seconds(4000))
        {
            peer.now = at;
            if hold.is_some() {
                peer.receive(Outgoing, &Message::Keepalive);
            }
            peer.session.handle_timeout(at);
            if peer.session.state() != State::Established {
                ended = Some(at - began);
                break;
            }
        }
        assert_eq!(ended, expected, "{configured:?} {hold_time:?}");
    }
}

fn strict() -> SessionConfig {
    SessionConfig {
        strict_bfd: true,
        ..config()
    }
}

#[test]
fn strict_bfd_holds_the_session_before_established_until_bfd_is_up() {
    let mut peer = Scripted::open_sent(strict(), Outgoing);
    peer.receive(Outgoing, &Message::Open(open(LOW_ID)));
    assert_eq!(peer.seen(), [], "no KEEPALIVE");
    peer.receive(Outgoing, &Message::Keepalive);
    assert_eq!(peer.session.state(), State::OpenConfirm);
    peer.now += Duration::from_secs(29);
    peer.session.handle_timeout(peer.now);
    peer.session.handle_bfd(peer.now, true);
    assert_eq!(peer.session.state(), State::Established);
    assert!(matches!(
        peer.seen()[..],
        [Seen::Sent(Outgoing, Message::Keepalive), Seen::Up(_)]
    ));
    assert!(
        peer.session.poll_timeout().unwrap() > peer.now,
        "the hold timer runs afresh"
    );
}

#[test]
fn strict_bfd_that_is_up_already_holds_nothing() {
    let mut peer = Scripted::new(strict());
    peer.session.handle_bfd(peer.now, true);
    peer.session.handle_start(peer.now);
    peer.connect(Outgoing);
    peer.receive(Outgoing, &Message::Open(open(LOW_ID)));
    peer.receive(Outgoing, &Message::Keepalive);
    assert_eq!(peer.session.state(), State::Established);
}

#[test]
fn bfd_that_does_not_come_up_in_time_ends_the_try() {
    let mut peer = Scripted::open_sent(strict(), Outgoing);
    peer.receive(Outgoing, &Message::Open(open(LOW_ID)));
    assert_eq!(peer.next_timer(), SessionConfig::BFD_HOLD_TIME);
    let seen = peer.seen();
    assert_eq!(notifications(&seen), [(Outgoing, (6, 10))]);
    assert_eq!(peer.session.state(), State::Idle);
}

#[test]
fn strict_bfd_without_a_limit_waits_for_ever_even_with_a_short_hold_time() {
    let config = SessionConfig {
        bfd_hold_time: Duration::ZERO,
        hold_time: Duration::from_secs(3),
        ..strict()
    };
    let mut peer = Scripted::open_sent(config, Outgoing);
    peer.receive(Outgoing, &Message::Open(open(LOW_ID)));
    assert_eq!(peer.session.poll_timeout(), None);
    peer.receive(Outgoing, &Message::Keepalive);
    assert_eq!(peer.session.poll_timeout(), None);
    assert_eq!(peer.session.state(), State::OpenConfirm);
}

#[test]
fn bfd_down_ends_an_established_session_at_once_and_is_news_only_once() {
    let mut peer = established(true);
    peer.session.handle_bfd(peer.now, false);
    assert_eq!(peer.session.state(), State::Established, "it was never up");
    peer.session.handle_bfd(peer.now, true);
    peer.session.handle_bfd(peer.now, true);
    assert_eq!(peer.seen(), []);
    peer.session.handle_bfd(peer.now, false);
    let seen = peer.seen();
    assert_eq!(notifications(&seen), [(Outgoing, (6, 10))]);
    assert_eq!(
        peer.session.last_down(),
        Some("sent NOTIFICATION 6/10 (Cease: BFD Down)")
    );
    peer.session.handle_bfd(peer.now, false);
    assert_eq!(peer.seen(), []);
}

fn delayed() -> Scripted {
    let config = SessionConfig {
        delay_open: Some(Duration::from_secs(10)),
        ..config()
    };
    let mut peer = Scripted::started(config);
    peer.connect(Outgoing);
    peer
}

#[test]
fn a_delayed_open_goes_when_its_timer_expires() {
    let mut peer = delayed();
    assert_eq!(
        (peer.seen(), peer.session.state()),
        (Vec::new(), State::Connect)
    );
    assert_eq!(peer.next_timer(), Duration::from_secs(10));
    assert!(matches!(
        peer.seen()[..],
        [Seen::Sent(Outgoing, Message::Open(_))]
    ));
    assert_eq!(peer.session.state(), State::OpenSent);
}

#[test]
fn the_peers_open_is_answered_before_the_delay_is_over() {
    let mut peer = delayed();
    peer.receive(Outgoing, &Message::Open(open(LOW_ID)));
    let seen = peer.seen();
    let answered = matches!(
        seen[..],
        [
            Seen::Sent(Outgoing, Message::Open(_)),
            Seen::Sent(Outgoing, Message::Keepalive)
        ]
    );
    assert!(answered, "{seen:?}");
    assert_eq!(peer.session.state(), State::OpenConfirm);
    peer.receive(Outgoing, &Message::Keepalive);
    assert_eq!(peer.session.state(), State::Established);
}

#[test]
fn an_incoming_connection_whose_open_is_delayed_leaves_the_state_active() {
    let config = SessionConfig {
        delay_open: Some(Duration::from_secs(10)),
        passive: true,
        ..config()
    };
    let mut peer = Scripted::started(config);
    peer.connect(Incoming);
    assert_eq!(
        (peer.seen(), peer.session.state()),
        (Vec::new(), State::Active)
    );
}

#[test]
fn a_delayed_connection_gives_way_to_the_one_that_was_faster() {
    let mut peer = delayed();
    peer.connect(Incoming);
    for message in [Message::Open(open(LOW_ID)), Message::Keepalive] {
        peer.receive(Incoming, &message);
    }
    let seen = peer.seen();
    assert_eq!(notifications(&seen), [], "no OPEN went over it");
    assert!(seen.contains(&Seen::Close(Outgoing)), "{seen:?}");
    assert_eq!(peer.session.negotiated().unwrap().direction, Incoming);
}
