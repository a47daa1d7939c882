//! What a BFD session tells its driver.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::packet::{Diagnostic, Packet, SessionState};

/// Something the driver has to do or to pass on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BfdOutput {
    /// Send this packet now.
    Send(Packet),
    /// The session has come Up: the path works both ways.
    Up,
    /// The session was Up and no longer is. Not told after [`handle_admin_down`](super::BfdSession::handle_admin_down),
    /// whose caller knows.
    Down {
        /// Why, as we now tell the peer.
        diagnostic: Diagnostic,
        /// The peer has gone to AdminDown: its operator ended BFD, which says nothing about the path, and the
        /// routing protocol's session stays (RFC 5882 §4.2).
        remote_admin_down: bool,
        /// The peer's session is another one that has just begun: it was made anew (FRR does that when it learns the
        /// address of a BGP session) or its process restarted. What was heard of it came over the path.
        begun_anew: bool,
    },
}

/// A session at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BfdStatus {
    /// Our state.
    pub state: SessionState,
    /// Why our state last changed.
    pub diagnostic: Diagnostic,
    /// The peer's state as it last told; Down when it has been silent for a Detection Time.
    pub remote_state: SessionState,
    /// Why the peer's state last changed, as it last told.
    pub remote_diagnostic: Diagnostic,
    /// Our discriminator.
    pub local_discriminator: u32,
    /// The peer's; 0 when not known.
    pub remote_discriminator: u32,
    /// The time between two packets of ours, before jitter. None when none are sent periodically.
    pub transmit_interval: Option<Duration>,
    /// How long the peer may be silent (RFC 5880 §6.8.4). None before it was heard.
    pub detection_time: Option<Duration>,
    /// Whether a Poll Sequence is under way.
    pub polling: bool,
    /// Whether both sides set the C bit in their last packets (RFC 5882 §4.3).
    pub control_plane_independent: bool,
}
