//! The words a session and its driver exchange.

use std::fmt;

use bytes::Bytes;

use super::negotiate::Negotiated;
use crate::wire::{Notification, RouteRefresh, Update};

/// Which side dialled; at the same time the name of a connection, as a session has at most one of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// We dialled.
    Outgoing,
    /// The peer dialled.
    Incoming,
}

impl Direction {
    /// Both, in the order in which timers are looked at.
    pub(super) const BOTH: [Self; 2] = [Self::Outgoing, Self::Incoming];

    pub(super) fn other(self) -> Self {
        match self {
            Self::Outgoing => Self::Incoming,
            Self::Incoming => Self::Outgoing,
        }
    }
}

/// The states of RFC 4271 §8.2.2; of two connections the one further on counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// Stopped, or held back after an error; connections are refused.
    Idle,
    /// Dialling.
    Connect,
    /// Waiting for the peer to dial, or for the next dial.
    Active,
    /// OPEN sent, the peer's awaited.
    OpenSent,
    /// OPENs exchanged, KEEPALIVE awaited.
    OpenConfirm,
    /// UPDATEs flow.
    Established,
}

impl State {
    /// The name in RFC 4271.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Idle => "Idle",
            Self::Connect => "Connect",
            Self::Active => "Active",
            Self::OpenSent => "OpenSent",
            Self::OpenConfirm => "OpenConfirm",
            Self::Established => "Established",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}

/// How a session is stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// With this NOTIFICATION (a Cease, RFC 4486). Where the N bit is agreed on and the reason is one that lasts
    /// (Maximum Number of Prefixes, Administrative Shutdown, Peer De-configured), it goes as a Hard Reset (RFC 8538 §5).
    Notify(Notification),
    /// By closing TCP without a word, so that a helper keeps our routes (RFC 4724 §4).
    Silent,
}

/// What the driver is to do or to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Dial the peer; answered by `handle_connected(Outgoing)` or `handle_connect_failed`.
    Connect,
    /// Write what was sent before, then close; or end the dial, or refuse the connection just handed over.
    Close(Direction),
    /// Write these bytes.
    Send(Direction, Bytes),
    /// The session became Established.
    Up(Negotiated),
    /// An UPDATE of the Established session; End-of-RIB is one too.
    Update(Update),
    /// The peer asks for all routes of a family of this session again (RFC 2918); where Enhanced Route Refresh is
    /// agreed on also the markers around those it sends again (RFC 7313).
    RouteRefresh(RouteRefresh),
    /// The session is no longer Established.
    Down(Down),
}

/// Why a session that was Established is not any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Down {
    /// For people.
    pub reason: String,
    /// The NOTIFICATION we sent.
    pub notification_sent: Option<Notification>,
    /// The NOTIFICATION the peer sent.
    pub notification_received: Option<Notification>,
    /// The peer's routes may be kept as stale, as far as its Graceful Restart capability goes. The loss of TCP allows
    /// it always (RFC 4724 §4.2); a NOTIFICATION either way, or silence, only where both sides set the N bit and it is
    /// no Hard Reset (RFC 8538 §4). Never after [`PeerSession::handle_bfd`](super::PeerSession::handle_bfd) said down.
    pub retain: bool,
}
