//! Throughput and latency between two pods of a node with 2 and with 500 isolated pods, beside a flat chain per pod.

use std::fmt::Write as _;
use std::net::SocketAddr;

use ::tests::policy_lab::{BackEnd, PORTS, Wires, address_of, isolated};
use anyhow::{Context as _, Result};
use netfilter::Family;

use super::traffic::{Round, Traffic};
use super::{Effort, NodeRow, quantile};
use crate::figures::Figures;

const ROUNDS: usize = 21;
const PODS: usize = 500;
/// Those that talk: in the middle of a flat chain.
const TALKING: [usize; 2] = [PODS / 2, PODS / 2 + 1];
const MOST: f64 = 1.05;

/// Whose rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    Tree,
    Flat,
}

/// The rules of one rig, with few pods and with all, and what was measured in each round.
struct Couple {
    back_end: BackEnd,
    layout: Layout,
    rigs: [(Wires, Traffic); 2],
    rounds: Vec<[Round; 2]>,
}

pub(super) fn measure(row: NodeRow, effort: Effort) -> Result<Figures> {
    let head = [
        "rules",
        "pods",
        "GB/s",
        "× few's time",
        "there and back p50 / p99, µs",
        "× few's p50",
        "connect p50, µs",
        "× few's",
    ];
    let mut figures = Figures::new(row, &head)?;
    let mut couples = Vec::new();
    for back_end in BackEnd::ALL {
        for layout in [Layout::Tree, Layout::Flat] {
            couples.push(Couple::new(back_end, layout)?);
        }
    }
    let count = couples.len();
    for round in 0..effort.part_of(ROUNDS) {
        for place in 0..count {
            let couple = couples
                .get_mut((place + round) % count)
                .context("a couple")?;
            couple.measure(round)?;
        }
    }
    for couple in &couples {
        couple.report(&mut figures);
    }
    figures.note(
        "TCP over IPv4 between two isolated pods by 32 MiB of bulk (the fastest of seven), 500 single octets there and back, 60 connections in each \
         round; × is the median of the rounds' own ratios, 500 pods to 2, one measured right after the other, in turn first",
    );
    figures.note(
        "flat: seven rules per pod in a row (FORWARD four, INPUT one, OUTPUT two) lead to its chain, which accepts what is \
         established, then asks its policies; the two that talk are in the middle. Only two pods have links",
    );
    Ok(figures)
}

impl Couple {
    fn new(back_end: BackEnd, layout: Layout) -> Result<Self> {
        let rig = |all: bool| -> Result<(Wires, Traffic)> {
            let wires = Wires::new("packet", TALKING)?;
            let pods = if all {
                (0..PODS).collect()
            } else {
                TALKING.to_vec()
            };
            match layout {
                Layout::Tree => wires.install(back_end, &isolated(pods).compile())?,
                Layout::Flat => {
                    wires.restore(back_end, Family::V4, &["--noflush"], &flat(&pods))?
                }
            }
            let end = SocketAddr::new(address_of(TALKING[1], Family::V4), PORTS[0] + 1);
            let [from, to] = &wires.pods;
            let traffic = Traffic::between((from, to), end)?;
            Ok((wires, traffic))
        };
        Ok(Self {
            back_end,
            layout,
            rigs: [rig(false)?, rig(true)?],
            rounds: Vec::new(),
        })
    }

    fn measure(&mut self, round: usize) -> Result<()> {
        let of = |(wires, traffic): &(Wires, Traffic)| traffic.round(&wires.pods[0]);
        let [few, all] = &self.rigs;
        let pair = if round.is_multiple_of(2) {
            let first = of(few)?;
            [first, of(all)?]
        } else {
            let first = of(all)?;
            [of(few)?, first]
        };
        self.rounds.push(pair);
        Ok(())
    }

