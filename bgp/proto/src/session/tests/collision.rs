//! Two connections at once (RFC 4271 §6.8): exactly one survives, whatever arrives first.

use std::time::Duration;

use proptest::prelude::*;

use super::super::*;
use super::pair::{Pair, configs};
use super::scripted::*;
use crate::wire::{Message, Notification};

use Direction::{Incoming, Outgoing};

/// Both directions connected, both OPENs of ours sent.
fn twice_open_sent() -> Scripted {
    let mut peer = Scripted::started(config());
    peer.connect(Outgoing);
    peer.connect(Incoming);
    peer.seen();
    peer
}

fn collision() -> Notification {
    Notification::cease(7)
}

#[test]
fn our_higher_identifier_keeps_the_connection_we_dialled() {
    let mut peer = twice_open_sent();
    peer.receive(Outgoing, &Message::Open(open(LOW_ID)));
    let expected = [
        Seen::Sent(Incoming, Message::Notification(collision())),
        Seen::Close(Incoming),
        Seen::Sent(Outgoing, Message::Keepalive),
    ];
    assert_eq!(peer.seen(), expected);
    assert_eq!(peer.session.state(), State::OpenConfirm);
}

#[test]
fn a_peer_with_a_higher_identifier_keeps_the_connection_it_dialled() {
    let mut peer = twice_open_sent();
    peer.receive(Incoming, &Message::Open(open(HIGH_ID)));
    let expected = [
        Seen::Sent(Outgoing, Message::Notification(collision())),
        Seen::Close(Outgoing),
        Seen::Sent(Incoming, Message::Keepalive),
    ];
    assert_eq!(peer.seen(), expected);
}

#[test]
fn an_open_on_the_loser_waits_for_the_one_on_the_winner() {
    let mut peer = twice_open_sent();
    peer.receive(Outgoing, &Message::Open(open(HIGH_ID)));
    assert_eq!(
        peer.seen(),
        [],
        "a KEEPALIVE would let the peer take the loser for good"
    );
    peer.receive(Incoming, &Message::Open(open(HIGH_ID)));
    assert_eq!(notifications(&peer.seen()), [(Outgoing, (6, 7))]);
    peer.receive(Incoming, &Message::Keepalive);
    assert_eq!(peer.session.negotiated().unwrap().direction, Incoming);
}

#[test]
fn a_winner_that_stays_silent_does_not_hold_up_the_loser() {
    let mut peer = twice_open_sent();
    peer.receive(Outgoing, &Message::Open(open(HIGH_ID)));
    peer.receive(Outgoing, &Message::Keepalive);
    assert_eq!(peer.session.state(), State::OpenConfirm);
    assert!(peer.next_timer() <= Duration::from_secs(1));
    assert_eq!(peer.session.state(), State::Established);
    assert_eq!(peer.session.negotiated().unwrap().direction, Outgoing);
}

#[test]
fn a_winner_that_goes_away_lets_the_loser_go_on_at_once() {
    let mut peer = twice_open_sent();
    peer.receive(Outgoing, &Message::Open(open(HIGH_ID)));
    peer.session
        .handle_disconnected(peer.now, Incoming, "reset");
    assert_eq!(peer.seen(), [Seen::Sent(Outgoing, Message::Keepalive)]);
}

#[test]
fn an_open_on_the_loser_beside_open_confirm_is_refused() {
    let mut peer = Scripted::open_confirm(config(), Outgoing, &open(LOW_ID));
    peer.connect(Incoming);
    peer.receive(Incoming, &Message::Open(open(LOW_ID)));
    assert_eq!(notifications(&peer.seen()), [(Incoming, (6, 7))]);
    assert_eq!(peer.session.state(), State::OpenConfirm);
}

#[test]
fn an_open_on_the_winner_beside_open_confirm_takes_its_place() {
    let mut peer = Scripted::open_confirm(config(), Outgoing, &open(HIGH_ID));
    peer.connect(Incoming);
    peer.receive(Incoming, &Message::Open(open(HIGH_ID)));
    assert_eq!(notifications(&peer.seen()), [(Outgoing, (6, 7))]);
    assert_eq!(peer.session.state(), State::OpenConfirm);
}

#[test]
fn established_keeps_its_connection_against_a_new_one() {
    let mut peer = Scripted::established(config(), Outgoing, &open(HIGH_ID));
    peer.connect(Incoming);
    assert_eq!(peer.seen(), [], "our OPEN waits for the peer's");
    peer.receive(Incoming, &Message::Open(open(HIGH_ID)));
    let expected = [
        Seen::Sent(Incoming, Message::Notification(collision())),
        Seen::Close(Incoming),
    ];
    assert_eq!(peer.seen(), expected);
    assert_eq!(peer.session.state(), State::Established);
}

#[test]
fn established_too_early_on_the_loser_moves_to_the_winner_once_that_is_up() {
    let mut peer = twice_open_sent();
    peer.receive(Outgoing, &Message::Open(open(HIGH_ID)));
    peer.receive(Outgoing, &Message::Keepalive);
    peer.next_timer();
    peer.seen();
    peer.receive(Incoming, &Message::Open(open(HIGH_ID)));
    assert_eq!(peer.seen(), [Seen::Sent(Incoming, Message::Keepalive)]);
    peer.receive(Incoming, &Message::Keepalive);
    let seen = peer.seen();
    assert_eq!(notifications(&seen), [(Outgoing, (6, 7))]);
    let is_down_then_up = matches!(seen[2..], [Seen::Down(_), Seen::Up(_)]);
    assert!(is_down_then_up, "{seen:?}");
}

