//! Egress by domain name, with a real dnsmasq as the cluster's DNS: what it answers can be used at once, and nothing else.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use tests::netns::Netns;
use tests::one_node::OneNode;
use tests::process::Process;
use tests::reach::{Server, Transport, Verdict, attempt, server_at};
use tests::require_root;
use tests::wait::eventually;

/// Names and addresses of each family.
const TRIES: usize = 100;
/// A SYN that is lost comes again after a second.
const AT_ONCE: Duration = Duration::from_millis(900);
const PATIENCE: Duration = Duration::from_secs(2);
const MANIFESTS: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: kube-system, labels: {name: kube-system}}
---
apiVersion: v1
kind: Namespace
metadata: {name: app, labels: {name: app}}
---
apiVersion: v1
kind: Pod
metadata: {namespace: kube-system, name: dns, labels: {k8s-app: kube-dns}}
spec: {nodeName: node1, containers: [{name: a, image: a}]}
---
apiVersion: v1
kind: Pod
metadata: {namespace: app, name: rogue, labels: {app: rogue}}
spec: {nodeName: node1, containers: [{name: a, image: a}]}
---
apiVersion: v1
kind: Pod
metadata: {namespace: app, name: client, labels: {app: client}}
spec: {nodeName: node1, containers: [{name: a, image: a}]}
---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: by-name}
spec:
  tier: Admin
  priority: 1
  subject:
    pods:
      namespaceSelector: {matchLabels: {name: app}}
      podSelector: {matchLabels: {app: client}}
  egress:
    - action: Accept
      to:
        - pods: {namespaceSelector: {}, podSelector: {}}
      protocols:
        - udp: {destinationPort: {number: 53}}
    - action: Accept
      to:
        - domainNames: ["*.example.test"]
    - action: Deny
      to:
        - networks: [0.0.0.0/0, "::/0"]
"#;

/// dnsmasq with an A and an AAAA record for each of `n0.example.test` … and for `other.test`.
fn dnsmasq(one: &OneNode, pod: usize) -> Process {
    let mut command = one.pods[pod].sandbox.netns.command("dnsmasq");
    let options = [
        "-k",
        "-C",
        "/dev/null",
        "-R",
        "-h",
        "--user=root",
        "--pid-file=",
        "-p",
        "53",
    ];
    command.args(options);
    for number in 0..TRIES {
        let (v4, v6) = (address(number, false), address(number, true));
        command.arg(format!("--host-record=n{number}.example.test,{v4},{v6}"));
    }
    let (v4, v6) = (address(TRIES, false), address(TRIES, true));
    command.arg(format!("--host-record=other.test,{v4},{v6}"));
    let log = one.folder().join(format!("dnsmasq-{pod}.log"));
    Process::start("dnsmasq", command, &log).unwrap()
}

fn address(number: usize, is_v6: bool) -> IpAddr {
    let text = if is_v6 {
        format!("2001:db8::{:x}", 0x100 + number)
    } else {
        format!("192.0.2.{}", 100 + number)
    };
    text.parse().unwrap()
}

fn start(tag: &str) -> (OneNode, Server, Vec<Process>) {
    let mut one = OneNode::start(tag, MANIFESTS, &[]).unwrap();
    for number in 0..=TRIES {
        for (is_v6, length) in [(false, "24"), (true, "64 nodad")] {
            let words = length.split_once(' ').map_or((length, ""), |words| words);
            let address = address(number, is_v6);
            one.outside
                .ip(&format!(
                    "addr add {address}/{} dev eth0 {}",
                    words.0, words.1
                ))
                .unwrap();
        }
    }
    for (namespace, name) in [("kube-system", "dns"), ("app", "rogue"), ("app", "client")] {
        one.attach(namespace, name).unwrap();
    }
    one.agent.wait_synced().unwrap();
    let server = Server::start(&one.outside).unwrap();
    let resolvers = vec![dnsmasq(&one, 0), dnsmasq(&one, 1)];
    for pod in 0..2 {
        eventually(PATIENCE * 5, "dnsmasq", || {
            let at = one.pods[pod].addresses[0];
            let known = ask(&one.pods[2].sandbox.netns, at, "n.test", false);
            if known.is_none() {
                Err("it does not answer")
            } else {
                Ok(())
            }
        })
        .unwrap();
    }
    (one, server, resolvers)
}

/// Asks a resolver for a name: the octets of its answer.
fn ask(from: &Netns, resolver: IpAddr, name: &str, is_v6: bool) -> Option<Vec<u8>> {
    let mut query = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        query.push(u8::try_from(label.len()).unwrap());
        query.extend(label.as_bytes());
    }
    query.extend([0, 0, if is_v6 { 28 } else { 1 }, 0, 1]);
    from.inside(|| {
        let any = if resolver.is_ipv4() {
            "0.0.0.0:0"
        } else {
            "[::]:0"
        };
        let socket = UdpSocket::bind(any).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
            .send_to(&query, SocketAddr::new(resolver, 53))
            .unwrap();
        let mut buffer = [0; 512];
        let (length, _) = socket.recv_from(&mut buffer).ok()?;
        Some(buffer[..length].to_vec())
    })
    .unwrap()
}

fn verdict(one: &OneNode, to: IpAddr, patience: Duration) -> Verdict {
    let from = &one.pods[2].sandbox.netns;
    attempt(from, server_at(to), Transport::Tcp, patience).unwrap()
}

