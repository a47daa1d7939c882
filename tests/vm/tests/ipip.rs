//! Pods of nodes in two subnets, by IPIP, with the driver that the common kernel lacks: each node with an agent of its own.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

use std::time::Duration;

use anyhow::{Result, ensure};
use socket2::{Domain, Protocol, Socket, Type};
use tests::datagrams::count_while;
use tests::fabric::{Fabric, PATIENCE, Underlay};
use tests::rack::say;
use tests::require_root;
use tests::wait::eventually;

const DEVICE: &str = "ipip.portolan";
/// What is counted of IPIP: its IP protocol number.
const IPIP_PACKETS: &str = "-p 4";

/// One pool, of IPv4.
fn pool(encapsulation: &str) -> String {
    format!(
        "apiVersion: portolan.io/v1alpha1\nkind: IPPool\nmetadata: {{name: pods}}\nspec: {{cidr: 10.48.0.0/16, blockSize: 26, encapsulation: {encapsulation}}}\n"
    )
}

/// Has the device of a node in its routes, or not.
fn goes_by(lab: &Fabric, device: &str) -> Result<bool> {
    let routes = lab.stations[0].netns.ip("route show proto 179")?;
    Ok(routes.contains(device))
}

#[test]
fn pods_reach_each_other_by_ipip_with_their_largest_packets_and_near_nodes_do_without() {
    require_root!();
    let mut lab = Fabric::start("ip4", Underlay::V4, DEVICE, &pool("IPIPCrossSubnet")).unwrap();
    lab.count_tunnelled(1, IPIP_PACKETS).unwrap();
    lab.count_tunnelled(2, IPIP_PACKETS).unwrap();
    lab.all_reach_all().unwrap();
    assert_eq!(lab.sent_tunnelled(1).unwrap(), 0, "in one subnet");
    assert!(lab.sent_tunnelled(2).unwrap() > 0, "across");
    assert_eq!(lab.tunnelled(0).unwrap().len(), 1, "of node 3 alone");
    // The node itself, from an address that comes back by the tunnel.
    let far = lab.pods[2].addresses[0];
    lab.reaches(&lab.stations[0].netns, far).unwrap();
    for pod in 0..3 {
        assert_eq!(lab.pod_mtu(pod).unwrap(), 1480);
    }

    lab.manifest("pools.yaml", &pool("IPIP")).unwrap();
    lab.wait_synced().unwrap();
    lab.all_reach_all().unwrap();
    assert_eq!(lab.tunnelled(0).unwrap().len(), 2);
    for to in [1, 2] {
        let before = lab.sent_tunnelled(to).unwrap();
        let seen = lab.sends_whole(0, lab.pods[to].addresses[0], to).unwrap();
        assert_eq!(seen, lab.pods[0].addresses[0], "the source is kept");
        assert!(lab.sent_tunnelled(to).unwrap() > before);
    }
    for node in 0..3 {
        assert_eq!(lab.fragments(node).unwrap(), 0, "node {node}");
    }
    assert_eq!(lab.seen_by_router().unwrap(), 0);

    // A stranger's IPIP packet gets nothing in; without the rule it would.
    let end = lab.address(0);
    let send = move |packet: &[u8]| -> Result<()> {
        let raw = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(4)))?;
        raw.send_to(packet, &std::net::SocketAddr::new(end, 0).into())?;
        Ok(())
    };
    assert_eq!(lab.forged_arrive(10, send).unwrap(), 0);
    assert_eq!(lab.strangers_dropped().unwrap(), 10);
    lab.stations[0].agent.kill().unwrap();
    let empty = ["-F", "PTL-TUNNELS"];
    lab.stations[0].netns.run("iptables", &empty).unwrap();
    assert_eq!(lab.forged_arrive(10, send).unwrap(), 10);
}

