//! One session and a peer whose every message the test writes.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use super::super::*;
use crate::wire::{
    Asn, Capability, Decoder, Family, GracefulRestart, Message, Notification, Open, WireContext,
};

pub(super) const LOCAL_AS: Asn = Asn(64_513);
pub(super) const PEER_AS: Asn = Asn(65_000);
pub(super) const LOCAL_ID: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 5);
/// Lower than ours: a connection we dialled wins.
pub(super) const LOW_ID: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
/// Higher than ours, if compared unsigned: a connection the peer dialled wins.
pub(super) const HIGH_ID: Ipv4Addr = Ipv4Addr::new(200, 0, 0, 1);

pub(super) fn config() -> SessionConfig {
    SessionConfig::new(LOCAL_AS, LOCAL_ID, PeerAs::Number(PEER_AS))
}

pub(super) fn graceful_restart() -> GracefulRestart {
    GracefulRestart {
        restarting: true,
        notification: true,
        restart_time: 120,
        families: vec![(Family::IPV4_UNICAST, true)],
    }
}

pub(super) fn open(bgp_id: Ipv4Addr) -> Open {
    Open {
        asn: PEER_AS,
        hold_time: 90,
        bgp_id,
        capabilities: vec![
            Capability::Multiprotocol(Family::IPV4_UNICAST),
            Capability::RouteRefresh,
            Capability::FourByteAs(PEER_AS),
        ],
    }
}

pub(super) fn restartable_open(bgp_id: Ipv4Addr) -> Open {
    let mut open = open(bgp_id);
    open.capabilities
        .push(Capability::GracefulRestart(graceful_restart()));
    open
}

pub(super) fn encode(message: &Message) -> Bytes {
    let mut bytes = BytesMut::new();
    message.encode(&context(), &mut bytes);
    bytes.freeze()
}

fn context() -> WireContext {
    WireContext {
        four_byte_as: true,
        internal: false,
        families: vec![Family::IPV4_UNICAST],
        ..WireContext::default()
    }
}

/// An output, with what was sent decoded.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Seen {
    Connect,
    Close(Direction),
    Sent(Direction, Message),
    Up(Negotiated),
    Down(Down),
    Passed(Output),
}

pub(super) struct Scripted {
    pub(super) session: PeerSession,
    pub(super) now: Instant,
}

impl Scripted {
    pub(super) fn new(config: SessionConfig) -> Self {
        #[expect(
            clippy::disallowed_methods,
            reason = "an Instant to count from; it never advances"
        )]
        let now = Instant::now();
        Self {
            session: PeerSession::new(config, 1),
            now,
        }
    }

    /// Started, and its dial reported.
    pub(super) fn started(config: SessionConfig) -> Self {
        let mut peer = Self::new(config);
        peer.session.handle_start(peer.now);
        peer.seen();
        peer
    }

    /// OpenSent on a connection of this direction.
    pub(super) fn open_sent(config: SessionConfig, direction: Direction) -> Self {
        let mut peer = Self::started(config);
        if direction == Direction::Incoming {
            peer.session.handle_connect_failed(peer.now);
        }
        peer.connect(direction);
        assert_eq!(peer.session.state(), State::OpenSent);
        peer.seen();
        peer
    }

    pub(super) fn open_confirm(config: SessionConfig, direction: Direction, open: &Open) -> Self {
        let mut peer = Self::open_sent(config, direction);
        peer.receive(direction, &Message::Open(open.clone()));
        assert_eq!(peer.session.state(), State::OpenConfirm);
        peer.seen();
        peer
    }

    pub(super) fn established(config: SessionConfig, direction: Direction, open: &Open) -> Self {
        let mut peer = Self::open_confirm(config, direction, open);
        peer.receive(direction, &Message::Keepalive);
        assert_eq!(peer.session.state(), State::Established);
        peer.seen();
        peer
    }

    pub(super) fn connect(&mut self, direction: Direction) {
        self.session.handle_connected(self.now, direction);
    }

    pub(super) fn receive(&mut self, direction: Direction, message: &Message) {
        self.session
            .handle_bytes(self.now, direction, &encode(message));
    }

    /// Lets time pass to the next timer and lets it fire.
    pub(super) fn next_timer(&mut self) -> Duration {
        let at = self.session.poll_timeout().expect("a timer runs");
        let passed = at.saturating_duration_since(self.now);
        self.now = self.now.max(at);
        self.session.handle_timeout(self.now);
        passed
    }

    /// Everything it put out since the last call.
    pub(super) fn seen(&mut self) -> Vec<Seen> {
        let outputs = std::iter::from_fn(|| self.session.poll_output());
        outputs
            .flat_map(|output| match output {
                Output::Connect => vec![Seen::Connect],
                Output::Close(direction) => vec![Seen::Close(direction)],
                Output::Up(negotiated) => vec![Seen::Up(negotiated)],
                Output::Down(down) => vec![Seen::Down(down)],
                Output::Send(direction, bytes) => {
                    let mut decoder = Decoder::new();
                    decoder.push(&bytes);
                    let messages =
                        std::iter::from_fn(|| decoder.next(&context()).expect("well formed"));
                    messages
                        .map(|message| Seen::Sent(direction, message))
                        .collect()
                }
                other => vec![Seen::Passed(other)],
            })
            .collect()
    }
}

/// The NOTIFICATIONs among what was seen.
pub(super) fn notifications(seen: &[Seen]) -> Vec<(Direction, (u8, u8))> {
    let pick = |seen: &Seen| match seen {
        Seen::Sent(direction, Message::Notification(Notification { code, subcode, .. })) => {
            Some((*direction, (*code, *subcode)))
        }
        _ => None,
    };
    seen.iter().filter_map(pick).collect()
}
