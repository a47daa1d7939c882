//! Portolan taken off and put on again, as docs/install.md says: by kubectl, and by Helm.

use std::time::Duration;

use anyhow::{Result, ensure};
use cluster::cluster::Cluster;
use cluster::fabric::Link;
use cluster::kustomization::deploy;
use cluster::portolan::{AGENT, NAMESPACE, peers};
use tests::wait::eventually;

use crate::bgp::{pod_cidrs, route, set_tor};
use crate::overlays::wait_bfd_pods;
use crate::traffic::{Traffic, within};
use crate::workloads::{SHOP, answers_between_all};

const PATIENCE: Duration = Duration::from_secs(90);

/// How long an update by Helm is measured.
const UPGRADE: Duration = Duration::from_secs(40);

/// Where a rule of ours could be.
const TABLES: [&str; 4] = [
    "iptables-nft-save",
    "iptables-legacy-save",
    "ip6tables-nft-save",
    "ip6tables-legacy-save",
];

/// What of ours is on a node, by what it is.
fn ours(cluster: &mut Cluster, node: &str) -> Vec<(&'static str, Vec<String>)> {
    let node = cluster.node(node);
    let lines = |program: &str, args: &[&str], word: &str| -> Vec<String> {
        let said = node.run(program, args).unwrap();
        let said = said.lines().filter(|line| line.contains(word));
        said.map(str::to_owned).collect()
    };
    let rules = TABLES.iter().flat_map(|table| {
        let mut rules = lines(table, &[], "PTL-");
        rules.extend(lines(table, &[], "ptl4-"));
        rules.extend(lines(table, &[], "ptl6-"));
        rules
    });
    let routes = ["-4", "-6"].iter().flat_map(|family| {
        let all = [family, "route", "show", "table", "all", "proto", "179"];
        lines("ip", &all, "")
    });
    // An empty folder has nothing of ours.
    let files = "find /etc/cni/net.d /opt/cni/bin /etc/iproute2/rt_protos.d -name '*portolan*'; \
                 find /var/lib/portolan /run/portolan -mindepth 1";
    vec![
        ("rules", rules.collect()),
        ("sets", lines("ipset", &["list", "-n"], "ptl")),
        ("routes", routes.collect()),
        ("next hops", lines("ip", &["nexthop", "show"], "proto 179")),
        ("links", lines("ip", &["-o", "link"], ": ptl")),
        ("files", lines("sh", &["-c", files], "/")),
    ]
}

/// Marks of others on a node, beside ours: a rule in each family, a set, a route, a file and a plugin.
fn put_foreign(cluster: &mut Cluster, node: &str) {
    let node = cluster.node(node);
    for script in [
        "iptables -N FOREIGN && iptables -A FOREIGN -s 203.0.113.0/24 -j DROP && iptables -I FORWARD -j FOREIGN",
        "ip6tables -N FOREIGN && ip6tables -A FOREIGN -s 2001:db8::/32 -j DROP && ip6tables -I FORWARD -j FOREIGN",
        "ipset create foreign hash:net && ipset add foreign 203.0.113.0/24",
        "ip route add blackhole 203.0.113.0/24 proto static",
        "echo kept > /etc/cni/net.d/README && echo kept > /opt/cni/bin/other",
    ] {
        node.run("sh", &["-c", script]).unwrap();
    }
}

fn foreign(cluster: &mut Cluster, node: &str) -> String {
    let script = "iptables-save | grep FOREIGN; ip6tables-save | grep FOREIGN; ipset save foreign; ip route show proto static; \
                  cat /etc/cni/net.d/README /opt/cni/bin/other; ls /opt/cni/bin/loopback; ip route show default; ip -6 route show default";
    cluster.node(node).run("sh", &["-c", script]).unwrap()
}

