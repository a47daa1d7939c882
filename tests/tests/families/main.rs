//! Clusters of IPv4 alone, of IPv6 alone and of both: every part works in each family there is, and does nothing of one that isn't.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test"
)]

mod lab;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Result, ensure};
use lab::{Family, Lab, PATIENCE, address_of};
use serde_json::{Map, Value, json};
use tests::netns::Netns;
use tests::rack::say;
use tests::reach::{Transport, Verdict, attempt, server_at};
use tests::require_root;
use tests::station::Pod;
use tests::wait::eventually;

/// Tries of each way that policy denies.
const TRIES: usize = 5;
/// The port of the node that leads to the web pod.
const HOST_PORT: u16 = 8088;
/// Every part that docs/families.md lists; each is looked at in each family.
const PARTS: [&str; 10] = [
    "CNI result",
    "pod link",
    "routes",
    "reach",
    "source address",
    "host port",
    "policy",
    "status",
    "doctor",
    "restart",
];

const POLICY: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: from-client, namespace: shop}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress: [{from: [{podSelector: {matchLabels: {app: client}}}]}]
";

#[test]
fn ipv4_alone() {
    require_root!();
    every_part("fam4", &[Family::V4]);
}

#[test]
fn ipv6_alone() {
    require_root!();
    every_part("fam6", &[Family::V6]);
}

#[test]
fn both_families() {
    require_root!();
    every_part("famd", &[Family::V4, Family::V6]);
}

#[test]
fn the_page_lists_every_part() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/families.md");
    let page = std::fs::read_to_string(page).unwrap();
    let rows = page.lines().filter_map(|line| line.strip_prefix("| "));
    let parts = rows.filter_map(|row| row.split(" | ").next());
    let parts: Vec<&str> = parts.filter(|part| *part != "part").collect();
    assert_eq!(parts, PARTS);
}

/// What was looked at.
#[derive(Default)]
struct Looked(BTreeSet<&'static str>);

impl Looked {
    fn at(&mut self, part: &'static str) {
        assert!(PARTS.contains(&part), "{part} is not in the list");
        self.0.insert(part);
    }
}

fn every_part(tag: &str, families: &[Family]) {
    let mut lab = Lab::start(tag, families).unwrap();
    for (name, node) in [("web", 1), ("client", 2), ("stranger", 2)] {
        let pod = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop, labels: {{app: {name}}}}}\nspec: {{nodeName: n{node}, containers: [{{name: c, image: c}}]}}\n"
        );
        lab.rack.manifest(&format!("{name}.yaml"), &pod).unwrap();
    }
    let mappings = json!({"runtimeConfig": {"portMappings": [{"protocol": "tcp", "hostPort": HOST_PORT, "containerPort": 8080}]}});
    lab.attach(0, "web", mappings.as_object().unwrap().clone())
        .unwrap();
    lab.attach(1, "client", Map::new()).unwrap();
    lab.attach(1, "stranger", Map::new()).unwrap();
    lab.wait_synced().unwrap();
    let mut looked = Looked::default();

    for pod in &lab.pods {
        has_just_these_families(pod, families);
        looked.at("CNI result");
        link_has_just_these_families(pod, families);
        looked.at("pod link");
    }
    for family in families {
        lab.wait_for_routes(*family).unwrap();
        own_subnet_stays_own(&lab, *family);
        looked.at("routes");
        all_reach_all(&lab, *family);
        looked.at("reach");
        seen_as_itself(&lab, *family);
        looked.at("source address");
        let to: IpAddr = family.node(1).parse().unwrap();
        answers(&lab.outside, SocketAddr::new(to, HOST_PORT));
        looked.at("host port");
    }
    lab.rack.manifest("policy.yaml", POLICY).unwrap();
    lab.wait_synced().unwrap();
    for family in families {
        only_the_client_gets_in(&lab, *family);
        looked.at("policy");
    }
    nothing_is_wrong(&lab);
    looked.at("status");
    the_doctor_finds_nothing(&lab);
    looked.at("doctor");
    a_restart_writes_nothing(&mut lab, families);
    looked.at("restart");
    for family in families {
        all_but_the_stranger_reach(&lab, *family);
    }
    assert_eq!(looked.0, BTreeSet::from(PARTS));
}

fn has_just_these_families(pod: &Pod, families: &[Family]) {
    let held: Vec<Family> = pod.addresses.iter().map(|a| Family::of(*a)).collect();
    assert_eq!(held, families, "{}", pod.result);
    let routes = pod.result["routes"].as_array().unwrap();
    let defaults = routes.iter().filter_map(|route| route["dst"].as_str());
    let defaults: BTreeSet<&str> = defaults.filter(|to| to.ends_with("/0")).collect();
    let wanted = families.iter().map(|family| match family {
        Family::V4 => "0.0.0.0/0",
        Family::V6 => "::/0",
    });
    assert_eq!(defaults, wanted.collect(), "{}", pod.result);
}

fn link_has_just_these_families(pod: &Pod, families: &[Family]) {
    for family in [Family::V4, Family::V6] {
        let flag = family.flag();
        let held = pod
            .netns()
            .ip(&format!("{flag} -o addr show dev eth0 scope global"))
            .unwrap();
        let routes = pod
            .netns()
            .ip(&format!("{flag} route show default"))
            .unwrap();
        let wanted = usize::from(families.contains(&family));
        assert_eq!(held.lines().count(), wanted, "{held}");
        assert_eq!(routes.lines().count(), wanted, "{routes}");
    }
}

