//! Who is no node is kept out of a tunnel's device as long as it stands, also when no pool asks for it any more.

use super::*;

/// Sends packets to the first node's tunnel, in frames as a node's, from an address that is no node's.
pub(super) fn stranger(lab: &Fabric) -> impl Fn(&[u8]) -> Result<()> + use<> {
    let (mac, end) = (tunnel_mac(lab), lab.address(0));
    move |packet| {
        let socket = std::net::UdpSocket::bind("10.71.1.254:0")?;
        socket.send_to(&forge::vxlan(4179, mac, packet), (end, 4789))?;
        Ok(())
    }
}

/// Whether the device stands, and whether strangers are kept out; the rules are read while the device is there.
fn states(lab: &Fabric) -> (bool, bool) {
    let before = lab.has_tunnel(0);
    let rules = lab.stations[0].netns.run("iptables", &["-S", "INPUT"]);
    let is_guarded = rules.unwrap().contains("-j PTL-TUNNELS");
    // Counted as standing only if it did so on both sides of the look at the rules.
    (before && lab.has_tunnel(0), is_guarded)
}

/// Looks until the device is gone; how often it stood, and was guarded each time.
fn guarded_until_gone(lab: &Fabric) -> usize {
    let mut looks = 0;
    eventually(PATIENCE, "the device to go", || {
        let (stands, is_guarded) = states(lab);
        if stands {
            assert!(is_guarded, "it stands, and strangers may send to it");
            looks += 1;
        }
        ensure!(!lab.has_tunnel(0), "it stands");
        Ok(())
    })
    .unwrap();
    eventually(PATIENCE, "the rule to go", || {
        ensure!(!states(lab).1, "still there");
        Ok(())
    })
    .unwrap();
    looks
}

#[test]
fn strangers_are_kept_out_of_a_device_that_lingers_until_it_is_gone() {
    require_root!();
    let mut lab = Fabric::start("vxg", Underlay::V4, TUNNEL, &pools("VXLAN")).unwrap();
    lab.all_reach_all().unwrap();
    let send = stranger(&lab);
    lab.manifest("pools.yaml", &pools("None")).unwrap();
    eventually(PATIENCE, "the routes to go", || {
        ensure!(lab.tunnelled(0)?.is_empty(), "still there");
        Ok(())
    })
    .unwrap();
    assert_eq!(lab.forged_arrive(20, &send).unwrap(), 0);
    assert_eq!(lab.strangers_dropped().unwrap(), 20);
    // It is the rule that keeps them out: the device still takes what comes.
    lab.stations[0].agent.signal(Signal::SIGSTOP).unwrap();
    let empty = ["-F", "PTL-TUNNELS"];
    lab.stations[0].netns.run("iptables", &empty).unwrap();
    let arrived = lab.forged_arrive(20, &send);
    lab.stations[0].agent.signal(Signal::SIGCONT).unwrap();
    assert_eq!(arrived.unwrap(), 20);
    let looks = guarded_until_gone(&lab);
    assert!(looks >= 10, "{looks}");

    // An agent that was away when the pool changed finds the device, and guards it until it takes it away.
    lab.manifest("pools.yaml", &pools("VXLAN")).unwrap();
    eventually(PATIENCE, "the device", || {
        ensure!(states(&lab) == (true, true), "not there");
        Ok(())
    })
    .unwrap();
    lab.stations[0].agent.kill().unwrap();
    lab.manifest("pools.yaml", &pools("None")).unwrap();
    let station = &mut lab.stations[0];
    station.agent.start(&station.netns).unwrap();
    let looks = guarded_until_gone(&lab);
    say(&format!("seen standing and guarded {looks} times"));
    assert!(looks >= 10, "{looks}");

    // The same without policy, where the device is gone already and the rule is all that is left.
    lab.manifest("pools.yaml", &pools("VXLAN")).unwrap();
    eventually(PATIENCE, "the device", || {
        ensure!(states(&lab) == (true, true), "not there");
        Ok(())
    })
    .unwrap();
    lab.stations[0].agent.kill().unwrap();
    lab.manifest("pools.yaml", &pools("None")).unwrap();
    let station = &mut lab.stations[0];
    station.netns.ip(&format!("link del {TUNNEL}")).unwrap();
    assert_eq!(states(&lab), (false, true));
    without_policy(&mut lab);
    eventually(PATIENCE, "the rule to go", || {
        ensure!(!states(&lab).1, "still there");
        Ok(())
    })
    .unwrap();
}

/// Starts the first node's agent again, which has no policy now.
fn without_policy(lab: &mut Fabric) {
    let mut stations = lab.stations.drain(..);
    let first = stations.next().unwrap();
    let mut first = Station {
        agent: first.agent.with_features("bgp,cni"),
        netns: first.netns,
    };
    first.agent.start(&first.netns).unwrap();
    let rest: Vec<_> = stations.collect();
    lab.stations.push(first);
    lab.stations.extend(rest);
}
