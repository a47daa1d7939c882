//! One TCP connection of a session: how far it has come, its decoder and its two timers.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use super::negotiate::Negotiated;
use super::timers::LARGE_HOLD_TIME;
use crate::wire::{Decoder, Message, Notification, Open, WireContext};

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    /// TCP is up and our OPEN waits for the peer's: beside an Established session (RFC 4724 §5), or by DelayOpen.
    Tracked,
    /// Our OPEN is sent.
    OpenSent,
    /// The peer's OPEN was good.
    OpenConfirm,
    /// KEEPALIVEs went both ways.
    Established,
}

/// Whether a connection in OpenConfirm waits for BFD.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BfdHold {
    /// It does not.
    Off,
    /// It does, until then if there is a limit (BfdHoldTimer).
    On(Option<Instant>),
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
    /// DelayOpenTimer: in `Tracked`, our OPEN goes then at the latest.
    pub(super) open_at: Option<Instant>,
    /// SendHoldTimer (RFC 9687): runs while bytes wait that the peer does not take.
    pub(super) send_hold_at: Option<Instant>,
    /// Our KEEPALIVE waits for BFD.
    pub(super) bfd: BfdHold,
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
            open_at: None,
            send_hold_at: None,
            bfd: BfdHold::Off,
            keepalive_sent: false,
            keepalive_received: false,
            came_later: phase == Phase::Tracked,
            established_at: None,
            decoder: Decoder::new(),
            initial: WireContext::default(),
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
        // A peer that waits for BFD as well has nothing to say: the wait has its own limit.
        let watched = !hold_time.is_zero() && self.bfd == BfdHold::Off;
        self.hold_at = watched.then(|| now + hold_time);
    }

    /// Every timer that runs.
    pub(super) fn timers(&self) -> impl Iterator<Item = Instant> {
        let bfd_at = match self.bfd {
            BfdHold::On(until) => until,
            BfdHold::Off => None,
        };
        let all = [
            self.hold_at,
            self.keepalive_at,
            self.open_at,
            self.send_hold_at,
            bfd_at,
        ];
        all.into_iter().flatten()
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
