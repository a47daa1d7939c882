//! What the local system wants of one BFD session.

use std::num::NonZeroU8;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The configuration of one session (RFC 5880 §6.8.1). Durations are sent in whole microseconds; one that is zero or
/// too long for the field is taken as the nearest that fits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BfdConfig {
    /// The least time between two packets of ours while Up (`bfd.DesiredMinTxInterval`); before, it is at least a second.
    pub desired_min_tx: Duration,
    /// The least time between two packets that we can take (`bfd.RequiredMinRxInterval`).
    pub required_min_rx: Duration,
    /// How many of our packets may be lost before the peer finds us gone (`bfd.DetectMult`).
    pub detect_multiplier: NonZeroU8,
    /// Whether this session outlives the control plane of the local system: the C bit (RFC 5882 §4.3).
    pub control_plane_independent: bool,
    /// Whether nothing is sent until the peer has (RFC 5880 §6.1, passive role).
    pub passive: bool,
}

impl BfdConfig {
    /// The same with durations the packet can carry.
    pub(super) fn fitting(mut self) -> Self {
        self.desired_min_tx = fitting(self.desired_min_tx);
        self.required_min_rx = fitting(self.required_min_rx);
        self
    }

    /// Whether both ask for the same intervals, so that no Poll Sequence is needed between them.
    pub(super) fn same_intervals(&self, other: &Self) -> bool {
        (self.desired_min_tx, self.required_min_rx) == (other.desired_min_tx, other.required_min_rx)
    }
}

fn fitting(duration: Duration) -> Duration {
    let micros = u32::try_from(duration.as_micros()).unwrap_or(u32::MAX);
    Duration::from_micros(u64::from(micros.max(1)))
}
