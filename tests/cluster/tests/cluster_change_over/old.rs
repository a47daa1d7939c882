//! The cluster as kube-router has it: a DaemonSet that leaves on the nodes what kube-router leaves, and its policies.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use cluster::cluster::Cluster;
use cluster::fabric::Link;
use cluster::image::TOOLS;
use serde_json::json;
use tests::wait::eventually;

use crate::shop::{self, SHOP};
use crate::traffic::Ends;

/// What the DaemonSet runs on each node.
const PROGRAM: &str = include_str!("kube-router.sh");
const DAEMON_SET: &str = include_str!("kube-router.yaml");

const PATIENCE: Duration = Duration::from_secs(60);

/// What kube-router asks the API server.
fn config(cluster: &Cluster) -> String {
    let mut data = BTreeMap::new();
    for link in [Link(1), Link(2)] {
        let node = format!("n{}", link.0);
        data.insert(format!("{node}_CIDR"), pod_cidr(cluster, &node));
        data.insert(format!("{node}_ADDRESS"), link.v4().to_string());
        data.insert(format!("{node}_ROUTER"), link.tor_v4().to_string());
    }
    let metadata = json!({"name": "kube-router", "namespace": "kube-system"});
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}).to_string()
}

/// The IPv4 Pod CIDR of a node.
pub(crate) fn pod_cidr(cluster: &Cluster, node: &str) -> String {
    let found = cluster.get(&["node", node]).unwrap();
    found["spec"]["podCIDR"].as_str().unwrap().to_owned()
}

pub(crate) fn both_nodes_are_kube_router_s(cluster: &mut Cluster) {
    for link in [Link(1), Link(2)] {
        let node = format!("n{}", link.0);
        // The peer is the router on this node's link; and all nodes are in one AS.
        let address = format!("kube-router.io/peer.ips={}", link.tor_v4());
        let annotations = [
            &address,
            "kube-router.io/peer.asns=65100",
            "portolan.io/as-number-",
        ];
        cluster.kubectl(&[&["annotate", "node", &node][..], &annotations].concat());
        install_plugins(cluster, &node);
    }
    let manifests = format!("{}\n---\n{DAEMON_SET}", config(cluster)).replace("IMAGE", TOOLS);
    cluster.plane().apply(&manifests);
    for node in ["n1", "n2"] {
        cluster.wait_ready(node).unwrap_or_else(|error| {
            panic!("{error:#}\n{}", cluster.describe("kube-system"));
        });
    }
    cluster.tell("both nodes are Ready by kube-router's configuration");
    shop::open(cluster);
    for node in ["n1", "n2"] {
        wait_sessions(cluster, node);
        enforce(cluster, node);
        let bridged = cluster
            .on(node)
            .run("ip", &["link", "show", "master", "kube-bridge"]);
        assert!(
            bridged.unwrap().matches("master kube-bridge").count() >= 4,
            "{node}"
        );
    }
    let (one, other) = (Ends::on(cluster, "n1"), Ends::on(cluster, "n2"));
    crate::traffic::all_ways(cluster, "kube-router on both nodes", &one, &other);
}

fn install_plugins(cluster: &Cluster, name: &str) {
    let node = cluster.on(name);
    node.run(
        "cp",
        &[
            "/usr/lib/cni/bridge",
            "/usr/lib/cni/host-local",
            "/opt/cni/bin/",
        ],
    )
    .unwrap();
    node.write("/usr/local/bin/kube-router", PROGRAM).unwrap();
    node.run("chmod", &["755", "/usr/local/bin/kube-router"])
        .unwrap();
}