#[test]
fn a_live_pool_goes_from_none_to_ipip_to_vxlan_and_back_and_killed_agents_lose_nothing() {
    require_root!();
    let mut lab = Fabric::start("ipc", Underlay::V4, DEVICE, &pool("None")).unwrap();
    lab.reaches(lab.pods[0].netns(), lab.pods[1].addresses[0])
        .unwrap();
    assert!(!lab.has_tunnel(0));
    lab.count_tunnelled(1, IPIP_PACKETS).unwrap();
    let mut stations: Vec<_> = lab.stations.drain(..).collect();
    let changed = count_while(lab.ends(0, 1, 0), || {
        let steps = [
            ("IPIP", Some(DEVICE)),
            ("VXLAN", Some("vxlan.portolan")),
            ("IPIP", Some(DEVICE)),
            ("None", None),
        ];
        for (encapsulation, device) in steps {
            lab.manifest("pools.yaml", &pool(encapsulation))?;
            eventually(PATIENCE, encapsulation, || {
                let routes = stations[0].netns.ip("route show proto 179")?;
                let is_there = match device {
                    Some(device) => routes.contains(device),
                    None => !routes.contains(".portolan"),
                };
                ensure!(is_there, "{routes}");
                Ok(())
            })?;
            std::thread::sleep(Duration::from_secs(5));
        }
        Ok(())
    });
    let (sent, lost) = changed.unwrap();
    say(&format!(
        "None, IPIP, VXLAN, IPIP, None: sent {sent}, lost {lost}"
    ));
    lab.manifest("pools.yaml", &pool("IPIP")).unwrap();
    for station in &mut stations {
        station.agent.wait_synced().unwrap();
    }
    lab.reaches(lab.pods[0].netns(), lab.pods[2].addresses[0])
        .unwrap();
    let killed = count_while(lab.ends(0, 2, 0), || {
        for station in &mut stations {
            station.agent.kill()?;
        }
        std::thread::sleep(Duration::from_secs(2));
        for station in &mut stations {
            station.agent.start(&station.netns)?;
        }
        for station in &mut stations {
            station.agent.wait_synced()?;
        }
        // Beyond the time after which a device that nothing asks for would go.
        std::thread::sleep(Duration::from_secs(11));
        Ok(())
    });
    let (sent_killed, lost_killed) = killed.unwrap();
    say(&format!(
        "all agents killed: sent {sent_killed}, lost {lost_killed}"
    ));
    lab.stations = stations;
    let by_tunnel = lab.sent_tunnelled(1).unwrap();
    say(&format!("{by_tunnel} packets went by IPIP meanwhile"));
    assert!(sent > 500 && sent_killed > 300 && by_tunnel > 100);
    assert_eq!(lost_killed, 0, "of {sent_killed}");
    // Each change is carried out by every node within a second, or what comes before is lost: a machine in software may be
    // slower than that at one or two of the four.
    assert!(lost * 20 <= sent, "{lost} of {sent}");
    assert!(goes_by(&lab, DEVICE).unwrap());

    a_rival_is_told_of(&mut lab);
}

/// Another device that takes the same packets is in the way: told of, with what to do; once it is gone all is well.
fn a_rival_is_told_of(lab: &mut Fabric) {
    let station = &mut lab.stations[0];
    station.agent.terminate().unwrap();
    assert!(lab.has_tunnel(0), "a stop takes nothing away");
    lab.stations[0].agent.verb(&["cleanup"]).unwrap();
    assert!(!lab.has_tunnel(0));
    let local = lab.address(0);
    lab.stations[0]
        .netns
        .ip(&format!("link add theirs type ipip local {local}"))
        .unwrap();
    let station = &mut lab.stations[0];
    station.agent.start(&station.netns).unwrap();
    let said = format!("the IPIP device theirs takes all packets to {local} already");
    eventually(PATIENCE, "the clash to be told", || {
        let status = lab.stations[0].agent.status_table()?;
        ensure!(status.contains(&said), "{status}");
        Ok(())
    })
    .unwrap();
    lab.stations[0].netns.ip("link del theirs").unwrap();
    // Its pod went with the rest that was taken away.
    lab.reaches(&lab.stations[0].netns, lab.pods[2].addresses[0])
        .unwrap();
}
