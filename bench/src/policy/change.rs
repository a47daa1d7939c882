//! From a change to the kernel while a hundred changes a second come: by the agent's own histogram, and seen from outside.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ::tests::policy_lab::BackEnd;
use ::tests::wait::{eventually, pause};
use anyhow::{Context as _, Result, ensure};

use super::agent::{Node, nudge};
use super::cluster::{self, Churn};
use super::membership::Membership;
use super::{Effort, NodeRow, quantile};
use crate::figures::Figures;
use crate::usage::Watch;

const CHURN: usize = 30;
const PER_SECOND: usize = 100;
/// The watched pod changes so often.
const PROBE_EVERY: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(10);
/// So many times the watched pod goes in and out while nothing else changes, with this between.
const ALONE: usize = 50;
const ALONE_EVERY: Duration = Duration::from_millis(120);

/// A histogram's buckets.
pub(crate) type Buckets = Vec<(f64, f64)>;

pub(super) fn measure(row: NodeRow, effort: Effort) -> Result<Figures> {
    let head = [
        "back end",
        "seen by",
        "p50, ms",
        "p90, ms",
        "p99, ms",
        "at most, ms",
        "changes",
        "agent's CPU %",
        "foreign CPU",
    ];
    let mut figures = Figures::new(row, &head)?;
    for back_end in BackEnd::ALL {
        let (node, _) = Node::start(back_end, cluster::LOCAL)?;
        let outcome = churn(&node, effort.part_of(CHURN * PER_SECOND));
        let outcome = outcome.with_context(|| node.agent.log_end())?;
        let name = back_end.name();
        tell(&mut figures, name, &outcome);
        figures.note(format!(
            "{name}: {:.0} changes a second written; {}",
            outcome.rate,
            histogram_text(&outcome.own)
        ));
    }
    figures.note(
        "of ten changes six pods change labels, two come or go, one namespace changes labels, one policy its ports; once \
         a second a pod enters or leaves a set of its own, which is asked for by netlink every half millisecond",
    );
    figures.note(
        "changes are files renamed into the directory, which the agent reads some times a second under such churn, and at once \
         after the watched pod's (`sync`). Reading 10,000 pods' files and comparing them is in the netlink numbers and competes \
         with the rest. The agent's own numbers begin when a change arrives from its source; under churn some ten to fifty arrive \
         together and are one write, of which the oldest counts; quantiles of its histogram are interpolated in their bucket",
    );
    Ok(figures)
}

/// One back end's lines and bars.
fn tell(figures: &mut Figures, name: &str, outcome: &Outcome) {
    let (cpu, foreign) = (
        format!("{:.0}", outcome.processor * 100.0),
        format!("{:.0} %", outcome.foreign * 100.0),
    );
    for (what, buckets, cpu) in [
        (
            "one pod's change alone: the agent, from its arrival",
            &outcome.alone,
            "",
        ),
        (
            "under churn: the agent, from a change's arrival",
            &outcome.own,
            cpu.as_str(),
        ),
    ] {
        let own = |part| format!("{:.1}", of_histogram(buckets, part) * 1e3);
        figures.line([
            name.to_owned(),
            what.to_owned(),
            own(0.5),
            own(0.9),
            own(0.99),
            format!("{:.0}", highest(buckets) * 1e3),
            format!("{:.0}", buckets.last().map_or(0.0, |bucket| bucket.1)),
            cpu.to_owned(),
            foreign.clone(),
        ]);
    }
    for (what, seen) in [
        (
            "one pod's change alone: netlink, from the file's renaming",
            &outcome.seen_alone,
        ),
        (
            "under churn: netlink, from the file's renaming",
            &outcome.seen,
        ),
    ] {
        let seen_at = |part| format!("{:.1}", quantile(seen, part) * 1e3);
        figures.line([
            name.to_owned(),
            what.to_owned(),
            seen_at(0.5),
            seen_at(0.9),
            seen_at(0.99),
            seen_at(1.0),
            seen.len().to_string(),
            String::new(),
            foreign.clone(),
        ]);
    }
    for (what, buckets) in [("alone", &outcome.alone), ("under churn", &outcome.own)] {
        let own = |part| of_histogram(buckets, part) * 1e3;
        figures.bar(
            format!("p50 {what} by the agent on {name}, ms"),
            own(0.5),
            10.0,
        );
        figures.bar(
            format!("p99 {what} by the agent on {name}, ms"),
            own(0.99),
            50.0,
        );
    }
}

struct Outcome {
    /// The agent's histogram under churn, and of the watched pod's changes alone.
    own: Buckets,
    alone: Buckets,
    seen: Vec<f64>,
    seen_alone: Vec<f64>,
    rate: f64,
    processor: f64,
    foreign: f64,
}

fn churn(node: &Node, changes: usize) -> Result<Outcome> {
    let (folder, run_dir) = (node.manifests(), node.agent.run_dir());
    let probe = Probe::new(node, &folder, &run_dir)?;
    node.agent.wait_settled()?;
    let histogram = || node.histogram("portolan_policy_event_to_kernel_seconds");
    let quiet = histogram()?;
    let seen_alone = probe.alone(ALONE)?;
    let before = histogram()?;
    let alone = since(&before, &quiet);
    let watch = Watch::start(&node.netns)?;
    let start = Instant::now();
    let is_over = AtomicBool::new(false);
    let seen = std::thread::scope(|scope| {
        let prober = scope.spawn(|| probe.run(&is_over));
        let written = write_changes(&folder, changes);
        is_over.store(true, Ordering::Relaxed);
        let seen = prober
            .join()
            .map_err(|_| anyhow::anyhow!("the prober panicked"))?;
        written.and(seen)
    })?;
    let elapsed = start.elapsed().as_secs_f64();
    let usage = watch.usage()?;
    Ok(Outcome {
        own: since(&histogram()?, &before),
        alone,
        seen_alone,
        rate: changes as f64 / elapsed,
        processor: usage.daemon.as_secs_f64() / elapsed,
        foreign: usage.foreign,
        seen,
    })
}

