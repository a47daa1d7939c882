//! Services by IPVS, with the driver that the common kernel lacks: who reaches what and is seen as whom, what a killed agent
//! leaves, connections over switches of the mode, and what policy denies. One node; the host outside stands for another's pod, too.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

mod policy;
mod sctp;

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use tests::agent::Agent;
use tests::netns::Netns;
use tests::one_node::OneNode;
use tests::rack::say;
use tests::reach::{self, Server, Transport, Verdict, attempt};
use tests::require_root;
use tests::seen::{Teller, ask};
use tests::wait::eventually;

/// Where servers tell whom they see.
const TELLS: u16 = 7070;
/// The port of the Services, that of their echo, and every node's.
const PORT: u16 = 81;
const ECHO: u16 = 82;
const NODE_PORT: u16 = 30081;
const PATIENCE: Duration = Duration::from_secs(20);
const ANSWER: Duration = Duration::from_secs(20);
const SILENCE: Duration = Duration::from_secs(3);
/// `far` has its endpoint elsewhere, `near` in the second pod, `own` in the first, `nobody` none; `local` and `here` have the
/// external policy Local, the one with its endpoint elsewhere, the other with the second pod.
const FAR: [&str; 2] = ["10.96.0.10", "fd96::10"];
const NEAR: [&str; 2] = ["10.96.0.11", "fd96::11"];
const OWN: [&str; 2] = ["10.96.0.12", "fd96::12"];
const NOBODY: [&str; 2] = ["10.96.0.13", "fd96::13"];
const LOCAL: [&str; 2] = ["10.96.0.14", "fd96::14"];
const HERE: [&str; 2] = ["10.96.0.15", "fd96::15"];
/// Its endpoint is the node itself.
const HOST: [&str; 2] = ["10.96.0.16", "fd96::16"];
/// Of `near`.
const EXTERNAL: [&str; 2] = ["198.51.100.11", "2001:db8:5::11"];
const BALANCED: [&str; 2] = ["203.0.113.11", "2001:db8:6::11"];
/// Of `local` and of `here`.
const BALANCED_LOCAL: &str = "203.0.113.14";
const BALANCED_HERE: &str = "203.0.113.15";
const NODE: &str = "192.0.2.1";
const OUTSIDE: [&str; 2] = ["192.0.2.10", "2001:db8::10"];
const TRANSPORTS: [Transport; 2] = [Transport::Tcp, Transport::Udp];

