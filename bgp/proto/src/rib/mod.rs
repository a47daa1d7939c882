//! The RIBs (RFC 4271 §3.2): what peers announced, which path is best, what each peer is to be told.

mod adj_rib_out;
mod attributes;
mod decision;
mod engine;
mod export;
mod import;
mod peers;
mod table;

#[cfg(test)]
mod tests;

pub use decision::{Candidate, decide};
pub use engine::{BestChange, Rib, RibConfig};
pub use export::ExportPolicy;
pub use peers::{PeerCounts, PeerId, PeerInfo, PeerPolicy};
