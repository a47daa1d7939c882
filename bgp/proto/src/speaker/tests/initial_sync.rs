//! When a speaker that restarted stops waiting for what its peers of old have to say (RFC 4724 §4.1).

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::BytesMut;

use super::nodes::{address, config, peer, peer_name};
use crate::session::{Direction, State};
use crate::speaker::{Endpoints, Restart, Speaker};
use crate::wire::{
    Asn, Capability, Family, GracefulRestart, Message, Open, WireContext, encode_end_of_rib,
};

const FAMILIES: [Family; 2] = [Family::IPV4_UNICAST, Family::IPV6_UNICAST];
const SECOND: Duration = Duration::from_secs(1);

/// A speaker whose kernel still holds routes, and an Established session with a peer whose OPEN bears this capability.
fn restarted(graceful_restart: Option<GracefulRestart>) -> (Speaker, Instant) {
    #[expect(
        clippy::disallowed_methods,
        reason = "an Instant to count from; it never advances"
    )]
    let now = Instant::now();
    let mut config = config(0, 65_000);
    config.peers = [(peer_name(1), peer(65_001))].into();
    let restart = Restart {
        forwarding_preserved: true,
        wait: SECOND * 60,
    };
    let mut speaker = Speaker::new(config.speaker.clone(), restart, 1, now);
    speaker.configure(now, config);
    let ends = Endpoints {
        local: SocketAddr::new(address(0), 179),
        remote: SocketAddr::new(address(1), 30_000),
        link_local: None,
        link: None,
    };
    speaker.handle_connected(now, &peer_name(1), Direction::Incoming, ends);
    let capabilities = FAMILIES.map(Capability::Multiprotocol).into_iter();
    let open = Open {
        asn: Asn(65_001),
        hold_time: 90,
        bgp_id: [10, 0, 0, 2].into(),
        capabilities: capabilities
            .chain(graceful_restart.map(Capability::GracefulRestart))
            .collect(),
    };
    for message in [Message::Open(open), Message::Keepalive] {
        let mut out = BytesMut::new();
        message.encode(&WireContext::default(), &mut out);
        speaker.handle_bytes(now, &peer_name(1), Direction::Incoming, &out);
    }
    assert_eq!(speaker.state(&peer_name(1)), Some(State::Established));
    (speaker, now)
}

/// As FRR sends it in its default mode: it helps, and lists no family.
fn helper_only() -> GracefulRestart {
    GracefulRestart {
        restarting: false,
        notification: true,
        restart_time: 120,
        families: Vec::new(),
    }
}

#[test]
fn end_of_rib_is_waited_for_from_who_sent_capability_64_even_without_a_family() {
    let (mut speaker, start) = restarted(Some(helper_only()));
    speaker.handle_timeout(start + SECOND);
    assert!(speaker.is_in_initial_sync(), "FRR takes a second to speak");
    for (family, last) in FAMILIES.into_iter().zip([false, true]) {
        let mut out = BytesMut::new();
        encode_end_of_rib(family, &WireContext::default(), &mut out);
        let now = start + SECOND;
        speaker.handle_bytes(now, &peer_name(1), Direction::Incoming, &out);
        speaker.handle_timeout(now);
        assert_eq!(speaker.is_in_initial_sync(), !last, "{family}");
    }
}

#[test]
fn who_sent_capability_64_and_is_silent_is_waited_for_some_seconds_only() {
    let (mut speaker, start) = restarted(Some(helper_only()));
    speaker.handle_timeout(start + SECOND * 4);
    assert!(speaker.is_in_initial_sync());
    speaker.handle_timeout(start + SECOND * 6);
    assert!(!speaker.is_in_initial_sync());
}

#[test]
fn who_did_not_send_capability_64_is_not_waited_for() {
    let (mut speaker, start) = restarted(None);
    speaker.handle_timeout(start);
    assert!(!speaker.is_in_initial_sync());
}
