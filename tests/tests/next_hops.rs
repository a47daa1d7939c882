//! Next hops of a real BIRD that are behind a router: a route is used while a route of someone else's leads there.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tests::agent::Agent;
use tests::bird::Bird;
use tests::netns::Netns;
use tests::rack::{Rack, node_manifest};
use tests::require_root;
use tests::wait::eventually;

const PATIENCE: Duration = Duration::from_secs(40);
/// What BIRD announces with a next hop that is not its own.
const FAR: &str = "10.100.1.0/24";
const NEAR: &str = "10.100.2.0/24";
const FAR_NEXT_HOP: &str = "10.99.0.9";

const BGP: &str = "
apiVersion: portolan.io/v1alpha1
kind: BGPConfiguration
metadata: {name: default}
spec: {nodeToNodeMeshEnabled: false}
---
apiVersion: portolan.io/v1alpha1
kind: BGPPeer
metadata: {name: bird}
spec: {peerAddress: 10.66.0.1, asNumber: internal}
---
apiVersion: portolan.io/v1alpha1
kind: BGPPeer
metadata: {name: wrong}
spec: {peerAddress: 10.66.0.3, asNumber: 65003, filters: [nowhere]}
";

const BIRD: &str = "
router id 10.66.0.1;
protocol device {}
protocol static { ipv4; route 10.100.1.0/24 blackhole; route 10.100.2.0/24 blackhole; }
protocol bgp node {
  local 10.66.0.1 as 64512;
  neighbor 10.66.0.2 as 64512;
  connect delay time 1;
  ipv4 {
    import all;
    export filter {
      if net = 10.100.1.0/24 then bgp_next_hop = 10.99.0.9;
      accept;
    };
  };
}
";

/// The gateway of a prefix in the node's kernel, if it is there.
fn gateway(node: &Netns, prefix: &str) -> Result<Option<String>> {
    let shown = node.ip_json(&format!("route show {prefix} proto 179"))?;
    let found = shown.pointer("/0").map(|route| {
        let gateway = route.get("gateway").and_then(|gateway| gateway.as_str());
        gateway.unwrap_or("none").to_owned()
    });
    Ok(found)
}

fn until_gateway(node: &Netns, agent: &Agent, prefix: &str, wanted: Option<&str>) {
    let what = format!("{prefix} by way of {wanted:?}");
    eventually(PATIENCE, &what, || {
        let found = gateway(node, prefix)?;
        ensure!(found.as_deref() == wanted, "it goes by way of {found:?}");
        Ok(())
    })
    .with_context(|| agent.log_end())
    .unwrap();
}

fn until_explained(agent: &Agent, outcome: &str) {
    eventually(PATIENCE, outcome, || {
        let why = agent.bgp(&["explain", FAR])?;
        ensure!(why["paths"][0]["outcome"] == outcome, "{why}");
        Ok(())
    })
    .with_context(|| agent.log_end())
    .unwrap();
}

#[test]
fn a_route_follows_its_next_hop_and_goes_while_nothing_leads_there() {
    require_root!();
    let rack = Rack::new("hops").unwrap();
    let node = rack.machine("node").unwrap();
    rack.plug((&node, "eth0"), ("seg", "node"), Some("10.66.0.2/24"))
        .unwrap();
    let router = rack.machine("bird").unwrap();
    rack.plug((&router, "eth0"), ("seg", "bird"), Some("10.66.0.1/24"))
        .unwrap();
    let _bird = Bird::start(&router, BIRD).unwrap();
    let manifest = node_manifest("n1", "10.66.0.2", "10.250.1.0/24", "");
    rack.manifest("node.yaml", &manifest).unwrap();
    rack.manifest("bgp.yaml", BGP).unwrap();
    let mut agent = rack.speaker("n1", &node).unwrap();
    agent.start(&node).unwrap();

    // Nothing leads to the far next hop; the near one is a neighbour.
    until_gateway(&node, &agent, NEAR, Some("10.66.0.1"));
    until_gateway(&node, &agent, FAR, None);
    until_explained(&agent, "not used: its next hop cannot be reached");

    let far = |words: &str| {
        let words = format!("route {words} {FAR_NEXT_HOP}/32");
        move |rest: &str| format!("{words} {rest}")
    };
    node.ip(&far("add")("via 10.66.0.1 proto static")).unwrap();
    until_gateway(&node, &agent, FAR, Some("10.66.0.1"));
    until_explained(&agent, "best");

    // Still reachable, by way of another router: the route moves along.
    node.ip(&far("replace")("via 10.66.0.7 proto static"))
        .unwrap();
    until_gateway(&node, &agent, FAR, Some("10.66.0.7"));

    node.ip(&far("del")("")).unwrap();
    until_explained(&agent, "not used: its next hop cannot be reached");
    until_gateway(&node, &agent, FAR, None);
    until_gateway(&node, &agent, NEAR, Some("10.66.0.1"));

    says_what_it_does(&rack, &agent);
}

/// The node's BGPNodeStatus is in the manifests' status folder, with the refused BGPPeer.
fn says_what_it_does(rack: &Rack, agent: &Agent) {
    let path = rack.manifests().join(".status/n1.bgpnodestatus.json");
    let what = "a BGPNodeStatus with the session";
    let status = eventually(PATIENCE, what, || {
        let text = std::fs::read_to_string(&path)?;
        let object: serde_json::Value = serde_json::from_str(&text)?;
        ensure!(object["status"]["established"] == 1, "{object}");
        Ok(object)
    });
    let object = status.with_context(|| agent.log_end()).unwrap();
    assert_eq!(object["kind"], "BGPNodeStatus");
    let peers = object["status"]["peers"].as_array().unwrap();
    let told: Vec<(&str, &str)> = peers
        .iter()
        .map(|peer| {
            let condition = &peer["conditions"][0];
            (
                peer["name"].as_str().unwrap(),
                condition["status"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(told, [("bird", "True"), ("wrong", "False")]);
    let problems = agent.status().unwrap()["sources"][0]["problems"].clone();
    assert_eq!(problems, serde_json::json!([]), "readers skip the file");
}
