//! The MTU of the way out, and of pods that run when it changes.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]
#![allow(clippy::unnecessary_wraps, reason = "what is compared is an option")]
#![allow(clippy::print_stderr, reason = "a test prints what it measured")]

mod lab;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lab::{Pod, in_netns, ip, uplink};
use nix::sys::socket::{setsockopt, sockopt};
use routes::{
    Monitor, Notice, PodLink, RouteTable, Target, Ways, check_pod_link, create_pod_link,
    host_sysctls, path_mtu, set_pod_mtus,
};
use tokio::time::timeout;

async fn found(ways: &Ways) -> Option<(u32, String)> {
    let path = path_mtu(ways).await.unwrap()?;
    Some((path.mtu, path.interface))
}

fn set<T: Ord>(members: impl IntoIterator<Item = T>) -> BTreeSet<T> {
    members.into_iter().collect()
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn some(mtu: u32, interface: &str) -> Option<(u32, String)> {
    Some((mtu, interface.to_owned()))
}

#[test]
fn the_least_mtu_is_that_of_what_leads_to_nodes_peers_and_everywhere() {
    in_netns(|| async {
        let mut ways = Ways::default();
        assert_eq!(found(&ways).await, None, "nothing leads out");
        uplink();
        ip("link set up0 mtu 9000");
        assert_eq!(found(&ways).await, None, "no default route, no address");
        ways.own = set([address("192.0.2.1")]);
        assert_eq!(found(&ways).await, some(9000, "up0"));
        // Narrower, but nothing of ours is there.
        ip("link add docker0 type bridge");
        ip("addr add 172.17.0.1/16 dev docker0");
        ip("link set docker0 mtu 1300 up");
        assert_eq!(found(&ways).await, some(9000, "up0"));
        ways.to = set([address("172.17.0.9"), address("203.0.113.9")]);
        assert_eq!(found(&ways).await, some(1300, "docker0"));
        ways.to.clear();
        ways.interfaces = set(["docker0".to_owned(), "absent".to_owned()]);
        assert_eq!(found(&ways).await, some(1300, "docker0"));
        ip("link set docker0 down");
        assert_eq!(found(&ways).await, some(9000, "up0"));
        // An address on the loopback, as where a node is routed to: what counts is the way there.
        ip("addr add 10.9.9.9/32 dev lo");
        let ways = Ways {
            own: set([address("10.9.9.9")]),
            ..Ways::default()
        };
        assert_eq!(found(&ways).await, None);
        ip("route add default via 192.0.2.2");
        assert_eq!(found(&ways).await, some(9000, "up0"));
        ip("route replace default via 192.0.2.2 mtu 1450");
        assert_eq!(found(&ways).await, some(1450, "up0"));
    });
}

#[test]
fn all_next_hops_of_a_route_count_in_both_families() {
    in_netns(|| async {
        uplink();
        ip("link add other0 type veth peer name other1");
        ip("addr add 198.51.100.1/24 dev other0");
        ip("-6 addr add 2001:db8:1::1/64 dev other0 nodad");
        ip("link set other1 up");
        ip("link set other0 mtu 1400 up");
        let none = Ways::default();
        ip("route add default nexthop via 192.0.2.2 nexthop via 198.51.100.2");
        assert_eq!(found(&none).await, some(1400, "other0"));
        // Whichever of them a lookup chooses.
        ip("route replace default nexthop via 198.51.100.2 nexthop via 192.0.2.2");
        assert_eq!(found(&none).await, some(1400, "other0"));
        ip("route del default");
        ip("-6 route add default nexthop via 2001:db8::2 nexthop via 2001:db8:1::2");
        assert_eq!(found(&none).await, some(1400, "other0"));
        ip("-6 route del default");
        // Half of the Internet each, as some write a default route.
        ip("-6 route add 2000::/3 via 2001:db8::2");
        assert_eq!(found(&none).await, some(1500, "up0"));
        ip("nexthop add id 7 via 198.51.100.2 dev other0");
        ip("nexthop add id 8 via 192.0.2.2 dev up0");
        ip("nexthop add id 9 group 8/7");
        ip("route add default nhid 9");
        assert_eq!(found(&none).await, some(1400, "other0"));
    });
}

#[test]
fn a_change_of_mtu_is_noticed() {
    in_netns(|| async {
        uplink();
        let table = RouteTable::open().await.unwrap();
        let mut monitor = Monitor::open(&table).unwrap();
        let silence = Duration::from_millis(400);
        // What the kernel does late after the links came up.
        while timeout(silence, monitor.next()).await.is_ok() {}
        ip("link set up0 mtu 1400");
        let mut seen = Vec::new();
        while let Ok(what) = timeout(silence, monitor.next()).await {
            seen.push(what);
        }
        assert!(seen.contains(&Notice::Mtu), "{seen:?}");
    });
}

/// A pod and a process in it, by which its namespace can be found in /proc.
struct Running {
    pod: Pod,
    process: Child,
    link: PodLink,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

async fn attach(number: u8, mtu: u32, v6: bool) -> Running {
    let mut addresses: Vec<IpAddr> = vec![[10, 244, 0, number].into()];
    addresses.extend(v6.then(|| address(&format!("fd00:244::{number}"))));
    let link = PodLink {
        host_interface: format!("ptl0000000000{number}"),
        pod_interface: "eth0".into(),
        addresses,
        mtu: Some(mtu),
        ..PodLink::default()
    };
    let pod = Pod::new();
    create_pod_link(&link, pod.netns(), pod.netlink())
        .await
        .unwrap();
    let process = pod.run(|| Command::new("sleep").arg("60").spawn().unwrap());
    Running { pod, process, link }
}

async fn change(mtu: u32) -> Vec<(String, u32)> {
    let outcomes = set_pod_mtus(mtu).await.unwrap();
    outcomes
        .into_iter()
        .map(|one| (one.host_interface, one.outcome.unwrap()))
        .collect()
}

fn mtu_of(shown: &str) -> u32 {
    let after = shown.split(" mtu ").nth(1).unwrap();
    after.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn both_ends_of_running_pods_follow_and_ipv6_keeps_what_it_needs() {
    in_netns(|| async {
        let both = attach(1, 1500, true).await;
        let four = attach(2, 1500, false).await;
        let ends = || {
            let host = |n: u8| mtu_of(&ip(&format!("link show ptl0000000000{n}")));
            let inside = |one: &Running| mtu_of(&one.pod.ip("link show eth0"));
            [host(1), inside(&both), host(2), inside(&four)]
        };
        assert_eq!(change(1500).await, [], "nothing to do");
        let told = |mtu| {
            vec![
                ("ptl00000000001".to_owned(), mtu),
                ("ptl00000000002".to_owned(), mtu),
            ]
        };
        for mtu in [9000, 1400, 1420] {
            assert_eq!(change(mtu).await, told(mtu));
            assert_eq!(ends(), [mtu; 4]);
            assert_eq!(change(mtu).await, []);
        }
        // One that a plugin behind ours lowered stays so until the path changes.
        both.pod.ip("link set eth0 mtu 1390");
        assert_eq!(change(1420).await, []);
        assert_eq!(ends(), [1420, 1390, 1420, 1420]);
        change(1000).await;
        assert_eq!(ends(), [1280, 1280, 1000, 1000]);
        for one in [&both, &four] {
            let now = PodLink {
                mtu: Some(routes::pod_mtu(1000, one.link.addresses.len() > 1)),
                ..one.link.clone()
            };
            let wrong = check_pod_link(&now, one.pod.netlink()).await.unwrap();
            assert_eq!(wrong, Vec::<String>::new());
            let routes = one.pod.ip("route show") + &one.pod.ip("-6 route show");
            assert!(
                !routes.contains("lock"),
                "no route is held any more: {routes}"
            );
        }
        // What a killed run left: an end of its own, or routes still held.
        both.pod.ip("link set eth0 mtu 1400");
        four.pod
            .ip("route replace default via 169.254.1.1 dev eth0 onlink proto 179 mtu lock 700");
        ip("link set ptl00000000002 alias under");
        assert_eq!(change(1000).await, [("ptl00000000001".to_owned(), 1280)]);
        let mut alias = Command::new("ip");
        alias.args(["link", "set", "ptl00000000002", "alias"]);
        alias.arg("portolan: the MTU changes");
        assert!(alias.status().unwrap().success());
        assert_eq!(change(1000).await, [("ptl00000000002".to_owned(), 1000)]);
        let routes = four.pod.ip("route show");
        assert!(
            routes.contains("default") && !routes.contains("700"),
            "{routes}"
        );
        assert!(!ip("link show ptl00000000002").contains("alias"));
    });
}

#[test]
fn a_pod_whose_namespace_cannot_be_found_keeps_both_ends_and_says_why() {
    in_netns(|| async {
        let mut running = attach(1, 1500, true).await;
        running.process.kill().unwrap();
        running.process.wait().unwrap();
        let outcomes = set_pod_mtus(1400).await.unwrap();
        let why = outcomes[0].outcome.as_ref().unwrap_err().to_string();
        assert!(why.contains("namespace"), "{why}");
        assert_eq!(mtu_of(&ip("link show ptl00000000001")), 1500);
        assert_eq!(mtu_of(&running.pod.ip("link show eth0")), 1500);
        running.process = running
            .pod
            .run(|| Command::new("sleep").arg("60").spawn().unwrap());
        change(1400).await;
        assert_eq!(mtu_of(&running.pod.ip("link show eth0")), 1400);
    });
}

/// Sends numbered datagrams of 8000 bytes until told to stop; returns how many.
fn send(socket: &UdpSocket, to: (IpAddr, u16), stop: &AtomicBool) -> u32 {
    let mut datagram = [0; 8000];
    let mut sent = 0_u32;
    while !stop.load(Ordering::Relaxed) {
        datagram[..4].copy_from_slice(&sent.to_be_bytes());
        socket.send_to(&datagram, to).unwrap();
        sent += 1;
        std::thread::sleep(Duration::from_micros(300));
    }
    sent
}

/// Counts what arrives until nothing does any more. What the counting is too slow for waits: a busy machine loses nothing.
fn count(socket: &UdpSocket) -> u32 {
    setsockopt(socket, sockopt::RcvBufForce, &(64 << 20)).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    let mut datagram = [0; 9000];
    let mut received = 0;
    while socket.recv(&mut datagram).is_ok() {
        received += 1;
    }
    received
}

#[test]
fn no_datagram_is_lost_between_node_and_pod_while_the_mtu_goes_up_and_down() {
    in_netns(|| async {
        for outcome in host_sysctls(true, true) {
            outcome.changed.unwrap();
        }
        ip("addr add 10.0.0.1/32 dev lo");
        let running = attach(1, 9000, true).await;
        let mut table = RouteTable::open().await.unwrap();
        for &own in &running.link.addresses {
            let target = Target::Interface("ptl00000000001".into());
            table.set(own.into(), Some(target));
        }
        table.apply().await;
        let node = UdpSocket::bind((Ipv4Addr::new(10, 0, 0, 1), 0)).unwrap();
        let pod_address = running.link.addresses[0];
        let pod = running
            .pod
            .run(move || UdpSocket::bind((pod_address, 0)).unwrap());
        let (to_pod, to_node) = (pod.local_addr().unwrap(), node.local_addr().unwrap());
        let stop = Arc::new(AtomicBool::new(false));
        let started = |socket: &UdpSocket, to: std::net::SocketAddr| {
            let (socket, stop) = (socket.try_clone().unwrap(), Arc::clone(&stop));
            std::thread::spawn(move || send(&socket, (to.ip(), to.port()), &stop))
        };
        let counting = |socket: &UdpSocket| {
            let socket = socket.try_clone().unwrap();
            std::thread::spawn(move || count(&socket))
        };
        let receivers = [counting(&pod), counting(&node)];
        let senders = [started(&node, to_pod), started(&pod, to_node)];
        for mtu in [1400, 9000].repeat(20) {
            assert_eq!(change(mtu).await.len(), 1);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        stop.store(true, Ordering::Relaxed);
        let sent = senders.map(|one| one.join().unwrap());
        let received = receivers.map(|one| one.join().unwrap());
        eprintln!("sent {sent:?}, received {received:?}");
        assert_eq!(sent, received);
        assert!(sent[0] > 1000 && sent[1] > 1000, "{sent:?}");
    });
}
