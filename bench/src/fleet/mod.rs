//! The row of a whole cluster: one agent among 5,000 nodes, by a real API server that holds them all.

mod beside;
mod churn;
mod etcd;
mod lab;
mod objects;
mod times;

use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use ::tests::wait::pause;
use anyhow::{Context as _, Result, ensure};

use crate::figures::Figures;
use crate::policy::change::{Buckets, of_histogram, since};
use crate::policy::{Effort, NodeRow, quantile};
use crate::usage::{Watch, with_programs};
pub(crate) use etcd::Etcd;
pub(crate) use objects::Stored;

use beside::Beside;
use churn::{Changer, Done};
use lab::{Lab, Memory, Reader, Start, received};
use objects::Size;

/// How long nothing happens, and how long all the time something does.
const QUIET: usize = 20;
const CHURN: usize = 30;
/// Sources that read as the agent's does, to see what an API server pays for each.
const READERS: usize = 10;
const MEGA: f64 = 1e6;

/// What a time of churn cost.
struct Costs {
    seconds: f64,
    /// Processor time of the reader and of the API server, as parts of one processor.
    reader: f64,
    server: f64,
    /// Octets a second to the reader.
    octets: f64,
    done: Done,
}

pub(crate) fn measure(row: NodeRow, effort: Effort) -> Result<Figures> {
    let head = [
        "what",
        "Portolan's agent",
        "client-go's informers",
        "× Portolan",
    ];
    let mut figures = Figures::new(row, &head)?;
    let mut lab = Lab::start(Size::of(effort.scale))?;
    let outcome = all(&mut lab, &mut figures, effort);
    outcome.with_context(|| lab.node.agent.log_end())?;
    Ok(figures)
}

fn all(lab: &mut Lab, figures: &mut Figures, effort: Effort) -> Result<()> {
    let (quiet, churn) = (
        seconds(effort.part_of(QUIET)),
        seconds(effort.part_of(CHURN).max(3)),
    );
    let used = AtomicUsize::new(0);
    let alone = under_churn(lab, &used, churn, None)?;
    lab.start_agent()?;
    lab.attach()?;
    let kept = restart(lab, false)?;
    let first = restart(lab, true)?;
    lab.sync()?;
    let idle = idle(lab, quiet)?;
    let (seen, own, with) = times::under_churn(lab, &used, churn)?;
    let after = Memory::of(lab.agent()?.process)?;
    let policy = lab.counts()?;
    lab.node.agent.kill()?;
    let informers = Beside::informers(lab)?;
    let of_informers = informers
        .as_ref()
        .map(|it| it.cost(lab, &used, churn))
        .transpose()?;
    drop(informers);
    let readers = Beside::readers(lab, READERS)?;
    let of_readers = readers.cost(lab, &used, churn)?;
    drop(readers);

    let under = of_informers.as_ref().map(|(_, costs)| costs);
    let mut table = Table {
        figures,
        informers: of_informers.as_ref().map(|(start, _)| start),
    };
    table.starts(&kept, &first);
    table.under_churn(idle, &with, under, &after);
    table.lags(&seen.seconds, &own);
    table.server([&alone, &with, &of_readers.1], &of_readers.0);
    figures.bar(
        "from start to in sync, kernel empty, s",
        first.seconds,
        30.0,
    );
    figures.bar(
        "the most memory ever resident, MB",
        first.memory.peak as f64 / MEGA,
        150.0,
    );
    let has_informers = of_informers.is_some();
    notes(figures, lab, &with, &policy, &seen, has_informers);
    Ok(())
}

/// Ends the agent and starts it again, as after a reboot if the kernel is to be empty.
fn restart(lab: &mut Lab, is_empty: bool) -> Result<Start> {
    lab.node.agent.kill()?;
    if is_empty {
        lab.node.empty_kernel()?;
    }
    lab.start_agent()
}

/// The agent's processor time while nothing happens, as a part of one processor.
fn idle(lab: &Lab, lasts: Duration) -> Result<f64> {
    lab.node.agent.wait_settled()?;
    let watch = Watch::of(vec![lab.agent()?.process])?;
    pause(lasts)?;
    Ok(watch.usage()?.daemon.as_secs_f64() / lasts.as_secs_f64())
}

