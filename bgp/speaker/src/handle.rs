//! How the rest of the program speaks to the speaker's task: bounded channels only.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use bgp_proto::wire::Asn;
use ipnet::IpNet;

/// A change of what is to be in the kernel; only the latest per prefix is kept until it is taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteChange {
    /// The prefix.
    pub prefix: IpNet,
    /// Gateways of the best path (several with multipath later); empty: withdrawn.
    pub next_hops: Vec<IpAddr>,
}

/// What `RouteEvents::next` gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteEvent {
    /// Routes changed since the last call, each prefix once.
    Changes(Vec<RouteChange>),
    /// Sent once: every peer that sent the Graceful Restart capability gave End-of-RIB, or the deadline passed.
    /// What an earlier run left in the kernel and is not announced again may now be swept.
    InitialSync,
}

/// A session as `portolan status` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// The peer's name in the configuration.
    pub name: String,
    /// Its address.
    pub address: SocketAddr,
    /// Its AS as it said in its OPEN, or as configured.
    pub asn: Option<Asn>,
    /// Its BGP Identifier.
    pub router_id: Option<Ipv4Addr>,
    /// RFC 4271 §8.2.2 state: Idle, Connect, Active, OpenSent, OpenConfirm, Established.
    pub state: &'static str,
    /// For how long it has been Established.
    pub established_for: Option<Duration>,
    /// HoldTime agreed on.
    pub hold_time: Option<Duration>,
    /// Prefixes it announced and that we accepted.
    pub prefixes_received: usize,
    /// Prefixes it announced and that import rules reject.
    pub prefixes_rejected: usize,
    /// Prefixes announced to it.
    pub prefixes_sent: usize,
    /// UPDATEs received and sent.
    pub updates: (u64, u64),
    /// Why it was last down: a text for people, with the NOTIFICATION if there was one.
    pub last_down: Option<String>,
    /// How often it went from Established to down.
    pub flaps: u64,
}
