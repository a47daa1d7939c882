//! BGPPeer: which nodes peer with whom.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// A BGPPeer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BgpPeer {
    /// Its name.
    pub name: String,
    /// `nodeSelector`, in Calico's selector language; absent became `all()`.
    pub node_selector: crate::selector::Selector,
    /// Whom to peer with.
    pub target: PeerTarget,
    /// `asNumber`.
    pub as_number: PeerAs,
    /// `sourceAddress`.
    pub source_address: Option<IpAddr>,
    /// `passive` (false): never dial.
    pub passive: bool,
    /// `holdTime` (90 s; 0 or at least 3 s).
    pub hold_time: Duration,
    /// `keepaliveTime` (a third of the hold time).
    pub keepalive_time: Option<Duration>,
    /// `maxPrefixes.limit` (100,000).
    pub max_prefixes: u32,
}

/// Whom a BGPPeer names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerTarget {
    /// `peerAddress`: `ip` or `ip:port`; the port is 179 if not given.
    Address(SocketAddr),
    /// `peerSelector`: other nodes.
    Nodes(crate::selector::Selector),
}

/// The AS a peer must be in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerAs {
    /// Exactly this one.
    Number(u32),
    /// Any but our own.
    External,
    /// Our own.
    Internal,
}
