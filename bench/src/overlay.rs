//! The rows of ways between nodes and to outside: what a switch of a live pool loses, what VXLAN costs, and what SNAT does.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use tests::fabric::{Fabric, PATIENCE, Underlay};
use tests::flow::measure_while;
use tests::netns::Netns;
use tests::wait::{eventually, pause};

use crate::figures::Figures;
use crate::policy::traffic::{Round, Traffic};
use crate::policy::{Effort, NodeRow, quantile};

const DEVICE: &str = "vxlan.portolan";
const ROUNDS: usize = 21;
/// Probes a second of each flow while a pool is switched.
const RATE: u32 = 200;
/// What a way may take beside the same made by hand.
const MOST: f64 = 1.1;
/// The first node's gateway to outside.
const OUTSIDE: &str = "10.71.1.254:7171";
/// What the device by hand is called, and its VNI; Portolan's own is at the usual port.
const BY_HAND: &str = "vx0";

fn pool(encapsulation: &str, nat: bool) -> String {
    format!(
        "apiVersion: portolan.io/v1alpha1\nkind: IPPool\nmetadata: {{name: pods}}\nspec: {{cidr: 10.48.0.0/16, blockSize: 26, encapsulation: {encapsulation}, natOutgoing: {nat}}}\n"
    )
}

fn lab(tag: &str, encapsulation: &str, nat: bool) -> Result<Fabric> {
    let lab = Fabric::start(tag, Underlay::V4, DEVICE, &pool(encapsulation, nat))?;
    lab.reaches(pod(&lab, 0)?.0, pod(&lab, 1)?.1)?;
    Ok(lab)
}

/// A pod's namespace and address.
fn pod(lab: &Fabric, number: usize) -> Result<(&Netns, IpAddr)> {
    let pod = lab.pods.get(number).context("a pod")?;
    Ok((pod.netns(), *pod.addresses.first().context("an address")?))
}

/// None to VXLAN and back, under flows of all kinds.
pub(crate) fn switch(row: NodeRow, effort: Effort) -> Result<Figures> {
    let head = ["run", "probes sent", "lost", "to VXLAN, ms", "back, ms"];
    let mut figures = Figures::new(row, &head)?;
    let (mut all_sent, mut all_lost) = (0, 0);
    let mut lab = lab("swi", "None", false)?;
    for run in 1..=effort.repeat.max(1) {
        let stations: Vec<_> = lab.stations.drain(..).collect();
        let flows = lab.flows(0, 1, RATE);
        let mut took = Vec::new();
        let outcomes = measure_while(&flows, || {
            for (encapsulation, is_tunnelled) in [("VXLAN", true), ("None", false)] {
                pause(Duration::from_secs(2))?;
                let begun = Instant::now();
                lab.manifest("pools.yaml", &pool(encapsulation, false))?;
                for station in &stations {
                    eventually(PATIENCE, "the switch", || {
                        let routes = station.netns.ip("route show proto 179")?;
                        ensure!(routes.contains(DEVICE) == is_tunnelled, "{routes}");
                        Ok(())
                    })?;
                }
                took.push(begun.elapsed().as_secs_f64() * 1e3);
            }
            pause(Duration::from_secs(2))
        })?;
        drop(flows);
        lab.stations = stations;
        for outcome in &outcomes {
            ensure!(outcome.is_meaningful(), "too few probes: {outcome:?}");
        }
        let sent: u64 = outcomes.iter().map(|one| one.sent).sum();
        let lost: u64 = outcomes.iter().map(|one| one.lost).sum();
        (all_sent, all_lost) = (all_sent + sent, all_lost + lost);
        let [there, back] = took.as_slice() else {
            anyhow::bail!("{took:?}");
        };
        figures.line([
            run.to_string(),
            sent.to_string(),
            lost.to_string(),
            format!("{there:.0}"),
            format!("{back:.0}"),
        ]);
    }
    let part = all_lost as f64 * 1e3 / all_sent as f64;
    figures.bar("lost of a thousand probes", part, 1.0);
    figures.note(format!(
        "UDP, new and established TCP between pods of two nodes, {RATE} probes a second each; the times are from the manifest's renaming until the \
         routes of all three nodes are the other ones, looked at every 50 ms. To VXLAN a node waits a second after its device is made, so that the \
         others' are there"
    ));
    Ok(figures)
}

