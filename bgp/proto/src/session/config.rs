//! What one session is told to be.

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::wire::{Asn, Family, GracefulRestart, LongLivedFamily, Role};

/// The settings of one session; fixed for its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionConfig {
    /// The AS we show this peer: ours, or another that stands in for it (RFC 7705). What is external follows from it.
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
    /// DelayOpenTime: how long our OPEN waits for the peer's once TCP is up (RFC 4271 §8.1.1); `None` and zero: not.
    pub delay_open: Option<Duration>,
    /// SendHoldTime: how long bytes may wait for a peer that does not read (RFC 9687). `None`: the larger of eight
    /// minutes and twice the HoldTime; zero: for ever; never less than a second more than the HoldTime (§3.1).
    pub send_hold_time: Option<Duration>,
    /// Families to offer.
    pub families: Vec<Family>,
    /// The Graceful Restart capability to send (RFC 4724); `None`: not offered.
    pub graceful_restart: Option<GracefulRestart>,
    /// The Long-Lived Graceful Restart capability (RFC 9494), sent beside `graceful_restart` only; empty: not offered.
    pub long_lived: Vec<LongLivedFamily>,
    /// The families to exchange several paths in (RFC 7911).
    pub add_path: AddPathOffer,
    /// Offer IPv6 next hops for IPv4 unicast (RFC 8950).
    pub extended_next_hop: bool,
    /// Our role towards an external peer (RFC 9234); not told to an internal one.
    pub role: Option<Role>,
    /// With a role: refuse a peer that tells none (RFC 9234 §4.2).
    pub strict_role: bool,
    /// Not Established before BFD is Up (draft-ietf-idr-bgp-bfd-strict-mode, RFC 5882 §4.1): no KEEPALIVE before
    /// [`PeerSession::handle_bfd`](super::PeerSession::handle_bfd) said so. Held even where the peer doesn't offer it.
    pub strict_bfd: bool,
    /// With `strict_bfd`: how long BFD may take to come up once the OPENs are exchanged; zero: for ever.
    pub bfd_hold_time: Duration,
}

/// What we offer of ADD-PATH (RFC 7911 §4), by family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddPathOffer {
    /// We take several paths.
    pub receive: Vec<Family>,
    /// We would send several paths.
    pub send: Vec<Family>,
}

impl SessionConfig {
    /// A session for IPv4 unicast with nothing optional and the times of this speaker: HoldTime 90 s as RFC 4271 §10
    /// suggests, [`CONNECT_RETRY_TIME`](Self::CONNECT_RETRY_TIME), [`BFD_HOLD_TIME`](Self::BFD_HOLD_TIME).
    #[must_use]
    pub fn new(local_as: Asn, router_id: Ipv4Addr, peer_as: PeerAs) -> Self {
        Self {
            local_as,
            router_id,
            peer_as,
            hold_time: Duration::from_secs(90),
            keepalive_time: None,
            connect_retry_time: Self::CONNECT_RETRY_TIME,
            passive: false,
            delay_open: None,
            send_hold_time: None,
            families: vec![Family::IPV4_UNICAST],
            graceful_restart: None,
            long_lived: Vec::new(),
            add_path: AddPathOffer::default(),
            extended_next_hop: false,
            role: None,
            strict_role: false,
            strict_bfd: false,
            bfd_hold_time: Self::BFD_HOLD_TIME,
        }
    }

    /// How long strict BFD waits where nothing else is configured, as the draft suggests.
    pub const BFD_HOLD_TIME: Duration = Duration::from_secs(30);

    /// ConnectRetryTime where nothing else is configured. RFC 4271 §10 suggests 120 s; a rack's router is back sooner.
    pub const CONNECT_RETRY_TIME: Duration = Duration::from_secs(5);
}

/// RFC 6793 §9.
const AS_TRANS: Asn = Asn(23_456);

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
    /// Whether `asn` is what is expected of the peer of a speaker in `local`. AS 0 (RFC 7607) and AS_TRANS, which is
    /// what an AS that can't be shown looks like (RFC 6793 §9), never are.
    pub(super) fn admits(self, asn: Asn, local: Asn) -> bool {
        let expected = match self {
            Self::Number(number) => asn == number,
            Self::External => asn != local,
            Self::Internal => asn == local,
        };
        expected && asn != Asn(0) && asn != AS_TRANS
    }
}
