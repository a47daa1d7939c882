//! Who holds which address, for people; and what nobody holds any more, taken back.

mod absence;
mod reclaim;

pub(crate) use reclaim::{Reclaimed, run_task};