/// One way, and what was measured of it in each round.
struct Way {
    name: &'static str,
    lab: Fabric,
    traffic: Traffic,
    rounds: Vec<Round>,
}

impl Way {
    fn between_nodes(name: &'static str, lab: Fabric) -> Result<Self> {
        let ((from, _), (to, address)) = (pod(&lab, 0)?, pod(&lab, 1)?);
        let traffic = Traffic::between((from, to), SocketAddr::new(address, 7171))?;
        Ok(Self {
            name,
            lab,
            traffic,
            rounds: Vec::new(),
        })
    }

    fn measure(&mut self) -> Result<()> {
        let round = self.traffic.round(pod(&self.lab, 0)?.0)?;
        self.rounds.push(round);
        Ok(())
    }

    fn median(&self, value: fn(&Round) -> f64) -> f64 {
        let values: Vec<f64> = self.rounds.iter().map(value).collect();
        quantile(&values, 0.5)
    }

    /// The median of the rounds' own ratios.
    fn ratio(&self, other: &Self, value: fn(&Round) -> f64) -> f64 {
        let pairs = self.rounds.iter().zip(&other.rounds);
        let ratios: Vec<f64> = pairs.map(|(one, two)| value(one) / value(two)).collect();
        quantile(&ratios, 0.5)
    }
}

/// Each way once in each round, another one first each time.
fn take_turns(ways: &mut [Way], effort: Effort) -> Result<()> {
    let count = ways.len();
    for round in 0..effort.part_of(ROUNDS) {
        for place in 0..count {
            let way = ways.get_mut((place + round) % count).context("a way")?;
            way.measure()?;
        }
    }
    Ok(())
}

/// Directly, by our device, and by one made by hand.
pub(crate) fn packet(row: NodeRow, effort: Effort) -> Result<Figures> {
    let head = [
        "way",
        "GB/s",
        "time of bulk, × direct",
        "× by hand",
        "there and back p50 / p99, µs",
        "× direct",
        "× by hand",
    ];
    let mut figures = Figures::new(row, &head)?;
    let mut ways = [
        Way::between_nodes("direct", lab("pkd", "None", false)?)?,
        Way::between_nodes("VXLAN", lab("pkx", "VXLAN", false)?)?,
        Way::between_nodes("VXLAN by hand", tunnel_by_hand(lab("pkh", "None", false)?)?)?,
    ];
    take_turns(&mut ways, effort)?;
    let [direct, ours, by_hand] = &ways;
    for way in [direct, ours, by_hand] {
        let ratio = |other, value| format!("{:.3}", way.ratio(other, value));
        figures.line([
            way.name.to_owned(),
            format!("{:.2}", way.median(Round::throughput)),
            ratio(direct, |round| round.bulk),
            ratio(by_hand, |round| round.bulk),
            format!(
                "{:.1} / {:.1}",
                way.median(|round| round.ping),
                way.median(|round| round.slow_ping)
            ),
            ratio(direct, |round| round.ping),
            ratio(by_hand, |round| round.ping),
        ]);
    }
    let bulk = ours.ratio(by_hand, |round| round.bulk);
    figures.bar(
        "time of bulk by VXLAN, as a part of that by hand",
        bulk,
        MOST,
    );
    let ping = ours.ratio(by_hand, |round| round.ping);
    figures.bar(
        "there and back by VXLAN, as a part of that by hand",
        ping,
        MOST,
    );
    figures.note(
        "TCP over IPv4 by 32 MiB of bulk (the fastest of seven) and 500 single octets there and back in each round; × is the median of the rounds' own \
         ratios. By hand: the same nodes and rules, the agents ended, one VXLAN device of ip(8) with one entry and one neighbour on each node and the \
         routes led by it, its MTU and the pods' as ours has them",
    );
    Ok(figures)
}

