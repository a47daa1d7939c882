//! Sessions and routes: the agents' view beside FRR's, and what a cut session does to the kernel.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::Value;
use tests::cni::addresses;
use tests::lab::{Lab, Node};
use tests::wait::eventually;

const PATIENCE: Duration = Duration::from_secs(60);

/// Prints the pods and their addresses, as ADD answered.
pub(crate) fn show_pods(lab: &Lab) -> Result<()> {
    for pod in &lab.pods {
        let ips: Vec<String> = addresses(&pod.result)
            .iter()
            .map(ToString::to_string)
            .collect();
        let (name, node) = (pod.sandbox.full_name(), lab.node(pod.node)?.agent.node());
        println!("  {name:<12} {node:<6} {}", ips.join("  "));
        ensure!(ips.len() == 2, "{name} has no address of each family");
    }
    Ok(())
}

/// Prints every session from both ends; all must be established.
pub(crate) fn show(lab: &Lab) -> Result<()> {
    println!(
        "  {:<6} {:<13} {:>5} {:>4}   | {:<10} {:<13} {:>5} {:>4}",
        "agent", "state", "rcvd", "sent", "FRR", "state", "rcvd", "sent"
    );
    let summary = lab.frr.json("show bgp ipv4 unicast summary json")?;
    for node in &lab.nodes {
        node.agent.ensure_established(node.tor)?;
        let status = node.agent.status()?;
        let ours = |key: &str| text(status.pointer(&format!("/sessions/0/{key}")));
        let theirs = |key: &str| text(summary.pointer(&format!("/peers/{}/{key}", node.address)));
        println!(
            "  {:<6} {:<13} {:>5} {:>4}   | {:<10} {:<13} {:>5} {:>4}",
            node.agent.node(),
            ours("state"),
            ours("prefixesReceived"),
            ours("prefixesSent"),
            node.address,
            theirs("state"),
            theirs("pfxRcd"),
            theirs("pfxSnt")
        );
        ensure!(theirs("state") == "Established", "FRR: {}", theirs("state"));
        ensure!(
            ours("prefixesSent") == theirs("pfxRcd"),
            "sent and received differ"
        );
    }
    Ok(())
}

/// Prints the routes of ours in each kernel and the ToR's BGP routes; what must be there is there.
pub(crate) fn show_routes(lab: &Lab) -> Result<()> {
    for node in &lab.nodes {
        println!("  {}: ip route show proto 179", node.agent.node());
        for line in node.netns.ip("route show proto 179")?.lines() {
            println!("    {line}");
        }
    }
    println!("  tor: show ip route bgp");
    for line in lab
        .frr
        .vtysh(&["show ip route bgp"])?
        .lines()
        .filter(|l| l.starts_with('B'))
    {
        println!("    {line}");
    }
    for (node, other) in [(0, 1), (1, 0)] {
        let (node, other) = (lab.node(node)?, lab.node(other)?);
        let learned = learned(node)?;
        for prefix in [other.pod_cidr, "192.0.2.0/24"] {
            ensure!(
                learned.contains(prefix),
                "{} misses {prefix}",
                node.agent.node()
            );
        }
        let installed = lab
            .frr
            .json(&format!("show ip route {} json", node.pod_cidr))?;
        let hop = installed.pointer(&format!("/{}/0/nexthops/0/ip", escape(node.pod_cidr)));
        ensure!(
            text(hop) == node.address,
            "the ToR's kernel misses {}",
            node.pod_cidr
        );
    }
    Ok(())
}

/// Shuts the ToR's session with node1: what came by it must go, the rest stay.
pub(crate) fn show_cut(lab: &Lab) -> Result<()> {
    let node = lab.node(0)?;
    let command = format!("neighbor {} shutdown", node.address);
    lab.frr
        .vtysh(&["configure terminal", "router bgp 65000", &command])?;
    eventually(
        PATIENCE,
        "the learned routes to go from node1's kernel",
        || {
            let left = learned(node)?;
            ensure!(left.is_empty(), "{left:?}");
            Ok(())
        },
    )?;
    eventually(PATIENCE, "node1's Pod CIDR to go from the ToR", || {
        let routes = lab.frr.bgp_routes()?;
        ensure!(
            !routes.iter().any(|(prefix, _)| prefix == node.pod_cidr),
            "{routes:?}"
        );
        Ok(())
    })?;
    println!("  node1's kernel now has:");
    for line in node.netns.ip("route show proto 179")?.lines() {
        println!("    {line}");
    }
    let own = node.netns.ip("route show type blackhole proto 179")?;
    ensure!(
        own.contains(node.pod_cidr),
        "its own Pod CIDR must stay: {own}"
    );
    Ok(())
}

/// Ends the shutdown: the session and the routes come back.
pub(crate) fn show_return(lab: &Lab) -> Result<()> {
    let node = lab.node(0)?;
    let command = format!("no neighbor {} shutdown", node.address);
    lab.frr
        .vtysh(&["configure terminal", "router bgp 65000", &command])?;
    lab.wait_established()?;
    eventually(PATIENCE, "the learned routes to be back", || {
        let there = learned(node)?;
        ensure!(there.contains("192.0.2.0/24"), "{there:?}");
        Ok(())
    })?;
    show_routes(lab)
}

/// The destinations a node's kernel has from BGP: ours, by a gateway.
fn learned(node: &Node) -> Result<BTreeSet<String>> {
    let routes = node.netns.ip_json("route show proto 179")?;
    let routes = routes.as_array().into_iter().flatten();
    let learned = routes.filter(|route| text(route.get("gateway")) == node.tor);
    Ok(learned.map(|route| text(route.get("dst"))).collect())
}

fn text(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

/// A prefix as a step of a JSON pointer (RFC 6901 §3).
fn escape(prefix: &str) -> String {
    prefix.replace('/', "~1")
}
