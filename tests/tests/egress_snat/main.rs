//! Pods reach the outside with their node's address, and each other and the nodes with their own; the ToR does a second NAT.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

mod lab;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::ensure;
use nix::sys::signal::Signal;
use tests::flow::{Flow, measure_while};
use tests::netns::Netns;
use tests::rack::{say, sum};
use tests::reach::Transport;
use tests::require_root;
use tests::seen::ask_udp;
use tests::wait::{eventually, pause};

use lab::{Family, HOST_PORT, Lab, PATIENCE, Station, TELLS, V4, V6, at, ours};

/// From where, to which address and port, and who is seen there.
type Case<'a> = (&'static str, &'a Netns, IpAddr, u16, IpAddr);

/// Every way that there is; without policy and host ports the same.
fn ways(lab: &Lab, of: Family) -> Vec<Case<'_>> {
    let pod = |name: &str| (lab.pod(name).netns(), lab.pod(name).address(of));
    let [web, other, far, plain] = ["web", "other", "far", "plain"].map(pod);
    let nodes = [0, 1].map(|number| (&lab.stations[number].netns, of.node(number)));
    let near = (&lab.near.netns, at(of.near));
    let own = |name, from: (_, IpAddr), to, port| (name, from.0, to, port, from.1);
    vec![
        own("pod to pod, same node", web, other.1, TELLS),
        own("pod to pod, other node", other, far.1, TELLS),
        own("pod to pod, back", far, web.1, TELLS),
        own("pod to pod of another pool", far, plain.1, TELLS),
        own("pod of another pool to pod", plain, far.1, TELLS),
        own("pod to its own node", other, nodes[0].1, TELLS),
        own("pod to another node", other, nodes[1].1, TELLS),
        own("pod to another node, back", far, nodes[0].1, TELLS),
        own(
            "pod to another node's host port",
            far,
            nodes[0].1,
            HOST_PORT,
        ),
        own(
            "pod to its own node's host port",
            other,
            nodes[0].1,
            HOST_PORT,
        ),
        own("pod to an exception", other, at(of.partner), TELLS),
        own("pod of another pool to outside", plain, at(of.near), TELLS),
        (
            "node to its pod",
            nodes[0].0,
            web.1,
            TELLS,
            lab.seen_of_node(of, "own"),
        ),
        (
            "node to another's pod",
            nodes[0].0,
            far.1,
            TELLS,
            lab.seen_of_node(of, "other"),
        ),
        own("node to outside", nodes[0], at(of.near), TELLS),
        own("outside to pod", near, web.1, TELLS),
        own("outside to host port to pod", near, nodes[0].1, HOST_PORT),
        (
            "pod to itself through its host port",
            web.0,
            nodes[0].1,
            HOST_PORT,
            lab.seen_of_node(of, "own"),
        ),
        ("pod to outside", other.0, at(of.near), TELLS, nodes[0].1),
        (
            "pod with a host port to outside",
            web.0,
            at(of.near),
            TELLS,
            nodes[0].1,
        ),
        (
            "pod of the other node to outside",
            far.0,
            at(of.near),
            TELLS,
            nodes[1].1,
        ),
        ("pod to the world", other.0, at(of.world), TELLS, at(of.wan)),
        (
            "node to the world",
            nodes[1].0,
            at(of.world),
            TELLS,
            at(of.wan),
        ),
    ]
}

/// Asks by every way, by both transports; so many questions were right.
fn assert_every_way(lab: &Lab) -> usize {
    let mut right = 0;
    for family in lab.families.clone() {
        for name in ["web", "other", "far", "plain"] {
            // What a pod sees of itself is what the others see.
            let pod = lab.pod(name);
            let shown = pod.netns().ip("addr show dev eth0").unwrap();
            let address = pod.address(family);
            assert!(shown.contains(&format!(" {address}/")), "{shown}");
        }
        for (name, from, to, port, expected) in ways(lab, family) {
            for transport in [Transport::Tcp, Transport::Udp] {
                let seen = lab.seen(from, to, port, transport).unwrap();
                assert_eq!(seen, Some(expected), "{name}, to {to} by {transport}");
                right += 1;
            }
        }
        let on_wan = lab.pods_on_wan(family).unwrap();
        assert_eq!(on_wan, 0, "pods' addresses before the second NAT");
    }
    right
}