/// Leads the way between the first two nodes by devices of ip(8)'s making, and ends the agents, which would put it right.
fn tunnel_by_hand(mut lab: Fabric) -> Result<Fabric> {
    for station in &mut lab.stations {
        station.agent.kill()?;
    }
    for (node, other) in [(0, 1), (1, 0)] {
        let netns = &lab.stations.get(node).context("a node")?.netns;
        let (local, remote) = (lab.address(node), lab.address(other));
        let mac = |node: usize| format!("02:00:00:00:00:{node:02x}");
        let gateway = format!("169.254.77.{}", other + 1);
        for words in [
            format!("link add {BY_HAND} type vxlan id 77 dstport 4790 local {local} nolearning"),
            format!("link set {BY_HAND} address {} mtu 1450 up", mac(node)),
            format!(
                "neigh add {gateway} lladdr {} dev {BY_HAND} nud permanent",
                mac(other)
            ),
        ] {
            netns.ip(&words)?;
        }
        let entry = format!("fdb append {} dev {BY_HAND} dst {remote}", mac(other));
        let words: Vec<&str> = entry.split_whitespace().collect();
        netns.run("bridge", &words)?;
        let (_, address) = pod(&lab, other)?;
        netns.ip(&format!(
            "route add {address}/32 via {gateway} dev {BY_HAND} onlink"
        ))?;
        pod(&lab, node)?.0.ip("link set eth0 mtu 1450")?;
    }
    lab.reaches(pod(&lab, 0)?.0, pod(&lab, 1)?.1)?;
    let sent = lab
        .stations
        .first()
        .context("a node")?
        .netns
        .ip_json(&format!("-s link show dev {BY_HAND}"))?;
    let packets = sent
        .pointer("/0/stats64/tx/packets")
        .and_then(serde_json::Value::as_u64);
    ensure!(
        packets.is_some_and(|count| count >= 3),
        "nothing goes by {BY_HAND}: {packets:?}"
    );
    Ok(lab)
}

/// `natOutgoing`, and one rule made by hand.
pub(crate) fn egress(row: NodeRow, effort: Effort) -> Result<Figures> {
    let head = [
        "SNAT by",
        "connect p50, µs",
        "connections/s",
        "× by hand",
        "GB/s",
        "time of bulk, × by hand",
    ];
    let mut figures = Figures::new(row, &head)?;
    let masquerade = [
        "-t",
        "nat",
        "-A",
        "POSTROUTING",
        "-s",
        "10.48.0.0/16",
        "!",
        "-d",
        "10.48.0.0/16",
        "-j",
        "MASQUERADE",
        "--random-fully",
    ];
    let by_hand = lab("egh", "None", false)?;
    let first = by_hand.stations.first().context("a node")?;
    first.netns.run("iptables", &masquerade)?;
    let mut ways = [
        to_outside("natOutgoing", lab("ego", "None", true)?)?,
        to_outside("a rule by hand", by_hand)?,
    ];
    take_turns(&mut ways, effort)?;
    let [ours, by_hand] = &ways;
    for way in [ours, by_hand] {
        let connect = way.median(|round| round.connect);
        figures.line([
            way.name.to_owned(),
            format!("{connect:.1}"),
            format!("{:.0}", 1e6 / connect),
            format!("{:.3}", way.ratio(by_hand, |round| round.connect)),
            format!("{:.2}", way.median(Round::throughput)),
            format!("{:.3}", way.ratio(by_hand, |round| round.bulk)),
        ]);
    }
    let connect = ours.ratio(by_hand, |round| round.connect);
    figures.bar(
        "a connection's time, as a part of that by hand",
        connect,
        MOST,
    );
    figures.note(
        "60 connections in a row in each round from a pod to the router, which drops what bears a pod's address; × is the median of the rounds' own ratios. \
         By hand: the same node with the pool's natOutgoing off and `-s 10.48.0.0/16 ! -d 10.48.0.0/16 -j MASQUERADE --random-fully` in POSTROUTING",
    );
    Ok(figures)
}

fn to_outside(name: &'static str, lab: Fabric) -> Result<Way> {
    let traffic = Traffic::between((pod(&lab, 0)?.0, &lab.router), OUTSIDE.parse()?)?;
    Ok(Way {
        name,
        lab,
        traffic,
        rounds: Vec::new(),
    })
}
