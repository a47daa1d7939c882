//! Every capability with and without it on either side: what is offered, and what is agreed on.

use std::time::Duration;

use super::super::*;
use super::scripted::*;
use crate::wire::{
    AddPathMode, Asn, Capability, Family, GracefulRestart, LongLivedFamily, Message, Open,
    RefreshKind, Role, RouteRefresh,
};

use AddPathMode::{Both, Receive, Send};
use Direction::Outgoing;

const V4: Family = Family::IPV4_UNICAST;
const V6: Family = Family::IPV6_UNICAST;
const STALE: LongLivedFamily = LongLivedFamily {
    family: V4,
    forwarding: true,
    stale_time: 3600,
};

/// All there is, in both families.
fn everything() -> SessionConfig {
    SessionConfig {
        families: vec![V4, V6],
        graceful_restart: Some(GracefulRestart {
            families: vec![(V4, true), (V6, true)],
            ..graceful_restart()
        }),
        long_lived: vec![STALE],
        add_path: AddPathOffer {
            receive: vec![V4, V6],
            send: vec![V4, V6],
        },
        extended_next_hop: true,
        role: Some(Role::Customer),
        strict_bfd: true,
        ..config()
    }
}

/// The peer's OPEN that has all there is.
fn full_open() -> Open {
    let theirs = SessionConfig {
        local_as: PEER_AS,
        router_id: LOW_ID,
        peer_as: PeerAs::Number(LOCAL_AS),
        role: Some(Role::Provider),
        ..everything()
    };
    open::build(&theirs, false)
}

fn without(mut open: Open, unwanted: fn(&Capability) -> bool) -> Open {
    open.capabilities.retain(|capability| !unwanted(capability));
    open
}

fn agreed(config: &SessionConfig, received: &Open) -> Negotiated {
    let sent = open::build(config, false);
    negotiate::negotiate(config, Outgoing, &sent, received).unwrap()
}

/// The codes of an OPEN that is refused.
fn refused(config: &SessionConfig, received: &Open) -> (u8, u8) {
    let sent = open::build(config, false);
    let refusal = negotiate::negotiate(config, Outgoing, &sent, received).unwrap_err();
    (refusal.code, refusal.subcode)
}

#[test]
fn with_everything_on_both_sides_everything_is_agreed_on() {
    let agreed = agreed(&everything(), &full_open());
    let context = &agreed.context;
    assert_eq!(context.families, [V4, V6]);
    assert_eq!(context.extended_next_hop, [V4]);
    assert_eq!(context.add_path_receive, [V4, V6]);
    assert_eq!(context.add_path_send, [V4, V6]);
    assert!(context.four_byte_as && context.extended_messages && !context.internal);
    assert!(agreed.route_refresh && agreed.enhanced_refresh && agreed.notification_gr);
    assert!(agreed.external && !agreed.internal && agreed.strict_bfd);
    assert_eq!(
        (agreed.role, agreed.peer_role),
        (Some(Role::Customer), Some(Role::Provider))
    );
    assert_eq!(
        (agreed.long_lived_peer, &agreed.peer_long_lived[..]),
        (true, &[STALE][..])
    );
}

type Missing = fn(&Capability) -> bool;
type Gone = fn(&Negotiated) -> bool;