/// The ToR announces each node's link to it, too: neighbours stay neighbours.
fn own_subnet_stays_own(lab: &Lab, family: Family) {
    for (number, node) in (1..).zip(&lab.nodes) {
        let neighbour = family.tor(number);
        let way = node.netns.ip(&format!("route get {neighbour}")).unwrap();
        assert!(!way.contains(" via "), "{way}");
        let other = node
            .netns
            .ip(&format!("route get {}", family.node(3 - number)))
            .unwrap();
        assert!(other.contains(&format!("via {neighbour}")), "{other}");
    }
}

fn answers(from: &Netns, to: SocketAddr) {
    let what = format!("{to} to answer {}", from.name());
    let patience = Duration::from_secs(1);
    eventually(PATIENCE, &what, || {
        for transport in [Transport::Tcp, Transport::Udp] {
            if transport == Transport::Udp && to.port() == HOST_PORT {
                continue;
            }
            let verdict = attempt(from, to, transport, patience)?;
            ensure!(verdict == Verdict::Answered, "{transport}: {verdict:?}");
        }
        Ok(())
    })
    .unwrap_or_else(|error| {
        let way = from.ip(&format!("route get {}", to.ip()));
        panic!("{error:#}\n{way:?}")
    });
}

/// Pods each other and the outside, the outside every pod, every node each pod.
fn all_reach_all(lab: &Lab, family: Family) {
    let mut ways = 0;
    for to in &lab.pods {
        let at = server_at(address_of(to, family));
        let pods = lab.pods.iter().map(Pod::netns);
        let nodes = lab.nodes.iter().map(|node| &node.netns);
        for from in pods.chain(nodes).chain([&lab.outside]) {
            answers(from, at);
            ways += 1;
        }
        answers(to.netns(), server_at(family.outside()));
        ways += 1;
    }
    assert_eq!(
        ways, 21,
        "three pods asked by three pods, two nodes and the outside, and asking it"
    );
    say(&format!("{family:?}: {ways} ways"));
}

/// The outside sees the pod's own address: nobody asked for another.
fn seen_as_itself(lab: &Lab, family: Family) {
    use std::net::{TcpListener, TcpStream};
    let at = SocketAddr::new(family.outside(), 0);
    let listener = lab
        .outside
        .inside(|| TcpListener::bind(at))
        .unwrap()
        .unwrap();
    let to = listener.local_addr().unwrap();
    for pod in &lab.pods {
        let patience = Duration::from_secs(5);
        let connect = || TcpStream::connect_timeout(&to, patience);
        let _held = pod.netns().inside(connect).unwrap().unwrap();
        let (_, from) = listener.accept().unwrap();
        assert_eq!(from.ip(), address_of(pod, family));
    }
}

fn only_the_client_gets_in(lab: &Lab, family: Family) {
    let [web, client, stranger] = &lab.pods[..] else {
        panic!("three pods")
    };
    let at = server_at(address_of(web, family));
    answers(client.netns(), at);
    for from in [stranger.netns(), &lab.outside] {
        let mut silent = 0;
        for _ in 0..TRIES {
            let verdict = attempt(from, at, Transport::Tcp, Duration::from_millis(300));
            silent += usize::from(verdict.unwrap() == Verdict::Silent);
        }
        assert_eq!(silent, TRIES, "{family:?}: {}", from.name());
    }
}

fn all_but_the_stranger_reach(lab: &Lab, family: Family) {
    answers(
        lab.pods[1].netns(),
        server_at(address_of(&lab.pods[0], family)),
    );
    answers(lab.pods[2].netns(), server_at(family.outside()));
}

fn nothing_is_wrong(lab: &Lab) {
    for node in &lab.nodes {
        let status = node.agent.status().unwrap();
        let problems = status["problems"].as_array().cloned().unwrap_or_default();
        assert_eq!(problems, Vec::<Value>::new(), "{status}");
    }
}

/// It may warn of what a lab lacks (no kubelet, no plugin installed); of networks nothing.
fn the_doctor_finds_nothing(lab: &Lab) {
    const ABOUT_THE_LAB: [&str; 4] = ["cni-plugin", "cni-config", "cni-status", "dns"];
    for node in &lab.nodes {
        let findings = node.agent.findings(&[]).unwrap();
        assert!(findings.len() > 20, "{findings:#?}");
        let bad = findings.iter().filter(|finding| {
            let check = finding["check"].as_str().unwrap();
            finding["verdict"] == "failure" && !ABOUT_THE_LAB.contains(&check)
        });
        let bad: Vec<&Value> = bad.collect();
        assert!(bad.is_empty(), "{bad:#?}");
    }
}

/// The same rules, routes and links before and after.
fn a_restart_writes_nothing(lab: &mut Lab, families: &[Family]) {
    let before = in_kernel(&lab.nodes[0].netns, families).unwrap();
    let node = &mut lab.nodes[0];
    node.agent.kill().unwrap();
    node.agent.start(&node.netns).unwrap();
    node.agent.wait_synced().unwrap();
    eventually(PATIENCE, "the same in the kernel as before", || {
        let now = in_kernel(&node.netns, families)?;
        ensure!(now == before, "{before}\n---\n{now}");
        Ok(())
    })
    .unwrap();
}

fn in_kernel(netns: &Netns, families: &[Family]) -> Result<String> {
    let mut text = String::new();
    for family in families {
        let save = match family {
            Family::V4 => "iptables-save",
            Family::V6 => "ip6tables-save",
        };
        let rules = netns.run(save, &[])?;
        let ours = rules.lines().filter(|line| line.contains("PTL-"));
        for line in ours {
            text.push_str(line.split(" [").next().unwrap_or_default());
            text.push('\n');
        }
        text.push_str(&netns.ip(&format!("{} route show proto 179", family.flag()))?);
    }
    Ok(text)
}
