//! The verbs below `portolan policy`.

mod answer;
mod cli;
mod counts;
mod explain;
mod list;
mod near;
mod place;
mod show;
mod state;
mod table;
#[cfg(test)]
mod tests;
mod trail;
mod trial;
mod view;
mod words;

pub(crate) use answer::answer;
pub(crate) use cli::{PolicyArgs, run};
pub(crate) use place::{Destination, Place, PortName, Protocol};
pub(crate) use state::PolicyState;
pub(crate) use view::{DirectionView, FlowView, PolicyAnswer, PolicyQuestion, ShowView, SideView};
#[cfg(test)]
pub(crate) use view::{PolicyShown, RuleShown};
