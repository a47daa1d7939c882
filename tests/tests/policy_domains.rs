//! Egress by domain name, with a real dnsmasq as the cluster's DNS: what it answers can be used at once, and nothing else.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use tests::netns::Netns;
use tests::one_node::OneNode;
use tests::process::Process;
use tests::reach::{Server, Transport, Verdict, attempt, server_at};
use tests::require_root;
use tests::wait::eventually;

/// Names and addresses of each family.
const TRIES: usize = 100;
/// Addresses of one name: more than fit into 512 octets.
const BIG: usize = 40;
/// Names whose addresses nobody asked for yet.
const FRESH: usize = 1_000;
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
        - tcp: {destinationPort: {number: 53}}
    - action: Accept
      to:
        - networks: [169.254.20.10/32, "fd00:169::10/128"]
      protocols:
        - udp: {destinationPort: {number: 53}}
        - tcp: {destinationPort: {number: 53}}
    - action: Accept
      to:
        - domainNames: ["*.example.test", "*.fresh.test"]
    - action: Deny
      to:
        - networks: [0.0.0.0/0, "::/0"]
"#;

/// dnsmasq with an A and an AAAA record for each of `n0.example.test` … and for `other.test`, many for
/// `big.example.test`, and one each of a network of its own for `f0.fresh.test` …
fn dnsmasq(one: &OneNode, netns: &Netns, log: &str, listen: &[&str]) -> Process {
    let mut command = netns.command("dnsmasq");
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
    if !listen.is_empty() {
        // Else it takes no TCP by an interface without addresses.
        command.arg("--bind-interfaces");
    }
    for address in listen {
        command.arg(format!("--listen-address={address}"));
    }
    for number in 0..TRIES {
        let (v4, v6) = (address(number, false), address(number, true));
        command.arg(format!("--host-record=n{number}.example.test,{v4},{v6}"));
    }
    let (v4, v6) = (address(TRIES, false), address(TRIES, true));
    command.arg(format!("--host-record=other.test,{v4},{v6}"));
    let mut hosts = String::new();
    for is_v6 in [false, true] {
        for number in 0..BIG {
            hosts += &format!("{} big.example.test\n", address(number, is_v6));
        }
    }
    for number in 0..FRESH {
        for is_v6 in [false, true] {
            hosts += &format!("{} f{number}.fresh.test\n", fresh(number, is_v6));
        }
    }
    let file = one.folder().join(format!("{log}.hosts"));
    std::fs::write(&file, hosts).unwrap();
    command.arg(format!("--addn-hosts={}", file.display()));
    let log = one.folder().join(format!("{log}.log"));
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

/// What a name that nobody asked for yet stands for.
fn fresh(number: usize, is_v6: bool) -> IpAddr {
    let text = if is_v6 {
        format!("2001:db8:18::{:x}", number + 1)
    } else {
        format!("198.18.{}.{}", number / 250, number % 250 + 1)
    };
    text.parse().unwrap()
}

fn start(tag: &str, flags: &[&str]) -> (OneNode, Server, Vec<Process>) {
    let mut one = OneNode::start(tag, MANIFESTS, flags).unwrap();
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
    for (net, way) in [
        ("198.18.0.0/16", "192.0.2.10"),
        ("2001:db8:18::/48", "2001:db8::10"),
    ] {
        one.outside
            .ip(&format!("route add local {net} dev lo"))
            .unwrap();
        one.node.ip(&format!("route add {net} via {way}")).unwrap();
    }
    for (namespace, name) in [("kube-system", "dns"), ("app", "rogue"), ("app", "client")] {
        one.attach(namespace, name).unwrap();
    }
    one.agent.wait_synced().unwrap();
    let server = Server::start(&one.outside).unwrap();
    let resolvers = (0..2)
        .map(|pod| {
            let netns = &one.pods[pod].sandbox.netns;
            let process = dnsmasq(&one, netns, &format!("dnsmasq-{pod}"), &[]);
            answers(&one, one.pods[pod].addresses[0]);
            process
        })
        .collect();
    (one, server, resolvers)
}

/// Waits until a resolver answers the client.
fn answers(one: &OneNode, resolver: IpAddr) {
    eventually(PATIENCE * 5, "dnsmasq", || {
        match ask(&one.pods[2].sandbox.netns, resolver, "n.test", false) {
            None => Err("it does not answer"),
            Some(_) => Ok(()),
        }
    })
    .unwrap();
}

fn query(name: &str, is_v6: bool) -> Vec<u8> {
    let mut query = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        query.push(u8::try_from(label.len()).unwrap());
        query.extend(label.as_bytes());
    }
    query.extend([0, 0, if is_v6 { 28 } else { 1 }, 0, 1]);
    query
}