#[test]
fn an_incoming_connection_gives_up_the_dial_that_comes_too_late() {
    let mut peer = Scripted::started(config());
    peer.connect(Incoming);
    peer.receive(Incoming, &Message::Open(open(LOW_ID)));
    peer.seen();
    peer.connect(Outgoing);
    assert_eq!(peer.seen(), [Seen::Close(Outgoing)]);
    assert_eq!(peer.session.state(), State::OpenConfirm);
}

#[test]
fn a_loser_still_silent_is_closed_when_the_winner_is_established() {
    let mut peer = Scripted::open_confirm(config(), Outgoing, &open(LOW_ID));
    peer.connect(Incoming);
    peer.seen();
    peer.receive(Outgoing, &Message::Keepalive);
    let seen = peer.seen();
    assert_eq!(notifications(&seen), [(Incoming, (6, 7))]);
    assert!(
        matches!(seen[1..], [Seen::Close(Incoming), Seen::Up(_)]),
        "{seen:?}"
    );
    assert_eq!(peer.session.last_down(), None, "the session never was down");
}

#[test]
fn an_incoming_connection_that_is_lost_leaves_the_dial_under_way_alone() {
    let mut peer = Scripted::started(config());
    peer.connect(Incoming);
    peer.seen();
    peer.session
        .handle_disconnected(peer.now, Incoming, "reset");
    assert_eq!(peer.seen(), []);
    assert_eq!(peer.session.state(), State::Connect);
    peer.connect(Outgoing);
    assert_eq!(peer.session.state(), State::OpenSent);
}

#[test]
fn a_collision_cease_does_not_hold_the_session_back() {
    let mut peer = Scripted::open_confirm(config(), Outgoing, &open(LOW_ID));
    peer.receive(Outgoing, &Message::Notification(collision()));
    assert_eq!(peer.session.state(), State::Active);
    assert!(peer.session.admits(Incoming));
}

#[test]
fn both_dialling_at_once_leaves_one_connection() {
    for seed in 0..50 {
        let pair = Pair::started(configs(), seed);
        assert!(pair.both_established());
        assert_eq!(pair.held(0).len(), 1);
        assert_eq!(pair.held(0), pair.held(1));
    }
}

/// Delivers in an order drawn from `order`, with timers left alone; then all that is left.
fn interleave(pair: &mut Pair, order: &[prop::sample::Index]) {
    for index in order {
        let choices = pair.choices();
        if choices.is_empty() {
            break;
        }
        pair.deliver(choices[index.index(choices.len())]);
    }
    pair.deliver_all();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// No retry, no timer: the first try must do, whoever has the higher identifier and whatever they support.
    #[test]
    fn exactly_one_connection_survives_any_order_of_deliveries(
        order in prop::collection::vec(any::<prop::sample::Index>(), 0..60),
        second_wins: bool,
        restartable: [bool; 2],
        same_id: bool,
        late_start in 0usize..8,
    ) {
        let mut configs = configs();
        if second_wins {
            configs[1].router_id = HIGH_ID;
        }
        if same_id {
            configs[1].router_id = configs[0].router_id;
        }
        for (config, restartable) in configs.iter_mut().zip(restartable) {
            config.graceful_restart = restartable.then(graceful_restart);
        }
        let mut pair = Pair::new(configs, 11);
        pair.start(1);
        pair.start(0);
        let (early, late) = order.split_at(late_start.min(order.len()));
        interleave_some(&mut pair, early);
        interleave(&mut pair, late);
        prop_assert!(pair.both_established(), "{:?}", pair.states());
        prop_assert_eq!(pair.held(0).len(), 1);
        prop_assert_eq!(pair.held(0), pair.held(1));
        prop_assert_eq!(pair.dials, [1, 1]);
        prop_assert_eq!(pair.ups, [1, 1]);
    }

    /// With timers firing and TCP breaking at any point it still settles on one connection.
    #[test]
    fn it_settles_on_one_connection_after_any_trouble(
        steps in prop::collection::vec((any::<prop::sample::Index>(), 0u8..20), 0..80),
        second_wins: bool,
        restartable: [bool; 2],
        seed: u64,
    ) {
        let mut configs = configs();
        if second_wins {
            configs[1].router_id = HIGH_ID;
        }
        for (config, restartable) in configs.iter_mut().zip(restartable) {
            config.graceful_restart = restartable.then(graceful_restart);
        }
        let mut pair = Pair::new(configs, seed);
        pair.start(0);
        pair.start(1);
        for (index, kind) in steps {
            match kind {
                0 => pair.break_connections(),
                1 => pair.fire_next_timer(),
                _ => interleave_some(&mut pair, &[index]),
            }
        }
        pair.run(Duration::from_secs(120), |pair| {
            pair.both_established() && pair.held(0).len() == 1 && pair.held(0) == pair.held(1)
        });
        prop_assert!(pair.both_established(), "{:?}", pair.states());
        prop_assert_eq!(pair.held(0), pair.held(1));
    }
}

fn interleave_some(pair: &mut Pair, order: &[prop::sample::Index]) {
    for index in order {
        let choices = pair.choices();
        if !choices.is_empty() {
            pair.deliver(choices[index.index(choices.len())]);
        }
    }
}
