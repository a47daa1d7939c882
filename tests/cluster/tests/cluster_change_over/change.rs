//! The change-over itself, step by step as the page says it, and what is true after each.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Result, ensure};
use cluster::Scratch;
use cluster::cluster::Cluster;
use cluster::fabric::Link;
use tests::wait::eventually;

use crate::old::{enforce, has_bridge, pod_cidr, theirs, wait_sessions};
use crate::page::{BACK, BEFORE, EACH};
use crate::shop;
use crate::traffic::{Ends, all_ways, beside};

const PATIENCE: Duration = Duration::from_secs(60);

/// The folder where an administrator works: a copy of `deploy/` is there, and what the commands write.
fn work() -> &'static Path {
    static WORK: OnceLock<Scratch> = OnceLock::new();
    let work = WORK.get_or_init(|| {
        let work = Scratch::new("ptl-change-over-").unwrap();
        let deploy = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../deploy");
        let words = [
            "-r",
            deploy.to_str().unwrap(),
            work.path().to_str().unwrap(),
        ];
        tests::netns::run("cp", &words).unwrap();
        work
    });
    work.path()
}

pub(crate) fn what_is_converted_is_taken_and_nothing_changes_yet(cluster: &mut Cluster) {
    let pods = |cluster: &Cluster| cluster.kubectl(&["get", "pods", "-A", "-o", "name"]);
    let before = pods(cluster);
    for block in BEFORE.blocks() {
        block.run(cluster, work(), "none").unwrap();
    }
    let converted = std::fs::read_to_string(work().join("portolan.yaml")).unwrap();
    for words in [
        "10.179.1.1",
        "10.179.2.1",
        "holdTime: 9s",
        "asNumber: 65100",
    ] {
        assert!(converted.contains(words), "no {words} in\n{converted}");
    }
    assert_eq!(
        cluster
            .kubectl(&["get", "bgppeers", "-o", "name"])
            .lines()
            .count(),
        2
    );
    let agents = cluster
        .get(&["-n", "portolan", "daemonset", "portolan-agent"])
        .unwrap();
    assert_eq!(agents["status"]["desiredNumberScheduled"], 0);
    // Neither kube-router nor anything else was started anew.
    assert_eq!(pods(cluster), before);
}

pub(crate) fn a_node_changes_over(cluster: &mut Cluster) {
    change_over(cluster, "n1", "n2");
    enforce(cluster, "n2");
    let (ours, theirs) = (Ends::on(cluster, "n1"), Ends::on(cluster, "n2"));
    all_ways(cluster, "one node of each kind", &ours, &theirs);
    let known = cluster.on("n2").run("gobgp", &["global", "rib"]).unwrap();
    assert!(known.contains(&pod_cidr(cluster, "n1")), "{known}");
}

pub(crate) fn the_last_node_changes_over(cluster: &mut Cluster) {
    change_over(cluster, "n2", "n1");
    let (one, other) = (Ends::on(cluster, "n1"), Ends::on(cluster, "n2"));
    all_ways(cluster, "both nodes are Portolan's", &one, &other);
    let old = cluster.pods("kube-system", "k8s-app=kube-router").unwrap();
    assert!(old.is_empty(), "{old:?}");
}

pub(crate) fn a_node_goes_back(cluster: &mut Cluster) {
    let staying = Ends::on(cluster, "n1");
    beside(cluster, "n2 goes back", &staying, || {
        run(cluster, &BACK.blocks(), "n2", |_| ())
    });
    assert_eq!(ours(cluster, "n2"), Vec::<String>::new());
    assert!(has_bridge(cluster, "n2"));
    shop::spread(cluster);
    enforce(cluster, "n2");
    wait_sessions(cluster, "n2");
    wait_established(cluster, "n1");
    let back = Ends::on(cluster, "n2");
    all_ways(cluster, "one node is kube-router's again", &staying, &back);
}

/// Runs the page's blocks for a node; `seen` is told each that was run on the node.
fn run(
    cluster: &Cluster,
    blocks: &[crate::page::Block],
    node: &str,
    mut seen: impl FnMut(&Cluster),
) -> Result<()> {
    for block in blocks {
        let said = block.run(cluster, work(), node)?;
        cluster.tell(&format!("{node}:\n{}", said.trim_end()));
        if block.is_on_the_node {
            seen(cluster);
        }
    }
    Ok(())
}

fn change_over(cluster: &mut Cluster, node: &str, staying: &str) {
    cluster
        .get(&["-n", "portolan", "daemonset", "portolan-agent"])
        .unwrap();
    let ends = Ends::on(cluster, staying);
    let mut left = Vec::new();
    beside(cluster, &format!("{node} changes over"), &ends, || {
        let changed = run(cluster, &EACH.blocks(), node, |cluster| {
            left = theirs(cluster, node)
        });
        changed.inspect_err(|_| cluster.tell(&cluster.describe("portolan")))?;
        shop::wait(cluster);
        shop::spread(cluster);
        Ok(())
    });
    // What the old one left even so was not touched, and nothing of it leads to Portolan's pods.
    assert!(left.len() >= 3, "{left:?}");
    assert_eq!(theirs(cluster, node), left);
    assert!(!has_bridge(cluster, node));
    assert_eq!(
        cluster
            .on(node)
            .run("ip", &["route", "show", "proto", "17"])
            .unwrap(),
        ""
    );
    wait_established(cluster, node);
    let cidr = pod_cidr(cluster, node);
    let network = cidr.rsplit_once(".0/").unwrap().0;
    for app in ["client", "friend", "vault"] {
        let pod = shop::on(cluster, node, app);
        let ip = pod.ip(false).unwrap().to_string();
        assert!(
            ip.starts_with(&format!("{network}.")),
            "{ip} is not of {cidr}"
        );
        let route = cluster.on(node).run("ip", &["route", "get", &ip]).unwrap();
        assert!(route.contains(" dev ptl"), "{route}");
    }
}

/// Waits until a node's agent has a session with the other node and one with the router.
fn wait_established(cluster: &Cluster, node: &str) {
    let peers = format!("the sessions of {node}'s agent");
    eventually(PATIENCE, &peers, || -> Result<()> {
        let status = cluster.get(&["bgpnodestatus", node])?;
        let [established, configured] =
            ["established", "configured"].map(|word| status["status"][word].as_u64());
        ensure!(established == Some(2) && configured == Some(2), "{status}");
        Ok(())
    })
    .unwrap();
    let link = Link(node.trim_start_matches('n').parse().unwrap());
    let state = cluster.fabric().frr().session_state(&link.v4().to_string());
    assert_eq!(state.unwrap(), "Established");
}

/// What of Portolan's is left on a node.
fn ours(cluster: &Cluster, node: &str) -> Vec<String> {
    let node = cluster.on(node);
    let mut found = Vec::new();
    for program in ["iptables-save", "ip6tables-save"] {
        let rules = node.run(program, &[]).unwrap();
        found.extend(
            rules
                .lines()
                .filter(|line| line.contains("PTL-"))
                .map(str::to_owned),
        );
    }
    let looks: [(&str, &[&str], &str); 5] = [
        ("ipset", &["list", "-n"], "ptl"),
        ("ip", &["-o", "link"], ": ptl"),
        ("ip", &["route", "show", "table", "all"], "proto 179"),
        ("ls", &["/etc/cni/net.d"], "portolan"),
        ("ls", &["/opt/cni/bin"], "portolan"),
    ];
    for (program, args, word) in looks {
        let said = node.run(program, args).unwrap();
        found.extend(
            said.lines()
                .filter(|line| line.contains(word))
                .map(str::to_owned),
        );
    }
    found
}
