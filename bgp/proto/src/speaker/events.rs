//! The words a speaker and its driver exchange.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;

use crate::session::Direction;
use crate::wire::{Asn, AttributeError, Family};

/// The two ends of a connection, as the sockets know them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoints {
    /// Our end.
    pub local: SocketAddr,
    /// The peer's end.
    pub remote: SocketAddr,
    /// A link-local address of ours on the same link, for IPv6 next hops (RFC 2545 §3).
    pub link_local: Option<Ipv6Addr>,
    /// The interface's index, where link-local addresses need one.
    pub link: Option<u32>,
}

/// Where packets are handed to on a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Gateway {
    /// Its address.
    pub address: IpAddr,
    /// The interface's index, if the address is one only on its link.
    pub link: Option<u32>,
}

/// What the driver is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Dial the peer; answered by `handle_connected(Outgoing)` or `handle_connect_failed`.
    Connect {
        /// Whom.
        peer: Arc<str>,
    },
    /// Write what was sent before, then close; or end the dial, or refuse the connection just handed over.
    Close {
        /// Whose.
        peer: Arc<str>,
        /// Which one.
        direction: Direction,
    },
    /// Write these bytes.
    Send {
        /// To whom.
        peer: Arc<str>,
        /// On which connection.
        direction: Direction,
        /// Whole messages.
        bytes: Bytes,
    },
    /// A peer is gone, or starts anew with another configuration: what is left of its connections is to be closed.
    Forget {
        /// Which.
        peer: Arc<str>,
    },
    /// Packets must no longer go to this gateway, at once: BFD says that it is unreachable, or all its routes go.
    GatewayDown(Gateway),
    /// The gateway may be used again, once the route changes so far are taken.
    GatewayUp(Gateway),
    /// Everything peers of an earlier run had to say has been said, or was waited for long enough (RFC 4724 §4.1).
    /// What is in the kernel and was not announced again may be swept once the route changes so far are taken.
    InitialSync,
    /// Something people want to know.
    Event(Arc<str>, PeerEvent),
}

/// What became of a peer, for logs and Events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerEvent {
    /// The session is Established.
    Established {
        /// The AS the peer showed.
        asn: Asn,
        /// Families agreed on.
        families: Vec<Family>,
    },
    /// It no longer is.
    Down {
        /// Why.
        reason: String,
        /// Its routes are kept as stale (RFC 4724 §4.2).
        retained: bool,
    },
    /// Stale routes went: their time is over.
    StaleRoutesRemoved {
        /// How many.
        count: usize,
    },
    /// Stale routes stay as long-lived ones (RFC 9494 §4.2).
    LongLivedStale {
        /// Of which family.
        family: Family,
    },
    /// An UPDATE had errors that it survived (RFC 7606).
    Malformed(AttributeError),
    /// The bound on prefixes is near.
    ManyPrefixes {
        /// Of which family.
        family: Family,
        /// How many it has announced.
        held: u32,
        /// How many it may.
        limit: u32,
    },
    /// The bound on prefixes is passed: the session was ended.
    TooManyPrefixes {
        /// How many it may announce.
        limit: u32,
    },
    /// BFD says that the path to the peer is gone.
    BfdDown,
    /// BFD says that the path is there.
    BfdUp,
    /// A range has as many peers as it may have: this one was refused.
    RangeFull {
        /// Who asked.
        address: IpAddr,
    },
}
