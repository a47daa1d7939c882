//! Tracked flows of a real kernel, each test in a namespace of its own; the `conntrack` tool must see the same.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "a test"
)]

mod lab;

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};

use lab::{in_netns, ip, run};
use routes::conntrack::{
    ConntrackEntry, Deleted, Family, Filter, Place, Ports, TcpState, Tuple, delete, list,
};
use socket2::{Domain, Protocol, Socket, Type};

const POD_V4: &str = "10.0.0.2";
const POD_V6: &str = "fd00::2";

/// A loopback with a client's and a pod's address, Services' VIPs with DNAT to the pod, and tracking on.
fn cluster() {
    // Without `nodad` an IPv6 address is no source for a route until the kernel's worker has been at it.
    for address in [
        "10.0.0.1/32",
        "10.0.0.2/32",
        "fd00::1/128 nodad",
        "fd00::2/128 nodad",
    ] {
        ip(&format!("addr add dev lo {address}"));
    }
    ip("route add 10.96.0.0/16 dev lo src 10.0.0.1");
    ip("route add fd96::/64 dev lo src fd00::1");
    for (program, vip, pod) in [
        ("iptables", "10.96.0.1", "10.0.0.2:8080"),
        ("ip6tables", "fd96::1", "[fd00::2]:8080"),
    ] {
        for protocol in ["tcp", "udp"] {
            let rule = format!(
                "-w -t nat -A OUTPUT -d {vip} -p {protocol} --dport 80 -j DNAT --to-destination {pod}"
            );
            run(program, &rule);
        }
        run(program, "-w -A INPUT -m conntrack --ctstate ESTABLISHED");
    }
}

fn at(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A connection from an address that both ends hold open.
fn connected(from: &str, to: &str) -> (TcpStream, TcpStream) {
    let pod = if from.contains(':') { POD_V6 } else { POD_V4 };
    let listener = TcpListener::bind(SocketAddr::new(at(pod), 8080)).unwrap();
    let mut client = TcpStream::connect((at(to), 80)).unwrap();
    let (mut server, _) = listener.accept().unwrap();
    client.write_all(b"x").unwrap();
    server.read_exact(&mut [0]).unwrap();
    (client, server)
}

fn exchanged(from: &str, to: &str) -> (UdpSocket, UdpSocket) {
    let pod = if from.contains(':') { POD_V6 } else { POD_V4 };
    let server = UdpSocket::bind((at(pod), 8080)).unwrap();
    let client = UdpSocket::bind((at(from), 0)).unwrap();
    client.connect((at(to), 80)).unwrap();
    client.send(b"x").unwrap();
    let (_, back) = server.recv_from(&mut [0]).unwrap();
    server.send_to(b"y", back).unwrap();
    client.recv(&mut [0]).unwrap();
    (client, server)
}

/// Sends an echo request to the pod's address of either family, which the kernel answers (of ICMPv6 it adds the sum
/// itself), and a packet of a protocol that it knows nothing of.
fn echo() {
    for (domain, protocol, to, message) in [
        (
            Domain::IPV4,
            Protocol::ICMPV4,
            POD_V4,
            [8, 0, 0xe5, 0xca, 0x12, 0x34, 0, 1],
        ),
        (
            Domain::IPV6,
            Protocol::ICMPV6,
            POD_V6,
            [128, 0, 0, 0, 0x12, 0x34, 0, 1],
        ),
        (Domain::IPV4, Protocol::from(253), POD_V4, [0; 8]),
    ] {
        let socket = Socket::new(domain, Type::RAW, Some(protocol)).unwrap();
        let to = SocketAddr::new(at(to), 0);
        socket.send_to(&message, &to.into()).unwrap();
    }
}

async fn all() -> Vec<ConntrackEntry> {
    list(Filter::default()).await.unwrap()
}

async fn of_protocol(protocol: u8) -> Vec<ConntrackEntry> {
    let mut entries = all().await;
    entries.retain(|entry| entry.protocol == protocol);
    entries
}

/// What both tell of an entry, in the tool's words.
fn told(entry: &ConntrackEntry) -> String {
    let mut out = entry.protocol.to_string();
    if let Some(TcpState(state)) = entry.tcp_state.filter(|_| entry.protocol == 6) {
        let names = [
            "NONE",
            "SYN_SENT",
            "SYN_RECV",
            "ESTABLISHED",
            "FIN_WAIT",
            "CLOSE_WAIT",
            "LAST_ACK",
            "TIME_WAIT",
            "CLOSE",
        ];
        write!(out, " {}", names[usize::from(state)]).unwrap();
    }
    for Tuple {
        source,
        destination,
        ports,
        ..
    } in [&entry.original, &entry.reply]
    {
        write!(out, " src={source} dst={destination}").unwrap();
        match ports {
            Ports::Ports {
                source,
                destination,
            } => write!(out, " sport={source} dport={destination}").unwrap(),
            Ports::Icmp { id, kind, code } => {
                write!(out, " type={kind} code={code} id={id}").unwrap();
            }
            Ports::None => {}
        }
    }
    write!(out, " mark={}", entry.mark).unwrap();
    if entry.zone != 0 {
        write!(out, " zone={}", entry.zone).unwrap();
    }
    write!(out, " id={}", entry.id).unwrap();
    out
}

fn told_by_the_tool() -> Vec<String> {
    let mut lines = Vec::new();
    for family in ["ipv4", "ipv6"] {
        let text = run("conntrack", &format!("-L -f {family} -o id"));
        for line in text.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let mut kept = vec![words[1]];
            if words[1] == "6" {
                kept.push(words[3]);
            }
            let known = words[3..].iter().filter(|word| {
                let key = word.split_once('=').map_or("", |(key, _)| key);
                [
                    "src", "dst", "sport", "dport", "type", "code", "id", "mark", "zone",
                ]
                .contains(&key)
            });
            kept.extend(known.copied());
            lines.push(kept.join(" "));
        }
    }
    lines.sort();
    lines
}