#[test]
fn what_the_dns_answers_can_be_used_at_once_a_hundred_times_of_a_hundred() {
    require_root!();
    let (one, _server, _resolvers) = start("dom");
    let client = &one.pods[2].sandbox.netns;
    for is_v6 in [false, true] {
        let resolver = one.pods[0].addresses[usize::from(is_v6)];
        let mut slowest = Duration::ZERO;
        for number in 0..TRIES {
            let name = format!("n{number}.example.test");
            let begin = Instant::now();
            assert!(ask(client, resolver, &name, is_v6).is_some(), "{name}");
            slowest = slowest.max(begin.elapsed());
            let to = address(number, is_v6);
            assert_eq!(verdict(&one, to, AT_ONCE), Verdict::Answered, "{name} {to}");
        }
        assert!(slowest < PATIENCE, "{slowest:?}");
        let status = one.agent.status().unwrap();
        let count = |outcome: &str| {
            let answers = status["dns"]["answers"].as_array().unwrap();
            let found = answers.iter().find(|answer| answer[0] == outcome);
            found.unwrap()[1].as_u64().unwrap()
        };
        let least = u64::try_from(TRIES * (1 + usize::from(is_v6))).unwrap();
        assert!(count("held") >= least, "{}", status["dns"]);
        assert_eq!(count("late") + count("unheld") + count("unread"), 0);
        // A name that no policy gives, and an address that nobody asked for.
        assert!(ask(client, resolver, "other.test", is_v6).is_some());
        assert_eq!(
            verdict(&one, address(TRIES, is_v6), AT_ONCE),
            Verdict::Silent
        );
        assert_eq!(
            verdict(&one, one_address_outside(is_v6), AT_ONCE),
            Verdict::Silent
        );
    }
}

fn one_address_outside(is_v6: bool) -> IpAddr {
    let text = if is_v6 { "2001:db8::10" } else { "192.0.2.10" };
    text.parse().unwrap()
}

#[test]
fn an_answer_of_a_resolver_that_is_not_listed_or_was_not_asked_for_does_not_count() {
    require_root!();
    let (one, _server, _resolvers) = start("dor");
    let client = &one.pods[2].sandbox.netns;
    for is_v6 in [false, true] {
        let family = usize::from(is_v6);
        let (dns, rogue) = (one.pods[0].addresses[family], one.pods[1].addresses[family]);
        let answer = ask(client, rogue, "n0.example.test", is_v6).unwrap();
        assert_eq!(
            verdict(&one, address(0, is_v6), AT_ONCE),
            Verdict::Silent,
            "not listed"
        );
        // What nobody asked for, from another pod, under its own address and the resolver's.
        let to = SocketAddr::new(one.pods[2].addresses[family], 40_000);
        let from = &one.pods[1].sandbox.netns;
        let length = if is_v6 { 128 } else { 32 };
        from.ip(&format!("addr add {dns}/{length} dev lo")).unwrap();
        for source in [rogue, dns] {
            let octets = answer.clone();
            let send = move || {
                // The rogue's own dnsmasq holds port 53 of the address that it has.
                let socket = socket_at(source);
                socket.send_to(&octets, to).unwrap();
            };
            from.inside(send).unwrap();
        }
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!(
            verdict(&one, address(0, is_v6), AT_ONCE),
            Verdict::Silent,
            "spoofed"
        );
    }
}

/// Port 53 of an address, beside whoever has it.
fn socket_at(source: IpAddr) -> UdpSocket {
    use socket2::{Domain, Socket, Type};
    let address = SocketAddr::new(source, 53);
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.set_reuse_port(true).unwrap();
    match socket.bind(&address.into()) {
        Ok(()) => socket.into(),
        // Taken: any port will do then, for an answer nobody asked for.
        Err(_) => UdpSocket::bind((source, 0)).unwrap(),
    }
}

#[test]
fn with_the_agent_killed_the_dns_goes_on_and_known_addresses_stay_also_after_a_restart() {
    require_root!();
    let (mut one, _server, _resolvers) = start("dok");
    let resolver = |one: &OneNode, is_v6| one.pods[0].addresses[usize::from(is_v6)];
    for is_v6 in [false, true] {
        let at = resolver(&one, is_v6);
        assert!(ask(&one.pods[2].sandbox.netns, at, "n1.example.test", is_v6).is_some());
        assert_eq!(verdict(&one, address(1, is_v6), AT_ONCE), Verdict::Answered);
    }
    one.agent.kill().unwrap();
    for is_v6 in [false, true] {
        let at = resolver(&one, is_v6);
        assert!(
            ask(&one.pods[2].sandbox.netns, at, "n2.example.test", is_v6).is_some(),
            "the DNS goes on"
        );
        assert_eq!(
            verdict(&one, address(1, is_v6), AT_ONCE),
            Verdict::Answered,
            "known"
        );
        assert_eq!(
            verdict(&one, address(2, is_v6), AT_ONCE),
            Verdict::Silent,
            "not learned"
        );
    }
    one.agent.start(&one.node).unwrap();
    one.agent.wait_synced().unwrap();
    for is_v6 in [false, true] {
        assert_eq!(
            verdict(&one, address(1, is_v6), AT_ONCE),
            Verdict::Answered,
            "adopted"
        );
        let at = resolver(&one, is_v6);
        assert!(ask(&one.pods[2].sandbox.netns, at, "n2.example.test", is_v6).is_some());
        assert_eq!(
            verdict(&one, address(2, is_v6), AT_ONCE),
            Verdict::Answered,
            "learned again"
        );
    }
}
