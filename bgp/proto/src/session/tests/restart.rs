//! A peer that restarts (RFC 4724): its new connection replaces the one we still hold.

use std::time::Duration;

use super::super::*;
use super::pair::{Pair, configs};
use super::scripted::*;
use crate::wire::Message;

use Direction::{Incoming, Outgoing};

#[test]
fn a_new_open_while_established_from_a_restartable_peer_replaces_the_old_connection_silently() {
    for id in [LOW_ID, HIGH_ID] {
        let mut peer = Scripted::established(config(), Outgoing, &restartable_open(id));
        peer.connect(Incoming);
        assert_eq!(peer.seen(), []);
        peer.receive(Incoming, &Message::Open(restartable_open(id)));
        let seen = peer.seen();
        let sent_both = [Message::Open(peer_open(&seen)), Message::Keepalive];
        assert_eq!(seen, sent_both.map(|message| Seen::Sent(Incoming, message)));
        assert_eq!(peer.session.negotiated().unwrap().direction, Outgoing);
        peer.receive(Incoming, &Message::Keepalive);
        let seen = peer.seen();
        let [
            Seen::Close(Outgoing),
            Seen::Down(down),
            Seen::Up(negotiated),
        ] = seen.as_slice()
        else {
            panic!("{seen:?}")
        };
        assert_eq!(down.reason, "the peer restarted");
        assert_eq!(
            (&down.notification_sent, &down.notification_received),
            (&None, &None)
        );
        assert_eq!(negotiated.direction, Incoming);
    }
}

fn peer_open(seen: &[Seen]) -> crate::wire::Open {
    let open = seen.iter().find_map(|seen| match seen {
        Seen::Sent(Incoming, Message::Open(open)) => Some(open.clone()),
        _ => None,
    });
    open.expect("an OPEN was sent")
}

#[test]
fn a_new_connection_that_says_nothing_does_not_disturb_the_session() {
    let mut peer = Scripted::established(config(), Outgoing, &restartable_open(LOW_ID));
    peer.connect(Incoming);
    peer.session
        .handle_disconnected(peer.now, Incoming, "closed");
    assert_eq!(peer.seen(), []);
    assert_eq!(peer.session.state(), State::Established);
}

#[test]
fn the_old_connection_breaking_first_lets_the_new_one_go_on() {
    let mut peer = Scripted::established(config(), Outgoing, &restartable_open(LOW_ID));
    peer.connect(Incoming);
    peer.session
        .handle_disconnected(peer.now, Outgoing, "reset");
    let seen = peer.seen();
    assert!(matches!(
        seen[..],
        [Seen::Down(_), Seen::Sent(Incoming, Message::Open(_))]
    ));
    assert_eq!(peer.session.state(), State::OpenSent);
}

#[test]
fn an_incoming_session_is_replaced_by_a_new_incoming_connection_of_a_restartable_peer() {
    let mut peer = Scripted::established(config(), Incoming, &restartable_open(LOW_ID));
    assert!(peer.session.admits(Incoming));
    peer.connect(Incoming);
    let seen = peer.seen();
    assert!(matches!(
        seen[..],
        [Seen::Down(_), Seen::Sent(Incoming, Message::Open(_))]
    ));
}

#[test]
fn an_incoming_session_is_kept_against_a_new_incoming_connection_of_another_peer() {
    let peer = Scripted::established(config(), Incoming, &open(LOW_ID));
    assert!(!peer.session.admits(Incoming));
}

#[test]
fn a_killed_speaker_is_back_in_about_a_second() {
    for killed in [0, 1] {
        let both = configs().map(|config| SessionConfig {
            graceful_restart: Some(graceful_restart()),
            ..config
        });
        let mut pair = Pair::started(both.clone(), 3);
        pair.kill(killed, PeerSession::new(both[killed].clone(), 77));
        pair.start(killed);
        pair.run(Duration::from_secs(2), Pair::both_established);
        assert!(pair.both_established());
        assert_eq!(pair.held(0), pair.held(1));
    }
}

#[test]
fn a_speaker_that_lost_power_is_back_before_the_hold_timer() {
    for passive in [false, true] {
        let mut both = configs().map(|config| SessionConfig {
            graceful_restart: Some(graceful_restart()),
            ..config
        });
        both[0].passive = passive;
        let mut pair = Pair::started(both.clone(), 4);
        pair.cut = true;
        pair.kill(1, PeerSession::new(both[1].clone(), 78));
        pair.cut = false;
        pair.start(1);
        pair.run(Duration::from_secs(10), |pair| {
            pair.both_established() && pair.ups[1] == 2
        });
        assert!(pair.both_established(), "{:?}", pair.states());
        assert_eq!(pair.held(0), pair.held(1));
        assert_eq!(pair.ups, [2, 2]);
    }
}