fn service(name: &str, [v4, v6]: [&str; 2], more: &str, ingress: &[&str]) -> String {
    let port = |name: &str, protocol: &str, port: u16, to: u16, more: &str| {
        format!("{{name: {name}, protocol: {protocol}, port: {port}, targetPort: {to}{more}}}")
    };
    let node_port = match name {
        "near" => format!(", nodePort: {NODE_PORT}"),
        _ => String::new(),
    };
    let ports = [
        port("tcp", "TCP", PORT, TELLS, &node_port),
        port("udp", "UDP", PORT, TELLS, &node_port),
        port("echo", "TCP", ECHO, reach::PORT, ""),
        port("sctp", "SCTP", PORT, TELLS, &node_port),
    ];
    let ingress: Vec<_> = ingress
        .iter()
        .map(|ip| format!("{{ip: \"{ip}\"}}"))
        .collect();
    let ingress = ingress.join(", ");
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: shop}}
spec: {{clusterIP: {v4}, clusterIPs: [{v4}, \"{v6}\"], ipFamilies: [IPv4, IPv6], {more} ports: [{}]}}
status: {{loadBalancer: {{ingress: [{ingress}]}}}}
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
ports: [{{name: tcp, protocol: TCP, port: {TELLS}}}, {{name: udp, protocol: UDP, port: {TELLS}}}, {{name: echo, protocol: TCP, port: {}}}, {{name: sctp, protocol: SCTP, port: {TELLS}}}]
endpoints: [{{addresses: [\"{address}\"], nodeName: {node}, conditions: {{ready: true}}}}]
---
",
            family.to_lowercase(),
            reach::PORT
        )
    };
    addresses.iter().map(slice).collect()
}

fn start_agent(agent: &mut Agent, node: &Netns, mode: &str, more: &[&str]) {
    let mut words = vec!["--proxy-mode", mode];
    words.extend(more);
    agent.set_arguments(&words);
    agent.start(node).unwrap();
    agent.wait_synced().unwrap();
}

/// The namespace and its pods, that are told apart by labels.
fn manifests() -> String {
    let pod = |name: &str| {
        format!(
            "---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: shop, labels: {{app: {name}}}}}
spec: {{nodeName: node1}}
"
        )
    };
    let namespace = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n";
    format!("{namespace}{}{}", pod("one"), pod("two"))
}

/// The node with two pods, and servers in each and outside.
fn start() -> (OneNode, Vec<(Teller, Server)>) {
    let (features, flags) = ("policy,cni,services", ["--proxy-mode", "ipvs"]);
    let mut lab = OneNode::start_with("vs", features, &manifests(), &flags).unwrap();
    for name in ["one", "two"] {
        lab.attach("shop", name).unwrap();
    }
    let places = [
        &lab.pods[0].sandbox.netns,
        &lab.pods[1].sandbox.netns,
        &lab.outside,
    ];
    let servers = places.map(|one| {
        (
            Teller::start(one, TELLS).unwrap(),
            Server::start(one).unwrap(),
        )
    });
    let [v4, v6] = EXTERNAL;
    let external = format!("type: LoadBalancer, externalIPs: [{v4}, \"{v6}\"], ");
    let local = "type: LoadBalancer, externalTrafficPolicy: Local, healthCheckNodePort: 32014, ";
    let outside = OUTSIDE.map(|one| one.parse().unwrap());
    let mut text = service("far", FAR, "", &[]);
    text += &service("near", NEAR, &external, &BALANCED);
    text += &service("own", OWN, "", &[]);
    text += &service("nobody", NOBODY, "", &[]);
    text += &service("host", HOST, "", &[]);
    text += &service("local", LOCAL, local, &[BALANCED_LOCAL]);
    let here = local.replace("32014", "32015");
    text += &service("here", HERE, &here, &[BALANCED_HERE]);
    text += &slices("far", "node2", &outside);
    text += &slices("host", "node1", &[NODE.parse().unwrap()]);
    text += &slices("local", "node2", &outside);
    text += &slices("near", "node1", &lab.pods[1].addresses);
    text += &slices("here", "node1", &lab.pods[1].addresses);
    text += &slices("own", "node1", &lab.pods[0].addresses);
    std::fs::write(lab.folder().join("manifests/services.yaml"), text).unwrap();
    lab.agent.wait_synced().unwrap();
    (lab, servers.into())
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

/// Every sender at every kind of address; returns how many were right.
fn all_are_right(lab: &OneNode) -> usize {
    let (pod, node, outside) = (&lab.pods[0].sandbox.netns, &lab.node, &lab.outside);
    let own = own_addresses(node);
    let mut right = 0;
    let mut check = |from: &Netns, to: SocketAddr, transport, seen_as: Option<&str>, what: &str| {
        let by = seen(from, to, transport).unwrap_or_else(|error| panic!("{what}: {error}"));
        match seen_as {
            Some(address) => assert_eq!(by.to_string(), address, "{what}: {to}"),
            None => assert!(own.contains(&by), "{what}: {to} saw {by}"),
        }
        right += 1;
    };
    for transport in TRANSPORTS {
        for family in 0..2 {
            let itself = lab.pods[0].addresses[family].to_string();
            let itself = Some(itself.as_str());
            for to in [FAR, NEAR, LOCAL] {
                let to = at(to[family], PORT);
                check(pod, to, transport, itself, "a pod is seen as itself");
                check(node, to, transport, None, "the node");
            }
            check(pod, at(OWN[family], PORT), transport, None, "hairpin");
            for to in [NEAR, EXTERNAL, BALANCED] {
                check(
                    outside,
                    at(to[family], PORT),
                    transport,
                    None,
                    "from outside",
                );
            }
            for to in [EXTERNAL, BALANCED] {
                check(
                    node,
                    at(to[family], PORT),
                    transport,
                    None,
                    "the node, outside's address",
                );
                check(
                    pod,
                    at(to[family], PORT),
                    transport,
                    None,
                    "a pod, outside's address",
                );
            }
        }
        let pod_itself = lab.pods[0].addresses[0].to_string();
        let (door, pod_itself) = (at(NODE, NODE_PORT), Some(pod_itself.as_str()));
        check(outside, door, transport, None, "node port");
        check(node, door, transport, None, "node port, the node");
        check(pod, door, transport, None, "node port, a pod");
        // Policy Local: outside keeps its address at this node's; the node and its pods ask the cluster.
        check(
            outside,
            at(BALANCED_HERE, PORT),
            transport,
            Some(OUTSIDE[0]),
            "policy Local",
        );
        for door in [BALANCED_HERE, BALANCED_LOCAL] {
            check(
                pod,
                at(door, PORT),
                transport,
                pod_itself,
                "policy Local, a pod",
            );
            check(
                node,
                at(door, PORT),
                transport,
                None,
                "policy Local, the node",
            );
        }
        let by = ask(outside, at(BALANCED_LOCAL, PORT), transport, SILENCE).unwrap();
        assert_eq!(by, None, "policy Local without an endpoint here");
    }
    right + all_are_refused(lab)
}

/// Nobody listens, and no port of a Service, where the node has a program for all its addresses.
fn all_are_refused(lab: &OneNode) -> usize {
    let (pod, node, outside) = (&lab.pods[0].sandbox.netns, &lab.node, &lab.outside);
    let mut right = 0;
    for family in 0..2 {
        for from in [pod, node, outside] {
            for to in [at(NOBODY[family], PORT), at(FAR[family], TELLS)] {
                let verdict = attempt(from, to, Transport::Tcp, ANSWER).unwrap();
                assert_eq!(verdict, Verdict::Refused, "{to}: nobody listens");
                right += 1;
            }
        }
    }
    right
}

/// Messages on one connection each from a pod and the node, one after the other's answer, while `work` is done; returns how
/// many were answered and how many connections were not to the end.
fn talk_while(
    ends: &[(&Netns, SocketAddr)],
    patience: Duration,
    work: impl FnOnce(),
) -> (usize, usize) {
    let mut streams = Vec::new();
    for (netns, to) in ends {
        let stream = netns.inside(|| TcpStream::connect_timeout(to, ANSWER));
        let stream = stream.unwrap().unwrap();
        stream.set_read_timeout(Some(patience)).unwrap();
        stream.set_nodelay(true).unwrap();
        streams.push(stream);
    }
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let talks: Vec<_> = streams
            .iter_mut()
            .map(|stream| {
                let done = &done;
                scope.spawn(move || {
                    let mut answered = 0_u64;
                    while !done.load(Ordering::Relaxed) {
                        let message = answered.to_be_bytes();
                        let mut answer = [0; 8];
                        let sent = stream.write_all(&message);
                        if sent.and_then(|()| stream.read_exact(&mut answer)).is_err() {
                            return (answered, true);
                        }
                        assert_eq!(answer, message);
                        answered += 1;
                        thread::sleep(Duration::from_millis(50));
                    }
                    (answered, false)
                })
            })
            .collect();
        work();
        done.store(true, Ordering::Relaxed);
        let ends: Vec<_> = talks.into_iter().map(|talk| talk.join().unwrap()).collect();
        let answered: u64 = ends.iter().map(|(answered, _)| answered).sum();
        let lost = ends.iter().filter(|(_, is_lost)| *is_lost).count();
        (usize::try_from(answered).unwrap(), lost)
    })
}

/// Waits until rules and virtual services are of a mode.
fn wait_for_mode(node: &Netns, mode: &str) {
    let is_ipvs = mode == "ipvs";
    eventually(PATIENCE, "the mode", || -> Result<()> {
        let nat = node.run("iptables-save", &["-t", "nat"])?;
        let is_by_chains = nat.contains("far:echo -> ");
        let is_ruled = nat.contains("led by IPVS");
        ensure!(is_by_chains == (mode == "iptables"), "{nat}");
        ensure!(is_ruled == is_ipvs, "{nat}");
        let tables = node.run("nft", &["list", "tables"])?;
        let is_by_tables = tables.contains("portolan-services");
        ensure!(is_by_tables == (mode == "nftables"), "{tables}");
        let services = node.run("ipvsadm", &["-L", "-n"])?;
        let near = services.contains(&format!("{}:{ECHO} rr", NEAR[0]));
        ensure!(near || !is_ipvs, "{services}");
        Ok(())
    })
    .unwrap();
}

/// What the kernel has counted of a Service, by destination, too.
fn are_counted(lab: &OneNode) {
    // It adds up its processors' counts every two seconds.
    eventually(PATIENCE, "counts", || -> Result<()> {
        let said = lab
            .agent
            .verb(&["service", "show", "shop/near", "-o", "json"])?;
        let said: serde_json::Value = serde_json::from_str(&said)?;
        let counted = |what: &str, place: &str| {
            let all = said["counters"].as_array().into_iter().flatten();
            let mut found = all.filter(|one| one["what"] == what && one["place"] == place);
            found.next().and_then(|one| one["connections"].as_u64())
        };
        for (near, address) in NEAR.iter().zip(&lab.pods[1].addresses) {
            let endpoint = SocketAddr::new(*address, TELLS);
            let place = format!("IPVS TCP {}", at(near, PORT));
            let service = counted("shop/near:tcp cluster IP", &place);
            let one = counted(&format!("shop/near:tcp cluster IP -> {endpoint}"), &place);
            // A pod and the node asked it, and the outside.
            ensure!(service == Some(3) && one == Some(3), "{said:#}");
        }
        let place = format!("IPVS UDP {NODE}:{NODE_PORT}");
        let at_node = counted("shop/near:udp node port", &place);
        // The outside and the node; chains lead the pod there.
        ensure!(at_node == Some(2), "{said:#}");
        Ok(())
    })
    .unwrap();
    let table = lab.agent.verb(&["service", "show", "shop/near"]).unwrap();
    assert!(table.contains("CONNECTIONS"), "{table}");
}

/// By SCTP from a pod, the node and outside, at a cluster IP and a node port.
fn sctp_is_led(lab: &OneNode, listener: &sctp::Listener) {
    let (pod, node, outside) = (&lab.pods[0].sandbox.netns, &lab.node, &lab.outside);
    for to in NEAR {
        listener.is_asked(pod, at(to, PORT));
        listener.is_asked(node, at(to, PORT));
    }
    listener.is_asked(outside, at(NODE, NODE_PORT));
    listener.is_asked(pod, at(NODE, NODE_PORT));
    say("SCTP: 6 of 6 ways");
}

#[test]
fn all_senders_are_led_by_ipvs_and_kills_and_switches_of_the_mode_cut_no_connection() {
    require_root!();
    let (mut lab, _servers) = start();
    say("started");
    wait_for_mode(&lab.node, "ipvs");
    let _of_the_node = Teller::start(&lab.node, TELLS).unwrap();
    let right = all_are_right(&lab);
    assert_eq!(right, 2 * (2 * 14 + 8) + 12);
    say(&format!("{right} of {right} ways to endpoints"));
    are_counted(&lab);
    let own = own_addresses(&lab.node);
    let taken: Vec<IpAddr> = [FAR[0], FAR[1], EXTERNAL[0], BALANCED[1]]
        .map(|one| one.parse().unwrap())
        .into();
    assert!(
        taken.iter().all(|one| !own.contains(one)),
        "no interface has them"
    );

    let (allowed, denied) = policy::is_judged(&mut lab);
    assert_eq!((allowed, denied), (46, 28));
    say(&format!(
        "with policy: {allowed} answered that may, {denied} not answered that may not"
    ));
    let sctp = sctp::Listener::start(&lab.pods[1].sandbox.netns, &lab.pods[1].addresses);
    sctp_is_led(&lab, &sctp);

    let OneNode {
        agent,
        pods,
        node,
        outside,
        ..
    } = &mut lab;
    let (pod, node, outside) = (&pods[0].sandbox.netns, &*node, &*outside);
    let ends = [
        (pod, at(FAR[0], ECHO)),
        (node, at(NEAR[0], ECHO)),
        (pod, at(NEAR[1], ECHO)),
        (outside, at(BALANCED[0], ECHO)),
    ];
    let (killed, lost_killed) = talk_while(&ends, ANSWER, || {
        agent.kill().unwrap();
        for _ in 0..5 {
            seen(pod, at(FAR[0], PORT), Transport::Tcp).unwrap();
            seen(outside, at(NODE, NODE_PORT), Transport::Udp).unwrap();
        }
        start_agent(agent, node, "ipvs", &[]);
        wait_for_mode(node, "ipvs");
    });
    say(&format!(
        "killed and started: {killed} answered, {lost_killed} of 4 connections lost"
    ));
    let (switched, lost_switched) = talk_while(&ends, ANSWER, || {
        for mode in ["iptables", "nftables", "ipvs"] {
            agent.terminate().unwrap();
            start_agent(agent, node, mode, &[]);
            wait_for_mode(node, mode);
            for to in [at(NEAR[0], PORT), at(NEAR[1], PORT)] {
                sctp.is_asked(pod, to);
            }
            seen(pod, at(FAR[0], PORT), Transport::Tcp).unwrap();
            seen(node, at(NEAR[0], PORT), Transport::Udp).unwrap();
            // Longer than it takes to look whether connections have ended.
            thread::sleep(Duration::from_secs(6));
        }
    });
    say(&format!(
        "to iptables and back: {switched} answered, {lost_switched} of 4 connections lost"
    ));
    // What it would show if they were cut.
    let (_, lost_cut) = talk_while(&ends, Duration::from_secs(4), || {
        node.run("ipvsadm", &["-C"]).unwrap();
        thread::sleep(Duration::from_secs(5));
    });
    assert_eq!(lost_cut, 4, "the control");
    assert!(killed > 40 && switched > 100, "{killed}, {switched}");
    assert_eq!((lost_killed, lost_switched), (0, 0));
    agent.terminate().unwrap();
    agent.verb(&["cleanup"]).unwrap();
    assert!(!node.run("ipvsadm", &["-L", "-n"]).unwrap().contains("rr"));
    let routes = node.ip("route show table local proto 179").unwrap();
    assert_eq!(routes, "");
}
