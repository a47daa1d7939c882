//! Pods of nodes whose pools have WireGuard: nothing in the clear, keys replaced and agents killed under traffic.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

mod seen;

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use seen::{Wires, count, counted, send_marked};
use serde_json::Value;
use socket2::{Domain, Protocol, Socket, Type};
use tests::datagrams::count_while;
use tests::fabric::{Fabric, PATIENCE, Underlay, pools};
use tests::rack::say;
use tests::require_root;
use tests::station::Station;
use tests::wait::eventually;

const DEVICE: &str = "wg.portolan";
const DEVICES: [&str; 2] = [DEVICE, "wg1.portolan"];

/// The public keys that a node has published, and whether one is being replaced.
fn published(fabric: &Fabric, node: usize) -> Result<(Vec<String>, bool)> {
    let text = fabric.read_manifest(&format!(".status/node{}.json", node + 1))?;
    let status: Value = serde_json::from_str(&text)?;
    let keys = status["wireGuard"]["keys"].as_array();
    let keys = keys.with_context(|| text.clone())?;
    ensure!(keys.len() == 2, "{text}");
    let public = |key: &Value| Some(key["publicKey"].as_str()?.to_owned());
    let public: Option<Vec<String>> = keys.iter().map(public).collect();
    let is_retiring = keys.iter().any(|key| key["retiring"] == true);
    Ok((public.context("keys")?, is_retiring))
}

fn all_published(fabric: &Fabric) -> Result<Vec<Vec<String>>> {
    let each = (0..3).map(|node| Ok(published(fabric, node)?.0));
    each.collect()
}

/// What the kernel has for a station's peers, by `wg show`.
fn peers(station: &Station, device: &str) -> Result<String> {
    station.netns.run("wg", &["show", device, "peers"])
}

fn assert_encrypted(tag: &str, underlay: Underlay, overhead: u32) {
    let fabric = Fabric::start(tag, underlay, DEVICE, &pools("WireGuard")).unwrap();
    count(&fabric.stations[0].netns).unwrap();
    let wires = Wires::watch(fabric.wires()).unwrap();
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
    let on_wires = wires.seen();
    say(&format!(
        "{marked} packets left in the clear, {encrypted} encrypted; on the wires {on_wires:?}"
    ));
    assert!(marked == 0 && encrypted >= 80, "{marked}, {encrypted}");
    assert!(
        on_wires.marked == 0 && on_wires.encrypted >= 80,
        "{on_wires:?}"
    );
    assert_eq!(fabric.seen_by_router().unwrap(), 0);
    for pod in 0..3 {
        assert_eq!(fabric.pod_mtu(pod).unwrap(), 1500 - overhead);
    }
    keys_are_read_by_the_others(&fabric);
    let told = || nodes_are_told_of(&fabric.stations[0]);
    eventually(PATIENCE, "nodes and handshakes in status", told).unwrap();
    // A pool without it, and the same packets are seen, by both.
    fabric.manifest("pools.yaml", &pools("None")).unwrap();
    eventually(PATIENCE, "a packet in the clear", || {
        send_marked(&fabric, 0, 1, 5)?;
        let (marked, _) = counted(&fabric.stations[0].netns)?;
        let on_wires = wires.seen().marked;
        ensure!(marked > 0 && on_wires > 0, "{marked}, {on_wires}");
        Ok(())
    })
    .unwrap();
}

/// What a node publishes is what it says itself, and what the others' kernels have for a peer.
fn keys_are_read_by_the_others(fabric: &Fabric) {
    let status = fabric.stations[0].agent.status().unwrap();
    let said = status["wireguard"]["slots"].as_array().unwrap();
    let (keys, _) = published(fabric, 0).unwrap();
    for (slot, (said, key)) in said.iter().zip(&keys).enumerate() {
        assert_eq!(said["publicKey"], key.as_str());
        for other in [1, 2] {
            let peers = peers(&fabric.stations[other], DEVICES[slot]).unwrap();
            assert!(peers.contains(key), "{peers}");
        }
    }
}

