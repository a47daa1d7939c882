//! The row of the ingress: ours, Debian's nginx and Debian's haproxy, each before the same backends, one after the other in turns.

mod lab;
mod load;

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};

use self::lab::{Lab, Proxy};
use self::load::{Load, Outcome};
use crate::figures::Figures;
use crate::policy::{Effort, NodeRow, quantile};

/// Seconds of one measurement.
const SECONDS: usize = 6;
/// Turns: in each every proxy has every load.
const TURNS: usize = 5;
/// Ours may take this part of nginx's 99th percentile, and must serve this part of its requests.
const PART: f64 = 1.0;

/// All outcomes of one proxy under one load.
type Outcomes = BTreeMap<(Load, Proxy), Vec<Outcome>>;

pub(crate) fn measure(row: NodeRow, effort: Effort) -> Result<Figures> {
    let head = [
        "load",
        "proxy",
        "requests a second",
        "p50, µs",
        "p99, µs",
        "failed",
        "CPU µs a request",
        "peak MiB",
    ];
    let mut figures = Figures::new(row, &head)?;
    let lab = Lab::start()?;
    let seconds = effort.part_of(SECONDS);
    let mut outcomes = Outcomes::new();
    let mut order = Proxy::ALL;
    for _ in 0..effort.part_of(TURNS) {
        for load in Load::ALL {
            for proxy in order {
                let one = lab.measure(proxy, load, seconds);
                let one = one.with_context(|| format!("{}, {}", proxy.title(), load.title()))?;
                outcomes.entry((load, proxy)).or_default().push(one);
            }
        }
        order.rotate_left(1);
    }
    for load in Load::ALL {
        for proxy in Proxy::ALL {
            figures.line(line(load, proxy, of(&outcomes, load, proxy)));
        }
        bars(&mut figures, &outcomes, load);
    }
    figures.note(format!(
        "two backends (nginx, one process, `return 200` with 100 octets) and the load generator share the {} processors with the proxy; \
         medians of {} turns of {seconds} s each, every turn in another order; each proxy keeps connections to the backends",
        std::thread::available_parallelism()?,
        effort.part_of(TURNS),
    ));
    figures.note(
        "HTTP/1.1 and HTTPS: wrk, one thread, 32 connections that are kept; HTTP/2: h2load by TLS, 8 connections with 8 streams each. nginx (worker_processes auto) and ours \
         write a line of JSON a request into a file, both buffered; haproxy logs nothing",
    );
    Ok(figures)
}

fn of(outcomes: &Outcomes, load: Load, proxy: Proxy) -> &[Outcome] {
    outcomes.get(&(load, proxy)).map_or(&[], Vec::as_slice)
}

fn median(outcomes: &[Outcome], pick: impl Fn(&Outcome) -> f64) -> f64 {
    let values: Vec<f64> = outcomes.iter().map(pick).collect();
    quantile(&values, 0.5)
}

fn line(load: Load, proxy: Proxy, outcomes: &[Outcome]) -> [String; 8] {
    let failed: u64 = outcomes.iter().map(|one| one.failed).sum();
    [
        load.title().to_owned(),
        proxy.title().to_owned(),
        format!("{:.0}", median(outcomes, |one| one.rate)),
        format!("{:.0}", median(outcomes, |one| one.p50)),
        format!("{:.0}", median(outcomes, |one| one.p99)),
        failed.to_string(),
        format!("{:.1}", median(outcomes, |one| one.processor)),
        format!("{:.0}", median(outcomes, |one| one.memory)),
    ]
}

fn bars(figures: &mut Figures, outcomes: &Outcomes, load: Load) {
    let ours = of(outcomes, load, Proxy::Portolan);
    let theirs = of(outcomes, load, Proxy::Nginx);
    // Of one turn each: what else the machine did in that turn was done to both.
    let ratios = |pick: fn(&Outcome) -> f64, is_inverse: bool| {
        let pairs = ours.iter().zip(theirs);
        let ratios: Vec<f64> = pairs
            .map(|(ours, theirs)| match is_inverse {
                false => pick(ours) / pick(theirs),
                true => pick(theirs) / pick(ours),
            })
            .collect();
        quantile(&ratios, 0.5)
    };
    let title = load.title();
    figures.bar(
        format!("{title}: nginx's requests a second, as a part of ours"),
        ratios(|one| one.rate, true),
        PART,
    );
    figures.bar(
        format!("{title}: our p99, as a part of nginx's"),
        ratios(|one| one.p99, false),
        PART,
    );
}
