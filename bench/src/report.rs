//! What was measured as a table with ratios, and each row's bar: met, or missed by how much.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::daemon::Daemon;
use crate::figures::Figures;
use crate::machine::Machine;
use crate::rows::{Row, Sample};

/// All that was measured of a row in one run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    /// The row.
    pub row: Row,
    /// On what.
    pub machine: Machine,
    /// The part of the prefixes that the title names: 1 for all of them.
    pub scale: f64,
    /// The daemons' versions.
    pub versions: BTreeMap<Daemon, String>,
    /// The samples, in the order in which they were taken.
    pub samples: BTreeMap<Daemon, Vec<Sample>>,
    /// Why a daemon has none.
    pub absent: BTreeMap<Daemon, String>,
}

/// A bar of the design's table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bar {
    /// What it is about.
    pub what: String,
    /// What was measured.
    pub got: f64,
    /// What it may be at most.
    pub most: f64,
}

impl Bar {
    /// Whether it is met.
    #[must_use]
    pub fn is_met(&self) -> bool {
        self.got <= self.most
    }

    /// What is compared, and how it came out.
    #[must_use]
    pub fn text(&self) -> String {
        let verdict = if self.is_met() {
            "met".to_owned()
        } else {
            format!("MISSED by {:.0} %", (self.got / self.most - 1.0) * 100.0)
        };
        let Self { what, got, most } = self;
        format!("{what}: {got:.3}, at most {most:.3}: {verdict}")
    }
}

/// The median of each quantity of some samples.
#[derive(Clone, Copy, Debug)]
struct Median {
    seconds: f64,
    memory_mib: f64,
    processor: f64,
    foreign: f64,
    routes: f64,
}

impl Median {
    fn of(samples: &[Sample]) -> Option<Self> {
        let middle = |pick: fn(&Sample) -> f64| {
            let mut values: Vec<f64> = samples.iter().map(pick).collect();
            values.sort_by(f64::total_cmp);
            values.get(values.len() / 2).copied()
        };
        Some(Self {
            seconds: middle(|sample| sample.seconds)?,
            memory_mib: middle(|sample| sample.memory_kib as f64 / 1024.0)?,
            processor: middle(|sample| sample.processor_seconds)?,
            foreign: middle(|sample| sample.foreign)?,
            routes: middle(|sample| sample.routes as f64)?,
        })
    }
}

impl Record {
    fn medians(&self) -> BTreeMap<Daemon, Median> {
        let of = |(daemon, samples): (&Daemon, &Vec<Sample>)| Some((*daemon, Median::of(samples)?));
        self.samples.iter().filter_map(of).collect()
    }

    /// The bars of this row, as far as what they compare was measured.
    #[must_use]
    pub fn bars(&self) -> Vec<Bar> {
        let medians = self.medians();
        let Some(own) = medians.get(&Daemon::Portolan) else {
            return Vec::new();
        };
        let bird = medians.get(&Daemon::Bird);
        let versus_bird = |what: &str, part: f64, pick: fn(&Median) -> f64| {
            bird.map(|bird| Bar {
                what: format!("{what}, as a part of BIRD's"),
                got: pick(own) / pick(bird),
                most: part,
            })
        };
        match self.row {
            Row::Feed => [
                versus_bird("time", 0.5, |m| m.seconds),
                versus_bird("peak memory", 0.7, |m| m.memory_mib),
            ]
            .into_iter()
            .flatten()
            .collect(),
            Row::Same => [
                versus_bird("time", 0.7, |m| m.seconds),
                versus_bird("peak memory", 0.7, |m| m.memory_mib),
            ]
            .into_iter()
            .flatten()
            .collect(),
            Row::Mesh => {
                let rivals = [bird, medians.get(&Daemon::Frr)];
                let best = rivals.into_iter().flatten().map(|m| m.seconds);
                let better = best.min_by(f64::total_cmp);
                let bar = |best| Bar {
                    what: "time, as a part of the better of BIRD's and FRR's".to_owned(),
                    got: own.seconds / best,
                    most: 0.5,
                };
                better.map(bar).into_iter().collect()
            }
            Row::Kernel => vec![Bar {
                what: "microseconds for a route (300,000/s)".to_owned(),
                got: own.seconds / own.routes * 1e6,
                most: 1e6 / 3e5,
            }],
            Row::Loss => vec![Bar {
                what: "milliseconds from the reset (detected at once)".to_owned(),
                got: own.seconds * 1e3,
                most: 50.0,
            }],
            Row::Idle => vec![
                Bar {
                    what: "resident memory, MiB".to_owned(),
                    got: own.memory_mib,
                    most: 20.0,
                },
                Bar {
                    what: "processor, %".to_owned(),
                    got: own.processor / own.seconds * 100.0,
                    most: 0.1,
                },
            ],
        }
    }