/// Has the fleet change, and looks what that costs who reads in a namespace, and the API server.
fn under_churn(
    lab: &Lab,
    used: &AtomicUsize,
    lasts: Duration,
    reader: Option<Reader<'_>>,
) -> Result<Costs> {
    let (tell, _told) = std::sync::mpsc::channel();
    costs_of(lab, reader, || changer(lab, used).run(lasts, &tell))
}

fn changer<'a>(lab: &'a Lab, used: &'a AtomicUsize) -> Changer<'a> {
    Changer {
        outside: &lab.outside,
        kubeconfig: lab.plane.admin_kubeconfig(),
        etcd: lab.plane.etcd(),
        size: lab.size,
        used,
    }
}

fn costs_of(
    lab: &Lab,
    reader: Option<Reader<'_>>,
    work: impl FnOnce() -> Result<Done>,
) -> Result<Costs> {
    let server = lab.server()?;
    let processor = || reader.map_or(Ok(Duration::ZERO), |reader| with_programs(reader.process));
    let octets = || reader.map_or(Ok(0), |reader| received(reader.netns));
    let (processor_before, octets_before) = (processor()?, octets()?);
    let start = std::time::Instant::now();
    let done = work()?;
    let seconds = start.elapsed().as_secs_f64();
    let used = processor()?.saturating_sub(processor_before);
    let came = octets()? - octets_before;
    ensure!(
        done.pods > 0 && done.heartbeats > 0 && done.renewals > 0,
        "{done:?}"
    );
    Ok(Costs {
        seconds,
        reader: used.as_secs_f64() / seconds,
        server: server.usage()?.daemon.as_secs_f64() / seconds,
        octets: came as f64 / seconds,
        done,
    })
}

/// The lines of the row.
struct Table<'a> {
    figures: &'a mut Figures,
    informers: Option<&'a Start>,
}

impl Table<'_> {
    fn starts(&mut self, kept: &Start, first: &Start) {
        let informers = self.informers;
        let of = |pick: fn(&Start) -> f64| informers.map(pick);
        self.pair(
            "started to in sync, all policies in an empty kernel, s",
            first.seconds,
            of(|it| it.seconds),
            1,
        );
        self.pair(
            "the same with its rules in the kernel, s",
            kept.seconds,
            None,
            1,
        );
        self.pair(
            "its CPU until then, s",
            first.processor,
            of(|it| it.processor),
            1,
        );
        self.pair(
            "the most memory ever resident, MB",
            first.memory.peak as f64 / MEGA,
            of(|it| it.memory.peak as f64 / MEGA),
            1,
        );
        self.pair(
            "resident, MB",
            first.memory.resident as f64 / MEGA,
            of(|it| it.memory.resident as f64 / MEGA),
            1,
        );
        self.pair(
            "of that anonymous, MB",
            first.memory.anonymous as f64 / MEGA,
            of(|it| it.memory.anonymous as f64 / MEGA),
            1,
        );
        self.pair(
            "octets from the API server until then, MB",
            first.octets as f64 / MEGA,
            of(|it| it.octets as f64 / MEGA),
            1,
        );
        self.pair(
            "the API server's CPU meanwhile, s",
            first.server,
            of(|it| it.server),
            1,
        );
    }

    fn under_churn(&mut self, idle: f64, own: &Costs, other: Option<&Costs>, after: &Memory) {
        let of = |pick: fn(&Costs) -> f64| other.map(pick);
        self.pair("idle: CPU %", idle * 100.0, None, 3);
        let percent = |costs: &Costs| costs.reader * 100.0;
        self.pair("under churn: CPU %", percent(own), of(percent), 1);
        let octets = |costs: &Costs| costs.octets / 1e3;
        let what = "under churn: octets from the API server, kB/s";
        self.pair(what, octets(own), of(octets), 1);
        self.pair(
            "resident after it, MB",
            after.resident as f64 / MEGA,
            None,
            1,
        );
    }

    fn lags(&mut self, seen: &[f64], own: &Buckets) {
        let lag = |part| quantile(seen, part) * 1e3;
        self.line(
            "from a selected pod's address to the kernel's set: p50 / p99, ms",
            format!("{:.0} / {:.0}", lag(0.5), lag(0.99)),
        );
        let inside = |part| of_histogram(own, part) * 1e3;
        self.line(
            "of that inside the agent: p50 / p99, ms",
            format!("{:.0} / {:.0}", inside(0.5), inside(0.99)),
        );
    }

    /// Under churn with no reader, our agent and all sources; and what those sources were to be in sync.
    fn server(&mut self, under: [&Costs; 3], start: &Start) {
        let [alone, one, many] = under.map(|costs| costs.server * 100.0);
        self.line(
            &format!(
                "API server's CPU under churn with no reader / one agent / {READERS} sources, %"
            ),
            format!("{alone:.1} / {one:.1} / {many:.1}"),
        );
        let readers = READERS as f64;
        self.line(
            "API server's CPU for one more source in sync, s",
            format!("{:.2}", start.server / readers),
        );
        self.line(
            "API server's CPU for one more source under churn, %",
            format!("{:.2}", (many - alone) / readers),
        );
        self.line(
            "API server's memory for one more source, MB",
            format!("{:.1}", start.memory.resident as f64 / MEGA / readers),
        );
    }

    fn pair(&mut self, what: &str, own: f64, other: Option<f64>, digits: usize) {
        let ratio = other.map_or_else(String::new, |other| format!("{:.2}", other / own));
        let other = other.map_or_else(String::new, |other| format!("{other:.digits$}"));
        self.figures
            .line([what.to_owned(), format!("{own:.digits$}"), other, ratio]);
    }

    fn line(&mut self, what: &str, own: String) {
        self.figures
            .line([what.to_owned(), own, String::new(), String::new()]);
    }
}