async fn assert_same_as_the_tool() -> usize {
    let mut ours: Vec<String> = all().await.iter().map(told).collect();
    ours.sort();
    assert_eq!(ours, told_by_the_tool());
    ours.len()
}

/// Makes an entry that needs no packet.
fn insert(words: &str) {
    run("conntrack", &format!("-I {words} --timeout 300"));
}

#[test]
fn flows_of_every_protocol_and_both_families_are_listed_as_the_tool_lists_them() {
    in_netns(|| async {
        cluster();
        let tcp = [
            connected("10.0.0.1", "10.96.0.1"),
            connected("fd00::1", "fd96::1"),
        ];
        let udp = [
            exchanged("10.0.0.1", "10.96.0.1"),
            exchanged("fd00::1", "fd96::1"),
        ];
        echo();
        insert(
            "-p sctp --src 10.0.0.1 --dst 10.0.0.2 --sport 5 --dport 6 --state ESTABLISHED --orig-vtag 1 --reply-vtag 2",
        );
        insert(
            "-p sctp --src fd00::1 --dst fd00::2 --sport 5 --dport 6 --state ESTABLISHED --orig-vtag 1 --reply-vtag 2",
        );
        insert(
            "-p tcp --src 10.0.0.1 --dst 10.0.0.2 --sport 7 --dport 8 --state TIME_WAIT --zone 9",
        );
        insert("-p udp --src 10.0.0.1 --dst 10.0.0.2 --sport 7 --dport 8 --mark 42");
        assert_eq!(assert_same_as_the_tool().await, 11);

        for protocol in [6, 17] {
            for (family, vip, pod) in [
                (Family::V4, "10.96.0.1", POD_V4),
                (Family::V6, "fd96::1", POD_V6),
            ] {
                let found = of_protocol(protocol).await;
                let mut through = found.iter().filter(|entry| {
                    entry.family() == family && entry.original.destination == at(vip)
                });
                let entry = through.next().unwrap();
                assert_eq!(entry.reply.source, at(pod));
                assert!(matches!(
                    entry.original.ports,
                    Ports::Ports {
                        destination: 80,
                        ..
                    }
                ));
                assert!(matches!(
                    entry.reply.ports,
                    Ports::Ports { source: 8080, .. }
                ));
                assert!(entry.status.is_destination_changed() && entry.status.is_answered());
                assert!(!entry.status.is_source_changed());
                let state = (protocol == 6).then_some(TcpState::ESTABLISHED);
                assert_eq!(entry.tcp_state, state);
            }
        }
        drop((tcp, udp));
    });
}

#[test]
fn a_filter_gives_the_entries_with_that_address_at_that_place_and_no_others() {
    in_netns(|| async {
        cluster();
        let held = [
            exchanged("10.0.0.1", "10.96.0.1"),
            exchanged("fd00::1", "fd96::1"),
        ];
        insert("-p udp --src 10.0.0.2 --dst 10.0.0.1 --sport 7 --dport 8");
        insert("-p udp --src fd00::2 --dst fd00::1 --sport 7 --dport 8");
        let everything = all().await;
        assert_eq!(everything.len(), 4);
        for address in [
            "10.0.0.1",
            POD_V4,
            "10.96.0.1",
            "fd00::1",
            POD_V6,
            "fd96::1",
            "10.0.0.9",
        ] {
            for place in Place::ALL {
                let filter = Filter {
                    family: None,
                    address: Some((place, at(address))),
                };
                let mut expected = everything.clone();
                expected.retain(|entry| entry.address(place) == at(address));
                let found = list(filter).await.unwrap();
                let mut ids: Vec<u32> = found.iter().map(|entry| entry.id).collect();
                let mut wanted: Vec<u32> = expected.iter().map(|entry| entry.id).collect();
                ids.sort_unstable();
                wanted.sort_unstable();
                assert_eq!(ids, wanted, "{address} as {place:?}");
            }
        }
        for family in [Family::V4, Family::V6] {
            let filter = Filter {
                family: Some(family),
                address: None,
            };
            let found = list(filter).await.unwrap();
            assert_eq!(found.len(), 2);
            assert!(found.iter().all(|entry| entry.family() == family));
        }
        drop(held);
    });
}

