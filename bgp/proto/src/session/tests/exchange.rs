//! Two sessions come up, talk, and go down as they should.

use std::time::Duration;

use super::super::*;
use super::pair::{Pair, configs};
use super::scripted::*;
use crate::wire::{Asn, Capability, Family, Message, Notification, RouteRefresh, Update};

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn an_exchange_of_opens_and_keepalives_reaches_established() {
    let [a, mut b] = configs();
    b.passive = true;
    let pair = Pair::started([a, b], 1);
    assert!(pair.both_established());
    let (ours, theirs) = (
        pair.ends[0].negotiated().unwrap(),
        pair.ends[1].negotiated().unwrap(),
    );
    assert_eq!(
        (ours.direction, theirs.direction),
        (Direction::Outgoing, Direction::Incoming)
    );
    assert_eq!(
        (ours.peer_as, ours.peer_id, ours.internal),
        (PEER_AS, LOW_ID, false)
    );
    assert_eq!((theirs.peer_as, theirs.peer_id), (LOCAL_AS, LOCAL_ID));
    assert_eq!(ours.hold_time, Duration::from_secs(90));
    assert_eq!(ours.keepalive_time, Duration::from_secs(30));
    assert!(ours.route_refresh && ours.context.four_byte_as);
    assert_eq!(ours.context.families, [Family::IPV4_UNICAST]);
    assert_eq!((pair.ups, pair.dials), ([1, 1], [1, 0]));
}

#[test]
fn a_session_between_two_stays_up_for_a_day() {
    let mut pair = Pair::started(configs(), 5);
    pair.run(MINUTE * 60 * 24, |pair| !pair.both_established());
    assert!(pair.both_established());
    assert_eq!(pair.ups, [1, 1]);
}

#[test]
fn with_hold_time_zero_no_timer_runs() {
    let mut configs = configs();
    configs[1].hold_time = Duration::ZERO;
    let mut pair = Pair::started(configs, 2);
    pair.run(MINUTE * 60, |_| false);
    assert!(pair.both_established());
    assert_eq!(pair.ends[0].negotiated().unwrap().hold_time, Duration::ZERO);
    assert_eq!(
        pair.ends.each_ref().map(PeerSession::poll_timeout),
        [None, None]
    );
}

#[test]
fn the_smaller_hold_time_counts_and_keepalives_come_three_times_as_often() {
    let mut configs = configs();
    configs[0].hold_time = Duration::from_secs(9);
    configs[1].keepalive_time = Some(Duration::from_secs(60));
    let pair = Pair::started(configs, 3);
    for end in &pair.ends {
        assert_eq!(end.negotiated().unwrap().hold_time, Duration::from_secs(9));
        assert_eq!(
            end.negotiated().unwrap().keepalive_time,
            Duration::from_secs(3)
        );
    }
}

#[test]
fn a_silent_network_ends_the_session_by_the_hold_timer_on_both_sides() {
    let mut pair = Pair::started(configs(), 4);
    pair.cut = true;
    pair.run(MINUTE * 3, |pair| {
        pair.downs.iter().all(|downs| !downs.is_empty())
    });
    for downs in &pair.downs {
        assert_eq!(
            downs[0].notification_sent,
            Some(Notification::hold_timer_expired())
        );
        assert_eq!(
            downs[0].reason,
            "sent NOTIFICATION 4/0 (Hold Timer Expired)"
        );
    }
}

#[test]
fn two_passive_sessions_wait_for_ever() {
    let configs = configs().map(|config| SessionConfig {
        passive: true,
        ..config
    });
    let mut pair = Pair::started(configs, 6);
    pair.run(MINUTE * 60, |_| false);
    assert_eq!(pair.states(), [State::Active; 2]);
    assert_eq!(pair.dials, [0, 0]);
}

#[test]
fn a_stop_with_a_notification_is_told_to_the_peer() {
    let mut pair = Pair::started(configs(), 7);
    let cease = Notification::cease(2);
    pair.ends[0].handle_stop(pair.now, Stop::Notify(cease.clone()));
    pair.drain(0);
    pair.deliver_all();
    assert_eq!(pair.states(), [State::Idle; 2]);
    assert_eq!(pair.downs[0][0].notification_sent, Some(cease.clone()));
    assert_eq!(pair.downs[1][0].notification_received, Some(cease));
    assert_eq!(pair.ends[0].poll_timeout(), None);
    let down = "received NOTIFICATION 6/2 (Cease: Administrative Shutdown)";
    assert_eq!(pair.ends[1].last_down(), Some(down));
}

