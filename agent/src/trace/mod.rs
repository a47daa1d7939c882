//! `portolan trace`: follows one path by real probes, hop by hop, and names the hop where it ends; it changes nothing.

mod arrivals;
mod catalog;
pub(crate) mod checksums;
mod cli;
mod evidence;
mod gather;
mod judge;
mod outcome;
mod packet;
mod rules;
mod sender;
mod session;
mod watch;
mod ways;

pub(crate) use cli::{TraceArgs, run};
