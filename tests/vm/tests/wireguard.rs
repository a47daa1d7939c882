//! Pods of nodes whose pools have WireGuard: nothing in the clear, keys replaced and agents killed under traffic.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tests::fabric::{Fabric, PATIENCE, Underlay, pools};
use tests::flow::measure_while;
use tests::netns::Netns;
use tests::rack::{say, sum};
use tests::reach::server_at;
use tests::require_root;
use tests::wait::eventually;

/// What pods say; no encrypted packet holds it.
const MARKER: &str = "ahoy-in-the-clear";

/// Counts, from now on, what leaves a node by its uplink: with the marker, and to the ports of WireGuard.
fn count(node: &Netns) -> Result<()> {
    for program in ["iptables", "ip6tables"] {
        let marked = ["-m", "string", "--algo", "bm", "--string", MARKER];
        let encrypted = ["-p", "udp", "-m", "multiport", "--dports", "51820,51821"];
        for what in [&marked[..], &encrypted[..]] {
            let rule = ["-t", "mangle", "-A", "POSTROUTING", "-o", "eth0"];
            node.run(program, &[&rule[..], what].concat())?;
        }
    }
    Ok(())
}

/// How many packets had the marker, and how many went to the ports.
fn counted(node: &Netns) -> Result<(u64, u64)> {
    let (mut marked, mut encrypted, mut rules) = (0, 0, 0);
    for program in ["iptables", "ip6tables"] {
        let text = node.run(program, &["-t", "mangle", "-nvxL", "POSTROUTING"])?;
        for line in text.lines() {
            let sum = match line {
                line if line.contains(MARKER) => &mut marked,
                line if line.contains("51820,51821") => &mut encrypted,
                _ => continue,
            };
            let count = line.split_whitespace().next().context("a count")?;
            *sum += count.parse::<u64>()?;
            rules += 1;
        }
    }
    ensure!(rules == 4, "{rules} rules");
    Ok((marked, encrypted))
}

/// Sends so many datagrams with the marker from a pod to another's addresses.
fn send_marked(fabric: &Fabric, from: usize, to: usize, datagrams: usize) -> Result<()> {
    for address in &fabric.pods[to].addresses {
        let any = if address.is_ipv4() {
            "0.0.0.0:0"
        } else {
            "[::]:0"
        };
        fabric.pods[from].netns().inside(|| -> Result<()> {
            let socket = UdpSocket::bind(any)?;
            for _ in 0..datagrams {
                // Where there is no way the kernel may say so at once.
                let _ = socket.send_to(MARKER.as_bytes(), server_at(*address));
            }
            Ok(())
        })??;
    }
    Ok(())
}

/// The keys that a node has published.
fn published(fabric: &Fabric, node: usize) -> Result<Vec<Value>> {
    let text = fabric.read_manifest(&format!(".status/node{}.json", node + 1))?;
    let status: Value = serde_json::from_str(&text)?;
    let keys = status["wireGuard"]["keys"].as_array();
    Ok(keys.with_context(|| text.clone())?.clone())
}

fn assert_encrypted(tag: &str, underlay: Underlay, overhead: u32) {
    let fabric = Fabric::start(tag, underlay, "wg.portolan", &pools("WireGuard")).unwrap();
    count(&fabric.stations[0].netns).unwrap();
    fabric.all_reach_all().unwrap();
    for to in [1, 2] {
        send_marked(&fabric, 0, to, 20).unwrap();
        for address in &fabric.pods[to].addresses {
            fabric.reaches(&fabric.stations[0].netns, *address).unwrap();
            let source = fabric.sends_whole(0, *address, to).unwrap();
            assert!(fabric.pods[0].addresses.contains(&source), "{source}");
        }
    }
    let (marked, encrypted) = counted(&fabric.stations[0].netns).unwrap();
    say(&format!(
        "{marked} packets in the clear, {encrypted} encrypted"
    ));
    assert!(marked == 0 && encrypted >= 80, "{marked}, {encrypted}");
    assert_eq!(fabric.seen_by_router().unwrap(), 0);
    for pod in 0..3 {
        assert_eq!(fabric.pod_mtu(pod).unwrap(), 1500 - overhead);
    }
    let status = fabric.stations[0].agent.status().unwrap();
    let said = status["wireguard"]["slots"].as_array().unwrap();
    let keys = published(&fabric, 0).unwrap();
    assert_eq!((said.len(), keys.len()), (2, 2));
    for (said, key) in said.iter().zip(&keys) {
        assert_eq!(said["publicKey"], key["publicKey"]);
    }
    // A pool without it, and the same packets are seen.
    fabric.manifest("pools.yaml", &pools("None")).unwrap();
    eventually(PATIENCE, "a packet in the clear", || {
        send_marked(&fabric, 0, 1, 5)?;
        let (marked, _) = counted(&fabric.stations[0].netns)?;
        ensure!(marked > 0, "none");
        Ok(())
    })
    .unwrap();
}

