//! The other mode: each host's own FRR tells both ToRs of the host's address on lo, and pods go by VXLAN between those.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tests::frr::Frr;
use tests::netns::Netns;

use crate::lab::{Bfd, Lab, gateways, router_config};

/// The address of a node that both ToRs know, by its number.
pub(crate) fn loopback(node: u8) -> String {
    format!("10.99.{node}.1")
}

/// The Node: its pods' addresses are of the pools'.
pub(crate) fn node_manifest(node: u8) -> String {
    format!(
        "apiVersion: v1
kind: Node
metadata: {{name: n{node}, labels: {{kubernetes.io/hostname: n{node}}}}}
status: {{addresses: [{{type: InternalIP, address: {}}}]}}
",
        loopback(node)
    )
}

/// Gives a machine its address, and starts what tells the ToRs of it.
pub(crate) fn start(netns: &Netns, node: u8, bfd: Bfd) -> Result<Frr> {
    let own = loopback(node);
    netns.ip(&format!("addr add {own}/32 dev lo"))?;
    let mut peers = String::new();
    let mut family = format!("  network {own}/32\n");
    for tor in 1..=2 {
        let address = format!("10.6{tor}.{node}.1");
        peers.push_str(&format!(
            " neighbor {address} remote-as 6500{tor}\n neighbor {address} timers connect 1\n neighbor {address} bfd profile lab\n"
        ));
        family.push_str(&format!("  neighbor {address} activate\n"));
    }
    let families = [family, String::new()];
    let mut frr = Frr::start(
        netns,
        &router_config(&format!("6451{node}"), &own, &peers, &families),
    )?;
    // FRR 8.4 forgets that the kernel takes a next hop that it deletes out of its group, too: a way that comes back is not used.
    let plain = ["configure terminal", "no zebra nexthop kernel enable"];
    frr.vtysh(&plain)?;
    frr.start_bfdd(netns, &bfd.frr())?;
    Ok(frr)
}

/// Two ways from each node to the other, and from the spine to each; BFD up with both ToRs.
pub(crate) fn has_all_ways(lab: &Lab) -> Result<()> {
    for (node, other) in [(0, 2), (1, 1)] {
        let ways = ways(lab, node, other)?;
        ensure!(ways.len() == 2, "n{}: {ways:?}", node + 1);
        let peers = lab.underlay[node].json("show bfd peers json")?;
        let all = peers.as_array().context("no BFD peers")?;
        let up = |peer: &&Value| peer["status"] == "up";
        ensure!(all.iter().filter(up).count() == 2, "{peers}");
    }
    for node in 1..=2 {
        let ways = gateways(&lab.spine.netns, &loopback(node), "proto bgp")?;
        ensure!(ways.len() == 2, "the spine: {ways:?}");
    }
    Ok(())
}

/// A way of that ToR alone is left from the first node to the second.
pub(crate) fn has_way_by(lab: &Lab, tor: u8) -> Result<()> {
    let ways = ways(lab, 0, 2)?;
    ensure!(ways == [format!("10.6{tor}.1.1")], "{ways:?}");
    Ok(())
}

fn ways(lab: &Lab, node: usize, to: u8) -> Result<Vec<String>> {
    gateways(&lab.nodes[node].netns, &loopback(to), "proto bgp")
}
