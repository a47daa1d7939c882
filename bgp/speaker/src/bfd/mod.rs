//! BFD over UDP (RFC 5881, RFC 5883) on a thread of its own, whose timers no busy speaker delays.

mod client;
mod discriminators;
mod events;
mod frames;
mod handle;
mod peer;
mod priority;
pub mod server;
mod sessions;
mod socket;
mod thread;
mod worker;

pub use bgp_proto::bfd::{BfdConfig, Diagnostic, SessionState};
pub use handle::{BfdHandle, BfdStopped, connect, spawn};
pub use peer::{BfdEvent, BfdPeer, BfdPeerStatus, BfdServiceStatus, BfdSettings};
