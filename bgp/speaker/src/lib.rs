//! The tokio shell around `bgp-proto`: sockets, timers and the one task that owns the speaker.

mod actor;
pub mod bfd;
mod bfd_link;
mod bfd_paths;
mod config;
mod configure;
pub mod connection;
mod doors;
mod handle;
pub mod listener;
mod log;
mod peer;
mod route_events;
mod sessions;
pub mod socket;
pub mod unnumbered;

pub use bfd_paths::PathState;
pub use config::{Bfd, Config, Peer, Target};
pub use handle::{
    Forwarding, Handle, ListenerStatus, RouteChange, RouteEvent, Shutdown, Stopped, spawn,
    spawn_after,
};
pub use route_events::RouteEvents;
