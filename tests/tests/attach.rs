//! Pods are attached, checked and detached by the real plugin and a real agent, as a runtime does it.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

use std::time::Duration;

use serde_json::Value;
use tests::cni::{Sandbox, addresses};
use tests::lab::{Lab, Options};
use tests::reach::{Transport, Verdict, attempt, server_at};
use tests::require_root;
use tests::snapshot::Snapshot;
use tests::wait::eventually;

const PATIENCE: Duration = Duration::from_secs(5);

fn lab(tag: &str) -> Lab {
    let options = Options::for_test(tag, env!("CARGO_BIN_EXE_portolan-demo")).unwrap();
    let mut lab = Lab::new(options).unwrap();
    lab.start_agents().unwrap();
    lab
}

fn pod_interfaces(lab: &Lab) -> usize {
    let links = lab.nodes[0].netns.ip("-o link show").unwrap();
    links.lines().filter(|line| line.contains(": ptl")).count()
}

#[test]
fn add_check_and_del_follow_the_specification_and_del_is_idempotent() {
    require_root!();
    let mut lab = lab("acd");
    let before = Snapshot::of(&lab.nodes[0].netns);
    lab.attach(0, "shop", "web").unwrap();
    let (pod, plugin) = (&lab.pods[0], lab.plugin(0).unwrap());
    let node = &lab.nodes[0].netns;
    let ips = addresses(&pod.result);
    assert_eq!(ips.len(), 2, "{}", pod.result);
    assert_eq!(pod_interfaces(&lab), 1);
    let inside = pod.sandbox.netns.ip("-o addr show dev eth0").unwrap();
    assert!(
        ips.iter().all(|ip| inside.contains(&ip.to_string())),
        "{inside}"
    );

    let check = plugin
        .call("CHECK", node, &pod.sandbox, Some(&pod.result))
        .unwrap();
    assert_eq!(check.success().unwrap(), Value::Null);
    pod.sandbox
        .netns
        .ip(&format!("addr del {}/32 dev eth0", ips[0]))
        .unwrap();
    let check = plugin
        .call("CHECK", node, &pod.sandbox, Some(&pod.result))
        .unwrap();
    assert!(!check.is_success, "CHECK did not see the missing address");

    for time in ["first", "second"] {
        let del = plugin
            .call("DEL", node, &pod.sandbox, Some(&pod.result))
            .unwrap();
        assert!(del.is_success, "{time} DEL: {del:?}");
    }
    eventually(PATIENCE, "the node to be as before", || {
        let difference = before.difference(&Snapshot::of(node));
        if difference.is_empty() {
            Ok(())
        } else {
            Err(difference)
        }
    })
    .unwrap();
}

#[test]
fn every_cni_version_from_0_3_0_to_1_1_0_is_answered_in_its_own_words() {
    require_root!();
    let lab = lab("ver");
    for version in ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        let mut plugin = lab.plugin(0).unwrap();
        plugin.version = version.to_owned();
        let sandbox = Sandbox::new("ver", "shop", "web").unwrap();
        let node = &lab.nodes[0].netns;
        let result = plugin
            .call("ADD", node, &sandbox, None)
            .unwrap()
            .success()
            .unwrap();
        assert_eq!(result["cniVersion"], version);
        // The key "version" of an address went with 1.0.0.
        assert_eq!(
            result["ips"][0].get("version").is_some(),
            version.starts_with("0."),
            "{result}"
        );
        plugin
            .call("DEL", node, &sandbox, Some(&result))
            .unwrap()
            .success()
            .unwrap();
    }
    assert_eq!(pod_interfaces(&lab), 0);
}

#[test]
fn add_without_an_agent_is_refused_with_try_again_later_and_del_by_the_next_agent_works() {
    require_root!();
    let mut lab = lab("noa");
    lab.attach(0, "shop", "web").unwrap();
    lab.nodes[0].agent.kill().unwrap();
    let sandbox = Sandbox::new("noa", "shop", "cache").unwrap();
    let plugin = lab.plugin(0).unwrap();
    let refused = plugin
        .call("ADD", &lab.nodes[0].netns, &sandbox, None)
        .unwrap();
    assert_eq!(refused.code(), Some(11), "{refused:?}");
    let node = lab.node_mut(0).unwrap();
    node.agent.start(&node.netns).unwrap();
    node.agent.wait_synced().unwrap();
    lab.detach_all().unwrap();
    assert_eq!(pod_interfaces(&lab), 0);
}

#[test]
fn pods_of_two_nodes_and_the_outside_reach_each_other_without_a_policy() {
    require_root!();
    let mut lab = lab("rch");
    lab.attach_all().unwrap();
    for (from, to) in [
        ("shop/web", "shop/cache"),
        ("shop/web", "shop/db"),
        ("team/client", "team/tester"),
        ("outside", "shop/db"),
        ("shop/db", "outside"),
    ] {
        let (netns, _) = lab.place(from, false).unwrap();
        let (_, to_address) = lab.place(to, false).unwrap();
        for transport in [Transport::Tcp, Transport::Udp] {
            let verdict = attempt(netns, server_at(to_address), transport, PATIENCE).unwrap();
            assert_eq!(verdict, Verdict::Answered, "{transport} {from} → {to}");
        }
    }
    let (netns, _) = lab.place("shop/web", true).unwrap();
    let (_, address) = lab.place("team/tester", true).unwrap();
    let verdict = attempt(netns, server_at(address), Transport::Tcp, PATIENCE).unwrap();
    assert_eq!(verdict, Verdict::Answered, "over IPv6, on one node");
}
