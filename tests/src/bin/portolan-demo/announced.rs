//! A Service's address, announced by two nodes: asked from outside, while the node that carries more of it dies.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use tests::announced::{self, BFDD, Is, sent_to_nodes, silence, slice, wait_for_ways, ways};
use tests::flow::{Flow, Kind, measure};
use tests::lab::Lab;
use tests::wait::{eventually, pause};

/// As `examples/demo-announced/site.yaml` has it.
const ADDRESS: &str = "198.51.100.10";
const PORT: u16 = 80;
const PATIENCE: Duration = Duration::from_secs(60);
/// Connections a second, and for how long.
const RATE: u32 = 200;
const DURATION: Duration = Duration::from_secs(6);

/// Has the address announced, and asks it without a pause while a node dies.
pub(crate) fn show(lab: &mut Lab, examples: &Path) -> Result<()> {
    lab.frr.start_bfdd(&lab.tor, BFDD)?;
    for file in ["30-bgp.yaml", "site.yaml"] {
        let path = examples.join("demo-announced").join(file);
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        lab.drop_manifest(file, &text)?;
    }
    let endpoints = slice(
        lab,
        ("shop", "site"),
        &[("echo", 8080)],
        &[("shop/web", Is::Ready), ("shop/db", Is::Ready)],
    )?;
    lab.drop_manifest("site-slices.yaml", &endpoints)?;
    // It would keep the outside from one of both endpoints.
    std::fs::remove_file(lab.manifests().join("db-only-from-web.yaml"))
        .context("the policy of a step before")?;
    lab.wait_synced()?;
    announced::spread(lab)?;
    announced::watch_by_bfd(lab, PATIENCE)?;
    let nodes: Vec<&str> = lab.nodes.iter().map(|node| node.address).collect();
    wait_for_ways(lab, ADDRESS, &nodes, PATIENCE)?;
    let told = lab.node(0)?.agent.verb(&["service", "show", "shop/site"])?;
    let table = told
        .lines()
        .skip_while(|line| !line.starts_with("announced"));
    for line in table.take_while(|line| !line.is_empty()) {
        println!("  {line}");
    }
    let busier = busier(lab)?;
    let died = die(lab, busier);
    silence(lab, busier, false)?;
    died?;
    wait_for_ways(lab, ADDRESS, &nodes, PATIENCE)?;
    println!("  the node is back, and announces it again");
    Ok(())
}

fn flow(lab: &Lab) -> Result<Flow> {
    Ok(Flow {
        name: format!("outside → {ADDRESS}"),
        kind: Kind::NewTcp,
        is_allowed: true,
        to: SocketAddr::new(ADDRESS.parse()?, PORT),
        server: lab.place("shop/web", false)?.0.name().to_owned(),
        rate: RATE,
    })
}

/// Which node the ToR sends more to.
fn busier(lab: &Lab) -> Result<usize> {
    let before = sent_to_nodes(lab)?;
    let flows = [(&lab.outside, flow(lab)?)];
    let outcomes = measure(&flows, Duration::from_secs(2), || Ok(()))?;
    let outcome = outcomes.first().context("no outcome")?;
    ensure!(outcome.is_meaningful() && outcome.lost == 0, "{outcome:?}");
    let after = sent_to_nodes(lab)?;
    let sent: Vec<u64> = after
        .iter()
        .zip(before)
        .map(|(after, before)| after - before)
        .collect();
    let shares = lab.nodes.iter().zip(&sent);
    let shares: Vec<String> = shares
        .map(|(node, sent)| format!("{} {sent}", node.agent.node()))
        .collect();
    println!(
        "  {} connections, none lost; packets to {}",
        outcome.sent,
        shares.join(", ")
    );
    let most = sent.iter().enumerate().max_by_key(|(_, sent)| **sent);
    Ok(most.context("no node")?.0)
}

fn die(lab: &Lab, node: usize) -> Result<()> {
    let left: Vec<&str> = lab.nodes.iter().map(|node| node.address).collect();
    let name = lab.node(node)?.agent.node().to_owned();
    let gone = lab.node(node)?.address;
    let flows = [(&lab.outside, flow(lab)?)];
    let mut took = Duration::ZERO;
    let outcomes = measure(&flows, DURATION, || {
        pause(Duration::from_secs(1))?;
        let start = Instant::now();
        silence(lab, node, true)?;
        eventually(PATIENCE, "the ToR sends to the other node alone", || {
            let ways = ways(lab, ADDRESS)?;
            ensure!(
                ways.len() + 1 == left.len() && !ways.contains(gone),
                "{ways:?}"
            );
            Ok(())
        })?;
        took = start.elapsed();
        Ok(())
    })?;
    let outcome = outcomes.first().context("no outcome")?;
    println!(
        "  {name}, which carried more, falls silent: the ToR sends by the other after {} ms; {} of {} connections lost",
        took.as_millis(),
        outcome.lost,
        outcome.sent
    );
    ensure!(outcome.is_meaningful(), "sent less than 90 % of the plan");
    ensure!(
        outcome.lost > 0,
        "the death was not seen: this proves nothing"
    );
    let half = outcome.sent / 2;
    ensure!(outcome.lost < half, "{} of {}", outcome.lost, outcome.sent);
    Ok(())
}