/// A capability, and what is not agreed on without it.
const TABLE: [(&str, Missing, Gone); 10] = [
    (
        "route refresh takes the enhanced one along",
        |c| *c == Capability::RouteRefresh,
        |n| !n.route_refresh && !n.enhanced_refresh && !n.context.enhanced_route_refresh,
    ),
    (
        "enhanced route refresh",
        |c| *c == Capability::EnhancedRouteRefresh,
        |n| n.route_refresh && !n.enhanced_refresh,
    ),
    (
        "extended next hop",
        |c| matches!(c, Capability::ExtendedNextHop(_)),
        |n| n.context.extended_next_hop.is_empty(),
    ),
    (
        "extended message",
        |c| *c == Capability::ExtendedMessage,
        |n| !n.context.extended_messages,
    ),
    (
        "four-octet AS",
        |c| matches!(c, Capability::FourByteAs(_)),
        |n| !n.context.four_byte_as,
    ),
    (
        "add-path",
        |c| matches!(c, Capability::AddPath(_)),
        |n| n.context.add_path_receive.is_empty() && n.context.add_path_send.is_empty(),
    ),
    (
        "role",
        |c| matches!(c, Capability::Role(_)),
        |n| n.role.is_none() || n.peer_role.is_none(),
    ),
    (
        "strict BFD",
        |c| matches!(c, Capability::Unknown { code: 74, .. }),
        |n| !n.strict_bfd,
    ),
    (
        "graceful restart takes the long-lived one along",
        |c| matches!(c, Capability::GracefulRestart(_)),
        |n| !n.notification_gr,
    ),
    (
        "multiprotocol leaves IPv4 unicast",
        |c| matches!(c, Capability::Multiprotocol(_)),
        |n| n.context.families == [V4] && n.context.add_path_send == [V4],
    ),
];

#[test]
fn what_either_side_does_not_offer_is_not_agreed_on() {
    let config = everything();
    let ours = open::build(&config, false);
    for (name, missing, gone) in TABLE {
        assert!(ours.capabilities.iter().any(missing), "{name}: offered");
        let one = negotiate::negotiate(&config, Outgoing, &ours, &without(full_open(), missing));
        assert!(gone(&one.unwrap()), "{name}: not from the peer");
        let sent = without(ours.clone(), missing);
        let other = negotiate::negotiate(&config, Outgoing, &sent, &full_open());
        assert!(gone(&other.unwrap()), "{name}: not from us");
        assert!(!gone(&agreed(&config, &full_open())), "{name}: from both");
    }
}

#[test]
fn add_path_needs_a_receiver_on_one_side_and_a_sender_on_the_other() {
    for (ours, theirs, receive, send) in [
        (Receive, Receive, false, false),
        (Receive, Send, true, false),
        (Receive, Both, true, false),
        (Send, Receive, false, true),
        (Send, Send, false, false),
        (Send, Both, false, true),
        (Both, Receive, false, true),
        (Both, Send, true, false),
        (Both, Both, true, true),
    ] {
        let mut config = config();
        let offer = |yes: bool| if yes { vec![V4] } else { Vec::new() };
        config.add_path.receive = offer(ours != Send);
        config.add_path.send = offer(ours != Receive);
        let mut received = open(LOW_ID);
        received
            .capabilities
            .push(Capability::AddPath(vec![(V6, Both), (V4, theirs)]));
        let context = agreed(&config, &received).context;
        let found = (
            !context.add_path_receive.is_empty(),
            !context.add_path_send.is_empty(),
        );
        assert_eq!(found, (receive, send), "{ours:?} {theirs:?}");
        assert!(
            !context.add_path_receive.contains(&V6),
            "no family of this session"
        );
    }
}

#[test]
fn each_pair_of_roles_may_speak_or_not_as_rfc_9234_says() {
    use Role::{Customer, Peer, Provider, RouteServer, RouteServerClient, Unassigned};
    let good = [
        (Provider, Customer),
        (Customer, Provider),
        (RouteServer, RouteServerClient),
        (RouteServerClient, RouteServer),
        (Peer, Peer),
    ];
    for ours in [Provider, RouteServer, RouteServerClient, Customer, Peer] {
        for theirs in [
            Provider,
            RouteServer,
            RouteServerClient,
            Customer,
            Peer,
            Unassigned(9),
        ] {
            let config = SessionConfig {
                role: Some(ours),
                ..config()
            };
            let mut received = open(LOW_ID);
            // The same role said twice is said once (§4.2).
            received
                .capabilities
                .extend([Capability::Role(theirs), Capability::Role(theirs)]);
            if good.contains(&(ours, theirs)) {
                let agreed = agreed(&config, &received);
                assert_eq!((agreed.role, agreed.peer_role), (Some(ours), Some(theirs)));
            } else {
                assert_eq!(refused(&config, &received), (2, 11), "{ours:?} {theirs:?}");
            }
        }
    }
}

