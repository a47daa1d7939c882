//! What is around the rules of Services: health checks, how long changes take, and what `portolan service` and status say.

mod announced;
mod answer;
mod cli;
mod counters;
mod handle;
mod health;
mod healthz;
mod in_force;
mod latency;
mod others;
mod report;
mod soundness;
mod state;
mod table;
mod view;
mod words;

pub(crate) use answer::answer;
pub(crate) use cli::{ServiceArgs, run};
pub(crate) use handle::{Goal, Handle};
pub(crate) use health::{HealthChecks, HealthReport};
pub(crate) use healthz::{HealthzAt, router};
pub(crate) use in_force::InForce;
pub(crate) use others::other_proxy;
pub(crate) use report::ServicesReport;
pub(crate) use soundness::Soundness;
pub(crate) use state::{Announced, ServiceState};
pub(crate) use view::{ServiceAnswer, ServiceQuestion};

#[cfg(test)]
mod tests;
