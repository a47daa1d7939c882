//! What the speaker is told to be: the whole desired configuration, applied as a difference.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use bgp_proto::wire::Asn;
use ipnet::IpNet;

/// The desired state of the speaker. Applying it again changes nothing; what a change does not concern is untouched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Who we are.
    pub speaker: SpeakerConfig,
    /// Peers by name.
    pub peers: BTreeMap<String, PeerConfig>,
    /// What this node originates: its Pod CIDRs, later service addresses.
    pub originate: BTreeSet<IpNet>,
}

/// Who we are. A change of any field but `restart_time` restarts the sessions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpeakerConfig {
    /// Our AS.
    pub asn: Asn,
    /// Our BGP Identifier.
    pub router_id: Ipv4Addr,
    /// Where to listen; empty: nowhere.
    pub listen: Vec<SocketAddr>,
    /// Restart Time of the Graceful Restart capability (RFC 4724).
    pub restart_time: Duration,
}

/// One peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerConfig {
    /// Where it is; a connection from this address (any source port) is also taken.
    pub address: SocketAddr,
    /// Its AS.
    pub asn: PeerAs,
    /// Which of our addresses to dial from.
    pub local_address: Option<IpAddr>,
    /// Never dial.
    pub passive: bool,
    /// HoldTime to propose: zero, or 3 s and more.
    pub hold_time: Duration,
    /// KeepaliveTime; `None`: a third of the negotiated HoldTime.
    pub keepalive_time: Option<Duration>,
    /// Prefixes per family after which the session is ended (Cease, 1).
    pub max_prefixes: u32,
    /// From an external peer: prefixes equal to or inside these are not taken.
    pub import_reject: BTreeSet<IpNet>,
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
