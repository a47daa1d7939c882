//! The speaker against real FRR, BIRD, GoBGP and OpenBGPD: every feature both have, seen from both sides.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    missing_docs,
    unreachable_pub,
    reason = "a test"
)]

mod add_path;
mod attributes;
mod bfd;
mod dynamic;
mod filters;
mod lab;
mod limits;
mod multipath;
mod next_hops;
mod node;
mod openings;
mod raw;
mod reflection;
mod refresh;
mod restart;
mod roles;
mod security;
mod sessions;
mod shutdown;
mod slow;
