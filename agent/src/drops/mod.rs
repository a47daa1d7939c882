//! Denied packets, seen: the kernel shows some of them by NFLOG, and the newest are kept for `portolan policy drops`.

mod answer;
mod flag;
mod ring;
mod table;
mod task;

pub(crate) use answer::answer;
pub(crate) use flag::drop_log;
pub(crate) use ring::{Dropped, DropsAnswer, DropsReport, Ring};
pub(crate) use table::{HEADING, line};
pub(crate) use task::run_task;