/// As of the last look.
fn nodes_are_told_of(station: &Station) -> Result<()> {
    let status = station.agent.status()?;
    let told = status["wireguard"]["peers"].as_array();
    let told = told.with_context(|| status.to_string())?;
    let names: Vec<_> = told.iter().map(|peer| peer["node"].as_str()).collect();
    ensure!(names == [Some("node2"), Some("node3")], "{told:?}");
    for peer in told {
        let is_alive = peer["handshakeSeconds"].is_u64();
        ensure!(
            is_alive && peer["receivedBytes"].as_u64() > Some(0),
            "{peer}"
        );
    }
    let table = station.agent.status_table()?;
    ensure!(table.contains("wireguard: node node2 by wg"), "{table}");
    Ok(())
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

fn start_all(stations: &mut [Station]) -> Result<()> {
    for station in &mut *stations {
        station.agent.start(&station.netns)?;
    }
    for station in stations {
        station.agent.wait_synced()?;
    }
    Ok(())
}

fn kill_all(stations: &mut [Station]) -> Result<()> {
    for station in stations {
        station.agent.kill()?;
    }
    std::thread::sleep(Duration::from_secs(2));
    Ok(())
}

#[test]
fn killed_agents_lose_nothing_and_keep_their_keys() {
    require_root!();
    let mut fabric = Fabric::start("wgk", Underlay::V4, DEVICE, &pools("WireGuard")).unwrap();
    fabric.all_reach_all().unwrap();
    let before = all_published(&fabric).unwrap();
    let mut stations: Vec<_> = fabric.stations.drain(..).collect();
    let killed = count_while(fabric.ends(0, 2, 0), || {
        kill_all(&mut stations)?;
        start_all(&mut stations)?;
        // Beyond the time after which a device that nothing asks for would go.
        std::thread::sleep(Duration::from_secs(12));
        ensure!(all_published(&fabric)? == before, "other keys");
        Ok(())
    });
    let (sent, lost) = killed.unwrap();
    say(&format!("all agents killed: {lost} of {sent} lost"));
    assert!(sent > 300 && lost == 0, "{lost} of {sent}");
    // The same probes are lost where there is no way.
    let cut = count_while(fabric.ends(0, 2, 0), || {
        for device in DEVICES {
            stations[0].netns.ip(&format!("link set {device} down"))?;
        }
        std::thread::sleep(Duration::from_millis(500));
        Ok(())
    });
    let (sent, lost) = cut.unwrap();
    say(&format!("both devices down: {lost} of {sent} lost"));
    assert!(lost > 0, "of {sent}");
    for station in &stations {
        assert_secret(&fabric, station);
    }
}

#[test]
fn all_keys_are_replaced_under_traffic_without_a_loss() {
    require_root!();
    let mut fabric = Fabric::start("wgr", Underlay::V4, DEVICE, &pools("WireGuard")).unwrap();
    fabric.all_reach_all().unwrap();
    let before = all_published(&fabric).unwrap();
    let mut stations: Vec<_> = fabric.stations.drain(..).collect();
    kill_all(&mut stations).unwrap();
    for station in &mut stations {
        let arguments = ["--wireguard-key-lifetime", "10m"];
        station.agent.set_arguments(&arguments);
    }
    start_all(&mut stations).unwrap();
    let replaced = count_while(fabric.ends(0, 1, 1), || {
        for station in &stations {
            station.agent.verb(&["wireguard", "rotate"])?;
        }
        // Longer than that takes by itself: each key waits until nobody sends by it for a minute.
        eventually(8 * PATIENCE, "all keys to be others", || {
            for (node, (new, old)) in all_published(&fabric)?.iter().zip(&before).enumerate() {
                let is_other = new.iter().zip(old).all(|(new, old)| new != old);
                ensure!(is_other, "node {node}: {new:?}");
            }
            Ok(())
        })
    });
    let (sent, lost) = replaced.unwrap();
    say(&format!("6 keys replaced: {lost} of {sent} lost"));
    assert!(sent > 1000 && lost == 0, "{lost} of {sent}");
}

/// A private key is in its file, which root alone reads, and in nothing that is told.
fn assert_secret(fabric: &Fabric, station: &Station) {
    let folder = station.agent.state_dir().join("wireguard");
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&folder), 0o700);
    let node = station.agent.node();
    let told = [
        station.agent.log(),
        station.agent.verb(&["status", "-o", "json"]).unwrap(),
        station.agent.status_table().unwrap(),
        fabric
            .read_manifest(&format!(".status/{node}.json"))
            .unwrap(),
    ];
    for (slot, device) in DEVICES.iter().enumerate() {
        let file = folder.join(format!("key-{slot}.json"));
        assert_eq!(mode(&file), 0o600);
        let text = std::fs::read_to_string(&file).unwrap();
        let key: Value = serde_json::from_str(&text).unwrap();
        let secret = key["privateKey"].as_str().unwrap();
        let in_force = station
            .netns
            .run("wg", &["show", device, "private-key"])
            .unwrap();
        assert_eq!(in_force.trim(), secret);
        for told in &told {
            assert!(told.len() > 50 && !told.contains(secret), "{told}");
        }
    }
}

