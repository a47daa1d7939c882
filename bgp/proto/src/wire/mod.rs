//! The messages of BGP-4 as values; each message and attribute is encoded and decoded in its own file.

mod attribute;
mod capability;
mod header;
mod message;
mod nlri;
pub mod notification;
mod open;
mod pack;
mod reader;
mod route_refresh;
mod stream;
#[cfg(test)]
mod tests;
mod update;
mod writer;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use bytes::Bytes;
use ipnet::IpNet;

pub use header::{HEADER_LEN, MAX_EXTENDED_MESSAGE_LEN, MAX_MESSAGE_LEN, MessageKind};
pub use pack::{encode_end_of_rib, encode_updates, encode_withdrawals};
pub use stream::Decoder;

/// An AS number (RFC 6793: four bytes everywhere inside; two-byte peers are translated at the wire).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Asn(pub u32);

/// A BGP message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// RFC 4271 §4.2.
    Open(Open),
    /// RFC 4271 §4.3, as it stands after RFC 7606.
    Update(Update),
    /// RFC 4271 §4.5.
    Notification(Notification),
    /// RFC 4271 §4.4.
    Keepalive,
    /// RFC 2918, and the markers of RFC 7313 around what answers it.
    RouteRefresh(RouteRefresh),
}

/// ROUTE-REFRESH (RFC 2918 §3, RFC 7313 §3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteRefresh {
    /// The family it is about.
    pub family: Family,
    /// What is said about it.
    pub kind: RefreshKind,
}

impl RouteRefresh {
    /// The wish to have all of a family again.
    #[must_use]
    pub const fn request(family: Family) -> Self {
        Self {
            family,
            kind: RefreshKind::Request,
        }
    }
}

/// The Message Subtype of ROUTE-REFRESH (RFC 7313 §3.2); unknown ones are ignored when decoding (§5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RefreshKind {
    /// 0: send all of it again.
    Request,
    /// 1, BoRR: all of it comes again from here.
    Begin,
    /// 2, EoRR: that was all of it.
    End,
}

/// OPEN (RFC 4271 §4.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    /// The sender's AS: from the four-byte capability if it is there, else the two-byte field.
    pub asn: Asn,
    /// HoldTime in seconds as proposed: 0, or at least 3 (others are refused when decoding).
    pub hold_time: u16,
    /// The BGP Identifier (RFC 6286: not zero).
    pub bgp_id: Ipv4Addr,
    /// Capabilities (RFC 5492) in the order sent; unknown ones kept.
    pub capabilities: Vec<Capability>,
}

/// A capability (RFC 5492).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Capability {
    /// Code 1 (RFC 4760).
    Multiprotocol(Family),
    /// Code 2 (RFC 2918).
    RouteRefresh,
    /// Code 5 (RFC 8950): families whose next hop may be of this AFI.
    ExtendedNextHop(Vec<(Family, u16)>),
    /// Code 6 (RFC 8654).
    ExtendedMessage,
    /// Code 9 (RFC 9234).
    Role(Role),
    /// Code 64 (RFC 4724).
    GracefulRestart(GracefulRestart),
    /// Code 65 (RFC 6793).
    FourByteAs(Asn),
    /// Code 69 (RFC 7911): what the sender of the capability is able to do, by family.
    AddPath(Vec<(Family, AddPathMode)>),
    /// Code 70 (RFC 7313).
    EnhancedRouteRefresh,
    /// Code 71 (RFC 9494).
    LongLivedGracefulRestart(Vec<LongLivedFamily>),
    /// Anything else, kept as it came.
    Unknown {
        /// The code.
        code: u8,
        /// The value.
        value: Bytes,
    },
}

/// The Graceful Restart capability (RFC 4724 §3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GracefulRestart {
    /// The R bit: the sender has restarted.
    pub restarting: bool,
    /// The N bit (RFC 8538).
    pub notification: bool,
    /// Restart Time in seconds, 0 to 4095.
    pub restart_time: u16,
    /// Each family, and whether its forwarding state was preserved (the F bit).
    pub families: Vec<(Family, bool)>,
}

/// Our place in a session with an external peer (RFC 9234 §4.1), from the sender's point of view.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// 0: the sender gives the receiver transit.
    Provider,
    /// 1: the sender is a route server.
    RouteServer,
    /// 2: the sender is a route server's client.
    RouteServerClient,
    /// 3: the sender gets transit.
    Customer,
    /// 4: neither.
    Peer,
    /// 5 to 255: a value that goes with no other, so that the session is refused (§4.2).
    Unassigned(u8),
}