/// What came into a histogram since.
pub(crate) fn since(now: &Buckets, then: &Buckets) -> Buckets {
    let counts = now.iter().zip(then);
    counts.map(|(now, then)| (now.0, now.1 - then.1)).collect()
}

fn write_changes(folder: &Path, changes: usize) -> Result<()> {
    let mut churn = Churn::new();
    let start = Instant::now();
    for number in 0..changes {
        let due = start + Duration::from_secs(1) * u32::try_from(number)? / PER_SECOND as u32;
        pause(due.saturating_duration_since(Instant::now()))?;
        let (name, text) = churn.next();
        cluster::put(folder, &name, text.as_deref())?;
    }
    Ok(())
}

/// The pod that enters and leaves a set.
struct Probe {
    membership: Membership,
    folder: PathBuf,
    run_dir: PathBuf,
}

impl Probe {
    /// Finds its set: the one that holds its address once its labels say so.
    fn new(node: &Node, folder: &Path, run_dir: &Path) -> Result<Self> {
        let address = Ipv4Addr::from(cluster::PROBE);
        cluster::put(folder, "probe.json", Some(&cluster::probe(true)))?;
        let set = eventually(PATIENCE, "the probe's set", || {
            let listed = node.netns.run("ipset", &["save"])?;
            let line = listed.lines().find_map(|line| {
                let (set, member) = line.strip_prefix("add ")?.split_once(' ')?;
                (member.split(' ').next() == Some(&address.to_string())).then(|| set.to_owned())
            });
            line.context("no set has it")
        })?;
        Ok(Self {
            membership: Membership::new(&node.netns, &set, address)?,
            folder: folder.to_owned(),
            run_dir: run_dir.to_owned(),
        })
    }

    /// In and out until all is over; seconds of each.
    fn run(&self, is_over: &AtomicBool) -> Result<Vec<f64>> {
        let (mut on, mut seen) = (true, Vec::new());
        while !is_over.load(Ordering::Relaxed) {
            on = !on;
            let took = self.toggle(on)?;
            seen.push(took.as_secs_f64());
            pause(PROBE_EVERY.saturating_sub(took))?;
        }
        Ok(seen)
    }

    /// In and out so many times while nothing else changes; it ends inside.
    fn alone(&self, times: usize) -> Result<Vec<f64>> {
        let mut seen = Vec::new();
        for number in 0..times * 2 {
            seen.push(self.toggle(number % 2 == 1)?.as_secs_f64());
            pause(ALONE_EVERY)?;
        }
        Ok(seen)
    }

    /// Puts it in or takes it out, and says how long that took.
    fn toggle(&self, on: bool) -> Result<Duration> {
        let start = Instant::now();
        cluster::put(&self.folder, "probe.json", Some(&cluster::probe(on)))?;
        let _asked = nudge(&self.run_dir)?;
        while self.membership.is_there()? != on {
            ensure!(
                start.elapsed() < PATIENCE,
                "the probe isn't in force within {PATIENCE:?}"
            );
            std::thread::sleep(Duration::from_micros(500));
        }
        Ok(start.elapsed())
    }
}

/// The value below which this part lies, interpolated in its bucket.
pub(crate) fn of_histogram(buckets: &[(f64, f64)], part: f64) -> f64 {
    let rank = buckets.last().map_or(0.0, |bucket| bucket.1) * part;
    let (mut low, mut below) = (0.0, 0.0);
    for (bound, count) in buckets {
        if *count >= rank && *count > below {
            let inside = (rank - below) / (count - below);
            return if bound.is_finite() {
                low + (bound - low) * inside
            } else {
                low
            };
        }
        (low, below) = (*bound, *count);
    }
    low
}

/// The bound of the highest bucket that holds something.
fn highest(buckets: &[(f64, f64)]) -> f64 {
    let all = buckets.last().map_or(0.0, |bucket| bucket.1);
    let full = buckets.iter().find(|bucket| bucket.1 >= all);
    full.map_or(0.0, |bucket| bucket.0)
}

fn histogram_text(buckets: &[(f64, f64)]) -> String {
    let mut below = 0.0;
    let mut parts = Vec::new();
    for (bound, count) in buckets {
        if *count > below {
            parts.push(format!("≤ {} ms: {:.0}", bound * 1e3, count - below));
        }
        below = *count;
    }
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_lie_in_their_bucket() {
        let buckets = [
            (0.001, 10.0),
            (0.01, 90.0),
            (0.1, 100.0),
            (f64::INFINITY, 100.0),
        ];
        assert_eq!(of_histogram(&buckets, 0.1), 0.001);
        assert!((of_histogram(&buckets, 0.5) - 0.0055).abs() < 1e-9);
        assert!((of_histogram(&buckets, 0.99) - 0.091).abs() < 1e-9);
        assert_eq!(highest(&buckets), 0.1);
        assert_eq!(
            histogram_text(&buckets),
            "≤ 1 ms: 10, ≤ 10 ms: 80, ≤ 100 ms: 10"
        );
    }
}
