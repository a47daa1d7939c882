//! Numbered rules of the specification with the real agent: replies, discovery, tunnels, lifecycle of pods, path MTU.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tests::cni::{Sandbox, addresses};
use tests::lab::{Lab, Options};
use tests::netns::Netns;
use tests::reach::{Transport, Verdict, attempt, server_at};
use tests::require_root;

const PATIENCE: Duration = Duration::from_secs(2);
const LONG: Duration = Duration::from_secs(20);
const WEB: &str = "shop/web";
const CACHE: &str = "shop/cache";
const TESTER: &str = "team/tester";

fn lab(tag: &str) -> Lab {
    let options = Options::for_test(tag, env!("CARGO_BIN_EXE_portolan-demo")).unwrap();
    Lab::new(options).unwrap()
}

/// A node with its agent and these pods.
fn one_node(tag: &str, pods: &[&str]) -> Lab {
    let mut lab = lab(tag);
    let node = lab.node_mut(0).unwrap();
    node.agent.start(&node.netns).unwrap();
    node.agent.wait_synced().unwrap();
    for pod in pods {
        let (namespace, name) = pod.split_once('/').unwrap();
        lab.attach(0, namespace, name).unwrap();
    }
    lab
}

/// Has the first node's agent take a manifest.
fn tell(lab: &mut Lab, name: &str, text: &str) {
    lab.drop_manifest(name, text).unwrap();
    lab.node_mut(0).unwrap().agent.wait_synced().unwrap();
}

fn policy(namespace: &str, app: &str, rest: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{namespace: {namespace}, name: of-{app}}}\n\
         spec:\n  podSelector: {{matchLabels: {{app: {app}}}}}\n{rest}\n"
    )
}

fn verdict(lab: &Lab, from: &str, to: &str, transport: Transport, is_ipv6: bool) -> Verdict {
    let (netns, _) = lab.place(from, is_ipv6).unwrap();
    let (_, address) = lab.place(to, is_ipv6).unwrap();
    attempt(netns, server_at(address), transport, PATIENCE).unwrap()
}

#[test]
fn rule_5_answers_need_no_rule_and_rule_43_neighbours_are_found_under_isolation() {
    require_root!();
    let mut lab = one_node("ru5", &[WEB, TESTER]);
    let only = |direction: &str, kind: &str| {
        format!("  policyTypes: [Ingress, Egress]\n  {direction}: [{{}}]\n  {kind}: []")
    };
    // The one may only be asked, the other may only ask.
    tell(
        &mut lab,
        "web.yaml",
        &policy("shop", "web", &only("ingress", "egress")),
    );
    tell(
        &mut lab,
        "tester.yaml",
        &policy("team", "tester", &only("egress", "ingress")),
    );
    for is_ipv6 in [false, true] {
        for place in [WEB, TESTER] {
            let (netns, _) = lab.place(place, is_ipv6).unwrap();
            netns.ip("neigh flush all").unwrap();
        }
        lab.nodes[0].netns.ip("neigh flush all").unwrap();
        for transport in [Transport::Tcp, Transport::Udp] {
            let there = verdict(&lab, TESTER, WEB, transport, is_ipv6);
            assert_eq!(there, Verdict::Answered, "{transport}, IPv6: {is_ipv6}");
            let back = verdict(&lab, WEB, TESTER, transport, is_ipv6);
            assert_eq!(back, Verdict::Silent, "{transport}, IPv6: {is_ipv6}");
        }
    }
    // Who may be asked by nobody is still asked by its node (rule 36): over IPv6 first from a link-local address. A
    // datagram's answer to such comes from the pod's own link-local one, so that needs another.
    let node = &lab.nodes[0].netns;
    let asked = |transport, is_ipv6| {
        let (_, address) = lab.place(TESTER, is_ipv6).unwrap();
        let probe = attempt(node, server_at(address), transport, PATIENCE).unwrap();
        assert_eq!(
            probe,
            Verdict::Answered,
            "{transport} from the node to {address}"
        );
    };
    asked(Transport::Tcp, true);
    node.ip("addr add fd00:10::2/128 dev lo nodad").unwrap();
    for is_ipv6 in [false, true] {
        asked(Transport::Tcp, is_ipv6);
        asked(Transport::Udp, is_ipv6);
    }
}

