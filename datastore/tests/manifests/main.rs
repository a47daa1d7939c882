//! The directory as its users treat it: editors, kubelet's links, slips of the pen, malice.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test"
)]

mod blocks;
mod events;
mod files;
mod lab;
mod policy;
mod secrets;
mod status;
