//! The examples as they stand: a route reflector with dynamic clients, and a lab's ToR below an unnumbered spine of real FRR.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tests::agent::Agent;
use tests::frr::Frr;
use tests::netns::{Netns, join};
use tests::rack::{Host, Rack, node_manifest};
use tests::reach::{Transport, Verdict, attempt, server_at};
use tests::require_root;
use tests::wait::eventually;

const PATIENCE: Duration = Duration::from_secs(60);

/// A node on the segment, its agent running, and a host behind it.
struct Node {
    agent: Agent,
    host: Host,
    netns: Netns,
}

fn machine(rack: &Rack, name: &str, address: &str) -> Netns {
    let netns = rack.machine(name).unwrap();
    let within = format!("{address}/24");
    rack.plug((&netns, "eth0"), ("seg", name), Some(&within))
        .unwrap();
    netns
}

fn node(rack: &Rack, name: &str, address: &str, host: &str) -> Node {
    let netns = machine(rack, name, address);
    let host = rack.host(&format!("h-{name}"), &netns, host, "169.254.1.1");
    let mut agent = rack.speaker(name, &netns).unwrap();
    agent.start(&netns).unwrap();
    Node {
        agent,
        host: host.unwrap(),
        netns,
    }
}

fn until(what: &str, agents: &[&Agent], probe: impl FnMut() -> Result<()>) {
    eventually(PATIENCE, what, probe).unwrap_or_else(|error| {
        let logs: Vec<_> = agents.iter().map(|agent| agent.log_end()).collect();
        panic!("{error:#}\n{}", logs.join("\n\n"))
    });
}

fn has(netns: &Netns, routes: &[&str]) -> Result<()> {
    let kernel = netns.ip("route show proto 179")?;
    for route in routes {
        ensure!(kernel.contains(route), "no {route} in\n{kernel}");
    }
    Ok(())
}

fn reaches(from: &Host, to: &Host) {
    let (there, patience) = (server_at(to.address), Duration::from_secs(2));
    for transport in [Transport::Tcp, Transport::Udp] {
        let verdict = attempt(&from.netns, there, transport, patience).unwrap();
        assert_eq!(verdict, Verdict::Answered, "{} by {transport}", to.address);
    }
}

fn example(path: &str) -> String {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples");
    std::fs::read_to_string(format!("{folder}/{path}")).unwrap()
}

#[test]
fn the_route_reflector_reflects_between_nodes_it_was_not_told_of_and_installs_nothing() {
    require_root!();
    let rack = Rack::new("xrr").unwrap();
    let reflector = machine(&rack, "rr1", "10.20.0.1");
    let mut rr = rack
        .speaker_of_example("rr1", &reflector, "route-reflector")
        .unwrap();
    rr.start(&reflector).unwrap();
    // The workers' folder differs in one line, as the example says, and has one more node.
    let bgp = example("route-reflector/20-bgp.yaml");
    assert!(bgp.contains("installRoutes: false"));
    let bgp = bgp.replace("installRoutes: false", "installRoutes: true");
    rack.manifest("bgp.yaml", &bgp).unwrap();
    let nodes = example("route-reflector/10-nodes.yaml");
    rack.manifest("nodes.yaml", &nodes).unwrap();
    let second = node_manifest("worker2", "10.20.0.12", "10.245.2.0/24", "");
    let second = second.replace("hostname: worker2}", "hostname: worker2, role: worker}");
    rack.manifest("worker2.yaml", &second).unwrap();
    let one = node(&rack, "worker1", "10.20.0.11", "10.245.1.2");
    let two = node(&rack, "worker2", "10.20.0.12", "10.245.2.2");
    until("routes of the other worker", &[&rr, &one.agent], || {
        has(&one.netns, &["10.245.2.0/24 "])?;
        has(&two.netns, &["10.245.1.0/24 "])
    });
    // RFC 4456: the next hop is the worker's own, and who began and who reflected is written on it.
    let routes = one.agent.bgp(&["routes", "10.245.2.0/24"]).unwrap();
    let path = &routes[0]["paths"][0];
    assert_eq!(
        (&path["nextHop"], &path["peer"]),
        (&"10.20.0.12".into(), &"reflector".into())
    );
    assert_eq!(path["originatorID"], "10.20.0.12", "{path}");
    assert_eq!(
        path["clusterList"],
        serde_json::json!(["10.20.0.1"]),
        "{path}"
    );
    reaches(&one.host, &two.host);
    reaches(&two.host, &one.host);
    let peers = rr.bgp(&["peers"]).unwrap();
    let clients = peers.as_array().unwrap().iter();
    let up = clients
        .filter(|peer| peer["state"] == "Established")
        .count();
    assert_eq!(up, 2, "{peers}");
    for family in ["-4", "-6"] {
        let routes = reflector
            .ip(&format!("{family} route show proto 179"))
            .unwrap();
        assert_eq!(routes.trim(), "", "the reflector forwards nothing");
    }
}

const SPINE: &str = "\
router bgp 65200
 bgp router-id 10.30.9.1
 no bgp ebgp-requires-policy
 no bgp network import-check
 neighbor down0 interface remote-as external
 neighbor down0 timers connect 1
 neighbor down0 ttl-security hops 1
 address-family ipv4 unicast
  network 10.246.99.0/24
  network 198.51.100.0/24
