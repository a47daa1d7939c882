//! Probes while node1's agent is killed, and the control run that proves that they see a loss.

use std::time::Duration;

use anyhow::{Result, ensure};
use tests::flow::{Flow, Kind, Outcome, measure};
use tests::lab::Lab;
use tests::netns::Netns;
use tests::reach::server_at;
use tests::wait::pause;

/// For how long probes are sent: into the start of the new agent and its session's return.
const DURATION: Duration = Duration::from_secs(8);

/// One row of the plan: from, to, IPv6, kind, allowed, probes per second.
type Row = (&'static str, &'static str, bool, Kind, bool, u32);

/// 1,000 probes a second. IPv6 runs between pods of one node, which need no BGP (IPv4 only so far), and to
/// a pod that no policy isolates (IPv6 policy has an issue of its own). A denied flow can't be established.
const PLAN: [Row; 12] = [
    ("outside", "shop/web", false, Kind::NewTcp, true, 100),
    (
        "outside",
        "shop/web",
        false,
        Kind::EstablishedTcp,
        true,
        100,
    ),
    ("outside", "team/tester", false, Kind::Udp, true, 150),
    ("shop/web", "shop/db", false, Kind::NewTcp, true, 50),
    ("shop/web", "shop/db", false, Kind::EstablishedTcp, true, 50),
    ("shop/web", "team/tester", true, Kind::NewTcp, true, 50),
    (
        "shop/web",
        "team/tester",
        true,
        Kind::EstablishedTcp,
        true,
        50,
    ),
    ("shop/web", "team/tester", true, Kind::Udp, true, 100),
    ("team/tester", "shop/web", false, Kind::NewTcp, false, 100),
    ("team/tester", "shop/web", false, Kind::Udp, false, 100),
    ("team/client", "shop/cache", false, Kind::NewTcp, false, 50),
    ("team/client", "shop/cache", false, Kind::Udp, false, 100),
];

/// Kills node1's agent with -9 under probes and starts it again after a second: nothing may be lost or
/// let through.
pub(crate) fn show_kill(lab: &mut Lab) -> Result<()> {
    // The agent leaves the lab for the time of the measurement, which reads the rest of it.
    let mut node = lab.nodes.remove(0);
    let measured = plan(lab, &PLAN).and_then(|flows| {
        let outcomes = measure(&flows, DURATION, || {
            pause(Duration::from_secs(1))?;
            node.agent.kill()?;
            pause(Duration::from_secs(1))?;
            node.agent.start(&node.netns)
        })?;
        print_table(&flows, &outcomes);
        check(&flows, &outcomes)
    });
    let synced = node.agent.wait_synced();
    lab.nodes.insert(0, node);
    measured?;
    synced?;
    lab.wait_established()
}

/// Cuts the way through the ToR for 50 ms by a rule there: every flow through it must show a loss, or a
/// run that shows none would prove nothing.
pub(crate) fn show_cut(lab: &Lab) -> Result<()> {
    let through: Vec<Row> = PLAN
        .into_iter()
        .filter(|(from, _, is_v6, _, allowed, _)| *allowed && !is_v6 && *from == "outside")
        .collect();
    let flows = plan(lab, &through)?;
    let outcomes = measure(&flows, Duration::from_secs(3), || {
        pause(Duration::from_secs(1))?;
        lab.tor
            .run("iptables", &["-w", "-I", "FORWARD", "-j", "DROP"])?;
        let waited = pause(Duration::from_millis(50));
        lab.tor
            .run("iptables", &["-w", "-D", "FORWARD", "-j", "DROP"])?;
        waited
    })?;
    print_table(&flows, &outcomes);
    for ((_, flow), outcome) in flows.iter().zip(&outcomes) {
        let name = flow.kind.name();
        ensure!(
            outcome.is_meaningful(),
            "{name} {}: sent less than 90 % of the plan",
            flow.name
        );
        ensure!(
            outcome.lost > 0,
            "{name} {}: the cut was not seen",
            flow.name
        );
    }
    Ok(())
}

fn plan<'lab>(lab: &'lab Lab, rows: &[Row]) -> Result<Vec<(&'lab Netns, Flow)>> {
    let mut flows = Vec::new();
    for &(from, to, is_v6, kind, is_allowed, rate) in rows {
        // The source needs its namespace only; outside has no IPv6 address.
        let (netns, _) = lab.place(from, is_v6)?;
        let (server, address) = lab.place(to, is_v6)?;
        let (name, server) = (format!("{from} → {to}"), server.name().to_owned());
        flows.push((
            netns,
            Flow {
                name,
                kind,
                is_allowed,
                to: server_at(address),
                server,
                rate,
            },
        ));
    }
    Ok(flows)
}

fn print_table(flows: &[(&Netns, Flow)], outcomes: &[Outcome]) {
    println!(
        "  {:<16} {:<7} {:<2} {:<26} {:>7} {:>6} {:>5} {:>6}",
        "kind", "", "", "flow", "planned", "sent", "lost", "leaked"
    );
    for ((_, flow), outcome) in flows.iter().zip(outcomes) {
        let Outcome {
            planned,
            sent,
            lost,
            leaked,
        } = outcome;
        let verdict = if flow.is_allowed { "allowed" } else { "denied" };
        let family = if flow.to.is_ipv4() { "v4" } else { "v6" };
        let (kind, name) = (flow.kind.name(), &flow.name);
        println!(
            "  {kind:<16} {verdict:<7} {family} {name:<26} {planned:>7} {sent:>6} {lost:>5} {leaked:>6}"
        );
    }
    let sum = |of: fn(&Outcome) -> u64| outcomes.iter().map(of).sum::<u64>();
    println!(
        "  {:<54} {:>7} {:>6} {:>5} {:>6}",
        "all",
        sum(|o| o.planned),
        sum(|o| o.sent),
        sum(|o| o.lost),
        sum(|o| o.leaked)
    );
}

fn check(flows: &[(&Netns, Flow)], outcomes: &[Outcome]) -> Result<()> {
    for ((_, flow), outcome) in flows.iter().zip(outcomes) {
        let (kind, name) = (flow.kind.name(), &flow.name);
        ensure!(
            outcome.is_meaningful(),
            "{kind} {name}: sent less than 90 % of the plan"
        );
        ensure!(outcome.lost == 0, "{kind} {name}: {} lost", outcome.lost);
        ensure!(
            outcome.leaked == 0,
            "{kind} {name}: {} leaked",
            outcome.leaked
        );
    }
    Ok(())
}
