//! What is wrong with a message and which NOTIFICATION it is answered with (RFC 4271 §6, RFC 6608).

use super::super::*;
use super::scripted::*;
use crate::wire::{Asn, Capability, Family, Message, Notification, Open, RouteRefresh, Update};

use Direction::Outgoing;

/// The NOTIFICATION that answers an OPEN.
fn answer(config: SessionConfig, open: Open) -> Vec<(u8, u8)> {
    let mut peer = Scripted::open_sent(config, Outgoing);
    peer.receive(Outgoing, &Message::Open(open));
    let answers = notifications(&peer.seen())
        .into_iter()
        .map(|(_, codes)| codes)
        .collect();
    if !matches!(peer.session.state(), State::OpenConfirm) {
        assert_eq!(peer.session.state(), State::Idle);
    }
    answers
}

fn internal_open(bgp_id: std::net::Ipv4Addr) -> Open {
    let mut open = open(bgp_id);
    open.asn = LOCAL_AS;
    open.capabilities[2] = Capability::FourByteAs(LOCAL_AS);
    open
}

#[test]
fn the_as_must_be_the_one_expected() {
    let rows = [
        (PeerAs::Number(PEER_AS), open(LOW_ID), true),
        (PeerAs::Number(Asn(65_001)), open(LOW_ID), false),
        (PeerAs::External, open(LOW_ID), true),
        (PeerAs::External, internal_open(LOW_ID), false),
        (PeerAs::Internal, internal_open(LOW_ID), true),
        (PeerAs::Internal, open(LOW_ID), false),
    ];
    for (peer_as, open, good) in rows {
        let answered = answer(
            SessionConfig {
                peer_as,
                ..config()
            },
            open,
        );
        assert_eq!(
            answered,
            if good { vec![] } else { vec![(2, 2)] },
            "{peer_as:?}"
        );
    }
}

#[test]
fn an_internal_peer_must_not_have_our_identifier_but_an_external_one_may() {
    let internal = SessionConfig {
        peer_as: PeerAs::Internal,
        ..config()
    };
    assert_eq!(answer(internal, internal_open(LOCAL_ID)), [(2, 3)]);
    assert_eq!(answer(config(), open(LOCAL_ID)), []);
}

#[test]
fn no_family_in_common_is_refused_with_the_capabilities_needed() {
    let mut peer = Scripted::open_sent(config(), Outgoing);
    let mut theirs = open(LOW_ID);
    theirs.capabilities[0] = Capability::Multiprotocol(Family::IPV6_UNICAST);
    peer.receive(Outgoing, &Message::Open(theirs));
    let data = bytes::Bytes::from_static(&[1, 4, 0, 1, 0, 1]);
    let refusal = Notification::open_error(7).with_data(data);
    assert_eq!(
        peer.seen()[0],
        Seen::Sent(Outgoing, Message::Notification(refusal))
    );
}

#[test]
fn an_unacceptable_hold_time_is_refused() {
    for hold_time in [1, 2] {
        assert_eq!(
            answer(
                config(),
                Open {
                    hold_time,
                    ..open(LOW_ID)
                }
            ),
            [(2, 6)]
        );
    }
}

/// Every phase, reached by the shortest way.
fn in_every_phase() -> [Scripted; 3] {
    [
        Scripted::open_sent(config(), Outgoing),
        Scripted::open_confirm(config(), Outgoing, &open(LOW_ID)),
        Scripted::established(config(), Outgoing, &open(LOW_ID)),
    ]
}

#[test]
fn bytes_that_are_no_bgp_are_answered_with_a_header_error_in_every_phase() {
    let mut bad_length = encode(&Message::Keepalive).to_vec();
    bad_length[17] = 20;
    let mut bad_type = encode(&Message::Keepalive).to_vec();
    bad_type[18] = 77;
    for (bytes, codes) in [
        (vec![0; 19], (1, 1)),
        (bad_length, (1, 2)),
        (bad_type, (1, 3)),
    ] {
        for mut peer in in_every_phase() {
            let was = peer.session.state();
            peer.session.handle_bytes(peer.now, Outgoing, &bytes);
            let seen = peer.seen();
            assert_eq!(notifications(&seen), [(Outgoing, codes)], "{was}");
            assert!(seen.contains(&Seen::Close(Outgoing)));
            assert_eq!(peer.session.state(), State::Idle);
            let told = seen.iter().any(|seen| matches!(seen, Seen::Down(_)));
            assert_eq!(told, was == State::Established);
        }
    }
}

#[test]
fn a_message_out_of_place_is_an_fsm_error_with_the_subcode_of_the_state() {
    let open_message = || Message::Open(open(LOW_ID));
    let refresh = || Message::RouteRefresh(RouteRefresh::request(Family::IPV4_UNICAST));
    let update = || {
        let end_of_rib = Some(Family::IPV4_UNICAST);
        Message::Update(Update {
            end_of_rib,
            ..Update::default()
        })
    };
    let wrong = [
        vec![Message::Keepalive, update(), refresh()],
        vec![open_message(), update(), refresh()],
        vec![open_message()],
    ];
    for (phase, messages) in wrong.into_iter().enumerate() {
        for message in messages {
            let mut peer = in_every_phase().into_iter().nth(phase).unwrap();
            peer.receive(Outgoing, &message);
            let subcode = u8::try_from(phase).unwrap() + 1;
            assert_eq!(
                notifications(&peer.seen()),
                [(Outgoing, (5, subcode))],
                "{message:?}"
            );
            assert_eq!(peer.session.state(), State::Idle);
        }
    }
}

#[test]
fn a_notification_ends_the_session_without_an_answer_in_every_phase() {
    for mut peer in in_every_phase() {
        peer.receive(Outgoing, &Message::Notification(Notification::cease(3)));
        let seen = peer.seen();
        assert_eq!(seen[0], Seen::Close(Outgoing));
        assert_eq!(peer.session.state(), State::Idle);
        let told = Some("received NOTIFICATION 6/3 (Cease: Peer De-configured)");
        assert_eq!(peer.session.last_down(), told);
    }
}

#[test]
fn what_follows_a_fatal_message_in_the_same_read_is_not_looked_at() {
    let mut peer = Scripted::established(config(), Outgoing, &open(LOW_ID));
    let cease = Message::Notification(Notification::cease(2));
    let bytes = [
        encode(&cease),
        encode(&Message::RouteRefresh(RouteRefresh::request(
            Family::IPV4_UNICAST,
        ))),
    ]
    .concat();
    peer.session.handle_bytes(peer.now, Outgoing, &bytes);
    assert!(
        !peer
            .seen()
            .iter()
            .any(|seen| matches!(seen, Seen::Passed(_)))
    );
}
