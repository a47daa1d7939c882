//! From an empty kernel to the first whole program, by the agent's own log.

use ::tests::policy_lab::BackEnd;
use anyhow::{Context as _, Result};

use super::agent::Node;
use super::cluster;
use super::{Effort, NodeRow, quantile};
use crate::figures::Figures;

pub(super) fn measure(row: NodeRow, effort: Effort) -> Result<Figures> {
    let head = [
        "back end",
        "started to programmed, s",
        "of that the write, s",
        "runs, s",
        "CPU s until in sync",
        "rules",
        "ADD of a pod p50 / p99, ms",
    ];
    let mut figures = Figures::new(row, &head)?;
    for back_end in BackEnd::ALL {
        let (mut node, adds) = Node::start(back_end, cluster::LOCAL)?;
        let (mut whole, mut writes, mut processor) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..effort.repeat {
            let before = node.agent.log().len();
            node.agent.kill()?;
            node.empty_kernel()?;
            node.agent.start(&node.netns)?;
            node.agent.wait_synced()?;
            processor.push(node.processor_time()?);
            let log = node.agent.log();
            let (took, write) = first_program(log.get(before..).unwrap_or(&log))?;
            whole.push(took);
            writes.push(write);
        }
        let runs: Vec<String> = whole.iter().map(|time| format!("{time:.3}")).collect();
        let adds: Vec<f64> = adds.iter().map(|time| time.as_secs_f64() * 1e3).collect();
        figures.line([
            back_end.name().to_owned(),
            format!("{:.3}", quantile(&whole, 0.5)),
            format!("{:.3}", quantile(&writes, 0.5)),
            runs.join(" "),
            format!("{:.2}", quantile(&processor, 0.5)),
            node.rules()?.to_string(),
            format!("{:.1} / {:.1}", quantile(&adds, 0.5), quantile(&adds, 0.99)),
        ]);
        let what = format!("seconds on {}", back_end.name());
        figures.bar(what, quantile(&whole, 0.5), 1.0);
    }
    figures.note(
        "the real agent with 110 pods attached by CNI, killed, the kernel emptied, started again; by the times in its log, \
         from `started` (the manifests are read) until `programmed policy` of the first program, both families, sets too; the CPU seconds are \
         the agent's and its programs' from the very start, reading the manifests as well",
    );
    Ok(figures)
}

/// Seconds from the agent's start to its first program, and what writing it took.
fn first_program(log: &str) -> Result<(f64, f64)> {
    let plain: Vec<String> = log.lines().map(strip_colours).collect();
    let find = |words: &str| {
        let mut lines = plain.iter().skip_while(|line| !line.contains(words));
        lines
            .next()
            .with_context(|| format!("no {words:?} in {log}"))
    };
    let (start, end) = (find("manifests=")?, find("programmed policy")?);
    let written = end.split("microseconds=").nth(1).context("microseconds")?;
    let digits: String = written.chars().take_while(char::is_ascii_digit).collect();
    let took = (time_of(end)? - time_of(start)?).rem_euclid(86_400.0);
    Ok((took, digits.parse::<f64>()? / 1e6))
}

/// The seconds of the day at which a line was logged.
fn time_of(line: &str) -> Result<f64> {
    let stamp = line.split_whitespace().next().context("no time")?;
    let time = stamp.split('T').nth(1).context("no time")?;
    let mut parts = time.trim_end_matches('Z').split(':');
    let mut part = || -> Result<f64> { Ok(parts.next().context("no time")?.parse()?) };
    Ok(part()? * 3_600.0 + part()? * 60.0 + part()?)
}

fn strip_colours(line: &str) -> String {
    let mut pieces = line.split('\u{1b}');
    let first = pieces.next().unwrap_or_default().to_owned();
    pieces.fold(first, |text, piece| {
        text + piece.split_once('m').map_or(piece, |(_, rest)| rest)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_program_after_the_start_is_timed() {
        let log = "\u{1b}[2m2026-11-21T23:59:59.900000Z\u{1b}[0m INFO started \u{1b}[3mmanifests\u{1b}[0m\u{1b}[2m=\u{1b}[0m/m\n\
                   2026-11-22T00:00:00.150000Z  INFO programmed policy \u{1b}[3mmicroseconds\u{1b}[0m=40000\n\
                   2026-11-22T00:00:00.950000Z  INFO programmed policy microseconds=1\n";
        let (took, write) = first_program(log).unwrap();
        assert!(
            (took - 0.25).abs() < 1e-6 && write == 0.04,
            "{took} {write}"
        );
    }
}