/// Which IP protocols arrive, of one packet of each sent from here to there.
fn arriving(lab: &Lab, is_ipv6: bool, protocols: &[i32]) -> Vec<i32> {
    let (from, _) = lab.place(WEB, is_ipv6).unwrap();
    let (at, address) = lab.place(TESTER, is_ipv6).unwrap();
    let domain = if is_ipv6 { Domain::IPV6 } else { Domain::IPV4 };
    let open = |netns: &Netns, protocol: i32| {
        let made = || Socket::new(domain, Type::RAW, Some(Protocol::from(protocol)));
        netns.inside(made).unwrap().unwrap()
    };
    let receivers: Vec<(i32, Socket)> = protocols
        .iter()
        .map(|protocol| (*protocol, open(at, *protocol)))
        .collect();
    for (protocol, receiver) in &receivers {
        receiver.set_read_timeout(Some(PATIENCE / 2)).unwrap();
        let to = SocketAddr::new(address, 0).into();
        open(from, *protocol).send_to(&[0x45; 40], &to).unwrap();
    }
    let heard = |(protocol, mut receiver): (i32, Socket)| {
        receiver.read(&mut [0; 100]).is_ok().then_some(protocol)
    };
    receivers.into_iter().filter_map(heard).collect()
}

#[test]
fn rule_44_no_pod_sends_one_ip_in_another_or_vxlan() {
    require_root!();
    let lab = one_node("ru44", &[WEB, TESTER]);
    for is_ipv6 in [false, true] {
        // IPv4 and IPv6 within, and one that is nothing in particular (RFC 3692).
        assert_eq!(
            arriving(&lab, is_ipv6, &[4, 41, 253]),
            [253],
            "IPv6: {is_ipv6}"
        );
        let (from, source) = lab.place(WEB, is_ipv6).unwrap();
        let (at, address) = lab.place(TESTER, is_ipv6).unwrap();
        for (port, arrives) in [(4789, false), (4790, true)] {
            let to = SocketAddr::new(address, port);
            let bind = |netns: &Netns, at| netns.inside(|| UdpSocket::bind(at)).unwrap().unwrap();
            let receiver = bind(at, to);
            receiver.set_read_timeout(Some(PATIENCE / 2)).unwrap();
            let sender = bind(from, SocketAddr::new(source, 0));
            sender.send_to(b"x", to).unwrap();
            assert_eq!(receiver.recv(&mut [0]).is_ok(), arrives, "{to}");
        }
    }
}

/// Only pods of the label `app: batch` may ask, over TCP and UDP.
const FROM_BATCH: &str = "  ingress: [{from: [{podSelector: {matchLabels: {app: batch}}}]}]";

fn batch(status: &str, addresses: &[IpAddr]) -> String {
    let ips: Vec<String> = addresses
        .iter()
        .map(|ip| format!("{{ip: '{ip}'}}"))
        .collect();
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{namespace: shop, name: batch, labels: {{app: batch}}{status}\n\
         spec: {{nodeName: node2, containers: [{{name: c, image: c}}]}}\n\
         status: {{phase: PHASE, podIPs: [{}]}}\n",
        ips.join(", ")
    )
}

#[test]
fn rule_45_the_address_of_a_finished_pod_is_anothers_and_rule_46_a_terminating_one_keeps_its_own() {
    require_root!();
    let mut lab = lab("ru45");
    lab.start_agents().unwrap();
    lab.attach(0, "shop", "web").unwrap();
    lab.attach(1, "team", "client").unwrap();
    lab.wait_synced().unwrap();
    tell(&mut lab, "web.yaml", &policy("shop", "web", FROM_BATCH));
    let (_, client) = lab.place("team/client", false).unwrap();
    let running = batch("}", &[client]);
    let terminating = batch(", deletionTimestamp: '2026-01-01T00:00:00Z'}", &[client]);
    for (text, phase, wanted) in [
        (&running, "Succeeded", Verdict::Silent),
        (&running, "Running", Verdict::Answered),
        (&running, "Failed", Verdict::Silent),
        (&terminating, "Running", Verdict::Answered),
        (&terminating, "Succeeded", Verdict::Silent),
    ] {
        tell(&mut lab, "batch.yaml", &text.replace("PHASE", phase));
        for transport in [Transport::Tcp, Transport::Udp] {
            let found = verdict(&lab, "team/client", WEB, transport, false);
            assert_eq!(found, wanted, "{transport}, {phase}:\n{text}");
        }
    }
}

