//! Tests of the RIBs as a whole.

pub(in crate::rib) mod fixtures;
mod order;
mod packing;
mod rules;
