//! RFC 4271 §8.2.2 as a table: each state and each event, and the state they lead to.

use std::time::Duration;

use super::super::*;
use super::scripted::*;
use crate::wire::{Family, Message, Notification, RouteRefresh, Update};

use Direction::{Incoming, Outgoing};
use State::{Active, Connect, Established, Idle, OpenConfirm, OpenSent};

const STATES: [State; 6] = [Idle, Connect, Active, OpenSent, OpenConfirm, Established];

/// A session in this state; a connection is an outgoing one.
fn in_state(state: State) -> Scripted {
    let mut peer = match state {
        Idle => Scripted::new(config()),
        Connect => Scripted::started(config()),
        Active => {
            let mut peer = Scripted::started(config());
            peer.session.handle_connect_failed(peer.now);
            peer
        }
        OpenSent => Scripted::open_sent(config(), Outgoing),
        OpenConfirm => Scripted::open_confirm(config(), Outgoing, &open(LOW_ID)),
        Established => Scripted::established(config(), Outgoing, &open(LOW_ID)),
    };
    peer.seen();
    assert_eq!(peer.session.state(), state);
    peer
}

type Event = fn(&mut Scripted);

/// Each event of RFC 4271 §8.1 that can be given to a session, and the state it leads to from each of `STATES`.
const TABLE: [(&str, Event, [State; 6]); 22] = [
    (
        "1 ManualStart",
        |peer| peer.session.handle_start(peer.now),
        [Connect, Connect, Active, OpenSent, OpenConfirm, Established],
    ),
    (
        "2 ManualStop",
        |peer| {
            peer.session
                .handle_stop(peer.now, Stop::Notify(Notification::cease(2)))
        },
        [Idle; 6],
    ),
    (
        "2 ManualStop, silent",
        |peer| peer.session.handle_stop(peer.now, Stop::Silent),
        [Idle; 6],
    ),
    (
        "9 to 13, a timer expires; in Established it is the KeepaliveTimer",
        |peer| {
            if peer.session.poll_timeout().is_some() {
                peer.next_timer();
            }
        },
        // OpenSent: HoldTimer.
        [Idle, Connect, Connect, Idle, OpenConfirm, Established],
    ),
    (
        "10 HoldTimer_Expires",
        |peer| {
            peer.now += Duration::from_secs(241);
            peer.session.handle_timeout(peer.now);
        },
        [Idle, Connect, Connect, Idle, Idle, Idle],
    ),
    (
        "16 Tcp_CR_Acked",
        |peer| peer.connect(Outgoing),
        // Where no dial is under way it is no news.
        [Idle, OpenSent, Active, OpenSent, OpenConfirm, Established],
    ),
    (
        "17 TcpConnectionConfirmed",
        |peer| peer.connect(Incoming),
        [Idle, OpenSent, OpenSent, OpenSent, OpenConfirm, Established],
    ),
    (
        "18 TcpConnectionFails: the dial",
        |peer| peer.session.handle_connect_failed(peer.now),
        [Idle, Active, Active, OpenSent, OpenConfirm, Established],
    ),
    (
        "18 TcpConnectionFails: the connection",
        |peer| {
            peer.session
                .handle_disconnected(peer.now, Outgoing, "reset")
        },
        // From OpenConfirm and Established: Idle and, as it starts by itself, at once on to Active.
        [Idle, Connect, Active, Active, Active, Active],
    ),
    (
        "19 BGPOpen",
        |peer| peer.receive(Outgoing, &Message::Open(open(LOW_ID))),
        [Idle, Connect, Active, OpenConfirm, Idle, Idle],
    ),
    (
        "21 BGPHeaderErr",
        |peer| peer.session.handle_bytes(peer.now, Outgoing, &[0; 19]),
        [Idle, Connect, Active, Idle, Idle, Idle],
    ),
    (
        "22 BGPOpenMsgErr",
        |peer| {
            let mut bytes = encode(&Message::Open(open(LOW_ID))).to_vec();
            bytes[19] = 3; // version
            peer.session.handle_bytes(peer.now, Outgoing, &bytes);
        },
        [Idle, Connect, Active, Idle, Idle, Idle],
    ),
    (
        "24 NotifMsgVerErr",
        |peer| {
            peer.receive(
                Outgoing,
                &Message::Notification(Notification::open_error(1)),
            )
        },
        [Idle, Connect, Active, Idle, Idle, Idle],
    ),
    (
        "25 NotifMsg",
        |peer| peer.receive(Outgoing, &Message::Notification(Notification::cease(4))),
        [Idle, Connect, Active, Idle, Idle, Idle],
    ),
    (
        "26 KeepAliveMsg",
        |peer| peer.receive(Outgoing, &Message::Keepalive),
        [Idle, Connect, Active, Idle, Established, Established],
    ),
    (
        "27 UpdateMsg",
        |peer| {
            let end_of_rib = Some(Family::IPV4_UNICAST);
            peer.receive(
                Outgoing,
                &Message::Update(Update {
                    end_of_rib,
                    ..Update::default()
                }),
            );
        },
        [Idle, Connect, Active, Idle, Idle, Established],
    ),
    (
        "19 BGPOpen of another AS, which is event 22",
        |peer| {
            let mut other = open(LOW_ID);
            other.capabilities.clear();
            other.asn = LOCAL_AS;
            peer.receive(Outgoing, &Message::Open(other));
        },
        [Idle, Connect, Active, Idle, Idle, Idle],
    ),
    (
        "23 OpenCollisionDump, by the peer",
        |peer| peer.receive(Outgoing, &Message::Notification(Notification::cease(7))),
        // No failure: it is open to the connection that won.
        [Idle, Connect, Active, Active, Active, Active],
    ),
    (
        "28 UpdateMsgErr",
        |peer| {
            let mut bytes = vec![0xff; 16];
            bytes.extend([0, 23, 2, 0xff, 0xff, 0, 0]);
            peer.session.handle_bytes(peer.now, Outgoing, &bytes);
        },
        [Idle, Connect, Active, Idle, Idle, Idle],
    ),
    (
        "29 SendHoldTimer_Expires (RFC 9687)",
        |peer| {
            peer.session.handle_write_blocked(peer.now, Outgoing);
            peer.now += Duration::from_secs(481);
            peer.session.handle_timeout(peer.now);
        },
        [Idle, Connect, Connect, Idle, Idle, Idle],
    ),
    (
        "ROUTE-REFRESH",
        |peer| {
            let request = RouteRefresh::request(Family::IPV4_UNICAST);
            peer.receive(Outgoing, &Message::RouteRefresh(request));
        },
        [Idle, Connect, Active, Idle, Idle, Established],
    ),
    (
        "BFD up and down (RFC 5882 §4.1)",
        |peer| {
            peer.session.handle_bfd(peer.now, true);
            peer.session.handle_bfd(peer.now, false);
        },
        [Idle, Connect, Active, OpenSent, Idle, Idle],
    ),
];

