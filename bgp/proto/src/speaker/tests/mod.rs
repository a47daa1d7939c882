//! Whole speakers on a network in virtual time.

mod bfd;
mod dynamic;
mod families;
mod initial_sync;
mod lab;
mod limits;
mod next_hops;
mod nodes;
mod reflection;
mod reload;
mod restart;
mod router;
