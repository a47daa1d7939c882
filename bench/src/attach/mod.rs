//! What attaching and detaching pods costs beside the reference plugins: ADD with policy in force on return, and DEL.

mod plugin;
mod rig;

use std::time::Duration;

use ::tests::policy_lab::BackEnd;
use anyhow::{Result, ensure};

use crate::figures::Figures;
use crate::policy::{Effort, NodeRow, quantile};
use plugin::{Command, Subject};
use rig::{Kind, Pod, Rig};

/// What the ratios are to.
const REFERENCE: Subject = Subject::Ptp;
/// So many times each pod is attached and detached, one after another.
const ROUNDS: usize = 2;
/// So many times all are attached, then detached, at once.
const STORMS: usize = 5;

/// Pods one after another: `row` says whether ADD or DEL is told.
pub(crate) fn one_by_one(row: NodeRow, effort: Effort) -> Result<Figures> {
    let told = match row {
        NodeRow::CniDel => Command::Del,
        _ => Command::Add,
    };
    let head = [
        "back end",
        "plugin",
        "pods",
        "times",
        "p50, ms",
        "p90, ms",
        "p99, ms",
        "× ptp's p50",
    ];
    let mut figures = Figures::new(row, &head)?;
    for back_end in BackEnd::ALL {
        let rig = Rig::start(back_end)?;
        let samples = one_after_another(&rig, effort.part_of(ROUNDS))?;
        let of = |subject: Subject, kind: Option<Kind>| -> Vec<f64> {
            let wanted = samples.iter().filter(|sample| {
                sample.subject == subject
                    && sample.command == told
                    && kind.is_none_or(|kind| sample.kind == kind)
            });
            wanted.map(|sample| milliseconds(sample.took)).collect()
        };
        let reference = quantile(&of(REFERENCE, None), 0.5);
        for subject in Subject::ALL {
            let kinds = match subject {
                Subject::Portolan => vec![None, Some(Kind::New), Some(Kind::Replica)],
                Subject::Ptp | Subject::PtpV4 | Subject::Bridge => vec![None],
            };
            for kind in kinds {
                let times = of(subject, kind);
                let pods = kind.map_or("all", Kind::name);
                figures.line(cells(back_end, subject, pods, &times, reference));
            }
        }
        let ours = quantile(&of(Subject::Portolan, None), 0.5);
        let alone = quantile(&of(Subject::PtpV4, None), 0.5);
        figures.note(format!(
            "{}: {:.2} of the time of ptp with IPv4 alone",
            back_end.name(),
            ours / alone
        ));
        let rules = rig.rules_per_family()?;
        // The same policies were 5,300 rules before one rule a policy sufficed.
        ensure!(rules >= 4_500, "only {rules} rules of policy are there");
        bar(&mut figures, &rig, told, (ours, reference))?;
        figures.note(format!(
            "{}: {rules} rules a family when it ended",
            back_end.name()
        ));
    }
    notes(&mut figures);
    Ok(figures)
}

/// The bar of one back end: a legacy table is written whole for each change, so that one write of it may be added to ADD.
fn bar(
    figures: &mut Figures,
    rig: &Rig,
    told: Command,
    (ours, reference): (f64, f64),
) -> Result<()> {
    let name = rig.back_end().name();
    match (told, rig.back_end()) {
        (Command::Add, BackEnd::Legacy) => {
            let restore = milliseconds(rig.one_restore()?);
            figures.bar(
                format!(
                    "ADD on {name}, ms, beside ptp's {reference:.1} and one restore of {restore:.1}"
                ),
                ours,
                reference + restore,
            );
        }
        _ => figures.bar(
            format!("{} on {name}, as a part of ptp's", told.name()),
            ours / reference,
            1.0,
        ),
    }
    Ok(())
}

/// All pods at once.
pub(crate) fn at_once(row: NodeRow, effort: Effort) -> Result<Figures> {
    let head = [
        "back end",
        "plugin",
        "all of",
        "times",
        "p50, ms",
        "p90, ms",
        "most, ms",
        "× ptp's p50",
    ];
    let mut figures = Figures::new(row, &head)?;
    for back_end in BackEnd::ALL {
        let rig = Rig::start(back_end)?;
        let mut samples = Vec::new();
        for storm in 0..effort.part_of(STORMS) {
            for subject in Subject::in_turn(Subject::AT_ONCE, storm) {
                for command in [Command::Add, Command::Del] {
                    let took = rig.all_at_once(subject, command)?;
                    samples.push((subject, command, milliseconds(took)));
                }
            }
        }
        for command in [Command::Add, Command::Del] {
            let of = |subject: Subject| -> Vec<f64> {
                let wanted = samples
                    .iter()
                    .filter(|sample| (sample.0, sample.1) == (subject, command));
                wanted.map(|sample| sample.2).collect()
            };
            let reference = quantile(&of(Subject::PtpV4), 0.5);
            for subject in Subject::AT_ONCE {
                let what = format!("{} {}", rig.pods().len(), command.name());
                figures.line(cells(back_end, subject, &what, &of(subject), reference));
            }
            let what = format!(
                "50 {} on {}, as a part of ptp's with IPv4 alone",
                command.name(),
                back_end.name()
            );
            figures.bar(what, quantile(&of(Subject::Portolan), 0.5) / reference, 1.0);
        }
    }
    figures.note(
        "ptp takes part with IPv4 alone: with both families some of its 50 fail, as it routes from an IPv6 address that is not ready (EINVAL)",
    );
    notes(&mut figures);
    Ok(figures)
}

struct Sample {
    subject: Subject,
    command: Command,
    kind: Kind,
    took: Duration,
}

/// Each pod is attached and detached by every plugin in turn.
fn one_after_another(rig: &Rig, rounds: usize) -> Result<Vec<Sample>> {
    let mut samples = Vec::new();
    for round in 0..rounds {
        for (number, pod) in rig.pods().iter().enumerate() {
            for subject in Subject::in_turn(Subject::ALL, round + number) {
                for command in [Command::Add, Command::Del] {
                    let Pod { kind, .. } = *pod;
                    let took = rig.once(subject, command, pod)?;
                    samples.push(Sample {
                        subject,
                        command,
                        kind,
                        took,
                    });
                }
            }
        }
    }
    Ok(samples)
}

fn cells(
    back_end: BackEnd,
    subject: Subject,
    what: &str,
    times: &[f64],
    reference: f64,
) -> [String; 8] {
    let at = |part| quantile(times, part);
    [
        back_end.name().to_owned(),
        subject.title().to_owned(),
        what.to_owned(),
        times.len().to_string(),
        format!("{:.1}", at(0.5)),
        format!("{:.1}", at(0.9)),
        format!("{:.1}", at(0.99)),
        format!("{:.2}", at(0.5) / reference),
    ]
}

fn milliseconds(took: Duration) -> f64 {
    took.as_secs_f64() * 1e3
}

fn notes(figures: &mut Figures) {
    figures.note(format!(
        "the real agent with {} pods attached of the cluster of policy-change (1,000 policies, 10,000 pods); each time is from the plugin's start to its \
         end, by whoever started it; the reference plugins, with host-local, run in a node of their own without policy, and without duplicate \
         address detection, for which they wait (1.3 s); with IPv6 they still sleep 50 ms where an address is tentative at their first look, which IPv4 \
         alone shows",
        rig::BACKGROUND,
    ));
    figures.note(
        "half of the pods are in namespaces with policies that no other pod here has (new policies), half are one more pod of what is there (replicas); \
         plugins take turns, pod by pod; after ADD the pod has its link and two addresses, after DEL the link is gone: else the row fails",
    );
}
