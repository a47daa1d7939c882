//! Who holds which address, for people; and what nobody holds any more, taken back.

mod absence;
mod answer;
mod check;
mod cli;
mod reclaim;
mod show;
mod state;
mod table;
#[cfg(test)]
mod tests;
mod view;

pub(crate) use answer::answer;
pub(crate) use cli::{IpamArgs, run};
pub(crate) use reclaim::{Reclaimed, run_task};
pub(crate) use state::IpamState;
pub(crate) use view::{IpamAnswer, IpamQuestion};
