//! Path attributes: one file each, a table of what holds for each, and the set of one UPDATE.

mod aggregator;
mod as_path;
mod communities;
mod encode;
mod mp;
mod next_hop;
mod opaque;
mod origin;
mod reflection;
mod scalar;
mod set;
pub(super) mod table;

pub(super) use encode::encode;
pub(super) use mp::{Reach, put_reach, put_unreach};
pub(super) use set::{AttributeSet, NextHops};
