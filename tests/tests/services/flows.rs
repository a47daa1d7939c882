//! Flows that outlive their endpoints: a UDP client that keeps its source port is led to who serves now, TCP is left alone.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tests::fabric::{Fabric, PATIENCE};
use tests::netns::Netns;
use tests::rack::say;
use tests::require_root;
use tests::seen::{Teller, ask_udp};
use tests::wait::eventually;

use super::{TELLS, at, start};

const PORT: u16 = 53;
const NODE_PORT: u16 = 30053;
/// Where the second server of a pod listens, and the one for connections that last.
const OTHER: u16 = 7072;
const ECHO: u16 = 7071;
const CLUSTER: [&str; 2] = ["10.96.0.53", "fd96::53"];
/// A server answers within a moment, or not at all.
const MOMENT: Duration = Duration::from_millis(200);

fn service() -> String {
    let [v4, v6] = CLUSTER;
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: flows, namespace: shop}}
spec:
  type: NodePort
  clusterIP: {v4}
  clusterIPs: [{v4}, \"{v6}\"]
  ipFamilies: [IPv4, IPv6]
  ports:
  - {{name: udp, protocol: UDP, port: {PORT}, nodePort: {NODE_PORT}}}
  - {{name: tcp, protocol: TCP, port: {PORT}}}
---
"
    )
}

