//! Components of deploy/ at work: BFD that outlives the agent, a taint until the network is up, an API server by its address.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use cluster::cluster::{Boot, Cluster};
use cluster::kubelet::ProxyMode;
use cluster::portolan::{AGENT, NAMESPACE};
use serde_json::Value;
use tests::wait::{eventually, pause};

use crate::names::{Resolvers, assert_all_answered};
use crate::overlays::{bfd_downs, detection_time, tor_per_rack, wait_bfd};
use crate::traffic::{Traffic, within};
use crate::workloads::{SHOP, answers_between_all};

const PATIENCE: Duration = Duration::from_secs(120);

/// How long the end of agents is measured.
const KILL: Duration = Duration::from_secs(30);

const TAINT: &str = "portolan.io/not-ready";

/// CAP_NET_ADMIN, CAP_NET_RAW and CAP_SYS_NICE.
const OF_BFD: u64 = 1 << 12 | 1 << 13 | 1 << 23;

/// The process of a node whose command line begins so, as the node counts. A program that it starts has its command line
/// for a moment.
fn process(cluster: &mut Cluster, node: &str, command: &str) -> String {
    let pattern = format!("^/usr/bin/{command}");
    let one = eventually(PATIENCE, "one process", || {
        let found = cluster.node(node).run("pgrep", &["-f", &pattern])?;
        let found: Vec<&str> = found.lines().collect();
        ensure!(found.len() == 1, "{command} on {node}: {found:?}");
        Ok(found[0].to_owned())
    });
    one.unwrap()
}

pub(crate) fn bfd_of_its_own_outlives_the_agent(cluster: &mut Cluster) {
    for node in ["n1", "n2"] {
        let process = process(cluster, node, "portolan bfd");
        let path = format!("/proc/{process}/status");
        let status = cluster.node(node).run("cat", &[&path]).unwrap();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.with_context(|| format!("{name} {status}"))
                .unwrap()
                .trim()
        };
        for set in ["CapEff:", "CapBnd:"] {
            let rights = u64::from_str_radix(field(set), 16).unwrap();
            assert_eq!(rights, OF_BFD, "{set}");
        }
        assert_eq!((field("NoNewPrivs:"), field("Seccomp:")), ("1", "2"));
        let tasks = format!("/proc/{process}/task");
        let script =
            format!("for t in {tasks}/*; do sed 's/.*) //' $t/stat | cut -d ' ' -f 17,39; done");
        let threads = cluster.node(node).run("sh", &["-c", &script]).unwrap();
        // Round robin (2) with its reset on fork, or else a nice value of -15: one thread is ahead of the others.
        let ahead = threads
            .lines()
            .filter(|line| line.ends_with(" 2") || line.starts_with("-15 "));
        assert_eq!(ahead.count(), 1, "{threads}");
    }
    let before = wait_bfd(cluster);
    let uids = |cluster: &Cluster| -> Vec<String> {
        let pods = cluster.pods(NAMESPACE, "app.kubernetes.io/component=bfd");
        pods.unwrap().into_iter().map(|pod| pod.uid).collect()
    };
    let processes = uids(cluster);
    let killed = process(cluster, "n2", "portolan agent");
    let mut command = cluster.node("n2").command("kill").unwrap();
    command.args(["-9", &killed]);
    let traffic = Traffic::of_both(cluster);
    let title = "one agent deleted, the other by kill -9";
    let resolvers = Resolvers::of_both(cluster);
    let end = within(KILL, || {
        ensure!(command.status()?.success(), "kill -9 {killed}");
        let agent = cluster.pod_on("n1", NAMESPACE, "app.kubernetes.io/component=agent")?;
        cluster
            .plane()
            .try_kubectl(&["-n", NAMESPACE, "delete", "pod", &agent.name])?;
        cluster.wait_rollout(NAMESPACE, AGENT);
        Ok(())
    });
    let during = || Ok(traffic.send(cluster, title, KILL, end));
    let (names, (sent, lost)) = resolvers.ask_while(title, during).unwrap();
    assert_eq!(lost, 0, "of {sent}");
    assert_all_answered(&names);
    assert_ne!(process(cluster, "n2", "portolan agent"), killed);
    detection_time();
    assert_eq!(bfd_downs(cluster).unwrap(), before, "BFD went down");
    assert_eq!(uids(cluster), processes);
    cluster.tell("BFD of its own: up before, while and after the agents were gone");
}