/// The chain and the hook stand there, in each family of the lab, and in no other.
fn assert_rules(lab: &Lab, backend: &str) {
    let ours = lab.ours(0, backend);
    let hooks = ours
        .iter()
        .filter(|line| line.starts_with("-A POSTROUTING"));
    assert_eq!(hooks.count(), lab.families.len(), "{ours:?}");
    let other = ["nft", "legacy"].into_iter().find(|one| *one != backend);
    let in_other = lab.ours(0, other.unwrap());
    assert!(
        in_other.iter().all(|line| !line.contains("PTL-")),
        "{in_other:?}"
    );
}

fn every_way(
    tag: &str,
    families: &[Family],
    (features, backend): (&str, &str),
    tunnel: &'static str,
) {
    require_root!();
    let flags = ["--iptables", backend];
    let mut lab = Lab::start_with(tag, families, (features, tunnel), &flags).unwrap();
    lab.attach_all().unwrap();
    assert_rules(&lab, backend);
    let right = assert_every_way(&lab);
    say(&format!("{tag}: {right} questions answered as expected"));
    assert_eq!(right, 46 * families.len());
    for station in &mut lab.stations {
        station.agent.terminate().unwrap();
    }
    assert!(
        !lab.ours(0, backend).is_empty(),
        "a stop takes nothing away"
    );
    lab.stations[0].agent.verb(&["cleanup"]).unwrap();
    assert_eq!(lab.ours(0, backend), Vec::<String>::new());
}

#[test]
fn who_is_seen_where_with_nft() {
    every_way("egn", &[V4, V6], ("bgp,policy,cni", "nft"), "None");
}

#[test]
fn who_is_seen_where_with_legacy() {
    every_way("egl", &[V4, V6], ("bgp,policy,cni", "legacy"), "None");
}

#[test]
fn who_is_seen_where_without_policy() {
    every_way("ego", &[V4, V6], ("bgp,cni", "nft"), "None");
}

#[test]
fn who_is_seen_where_by_vxlan() {
    every_way("egx", &[V4, V6], ("bgp,policy,cni", "nft"), "VXLAN");
}

#[test]
fn who_is_seen_where_in_single_stack_v4() {
    every_way("eg4", &[V4], ("bgp,policy,cni", "nft"), "None");
}

#[test]
fn who_is_seen_where_in_single_stack_v6() {
    every_way("eg6", &[V6], ("bgp,policy,cni", "nft"), "None");
}

/// The ports that someone outside sees of datagrams from these ports of a pod.
fn seen_ports(lab: &Lab, family: Family, own: std::ops::Range<u16>) -> Vec<u16> {
    let near = SocketAddr::new(at(family.near), 7171);
    let server = lab.near.netns.inside(|| UdpSocket::bind(near)).unwrap();
    let server = server.unwrap();
    server
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    let any = SocketAddr::new(lab.pod("other").address(family), 0).ip();
    let mut seen = Vec::new();
    for port in own {
        let from = lab.pod("other").netns().inside(|| {
            let socket = UdpSocket::bind(SocketAddr::new(any, port)).unwrap();
            socket.send_to(b"whom?", near).unwrap();
        });
        from.unwrap();
        let (_, from) = server.recv_from(&mut [0; 16]).unwrap();
        assert_eq!(from.ip(), family.node(0));
        seen.push(from.port());
    }
    seen
}

#[test]
fn ports_are_chosen_at_random() {
    require_root!();
    let mut lab = Lab::start("egp", &[V4, V6], &["--iptables", "nft"]).unwrap();
    lab.attach_all().unwrap();
    for family in [V4, V6] {
        let own = 40_000..40_064;
        let seen = seen_ports(&lab, family, own.clone());
        let kept = own.zip(&seen).filter(|(own, seen)| own == *seen).count();
        let next = seen
            .windows(2)
            .filter(|two| two[0].abs_diff(two[1]) < 8)
            .count();
        let apart: BTreeSet<u16> = seen.iter().map(|port| port >> 12).collect();
        say(&format!(
            "{}: kept {kept}, next to the last {next}, of 64: {seen:?}",
            family.name
        ));
        // Of 64 ports at random, hardly one is the client's own or near the one before; they lie all over the range.
        assert!(kept <= 1 && next <= 2 && apart.len() >= 8, "{seen:?}");
    }
}

