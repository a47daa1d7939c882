//! What the speaker is told to be: the protocol's part of the configuration, and where and how to reach each peer.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU8;
use std::path::PathBuf;
use std::time::Duration;

use bgp_proto::bfd::BfdConfig;
use bgp_proto::rib::{Multipath, Originated};
use bgp_proto::session::PeerAs;
use bgp_proto::speaker::{PeerConfig, SpeakerConfig};
use bgp_proto::wire::Asn;
use ipnet::IpNet;

use crate::socket::SocketOptions;

/// The desired state of the speaker. Applying it again changes nothing; what a change does not concern is untouched.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Who we are.
    pub speaker: SpeakerConfig,
    /// Where to listen; empty: nowhere.
    pub listen: Vec<SocketAddr>,
    /// Peers by name.
    pub peers: BTreeMap<String, Peer>,
    /// What this node originates: its Pod CIDRs and service addresses.
    pub originate: BTreeMap<IpNet, Originated>,
    /// The node is about to leave: all that is sent bears GRACEFUL_SHUTDOWN (RFC 8326).
    pub draining: bool,
    /// How long peers of an earlier run are waited for after a start, at most a minute (RFC 4724 §4.1).
    pub restart_time: Duration,
    /// Where a BFD process that outlives this one is adopted, if there is one (`portolan bfd`).
    pub bfd_socket: Option<PathBuf>,
    /// That process is waited for, however long: BFD never runs in this one.
    pub bfd_awaited: bool,
    /// Route events are wanted; false for a pure route reflector, which then keeps none.
    pub route_events: bool,
}

impl Config {
    /// A speaker with neither peers nor sockets, and defaults for everything else.
    #[must_use]
    pub fn new(asn: Asn, router_id: Ipv4Addr) -> Self {
        Self {
            speaker: SpeakerConfig {
                asn,
                router_id,
                cluster_id: router_id,
                multipath: Multipath::default(),
            },
            listen: Vec::new(),
            peers: BTreeMap::new(),
            originate: BTreeMap::new(),
            draining: false,
            restart_time: Duration::from_secs(120),
            bfd_socket: None,
            bfd_awaited: false,
            route_events: true,
        }
    }
}

impl Peer {
    /// A peer at an address, dialled from `source` if given, with defaults for everything else.
    #[must_use]
    pub fn at(address: SocketAddr, asn: PeerAs, source: Option<IpAddr>) -> Self {
        Self {
            target: Target::Address(address),
            session: PeerConfig::new(asn),
            socket: SocketOptions {
                source,
                ..SocketOptions::default()
            },
            bfd: None,
        }
    }
}

/// One peer, or the peers of one range.
#[derive(Clone, Debug, PartialEq)]
pub struct Peer {
    /// Where it is.
    pub target: Target,
    /// The session with it.
    pub session: PeerConfig,
    /// How its sockets are set up.
    pub socket: SocketOptions,
    /// How BFD is spoken; its meaning for the session is in `session.bfd`, and both or neither are given.
    pub bfd: Option<Bfd>,
}

/// How BFD is spoken with a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bfd {
    /// Its timers.
    pub timers: BfdConfig,
    /// The peer is at most so many hops away (RFC 5883); `None`: on the link (RFC 5881).
    pub hops: Option<NonZeroU8>,
}

/// Where a peer is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Here; a connection from this address (any source port) is also taken. A link-local one has its scope id.
    Address(SocketAddr),
    /// Whoever answers on this interface (BGP unnumbered).
    Interface {
        /// The interface's name.
        name: String,
        /// The port to dial.
        port: u16,
    },
    /// Whoever dials from this range.
    Range {
        /// The range.
        range: IpNet,
        /// How many at once.
        limit: usize,
    },
}
