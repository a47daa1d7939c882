//! Pods of nodes in two subnets, behind a router that knows no pods: by VXLAN, and directly where nodes are near.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

mod checksums;
mod guard;
mod mtu;
mod trace;

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use tests::fabric::{Fabric, PATIENCE, Underlay, VXLAN_PACKETS, pools, pools_of_the_docs};
use tests::flow::measure_while;
use tests::forge;
use tests::netns::Netns;
use tests::rack::{say, sum};
use tests::require_root;
use tests::station::Station;
use tests::wait::eventually;

/// The tunnel's device.
const TUNNEL: &str = "vxlan.portolan";

/// Everything that must hold of pods in tunnels, whatever the nodes' addresses are.
fn assert_tunnels_carry_all(lab: &Fabric, overhead: u32) {
    lab.count_tunnelled(1, VXLAN_PACKETS).unwrap();
    lab.count_tunnelled(2, VXLAN_PACKETS).unwrap();
    lab.all_reach_all().unwrap();
    assert!(lab.sent_tunnelled(1).unwrap() > 0 && lab.sent_tunnelled(2).unwrap() > 0);
    // The nodes themselves, too: their packets bear an address that comes back by the tunnel.
    for address in &lab.pods[2].addresses {
        lab.reaches(&lab.stations[0].netns, *address).unwrap();
    }
    for pod in 0..3 {
        assert_eq!(lab.pod_mtu(pod).unwrap(), 1500 - overhead);
    }
    for to in [1, 2] {
        for (family, address) in lab.pods[to].addresses.iter().enumerate() {
            let seen = lab.sends_whole(0, *address, to).unwrap();
            assert_eq!(seen, lab.pods[0].addresses[family], "the source is kept");
        }
    }
    for node in 0..3 {
        assert_eq!(lab.fragments(node).unwrap(), 0, "node {node}");
    }
    assert_eq!(lab.seen_by_router().unwrap(), 0);
}

