//! What one session is told to be.

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::wire::{Asn, Family, GracefulRestart};

/// The settings of one session; fixed for its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionConfig {
    /// Our AS.
    pub local_as: Asn,
    /// Our BGP Identifier (RFC 6286: not zero).
    pub router_id: Ipv4Addr,
    /// The AS the peer must show.
    pub peer_as: PeerAs,
    /// HoldTime to propose, in whole seconds; zero means no hold and no keepalive timer, 1 s and 2 s are raised to 3 s.
    pub hold_time: Duration,
    /// KeepaliveTime; `None`, zero and anything longer: a third of the HoldTime agreed on.
    pub keepalive_time: Option<Duration>,
    /// ConnectRetryTime: how long a dial may take, and the wait between two.
    pub connect_retry_time: Duration,
    /// Never dial (PassiveTcpEstablishment).
    pub passive: bool,
    /// Families to offer.
    pub families: Vec<Family>,
    /// The Graceful Restart capability to send (RFC 4724); `None`: not offered.
    pub graceful_restart: Option<GracefulRestart>,
}

impl SessionConfig {
    /// ConnectRetryTime where nothing else is configured. RFC 4271 §10 suggests 120 s; a rack's router is back sooner.
    pub const CONNECT_RETRY_TIME: Duration = Duration::from_secs(5);
}

/// The AS a peer must show in its OPEN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerAs {
    /// Exactly this one.
    Number(Asn),
    /// Any but our own.
    External,
    /// Our own.
    Internal,
}

impl PeerAs {
    /// Whether `asn` is what is expected of the peer of a speaker in `local`. AS 0 never is (RFC 7607).
    pub(super) fn admits(self, asn: Asn, local: Asn) -> bool {
        let expected = match self {
            Self::Number(number) => asn == number,
            Self::External => asn != local,
            Self::Internal => asn == local,
        };
        expected && asn != Asn(0)
    }
}
