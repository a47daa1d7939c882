//! BFD over UDP (RFC 5881, RFC 5883) on a thread of its own, whose timers no busy speaker delays.

mod discriminators;
mod events;
mod handle;
mod peer;
mod priority;
mod sessions;
mod socket;
mod worker;

pub use bgp_proto::bfd::{BfdConfig, Diagnostic, SessionState};
pub use handle::{BfdHandle, BfdStopped, spawn};
pub use peer::{BfdEvent, BfdPeer, BfdPeerStatus, BfdServiceStatus, BfdSettings};