#[test]
fn roles_that_differ_are_refused_even_where_we_have_none() {
    let mut received = open(LOW_ID);
    received
        .capabilities
        .extend([Role::Peer, Role::Provider].map(Capability::Role));
    assert_eq!(refused(&config(), &received), (2, 11));
    let ours = SessionConfig {
        role: Some(Role::Peer),
        ..config()
    };
    assert_eq!(refused(&ours, &received), (2, 11));
}

#[test]
fn a_peer_without_a_role_is_refused_in_strict_mode_only() {
    let lax = SessionConfig {
        role: Some(Role::Customer),
        ..config()
    };
    let agreed = agreed(&lax, &open(LOW_ID));
    assert_eq!(
        (agreed.role, agreed.peer_role),
        (Some(Role::Customer), None)
    );
    let strict = SessionConfig {
        strict_role: true,
        ..lax
    };
    assert_eq!(refused(&strict, &open(LOW_ID)), (2, 11));
}

#[test]
fn an_internal_peer_is_told_no_role_and_asked_for_none() {
    let config = SessionConfig {
        peer_as: PeerAs::Internal,
        role: Some(Role::Customer),
        strict_role: true,
        ..config()
    };
    let sent = open::build(&config, false);
    assert!(
        !sent
            .capabilities
            .iter()
            .any(|c| matches!(c, Capability::Role(_)))
    );
    let mut received = open(LOW_ID);
    received.asn = LOCAL_AS;
    received.capabilities.push(Capability::Role(Role::Customer));
    let agreed = agreed(&config, &received);
    assert_eq!(
        (agreed.role, agreed.peer_role, agreed.internal),
        (None, None, true)
    );
}

#[test]
fn the_long_lived_capability_is_neither_sent_nor_heard_without_the_other() {
    let config = SessionConfig {
        graceful_restart: None,
        ..everything()
    };
    let sent = open::build(&config, false);
    let is_long_lived = |c: &Capability| matches!(c, Capability::LongLivedGracefulRestart(_));
    assert!(!sent.capabilities.iter().any(is_long_lived));
    let received = without(full_open(), |c| matches!(c, Capability::GracefulRestart(_)));
    assert!(received.capabilities.iter().any(is_long_lived));
    let agreed = agreed(&everything(), &received);
    assert!(!agreed.long_lived_peer && agreed.peer_long_lived.is_empty());
}

#[test]
fn graceful_restart_without_a_family_is_kept_and_the_last_instance_counts() {
    // FRR's default: capability 64 with no address family.
    let empty = GracefulRestart {
        families: Vec::new(),
        ..graceful_restart()
    };
    let mut received = restartable_open(LOW_ID);
    received
        .capabilities
        .push(Capability::GracefulRestart(empty.clone()));
    let agreed = agreed(&everything(), &received);
    assert_eq!(agreed.peer_graceful_restart, Some(empty));
    assert!(agreed.notification_gr);
}

#[test]
fn the_r_and_f_bits_of_the_peer_are_told_as_they_came() {
    let said = GracefulRestart {
        restarting: true,
        notification: false,
        restart_time: 4095,
        families: vec![(V4, false), (V6, true)],
    };
    let mut received = open(LOW_ID);
    received
        .capabilities
        .push(Capability::GracefulRestart(said.clone()));
    let agreed = agreed(&everything(), &received);
    assert!(!agreed.notification_gr, "the peer didn't set N");
    assert_eq!(agreed.peer_graceful_restart, Some(said));
}

#[test]
fn a_peer_with_two_octets_sees_as_trans_and_ours_is_compared_in_four() {
    // The second compare of the two-octet field kept such peers of another speaker from ever being Established.
    let config = SessionConfig {
        peer_as: PeerAs::Number(Asn(4_200_000_001)),
        local_as: Asn(4_200_000_002),
        ..config()
    };
    let mut received = open(LOW_ID);
    received.asn = Asn(4_200_000_001);
    received.capabilities[2] = Capability::FourByteAs(received.asn);
    assert!(agreed(&config, &received).context.four_byte_as);
    let bytes = encode(&Message::Open(open::build(&config, false)));
    assert_eq!(bytes[20..22], 23_456_u16.to_be_bytes());
}