/// The jumps and chains of kube-proxy, which come and go with endpoints: only that they are there counts.
fn has_proxy_rules(cluster: &mut Cluster, node: &str) -> bool {
    let saved = cluster.node(node).run("iptables-save", &[]).unwrap();
    saved.contains("-j KUBE-SERVICES")
}

/// The commands of docs/install.md's first block under a heading.
fn page(heading: &str) -> Vec<String> {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/install.md");
    let page = std::fs::read_to_string(page).unwrap();
    let section = page.split_once(&format!("\n## {heading}\n")).unwrap().1;
    let block = section.split("```").nth(1).unwrap();
    let lines = block.lines().map(|line| line.split('#').next().unwrap());
    let lines = lines.map(|line| line.trim().replace("deploy/", &deploy("")));
    lines.filter(|line| !line.is_empty()).collect()
}

/// Runs a command of the page, for each node if it is of one.
fn run_of_page(cluster: &Cluster, line: &str) {
    let nodes: &[&str] = match line.contains("NODE") {
        true => &["n1", "n2"],
        false => &[""],
    };
    for node in nodes {
        let line = line.replace("NODE", node);
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(words[0], "kubectl", "{line}");
        cluster.kubectl(&words[1..]);
    }
}

/// By what docs/install.md has under "Uninstalling", each command as it stands there.
pub(crate) fn the_uninstall_leaves_nothing_of_ours_and_all_of_others(cluster: &mut Cluster) {
    let mut before = Vec::new();
    for node in ["n1", "n2"] {
        put_foreign(cluster, node);
        for (what, found) in ours(cluster, node) {
            // Next-hop objects are there only where several ways lead somewhere.
            assert!(
                !found.is_empty() || what == "next hops",
                "{node}: no {what}"
            );
            cluster.tell(&format!("{node}: {} {what} of ours", found.len()));
        }
        before.push(foreign(cluster, node));
    }
    let proxied = ["n1", "n2"].map(|node| has_proxy_rules(cluster, node));
    let commands = page("Uninstalling");
    let clean = commands
        .iter()
        .position(|line| line.contains("rollout status"))
        .unwrap();
    let (until_clean, rest) = commands.split_at(clean + 1);
    assert_eq!((until_clean.len(), rest.len()), (4, 2), "{commands:?}");
    for line in until_clean {
        run_of_page(cluster, line);
    }
    for (node, before) in ["n1", "n2"].into_iter().zip(before) {
        for (what, found) in ours(cluster, node) {
            assert!(found.is_empty(), "{node}: {what} are left: {found:#?}");
        }
        assert_eq!(foreign(cluster, node), before, "{node}");
        let what = format!("{node} to be NotReady without a configuration");
        eventually(PATIENCE, &what, || -> Result<()> {
            ensure!(cluster.readiness(node)? == "False");
            Ok(())
        })
        .unwrap();
    }
    assert_eq!(
        ["n1", "n2"].map(|node| has_proxy_rules(cluster, node)),
        proxied
    );
    for line in rest {
        run_of_page(cluster, line);
    }
    let left = cluster.kubectl(&["get", "crd,clusterrole,namespace", "-o", "name"]);
    assert!(!left.contains("portolan"), "{left}");
    for node in ["n1", "n2"] {
        for (what, found) in ours(cluster, node) {
            assert!(found.is_empty(), "{node}: {what} came back: {found:#?}");
        }
    }
    cluster.tell("uninstalled: nothing of ours is left, all of others is");
}

/// Whoever was on a node while its links were taken has none: new pods in their place.
fn renew_pods(cluster: &mut Cluster) {
    for node in ["n1", "n2"] {
        cluster.wait_ready(node).unwrap();
        cluster.kubectl(&["uncordon", node]);
    }
    for what in ["daemonset/client", "deployment/web"] {
        cluster.kubectl(&["-n", SHOP, "rollout", "restart", what]);
    }
    for what in ["daemonset/client", "deployment/web"] {
        cluster.wait_rollout(SHOP, what);
    }
}

