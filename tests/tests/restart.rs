//! An agent stops, is killed, starts again: the kernel forwards on, and nothing is rewritten or left.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

use std::time::Duration;

use tests::flow::{Flow, Kind, measure};
use tests::lab::{Lab, Options};
use tests::netns::Netns;
use tests::reach::server_at;
use tests::require_root;
use tests::snapshot::Snapshot;
use tests::wait::eventually;

const LONG: Duration = Duration::from_secs(30);
const POLICY: &str = include_str!("../../examples/demo-policy/db-only-from-web.yaml");

fn lab(tag: &str) -> Lab {
    let options = Options::for_test(tag, env!("CARGO_BIN_EXE_portolan-demo")).unwrap();
    let mut lab = Lab::new(options).unwrap();
    lab.start_agents().unwrap();
    lab.attach_all().unwrap();
    lab.drop_manifest("policy.yaml", POLICY).unwrap();
    lab.wait_synced().unwrap();
    eventually(LONG, "the way outside", || {
        lab.nodes[0].netns.ip("route get 192.0.2.10")
    })
    .unwrap();
    lab.nodes[0].agent.wait_settled().unwrap();
    lab
}

/// Starts the agent of node1 again and waits for its session.
fn start_again(lab: &mut Lab) {
    let node = lab.node_mut(0).unwrap();
    node.agent.start(&node.netns).unwrap();
    node.agent.wait_synced().unwrap();
    lab.wait_established().unwrap();
    lab.nodes[0].agent.wait_settled().unwrap();
}

fn snapshot(lab: &Lab) -> Snapshot {
    Snapshot::of(&lab.nodes[0].netns)
}

#[test]
fn sigterm_leaves_the_kernel_as_it_is_and_a_restart_changes_nothing() {
    require_root!();
    let mut lab = lab("trm");
    let before = snapshot(&lab);
    lab.nodes[0].agent.terminate().unwrap();
    assert_eq!(before.difference(&snapshot(&lab)), "", "after SIGTERM");
    start_again(&mut lab);
    let after = snapshot(&lab);
    for part in ["iptables", "sets", "routes", "routes6", "rules"] {
        assert_eq!(
            before.part(part),
            after.part(part),
            "{part} after the restart"
        );
    }
}

#[test]
fn kill_9_and_a_restart_lose_nothing_and_leak_nothing() {
    require_root!();
    let mut lab = lab("kil");
    let before = snapshot(&lab);
    let mut node = lab.nodes.remove(0);
    let rows = [
        ("outside", "shop/web", Kind::NewTcp, true),
        ("outside", "shop/web", Kind::EstablishedTcp, true),
        ("outside", "team/tester", Kind::Udp, true),
        ("team/tester", "shop/web", Kind::NewTcp, false),
        ("team/client", "shop/cache", Kind::Udp, false),
    ];
    let flows: Vec<(&Netns, Flow)> = rows
        .iter()
        .map(|&(from, to, kind, is_allowed)| {
            let (netns, _) = lab.place(from, false).unwrap();
            let (there, address) = lab.place(to, false).unwrap();
            let (name, server) = (format!("{from} → {to}"), there.name().to_owned());
            let to = server_at(address);
            (
                netns,
                Flow {
                    name,
                    kind,
                    is_allowed,
                    to,
                    server,
                    rate: 50,
                },
            )
        })
        .collect();
    let outcomes = measure(&flows, Duration::from_secs(5), || {
        node.agent.kill()?;
        std::thread::sleep(Duration::from_secs(1));
        node.agent.start(&node.netns)
    })
    .unwrap();
    for ((_, flow), outcome) in flows.iter().zip(&outcomes) {
        assert!(
            outcome.is_meaningful(),
            "{} {:?}: {outcome:?}",
            flow.name,
            flow.kind
        );
        assert_eq!(
            (outcome.lost, outcome.leaked),
            (0, 0),
            "{} {:?}",
            flow.name,
            flow.kind
        );
    }
    node.agent.wait_synced().unwrap();
    lab.nodes.insert(0, node);
    lab.wait_established().unwrap();
    lab.nodes[0].agent.wait_settled().unwrap();
    assert_eq!(before.difference(&snapshot(&lab)), "");
}

#[test]
fn objects_of_others_are_left_alone_by_a_start_a_restart_and_cleanup() {
    require_root!();
    let mut lab = lab("oth");
    let node = &lab.nodes[0].netns;
    node.run(
        "iptables",
        &["-w", "-A", "FORWARD", "-s", "203.0.113.9", "-j", "DROP"],
    )
    .unwrap();
    node.run("ipset", &["create", "theirs", "hash:ip"]).unwrap();
    node.ip("route add 203.0.113.0/24 via 10.10.1.1 proto static")
        .unwrap();
    lab.nodes[0].agent.kill().unwrap();
    start_again(&mut lab);
    lab.detach_all().unwrap();
    lab.nodes[0].agent.terminate().unwrap();
    lab.nodes[0].agent.verb(&["cleanup"]).unwrap();
    let left = snapshot(&lab);
    assert!(
        left.part("iptables").contains("203.0.113.9/32"),
        "{}",
        left.part("iptables")
    );
    assert!(left.part("sets").contains("theirs"));
    assert!(left.part("routes").contains("203.0.113.0/24 via 10.10.1.1"));
    for (part, ours) in [
        ("iptables", "PTL-"),
        ("sets", "ptl4-"),
        ("routes", "proto 179"),
        ("links", ": ptl"),
    ] {
        assert!(
            !left.part(part).contains(ours),
            "{part}: {}",
            left.part(part)
        );
    }
}

#[test]
fn two_ways_to_the_same_manifests_end_in_the_same_kernel() {
    require_root!();
    let mut lab = lab("det");
    let before = snapshot(&lab);
    // Away and back again, with a restart between: what counts is what is there, not how it came.
    std::fs::remove_file(lab.manifests().join("policy.yaml")).unwrap();
    lab.wait_synced().unwrap();
    lab.nodes[0].agent.kill().unwrap();
    start_again(&mut lab);
    lab.drop_manifest("policy.yaml", POLICY).unwrap();
    lab.wait_synced().unwrap();
    eventually(LONG, "the same rules, sets and routes", || {
        let difference = before.difference(&snapshot(&lab));
        if difference.is_empty() {
            Ok(())
        } else {
            Err(difference)
        }
    })
    .unwrap();
}