fn taints(node: &Value) -> Vec<&str> {
    let taints = node["spec"]["taints"].as_array().into_iter().flatten();
    taints.filter_map(|taint| taint["key"].as_str()).collect()
}

/// n2 comes as a new node, tainted and without kube-proxy: its agent reaches the API server by the address that the
/// component gave it. Without the right to, it can't take the taint off; with it, it does, and then pods come.
pub(crate) fn a_new_node_gets_pods_when_its_network_is_up(cluster: &mut Cluster) {
    let role = cluster.get(&["clusterrole", "portolan-agent"]).unwrap();
    let rules = role["rules"].as_array().unwrap();
    let is_ours = |rule: &Value| {
        rule["resources"] == serde_json::json!(["nodes"])
            && rule["verbs"] == serde_json::json!(["patch"])
    };
    let index = rules.iter().position(is_ours).unwrap();
    let patch = format!(r#"[{{"op": "remove", "path": "/rules/{index}"}}]"#);
    cluster.kubectl(&[
        "patch",
        "clusterrole",
        "portolan-agent",
        "--type=json",
        "-p",
        &patch,
    ]);
    cluster.power_off("n2").unwrap();
    cluster.kubectl(&["delete", "node", "n2"]);
    // As a new machine has it: no pod of the one before.
    let pods = "delete pods -A --field-selector=spec.nodeName=n2 --force --grace-period=0";
    cluster.kubectl(&pods.split(' ').collect::<Vec<_>>());
    let taint = format!("{TAINT}=:NoSchedule");
    let boot = Boot {
        taints: &taint,
        proxy: None,
    };
    cluster.boot_as("n2", boot).unwrap();
    eventually(PATIENCE, "the network of n2 to be up", || -> Result<()> {
        let said = cluster.node_condition("n2", "NetworkUnavailable")?;
        ensure!(said.1 == "PortolanIsUp", "{said:?}");
        Ok(())
    })
    .unwrap();
    cluster.wait_ready("n2").unwrap();
    pause(Duration::from_secs(5)).unwrap();
    let node = cluster.get(&["node", "n2"]).unwrap();
    assert_eq!(taints(&node), [TAINT]);
    let of_n2 = |cluster: &Cluster| {
        let pods = cluster.pods(SHOP, "app=client").unwrap();
        pods.iter().filter(|pod| pod.node == "n2").count()
    };
    assert_eq!(of_n2(cluster), 0, "a pod came to a tainted node");
    cluster.tell("n2 is up and tainted: no right, no pods");
    let whole = tor_per_rack(cluster, false);
    cluster.kubectl(&["apply", "-k", &whole.folder().to_string_lossy()]);
    eventually(PATIENCE, "the taint to go", || -> Result<()> {
        let node = cluster.get(&["node", "n2"])?;
        ensure!(taints(&node).is_empty(), "{:?}", taints(&node));
        Ok(())
    })
    .unwrap();
    cluster.start_proxy("n2", ProxyMode::Iptables).unwrap();
    cluster.wait_rollout(SHOP, "daemonset/client");
    assert_eq!(of_n2(cluster), 1);
    // One replica of the web server on each node again.
    cluster.kubectl(&["-n", SHOP, "rollout", "restart", "deployment/web"]);
    cluster.wait_rollout(SHOP, "deployment/web");
    answers_between_all(cluster);
    cluster.tell("the taint is off, pods have come");
}
