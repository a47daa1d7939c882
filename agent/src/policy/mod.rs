//! The verbs below `portolan policy`.

mod cli;

pub(crate) use cli::{PolicyArgs, run};
