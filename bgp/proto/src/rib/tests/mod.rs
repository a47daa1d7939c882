//! Tests of the RIBs as a whole.

mod add_path;
pub(in crate::rib) mod fixtures;
mod groups;
mod multipath;
mod order;
mod packing;
mod reference;
mod restarts;
mod rules;
mod views;