/// The Send/Receive octet of the ADD-PATH capability (RFC 7911 §4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AddPathMode {
    /// 1.
    Receive,
    /// 2.
    Send,
    /// 3.
    Both,
}

/// One family of the Long-Lived Graceful Restart capability (RFC 9494 §3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LongLivedFamily {
    /// The family.
    pub family: Family,
    /// The F bit: forwarding state was preserved.
    pub forwarding: bool,
    /// Long-Lived Stale Time in seconds, 24 bits.
    pub stale_time: u32,
}

/// An address family and subsequent family, as on the wire; any pair can be named, few are spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Family {
    /// AFI.
    pub afi: u16,
    /// SAFI.
    pub safi: u8,
}

impl Family {
    /// IPv4 unicast.
    pub const IPV4_UNICAST: Self = Self { afi: 1, safi: 1 };
    /// IPv6 unicast.
    pub const IPV6_UNICAST: Self = Self { afi: 2, safi: 1 };
}

/// As people say it: `IPv4`, `IPv6`, or the numbers of one we do not speak.
impl fmt::Display for Family {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::IPV4_UNICAST => formatter.pad("IPv4"),
            Self::IPV6_UNICAST => formatter.pad("IPv6"),
            Self { afi, safi } => write!(formatter, "AFI {afi} SAFI {safi}"),
        }
    }
}

/// A prefix, and which of several paths to it is meant (RFC 7911 §3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nlri {
    /// The prefix.
    pub prefix: IpNet,
    /// The Path Identifier: any value where ADD-PATH is agreed on for this direction, else 0.
    pub path_id: u32,
}

impl From<IpNet> for Nlri {
    fn from(prefix: IpNet) -> Self {
        Self { prefix, path_id: 0 }
    }
}

/// UPDATE: what is withdrawn, what is announced. Both the classic fields and MP_(UN)REACH end up here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Update {
    /// Prefixes withdrawn (also by treat-as-withdraw, RFC 7606 §2).
    pub withdrawn: Vec<Nlri>,
    /// Prefixes announced with `attributes`; empty if the UPDATE announces none.
    pub announced: Vec<Nlri>,
    /// The path attributes; `Some` exactly when `announced` is not empty.
    pub attributes: Option<Arc<PathAttributes>>,
    /// An End-of-RIB marker (RFC 4724 §2) of this family.
    pub end_of_rib: Option<Family>,
    /// What was wrong and survived: attributes discarded or prefixes treated as withdrawn (RFC 7606 §2).
    pub errors: Vec<AttributeError>,
}

/// ORIGIN (RFC 4271 §5.1.1); the order is the order of preference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Origin {
    /// IGP.
    Igp,
    /// EGP.
    Egp,
    /// INCOMPLETE.
    Incomplete,
}

/// A segment of AS_PATH (RFC 4271 §4.3; RFC 5065 for the confederation kinds).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AsPathSegment {
    /// Its kind.
    pub kind: SegmentKind,
    /// Its AS numbers, never empty.
    pub asns: Vec<Asn>,
}

/// The kind of an AS_PATH segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SegmentKind {
    /// AS_SET.
    Set,
    /// AS_SEQUENCE.
    Sequence,
    /// AS_CONFED_SEQUENCE.
    ConfedSequence,
    /// AS_CONFED_SET.
    ConfedSet,
}

