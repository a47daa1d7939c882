//! Addresses of Services, announced to a ToR of real FRR: by whom, for how long, and that a packet to one that leads nowhere
//! ends where it comes to.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

mod death;

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::json;
use tests::announced::{self, Is, slice, spread};
use tests::lab::{Lab, Options};
use tests::rack::say;
use tests::reach::{Transport, Verdict, attempt};
use tests::require_root;
use tests::wait::eventually;

const PATIENCE: Duration = Duration::from_secs(30);
const ANSWER: Duration = Duration::from_secs(2);
/// By how much later it may be seen that the ToR has no way any more.
const MOMENT: Duration = Duration::from_secs(1);
/// Everybody's cluster IPs, announced as a whole.
const CLUSTER_IPS: &str = "10.96.0.0/16";
/// `all`, of policy Cluster, `here`, of policy Local with one endpoint, and `both`, with one a node; each announced by itself.
const ALL: &str = "198.51.100.7";
const HERE: &str = "198.51.100.8";
const BOTH: &str = "198.51.100.9";
const TOR: [&str; 2] = ["10.10.1.2", "10.10.2.2"];
const PORT: u16 = 80;

fn configuration() -> String {
    "apiVersion: portolan.io/v1alpha1
kind: BGPConfiguration
metadata: {name: default}
spec:
  nodeToNodeMeshEnabled: false
  serviceClusterIPs: [{cidr: 10.96.0.0/16}]
  serviceLoadBalancerIPs: [{cidr: 198.51.100.0/24}]
  serviceLoadBalancerAggregation: Disabled
  communities: [{name: vip, value: '65000:7'}]
  prefixAdvertisements: [{cidr: 198.51.100.0/24, communities: [vip]}]
"
    .to_owned()
}

fn service(name: &str, cluster_ip: &str, address: &str, policy: &str) -> String {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": "shop", "name": name},
        "spec": {
            "type": "LoadBalancer", "clusterIP": cluster_ip, "clusterIPs": [cluster_ip],
            "externalTrafficPolicy": policy,
            "ports": [{"name": "echo", "protocol": "TCP", "port": PORT, "targetPort": 8080}],
        },
        "status": {"loadBalancer": {"ingress": [{"ip": address}]}},
    })
    .to_string()
}

fn serve_by(lab: &mut Lab, service: &str, pods: &[(&str, Is)]) -> Result<()> {
    tell(lab, service, pods)?;
    lab.wait_synced()
}

fn tell(lab: &Lab, service: &str, pods: &[(&str, Is)]) -> Result<()> {
    lab.drop_manifest(
        &format!("{service}-slices.yaml"),
        &slice(lab, ("shop", service), &[("echo", 8080)], pods)?,
    )
}

fn start(tag: &str) -> Lab {
    let options = Options::for_test(tag, env!("CARGO_BIN_EXE_portolan-demo")).unwrap();
    let mut lab = Lab::new(options).unwrap();
    for node in &mut lab.nodes {
        node.agent
            .set_arguments(&["--features", "bgp,policy,cni,services"]);
    }
    spread(&lab).unwrap();
    lab.start_agents().unwrap();
    lab.attach_all().unwrap();
    lab.drop_manifest("40-announced.yaml", &configuration())
        .unwrap();
    // The demo's own is the same object; of two files the agents would take one.
    let bgp = std::fs::read_to_string(lab.manifests().join("30-bgp.yaml")).unwrap();
    let (_, peers) = bgp.split_once("---\n").unwrap();
    lab.drop_manifest("30-bgp.yaml", peers).unwrap();
    for (name, cluster_ip, address, policy) in [
        ("all", "10.96.0.10", ALL, "Cluster"),
        ("here", "10.96.0.11", HERE, "Local"),
        ("both", "10.96.0.12", BOTH, "Local"),
    ] {
        let service = service(name, cluster_ip, address, policy);
        lab.drop_manifest(&format!("{name}.yaml"), &service)
            .unwrap();
    }
    let everybody = [("shop/web", Is::Ready), ("shop/db", Is::Ready)];
    tell(&lab, "all", &everybody).unwrap();
    tell(&lab, "both", &everybody).unwrap();
    serve_by(&mut lab, "here", &[("shop/db", Is::Ready)]).unwrap();
    wait_for_ways(&lab, BOTH, &TOR);
    lab
}