fn notes(
    figures: &mut Figures,
    lab: &Lab,
    with: &Costs,
    policy: &serde_json::Value,
    seen: &times::Seen,
    has_informers: bool,
) {
    let Size {
        nodes,
        pods,
        policies,
    } = lab.size;
    figures.note(format!(
        "{nodes} Nodes, {pods} Pods ({} octets of JSON each), {policies} NetworkPolicies and 6 ClusterNetworkPolicies in 400 namespaces, in etcd in {:.0} s by \
         etcd's own gateway and served by kube-apiserver 1.34; the agent has the rights that we deploy, and {} pods attached by the plugin; no BGP peers",
        lab.pod_octets,
        lab.making,
        objects::LOCAL,
    ));
    figures.note(format!(
        "churn, {:.0} s: {} pods made, given an address and deleted, {} kubelets' heartbeats, {} Leases renewed; a fifth of the pods are peers of a policy \
         of ours: {} times asked by netlink when their address is in the kernel, from the moment the kubelet asks to write it (the API server's write is in it); {} \
         more were deleted before they were",
        with.seconds,
        with.done.pods,
        with.done.heartbeats,
        with.done.renewals,
        seen.seconds.len(),
        seen.missed,
    ));
    figures.note(
        "client-go's informers: the four built-in kinds as protobuf, whole objects, no handler; nothing is worked out of them, no kernel is programmed. \
         Octets are those of the node's interface; a source is the agent's reader of all 12 kinds alone (`portolan-reader`), ten in one process, which are in \
         sync one after another; the API server's memory is what it had more when all were. For N nodes multiply by N",
    );
    if !has_informers {
        figures.note("client-go's informers were not built: scripts/build-informers says why");
    }
    if let Some(counts) = policy.as_object() {
        let words = counts.iter().filter(|(_, value)| value.is_number());
        let words: Vec<String> = words
            .map(|(name, value)| format!("{name} {value}"))
            .collect();
        figures.note(format!(
            "policy as `portolan status` counts it: {}",
            words.join(", ")
        ));
    }
}

fn seconds(count: usize) -> Duration {
    Duration::from_secs(count as u64)
}
