//! Services in the modes that are not iptables: what is to be in the kernel comes in, and what is there goes out. Rules of
//! iptables are the firewall's; here it is seen to that one mode's objects go only once the other's are in force.
//!
//! ```text
//! core ─Goal─► service_proxy ─Applied─► firewall (keeps an earlier run's rules until then), status, conntrack's clean-up
//!                    ▲──Applied── firewall (whose rules are to be there before the others' objects go)
//! ```
//! A mode is added so: a value of [`ProxyMode`]; a compiler in `core::proxy::Compiler`; its objects in [`Goal`]; and in the task a
//! writer, which [`task::Writers`] asks to bring what is to be, and to remove everything of its kind where another mode serves.

mod nftables;
mod task;
mod virtuals;

use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use services::proxy::ipvs;
use tokio::sync::watch;

use crate::firewall;
pub(crate) use nftables::counted;
pub(crate) use task::clean;
pub(crate) use virtuals::{
    is_loaded as is_ipvs_loaded, is_used as is_ipvs_used, key as virtual_service_key,
};

/// By what Services are served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ProxyMode {
    /// Chains with kube-proxy's names, by iptables.
    #[default]
    Iptables,
    /// Tables of our own with maps: what a packet or a change costs does not grow with the number of Services.
    Nftables,
    /// Virtual services of the kernel's IPVS (module ip_vs), with a few rules by iptables.
    Ipvs,
}

impl ProxyMode {
    /// As `--proxy-mode` has it.
    pub(crate) fn name(self) -> String {
        let value = self.to_possible_value();
        value.map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

/// What is to be in the kernel.
#[derive(Clone, Debug, Default)]
pub(crate) struct Goal {
    /// That of the outputs; 0 means nothing published yet.
    pub(crate) generation: u64,
    /// By what Services are served; `None`: they are not.
    pub(crate) mode: Option<ProxyMode>,
    /// Of the mode nftables.
    pub(crate) nftables: Option<nftables::Tables>,
    /// What IPVS is to have.
    pub(crate) ipvs: Arc<ipvs::Desired>,
}

/// What the task reports.
#[derive(Clone, Debug, Default)]
pub(crate) struct Applied {
    /// The newest generation that is wholly in the kernel, as far as it isn't the firewall's.
    pub(crate) generation: u64,
    /// Why the newest try failed.
    pub(crate) error: Option<String>,
    /// Since when tries fail, if the newest did.
    pub(crate) failing_since: Option<Instant>,
    /// How long the last write took.
    pub(crate) last_duration: Duration,
    /// How many times something was written.
    pub(crate) writes: u64,
    /// How many times our objects were found changed by another, and mended.
    pub(crate) repairs: u64,
}

/// The task, seen from the others.
#[derive(Debug)]
pub(crate) struct Handle {
    pub(crate) goal: watch::Sender<Goal>,
    pub(crate) applied: watch::Receiver<Applied>,
}

impl Handle {
    /// Starts the task; nothing is written before the first goal.
    pub(crate) fn start(firewall: watch::Receiver<firewall::Applied>) -> Self {
        let (goal, goals) = watch::channel(Goal::default());
        let (report, applied) = watch::channel(Applied::default());
        tokio::spawn(task::run_task(goals, firewall, report));
        Self { goal, applied }
    }
}
