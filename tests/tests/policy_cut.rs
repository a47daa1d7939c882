//! Established flows that a change of policy denies are cut, whoever speaks; those still allowed lose nothing.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::{Result, ensure};
use tests::flow::{Flow, Kind, measure};
use tests::lab::{Lab, Options};
use tests::netns::Netns;
use tests::reach::{Transport, server_at};
use tests::require_root;
use tests::wait::{eventually, pause};

const LONG: Duration = Duration::from_secs(30);
const SOON: Duration = Duration::from_secs(5);
/// How long a packet that is not dropped may take, a retransmission (200 ms, then 400 ms) included.
const ON_ITS_WAY: Duration = Duration::from_secs(1);

const CLIENT: &str = "team/tester";
/// Of TCP; only what comes to it is denied, so that its own packets must not open the flow anew.
const WEB: &str = "shop/web";
/// Of UDP; what it sends by itself is denied as well.
const CACHE: &str = "shop/cache";

/// Only the port 8080 stays open.
const POLICY: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: web}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Ingress]
  ingress:
    - ports: [{protocol: TCP, port: 8080}, {protocol: UDP, port: 8080}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: cache}
spec:
  podSelector: {matchLabels: {app: cache}}
  policyTypes: [Ingress, Egress]
  ingress:
    - ports: [{protocol: TCP, port: 8080}, {protocol: UDP, port: 8080}]
";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Client,
    Server,
}

/// Both ends of a flow, each connected to the other.
enum Ends {
    Tcp(TcpStream, TcpStream),
    Udp(UdpSocket, UdpSocket),
}

impl Ends {
    fn say(&mut self, side: Side) {
        // That nobody hears it is the point; a refusal on the way is no error of the test.
        let _ = match (self, side) {
            (Self::Tcp(client, _), Side::Client) => client.write_all(b"x"),
            (Self::Tcp(_, server), Side::Server) => server.write_all(b"x"),
            (Self::Udp(client, _), Side::Client) => client.send(b"x").map(drop),
            (Self::Udp(_, server), Side::Server) => server.send(b"x").map(drop),
        };
    }

    fn hears(&mut self, side: Side, patience: Duration) -> bool {
        let mut byte = [0];
        let heard = match (self, side) {
            (Self::Tcp(stream, _), Side::Client) | (Self::Tcp(_, stream), Side::Server) => {
                stream.set_read_timeout(Some(patience)).unwrap();
                stream.read(&mut byte)
            }
            (Self::Udp(socket, _), Side::Client) | (Self::Udp(_, socket), Side::Server) => {
                socket.set_read_timeout(Some(patience)).unwrap();
                socket.recv(&mut byte)
            }
        };
        heard.is_ok_and(|bytes| bytes > 0)
    }
}

/// A flow that is denied by and by, and who speaks on it then.
struct Long {
    name: String,
    ends: Ends,
    speaker: Side,
}

impl Long {
    fn listener(&self) -> Side {
        match self.speaker {
            Side::Client => Side::Server,
            Side::Server => Side::Client,
        }
    }
}

fn lab(tag: &str) -> Lab {
    let options = Options::for_test(tag, env!("CARGO_BIN_EXE_portolan-demo")).unwrap();
    let mut lab = Lab::new(options).unwrap();
    lab.start_agents().unwrap();
    for (namespace, name) in [("shop", "web"), ("shop", "cache"), ("team", "tester")] {
        lab.attach(0, namespace, name).unwrap();
    }
    lab.wait_synced().unwrap();
    lab
}

/// Puts a Service's address before each server: what goes there is sent on to the pod by DNAT.
fn services(lab: &Lab) {
    for is_ipv6 in [false, true] {
        for server in [WEB, CACHE] {
            let (_, pod) = lab.place(server, is_ipv6).unwrap();
            let program = if is_ipv6 { "ip6tables" } else { "iptables" };
            let vip = vip(server, is_ipv6).to_string();
            let rule = [
                "-w",
                "-t",
                "nat",
                "-A",
                "PREROUTING",
                "-d",
                &vip,
                "-j",
                "DNAT",
            ];
            let to = ["--to-destination", &pod.to_string()];
            let node = &lab.nodes[0].netns;
            node.run(program, &[&rule[..], &to].concat()).unwrap();
        }
    }
}