#[test]
fn exactly_the_one_of_two_like_flows_is_deleted() {
    in_netns(|| async {
        cluster();
        for (protocol, more) in [
            ("tcp", "--state ESTABLISHED"),
            ("udp", ""),
            ("sctp", "--state ESTABLISHED --orig-vtag 1 --reply-vtag 2"),
        ] {
            for (source, destination) in [("10.0.0.1", POD_V4), ("fd00::1", POD_V6)] {
                for port in [1001, 1002] {
                    insert(&format!(
                        "-p {protocol} --src {source} --dst {destination} --sport {port} --dport 80 {more}"
                    ));
                }
            }
        }
        for (source, destination, family) in
            [("10.0.0.1", POD_V4, "icmp"), ("fd00::1", POD_V6, "icmpv6")]
        {
            let kind = if family == "icmp" { 8 } else { 128 };
            for id in [1001, 1002] {
                insert(&format!(
                    "-p {family} --src {source} --dst {destination} --{family}-type {kind} --{family}-code 0 --{family}-id {id}"
                ));
            }
        }
        let is_first = |entry: &ConntrackEntry| {
            matches!(
                entry.original.ports,
                Ports::Ports { source: 1001, .. } | Ports::Icmp { id: 1001, .. }
            )
        };
        let (firsts, seconds): (Vec<_>, Vec<_>) = all().await.into_iter().partition(is_first);
        assert_eq!((firsts.len(), seconds.len()), (8, 8));
        let outcome = delete(firsts.clone()).await.unwrap();
        assert_eq!(
            outcome,
            Deleted {
                deleted: 8,
                gone: 0
            }
        );
        let mut left: Vec<String> = all().await.iter().map(told).collect();
        let mut expected: Vec<String> = seconds.iter().map(told).collect();
        left.sort();
        expected.sort();
        assert_eq!(left, expected);
        assert_same_as_the_tool().await;
        // Those already gone are no error.
        let outcome = delete(firsts).await.unwrap();
        assert_eq!(
            outcome,
            Deleted {
                deleted: 0,
                gone: 8
            }
        );
    });
}

#[test]
fn a_newer_flow_with_the_same_tuple_and_one_in_another_zone_stay() {
    in_netns(|| async {
        cluster();
        let words = "-p udp --src 10.0.0.1 --dst 10.0.0.2 --sport 7 --dport 8";
        insert(words);
        insert(&format!("{words} --zone 5"));
        let mut entries = all().await;
        entries.sort_by_key(|entry| entry.zone);
        assert_eq!(entries.iter().map(|e| e.zone).collect::<Vec<_>>(), [0, 5]);
        let mut older = entries[0].clone();
        older.id ^= 1;
        let outcome = delete(vec![older]).await.unwrap();
        assert_eq!(
            outcome,
            Deleted {
                deleted: 0,
                gone: 1
            }
        );
        let outcome = delete(vec![entries[1].clone()]).await.unwrap();
        assert_eq!(
            outcome,
            Deleted {
                deleted: 1,
                gone: 0
            }
        );
        assert_eq!(
            all().await.iter().map(told).collect::<Vec<_>>(),
            [told(&entries[0])]
        );
        assert_eq!(delete(Vec::new()).await.unwrap(), Deleted::default());
        assert_same_as_the_tool().await;
    });
}

#[test]
fn a_nated_flow_is_deleted_by_what_the_list_told_and_its_next_packet_makes_a_new_one() {
    in_netns(|| async {
        cluster();
        for (client, vip) in [("10.0.0.1", "10.96.0.1"), ("fd00::1", "fd96::1")] {
            let (socket, server) = exchanged(client, vip);
            let found = of_protocol(17).await;
            assert_eq!(found.len(), 1);
            assert_eq!(delete(found.clone()).await.unwrap().deleted, 1);
            assert!(of_protocol(17).await.is_empty());
            socket.send(b"z").unwrap();
            server.recv_from(&mut [0]).unwrap();
            let again = of_protocol(17).await;
            assert_eq!(again.len(), 1);
            assert_eq!(again[0].original, found[0].original);
            delete(again).await.unwrap();
        }
    });
}

#[test]
fn a_deletion_of_thousands_goes_in_few_sends_and_leaves_the_rest() {
    in_netns(|| async {
        cluster();
        let sockets: Vec<UdpSocket> = (0..3)
            .map(|_| UdpSocket::bind("10.0.0.1:0").unwrap())
            .collect();
        for socket in &sockets {
            for port in 2000..3000 {
                // Nobody listens there; what is tracked is the first packet.
                let _ = socket.send_to(b"x", (POD_V4, port));
            }
        }
        let found = of_protocol(17).await;
        assert_eq!(found.len(), 3000);
        let (go, stay): (Vec<_>, Vec<_>) = found.into_iter().partition(|entry| {
            matches!(entry.original.ports, Ports::Ports { destination, .. } if destination % 2 == 0)
        });
        let outcome = delete(go).await.unwrap();
        assert_eq!(
            outcome,
            Deleted {
                deleted: 1500,
                gone: 0
            }
        );
        assert_eq!(of_protocol(17).await.len(), stay.len());
    });
}