#[test]
fn over_ipv4_pods_of_both_families_reach_each_other_and_nothing_goes_in_the_clear() {
    require_root!();
    assert_encrypted("wg4", Underlay::V4, 60);
}

#[test]
fn over_ipv6_pods_of_both_families_reach_each_other_and_nothing_goes_in_the_clear() {
    require_root!();
    assert_encrypted("wg6", Underlay::V6, 80);
}

#[test]
fn agents_are_killed_and_all_keys_replaced_under_traffic_without_a_loss() {
    require_root!();
    let mut fabric =
        Fabric::start("wgk", Underlay::V4, "wg.portolan", &pools("WireGuard")).unwrap();
    fabric.all_reach_all().unwrap();
    let before: Vec<_> = (0..3)
        .map(|node| published(&fabric, node).unwrap())
        .collect();
    let mut stations: Vec<_> = fabric.stations.drain(..).collect();
    let flows = fabric.flows(0, 2, 10);
    let outcomes = measure_while(&flows, || {
        for station in &mut stations {
            station.agent.kill()?;
        }
        std::thread::sleep(Duration::from_secs(2));
        for station in &mut stations {
            station
                .agent
                .set_arguments(&["--wireguard-key-lifetime", "4m"]);
            station.agent.start(&station.netns)?;
        }
        for station in &mut stations {
            station.agent.wait_synced()?;
        }
        eventually(8 * PATIENCE, "all keys to be others", || {
            for (node, before) in before.iter().enumerate() {
                for (new, old) in published(&fabric, node)?.iter().zip(before) {
                    ensure!(new["publicKey"] != old["publicKey"], "node {node}: {new}");
                }
            }
            Ok(())
        })
    });
    let (sent, lost) = sum("agents killed, keys replaced", &flows, &outcomes.unwrap()).unwrap();
    say(&format!("{lost} of {sent} lost while 6 keys were replaced"));
    assert!(sent > 1000 && lost == 0, "{lost} of {sent}");
}

#[test]
fn a_node_without_a_key_is_sent_nothing_at_all_and_status_says_so() {
    require_root!();
    let mut fabric =
        Fabric::start("wgn", Underlay::V4, "wg.portolan", &pools("WireGuard")).unwrap();
    fabric.all_reach_all().unwrap();
    count(&fabric.stations[0].netns).unwrap();
    fabric.stations[1].agent.terminate().unwrap();
    let file = ".status/node2.json";
    let mut status: Value = serde_json::from_str(&fabric.read_manifest(file).unwrap()).unwrap();
    assert!(
        status
            .as_object_mut()
            .unwrap()
            .remove("wireGuard")
            .is_some()
    );
    fabric.manifest(file, &status.to_string()).unwrap();
    let far: IpAddr = fabric.pods[1].addresses[0];
    eventually(PATIENCE, "the node without a key to be named", || {
        let said = fabric.stations[0].agent.status_table()?;
        ensure!(
            said.contains("Node node2 has published no WireGuard key"),
            "{said}"
        );
        let way = fabric.stations[0].netns.ip(&format!("route get {far}"));
        ensure!(way.is_err(), "{way:?}");
        Ok(())
    })
    .unwrap();
    let (_, before) = counted(&fabric.stations[0].netns).unwrap();
    send_marked(&fabric, 0, 1, 50).unwrap();
    let (marked, after) = counted(&fabric.stations[0].netns).unwrap();
    assert_eq!(marked, 0);
    // What was in sessions may still be under way, but no 50 packets.
    assert!(after - before < 25, "{before} to {after}");
    fabric
        .reaches(fabric.pods[0].netns(), fabric.pods[2].addresses[0])
        .unwrap();
}
