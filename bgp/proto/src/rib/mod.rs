//! The RIBs (RFC 4271 §3.2): what peers announced, which path is best, what each peer is to be told.

mod attributes;
mod columns;
mod config;
mod decision;
mod engine;
mod explain;
mod export;
mod groups;
mod hash;
mod import;
mod intake;
mod members;
mod next_hops;
mod paths;
mod peers;
mod prefixes;
mod regroup;
mod restart;
mod settle;
mod store;
mod transmit;
mod views;

#[cfg(test)]
mod tests;

pub use config::{BestChange, Multipath, Originated, PrefixWarning, RibConfig};
pub use decision::{Candidate, Step, decide};
pub use engine::Rib;
pub use explain::{Explanation, Export, Loss, PathExplanation};
pub use export::{ExportPolicy, NextHopMode, Refusal};
pub use import::{ImportPolicy, Verdict};
pub use next_hops::{NextHop, NextHops};
pub use peers::{PeerCounts, PeerId, PeerInfo, PeerPolicy};
pub use store::NextHopState;
pub use views::{PathView, RouteView};