/// The path attributes of a route. NLRI are not in here.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PathAttributes {
    /// ORIGIN.
    pub origin: Origin,
    /// AS_PATH, merged with AS4_PATH where the peer speaks two bytes (RFC 6793 §4.2.3).
    pub as_path: Vec<AsPathSegment>,
    /// NEXT_HOP, or the next hop of MP_REACH_NLRI (its global address where there are two).
    pub next_hop: IpAddr,
    /// The link-local address that came with an IPv6 next hop (RFC 2545).
    pub link_local_next_hop: Option<std::net::Ipv6Addr>,
    /// MULTI_EXIT_DISC.
    pub med: Option<u32>,
    /// LOCAL_PREF.
    pub local_pref: Option<u32>,
    /// ATOMIC_AGGREGATE.
    pub atomic_aggregate: bool,
    /// AGGREGATOR.
    pub aggregator: Option<(Asn, Ipv4Addr)>,
    /// COMMUNITIES (RFC 1997).
    pub communities: Vec<u32>,
    /// ORIGINATOR_ID (RFC 4456).
    pub originator_id: Option<Ipv4Addr>,
    /// CLUSTER_LIST (RFC 4456).
    pub cluster_list: Vec<Ipv4Addr>,
    /// EXTENDED_COMMUNITIES (RFC 4360), each in the order of its eight octets.
    pub extended_communities: Vec<u64>,
    /// LARGE_COMMUNITIES (RFC 8092), each once (§5).
    pub large_communities: Vec<LargeCommunity>,
    /// ONLY_TO_CUSTOMER (RFC 9234 §5).
    pub only_to_customer: Option<Asn>,
    /// Unknown optional transitive attributes, passed on untouched with the Partial bit set.
    pub unknown: Vec<UnknownAttribute>,
    /// Which of the attributes above came with the Partial bit, which is never cleared on the way (RFC 4271 §5): bit
    /// `n` for type code `n`. What is not there has no bit here that counts.
    pub partial: u64,
}

impl PathAttributes {
    /// The attributes of a route that is originated here: ORIGIN IGP, an empty AS_PATH, nothing optional.
    #[must_use]
    pub fn originated(next_hop: IpAddr) -> Self {
        Self {
            origin: Origin::Igp,
            as_path: Vec::new(),
            next_hop,
            link_local_next_hop: None,
            med: None,
            local_pref: None,
            atomic_aggregate: false,
            aggregator: None,
            communities: Vec::new(),
            originator_id: None,
            cluster_list: Vec::new(),
            extended_communities: Vec::new(),
            large_communities: Vec::new(),
            only_to_customer: None,
            unknown: Vec::new(),
            partial: 0,
        }
    }
}

/// A large community `global:local1:local2` (RFC 8092 §3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LargeCommunity {
    /// Global Administrator.
    pub global: u32,
    /// Local Data Part 1.
    pub local1: u32,
    /// Local Data Part 2.
    pub local2: u32,
}

/// An attribute we do not know, kept as it came.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UnknownAttribute {
    /// The flags octet.
    pub flags: u8,
    /// The type code.
    pub code: u8,
    /// The value.
    pub value: Bytes,
}

/// What a malformed attribute leads to (RFC 7606 §2), weakest first, so that the strongest of several is `max`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttributeError {
    /// The attribute's type code.
    pub code: u8,
    /// What is done about it. A reset is not in here: it is the `Err` of decoding.
    pub treatment: Treatment,
    /// What was wrong, for the log.
    pub reason: &'static str,
}

/// RFC 7606 §2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Treatment {
    /// The attribute is dropped, the routes are kept.
    Discard,
    /// The routes of the UPDATE are treated as withdrawn.
    TreatAsWithdraw,
}

/// NOTIFICATION (RFC 4271 §4.5), and at the same time the error of decoding: what to send before closing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notification {
    /// Error code.
    pub code: u8,
    /// Error subcode.
    pub subcode: u8,
    /// Data.
    pub data: Bytes,
}

/// What the two OPENs agreed on that changes how messages are encoded and decoded. No globals: it is passed in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct WireContext {
    /// Both sides sent the four-byte AS capability.
    pub four_byte_as: bool,
    /// The peer is in our own AS (LOCAL_PREF is expected from it, RFC 7606 §7.5).
    pub internal: bool,
    /// Families that may be carried by MP_REACH_NLRI; IPv4 unicast also by the classic fields.
    pub families: Vec<Family>,
    /// Families whose prefixes may have an IPv6 next hop though they are IPv4 (RFC 8950).
    pub extended_next_hop: Vec<Family>,
    /// Families whose NLRI bear a Path Identifier in what we receive (RFC 7911).
    pub add_path_receive: Vec<Family>,
    /// Families whose NLRI bear a Path Identifier in what we send (RFC 7911).
    pub add_path_send: Vec<Family>,
    /// Both sides sent the Extended Message capability: all but OPEN and KEEPALIVE may have 65535 octets (RFC 8654).
    pub extended_messages: bool,
    /// Both sides sent the Enhanced Route Refresh capability (RFC 7313): a malformed ROUTE-REFRESH is told the peer.
    pub enhanced_route_refresh: bool,
}
