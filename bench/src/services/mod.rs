//! The row of Services: our proxy and kube-proxy, each on an empty node, by the same API server.

mod client;
mod lab;
mod objects;

use std::time::{Duration, Instant};

use ::tests::policy_lab::BackEnd;
use ::tests::wait::pause;
use anyhow::{Context as _, Result, ensure};

use self::client::Connects;
use self::lab::{Lab, Proxy, Running};
use self::objects::PER_SERVICE;
use crate::figures::Figures;
use crate::policy::{Effort, NodeRow, quantile};

/// How many Services there are.
const SIZES: [usize; 3] = [1, 1_000, 10_000];
/// A first program that takes longer has no number.
const MOST_START: Duration = Duration::from_secs(90);
/// And a change.
const MOST_CHANGE: Duration = Duration::from_secs(30);
const CHANGES: usize = 20;
/// Changes together, of a proxy that is slow.
const MOST_CHANGES: Duration = Duration::from_secs(60);
/// Between two changes: kube-proxy programs once a second at most.
const REST: Duration = Duration::from_millis(1_300);
const CONNECTIONS: usize = 2_000;
/// Ours may take this part of kube-proxy's time.
const PART: f64 = 0.5;
/// One change, milliseconds, with the most Services.
const MOST_MILLISECONDS: f64 = 20.0;

/// Side by side: whoever is in turn, ours comes after the one it is compared with.
const PROXIES: [Proxy; 6] = [
    Proxy {
        is_ours: false,
        mode: "iptables",
        back_end: BackEnd::Nft,
    },
    Proxy {
        is_ours: true,
        mode: "iptables",
        back_end: BackEnd::Nft,
    },
    Proxy {
        is_ours: false,
        mode: "iptables",
        back_end: BackEnd::Legacy,
    },
    Proxy {
        is_ours: true,
        mode: "iptables",
        back_end: BackEnd::Legacy,
    },
    Proxy {
        is_ours: false,
        mode: "nftables",
        back_end: BackEnd::Nft,
    },
    Proxy {
        is_ours: true,
        mode: "nftables",
        back_end: BackEnd::Nft,
    },
];

/// What came of one proxy.
#[derive(Debug, Default)]
struct Measured {
    /// Seconds from its start; none if that was too long.
    start: Option<f64>,
    /// Its processor time until then, and its programs'.
    processor: f64,
    /// Milliseconds of each change.
    changes: Vec<f64>,
    connects: Connects,
    /// Peak MiB.
    memory: f64,
}

pub(crate) fn measure(row: NodeRow, effort: Effort) -> Result<Figures> {
    let head = [
        "proxy",
        "Services",
        "started to all served, s",
        "CPU s until then",
        "one endpoint's change p50 / at most, ms",
        "changes",
        "connect p50 / p99, µs",
        "connections a second",
        "peak MiB",
    ];
    let mut figures = Figures::new(row, &head)?;
    for size in SIZES {
        let services = if size == 1 { 1 } else { effort.part_of(size) };
        let mut lab = Lab::start(services)?;
        let mut measured = Vec::new();
        for proxy in PROXIES {
            let one = of_proxy(&mut lab, proxy, effort).with_context(|| proxy.title())?;
            figures.line(line(proxy, services, &one));
            measured.push((proxy, one));
        }
        if size > 1 {
            bars(&mut figures, &measured, services, size == 10_000);
        }
    }
    figures.note(format!(
        "each Service has {PER_SERVICE} endpoints on other nodes; Services, slices and changes are put into etcd, and the API server tells the proxies; \
         served: a pod of the node connects to the first, the last and some in between, then to 200 by chance, and each must be answered by its own endpoint"
    ));
    figures.note(
        "a change: of one Service's endpoints another is the one that is ready; from the write into etcd until a connection reaches it. Both proxies \
         have their defaults (kube-proxy: once a second at most, so that changes come 1.3 s apart)",
    );
    figures.note("connect: to Services by chance, from a pod of the node to another node's pods, one connection after the other, each answered by its endpoint and closed; peak memory is the proxy's alone, without the programs that it runs");
    Ok(figures)
}