/// Whom the host outside sees of a pod on a socket of its own, which may have a flow.
fn whom(lab: &Lab, socket: &UdpSocket, family: Family) -> Option<IpAddr> {
    let to = SocketAddr::new(at(family.near), TELLS);
    // The socket stays in the namespace that it was made in.
    let _ = lab;
    ask_udp(socket, to, Duration::from_secs(5)).unwrap()
}

fn socket(lab: &Lab, family: Family) -> UdpSocket {
    let pod = lab.pod("other");
    let any = SocketAddr::new(pod.address(family), 0);
    pod.netns()
        .inside(|| UdpSocket::bind(any).unwrap())
        .unwrap()
}

#[test]
fn turned_on_and_off_it_holds_for_new_flows_and_those_that_go_on_keep_their_addresses() {
    require_root!();
    for backend in ["nft", "legacy"] {
        let mut lab = Lab::start("egt", &[V4, V6], &["--iptables", backend]).unwrap();
        lab.attach_all().unwrap();
        for nat in [false, true, false] {
            let before = [V4, V6].map(|family| (family, socket(&lab, family)));
            let seen = before.iter().map(|(family, old)| whom(&lab, old, *family));
            let seen: Vec<Option<IpAddr>> = seen.collect();
            lab.pools(nat).unwrap();
            lab.wait_synced().unwrap();
            for ((family, old), seen) in before.iter().zip(seen) {
                let was = if nat {
                    lab.pod("other").address(*family)
                } else {
                    family.node(0)
                };
                assert_eq!(seen, Some(was), "before {nat}, {backend}");
                assert_eq!(
                    whom(&lab, old, *family),
                    Some(was),
                    "a flow goes on, {backend}"
                );
                let is = if nat {
                    family.node(0)
                } else {
                    lab.pod("other").address(*family)
                };
                let new = socket(&lab, *family);
                assert_eq!(whom(&lab, &new, *family), Some(is), "a new flow, {backend}");
            }
        }
        lab.stations[0].agent.wait_settled().unwrap();
        assert_eq!(
            lab.ours(0, backend),
            Vec::<String>::new(),
            "nothing is left"
        );
    }
}

/// What was sent and lost while `during` ran; no flow but with at least 90 % of its probes.
fn under_traffic(
    lab: &mut Lab,
    title: &str,
    during: impl FnOnce(&Lab, &mut Vec<Station>) -> anyhow::Result<()>,
) -> (u64, u64) {
    let mut stations: Vec<Station> = lab.stations.drain(..).collect();
    let flows: Vec<(&Netns, Flow)> = lab.flows(100);
    // However long it takes: all of it is under traffic.
    let outcomes = measure_while(&flows, || {
        let begun = Instant::now();
        during(lab, &mut stations)?;
        pause(Duration::from_secs(8).saturating_sub(begun.elapsed()))
    });
    let outcomes = outcomes.unwrap();
    let counted = sum(title, &flows, &outcomes).unwrap();
    drop(flows);
    lab.stations = stations;
    if counted.1 > 0 {
        say(&lab.conntrack_counts());
    }
    counted
}

#[test]
fn killed_started_again_and_changed_under_traffic_it_loses_nothing() {
    require_root!();
    let mut lab = Lab::start("egk", &[V4, V6], &["--iptables", "nft"]).unwrap();
    lab.attach_all().unwrap();
    lab.stations[0].agent.wait_settled().unwrap();
    let before = lab.ours(0, "nft");
    let control = under_traffic(&mut lab, "control: nothing happens", |_, _| Ok(()));
    let killed = under_traffic(&mut lab, "kill -9 and a start", |_, stations| {
        pause(Duration::from_secs(1))?;
        stations[0].agent.kill()?;
        pause(Duration::from_secs(2))?;
        let Station { agent, netns, .. } = &mut stations[0];
        agent.start(netns)?;
        agent.wait_synced()
    });
    assert_eq!(lab.ours(0, "nft"), before);
    let toggled = under_traffic(&mut lab, "natOutgoing off and on", |lab, stations| {
        for nat in [false, true, false, true] {
            pause(Duration::from_secs(1))?;
            lab.pools(nat)?;
            stations[0].agent.wait_synced()?;
            let is_there = ours(&stations[0].netns, "nft")
                .iter()
                .any(|line| line.contains("-j PTL-EGRESS"));
            ensure!(is_there == nat, "{nat}");
        }
        Ok(())
    });
    for (sent, lost) in [control, killed, toggled] {
        assert!(sent >= 4320 && lost == 0, "{lost} of {sent}");
    }
}