#[test]
fn rule_47_a_late_del_of_the_pod_before_takes_nothing_from_the_new_one_of_its_name() {
    require_root!();
    let mut lab = one_node("ru47", &[WEB, CACHE, TESTER]);
    let from_cache = FROM_BATCH.replace("batch", "cache");
    tell(&mut lab, "web.yaml", &policy("shop", "web", &from_cache));
    let old = lab.pods.remove(0);
    // The new one is attached while the old one is still there, and the old one goes afterwards.
    lab.attach(0, "shop", "web").unwrap();
    let plugin = lab.plugin(0).unwrap();
    let node = &lab.nodes[0].netns;
    let del = plugin.call("DEL", node, &old.sandbox, Some(&old.result));
    del.unwrap().success().unwrap();
    lab.node_mut(0).unwrap().agent.wait_synced().unwrap();
    for is_ipv6 in [false, true] {
        for (from, wanted) in [(CACHE, Verdict::Answered), (TESTER, Verdict::Silent)] {
            let found = verdict(&lab, from, WEB, Transport::Tcp, is_ipv6);
            assert_eq!(found, wanted, "{from}, IPv6: {is_ipv6}");
        }
    }
}

#[test]
fn rule_35_a_pod_of_another_node_sees_the_pods_own_address() {
    require_root!();
    let mut lab = lab("ru35");
    lab.start_agents().unwrap();
    lab.attach(0, "shop", "web").unwrap();
    lab.attach(1, "team", "client").unwrap();
    lab.wait_synced().unwrap();
    let (web, server) = lab.place(WEB, false).unwrap();
    let (client, address) = lab.place("team/client", false).unwrap();
    let bind = || TcpListener::bind((server, 9100));
    let listener = web.inside(bind).unwrap().unwrap();
    let connect = || TcpStream::connect_timeout(&(server, 9100).into(), PATIENCE);
    client.inside(connect).unwrap().unwrap();
    let (_, seen) = listener.accept().unwrap();
    assert_eq!(seen.ip(), address);
}

/// A TCP header with these flags, from a port to the server's; its checksum right or wrong.
fn segment(from: Ipv4Addr, to: Ipv4Addr, port: u16, flags: u8, is_right: bool) -> Vec<u8> {
    let mut bytes = port.to_be_bytes().to_vec();
    bytes.extend(8080_u16.to_be_bytes());
    bytes.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    let head = [from.octets(), to.octets(), [0, 6, 0, 20]].concat();
    let words = head.chunks(2).chain(bytes.chunks(2));
    let mut sum: u32 = words
        .map(|word| u32::from(word[0]) << 8 | u32::from(word[1]))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let sum = !u16::try_from(sum).unwrap() ^ u16::from(!is_right);
    bytes[16..18].copy_from_slice(&sum.to_be_bytes());
    bytes
}

/// The ports from which a segment arrives at the server: an ACK of no connection, a SYN with a wrong checksum, a SYN.
fn heard_segments(lab: &Lab) -> Vec<u16> {
    let (from, IpAddr::V4(source)) = lab.place(TESTER, false).unwrap() else {
        panic!("asked for IPv4");
    };
    let (at, IpAddr::V4(server)) = lab.place(WEB, false).unwrap() else {
        panic!("asked for IPv4");
    };
    let open = || Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::TCP));
    let mut receiver = at.inside(open).unwrap().unwrap();
    receiver.set_read_timeout(Some(PATIENCE / 2)).unwrap();
    let sender = from.inside(open).unwrap().unwrap();
    for (port, flags, is_right) in [(4001, 0x10, true), (4002, 0x02, false), (4003, 0x02, true)] {
        let bytes = segment(source, server, port, flags, is_right);
        sender
            .send_to(&bytes, &SocketAddr::from((server, 0)).into())
            .unwrap();
    }
    let mut heard = Vec::new();
    let mut buffer = [0; 100];
    while receiver.read(&mut buffer).is_ok() {
        heard.push(u16::from_be_bytes([buffer[20], buffer[21]]));
    }
    heard.sort_unstable();
    heard.dedup();
    heard
}

#[test]
fn rule_54_segments_of_no_connection_and_broken_ones_reach_open_pods_only() {
    require_root!();
    let mut lab = one_node("ru54", &[WEB, TESTER]);
    assert_eq!(heard_segments(&lab), [4001, 4002, 4003]);
    let rest = "  ingress: [{ports: [{port: 8080}]}]";
    tell(&mut lab, "web.yaml", &policy("shop", "web", rest));
    lab.nodes[0].netns.run("conntrack", &["-F"]).unwrap();
    assert_eq!(heard_segments(&lab), [4003]);
}

fn pod_with_address(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  namespace: shop\n  name: {name}\n  labels: {{app: {name}}}\n  \
         annotations: {{portolan.io/ip-addresses: '[\"10.244.1.77\", \"fd00:244:1::77\"]'}}\n\
         spec: {{nodeName: node1, containers: [{{name: c, image: c}}]}}\n"
    )
}