fn of_proxy(lab: &mut Lab, proxy: Proxy, effort: Effort) -> Result<Measured> {
    let (running, begin) = lab.start_proxy(proxy)?;
    of_running(lab, &running, begin, effort)
        .with_context(|| running.log_end())
        .and_then(|measured| {
            let must = measured.start.is_some() || !proxy.is_ours;
            ensure!(
                must,
                "not all served after {MOST_START:?}: {}",
                running.log_end()
            );
            Ok(measured)
        })
}

fn of_running(
    lab: &mut Lab,
    running: &Running,
    begin: Instant,
    effort: Effort,
) -> Result<Measured> {
    let last = lab.services - 1;
    let sample: Vec<usize> = (0..=10).map(|part| last * part / 10).collect();
    let start = running.wait_for(&sample, begin, MOST_START)?;
    let mut measured = Measured {
        start,
        processor: running.processor()?,
        ..Measured::default()
    };
    if start.is_some() {
        running.connects(lab.services, 200)?;
        measured.connects = running.connects(lab.services, effort.part_of(CONNECTIONS))?;
        measured.changes = changes(lab, running, effort)?;
    }
    measured.memory = running.memory()?;
    Ok(measured)
}

fn changes(lab: &mut Lab, running: &Running, effort: Effort) -> Result<Vec<f64>> {
    let (mut times, first) = (Vec::new(), Instant::now());
    for turn in 1..=effort.part_of(CHANGES).max(3) {
        pause(REST)?;
        let ready = turn % PER_SERVICE;
        let begin = lab.set_ready(ready)?;
        times.push(running.wait_for_endpoint(ready, begin, MOST_CHANGE)?);
        if first.elapsed() > MOST_CHANGES {
            break;
        }
    }
    Ok(times)
}

fn line(proxy: Proxy, services: usize, one: &Measured) -> [String; 9] {
    let start = match one.start {
        Some(seconds) => format!("{seconds:.2}"),
        None => format!("not after {} s", MOST_START.as_secs()),
    };
    let pair = |values: &[f64], high: f64| match values {
        [] => "–".to_owned(),
        values => format!(
            "{:.1} / {:.1}",
            quantile(values, 0.5),
            quantile(values, high)
        ),
    };
    [
        proxy.title(),
        services.to_string(),
        start,
        format!("{:.2}", one.processor),
        pair(&one.changes, 1.0),
        one.changes.len().to_string(),
        pair(&one.connects.times, 0.99),
        format!("{:.0}", one.connects.rate),
        format!("{:.0}", one.memory),
    ]
}

fn bars(figures: &mut Figures, measured: &[(Proxy, Measured)], services: usize, is_most: bool) {
    for pair in measured.chunks(2) {
        let [(_, theirs), (proxy, ours)] = pair else {
            continue;
        };
        let way = proxy.way();
        // Who was not there in time has taken longer than that.
        let their_start = theirs.start.unwrap_or(MOST_START.as_secs_f64());
        let start = ours.start.unwrap_or(f64::INFINITY) / their_start;
        figures.bar(
            format!("{services} Services, {way}: first program, as a part of kube-proxy's"),
            start,
            PART,
        );
        let change = quantile(&ours.changes, 0.5);
        if !theirs.changes.is_empty() {
            let part = change / quantile(&theirs.changes, 0.5);
            figures.bar(
                format!("{services} Services, {way}: one change, as a part of kube-proxy's"),
                part,
                PART,
            );
        }
        if is_most {
            figures.bar(
                format!("{services} Services, {way}: one change, ms"),
                change,
                MOST_MILLISECONDS,
            );
        }
    }
}
