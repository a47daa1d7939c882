//! Real agents on a real API server: what kubectl says of policy holds for pods that the plugin attached, and Nodes are told
//! that their network is up.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test"
)]

use std::time::Duration;

use anyhow::{Result, ensure};
use cluster::agents::{AgentLab, AgentPod, PATIENCE, TORS, count};
use serde_json::Value;
use tests::cni::Sandbox;
use tests::reach::Verdict;
use tests::require_root;
use tests::wait::eventually;

const ONLY_FRIENDS: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: only-friends, namespace: shop}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress: [{from: [{podSelector: {matchLabels: {app: friend}}}]}]
";

/// By then another connection has been tried; that one is dead is found out by its own question after 45 s.
const ANOTHER: Duration = Duration::from_secs(25);

/// Attempts of one verdict that are counted.
const PROBES: usize = 20;

#[test]
fn policy_by_kubectl_holds_for_attached_pods_and_the_node_is_told_that_its_network_is_up() {
    require_root!();
    let mut lab = AgentLab::start("agp").unwrap();
    // Without a peer that answers, BGP is not up.
    lab.plane.apply(&TORS.replace("10.179.1.1", "10.179.1.99"));
    for node in &mut lab.nodes {
        node.agent
            .set_environment(&[("PORTOLAN_LOG", "info,agent=debug")]);
    }
    lab.start_agents(&["--remove-taint", "portolan.io/not-ready"])
        .unwrap();
    let network = |lab: &AgentLab| condition(lab, "n1");
    eventually(PATIENCE, "n1 says that it is down", || {
        let said = network(&lab)?;
        ensure!(said[..2] == ["True", "PortolanIsDown"], "{said:?}");
        ensure!(said[2].contains("Established with tor-1"), "{said:?}");
        Ok(())
    })
    .unwrap();
    assert!(
        taints(&lab, "n1")
            .unwrap()
            .contains("portolan.io/not-ready")
    );
    lab.plane.apply(TORS);
    for node in ["n1", "n2"] {
        eventually(PATIENCE, &format!("{node} says that it is up"), || {
            let said = condition(&lab, node)?;
            ensure!(said[..2] == ["False", "PortolanIsUp"], "{said:?}");
            ensure!(!taints(&lab, node)?.contains("portolan.io/not-ready"));
            Ok(())
        })
        .unwrap();
    }

    let web = lab.run_pod("web", 0, "web").unwrap();
    let client = lab.run_pod("client", 1, "client").unwrap();
    lab.until(&client, &web, Verdict::Answered).unwrap();
    lab.plane.apply(ONLY_FRIENDS);
    lab.until(&client, &web, Verdict::Silent).unwrap();
    // A pod of the policy's namespace is isolated before its first packet, whoever comes first.
    let late = lab.run_pod("late", 0, "web").unwrap();
    assert_eq!(
        count(&client, &late, Verdict::Silent, PROBES).unwrap(),
        PROBES
    );
    lab.plane.kubectl(&[
        "-n",
        "shop",
        "label",
        "pod",
        "client",
        "app=friend",
        "--overwrite",
    ]);
    lab.until(&client, &web, Verdict::Answered).unwrap();
    assert_eq!(
        count(&client, &web, Verdict::Answered, PROBES).unwrap(),
        PROBES
    );

    the_source_is_told(&lab);
    wrong_pods_are_refused(&lab);
    let stranger = lab.run_pod("stranger", 1, "stranger").unwrap();
    a_pod_that_the_watch_has_not_told_is_asked_for(&lab, &client, &stranger);
    an_old_address_of_a_pod_made_anew_is_not_used(&lab, &web);
    objects_have_conditions(&lab);
    lab.ensure_no_refusals().unwrap();
}

/// What `portolan status` and the probes' endpoints say of a cluster.
fn the_source_is_told(lab: &AgentLab) {
    let agent = &lab.nodes[0].agent;
    let status = agent.status().unwrap();
    let source = &status["sources"][0];
    assert_eq!(source["kind"], "kubernetes", "{source}");
    assert_eq!(source["inSync"], true, "{source}");
    assert_eq!(source["problems"], serde_json::json!([]), "{source}");
    assert!(
        agent
            .status_table()
            .unwrap()
            .contains("source: kubernetes ")
    );
    agent.verb(&["sync", "--timeout", "10s"]).unwrap();
    for path in ["livez", "readyz"] {
        let url = format!("http://127.0.0.1:9179/{path}");
        let answer = lab.nodes[0].netns.run("curl", &["-sf", &url]).unwrap();
        assert_eq!(answer, "ok\n");
    }
}

/// ADDs of pods that are not to be here.
fn wrong_pods_are_refused(lab: &AgentLab) {
    let refused = |name: &str, uid: &str| {
        let sandbox = Sandbox::new("agp", "shop", name).unwrap();
        let answer = lab.nodes[0].call("ADD", &sandbox, uid).unwrap();
        assert!(!answer.is_success, "{answer:?}");
        (answer.code(), answer.output["details"].to_string())
    };
    let (code, why) = refused("nobody", "5d1f2f5e-0000-4000-8000-000000000000");
    assert_eq!(code, Some(11));
    assert!(
        why.contains("the API server has no Pod shop/nobody"),
        "{why}"
    );
    let uid = lab.make_pod("elsewhere", "n2", "web").unwrap();
    let (code, why) = refused("elsewhere", &uid);
    assert_eq!(code, Some(100));
    assert!(why.contains("is bound to node n2, not to n1"), "{why}");
    let (code, why) = refused("web", "5d1f2f5e-0000-4000-8000-000000000000");
    assert_eq!(code, Some(100));
    assert!(
        why.contains("is gone: the API server has another of that name"),
        "{why}"
    );
}