/// Sends a datagram from a port of a pod's address, and says whether it was echoed.
fn echoed(lab: &Lab, from: &Sandbox, source: IpAddr, port: u16) -> bool {
    let (_, web) = lab.place(WEB, source.is_ipv6()).unwrap();
    let bind = || UdpSocket::bind(SocketAddr::new(source, port));
    let socket = from.netns.inside(bind).unwrap().unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.send_to(b"x", server_at(web)).unwrap();
    socket.recv(&mut [0]).is_ok()
}

#[test]
fn rule_47_the_next_pod_of_an_address_inherits_no_right_and_no_flow() {
    require_root!();
    let mut lab = one_node("ru47b", &[WEB]);
    tell(&mut lab, "web.yaml", &policy("shop", "web", FROM_BATCH));
    tell(&mut lab, "batch.yaml", &pod_with_address("batch"));
    tell(&mut lab, "other.yaml", &pod_with_address("other"));
    lab.attach(0, "shop", "batch").unwrap();
    let first = lab.pods.pop().unwrap();
    let held = addresses(&first.result);
    assert_eq!(held.len(), 2, "{}", first.result);
    for address in &held {
        assert!(echoed(&lab, &first.sandbox, *address, 5000), "{address}");
    }
    let plugin = lab.plugin(0).unwrap();
    let node = &lab.nodes[0].netns;
    let del = plugin.call("DEL", node, &first.sandbox, Some(&first.result));
    del.unwrap().success().unwrap();
    // At once, from the same port: neither the set's old member nor the flow's entry lets it through.
    lab.attach(0, "shop", "other").unwrap();
    let second = lab.pods.pop().unwrap();
    assert_eq!(addresses(&second.result), held);
    for address in &held {
        for port in [5000, 5001] {
            let through = echoed(&lab, &second.sandbox, *address, port);
            assert!(!through, "{address} port {port}");
        }
    }
}

/// IPv6 on the way to the host outside, and a last link that is narrower than the others.
fn narrow_way_out(lab: &Lab) {
    let node = &lab.nodes[0].netns;
    for (netns, words) in [
        (&lab.tor, "addr add fd00:192::1/64 dev outside nodad"),
        (&lab.tor, "addr add fd00:10::1/64 dev node1 nodad"),
        (&lab.outside, "addr add fd00:192::10/64 dev eth0 nodad"),
        (&lab.outside, "route add default via fd00:192::1"),
        (node, "addr add fd00:10::2/64 dev uplink nodad"),
        (node, "route add fd00:192::/64 via fd00:10::1"),
        (&lab.tor, "route add fd00:244:1::/64 via fd00:10::2"),
        (&lab.tor, "link set outside mtu 1300"),
    ] {
        netns.ip(words).unwrap();
    }
    lab.tor.sysctl("net.ipv6.conf.all.forwarding", "1").unwrap();
}

#[test]
fn rule_53_a_router_that_needs_smaller_packets_is_heard_by_a_closed_pod() {
    require_root!();
    let mut lab = lab("ru53");
    lab.start_agents().unwrap();
    lab.attach(0, "shop", "web").unwrap();
    narrow_way_out(&lab);
    let to = "[{ipBlock: {cidr: 192.0.2.10/32}}, {ipBlock: {cidr: 'fd00:192::10/128'}}]";
    let rest = format!(
        "  policyTypes: [Ingress, Egress]\n  egress: [{{to: {to}, ports: [{{port: 9100}}]}}]"
    );
    tell(&mut lab, "web.yaml", &policy("shop", "web", &rest));
    let (web, _) = lab.place(WEB, false).unwrap();
    for outside in ["192.0.2.10:9100", "[fd00:192::10]:9100"] {
        let outside: SocketAddr = outside.parse().unwrap();
        let bind = || TcpListener::bind(outside);
        let listener = lab.outside.inside(bind).unwrap().unwrap();
        let connect = || TcpStream::connect_timeout(&outside, PATIENCE);
        let mut client = web.inside(connect).unwrap().unwrap();
        let (mut server, _) = listener.accept().unwrap();
        server.set_read_timeout(Some(LONG)).unwrap();
        client.write_all(&[7; 50_000]).unwrap();
        server.read_exact(&mut [0; 50_000]).unwrap();
        // It was the router's word that made them fit.
        let route = web.ip(&format!("route get {}", outside.ip())).unwrap();
        assert!(route.contains("mtu 1300"), "{route}");
    }
}
