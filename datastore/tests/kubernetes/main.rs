//! The Kubernetes source against a small server that does what API servers do, and what goes wrong with them.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::too_many_lines,
    reason = "tests"
)]

mod faults;
mod heard;
mod lab;
mod objects;
mod server;
mod store;
