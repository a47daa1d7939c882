//! Our chains and sets in the kernel: which iptables back end holds them, what is written when, and how damage heals.

mod backend;
mod blame;
mod broken;
mod held;
mod kernel;
mod latency;
mod notices;
mod pace;
mod programs;
mod ready;
mod set_counts;
mod state;
mod task;

pub(crate) use backend::{Backend, Choice};
pub(crate) use held::{Held, read_held};
pub(crate) use latency::Histogram;
pub(crate) use programs::{Look, all_counted};
pub(crate) use state::{Applied, Desired, ServiceRules, Stamp};
pub(crate) use task::{Task, WithoutPolicy, clean, run_without_policy};