/// One endpoint: who has it, and where it answers by UDP.
fn slices(node: usize, addresses: &[IpAddr], udp: u16) -> String {
    let slice = |address: &IpAddr| {
        let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
        format!(
            "apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: flows-{}, namespace: shop, labels: {{kubernetes.io/service-name: flows}}}}
addressType: {family}
ports: [{{name: tcp, protocol: TCP, port: {ECHO}}}, {{name: udp, protocol: UDP, port: {udp}}}]
endpoints: [{{addresses: [\"{address}\"], nodeName: node{node}, conditions: {{ready: true}}}}]
---
",
            family.to_lowercase()
        )
    };
    addresses.iter().map(slice).collect()
}

/// A client with one source port.
struct Client {
    who: &'static str,
    socket: UdpSocket,
    to: SocketAddr,
}

impl Client {
    fn new(who: &'static str, netns: &Netns, to: SocketAddr) -> Self {
        let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = netns.inside(|| UdpSocket::bind(any)).unwrap().unwrap();
        Self { who, socket, to }
    }

    fn is_answered(&self) -> bool {
        ask_udp(&self.socket, self.to, MOMENT).unwrap().is_some()
    }
}

fn all_are_answered(clients: &[Client], when: &str) {
    for client in clients {
        eventually(PATIENCE, &format!("{} {when}", client.who), || {
            ensure!(client.is_answered(), "no answer of {}", client.to);
            Ok(())
        })
        .unwrap();
    }
}

/// A connection that the other end answers as long as it lasts.
fn connection(lab: &Fabric) -> Result<TcpStream> {
    let server = lab.pods[1].netns();
    let listener = server.inside(|| TcpListener::bind(("0.0.0.0", ECHO)))??;
    std::thread::spawn(move || -> Result<()> {
        let (mut stream, _) = listener.accept()?;
        let mut byte = [0];
        while stream.read(&mut byte)? > 0 {
            stream.write_all(&byte)?;
        }
        Ok(())
    });
    let patience = Duration::from_secs(5);
    let stream = lab.pods[0]
        .netns()
        .inside(|| TcpStream::connect_timeout(&at(CLUSTER[0], PORT), patience))??;
    stream.set_read_timeout(Some(patience))?;
    Ok(stream)
}

fn echoes(stream: &mut TcpStream) -> Result<()> {
    stream.write_all(b"x")?;
    let mut byte = [0];
    stream.read_exact(&mut byte).context("the echo")
}

fn stale(lab: &mut Fabric) -> u64 {
    let status = lab.stations[0].agent.status().unwrap();
    status["services"]["flowsStale"].as_u64().unwrap()
}

/// Waits until so many flows were cut, and makes sure that it is no more.
fn cut(lab: &mut Fabric, expected: u64, when: &str) {
    eventually(PATIENCE, when, || {
        let stale = stale(lab);
        ensure!(stale >= expected, "{stale} of {expected} flows cut");
        Ok(())
    })
    .unwrap();
    assert_eq!(stale(lab), expected, "{when}");
}

/// Whether packets that conntrack takes for invalid are dropped.
fn drops_invalid(rules: &str) -> bool {
    let mut forward = rules
        .lines()
        .filter(|rule| rule.starts_with("-A KUBE-FORWARD"));
    forward.any(|rule| rule.contains("INVALID") && rule.ends_with("-j DROP"))
}

/// Rule 140. Without the clean-up each client would hang as long as it sends: the kernel keeps its flow.
#[test]
fn a_udp_client_that_keeps_its_port_is_led_to_who_serves_now_and_tcp_is_left_alone() {
    require_root!();
    let (mut lab, mut tellers) = start("svf");
    let node = &lab.stations[0].netns;
    node.ip("-6 route add fd96::/64 dev eth0").unwrap();
    let clients = [
        Client::new("a pod", lab.pods[0].netns(), at(CLUSTER[0], PORT)),
        Client::new("a pod by IPv6", lab.pods[0].netns(), at(CLUSTER[1], PORT)),
        Client::new("the node", node, at(CLUSTER[0], PORT)),
        Client::new("the outside", &lab.router, at("10.71.1.1", NODE_PORT)),
        // Another host's port of the same number: this flow goes through the node, and is none of ours.
        Client::new(
            "another host",
            lab.pods[0].netns(),
            at("10.71.1.2", NODE_PORT),
        ),
    ];
    let elsewhere = Teller::start(&lab.stations[1].netns, NODE_PORT).unwrap();
    let [ours @ .., other] = &clients;
    // Before there is any such Service the kernel learns of flows that lead nowhere.
    for client in ours {
        assert!(!client.is_answered(), "{}", client.who);
    }
    assert!(other.is_answered());
    let pods: Vec<Vec<IpAddr>> = lab.pods.iter().map(|pod| pod.addresses.clone()).collect();
    lab.manifest("flows.yaml", &service()).unwrap();
    lab.manifest("flows-slices.yaml", &slices(2, &pods[1], TELLS))
        .unwrap();
    all_are_answered(ours, "asks the first endpoint");
    lab.stations[0].agent.wait_synced().unwrap();
    let first = stale(&mut lab);
    // Which of them the kernel kept is its own affair: of some it refused the packet itself.
    assert!(first >= 1, "{first} flows of the time before it cut");
    // Another endpoint in its place, and the first answers no more.
    let mut stream = connection(&lab).unwrap();
    echoes(&mut stream).unwrap();
    tellers.remove(1);
    lab.manifest("flows-slices.yaml", &slices(3, &pods[2], TELLS))
        .unwrap();
    all_are_answered(ours, "asks another endpoint");
    cut(&mut lab, first + 4, "after the endpoint was replaced");
    echoes(&mut stream).unwrap();
    // Another port of the same pod.
    let other_port = Teller::start(lab.pods[2].netns(), OTHER).unwrap();
    tellers.remove(1);
    lab.manifest("flows-slices.yaml", &slices(3, &pods[2], OTHER))
        .unwrap();
    all_are_answered(ours, "asks another port");
    cut(&mut lab, first + 8, "after the port was changed");
    // Nobody is left: flows stay. And while the agent is away they go elsewhere: it looks at all when it comes.
    lab.manifest("flows-slices.yaml", "").unwrap();
    lab.stations[0].agent.wait_synced().unwrap();
    cut(&mut lab, first + 8, "while there is no endpoint");
    lab.stations[0].agent.kill().unwrap();
    let node = &lab.stations[0].netns;
    let rules = || node.run("iptables-save", &["-t", "filter"]).unwrap();
    assert!(drops_invalid(&rules()), "{}", rules());
    // Rule 141: the host says that packets out of the window are valid.
    node.sysctl("net.netfilter.nf_conntrack_tcp_be_liberal", "1")
        .unwrap();
    drop(other_port);
    let _back = Teller::start(lab.pods[1].netns(), TELLS).unwrap();
    lab.manifest("flows-slices.yaml", &slices(2, &pods[1], TELLS))
        .unwrap();
    lab.stations[0].start().unwrap();
    all_are_answered(ours, "asks an endpoint that came while the agent was away");
    cut(&mut lab, 4, "after the agent came back");
    assert!(other.is_answered());
    echoes(&mut stream).unwrap();
    let node = &lab.stations[0].netns;
    // What a rule was before goes in a quiet time.
    eventually(PATIENCE, "packets out of the window to pass", || {
        let saved = node.run("iptables-save", &["-t", "filter"])?;
        let is_served = saved.contains("-A KUBE-FORWARD");
        ensure!(is_served && !drops_invalid(&saved), "{saved}");
        Ok(())
    })
    .unwrap();
    drop(elsewhere);
    say(
        "4 clients kept their ports through 4 changes; 12 flows cut after the first, no connection",
    );
}
