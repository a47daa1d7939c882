//! `portolan bgp`: what the speaker knows, for eyes and for programs.

mod answer;
mod cli;
mod table;
mod view;

pub(crate) use answer::answer;
pub(crate) use cli::{BgpArgs, run};
#[cfg(test)]
pub(crate) use view::SessionView;
pub(crate) use view::{BgpAnswer, BgpQuestion, PeerView};
