//! The rows of the table: what is measured, and the bar each has to meet.

mod exchange;
mod idle;
mod kernel;
mod loss;

use anyhow::Result;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::daemon::{Daemon, Kernel, Setup};
use crate::rig::Rig;

/// A row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
pub enum Row {
    /// One feed of 1,000,000 prefixes, out to one other peer.
    #[value(name = "feed-1m")]
    #[serde(rename = "feed-1m")]
    Feed,
    /// 20 peers with 10,000 prefixes each, to all.
    #[value(name = "mesh-20x10k")]
    #[serde(rename = "mesh-20x10k")]
    Mesh,
    /// 10 peers with the same 100,000 prefixes.
    #[value(name = "same-10x100k")]
    #[serde(rename = "same-10x100k")]
    Same,
    /// 100,000 routes into the kernel.
    #[value(name = "kernel-100k")]
    #[serde(rename = "kernel-100k")]
    Kernel,
    /// 50,000 routes with two paths, one of them lost.
    #[value(name = "peer-loss-50k")]
    #[serde(rename = "peer-loss-50k")]
    Loss,
    /// 4 peers and 5,000 routes, nothing happens.
    #[value(name = "idle")]
    #[serde(rename = "idle")]
    Idle,
}

/// One measurement of one daemon.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Sample {
    /// How long it took; for [`Row::Idle`] how long it was watched. Seconds.
    pub seconds: f64,
    /// The most memory ever resident, of all its processes; for [`Row::Idle`] what is resident. KiB.
    pub memory_kib: u64,
    /// Its processor time while measured, seconds.
    pub processor_seconds: f64,
    /// Processor time of neither the daemon nor the generator, as a part of all processors.
    pub foreign: f64,
    /// What was counted: prefixes delivered to peers, or routes in the kernel.
    pub routes: usize,
}

/// A daemon has fallen silent in a state that is not the right one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("ends wrong: {held} of {total} routes are held by the best path when it falls silent")]
pub struct Astray {
    /// Routes that are at their peers by the right path.
    pub held: usize,
    /// All that should be.
    pub total: usize,
}

/// A prepared load, put to one daemon after the other.
pub trait Load {
    /// Measures one daemon once.
    ///
    /// # Errors
    /// When it doesn't start, loses a session or doesn't get done in time.
    fn measure(&self, daemon: Daemon) -> Result<Sample>;
}

impl Row {
    /// Its name, as `ONLY` takes it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Feed => "feed-1m",
            Self::Mesh => "mesh-20x10k",
            Self::Same => "same-10x100k",
            Self::Kernel => "kernel-100k",
            Self::Loss => "peer-loss-50k",
            Self::Idle => "idle",
        }
    }

    /// What is measured, for people.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Feed => "one eBGP feed of 1,000,000 prefixes, out to one other peer",
            Self::Mesh => "20 peers with 10,000 prefixes each, to all 20",
            Self::Same => "10 peers with the same 100,000 prefixes, paths of different length",
            Self::Kernel => "100,000 BGP routes into the kernel",
            Self::Loss => {
                "50,000 routes with two paths, one peer's connection is reset: until no route uses it"
            }
            Self::Idle => "4 peers and 5,000 routes, nothing happens for 20 s",
        }
    }

    /// Why a daemon has no place in this row, if so.
    #[must_use]
    pub fn excludes(self, daemon: Daemon) -> Option<&'static str> {
        match self {
            Self::Kernel | Self::Loss => daemon.lacks_kernel(),
            Self::Feed | Self::Mesh | Self::Same | Self::Idle => None,
        }
    }

    /// Draws the load: at `scale` 1 as its title says, else that part of the prefixes.
    ///
    #[must_use]
    pub fn prepare(self, scale: f64) -> Box<dyn Load> {
        let scaled = |count: f64| (count * scale).max(10.0) as usize;
        match self {
            Self::Feed => Box::new(exchange::feed(scaled(1e6))),
            Self::Mesh => Box::new(exchange::mesh(20, scaled(1e4))),
            Self::Same => Box::new(exchange::same(10, scaled(1e5))),
            Self::Kernel => Box::new(kernel::load(scaled(1e5))),
            Self::Loss => Box::new(loss::load(scaled(5e4))),
            Self::Idle => Box::new(idle::load(4, scaled(5e3))),
        }
    }
}

/// Starts `daemon` in the rig; its log's end is added to what `work` fails with.
fn with_daemon<T>(
    daemon: Daemon,
    rig: &Rig,
    kernel: Kernel,
    work: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let running = daemon.start(&Setup {
        netns: &rig.daemon,
        peers: &rig.peers,
        kernel,
    })?;
    work().map_err(|error| error.context(running.log_end()))
}
