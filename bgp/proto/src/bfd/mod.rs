//! Bidirectional Forwarding Detection (RFC 5880) without I/O: the packet and one session's state machine, asynchronous mode.
//!
//! The driver calls `handle_*` for what happened, then takes every [`BfdOutput`] until there is none, then arms one
//! timer for [`BfdSession::poll_timeout`]. Its duties:
//!
//! * Packets that have arrived are delivered before [`BfdSession::handle_timeout`] is called, with the time at which
//!   they were read.
//! * It selects the session by [`Packet::your_discriminator`], and if that is zero by source address and interface
//!   (RFC 5880 §6.8.6, RFC 5881 §3), and checks the TTL (RFC 5881 §5, RFC 5883 §5).
//! * Local discriminators are unique among its sessions and hard to guess.
//!
//! Not built: Demand mode of our own, the Echo function (we ask for none) and authentication (such packets are refused).

mod config;
mod output;
mod packet;
mod receive;
mod session;
#[cfg(test)]
mod tests;

pub use config::BfdConfig;
pub use output::{BfdOutput, BfdStatus};
pub use packet::{Diagnostic, Packet, PacketError, SessionState};
pub use receive::Received;
pub use session::BfdSession;
