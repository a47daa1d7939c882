//! The task that writes this node's BGPNodeStatus: on a state change, and not oftener than people can read.

mod compose;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use api::crd::BgpNodeStatusStatus;
use bgp_speaker::Handle;
use datastore::StatusWriter;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tracing::warn;

use crate::speaker::Compiled;
pub(crate) use compose::time;
use compose::{Composer, essence};

/// How often the speaker is asked.
const LOOK: Duration = Duration::from_secs(1);
/// The least time between two writes.
const PAUSE: Duration = Duration::from_secs(10);
/// The least time before a write that only brings counts up to date: exact ones are metrics.
const COUNTS: Duration = Duration::from_secs(60);

/// What the configuration says of this node's speaker.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Configured {
    as_number: u32,
    router_id: Option<std::net::Ipv4Addr>,
    accepted: BTreeSet<String>,
    refused: BTreeMap<String, String>,
}

impl From<&Compiled> for Configured {
    fn from(compiled: &Compiled) -> Self {
        let speaker = &compiled.config.speaker;
        Self {
            as_number: speaker.asn.0,
            router_id: Some(speaker.router_id),
            accepted: compiled.accepted.clone(),
            refused: compiled.refused.clone(),
        }
    }
}

/// Runs until the speaker ends.
pub(crate) async fn run_task(
    speaker: Handle,
    configured: watch::Receiver<Configured>,
    writer: StatusWriter,
) {
    let mut composer = Composer::default();
    let mut throttle = Throttle::default();
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let Ok(peers) = speaker.status().await else {
            return;
        };
        let configured = configured.borrow().clone();
        let status = composer.compose(&configured, &peers, std::time::SystemTime::now());
        let now = Instant::now();
        if !throttle.is_due(now, &status) {
            continue;
        }
        // What failed counts as written, so that a full disk is not asked every second.
        let failed = writer.publish_bgp(status.clone()).await.err();
        throttle.written(now, status);
        if let Some(error) = failed {
            throttle.forget();
            warn!(%error, "cannot publish this node's BGPNodeStatus; trying again");
        }
    }
}

/// When a write is due.
#[derive(Debug, Default)]
struct Throttle {
    at: Option<Instant>,
    last: Option<BgpNodeStatusStatus>,
}

impl Throttle {
    fn is_due(&self, now: Instant, status: &BgpNodeStatusStatus) -> bool {
        let Some(at) = self.at else {
            return true;
        };
        let since = now.saturating_duration_since(at);
        let Some(last) = &self.last else {
            return since >= PAUSE;
        };
        if essence(last) != essence(status) {
            return since >= PAUSE;
        }
        since >= COUNTS && compose::counts(last) != compose::counts(status)
    }

    fn written(&mut self, now: Instant, status: BgpNodeStatusStatus) {
        self.at = Some(now);
        self.last = Some(status);
    }

    /// What was to be written is not there.
    fn forget(&mut self) {
        self.last = None;
    }
}

#[cfg(test)]
mod tests;