fn wait_for_ways(lab: &Lab, prefix: &str, nodes: &[&str]) {
    announced::wait_for_ways(lab, prefix, nodes, PATIENCE).unwrap();
}

fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().unwrap(), port)
}

fn ask(lab: &Lab, address: &str) -> Verdict {
    attempt(&lab.outside, at(address, PORT), Transport::Tcp, ANSWER).unwrap()
}

fn sent_to_nodes(lab: &Lab) -> Vec<u64> {
    announced::sent_to_nodes(lab).unwrap()
}

#[test]
fn nodes_announce_what_leads_to_an_endpoint_and_what_leads_nowhere_ends_there() {
    require_root!();
    let mut lab = start("sad");
    wait_for_ways(&lab, CLUSTER_IPS, &TOR);
    wait_for_ways(&lab, ALL, &TOR);
    wait_for_ways(&lab, HERE, &TOR[1..]);
    let route = lab
        .frr
        .json(&format!("show bgp ipv4 unicast {ALL}/32 json"))
        .unwrap();
    assert!(
        route.to_string().contains("65000:7"),
        "its community: {route}"
    );

    says_who_announces(
        &lab,
        HERE,
        &[
            ("198.51.100.8/32", "node2"),
            ("Local, and no endpoint", "node1"),
        ],
    );
    connections_come_by_both_nodes(&lab);
    an_unready_one_is_withdrawn_while_it_answers(&mut lab);
    nothing_goes_round(&lab);
    a_node_that_is_excluded_announces_cluster_ips_alone(&mut lab);
}

/// `portolan service show` of either node names each node with its reason, in a line each.
fn says_who_announces(lab: &Lab, address: &str, expected: &[(&str, &str)]) {
    for node in &lab.nodes {
        let told = node.agent.verb(&["service", "show", "shop/here"]).unwrap();
        let lines = told.lines().filter(|line| line.contains(address));
        for (verdict, name) in expected {
            let mut found = lines.clone().filter(|line| line.contains(verdict));
            assert!(found.any(|line| line.contains(name)), "{verdict}: {told}");
        }
    }
}

/// Of policy Local: each node answers by its own endpoint what comes to it, and nothing goes from one to the other.
fn connections_come_by_both_nodes(lab: &Lab) {
    const TIMES: usize = 60;
    let before = sent_to_nodes(lab);
    for _ in 0..TIMES {
        assert_eq!(ask(lab, BOTH), Verdict::Answered);
    }
    let after = sent_to_nodes(lab);
    let sent: Vec<u64> = after
        .iter()
        .zip(before)
        .map(|(after, before)| after - before)
        .collect();
    say(&format!(
        "{TIMES} connections to {BOTH}: {sent:?} packets to each node"
    ));
    // Which way a flow goes is a hash of its ports: that one has less than a sixth of so many is as good as impossible.
    let all: u64 = sent.iter().sum();
    assert!(sent.iter().all(|packets| packets * 6 >= all), "{sent:?}");
    for address in [ALL, HERE, "10.96.0.10"] {
        assert_eq!(ask(lab, address), Verdict::Answered, "{address}");
    }
}

/// Asked without a pause while its one endpoint begins to end: the fabric hears of it before anybody goes unanswered.
fn an_unready_one_is_withdrawn_while_it_answers(lab: &mut Lab) {
    let is_over = AtomicBool::new(false);
    let from = &*lab;
    let (asked, gone) = std::thread::scope(|scope| {
        let asking = scope.spawn(|| ask_until(from, &is_over));
        std::thread::sleep(Duration::from_millis(200));
        tell(from, "here", &[("shop/db", Is::Ending)]).unwrap();
        wait_for_ways(from, HERE, &[]);
        let gone = Instant::now();
        is_over.store(true, Ordering::Relaxed);
        (asking.join().unwrap().unwrap(), gone)
    });
    say(&format!(
        "{} connections answered while {HERE} was withdrawn, the last: {:?}",
        asked.answered, asked.failed
    ));
    assert!(asked.answered >= 20, "{}", asked.answered);
    if let Some((begun, verdict)) = asked.failed {
        // One that was open when the way went is cut at the ToR, with its endpoint there still; before, nobody is.
        assert!(begun + MOMENT >= gone, "{verdict:?} too early");
    }
    serve_by(lab, "all", &[]).unwrap();
    wait_for_ways(lab, ALL, &[]);
    serve_by(lab, "all", &[("shop/web", Is::Ready)]).unwrap();
    wait_for_ways(lab, ALL, &TOR);
}