    /// The row as Markdown, which terminals show as well.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = format!("## {}: {}\n\n", self.row.name(), self.row.title());
        if (self.scale - 1.0).abs() > f64::EPSILON {
            let _ = writeln!(
                text,
                "Only {} of the prefixes: no number to quote.\n",
                self.scale
            );
        }
        text += match self.row {
            Row::Idle => {
                "| daemon | resident MiB | × Portolan | processor % | runs, MiB | foreign CPU |\n|---|---|---|---|---|---|\n"
            }
            Row::Kernel | Row::Loss => {
                "| daemon | seconds | × Portolan | routes/s | peak MiB | × Portolan | its CPU s | runs, s | foreign CPU |\n|---|---|---|---|---|---|---|---|---|\n"
            }
            Row::Feed | Row::Mesh | Row::Same => {
                "| daemon | seconds | × Portolan | routes delivered/s | peak MiB | × Portolan | its CPU s | runs, s | foreign CPU |\n|---|---|---|---|---|---|---|---|---|\n"
            }
        };
        let medians = self.medians();
        let own = medians.get(&Daemon::Portolan);
        for (daemon, samples) in &self.samples {
            if let Some(median) = medians.get(daemon) {
                text += &self.line(*daemon, median, own, samples);
            }
        }
        for (daemon, why) in &self.absent {
            let first = why.lines().next().unwrap_or_default();
            let _ = writeln!(text, "| {} | – {first} |", daemon.title());
        }
        text.push('\n');
        for bar in self.bars() {
            let _ = writeln!(text, "- {}", bar.text());
        }
        text
    }

    fn line(&self, daemon: Daemon, m: &Median, own: Option<&Median>, samples: &[Sample]) -> String {
        let ratio = |value: f64, pick: fn(&Median) -> f64| {
            own.map_or_else(|| "–".to_owned(), |own| format!("{:.2}", value / pick(own)))
        };
        let runs = |pick: fn(&Sample) -> f64, digits: usize| {
            let all: Vec<String> = samples
                .iter()
                .map(|sample| format!("{:.digits$}", pick(sample)))
                .collect();
            all.join(" ")
        };
        let title = daemon.title();
        let memory = ratio(m.memory_mib, |own| own.memory_mib);
        let foreign = m.foreign * 100.0;
        if self.row == Row::Idle {
            let part = m.processor / m.seconds * 100.0;
            let all = runs(|sample| sample.memory_kib as f64 / 1024.0, 1);
            return format!(
                "| {title} | {:.1} | {memory} | {part:.3} | {all} | {foreign:.0} % |\n",
                m.memory_mib
            );
        }
        format!(
            "| {title} | {:.3} | {} | {:.0} | {:.0} | {memory} | {:.2} | {} | {foreign:.0} % |\n",
            m.seconds,
            ratio(m.seconds, |own| own.seconds),
            m.routes / m.seconds,
            m.memory_mib,
            m.processor,
            runs(|sample| sample.seconds, 3),
        )
    }
}

/// The document of all rows.
#[must_use]
pub fn document(records: &[Record], figures: &[Figures]) -> String {
    let mut text = HEAD.to_owned();
    for record in records {
        let machine = &record.machine;
        text.push('\n');
        text += &record.table();
        let _ = writeln!(
            text,
            "\n{} on {}, {} GiB, Linux {}.",
            machine.date, machine.processor, machine.memory_gib, machine.kernel
        );
        let versions: Vec<&str> = record.versions.values().map(String::as_str).collect();
        let _ = writeln!(text, "{}.", versions.join("; "));
    }
    for row in figures {
        let machine = &row.machine;
        let _ = writeln!(
            text,
            "\n{}\n{} on {}, {} GiB, Linux {}.\n{}.",
            row.table(),
            machine.date,
            machine.processor,
            machine.memory_gib,
            machine.kernel,
            row.version
        );
    }
    text
}

const HEAD: &str = "# Benchmarks

Written by `make bench`; don't edit. One generator (`bench/`) speaks plain BGP to each daemon in turn, over a veth between
two namespaces. Each number is the median; the daemons take turns, in another order each time.

- *seconds*: from the first octet sent until every peer holds all it is to have, through the right AS, and keeps it; for the
  kernel until its own count says that all routes are in.
- *peak MiB*: VmHWM, summed over the daemon's processes. FRR is bgpd alone, without zebra, where the kernel is not touched.
- *its CPU s*: processor time of the daemon's processes. *foreign CPU*: what neither the daemon nor the generator used, as a
  part of all processors; when that is high, the seconds are worth little and the CPU seconds more.

The rows of policy say themselves how they are measured; none has another daemon in it but `flat`: a chain per pod, reached by
rules in a row as kube-router does it (own generator). Rules that a packet is tried against are counted by a test instead:
`tests/tests/policy_cost.rs`.
";

#[cfg(test)]
mod tests;
