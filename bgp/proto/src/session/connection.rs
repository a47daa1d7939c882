//! One TCP connection of a session: how far it has come, its decoder and its two timers.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use super::negotiate::{Negotiated, initial_context};
use super::timers::LARGE_HOLD_TIME;
use crate::wire::{Decoder, Message, Notification, Open, WireContext};

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    /// TCP is up beside an Established session; our OPEN waits for the peer's (RFC 4724 §5).
    Tracked,
    /// Our OPEN is sent.
    OpenSent,
    /// The peer's OPEN was good.
    OpenConfirm,
    /// KEEPALIVEs went both ways.
    Established,
}

/// A connection. Its end is its removal: nothing of it outlives it, so no timer of a former one can fire.
pub(super) struct Connection {
    pub(super) phase: Phase,
    /// The OPEN of ours that goes over this connection.
    pub(super) open: Open,
    /// Set from OpenConfirm on.
    pub(super) negotiated: Option<Negotiated>,
    pub(super) hold_at: Option<Instant>,
    pub(super) keepalive_at: Option<Instant>,
    /// A KEEPALIVE of ours has gone out: the peer may take the session for Established.
    pub(super) keepalive_sent: bool,
    pub(super) keepalive_received: bool,
    /// It came while another was Established; if it gets there too, the peer has restarted.
    pub(super) came_later: bool,
    pub(super) established_at: Option<Instant>,
    decoder: Decoder,
    initial: WireContext,
}

impl Connection {
    pub(super) fn new(now: Instant, open: Open, phase: Phase) -> Self {
        Self {
            phase,
            open,
            negotiated: None,
            hold_at: Some(now + LARGE_HOLD_TIME),
            keepalive_at: None,
            keepalive_sent: false,
            keepalive_received: false,
            came_later: phase == Phase::Tracked,
            established_at: None,
            decoder: Decoder::new(),
            initial: initial_context(),
        }
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.decoder.push(bytes);
    }

    /// The next whole message.
    ///
    /// # Errors
    /// The NOTIFICATION that ends the connection.
    pub(super) fn next(&mut self) -> Result<Option<Message>, Notification> {
        let context = self
            .negotiated
            .as_ref()
            .map_or(&self.initial, |n| &n.context);
        self.decoder.next(context)
    }

    pub(super) fn encode(&self, message: &Message) -> Bytes {
        let context = self
            .negotiated
            .as_ref()
            .map_or(&self.initial, |n| &n.context);
        let mut bytes = BytesMut::new();
        message.encode(context, &mut bytes);
        bytes.freeze()
    }

    /// The peer was heard: its hold timer starts afresh.
    pub(super) fn heard(&mut self, now: Instant) {
        let hold_time = self
            .negotiated
            .as_ref()
            .map_or(LARGE_HOLD_TIME, |n| n.hold_time);
        self.hold_at = (!hold_time.is_zero()).then(|| now + hold_time);
    }

    pub(super) fn keepalive_time(&self) -> Duration {
        self.negotiated
            .as_ref()
            .map_or(Duration::ZERO, |n| n.keepalive_time)
    }

    /// For how long it has been Established.
    pub(super) fn established_for(&self, now: Instant) -> Duration {
        self.established_at
            .map_or(Duration::ZERO, |at| now.saturating_duration_since(at))
    }
}
