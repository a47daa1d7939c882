//! How long after a kubelet has said it a new peer's address is in the kernel's set.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use ::tests::wait::eventually;
use anyhow::{Context as _, Result, ensure};

use super::churn::Selected;
use super::lab::Lab;
use super::{Costs, changer, costs_of, since};
use crate::policy::change::Buckets;
use crate::policy::membership::Membership;

const PATIENCE: Duration = Duration::from_secs(30);
const HISTOGRAM: &str = "portolan_policy_event_to_kernel_seconds";

/// What was seen of the selected pods.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Seconds until each was in the set.
    pub(super) seconds: Vec<f64>,
    /// How many were deleted before.
    pub(super) missed: usize,
}

/// What was seen of each selected pod, the agent's own histogram, and what it all cost.
pub(super) fn under_churn(
    lab: &Lab,
    used: &AtomicUsize,
    lasts: Duration,
) -> Result<(Seen, Buckets, Costs)> {
    // Of several namespaces: a set that others of our policies have made for one of these is not meant.
    let makes = |_| changer(lab, used).make_selected();
    let set = set_of(lab, &(0..4).map(makes).collect::<Result<Vec<_>>>()?)?;
    let before = lab.node.histogram(HISTOGRAM)?;
    let (tell, told) = mpsc::channel();
    let (seen, costs) = std::thread::scope(|scope| {
        let watcher = scope.spawn(move || watch(lab, &set, &told));
        let changer = changer(lab, used);
        let costs = costs_of(lab, Some(lab.agent()?), || changer.run(lasts, &tell));
        drop(tell);
        let seen = watcher
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        Ok::<_, anyhow::Error>((seen, costs?))
    })?;
    ensure!(
        !seen.seconds.is_empty(),
        "no selected pod was ever seen: {seen:?}"
    );
    let own = since(&lab.node.histogram(HISTOGRAM)?, &before);
    Ok((seen, own, costs))
}

/// The set that holds all these addresses.
fn set_of(lab: &Lab, addresses: &[Ipv4Addr]) -> Result<String> {
    eventually(PATIENCE, "a set with the selected pods", || {
        let saved = lab.node.netns.run("ipset", &["save"])?;
        let mut held: BTreeMap<&str, BTreeSet<Ipv4Addr>> = BTreeMap::new();
        for line in saved.lines() {
            let Some((set, member)) = line.strip_prefix("add ").and_then(|it| it.split_once(' '))
            else {
                continue;
            };
            let address = member.split([' ', ',']).next().map(str::parse);
            if let Some(Ok(address)) = address
                && addresses.contains(&address)
            {
                held.entry(set).or_default().insert(address);
            }
        }
        let whole = held.iter().find(|(_, held)| held.len() == addresses.len());
        whole
            .map(|(set, _)| (*set).to_owned())
            .context("no set has them")
    })
}

/// Asks for each that is told until it is there; ends when nobody tells any more and all were.
///
/// # Errors
/// If one is neither there nor deleted long after the last was told.
fn watch(lab: &Lab, set: &str, told: &mpsc::Receiver<Selected>) -> Result<Seen> {
    let (mut waiting, mut seen) = (Vec::new(), Seen::default());
    let mut ended: Option<Instant> = None;
    while ended.is_none() || !waiting.is_empty() {
        ensure!(
            ended.is_none_or(|ended| ended.elapsed() < PATIENCE),
            "{} selected pods are in no set after {PATIENCE:?}",
            waiting.len()
        );
        match told.recv_timeout(Duration::from_millis(1)) {
            Ok(pod) => {
                let asked = Membership::new(&lab.node.netns, set, pod.address)?;
                waiting.push((asked, pod));
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                ended.get_or_insert_with(Instant::now);
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        let mut left = Vec::new();
        for (asked, pod) in waiting {
            // Looked at before it is asked for: what is there was there before it went.
            let is_gone = pod.is_gone.load(Ordering::Relaxed);
            if asked.is_there()? {
                seen.seconds.push(pod.since.elapsed().as_secs_f64());
            } else if is_gone {
                seen.missed += 1;
            } else {
                left.push((asked, pod));
            }
        }
        waiting = left;
    }
    Ok(seen)
}