fn vip(server: &str, is_ipv6: bool) -> IpAddr {
    let text = match (server, is_ipv6) {
        (WEB, false) => "10.96.0.1",
        (WEB, true) => "fd96::1",
        (_, false) => "10.96.0.2",
        (_, true) => "fd96::2",
    };
    text.parse().unwrap()
}

fn open(lab: &Lab, transport: Transport, is_ipv6: bool, by_service: bool, port: u16) -> Ends {
    let server = match transport {
        Transport::Tcp => WEB,
        Transport::Udp => CACHE,
    };
    let (from, client) = lab.place(CLIENT, is_ipv6).unwrap();
    let (at, pod) = lab.place(server, is_ipv6).unwrap();
    let ip = if by_service {
        vip(server, is_ipv6)
    } else {
        pod
    };
    let (here, to) = (SocketAddr::new(pod, port), SocketAddr::new(ip, port));
    let mut ends = match transport {
        Transport::Tcp => {
            let listener = at.inside(|| TcpListener::bind(here)).unwrap().unwrap();
            let connect = || TcpStream::connect_timeout(&to, SOON);
            let client = from.inside(connect).unwrap().unwrap();
            client.set_nodelay(true).unwrap();
            let (server, _) = listener.accept().unwrap();
            Ends::Tcp(client, server)
        }
        Transport::Udp => {
            let server = at.inside(|| UdpSocket::bind(here)).unwrap().unwrap();
            let bind = || UdpSocket::bind(SocketAddr::new(client, 0));
            let client = from.inside(bind).unwrap().unwrap();
            client.connect(to).unwrap();
            client.send(b"x").unwrap();
            server.set_read_timeout(Some(SOON)).unwrap();
            let (_, back) = server.recv_from(&mut [0]).unwrap();
            server.connect(back).unwrap();
            Ends::Udp(client, server)
        }
    };
    for (speaker, listener) in [(Side::Server, Side::Client), (Side::Client, Side::Server)] {
        ends.say(speaker);
        assert!(
            ends.hears(listener, SOON),
            "{transport} to {to}, {speaker:?}"
        );
    }
    ends
}

/// Both transports, both families, with and without a Service, either end speaking.
fn long_flows(lab: &Lab) -> Vec<Long> {
    let mut flows = Vec::new();
    let mut port = 9000;
    for transport in [Transport::Tcp, Transport::Udp] {
        for is_ipv6 in [false, true] {
            for by_service in [false, true] {
                for speaker in [Side::Client, Side::Server] {
                    port += 1;
                    flows.push(Long {
                        name: format!(
                            "{transport} IPv6: {is_ipv6}, by a Service: {by_service}, {speaker:?} speaks"
                        ),
                        ends: open(lab, transport, is_ipv6, by_service, port),
                        speaker,
                    });
                }
            }
        }
    }
    flows
}

fn assert_silent(flows: &mut [Long]) {
    for flow in flows.iter_mut() {
        flow.ends.say(flow.speaker);
    }
    pause(ON_ITS_WAY).unwrap();
    let mut heard = Vec::new();
    for flow in flows {
        let listener = flow.listener();
        if flow.ends.hears(listener, Duration::from_millis(20)) {
            heard.push(flow.name.clone());
        }
    }
    assert_eq!(heard, Vec::<String>::new(), "still heard");
}

/// Waits until the agent has counted so many cut flows.
fn wait_cut(lab: &Lab, count: u64) -> Result<()> {
    eventually(SOON, "the cut", || {
        let status = lab.nodes[0].agent.status()?;
        let cut = status["policy"]["flowsCut"].as_u64();
        ensure!(cut >= Some(count), "cut {cut:?} of {count}");
        Ok(())
    })
}

fn tracked(node: &Netns, address: IpAddr) -> Vec<String> {
    let family = if address.is_ipv4() { "ipv4" } else { "ipv6" };
    let text = node.run("conntrack", &["-L", "-f", family]).unwrap();
    let ends = ["src", "dst"].map(|end| format!("{end}={address}"));
    let of_it = |line: &&str| {
        line.split(' ')
            .any(|word| ends.iter().any(|end| word == end))
    };
    text.lines().filter(of_it).map(str::to_owned).collect()
}