#[test]
fn a_silent_stop_closes_without_a_notification() {
    let mut pair = Pair::started(configs(), 8);
    pair.ends[0].handle_stop(pair.now, Stop::Silent);
    pair.drain(0);
    pair.deliver_all();
    assert_eq!(pair.downs[1][0].notification_received, None);
    assert_eq!(
        pair.downs[1][0].reason,
        "connection lost: closed by the peer"
    );
    assert_ne!(
        pair.ends[1].state(),
        State::Idle,
        "the peer may be back at once"
    );
}

#[test]
fn a_stopped_session_comes_up_again_when_started() {
    let mut pair = Pair::started(configs(), 9);
    pair.ends[0].handle_stop(pair.now, Stop::Notify(Notification::cease(4)));
    pair.drain(0);
    pair.deliver_all();
    pair.start(0);
    pair.run(MINUTE, Pair::both_established);
    assert!(pair.both_established());
}

#[test]
fn a_broken_connection_is_made_anew_within_seconds() {
    let mut pair = Pair::started(configs(), 10);
    let before = pair.now;
    pair.break_connections();
    pair.deliver_all();
    pair.run(MINUTE, Pair::both_established);
    assert!(pair.both_established());
    assert!(pair.now - before <= Duration::from_secs(1));
    assert_eq!(pair.ups, [2, 2]);
}

#[test]
fn updates_and_route_refreshes_are_passed_on_only_in_established() {
    let family = Family::IPV4_UNICAST;
    let mut peer = Scripted::established(config(), Direction::Outgoing, &open(LOW_ID));
    let end_of_rib = Update {
        end_of_rib: Some(family),
        ..Update::default()
    };
    peer.receive(Direction::Outgoing, &Message::Update(end_of_rib.clone()));
    peer.receive(
        Direction::Outgoing,
        &Message::RouteRefresh(RouteRefresh::request(family)),
    );
    peer.receive(
        Direction::Outgoing,
        &Message::RouteRefresh(RouteRefresh::request(Family::IPV6_UNICAST)),
    );
    let request = RouteRefresh::request(family);
    let expected = [Output::Update(end_of_rib), Output::RouteRefresh(request)].map(Seen::Passed);
    assert_eq!(peer.seen(), expected);
}

#[test]
fn messages_cut_at_every_byte_are_put_together() {
    let direction = Direction::Outgoing;
    let mut peer = Scripted::open_sent(config(), direction);
    let messages = [
        encode(&Message::Open(open(LOW_ID))),
        encode(&Message::Keepalive),
    ]
    .concat();
    for byte in messages {
        peer.session.handle_bytes(peer.now, direction, &[byte]);
    }
    assert_eq!(peer.session.state(), State::Established);
}

#[test]
fn a_peer_without_capabilities_gets_a_two_octet_ipv4_session() {
    let mut plain = open(LOW_ID);
    plain.capabilities.clear();
    let peer = Scripted::established(config(), Direction::Outgoing, &plain);
    let negotiated = peer.session.negotiated().unwrap();
    assert!(!negotiated.context.four_byte_as && !negotiated.route_refresh);
    assert_eq!(negotiated.context.families, [Family::IPV4_UNICAST]);
}

#[test]
fn families_are_those_both_offer() {
    let mut config = config();
    config.families = vec![Family::IPV4_UNICAST, Family::IPV6_UNICAST];
    let mut theirs = open(LOW_ID);
    theirs.capabilities[0] = Capability::Multiprotocol(Family::IPV6_UNICAST);
    let peer = Scripted::established(config, Direction::Outgoing, &theirs);
    assert_eq!(
        peer.session.negotiated().unwrap().context.families,
        [Family::IPV6_UNICAST]
    );
}

#[test]
fn a_peer_in_a_four_octet_as_is_known_by_its_capability() {
    let mut config = config();
    config.peer_as = PeerAs::Number(Asn(4_200_000_001));
    let mut theirs = open(LOW_ID);
    theirs.asn = Asn(4_200_000_001);
    theirs.capabilities[2] = Capability::FourByteAs(theirs.asn);
    let peer = Scripted::established(config, Direction::Outgoing, &theirs);
    assert_eq!(
        peer.session.negotiated().unwrap().peer_as,
        Asn(4_200_000_001)
    );
}
