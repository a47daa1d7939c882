//! Services served by the agent in the place of kube-proxy: who reaches which endpoint, and who is seen there.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

mod around;
mod flows;
mod leave;
mod modes;
mod rules;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Result, ensure};
use tests::fabric::{Fabric, PATIENCE, Underlay, pools};
use tests::netns::Netns;
use tests::rack::say;
use tests::reach::{Transport, Verdict, attempt};
use tests::require_root;
use tests::seen::{Teller, ask};
use tests::wait::eventually;

/// Where pods tell whom they see.
const TELLS: u16 = 7070;
/// The port of the Services, and of every node.
const PORT: u16 = 81;
const NODE_PORT: u16 = 30081;
const ANSWER: Duration = Duration::from_secs(3);
/// `far` has an endpoint on another node, `self` on this one, `nobody` none.
const FAR: [&str; 2] = ["10.96.0.10", "fd96::10"];
const NEAR: [&str; 2] = ["10.96.0.11", "fd96::11"];
const NOBODY: [&str; 2] = ["10.96.0.12", "fd96::12"];

fn service(name: &str, [v4, v6]: [&str; 2], more: &str) -> String {
    let node_port = match name {
        "far" => format!(", nodePort: {NODE_PORT}"),
        _ => String::new(),
    };
    let ports = ["TCP", "UDP"].map(|protocol| {
        let name = protocol.to_lowercase();
        format!(
            "{{name: {name}, protocol: {protocol}, port: {PORT}, targetPort: {TELLS}{node_port}}}"
        )
    });
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: shop}}
spec: {{clusterIP: {v4}, clusterIPs: [{v4}, \"{v6}\"], ipFamilies: [IPv4, IPv6], {more} ports: [{}]}}
---
",
        ports.join(", ")
    )
}

fn slices(name: &str, node: &str, addresses: &[IpAddr]) -> String {
    let slice = |address: &IpAddr| {
        let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
        format!(
            "apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}-{}, namespace: shop, labels: {{kubernetes.io/service-name: {name}}}}}
addressType: {family}
ports: [{{name: tcp, protocol: TCP, port: {TELLS}}}, {{name: udp, protocol: UDP, port: {TELLS}}}]
endpoints: [{{addresses: [\"{address}\"], nodeName: {node}, conditions: {{ready: true}}}}]
---
",
            family.to_lowercase()
        )
    };
    addresses.iter().map(slice).collect()
}

/// The lab with Services that nobody serves, and a server in each pod.
fn prepare(tag: &str) -> (Fabric, Vec<Teller>) {
    let lab = Fabric::start(tag, Underlay::V4, "vxlan.portolan", &pools("VXLAN")).unwrap();
    let tellers = lab.pods.iter().map(|pod| Teller::start(pod.netns(), TELLS));
    let tellers = tellers.collect::<Result<_>>().unwrap();
    let mut text = service("far", FAR, "type: NodePort, ");
    text += &service("near", NEAR, "");
    text += &service("nobody", NOBODY, "");
    text += &slices("far", "node2", &lab.pods[1].addresses);
    text += &slices("near", "node1", &lab.pods[0].addresses);
    lab.manifest("services.yaml", &text).unwrap();
    (lab, tellers)
}

/// The lab with `services` turned on on the first node.
fn start(tag: &str) -> (Fabric, Vec<Teller>) {
    let (mut lab, tellers) = prepare(tag);
    modes::restart_with(&mut lab.stations[0], &["--features", modes::ALL]).unwrap();
    (lab, tellers)
}

fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().unwrap(), port)
}

fn seen(from: &Netns, to: SocketAddr, transport: Transport) -> Result<IpAddr> {
    let seen = ask(from, to, transport, ANSWER)?;
    seen.ok_or_else(|| anyhow::anyhow!("no answer of {to} by {transport}"))
}

/// All addresses that a node has.
fn own_addresses(netns: &Netns) -> Vec<IpAddr> {
    let links = netns.ip_json("addr show").unwrap();
    let links = links.as_array().unwrap().iter();
    let infos = links.flat_map(|link| link["addr_info"].as_array().unwrap().clone());
    infos
        .filter_map(|info| info["local"].as_str()?.parse().ok())
        .collect()
}

/// Asks every way to an endpoint, and where there is none; says how many were right.
fn right_ways(lab: &Fabric) -> usize {
    let (pod, node) = (&lab.pods[0], &lab.stations[0].netns);
    eventually(PATIENCE, "the first answer", || {
        seen(pod.netns(), at(FAR[0], PORT), Transport::Tcp).map(drop)
    })
    .unwrap();
    // Before it is led elsewhere, what the node sends itself must have a way: a default route as a rule.
    node.ip("-6 route replace fd96::/64 dev eth0").unwrap();
    let own = own_addresses(node);
    let mut right = 0;
    for (family, far) in FAR.iter().enumerate() {
        for transport in [Transport::Tcp, Transport::Udp] {
            let by = seen(pod.netns(), at(far, PORT), transport).unwrap();
            assert_eq!(by, pod.addresses[family], "a pod is seen as itself");
            let by = seen(node, at(far, PORT), transport).unwrap();
            assert!(own.contains(&by), "the node: {by}");
            // An endpoint that asks itself sees its node.
            let by = seen(pod.netns(), at(NEAR[family], PORT), transport).unwrap();
            assert!(own.contains(&by), "hairpin: {by}");
            right += 3;
        }
        let refused = attempt(
            pod.netns(),
            at(NOBODY[family], PORT),
            Transport::Tcp,
            ANSWER,
        );
        assert_eq!(refused.unwrap(), Verdict::Refused, "nobody listens");
        right += 1;
    }
    for transport in [Transport::Tcp, Transport::Udp] {
        let by = seen(&lab.router, at("10.71.1.1", NODE_PORT), transport).unwrap();
        assert!(own.contains(&by), "from outside: {by}");
        right += 1;
    }
    right
}

#[test]
fn pods_the_node_and_the_outside_reach_endpoints_of_services() {
    require_root!();
    let (mut lab, _tellers) = start("svc");
    let right = right_ways(&lab);
    assert_eq!(right, 16);
    let node = &lab.stations[0].netns;
    let saved = node.run("iptables-save", &["-t", "nat"]).unwrap();
    for name in ["KUBE-SERVICES", "KUBE-NODEPORTS", "KUBE-SVC-", "KUBE-SEP-"] {
        assert!(saved.contains(name), "{name}: {saved}");
    }
    rules::flushed_rules_come_back(&lab);
    rules::policy_beside(&lab);
    rules::node_ports_where_they_are_said(&mut lab, modes::ALL, "iptables");
    say(&format!("{right} of {right} ways to endpoints"));
}

/// What a killed agent leaves serves on; the feature turned off takes all of it away, and nothing else.
#[test]
fn services_are_served_while_the_agent_is_away_and_gone_when_they_are_turned_off() {
    require_root!();
    let (mut lab, _tellers) = start("svk");
    let to = at(FAR[0], PORT);
    eventually(PATIENCE, "the first answer", || {
        seen(lab.pods[0].netns(), to, Transport::Tcp).map(drop)
    })
    .unwrap();
    lab.stations[0].agent.kill().unwrap();
    for _ in 0..20 {
        seen(lab.pods[0].netns(), to, Transport::Tcp).unwrap();
    }
    lab.stations[0].agent.set_arguments(&[]);
    lab.stations[0].start().unwrap();
    lab.stations[0].agent.wait_synced().unwrap();
    eventually(PATIENCE, "no chain of Services", || -> Result<()> {
        let saved = lab.stations[0].netns.run("iptables-save", &[])?;
        ensure!(!saved.contains("KUBE-"), "{saved}");
        ensure!(saved.contains("PTL-"), "{saved}");
        Ok(())
    })
    .unwrap();
    ask(
        lab.pods[0].netns(),
        to,
        Transport::Tcp,
        Duration::from_millis(500),
    )
    .map(|seen| assert_eq!(seen, None, "nobody serves it"))
    .unwrap();
}

/// kube-proxy's other modes: its tables of nftables, and the device that has the addresses for IPVS.
fn other_modes(lab: &Fabric, chains: &dyn Fn(bool, &str)) {
    let node = &lab.stations[0].netns;
    let modes = [
        (
            "table ip kube-proxy",
            "nft add table ip kube-proxy",
            "nft delete table ip kube-proxy",
        ),
        (
            "device kube-ipvs0",
            "ip link add kube-ipvs0 type veth peer name kube-peer && ip addr add 10.96.9.9/32 dev kube-ipvs0",
            "ip link del kube-ipvs0",
        ),
    ];
    for (sign, come, go) in modes {
        node.run("sh", &["-ec", come]).unwrap();
        // As a rule it is there before the agent is; else it is seen at the next reading of the kernel.
        node.run("iptables", &["-N", "SOMEBODY"]).unwrap();
        chains(false, sign);
        let status = lab.stations[0].agent.status().unwrap();
        let errors = status["errors"].to_string();
        assert!(
            errors.contains(sign) && errors.contains("kube-proxy --cleanup"),
            "{errors}"
        );
        node.run("iptables", &["-X", "SOMEBODY"]).unwrap();
        node.run("sh", &["-ec", go]).unwrap();
        let start = std::time::Instant::now();
        chains(true, "ours once it has gone");
        let took = start.elapsed();
        assert!(took < Duration::from_secs(10), "within seconds: {took:?}");
    }
}

/// Another proxy's chains are left to it, before ours are written and after; when it has gone, ours come.
#[test]
fn another_proxy_is_told_of_and_never_fought() {
    require_root!();
    let (mut lab, _tellers) = start("svo");
    let (to, node) = (at(FAR[0], PORT), &lab.stations[0].netns);
    let chains = |there: bool, what: &str| {
        eventually(PATIENCE, what, || -> Result<()> {
            let saved = node.run("iptables-save", &["-t", "nat"])?;
            ensure!(saved.contains("KUBE-SEP-") == there, "{saved}");
            Ok(())
        })
        .unwrap();
    };
    chains(true, "ours");
    // As kube-proxy does: its own rules in a chain of a name that both use.
    let table =
        "*nat\n:KUBE-SERVICES - [0:0]\n-A KUBE-SERVICES -d 10.96.9.9/32 -j RETURN\nCOMMIT\n";
    node.run(
        "sh",
        &[
            "-ec",
            &format!(
                "printf '{}' | iptables-restore --noflush",
                table.replace('\n', "\\n")
            ),
        ],
    )
    .unwrap();
    chains(false, "none of ours beside another's");
    let status = lab.stations[0].agent.status().unwrap();
    let errors = status["errors"].to_string();
    assert!(
        errors.contains("KUBE-SERVICES") && errors.contains("kube-proxy --cleanup"),
        "{errors}"
    );
    let saved = node.run("iptables-save", &["-t", "nat"]).unwrap();
    assert!(saved.contains("10.96.9.9/32"), "the other's rule: {saved}");
    for words in [
        "-t nat -D KUBE-SERVICES -d 10.96.9.9/32 -j RETURN",
        "-t nat -X KUBE-SERVICES",
    ] {
        node.run("iptables", &words.split(' ').collect::<Vec<_>>())
            .unwrap();
    }
    chains(true, "ours again");
    other_modes(&lab, &chains);
    seen(lab.pods[0].netns(), to, Transport::Tcp).unwrap();
    lab.stations[0].agent.wait_synced().unwrap();
    let status = lab.stations[0].agent.status().unwrap();
    assert!(!status["errors"].to_string().contains("KUBE-"), "{status}");
    modes::beside_another(&mut lab.stations[0]).unwrap();
    seen(lab.pods[0].netns(), to, Transport::Tcp).unwrap();
}
