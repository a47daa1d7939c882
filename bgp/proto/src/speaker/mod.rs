//! A whole speaker without I/O: every peer's session, the RIBs, graceful restart, and the timers between them.
//!
//! The driver owns sockets and clocks. It calls `handle_*` for what happened, then takes every [`Action`] until there
//! is none, offers room to peers by [`Speaker::poll_transmit`], takes route changes, and arms one timer for
//! [`Speaker::poll_timeout`]. The duties of [`crate::session`]'s driver are its duties too.

mod config;
mod configure;
mod core;
mod dynamic;
mod events;
mod follow;
mod liveness;
mod peer;
mod restart;
mod status;
#[cfg(test)]
mod tests;

pub use self::core::{Speaker, StopAs};
pub use config::{
    AddPath, Bfd, Config, GracefulRestartConfig, MaxPrefixes, PeerConfig, RangeConfig, Restart,
    SpeakerConfig,
};
pub use events::{Action, Endpoints, Gateway, PeerEvent};
pub use status::{Advertised, PeerStatus, Received};