#[test]
fn a_live_pool_goes_from_none_to_wireguard_and_back_and_a_key_retires_when_asked() {
    require_root!();
    let mut fabric = Fabric::start("wgl", Underlay::V4, DEVICE, &pools("None")).unwrap();
    fabric
        .reaches(fabric.pods[0].netns(), fabric.pods[1].addresses[0])
        .unwrap();
    assert!(!fabric.has_tunnel(0));
    let stations: Vec<_> = fabric.stations.drain(..).collect();
    let goes_by = |is_tunnel: bool| {
        eventually(2 * PATIENCE, "the routes", || {
            for station in &stations {
                let routes = station.netns.ip("route show proto 179")?;
                let found = routes.contains("dev wg");
                ensure!(found == is_tunnel, "{routes}");
            }
            Ok(())
        })
    };
    let changed = count_while(fabric.ends(0, 1, 0), || {
        for (encapsulation, is_tunnel) in [("WireGuard", true), ("None", false)] {
            fabric.manifest("pools.yaml", &pools(encapsulation))?;
            goes_by(is_tunnel)?;
            std::thread::sleep(Duration::from_secs(5));
        }
        Ok(())
    });
    let (sent, lost) = changed.unwrap();
    say(&format!("None, WireGuard, None: {lost} of {sent} lost"));
    // None on a machine that keeps up; one in software that does much else may need a second handshake, after five seconds.
    assert!(sent > 500 && lost * 50 <= sent, "{lost} of {sent}");

    fabric.manifest("pools.yaml", &pools("WireGuard")).unwrap();
    goes_by(true).unwrap();
    let said = stations[0].agent.verb(&["wireguard", "rotate"]).unwrap();
    assert!(said.contains("asked"), "{said}");
    eventually(2 * PATIENCE, "a key to be on its way out", || {
        ensure!(published(&fabric, 0)?.1, "none");
        let table = stations[0].agent.status_table()?;
        ensure!(table.contains("Retiring"), "{table}");
        Ok(())
    })
    .unwrap();
    fabric
        .reaches(fabric.pods[0].netns(), fabric.pods[1].addresses[0])
        .unwrap();
}

#[test]
fn from_a_node_without_an_address_nothing_goes_and_a_stranger_gets_nothing_in() {
    require_root!();
    let mut fabric = Fabric::start("wgn", Underlay::V4, DEVICE, &pools("WireGuard")).unwrap();
    fabric.all_reach_all().unwrap();
    count(&fabric.stations[0].netns).unwrap();
    a_node_without_an_address(&fabric);
    a_stranger(&mut fabric);
}

