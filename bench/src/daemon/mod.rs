//! The daemons under test and how each is told the same thing: pass on everything to everybody.

mod bird;
mod frr;
mod gobgp;
mod openbgpd;
mod portolan;

pub(crate) use portolan::beside;
pub use portolan::{Speaker, SpeakerFile, said};

use anyhow::Result;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use tests::netns::Netns;

use crate::peer::Identity;

/// A daemon under test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Daemon {
    /// This project's.
    Portolan,
    /// BIRD 2.
    Bird,
    /// FRR.
    Frr,
    /// GoBGP.
    Gobgp,
    /// OpenBGPD.
    Openbgpd,
}

/// What the daemon does with routes besides passing them on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// Nothing.
    Untouched,
    /// The best path goes into the kernel.
    Best,
    /// All equally good paths go into the kernel.
    Multipath,
}

/// What a daemon is to be.
#[derive(Clone, Copy, Debug)]
pub struct Setup<'a> {
    /// Where it runs.
    pub netns: &'a Netns,
    /// Its peers; it waits for them to dial.
    pub peers: &'a [Identity],
    /// What it does with the kernel's routes.
    pub kernel: Kernel,
}

/// A started daemon; dropping it ends it.
pub trait Running {
    /// The end of its log, for an error's text.
    fn log_end(&self) -> String;
}

impl Daemon {
    /// Its name for people.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Portolan => "Portolan",
            Self::Bird => "BIRD",
            Self::Frr => "FRR",
            Self::Gobgp => "GoBGP",
            Self::Openbgpd => "OpenBGPD",
        }
    }

    /// Starts it. Returns when it answers; it may not listen yet.
    ///
    /// # Errors
    /// When it isn't installed or doesn't come up.
    pub fn start(self, setup: &Setup<'_>) -> Result<Box<dyn Running>> {
        match self {
            Self::Portolan => portolan::start(setup),
            Self::Bird => bird::start(setup),
            Self::Frr => frr::start(setup),
            Self::Gobgp => gobgp::start(setup),
            Self::Openbgpd => openbgpd::start(setup),
        }
    }

    /// Its version, as itself says it.
    ///
    /// # Errors
    /// When it isn't installed.
    pub fn version(self) -> Result<String> {
        match self {
            Self::Portolan => portolan::version(),
            Self::Bird => bird::version(),
            Self::Frr => frr::version(),
            Self::Gobgp => tests::gobgp::GoBgp::version(),
            Self::Openbgpd => tests::openbgpd::OpenBgpd::version(),
        }
    }

    /// Why it can't take part where routes go into the kernel, if it can't.
    #[must_use]
    pub fn lacks_kernel(self) -> Option<&'static str> {
        match self {
            Self::Gobgp => Some("writes no routes itself: it needs FRR's zebra"),
            Self::Openbgpd => Some("this version writes no routes on Linux"),
            Self::Portolan | Self::Bird | Self::Frr => None,
        }
    }
}