/// Flows to the port that stays open, counted.
fn allowed(lab: &Lab) -> Vec<(&Netns, Flow)> {
    let mut flows = Vec::new();
    for (server, kind) in [
        (WEB, Kind::EstablishedTcp),
        (WEB, Kind::Udp),
        (CACHE, Kind::EstablishedTcp),
        (CACHE, Kind::Udp),
    ] {
        for is_ipv6 in [false, true] {
            for by_service in [false, true] {
                let (from, _) = lab.place(CLIENT, is_ipv6).unwrap();
                let (at, pod) = lab.place(server, is_ipv6).unwrap();
                let ip = if by_service {
                    vip(server, is_ipv6)
                } else {
                    pod
                };
                let flow = Flow {
                    name: format!("{} to {server} at {ip}", kind.name()),
                    kind,
                    is_allowed: true,
                    to: server_at(ip),
                    server: at.name().to_owned(),
                    rate: 20,
                };
                flows.push((from, flow));
            }
        }
    }
    flows
}

#[test]
fn flows_that_a_new_policy_denies_are_cut_and_those_still_allowed_lose_no_packet() {
    require_root!();
    let mut lab = lab("cut");
    services(&lab);
    let mut flows = long_flows(&lab);
    let denied = flows.len() as u64;
    let outcomes = measure(&allowed(&lab), Duration::from_secs(6), || {
        lab.drop_manifest("policy.yaml", POLICY)?;
        wait_cut(&lab, denied)
    })
    .unwrap();
    assert_silent(&mut flows);
    for ((_, flow), outcome) in allowed(&lab).iter().zip(&outcomes) {
        assert!(outcome.is_meaningful(), "{}: {outcome:?}", flow.name);
        assert_eq!(outcome.lost, 0, "{}: {outcome:?}", flow.name);
    }
    // What was cut was those flows and nothing else.
    let status = lab.nodes[0].agent.status().unwrap();
    assert_eq!(
        status["policy"]["flowsCut"].as_u64(),
        Some(denied),
        "{status}"
    );
    lab.wait_synced().unwrap();
    assert_silent(&mut flows);
}

#[test]
fn flows_that_a_policy_of_the_time_without_an_agent_denies_are_cut_by_the_next_one() {
    require_root!();
    let mut lab = lab("cua");
    services(&lab);
    let mut flows = long_flows(&lab);
    lab.nodes[0].agent.kill().unwrap();
    lab.drop_manifest("policy.yaml", POLICY).unwrap();
    let node = lab.node_mut(0).unwrap();
    node.agent.start(&node.netns).unwrap();
    node.agent.wait_synced().unwrap();
    wait_cut(&lab, flows.len() as u64).unwrap();
    assert_silent(&mut flows);
}

#[test]
fn rule_52_the_flows_of_a_pod_that_is_gone_are_gone_too() {
    require_root!();
    let mut lab = lab("cug");
    services(&lab);
    let flows = long_flows(&lab);
    let addresses = [false, true].map(|is_ipv6| lab.place(CACHE, is_ipv6).unwrap().1);
    let others = [false, true].map(|is_ipv6| lab.place(WEB, is_ipv6).unwrap().1);
    let node = &lab.nodes[0].netns;
    let before = others.map(|address| tracked(node, address).len());
    for address in addresses {
        // Two ends that speak, with and without a Service.
        assert_eq!(tracked(node, address).len(), 4, "{address}");
    }
    let place = lab
        .pods
        .iter()
        .position(|pod| pod.sandbox.full_name() == CACHE);
    let pod = lab.pods.remove(place.unwrap());
    let answer = lab.plugin(0).unwrap();
    let answer = answer.call("DEL", &lab.nodes[0].netns, &pod.sandbox, Some(&pod.result));
    answer.unwrap().success().unwrap();
    let node = &lab.nodes[0].netns;
    eventually(LONG, "the flows of the pod to go", || {
        let left = addresses.map(|address| tracked(node, address)).concat();
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })
    .unwrap();
    assert_eq!(others.map(|address| tracked(node, address).len()), before);
    drop(flows);
}
