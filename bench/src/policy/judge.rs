//! What the agent and `portolan policy try` ask of the rules: which flows go, and what a change would mean.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use api::{Change, Key, Resource};
use netfilter::Family;
use policy::{Entry, Index, Judge, Local, Tuple, difference};
use tests::policy_lab::{PORTS, address_of, isolated, outside};

use super::{Effort, NodeRow, quantile};
use crate::figures::Figures;
use crate::random::Random;

const PODS: u32 = 500;
const FLOWS: usize = 50_000;
/// So many clients' ports to one server's.
const ALIKE: usize = 10;
const ROUNDS: usize = 21;

pub(super) fn measure(row: NodeRow, effort: Effort) -> Result<Figures> {
    let mut figures = Figures::new(row, &["what", "p50, ms", "most, ms", "found"])?;
    let mut index = isolated(0..PODS as usize);
    let compiled = index.compile();
    let objects = index.objects();
    let (addresses, cidrs) = (BTreeSet::new(), ["10.244.0.0/16".parse()?]);
    let local = Local {
        addresses: &addresses,
        pod_cidrs: &cidrs,
        endpoints: &objects.endpoints,
    };
    let rounds = effort.part_of(ROUNDS);
    let flows = flows(FLOWS / ALIKE);
    for (what, flows) in [
        ("50,000 flows judged, ten of each kind", &flows),
        ("50,000 flows judged, no two alike", &self::flows(FLOWS)),
    ] {
        let (times, cuts) = timed(rounds, || {
            Judge::new(&compiled, local).cuts(flows, None).len()
        });
        ensure!(cuts > 0 && cuts < FLOWS, "{cuts} flows would be cut");
        line(&mut figures, what, &times, cuts);
        figures.bar(
            format!("{what}: milliseconds"),
            quantile(&times, 0.5),
            100.0,
        );
    }
    let change = changed(&index)?;
    let settings = index.settings();
    for (what, flows) in [
        ("what one changed policy means for pods", &[][..]),
        ("the same, and for 50,000 flows", &flows),
    ] {
        let (times, found) = timed(rounds.min(5), || {
            let found = difference(objects, settings, std::slice::from_ref(&change), flows);
            found.connections.shown.len() + found.connections.left_out + found.flows.shown.len()
        });
        ensure!(found > 0, "nothing changes");
        line(&mut figures, what, &times, found);
    }
    figures.note("in this process; half of the flows are denied by their port");
    Ok(figures)
}

fn line(figures: &mut Figures, what: &str, times: &[f64], found: usize) {
    let of = |part| format!("{:.1}", quantile(times, part));
    figures.line([what.to_owned(), of(0.5), of(1.0), found.to_string()]);
}

/// Milliseconds of each round, and what the last one gave.
fn timed(rounds: usize, mut work: impl FnMut() -> usize) -> (Vec<f64>, usize) {
    let (mut times, mut found) = (Vec::new(), 0);
    for _ in 0..rounds {
        let start = Instant::now();
        found = work();
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    (times, found)
}

/// Both families, between pods and with the host outside, either way; so many different ones, as often as makes
/// [`FLOWS`].
fn flows(different: usize) -> Vec<Entry> {
    let mut random = Random::new(7);
    let mut flow = |_| {
        let family = if random.below(2) == 0 {
            Family::V4
        } else {
            Family::V6
        };
        let pod = |random: &mut Random| address_of(random.below(PODS) as usize, family);
        let (source, destination) = match random.below(3) {
            0 => (pod(&mut random), outside(family)),
            1 => (outside(family), pod(&mut random)),
            _ => (pod(&mut random), pod(&mut random)),
        };
        let [first, last] = PORTS;
        let ports = u32::from(last - first);
        let port = first + u16::try_from(random.below(ports * 2)).unwrap_or(0);
        entry(
            [source, destination],
            32_768 + (random.below(20_000) as u16),
            port,
        )
    };
    let flows: Vec<Entry> = (0..different).map(&mut flow).collect();
    flows.into_iter().cycle().take(FLOWS).collect()
}

fn entry([source, destination]: [IpAddr; 2], source_port: u16, destination_port: u16) -> Entry {
    let original = Tuple {
        source,
        destination,
        source_port,
        destination_port,
    };
    let reply = Tuple {
        source: destination,
        destination: source,
        source_port: destination_port,
        destination_port: source_port,
    };
    Entry {
        protocol: 6,
        original,
        reply,
    }
}

/// The last policy of a namespace lets nothing in any more.
fn changed(index: &Index) -> Result<Change> {
    let policies = &index.objects().policies;
    let mut named = policies
        .values()
        .filter(|policy| policy.name.name == "policy2");
    let mut policy = named.next().context("a policy")?.clone();
    policy.ingress = Some(Vec::new());
    Ok(Change {
        key: Key::NetworkPolicy(policy.name.clone()),
        value: Some(Resource::NetworkPolicy(policy)),
    })
}