";

/// What the nodes of the rack are told: the ToR, and BFD as it has it.
const RACK: &str = "
apiVersion: portolan.io/v1alpha1
kind: BGPConfiguration
metadata: {name: default}
spec: {nodeToNodeMeshEnabled: false}
---
apiVersion: portolan.io/v1alpha1
kind: BGPPeer
metadata: {name: tor}
spec: {peerAddress: 10.30.0.1, asNumber: 65100, bfd: {minTx: 300ms, minRx: 300ms, multiplier: 3}}
";

/// The attributes of the one path that FRR has of a prefix.
fn path(frr: &Frr, prefix: &str) -> Result<Value> {
    let route = frr.json(&format!("show bgp ipv4 unicast {prefix} json"))?;
    let path = route.pointer("/paths/0").cloned();
    path.with_context(|| route.to_string())
}

#[test]
fn the_lab_tor_joins_nodes_that_dial_and_a_spine_by_interface_with_ipv4_over_link_local_next_hops()
{
    require_root!();
    let rack = Rack::new("xtor").unwrap();
    let tor = machine(&rack, "tor1", "10.30.0.1");
    let spine = rack.machine("spine").unwrap();
    join((&tor, "uplink0"), (&spine, "down0")).unwrap();
    let beyond = rack
        .host("beyond", &spine, "10.246.99.2", "169.254.1.1")
        .unwrap();
    let frr = Frr::start(&spine, SPINE).unwrap();
    let mut agent = rack.speaker_of_example("tor1", &tor, "lab-tor").unwrap();
    agent.start(&tor).unwrap();
    rack.manifest("bgp.yaml", RACK).unwrap();
    // The third is a wrong one: its Pod CIDR is outside the lab's ranges.
    for (number, cidr) in [
        (1, "10.246.1.0/24"),
        (2, "10.246.2.0/24"),
        (3, "10.9.2.0/24"),
    ] {
        let asn = format!("\n    portolan.io/as-number: \"6511{number}\"");
        let name = format!("n{number}");
        let text = node_manifest(&name, &format!("10.30.0.1{number}"), cidr, &asn);
        rack.manifest(&format!("{name}.yaml"), &text).unwrap();
    }
    let one = node(&rack, "n1", "10.30.0.11", "10.246.1.2");
    let two = node(&rack, "n2", "10.30.0.12", "10.246.2.2");
    let _wrong = node(&rack, "n3", "10.30.0.13", "10.9.2.2");
    until(
        "routes everywhere",
        &[&agent, &one.agent, &two.agent],
        || {
            has(
                &tor,
                &[
                    "10.246.1.0/24 via 10.30.0.11",
                    "10.246.2.0/24 via 10.30.0.12",
                ],
            )?;
            // `via inet6`: the gateway is of the other family (RFC 8950).
            for prefix in ["10.246.99.0/24", "198.51.100.0/24"] {
                let route = tor.ip(&format!("route show {prefix} proto 179"))?;
                ensure!(
                    route.contains("via inet6 fe80::") && route.contains("dev uplink0"),
                    "{prefix}: {route}"
                );
            }
            has(&one.netns, &["10.246.2.0/24 ", "10.246.99.0/24 "])?;
            has(&two.netns, &["10.246.1.0/24 ", "10.246.99.0/24 "])?;
            let refused = agent.bgp(&["routes", "10.9.2.0/24"])?;
            ensure!(
                refused.as_array().is_some_and(|routes| routes.len() == 1),
                "{refused}"
            );
            let spine = spine.ip("route show proto bgp")?;
            ensure!(spine.matches("via inet6 fe80::").count() == 2, "{spine}");
            Ok(())
        },
    );
    reaches(&one.host, &two.host);
    reaches(&one.host, &beyond);
    reaches(&beyond, &two.host);
    what_the_filters_say(&agent, &frr, &one);
    until("BFD up with the whole rack", &[&agent], || {
        let peers = agent.bgp(&["peers"])?;
        let all = peers.as_array().into_iter().flatten();
        let up = all.filter(|peer| peer["bfd"] == "Up").count();
        ensure!(up == 3, "{peers}");
        Ok(())
    });
}

/// The spine is told of Pod CIDRs alone, marked and one hop longer; the rack of nothing outside the lab's ranges.
fn what_the_filters_say(tor: &Agent, spine: &Frr, node: &Node) {
    let told = path(spine, "10.246.1.0/24").unwrap();
    assert_eq!(told["aspath"]["string"], "65100 65100 65111", "{told}");
    assert_eq!(told["community"]["string"], "65100:30", "{told}");
    assert!(path(spine, "10.9.2.0/24").is_err());
    let explained = tor.verb(&["bgp", "explain", "10.9.2.0/24"]).unwrap();
    let rule = "not used: a filter rejects it (filter rack-in importV4 rule 2)";
    assert!(explained.contains(rule), "{explained}");
    let held = node.netns.ip("route show proto 179").unwrap();
    assert!(!held.contains("198.51.100.0"), "{held}");
}