/// Waits until a node's GoBGP knows the other node's Pod CIDR from it, and the router has a route to this one's.
pub(crate) fn wait_sessions(cluster: &Cluster, name: &str) {
    let (own, other) = if name == "n1" {
        ("n1", "n2")
    } else {
        ("n2", "n1")
    };
    let (own, other) = (pod_cidr(cluster, own), pod_cidr(cluster, other));
    eventually(
        PATIENCE,
        &format!("the sessions of {name}"),
        || -> Result<()> {
            let known = cluster.on(name).run("gobgp", &["global", "rib"])?;
            ensure!(known.contains(&other), "{known}");
            let sessions = cluster.on(name).run("gobgp", &["neighbor"])?;
            ensure!(sessions.matches(" Establ").count() == 2, "{sessions}");
            let route = cluster.fabric().tor().ip(&format!("route show {own}"))?;
            ensure!(route.contains("proto bgp"), "{route}");
            Ok(())
        },
    )
    .unwrap();
}

/// Writes a node's chains for the pods of `vault`, as kube-router's controller would: by their addresses.
pub(crate) fn enforce(cluster: &Cluster, name: &str) {
    let mut script = "set -eu\nipset create -exist KUBE-SRC-FRIENDS hash:ip timeout 0\nipset flush KUBE-SRC-FRIENDS\n".to_owned();
    for friend in cluster.pods(SHOP, "role=friend").unwrap() {
        let ip = friend.ip(false).unwrap();
        script += &format!("ipset add -exist KUBE-SRC-FRIENDS {ip} timeout 0\n");
    }
    script += "
iptables -w -N KUBE-NWPLCY-FRIENDS 2>/dev/null || iptables -w -F KUBE-NWPLCY-FRIENDS
iptables -w -A KUBE-NWPLCY-FRIENDS -m set --match-set KUBE-SRC-FRIENDS src -j MARK --set-xmark 0x10000/0x10000
";
    for pod in cluster.pods(SHOP, "app=vault").unwrap() {
        if pod.node != name {
            continue;
        }
        let chain = format!("KUBE-POD-FW-{}", &pod.uid[..8]);
        let ip = pod.ip(false).unwrap();
        script += &format!(
            "
if iptables -w -N {chain} 2>/dev/null; then
  iptables -w -A {chain} -j KUBE-NWPLCY-COMMON
  iptables -w -A {chain} -d {ip} -m addrtype --src-type LOCAL -j ACCEPT
  iptables -w -A {chain} -d {ip} -j KUBE-NWPLCY-FRIENDS
  iptables -w -A {chain} -s {ip} -j KUBE-NWPLCY-DEFAULT
  iptables -w -A {chain} -m mark ! --mark 0x10000/0x10000 -j REJECT
  iptables -w -A {chain} -j MARK --set-xmark 0x0/0x10000
  iptables -w -A {chain} -j MARK --set-xmark 0x20000/0x20000
  iptables -w -I KUBE-ROUTER-FORWARD -d {ip} -j {chain}
  iptables -w -I KUBE-ROUTER-FORWARD -s {ip} -j {chain}
  iptables -w -I KUBE-ROUTER-FORWARD -d {ip} -m physdev --physdev-is-bridged -j {chain}
fi
"
        );
    }
    cluster.on(name).run("bash", &["-c", &script]).unwrap();
}

/// Everything in a node's filter table and sets that is kube-router's, line by line.
pub(crate) fn theirs(cluster: &Cluster, name: &str) -> Vec<String> {
    let rules = cluster
        .on(name)
        .run("iptables-save", &["-t", "filter"])
        .unwrap();
    let sets = cluster.on(name).run("ipset", &["save"]).unwrap();
    let is_theirs = |line: &&str| {
        let words = [
            "KUBE-ROUTER",
            "KUBE-POD-FW",
            "KUBE-NWPLCY",
            "KUBE-SRC",
            "kube-router",
            "kube-bridge",
            "allow outbound",
        ];
        !line.starts_with(':') && words.iter().any(|word| line.contains(word))
    };
    let all = rules.lines().chain(sets.lines());
    all.filter(is_theirs)
        .map(|line| line.trim().to_owned())
        .collect()
}

/// What kube-router makes of a node is there again or is not there.
pub(crate) fn has_bridge(cluster: &Cluster, name: &str) -> bool {
    cluster
        .on(name)
        .run("ip", &["link", "show", "kube-bridge"])
        .is_ok()
}