/// What became of many connections, one after the other.
struct Asked {
    answered: usize,
    /// When the first that was not answered was begun: none was tried after it.
    failed: Option<(Instant, Verdict)>,
}

fn ask_until(lab: &Lab, is_over: &AtomicBool) -> Result<Asked> {
    let mut answered = 0;
    while !is_over.load(Ordering::Relaxed) {
        let begun = Instant::now();
        let verdict = attempt(&lab.outside, at(HERE, PORT), Transport::Tcp, ANSWER)?;
        if verdict != Verdict::Answered {
            let failed = Some((begun, verdict));
            return Ok(Asked { answered, failed });
        }
        answered += 1;
    }
    let failed = None;
    Ok(Asked { answered, failed })
}

/// To an address that no Service has, and to a port that one has not: from outside, a pod and a node.
fn nothing_goes_round(lab: &Lab) {
    const DATAGRAMS: u64 = 20;
    let (pod, _) = lab.place("team/tester", false).unwrap();
    let senders = [
        ("outside", &lab.outside),
        ("a pod", pod),
        ("a node", &lab.nodes[0].netns),
    ];
    for (name, netns) in senders {
        for to in [at("10.96.77.77", 9), at(ALL, 9)] {
            let (before, ended) = (sent_to_nodes(lab).iter().sum::<u64>(), stopped(lab));
            netns
                .inside(|| -> Result<()> {
                    let socket = UdpSocket::bind("0.0.0.0:0")?;
                    for _ in 0..DATAGRAMS {
                        // An ICMP error of an earlier one is told at the next.
                        let _ = socket.send_to(b"round", to);
                    }
                    Ok(())
                })
                .unwrap()
                .unwrap();
            let back = || sent_to_nodes(lab).iter().sum::<u64>() - before;
            eventually(PATIENCE, "all of them end at a node", || {
                let ended = stopped(lab) - ended;
                // What comes back to the node that sent it is refused by its kernel: its own address comes from elsewhere.
                let is_martian = name == "a node" && back() >= DATAGRAMS;
                ensure!(ended == DATAGRAMS || is_martian, "{name} to {to}: {ended}");
                Ok(())
            })
            .unwrap();
            let (packets, ended) = (back(), stopped(lab) - ended);
            say(&format!(
                "{DATAGRAMS} datagrams of {name} to {to}: {packets} packets from the ToR to nodes, {ended} dropped there"
            ));
            // Each once by the ToR, and what BGP says meanwhile; round in a circle it would be dozens of times.
            assert!(packets <= 2 * DATAGRAMS, "{name} to {to}: {packets}");
        }
    }
}

/// Packets that nodes have dropped because they lead nowhere.
fn stopped(lab: &Lab) -> u64 {
    let of_node = |rules: String| {
        let rule = rules.lines().find(|line| line.contains("lead nowhere"));
        let packets = rule.and_then(|rule| rule.split_whitespace().next());
        packets.map_or(0, |packets| packets.parse::<u64>().unwrap())
    };
    let rules = lab.nodes.iter().map(|node| {
        let rules = node.netns.run("iptables", &["-nvxL", "FORWARD"]);
        rules.unwrap()
    });
    rules.map(of_node).sum()
}

fn a_node_that_is_excluded_announces_cluster_ips_alone(lab: &mut Lab) {
    let path = lab.manifests().join("10-nodes.yaml");
    let nodes = std::fs::read_to_string(path).unwrap();
    let label = "    rack: r1\n    node.kubernetes.io/exclude-from-external-load-balancers: ''\n";
    lab.drop_manifest("10-nodes.yaml", &nodes.replacen("    rack: r1\n", label, 1))
        .unwrap();
    wait_for_ways(lab, ALL, &TOR[1..]);
    wait_for_ways(lab, CLUSTER_IPS, &TOR);
    says_who_announces(lab, HERE, &[("exclude-from-external", "node1")]);
    assert_eq!(ask(lab, ALL), Verdict::Answered);
    lab.drop_manifest("10-nodes.yaml", &nodes).unwrap();
    wait_for_ways(lab, ALL, &TOR);
}