#[test]
fn without_its_source_running_killed_and_started_in_vain_it_loses_nothing() {
    require_root!();
    let mut lab = Lab::start("egs", &[V4, V6], &["--iptables", "nft"]).unwrap();
    lab.attach_all().unwrap();
    lab.stations[0].agent.wait_settled().unwrap();
    let before = lab.ours(0, "nft");
    assert!(!before.is_empty());
    let away = under_traffic(&mut lab, "no source, and kill -9", |lab, stations| {
        let holds = |what: &str| {
            for family in [V4, V6] {
                let seen = whom(lab, &socket(lab, family), family);
                ensure!(seen == Some(family.node(0)), "{what}: {seen:?}");
            }
            Ok(())
        };
        lab.source_goes()?;
        pause(Duration::from_secs(1))?;
        holds("the folder is gone")?;
        let Station { agent, netns, .. } = &mut stations[0];
        agent.kill()?;
        holds("and the agent")?;
        // It says that it has nothing to go by, and touches nothing.
        agent.start(netns)?;
        eventually(PATIENCE, "the agent to give up", || {
            ensure!(agent.check_running().is_err(), "it runs");
            Ok(())
        })?;
        let log = agent.log_end();
        ensure!(log.contains("No such file or directory"), "{log}");
        holds("an agent without a source")?;
        lab.source_comes()?;
        agent.start(netns)?;
        agent.wait_synced()?;
        holds("all is back")
    });
    let (sent, lost) = away;
    assert!(sent >= 4320 && lost == 0, "{lost} of {sent}");
    lab.stations[0].agent.wait_settled().unwrap();
    assert_eq!(lab.ours(0, "nft"), before);
}

#[test]
fn what_another_deletes_is_healed() {
    require_root!();
    for backend in ["nft", "legacy"] {
        let mut lab = Lab::start("egh", &[V4, V6], &["--iptables", backend]).unwrap();
        lab.attach_all().unwrap();
        lab.stations[0].agent.wait_settled().unwrap();
        let all = lab.ours(0, backend);
        for family in [V4, V6] {
            let Station { agent, netns, .. } = &lab.stations[0];
            // It heals faster than this looks, on some days.
            agent.signal(Signal::SIGSTOP).unwrap();
            let program = format!("{}-{backend}", family.iptables);
            netns.run(&program, &["-t", "nat", "-F"]).unwrap();
            let set = if family == V4 {
                "ptl4-inside"
            } else {
                "ptl6-inside"
            };
            netns.run("ipset", &["flush", set]).unwrap();
            let meanwhile = whom(&lab, &socket(&lab, family), family);
            agent.signal(Signal::SIGCONT).unwrap();
            assert_eq!(
                meanwhile,
                Some(lab.pod("other").address(family)),
                "{backend}"
            );
            eventually(PATIENCE, "it to be healed", || {
                let seen = whom(&lab, &socket(&lab, family), family);
                ensure!(seen == Some(family.node(0)), "{seen:?}");
                let now = lab.ours(0, backend);
                ensure!(now == all, "{now:?}");
                Ok(())
            })
            .unwrap();
        }
        let right = assert_every_way(&lab);
        assert_eq!(right, 92, "{backend}");
    }
}

#[test]
fn rules_of_an_earlier_run_go_without_policy_too() {
    require_root!();
    let mut lab =
        Lab::start_with("ege", &[V4], ("bgp,cni", "None"), &["--iptables", "nft"]).unwrap();
    lab.attach_all().unwrap();
    lab.stations[0].agent.kill().unwrap();
    lab.pools(false).unwrap();
    assert!(!lab.ours(0, "nft").is_empty());
    let Station { agent, netns, .. } = &mut lab.stations[0];
    agent.start(netns).unwrap();
    agent.wait_synced().unwrap();
    eventually(PATIENCE, "nothing to be left", || {
        let left = lab.ours(0, "nft");
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })
    .unwrap();
    let seen = whom(&lab, &socket(&lab, V4), V4);
    assert_eq!(seen, Some(lab.pod("other").address(V4)));
}
