//! `portolan bgp`: what the speaker knows, for eyes and for programs.

mod answer;
mod cli;
mod table;
mod view;

pub(crate) use answer::answer;
pub(crate) use cli::{BgpArgs, run};
pub(crate) use view::{BgpAnswer, BgpQuestion};