#[test]
fn as_zero_and_as_trans_are_nobodys() {
    for asn in [Asn(0), Asn(23_456)] {
        for peer_as in [PeerAs::External, PeerAs::Number(asn)] {
            let received = Open {
                asn,
                ..open(LOW_ID)
            };
            assert_eq!(
                refused(
                    &SessionConfig {
                        peer_as,
                        ..config()
                    },
                    &received
                ),
                (2, 2)
            );
        }
    }
}

#[test]
fn both_families_go_over_one_session() {
    let config = SessionConfig {
        families: vec![V4, V6],
        ..config()
    };
    let mut received = open(LOW_ID);
    received
        .capabilities
        .extend([Capability::Multiprotocol(V6), Capability::Multiprotocol(V6)]);
    let mut peer = Scripted::established(config, Outgoing, &received);
    assert_eq!(
        peer.session.negotiated().unwrap().context.families,
        [V4, V6]
    );
    for family in [V4, V6] {
        assert!(peer.session.request_refresh(peer.now, family));
        let request = Message::RouteRefresh(RouteRefresh::request(family));
        assert_eq!(peer.seen(), [Seen::Sent(Outgoing, request)]);
    }
}

#[test]
fn a_refresh_is_not_asked_for_where_it_was_not_agreed_on() {
    let mut peer = Scripted::established(config(), Outgoing, &open(LOW_ID));
    assert!(
        !peer.session.request_refresh(peer.now, V6),
        "no family of this session"
    );
    let plain = without(open(LOW_ID), |c| *c == Capability::RouteRefresh);
    let mut other = Scripted::established(config(), Outgoing, &plain);
    assert!(!other.session.request_refresh(other.now, V4));
    let mut stopped = Scripted::new(config());
    assert!(!stopped.session.request_refresh(stopped.now, V4));
    for peer in [&mut peer, &mut other, &mut stopped] {
        assert_eq!(peer.seen(), []);
    }
}

#[test]
fn the_markers_of_a_refresh_are_passed_on_where_they_are_agreed_on() {
    let mut received = open(LOW_ID);
    received.capabilities.push(Capability::EnhancedRouteRefresh);
    let mut peer = Scripted::established(config(), Outgoing, &received);
    for kind in [RefreshKind::Begin, RefreshKind::End] {
        let marker = RouteRefresh { family: V4, kind };
        peer.receive(Outgoing, &Message::RouteRefresh(marker));
        assert_eq!(peer.seen(), [Seen::Passed(Output::RouteRefresh(marker))]);
    }
}

#[test]
fn an_open_too_long_for_plain_parameters_uses_the_extended_ones() {
    let config = SessionConfig {
        families: (1..100).map(|afi| Family { afi, safi: 1 }).collect(),
        hold_time: Duration::ZERO,
        ..config()
    };
    let bytes = encode(&Message::Open(open::build(&config, false)));
    assert_eq!(bytes[28..30], [255, 255], "RFC 9072 §2");
    let mut peer = Scripted::open_sent(config, Outgoing);
    peer.session.handle_bytes(peer.now, Outgoing, &{
        let mut theirs = open(LOW_ID);
        theirs
            .capabilities
            .extend((1..100).map(|afi| Capability::Multiprotocol(Family { afi, safi: 1 })));
        encode(&Message::Open(theirs))
    });
    assert_eq!(peer.session.state(), State::OpenConfirm);
}

#[test]
fn a_local_as_of_another_name_decides_what_is_external() {
    // RFC 7705: the peer sees the AS we show it; one in that AS is internal, whatever our own is.
    let config = SessionConfig {
        peer_as: PeerAs::External,
        ..config()
    };
    assert!(agreed(&config, &open(LOW_ID)).external);
    let shown = SessionConfig {
        local_as: PEER_AS,
        peer_as: PeerAs::Internal,
        ..config
    };
    assert!(agreed(&shown, &open(LOW_ID)).internal);
}
