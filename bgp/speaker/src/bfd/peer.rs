//! What the BFD thread is told and what it tells.

use std::collections::BTreeMap;
use std::net::IpAddr;

use bgp_proto::bfd::{BfdConfig, BfdStatus, Diagnostic};
use serde::{Deserialize, Serialize};

/// One peer whose path is watched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BfdPeer {
    /// Its address.
    pub remote: IpAddr,
    /// Our address towards it; when None the route decides.
    pub local: Option<IpAddr>,
    /// The index of the interface it is on; needed for a link-local address.
    pub interface: Option<u32>,
    /// The least TTL accepted from a peer more than one hop away (RFC 5883); None for a peer on the link (RFC 5881).
    pub multihop: Option<u8>,
    /// Timers and role. Its C bit is not used: [`BfdSettings::control_plane_independent`] decides.
    pub config: BfdConfig,
}

/// What holds for all sessions of a thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BfdSettings {
    /// The UDP port of single-hop sessions, ours and the peers'.
    pub single_hop_port: u16,
    /// The UDP port of multihop sessions, ours and the peers'.
    pub multihop_port: u16,
    /// The C bit of every session: whether this process outlives the control plane (RFC 5882 §4.3).
    pub control_plane_independent: bool,
}

impl Default for BfdSettings {
    /// The ports of RFC 5881 §4 and RFC 5883 §5, in the control plane's own process.
    fn default() -> Self {
        Self {
            single_hop_port: 3784,
            multihop_port: 4784,
            control_plane_independent: false,
        }
    }
}

/// Something that happened to a session, by the name its peer was configured under.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BfdEvent {
    /// The path works.
    Up {
        /// The peer's name.
        peer: String,
    },
    /// The session was Up and is no longer.
    Down {
        /// The peer's name.
        peer: String,
        /// Why.
        diagnostic: Diagnostic,
        /// The peer's operator ended BFD; the path has not failed (RFC 5882 §4.2).
        remote_admin_down: bool,
        /// The peer's session is another one that has just begun; the path has not failed either.
        begun_anew: bool,
        /// Both sides had set C: the failure is one of the forwarding plane, whatever restarts (RFC 5882 §4.3).
        control_plane_independent: bool,
    },
    /// Timers in force or the C bit of an Up session changed; the status has them.
    Changed {
        /// The peer's name.
        peer: String,
    },
}

impl BfdEvent {
    /// The peer's name.
    #[must_use]
    pub fn peer(&self) -> &str {
        match self {
            Self::Up { peer } | Self::Down { peer, .. } | Self::Changed { peer } => peer,
        }
    }
}

/// One session at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BfdPeerStatus {
    /// Its state machine.
    pub session: BfdStatus,
    /// Packets sent.
    pub sent: u64,
    /// Packets received and accepted.
    pub received: u64,
    /// Why packets can't be sent at present.
    pub send_error: Option<String>,
}

/// The thread at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BfdServiceStatus {
    /// The sessions by their peers' names.
    pub peers: BTreeMap<String, BfdPeerStatus>,
    /// Why a port that is needed isn't open; it is tried again each second.
    pub listen_errors: Vec<String>,
    /// Packets that no session took, or that failed a check.
    pub discarded: u64,
}