#[test]
fn by_vxlan_over_ipv4_pods_of_both_families_reach_each_other_and_the_router_sees_none() {
    require_root!();
    let mut lab = Fabric::start("vx4", Underlay::V4, TUNNEL, &pools("VXLAN")).unwrap();
    assert_tunnels_carry_all(&lab, 50);
    // The nodes' sessions announce the same blocks: what is kept out for that is told, and no more once it is in.
    let kept = |lab: &Fabric| -> Result<String> {
        let status = lab.stations[0].agent.status()?;
        Ok(status["routes"]["keptOut"].to_string())
    };
    for (encapsulation, wanted) in [("VXLAN", r#"{"10.48.0.0/16":2}"#), ("None", "{}")] {
        lab.manifest("pools.yaml", &pools(encapsulation)).unwrap();
        lab.wait_synced().unwrap();
        eventually(PATIENCE, "what is kept out", || {
            let kept = kept(&lab)?;
            ensure!(kept == wanted, "{kept}");
            Ok(())
        })
        .unwrap();
    }
}

#[test]
fn by_vxlan_over_ipv6_pods_of_both_families_reach_each_other_and_the_router_sees_none() {
    require_root!();
    let lab = Fabric::start("vx6", Underlay::V6, TUNNEL, &pools("VXLAN")).unwrap();
    assert_tunnels_carry_all(&lab, 70);
}

#[test]
fn across_subnets_nodes_of_one_subnet_need_no_tunnel() {
    require_root!();
    // Over IPv6 both families have a direct next hop.
    let lab = Fabric::start("vxc", Underlay::V6, TUNNEL, &pools_of_the_docs().unwrap()).unwrap();
    lab.count_tunnelled(1, VXLAN_PACKETS).unwrap();
    lab.count_tunnelled(2, VXLAN_PACKETS).unwrap();
    lab.all_reach_all().unwrap();
    assert_eq!(lab.sent_tunnelled(1).unwrap(), 0, "in one subnet");
    assert!(lab.sent_tunnelled(2).unwrap() > 0, "across");
    assert_eq!(lab.seen_by_router().unwrap(), 0);
    assert_eq!(lab.tunnelled(0).unwrap().len(), 2, "of node 3 alone");
}

#[test]
fn killed_agents_lose_nothing_damage_is_healed_and_a_node_that_goes_takes_its_entries_along() {
    require_root!();
    let mut lab = Fabric::start("vxk", Underlay::V4, TUNNEL, &pools("VXLAN")).unwrap();
    lab.all_reach_all().unwrap();
    let theirs = "link add theirs type vxlan id 77 dstport 4790 nolearning";
    lab.stations[0].netns.ip(theirs).unwrap();
    lab.bridge("fdb add 02:00:00:00:00:77 dev theirs dst 192.0.2.77");
    let before = lab.entries(0).unwrap();
    let routes = lab.tunnelled(0).unwrap();
    assert_eq!(
        (before.lines().count(), routes.len()),
        (6, 4),
        "{before} {routes:?}"
    );

    let mut agents: Vec<_> = lab.stations.drain(..).collect();
    let flows = lab.flows(0, 2, 50);
    let outcomes = measure_while(&flows, || {
        for station in &mut agents {
            station.agent.kill()?;
        }
        std::thread::sleep(Duration::from_secs(2));
        for station in &mut agents {
            station.agent.start(&station.netns)?;
        }
        for station in &mut agents {
            station.agent.wait_synced()?;
        }
        // Beyond the time after which a device that nothing asks for would go.
        std::thread::sleep(Duration::from_secs(11));
        Ok(())
    });
    let (sent, lost) = sum("all agents killed", &flows, &outcomes.unwrap()).unwrap();
    assert!(sent > 1000 && lost == 0, "{lost} of {sent}");
    drop(flows);
    lab.stations = agents;
    assert_eq!(lab.entries(0).unwrap(), before);

    let third = lab.address(2);
    let entry = before
        .lines()
        .find(|line| line.contains(&format!("dst {third} ")));
    let mac = entry.unwrap().split_whitespace().next().unwrap();
    lab.bridge(&format!("fdb del {mac} dev {TUNNEL} dst {third}"));
    lab.bridge(&format!(
        "fdb append 00:00:00:00:00:00 dev {TUNNEL} dst 192.0.2.66"
    ));
    eventually(PATIENCE, "the entries to be healed", || {
        ensure!(
            lab.entries(0).unwrap() == before,
            "{}",
            lab.entries(0).unwrap()
        );
        Ok(())
    })
    .unwrap();
    lab.stations[0]
        .netns
        .ip(&format!("link del {TUNNEL}"))
        .unwrap();
    lab.reaches(lab.pods[0].netns(), lab.pods[2].addresses[0])
        .unwrap();

    lab.remove_manifest("node3.yaml").unwrap();
    eventually(PATIENCE, "the node's entries to go", || {
        let (entries, routes) = (lab.entries(0).unwrap(), lab.tunnelled(0).unwrap());
        ensure!(
            entries.lines().count() == 3 && routes.len() == 2,
            "{entries} {routes:?}"
        );
        ensure!(!entries.contains(&third.to_string()), "{entries}");
        Ok(())
    })
    .unwrap();
    assert!(lab.bridge("fdb show dev theirs").contains("192.0.2.77"));

    lab.stations[0].agent.terminate().unwrap();
    assert!(lab.has_tunnel(0), "a stop takes nothing away");
    lab.stations[0].agent.verb(&["cleanup"]).unwrap();
    assert!(!lab.has_tunnel(0));
    assert!(lab.bridge("fdb show dev theirs").contains("192.0.2.77"));
}

#[test]
fn a_live_pool_goes_from_none_to_vxlan_and_back_without_a_loss() {
    require_root!();
    let mut lab = Fabric::start("vxs", Underlay::V6, TUNNEL, &pools("None")).unwrap();
    for address in &lab.pods[1].addresses {
        lab.reaches(lab.pods[0].netns(), *address).unwrap();
    }
    // Across the router nothing passes as it is: it knows no pods.
    let far = lab.pods[2].addresses[1];
    eventually(PATIENCE, "the router to see a pod's packet", || {
        let _ = tests::reach::attempt(
            lab.pods[0].netns(),
            tests::reach::server_at(far),
            tests::reach::Transport::Udp,
            Duration::from_millis(200),
        )?;
        ensure!(lab.seen_by_router()? > 0, "none");
        Ok(())
    })
    .unwrap();
    lab.count_tunnelled(1, VXLAN_PACKETS).unwrap();
    let agents: Vec<_> = lab.stations.drain(..).collect();
    let flows = lab.flows(0, 1, 50);
    let (mut there, mut back) = (0, 0);
    let outcomes = measure_while(&flows, || {
        for (encapsulation, is_tunnelled, count) in
            [("VXLAN", true, &mut there), ("None", false, &mut back)]
        {
            lab.manifest("pools.yaml", &pools(encapsulation))?;
            eventually(PATIENCE, "the switch", || {
                let text = agents[0].netns.ip("route show proto 179")?;
                ensure!(text.contains(TUNNEL) == is_tunnelled, "{text}");
                Ok(())
            })?;
            *count = 1;
            std::thread::sleep(Duration::from_secs(4));
        }
        Ok(())
    });
    let (sent, lost) = sum("None to VXLAN and back", &flows, &outcomes.unwrap()).unwrap();
    assert!(sent > 1000, "{sent}");
    assert_eq!((there, back), (1, 1));
    drop(flows);
    lab.stations = agents;
    let by_tunnel = lab.sent_tunnelled(1).unwrap();
    say(&format!("{by_tunnel} packets went by the tunnel meanwhile"));
    assert!(by_tunnel > 100, "{by_tunnel}");
    assert_eq!(lost, 0, "of {sent}");
    eventually(PATIENCE, "the device to go", || {
        ensure!((0..3).all(|node| !lab.has_tunnel(node)), "still there");
        Ok(())
    })
    .unwrap();
}

/// The link-layer address of the first node's end.
fn tunnel_mac(lab: &Fabric) -> [u8; 6] {
    let shown = &lab.stations[0].netns;
    let shown = shown.ip_json(&format!("link show dev {TUNNEL}")).unwrap();
    let mac = shown[0]["address"].as_str().unwrap().split(':');
    let mac: Vec<u8> = mac
        .map(|byte| u8::from_str_radix(byte, 16).unwrap())
        .collect();
    mac.try_into().unwrap()
}

#[test]
fn a_stranger_that_forges_a_frame_to_a_pod_gets_nothing_in() {
    require_root!();
    let mut lab = Fabric::start("vxf", Underlay::V4, TUNNEL, &pools("VXLAN")).unwrap();
    lab.all_reach_all().unwrap();
    let (end, send) = (lab.address(0), guard::stranger(&lab));
    assert_eq!(lab.forged_arrive(20, &send).unwrap(), 0);
    assert_eq!(lab.strangers_dropped().unwrap(), 20);
    // Anybody may send to another port: somebody else's tunnel.
    let other = |packet: &[u8]| -> Result<()> {
        let socket = std::net::UdpSocket::bind("10.71.1.254:0")?;
        socket.send_to(packet, (end, 4790))?;
        Ok(())
    };
    assert_eq!(lab.forged_arrive(5, other).unwrap(), 0);
    assert_eq!(lab.strangers_dropped().unwrap(), 20);
    // It is the rule that keeps them out: without it they are in, and the agent, which comes back, puts it back.
    lab.stations[0].agent.kill().unwrap();
    let empty = ["-F", "PTL-TUNNELS"];
    lab.stations[0].netns.run("iptables", &empty).unwrap();
    assert_eq!(lab.forged_arrive(20, &send).unwrap(), 20);
    let station = &mut lab.stations[0];
    station.agent.start(&station.netns).unwrap();
    lab.wait_synced().unwrap();
    assert_eq!(lab.forged_arrive(20, &send).unwrap(), 0);
    assert!(lab.strangers_dropped().unwrap() >= 20);
    // Without a tunnel nobody is asked who they are.
    lab.manifest("pools.yaml", &pools("None")).unwrap();
    eventually(PATIENCE, "the rule to go", || {
        let rules = lab.stations[0].netns.run("iptables", &["-S", "INPUT"])?;
        ensure!(!rules.contains("PTL-TUNNELS"), "{rules}");
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_new_nodes_first_connection_gets_in() {
    require_root!();
    let mut lab = Fabric::start("vxn", Underlay::V4, TUNNEL, &pools("VXLAN")).unwrap();
    lab.all_reach_all().unwrap();
    // The third node is forgotten by the others, and comes again: as if it were new.
    let manifest = lab.read_manifest("node3.yaml").unwrap();
    lab.remove_manifest("node3.yaml").unwrap();
    let third = lab.address(2).to_string();
    let members = |lab: &Fabric| lab.stations[0].netns.run("ipset", &["save", "ptl4-nodes"]);
    eventually(PATIENCE, "the node to be forgotten", || {
        let members = members(&lab)?;
        ensure!(!members.contains(&third), "{members}");
        Ok(())
    })
    .unwrap();
    let before = lab.strangers_dropped().unwrap();
    lab.manifest("node3.yaml", &manifest).unwrap();
    eventually(PATIENCE, "its routes", || {
        let routes = lab.tunnelled(0)?;
        ensure!(
            routes.iter().any(|route| route.contains(&third)),
            "{routes:?}"
        );
        Ok(())
    })
    .unwrap();
    lab.wait_synced().unwrap();
    lab.reaches(lab.pods[2].netns(), lab.pods[0].addresses[0])
        .unwrap();
    assert_eq!(lab.strangers_dropped().unwrap(), before);
}

/// What `portolan doctor` finds of tunnels, with this word in it.
fn doctor_says(station: &Station, verdict: &str, word: &str) -> Result<()> {
    let findings = station.agent.findings(&[])?;
    let mut found = findings.iter().filter(|one| one["check"] == "tunnel");
    let found = found.next().context("no finding of tunnels")?;
    ensure!(found["verdict"] == verdict, "{found}");
    ensure!(found.to_string().contains(word), "{found}");
    Ok(())
}

#[test]
fn a_tunnel_that_cannot_be_made_takes_none_away_and_the_status_says_what_to_do() {
    require_root!();
    let mut lab = Fabric::start("vxi", Underlay::V4, TUNNEL, &pools("VXLAN")).unwrap();
    lab.all_reach_all().unwrap();
    // Something else is where IPIP's device is to be; on most kernels of CI its driver isn't there, either.
    for station in &lab.stations {
        let theirs = "link add ipip.portolan type veth peer name theirs";
        station.netns.ip(theirs).unwrap();
    }
    let agents: Vec<_> = lab.stations.drain(..).collect();
    doctor_says(&agents[0], "ok", "").unwrap();
    let flows = lab.flows(0, 2, 50);
    let flows: Vec<_> = flows
        .into_iter()
        .filter(|(_, flow)| flow.to.is_ipv4())
        .collect();
    let outcomes = measure_while(&flows, || {
        lab.manifest("pools.yaml", &pools("IPIP"))?;
        eventually(PATIENCE, "the status to say why", || {
            let status = agents[0].agent.status_table()?;
            ensure!(status.contains("ipip.portolan"), "{status}");
            ensure!(status.contains("rename it"), "{status}");
            ensure!(
                status.contains("IPPool pods6: encapsulation IPIP carries IPv4 only"),
                "{status}"
            );
            doctor_says(&agents[0], "failure", "ipip.portolan")
        })?;
        // Beyond the time after which a device that nothing needs goes.
        std::thread::sleep(Duration::from_secs(12));
        Ok(())
    });
    let (sent, lost) = sum("IPIP that can't be made", &flows, &outcomes.unwrap()).unwrap();
    drop(flows);
    lab.stations = agents;
    assert!(sent > 1000 && lost == 0, "{lost} of {sent}");
    let routes = lab.tunnelled(0).unwrap();
    assert_eq!(routes.len(), 2, "IPv4 stays, IPv6 is let go: {routes:?}");
    // Once the place is free, the driver is asked for.
    let has_driver = {
        let probe = "link add probe type ipip local 192.0.2.9";
        let made = lab.stations[0].netns.ip(probe).is_ok();
        if made {
            lab.stations[0].netns.ip("link del probe").unwrap();
        }
        made
    };
    for station in &lab.stations {
        station.netns.ip("link del ipip.portolan").unwrap();
    }
    eventually(PATIENCE, "IPIP, or a word on its driver", || {
        let status = lab.stations[0].agent.status_table()?;
        let routes = lab.stations[0].netns.ip("route show proto 179")?;
        ensure!(has_driver || status.contains("`modprobe ipip`"), "{status}");
        ensure!(routes.contains("ipip.portolan") == has_driver, "{routes}");
        Ok(())
    })
    .unwrap();
    lab.reaches(lab.pods[0].netns(), lab.pods[2].addresses[0])
        .unwrap();
}
