//! The tokio shell around `bgp-proto`: sockets, timers and the one task that owns peers and RIBs.

mod config;
mod handle;

pub use config::{Config, PeerAs, PeerConfig, SpeakerConfig};
pub use handle::{PeerStatus, RouteChange, RouteEvent};