    fn report(&self, figures: &mut Figures) {
        let layout = match self.layout {
            Layout::Tree => "Portolan",
            Layout::Flat => "flat",
        };
        let name = format!("{layout}, {}", self.back_end.name());
        for (pods, pick) in [(2, 0), (PODS, 1)] {
            let of = |value: fn(&Round) -> f64| {
                let rounds = self.rounds.iter().filter_map(|pair| pair.get(pick));
                quantile(&rounds.map(value).collect::<Vec<f64>>(), 0.5)
            };
            let ratio = |value: fn(&Round) -> f64| match pick {
                0 => "1".to_owned(),
                _ => format!("{:.3}", self.ratio(value)),
            };
            figures.line([
                name.clone(),
                pods.to_string(),
                format!("{:.2}", of(Round::throughput)),
                ratio(|round| round.bulk),
                format!(
                    "{:.1} / {:.1}",
                    of(|round| round.ping),
                    of(|round| round.slow_ping)
                ),
                ratio(|round| round.ping),
                format!("{:.1}", of(|round| round.connect)),
                ratio(|round| round.connect),
            ]);
        }
        if self.layout == Layout::Tree {
            let back_end = self.back_end.name();
            let time = self.ratio(|round| round.bulk);
            figures.bar(
                format!("time of bulk with 500 pods on {back_end}, as a part of that with 2"),
                time,
                MOST,
            );
            let ping = self.ratio(|round| round.ping);
            figures.bar(
                format!("there and back with 500 pods on {back_end}, as a part of that with 2"),
                ping,
                MOST,
            );
        }
    }

    /// The median of what each round says: 500 pods as a part of 2.
    fn ratio(&self, value: fn(&Round) -> f64) -> f64 {
        let ratios: Vec<f64> = self
            .rounds
            .iter()
            .map(|[few, all]| value(all) / value(few))
            .collect();
        quantile(&ratios, 0.5)
    }
}

/// A chain for each pod, and the rules that lead to it, pod after pod.
fn flat(pods: &[usize]) -> String {
    let (mut chains, mut ways, mut rules) = (String::new(), String::new(), String::new());
    let [first, last] = PORTS;
    for pod in pods {
        let (chain, address) = (format!("POD-FW-{pod}"), address_of(*pod, Family::V4));
        let _ = writeln!(chains, ":{chain} - [0:0]");
        for way in [
            format!("FORWARD -d {address}/32"),
            format!("OUTPUT -d {address}/32"),
            format!("FORWARD -m physdev --physdev-is-bridged -d {address}/32"),
            format!("INPUT -s {address}/32"),
            format!("FORWARD -s {address}/32"),
            format!("OUTPUT -s {address}/32"),
            format!("FORWARD -m physdev --physdev-is-bridged -s {address}/32"),
        ] {
            let _ = writeln!(ways, "-A {way} -j {chain}");
        }
        let _ = write!(
            rules,
            "-A {chain} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
             -A {chain} -m addrtype --src-type LOCAL -d {address}/32 -j ACCEPT\n\
             -A {chain} -p tcp -m multiport --dports {}:{} -j MARK --set-xmark 0x10000/0x10000\n\
             -A {chain} -p tcp -m multiport --dports {first}:{last} -j MARK --set-xmark 0x10000/0x10000\n\
             -A {chain} -m mark ! --mark 0x10000/0x10000 -j DROP\n\
             -A {chain} -j MARK --set-xmark 0x0/0x10000\n",
            first + 2_000,
            last + 2_000
        );
    }
    format!("*filter\n{chains}{ways}{rules}COMMIT\n")
}

#[cfg(test)]
mod tests {
    use super::flat;

    #[test]
    fn seven_rules_in_a_row_lead_to_each_pod() {
        let text = flat(&[0, 1]);
        let ways = |chain: &str| text.lines().filter(|line| line.ends_with(chain)).count();
        assert_eq!([ways("-j POD-FW-0"), ways("-j POD-FW-1")], [7, 7]);
    }
}