#[test]
fn every_event_in_every_state_leads_where_the_table_says() {
    for (name, event, expected) in TABLE {
        for (state, expected) in STATES.into_iter().zip(expected) {
            let mut peer = in_state(state);
            event(&mut peer);
            assert_eq!(peer.session.state(), expected, "{name} in {state}");
        }
    }
}

#[test]
fn every_pair_of_events_in_every_state_keeps_up_and_down_in_turns() {
    for state in STATES {
        for (first, one, _) in TABLE {
            for (second, two, _) in TABLE {
                let mut peer = in_state(state);
                let mut up = state == Established;
                one(&mut peer);
                two(&mut peer);
                for seen in peer.seen() {
                    match seen {
                        Seen::Up(_) => assert!(!std::mem::replace(&mut up, true)),
                        Seen::Down(_) => assert!(std::mem::replace(&mut up, false)),
                        _ => {}
                    }
                }
                let established = peer.session.state() == Established;
                assert_eq!(up, established, "{first}, {second} in {state}");
                assert_eq!(peer.session.negotiated().is_some(), established);
            }
        }
    }
}

#[test]
fn events_of_closed_connections_are_ignored() {
    let mut peer = Scripted::established(config(), Outgoing, &open(LOW_ID));
    peer.receive(Incoming, &Message::Notification(Notification::cease(2)));
    peer.session.handle_disconnected(peer.now, Incoming, "late");
    peer.session.handle_connect_failed(peer.now);
    assert_eq!(peer.seen(), []);
    peer.session.handle_stop(peer.now, Stop::Silent);
    peer.seen();
    peer.receive(Outgoing, &Message::Keepalive);
    peer.session.handle_disconnected(peer.now, Outgoing, "late");
    peer.connect(Outgoing);
    assert_eq!(peer.seen(), [Seen::Close(Outgoing)]);
    assert_eq!(peer.session.state(), Idle);
}

#[test]
fn a_timeout_that_is_not_due_does_nothing() {
    for state in STATES {
        let mut peer = in_state(state);
        let before = peer.session.poll_timeout();
        peer.session.handle_timeout(peer.now);
        assert_eq!(peer.seen(), [], "{state}");
        assert_eq!(peer.session.poll_timeout(), before);
    }
}

#[test]
fn states_are_shown_by_their_names_in_the_rfc() {
    let names = STATES.map(|state| state.to_string());
    let expected = [
        "Idle",
        "Connect",
        "Active",
        "OpenSent",
        "OpenConfirm",
        "Established",
    ];
    assert_eq!(names, expected);
}
