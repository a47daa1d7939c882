//! Rules of semantics §5 that need a node: settings of the host, node ports where they are said, policy beside Services.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use tests::fabric::{Fabric, PATIENCE};
use tests::netns::Netns;
use tests::reach::{Transport, Verdict, attempt};
use tests::wait::eventually;

use super::modes::restart_with;
use super::{ANSWER, FAR, NOBODY, NODE_PORT, PORT, TELLS, at, seen};

/// What a packet that is dropped is waited for.
const SILENCE: Duration = Duration::from_millis(700);
const DOOR: u16 = 30083;
/// An address of the first node beside that of its Node.
const FURTHER: &str = "10.72.0.1";
const NODE: &str = "10.71.1.1";

/// Counts, and not a setting.
const COUNTS: [&str; 1] = ["net/netfilter/nf_conntrack_count"];

/// Everything below /proc/sys/net in a namespace that can be read.
pub(super) fn settings(node: &Netns) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    node.inside(|| read(Path::new("/proc/sys/net"), &mut all))
        .unwrap();
    for name in COUNTS {
        all.remove(name);
    }
    all
}

fn read(folder: &Path, all: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read(&path, all);
        } else if let Ok(value) = fs::read_to_string(&path) {
            let name = path.strip_prefix("/proc/sys").unwrap();
            all.insert(name.display().to_string(), value);
        }
    }
}

/// Semantics 132: by default a node port answers at all addresses of the node, else at those that are said, and nowhere else.
pub(super) fn node_ports_where_they_are_said(lab: &mut Fabric, features: &str, mode: &str) {
    let node = lab.stations[0].netns.name().to_owned();
    lab.stations[0]
        .netns
        .ip(&format!("addr replace {FURTHER}/32 dev lo"))
        .unwrap();
    lab.router
        .ip(&format!("route replace {FURTHER} via {NODE}"))
        .unwrap();
    let mut checked = 0;
    for (ranges, answers) in [
        (None, [true, true]),
        (Some("10.72.0.0/16"), [false, true]),
        (Some("192.0.2.0/24,10.71.1.0/24"), [true, false]),
    ] {
        let mut words = vec!["--features", features, "--proxy-mode", mode];
        words.extend(ranges.map(|_| "--node-port-addresses"));
        words.extend(ranges);
        restart_with(&mut lab.stations[0], &words).unwrap();
        for (address, is_answered) in [NODE, FURTHER].into_iter().zip(answers) {
            let to = at(address, NODE_PORT);
            let what = format!("{node} by {mode} with {ranges:?} at {to}: {is_answered}");
            eventually(PATIENCE, &what, || is_door(lab, to, is_answered)).unwrap();
            checked += 1;
        }
        let far = lab.stations[0]
            .agent
            .verb(&["service", "show", "shop/far"])
            .unwrap();
        let shown = ranges.map_or("*", |ranges| ranges.rsplit(',').next().unwrap());
        assert!(far.contains(&format!("{shown}:{NODE_PORT}")), "{far}");
    }
    assert_eq!(checked, 6);
    let words = ["--features", features, "--proxy-mode", mode];
    restart_with(&mut lab.stations[0], &words).unwrap();
}

/// Semantics 147: what somebody flushed is there again, without kube-proxy's canaries.
pub(super) fn flushed_rules_come_back(lab: &Fabric) {
    let node = &lab.stations[0].netns;
    for damage in ["-t nat -F", "-t nat -F KUBE-SERVICES", "-t filter -F"] {
        for (program, far) in ["iptables", "ip6tables"].into_iter().zip(FAR) {
            node.run(program, &damage.split(' ').collect::<Vec<_>>())
                .unwrap();
            eventually(PATIENCE, damage, || {
                let saved = node.run(&format!("{program}-save"), &[])?;
                for rule in ["-g KUBE-SEP-", "-A PREROUTING", "-A FORWARD"] {
                    ensure!(saved.contains(rule), "no {rule}");
                }
                let services = saved.matches("-A KUBE-SERVICES ").count();
                ensure!(services >= 5, "{services} rules");
                seen(lab.pods[0].netns(), at(far, PORT), Transport::Tcp).map(drop)
            })
            .unwrap();
        }
    }
}

fn is_door(lab: &Fabric, to: SocketAddr, is_answered: bool) -> Result<()> {
    match is_answered {
        true => seen(&lab.router, to, Transport::Tcp).map(drop),
        false => {
            let verdict = attempt(&lab.router, to, Transport::Tcp, ANSWER)?;
            ensure!(verdict == Verdict::Refused, "{verdict:?}");
            Ok(())
        }
    }
}

fn policy(kind: &str, rules: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{name: beside, namespace: shop}}
spec: {{podSelector: {{}}, policyTypes: [{kind}]{rules}}}
"
    )
}

/// Semantics 150: who is refused by a Service without endpoints is so before policy drops; what comes by a node port is judged by
/// the pod's port and the client's address.
pub(super) fn policy_beside(lab: &Fabric) {
    let pod = lab.pods[0].netns();
    let tells = |text: &str| {
        lab.manifest("beside.yaml", text).unwrap();
        sync_all(lab);
    };
    let verdict = |from: &Netns, to, patience| attempt(from, to, Transport::Tcp, patience).unwrap();
    let known = "apiVersion: v1\nkind: Pod\nmetadata: {namespace: shop, name: pod1}\nspec: {nodeName: node1}\n";
    lab.manifest("pod1.yaml", known).unwrap();
    tells(&policy("Egress", ""));
    for (nobody, far) in NOBODY.into_iter().zip(FAR) {
        assert_eq!(
            verdict(pod, at(far, PORT), SILENCE),
            Verdict::Silent,
            "policy denies it"
        );
        assert_eq!(
            verdict(pod, at(nobody, PORT), ANSWER),
            Verdict::Refused,
            "refused before"
        );
    }
    let address = lab.pods[0].addresses[0];
    let door = format!(
        "apiVersion: v1
kind: Service
metadata: {{name: door, namespace: shop}}
spec: {{type: NodePort, clusterIP: 10.96.0.40, clusterIPs: [10.96.0.40], ports: [{{port: 81, nodePort: {DOOR}}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: door-1, namespace: shop, labels: {{kubernetes.io/service-name: door}}}}
addressType: IPv4
ports: [{{name: \"\", port: {TELLS}}}]
endpoints: [{{addresses: [\"{address}\"], nodeName: node1}}]
"
    );
    lab.manifest("door.yaml", &door).unwrap();
    let of = |port: u16| {
        let rules = format!(
            ", ingress: [{{from: [{{ipBlock: {{cidr: 10.71.1.254/32}}}}], ports: [{{port: {port}}}]}}]"
        );
        policy("Ingress", &rules)
    };
    for (port, expected) in [(DOOR, Verdict::Silent), (TELLS, Verdict::Answered)] {
        tells(&of(port));
        let found = verdict(&lab.router, at(NODE, DOOR), SILENCE);
        assert_eq!(found, expected, "policy names port {port}");
    }
    for name in ["beside.yaml", "door.yaml", "pod1.yaml"] {
        lab.remove_manifest(name).unwrap();
    }
    sync_all(lab);
}

/// A policy holds for the pods of every node.
fn sync_all(lab: &Fabric) {
    for station in &lab.stations {
        let words = ["sync", "--timeout", "30s"];
        station.agent.verb(&words).unwrap();
    }
}