fn wait_on_tor(cluster: &Cluster) {
    for node in ["n1", "n2"] {
        for cidr in pod_cidrs(cluster, node) {
            eventually(PATIENCE, &format!("{cidr} on the ToR"), || -> Result<()> {
                ensure!(route(cluster, &cidr)?.contains("proto bgp"));
                Ok(())
            })
            .unwrap();
        }
    }
}

/// The agents' arguments, and the names of their pods.
fn running(cluster: &Cluster) -> (String, Vec<String>) {
    let agent = cluster.get(&["-n", NAMESPACE, AGENT]).unwrap();
    let args = &agent["spec"]["template"]["spec"]["containers"][0]["args"];
    let pods = cluster.pods(NAMESPACE, "app.kubernetes.io/component=agent");
    let mut names: Vec<String> = pods.unwrap().into_iter().map(|pod| pod.name).collect();
    names.sort();
    (args.to_string(), names)
}

pub(crate) fn helm_installs_upgrades_and_uninstalls(cluster: &mut Cluster) {
    let chart = deploy("helm/portolan");
    let helm = |cluster: &Cluster, words: &str| {
        let words: Vec<&str> = words.split(' ').collect();
        let said = cluster.helm(&words);
        said.unwrap_or_else(|error| panic!("{error:#}\n{}", cluster.describe(NAMESPACE)))
    };
    helm(
        cluster,
        &format!(
            "install portolan {chart} --namespace portolan --create-namespace --set bfd.enabled=true"
        ),
    );
    let definitions = cluster.kubectl(&["get", "crd", "-o", "name"]);
    assert_eq!(
        definitions.matches(".portolan.io").count(),
        7,
        "{definitions}"
    );
    for link in [Link(1), Link(2)] {
        // What an overlay shown before has left on the ToR.
        set_tor(cluster, &format!("no neighbor {} password", link.v4()));
        set_tor(cluster, &format!("no neighbor {} bfd", link.v4()));
    }
    cluster.plane().apply(&peers());
    renew_pods(cluster);
    cluster.wait_rollout(NAMESPACE, AGENT);
    wait_bfd_pods(cluster).unwrap();
    wait_on_tor(cluster);
    answers_between_all(cluster);
    cluster.tell("installed by Helm: pods reach each other");

    let (_, before) = running(cluster);
    let traffic = Traffic::of_both(cluster);
    let (sent, lost) = traffic.send(cluster, "helm upgrade", UPGRADE, within(UPGRADE, || {
        helm(
            cluster,
            &format!(
                "upgrade portolan {chart} --namespace portolan --reuse-values --set agent.extraArgs={{--address-cool-down=20s}}"
            ),
        );
        cluster.wait_rollout(NAMESPACE, AGENT);
        Ok(())
    }));
    assert_eq!(lost, 0, "of {sent}");
    let (args, after) = running(cluster);
    assert!(args.contains("--address-cool-down=20s"), "{args}");
    assert_eq!(after.len(), 2);
    assert!(
        after.iter().all(|name| !before.contains(name)),
        "{before:?} {after:?}"
    );
    let history = helm(cluster, "history portolan --namespace portolan -o json");
    assert!(history.contains("\"revision\":2"), "{history}");

    helm(cluster, "uninstall portolan --namespace portolan --wait");
    let left = cluster.kubectl(&[
        "-n",
        NAMESPACE,
        "get",
        "daemonset,serviceaccount,role,rolebinding,clusterrole,clusterrolebinding",
        "-o",
        "name",
    ]);
    assert!(!left.contains("portolan"), "{left}");
    // Helm never takes definitions away, and so neither the peers: what docs/install.md says of it.
    let kept = cluster.kubectl(&["get", "bgppeers", "-o", "name"]);
    assert_eq!(kept.lines().count(), 2, "{kept}");
    cluster.tell("uninstalled by Helm");
}