/// Nothing more comes in by the connection that n1's agent has: its watches hang, and new connections get through. The pod
/// is read by another, long before the agent finds out that the first one is dead, and isolated by its labels before its
/// first packet.
fn a_pod_that_the_watch_has_not_told_is_asked_for(
    lab: &AgentLab,
    friend: &AgentPod,
    stranger: &AgentPod,
) {
    let node = &lab.nodes[0];
    let sockets = ["-Htn", "state", "established", "dport", "=", "26443"];
    let sockets = node.netns.run("ss", &sockets).unwrap();
    let port = |line: &str| {
        Some(
            line.split_whitespace()
                .nth(2)?
                .rsplit_once(':')?
                .1
                .to_owned(),
        )
    };
    let ports: Vec<String> = sockets.lines().filter_map(port).collect();
    assert_eq!(ports.len(), 1, "{sockets}");
    let cut = |port: &str| {
        let rule = format!("-t raw -I PREROUTING -p tcp --sport 26443 --dport {port} -j DROP");
        let words: Vec<&str> = rule.split(' ').collect();
        node.netns.run("iptables", &words).unwrap();
    };
    ports.iter().for_each(|port| cut(port));
    let uid = lab.make_pod("untold", "n1", "web").unwrap();
    let sandbox = Sandbox::new("agp", "shop", "untold").unwrap();
    // The dead one is tried first, and hangs: the runtime tries again.
    eventually(ANOTHER, "the pod is attached", || {
        let answer = node.call("ADD", &sandbox, &uid)?;
        ensure!(answer.is_success, "{answer:?}");
        Ok(())
    })
    .unwrap();
    let log = node.agent.log();
    assert!(log.contains("read, as the watch had not told it"), "{log}");
    let pod = lab.attach(0, sandbox, uid).unwrap();
    let answered = count(friend, &pod, Verdict::Answered, PROBES).unwrap();
    assert_eq!(answered, PROBES, "a friend");
    let silent = count(stranger, &pod, Verdict::Silent, PROBES).unwrap();
    assert_eq!(silent, PROBES, "isolated by its labels");
    node.netns
        .run("iptables", &["-t", "raw", "-F", "PREROUTING"])
        .unwrap();
}

/// The pod's object says another address than its attachment: who had it before is not meant.
fn an_old_address_of_a_pod_made_anew_is_not_used(lab: &AgentLab, web: &AgentPod) {
    let friend = lab.run_pod("friend", 1, "friend").unwrap();
    lab.until(&friend, web, Verdict::Answered).unwrap();
    let delete = [
        "-n",
        "shop",
        "delete",
        "pod",
        "friend",
        "--grace-period=0",
        "--force",
    ];
    lab.plane.kubectl(&delete);
    let uid = lab.make_pod("friend", "n2", "friend").unwrap();
    assert_ne!(uid, friend.uid);
    // It runs still and is no friend's: the new pod has no address yet.
    lab.until(&friend, web, Verdict::Silent).unwrap();
    assert_eq!(
        count(&friend, web, Verdict::Silent, PROBES).unwrap(),
        PROBES
    );
}

fn objects_have_conditions(lab: &AgentLab) {
    lab.plane.apply(
        "
apiVersion: portolan.io/v1alpha1
kind: BGPPeer
metadata: {name: lost}
spec: {nodeSelector: \"rack == 'none'\", peerAddress: 10.179.1.7, asNumber: 65100, filters: [edge]}
",
    );
    let accepted = |name: &str| -> Result<(Value, Value)> {
        let peer = lab.get(&["bgppeer", name])?;
        let conditions = peer.pointer("/status/conditions");
        let first = conditions.and_then(|all| all.get(0)).cloned();
        let first = first.unwrap_or_default();
        ensure!(first["type"] == "Accepted", "{peer}");
        Ok((first["status"].clone(), first["reason"].clone()))
    };
    let is = |name: &str, status: &str, reason: &str| {
        eventually(PATIENCE, &format!("BGPPeer {name} is {reason}"), || {
            let said = accepted(name)?;
            ensure!(said == (status.into(), reason.into()), "{said:?}");
            Ok(())
        })
        .unwrap();
    };
    is("tor-1", "True", "Valid");
    is("lost", "False", "FilterNotFound");
    // One whose peer is refused on no node: the agents are as ready as before.
    assert_eq!(lab.nodes[0].agent.status().unwrap()["ready"], true);
    lab.plane.apply(
        "
apiVersion: portolan.io/v1alpha1
kind: BGPFilter
metadata: {name: edge}
spec: {importV4: [{action: Accept}]}
",
    );
    is("lost", "True", "Valid");
}

/// Status, reason and message of a Node's NetworkUnavailable.
fn condition(lab: &AgentLab, node: &str) -> Result<[String; 3]> {
    let node = lab.get(&["node", node])?;
    let all = node.pointer("/status/conditions").and_then(Value::as_array);
    let found = all.into_iter().flatten();
    let mut found = found.filter(|one| one["type"] == "NetworkUnavailable");
    let found = found.next().cloned().unwrap_or_default();
    let text = |field: &str| found[field].as_str().unwrap_or_default().to_owned();
    Ok([text("status"), text("reason"), text("message")])
}

fn taints(lab: &AgentLab, node: &str) -> Result<String> {
    let node = lab.get(&["node", node])?;
    Ok(node["spec"]["taints"].to_string())
}
