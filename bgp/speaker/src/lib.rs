//! The tokio shell around `bgp-proto`: sockets, timers and the one task that owns peers and RIBs.

mod actor;
pub mod bfd;
mod config;
mod configure;
pub mod connection;
mod handle;
pub mod listener;
mod peer;
mod route_events;
mod sessions;
pub mod socket;
pub mod unnumbered;

pub use config::{Config, PeerAs, PeerConfig, SpeakerConfig};
pub use handle::{
    Forwarding, Handle, ListenerStatus, PeerStatus, RouteChange, RouteEvent, Shutdown, Stopped,
    spawn, spawn_after,
};
pub use route_events::RouteEvents;