/// Its own ranges are closed, and open again with the address.
fn a_node_without_an_address(fabric: &Fabric) {
    let manifest = fabric.read_manifest("node1.yaml").unwrap();
    let (nameless, _) = manifest.split_once("status:").unwrap();
    fabric.manifest("node1.yaml", nameless).unwrap();
    let far = fabric.pods[1].addresses[0];
    eventually(PATIENCE, "the ranges to be closed", || {
        let said = fabric.stations[0].agent.status_table()?;
        ensure!(
            said.contains("Node node1 has no InternalIP") && said.contains("in the clear"),
            "{said}"
        );
        let way = fabric.stations[0].netns.ip(&format!("route get {far}"));
        ensure!(way.is_err(), "{way:?}");
        Ok(())
    })
    .unwrap();
    send_marked(fabric, 0, 1, 50).unwrap();
    assert_eq!(counted(&fabric.stations[0].netns).unwrap().0, 0);
    fabric.manifest("node1.yaml", &manifest).unwrap();
    fabric.reaches(fabric.pods[0].netns(), far).unwrap();
}

/// Who has a key that no node has published, and knows that of the first node.
fn a_stranger(fabric: &mut Fabric) {
    let (keys, _) = published(fabric, 0).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key");
    let router = &fabric.router;
    let secret = router.run("wg", &["genkey"]).unwrap();
    std::fs::write(&file, secret).unwrap();
    router.ip("link add wg0 type wireguard").unwrap();
    let endpoint = format!("{}:51820", fabric.address(0));
    let file = file.to_str().unwrap();
    let mut words = vec!["set", "wg0", "private-key", file, "peer", &keys[0]];
    words.extend(["endpoint", &endpoint, "allowed-ips", "10.48.0.0/16"]);
    router.run("wg", &words).unwrap();
    router.ip("link set wg0 up").unwrap();
    router.ip("route add 10.48.0.0/16 dev wg0").unwrap();
    let victim = fabric.pods[0].addresses[0];
    let send = move |packet: &[u8]| -> Result<()> {
        let raw = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(255)))?;
        raw.send_to(packet, &std::net::SocketAddr::new(victim, 0).into())?;
        Ok(())
    };
    assert_eq!(fabric.forged_arrive(10, send).unwrap(), 0);
    let sent = |fabric: &Fabric| {
        let text = fabric.router.run("wg", &["show", "wg0", "transfer"]);
        let text = text.unwrap();
        let words: Vec<u64> = text
            .split_whitespace()
            .filter_map(|word| word.parse().ok())
            .collect();
        (words[0], words[1])
    };
    let (received, tried) = sent(fabric);
    assert!(received == 0 && tried > 0, "{received}, {tried}");
    // A peer with the same packets is heard: so they could arrive.
    let public = fabric.router.run("wg", &["show", "wg0", "public-key"]);
    let (public, claimed) = (public.unwrap(), fabric.pods[2].addresses[0]);
    fabric.stations[0].agent.kill().unwrap();
    let allowed = format!("{claimed}/32");
    let words = [
        "set",
        DEVICE,
        "peer",
        public.trim(),
        "allowed-ips",
        &allowed,
    ];
    fabric.stations[0].netns.run("wg", &words).unwrap();
    let arrived = eventually(PATIENCE, "a peer's packets to arrive", || {
        let arrived = fabric.forged_arrive(10, send)?;
        ensure!(arrived > 0, "none");
        Ok(arrived)
    });
    say(&format!(
        "of 10 packets of a stranger 0 arrived, of a peer {}",
        arrived.unwrap()
    ));
    fabric.router.ip("link del wg0").unwrap();
    // The next look takes the peer away.
    let station = &mut fabric.stations[0];
    station.agent.start(&station.netns).unwrap();
    eventually(PATIENCE, "the stranger to be gone", || {
        let peers = peers(&fabric.stations[0], DEVICE)?;
        ensure!(!peers.contains(public.trim()), "{peers}");
        Ok(())
    })
    .unwrap();
}

#[test]
fn to_a_node_without_a_key_nothing_goes() {
    require_root!();
    let mut fabric = Fabric::start("wgw", Underlay::V4, DEVICE, &pools("WireGuard")).unwrap();
    fabric.all_reach_all().unwrap();
    count(&fabric.stations[0].netns).unwrap();
    fabric.stations[1].agent.terminate().unwrap();
    fabric.remove_manifest(".status/node2.json").unwrap();
    let far = fabric.pods[1].addresses[0];
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
