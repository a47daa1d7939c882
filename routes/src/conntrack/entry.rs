//! One tracked flow as plain values.

use std::fmt;
use std::net::IpAddr;

use super::Place;

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() {
            Self::V4
        } else {
            Self::V6
        }
    }
}

/// What tells flows between two addresses apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ports {
    /// Of TCP, UDP, SCTP and the like.
    Ports {
        /// Source port.
        source: u16,
        /// Destination port.
        destination: u16,
    },
    /// Of ICMP and ICMPv6.
    Icmp {
        /// Echo identifier.
        id: u16,
        /// Message type.
        kind: u8,
        /// Message code.
        code: u8,
    },
    /// Of protocols that the kernel knows no more of.
    None,
}

/// One direction of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tuple {
    /// Who sends.
    pub source: IpAddr,
    /// Who receives; of the same family.
    pub destination: IpAddr,
    /// Ports or what stands for them.
    pub ports: Ports,
    /// The zone that only this direction is in, where directions have zones of their own.
    pub zone: Option<u16>,
}

/// TCP's state as the kernel's connection tracking sees it (enum tcp_conntrack).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpState(pub u8);

impl TcpState {
    /// Both sides have agreed, and neither has closed.
    pub const ESTABLISHED: Self = Self(3);
    /// The first end has closed, and waits for stray segments.
    pub const TIME_WAIT: Self = Self(7);
    /// Reset: no packet of it will come.
    pub const CLOSE: Self = Self(8);
}

/// Bits of enum ip_conntrack_status.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Status(pub u32);

impl Status {
    /// IPS_SEEN_REPLY: packets of both directions were seen.
    #[must_use]
    pub fn is_answered(self) -> bool {
        self.0 & 2 != 0
    }

    /// IPS_DST_NAT: the destination was changed, as for a Service.
    #[must_use]
    pub fn is_destination_changed(self) -> bool {
        self.0 & 32 != 0
    }

    /// IPS_SRC_NAT: the source was changed.
    #[must_use]
    pub fn is_source_changed(self) -> bool {
        self.0 & 16 != 0
    }
}

/// One flow that the kernel tracks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConntrackEntry {
    /// The IP protocol's number.
    pub protocol: u8,
    /// The direction of the first packet, before any NAT.
    pub original: Tuple,
    /// What answers look like, before NAT is undone.
    pub reply: Tuple,
    /// The zone that both directions are in; 0 by default.
    pub zone: u16,
    /// The flow's own mark (connmark).
    pub mark: u32,
    /// The kernel's name for this very entry.
    pub id: u32,
    /// Of TCP only.
    pub tcp_state: Option<TcpState>,
    /// What has happened to it.
    pub status: Status,
    /// Seconds of silence until it goes; 0 in an entry that is being taken away.
    pub timeout: u32,
}

impl ConntrackEntry {
    /// The family; both directions have the same.
    #[must_use]
    pub fn family(&self) -> Family {
        Family::of(self.original.source)
    }

    /// The address at a place.
    #[must_use]
    pub fn address(&self, place: Place) -> IpAddr {
        match place {
            Place::OriginalSource => self.original.source,
            Place::OriginalDestination => self.original.destination,
            Place::ReplySource => self.reply.source,
            Place::ReplyDestination => self.reply.destination,
        }
    }
}

impl fmt::Display for ConntrackEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tuple {
            source,
            destination,
            ports,
            ..
        } = self.original;
        match ports {
            Ports::Ports {
                source: from,
                destination: to,
            } => write!(
                f,
                "protocol {} from {source} port {from} to {destination} port {to}",
                self.protocol
            ),
            Ports::Icmp { id, kind, .. } => write!(
                f,
                "protocol {} type {kind} id {id} from {source} to {destination}",
                self.protocol
            ),
            Ports::None => write!(
                f,
                "protocol {} from {source} to {destination}",
                self.protocol
            ),
        }
    }
}