/// Asks a resolver for a name: the octets of its answer.
fn ask(from: &Netns, resolver: IpAddr, name: &str, is_v6: bool) -> Option<Vec<u8>> {
    let query = query(name, is_v6);
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

/// Asks by TCP.
fn ask_by_tcp(from: &Netns, resolver: IpAddr, name: &str, is_v6: bool) -> Option<Vec<u8>> {
    let query = query(name, is_v6);
    let length = u16::try_from(query.len()).unwrap().to_be_bytes();
    from.inside(|| {
        let to = SocketAddr::new(resolver, 53);
        let mut socket = TcpStream::connect_timeout(&to, PATIENCE).ok()?;
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
            .write_all(&[&length, query.as_slice()].concat())
            .ok()?;
        let mut length = [0; 2];
        socket.read_exact(&mut length).ok()?;
        let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
        socket.read_exact(&mut answer).ok()?;
        Some(answer)
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
    a_hundred_of_a_hundred("don", "nft");
}

#[test]
fn what_the_dns_answers_can_be_used_at_once_a_hundred_times_of_a_hundred_on_legacy() {
    require_root!();
    a_hundred_of_a_hundred("dol", "legacy");
}

fn a_hundred_of_a_hundred(tag: &str, back_end: &str) {
    let (one, _server, _resolvers) = start(tag, &["--iptables", back_end]);
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
        let least = u64::try_from(TRIES * (1 + usize::from(is_v6))).unwrap();
        assert!(count(&one, "held") >= least);
        assert_all_were_held(&one);
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

/// Answers of which the agent says that this became of them.
fn count(one: &OneNode, outcome: &str) -> u64 {
    let status = one.agent.status().unwrap();
    let answers = status["dns"]["answers"].as_array().unwrap();
    let found = answers.iter().find(|answer| answer[0] == outcome);
    found.unwrap()[1].as_u64().unwrap()
}

fn assert_all_were_held(one: &OneNode) {
    for outcome in ["late", "unheld", "unread", "unfollowed", "malformed"] {
        assert_eq!(count(one, outcome), 0, "{outcome}");
    }
}

fn one_address_outside(is_v6: bool) -> IpAddr {
    let text = if is_v6 { "2001:db8::10" } else { "192.0.2.10" };
    text.parse().unwrap()
}

#[test]
fn through_a_service_and_of_the_node_itself_and_by_tcp_answers_count() {
    require_root!();
    all_ways("dwn", "nft");
}

#[test]
fn through_a_service_and_of_the_node_itself_and_by_tcp_answers_count_on_legacy() {
    require_root!();
    all_ways("dwl", "legacy");
}

/// The resolver on the node, as NodeLocal DNSCache has it, and the address of the DNS's Service.
const ON_NODE: [&str; 2] = ["169.254.20.10", "fd00:169::10"];
const SERVICE: [&str; 2] = ["10.96.0.10", "fd00:96::10"];

fn all_ways(tag: &str, back_end: &str) {
    let mut flags = vec!["--iptables", back_end];
    flags.extend(
        ON_NODE
            .iter()
            .flat_map(|address| ["--dns-resolver", address]),
    );
    let (one, _server, _resolvers) = start(tag, &flags);
    let node = &one.node;
    node.ip("addr add 169.254.20.10/32 dev lo").unwrap();
    node.ip("addr add fd00:169::10/128 dev lo nodad").unwrap();
    let _on_node = dnsmasq(&one, node, "dnsmasq-node", &ON_NODE);
    answers(&one, ON_NODE[0].parse().unwrap());
    let client = &one.pods[2].sandbox.netns;
    for is_v6 in [false, true] {
        let family = usize::from(is_v6);
        let pod = one.pods[0].addresses[family];
        let on_node: IpAddr = ON_NODE[family].parse().unwrap();
        let service: IpAddr = SERVICE[family].parse().unwrap();
        let program = format!("{}-{back_end}", ["iptables", "ip6tables"][family]);
        let to = SocketAddr::new(pod, 53).to_string();
        let rule = format!(
            "-t nat -A PREROUTING -d {service} -p udp --dport 53 -j DNAT --to-destination {to}"
        );
        let words: Vec<&str> = rule.split(' ').collect();
        node.run(&program, &words).unwrap();
        // More than UDP carries: what it leaves out comes by TCP.
        let octets = ask_by_tcp(client, pod, "big.example.test", is_v6).unwrap();
        assert!(octets.len() > 512, "{}", octets.len());
        for number in 0..BIG {
            let to = address(number, is_v6);
            assert_eq!(verdict(&one, to, AT_ONCE), Verdict::Answered, "{to}");
        }
        for number in 0..150 {
            let name = format!("f{number}.fresh.test");
            let answer = match number / 50 {
                0 => ask(client, service, &name, is_v6),
                1 => ask(client, on_node, &name, is_v6),
                _ => ask_by_tcp(client, on_node, &name, is_v6),
            };
            assert!(answer.is_some(), "{name}");
            let to = fresh(number, is_v6);
            assert_eq!(verdict(&one, to, AT_ONCE), Verdict::Answered, "{name} {to}");
        }
        // As NodeLocal DNSCache has it.
        for protocol in ["udp", "tcp"] {
            for rule in [
                format!("PREROUTING -d {on_node} -p {protocol} --dport 53"),
                format!("OUTPUT -s {on_node} -p {protocol} --sport 53"),
            ] {
                let rule = format!("-t raw -A {rule} -j CT --notrack");
                let words: Vec<&str> = rule.split(' ').collect();
                node.run(&program, &words).unwrap();
            }
        }
        for number in 150..200 {
            let name = format!("f{number}.fresh.test");
            let answer = match number % 2 {
                0 => ask(client, on_node, &name, is_v6),
                _ => ask_by_tcp(client, on_node, &name, is_v6),
            };
            assert!(answer.is_some(), "{name}, untracked");
            let to = fresh(number, is_v6);
            assert_eq!(verdict(&one, to, AT_ONCE), Verdict::Answered, "{name} {to}");
        }
        assert_eq!(verdict(&one, fresh(200, is_v6), AT_ONCE), Verdict::Silent);
    }
    assert_all_were_held(&one);
}

/// Prints what holding costs: how long an answer takes to a pod whose answers are held, and to one whose are not.
#[test]
fn holding_an_answer_costs_little_and_a_new_address_one_turn_of_the_firewall() {
    require_root!();
    let (one, _server, _resolvers) = start("dwc", &[]);
    let resolver = one.pods[0].addresses[0];
    let measure = |what: &str, pod: usize, name: &dyn Fn(usize) -> String| {
        let from = &one.pods[pod].sandbox.netns;
        let mut times: Vec<Duration> = (0..FRESH)
            .map(|number| {
                let name = name(number);
                let begin = Instant::now();
                assert!(ask(from, resolver, &name, false).is_some(), "{name}");
                begin.elapsed()
            })
            .collect();
        times.sort();
        let (half, most) = (times[FRESH / 2], times[FRESH * 99 / 100]);
        println!("{what}: p50 {half:?}, p99 {most:?}, {FRESH} answers");
        half
    };
    let known = |_| "n1.example.test".to_owned();
    let unheld = measure("not held", 1, &known);
    let same = measure("held, nothing new", 2, &known);
    let new = measure("held, a new address each", 2, &|number| {
        format!("f{number}.fresh.test")
    });
    let late = count(&one, "late");
    println!("late: {late} of {}", 2 * FRESH);
    assert!(unheld < PATIENCE && same < PATIENCE && new < PATIENCE / 4);
}

#[test]
fn an_answer_of_a_resolver_that_is_not_listed_or_was_not_asked_for_does_not_count() {
    require_root!();
    let (one, _server, _resolvers) = start("dor", &[]);
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
        // At once: not after the kernel has looked whether others have it.
        let rest = if is_v6 {
            "128 dev lo nodad"
        } else {
            "32 dev lo"
        };
        from.ip(&format!("addr add {dns}/{rest}")).unwrap();
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
    let (mut one, _server, _resolvers) = start("dok", &[]);
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
