//! Pods' links against a real kernel: made, checked, used for real connections, undone.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]
#![allow(clippy::print_stderr, reason = "a test prints why it is skipped")]

mod lab;

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use lab::{Pod, in_netns, ip};
use routes::{
    Error, HOST_MAC, PodLink, RouteTable, Target, check_pod_link, create_pod_link, delete_link,
    host_sysctls, make_pod_link, pod_links, raise_pod_link,
};

fn link(host: &str, addresses: &[&str]) -> PodLink {
    PodLink {
        host_interface: host.into(),
        pod_interface: "eth0".into(),
        addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
        mtu: Some(1400),
        ..PodLink::default()
    }
}

fn forward() {
    for outcome in host_sysctls(true, true) {
        outcome.changed.unwrap();
    }
    let again = host_sysctls(true, true);
    assert!(
        again
            .iter()
            .all(|outcome| matches!(outcome.changed, Ok(false)))
    );
}

async fn route(table: &mut RouteTable, link: &PodLink) {
    for &address in &link.addresses {
        let target = Target::Interface(link.host_interface.clone());
        table.set(IpNet::from(address), Some(target));
    }
    let report = table.apply().await;
    assert_eq!(report.written, link.addresses.len(), "{report:?}");
}

/// One connection from pod to pod with a word each way; returns how long it took.
fn talk(from: &Pod, to: &Pod, address: IpAddr) -> Duration {
    let listener = to.run(move || TcpListener::bind((address, 0)).unwrap());
    let port = listener.local_addr().unwrap().port();
    let server = std::thread::spawn(move || {
        let (mut stream, peer) = listener.accept().unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        let mut word = [0; 4];
        stream.read_exact(&mut word).unwrap();
        stream.write_all(&word).unwrap();
        peer.ip()
    });
    let took = from.run(move || {
        let start = Instant::now();
        let to = SocketAddr::new(address, port);
        let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(5)).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        stream.write_all(b"ahoy").unwrap();
        let mut word = [0; 4];
        stream.read_exact(&mut word).unwrap();
        assert_eq!(&word, b"ahoy");
        start.elapsed()
    });
    server.join().unwrap();
    took
}

#[test]
fn two_pods_talk_at_once_in_both_families_and_directions() {
    in_netns(|| async {
        forward();
        let mut table = RouteTable::open().await.unwrap();
        let (a, b) = (Pod::new(), Pod::new());
        let link_a = link("ptl00000000001", &["10.244.0.2", "fd00:244::2"]);
        let link_b = link("ptl00000000002", &["10.244.0.3", "fd00:244::3"]);
        for (pod, link) in [(&a, &link_a), (&b, &link_b)] {
            let state = create_pod_link(link, pod.netns(), pod.netlink())
                .await
                .unwrap();
            assert_eq!((state.host_mac, state.mtu), (HOST_MAC, 1400));
            assert_ne!(state.pod_mac, HOST_MAC);
            route(&mut table, link).await;
            let wrong = check_pod_link(link, pod.netlink()).await.unwrap();
            assert_eq!(wrong, Vec::<String>::new());
        }
        for (from, to, link) in [(&a, &b, &link_b), (&b, &a, &link_a)] {
            for &address in &link.addresses {
                // A lost first packet is sent again after one second, a proxied ARP takes up to 0.8.
                let took = talk(from, to, address);
                assert!(took < Duration::from_millis(500), "{address}: {took:?}");
            }
        }
        assert!(
            a.ip("neigh show")
                .contains("169.254.1.1 dev eth0 lladdr ee:ee:ee:ee:ee:ee PERMANENT")
        );
        let read = |switch: &str| {
            let path = format!("/proc/sys/net/ipv4/conf/ptl00000000001/{switch}");
            std::fs::read_to_string(path).unwrap().trim().to_owned()
        };
        let switches = ["forwarding", "proxy_arp", "rp_filter"].map(read);
        assert_eq!(switches, ["1", "1", "2"]);
        let addresses = ip("-6 addr show dev ptl00000000001");
        assert_eq!(addresses.matches("inet6").count(), 1, "{addresses}");
        let names: Vec<String> = pod_links()
            .await
            .unwrap()
            .into_iter()
            .map(|l| l.name)
            .collect();
        assert_eq!(names, ["ptl00000000001", "ptl00000000002"]);

        assert!(delete_link("ptl00000000001").await.unwrap());
        assert!(
            !delete_link("ptl00000000001").await.unwrap(),
            "again is no error"
        );
        assert!(!a.ip("link show").contains("eth0"));
        assert_eq!(pod_links().await.unwrap().len(), 1);
    });
}

#[test]
fn a_made_link_carries_nothing_until_it_is_raised_and_then_at_once() {
    in_netns(|| async {
        forward();
        let mut table = RouteTable::open().await.unwrap();
        let pod = Pod::new();
        let link = link("ptl00000000001", &["10.244.0.2", "fd00:244::2"]);
        ip("addr add 10.0.0.1/32 dev lo");
        ip("-6 addr add fd00::1/128 dev lo");
        let made = make_pod_link(&link, pod.netns(), pod.netlink())
            .await
            .unwrap();
        let (v4, v6) = (made.state(), "link show ptl00000000001");
        assert_eq!(v4.mtu, 1400);
        assert!(ip(v6).contains("state DOWN"), "{}", ip(v6));
        // All inside is there, but what the pod sends goes nowhere.
        assert!(pod.ip("-6 route show default").contains("fe80::1"));
        pod.run(|| std::net::UdpSocket::bind("[fd00:244::2]:0").unwrap());
        let to: SocketAddr = "10.0.0.1:9".parse().unwrap();
        let early = pod.run(move || TcpStream::connect_timeout(&to, Duration::from_millis(150)));
        assert!(early.is_err());
        let counts = ip("-s link show ptl00000000001");
        let received = counts.lines().nth(3).unwrap().trim();
        assert!(received.starts_with("0 "), "{counts}");

        let state = raise_pod_link(made).await.unwrap();
        assert_eq!(state, v4);
        route(&mut table, &link).await;
        for own in ["10.0.0.1", "fd00::1"] {
            let address: IpAddr = own.parse().unwrap();
            let listener = TcpListener::bind((address, 0)).unwrap();
            let to = listener.local_addr().unwrap();
            let took = pod.run(move || {
                let start = Instant::now();
                TcpStream::connect_timeout(&to, Duration::from_secs(5)).unwrap();
                start.elapsed()
            });
            assert!(took < Duration::from_millis(500), "{own}: {took:?}");
        }
        let wrong = check_pod_link(&link, pod.netlink()).await.unwrap();
        assert_eq!(wrong, Vec::<String>::new());
    });
}

/// How long the answer takes that nobody listens there: whoever gives it is reached.
fn refused(pod: &Pod, to: SocketAddr) -> Duration {
    pod.run(move || {
        let start = Instant::now();
        let error = TcpStream::connect_timeout(&to, Duration::from_secs(5)).unwrap_err();
        assert_eq!(
            error.kind(),
            std::io::ErrorKind::ConnectionRefused,
            "{to}: {error}"
        );
        start.elapsed()
    })
}

#[test]
fn a_pod_that_lost_its_neighbour_entries_still_finds_its_gateways_at_once() {
    in_netns(|| async {
        forward();
        let mut table = RouteTable::open().await.unwrap();
        // Of several pods each is answered, also when another's link is gone; the node has no other route at all.
        let pods = [Pod::new(), Pod::new(), Pod::new()];
        for (number, pod) in (1..).zip(&pods) {
            let addresses = [format!("10.244.0.{number}"), format!("fd00:244::{number}")];
            let link = link(
                &format!("ptl0000000000{number}"),
                &addresses.each_ref().map(|a| &**a),
            );
            create_pod_link(&link, pod.netns(), pod.netlink())
                .await
                .unwrap();
            route(&mut table, &link).await;
        }
        delete_link("ptl00000000001").await.unwrap();
        for pod in &pods[1..] {
            pod.ip("neigh del 169.254.1.1 dev eth0");
            pod.ip("neigh del fe80::1 dev eth0");
            let shown = pod.ip("-o link show eth0");
            let index = shown.split(':').next().unwrap().parse().unwrap();
            let v6 = std::net::SocketAddrV6::new(routes::GATEWAY_V6, 9, 0, index);
            for to in [SocketAddr::new(routes::GATEWAY_V4.into(), 9), v6.into()] {
                let took = refused(pod, to);
                assert!(took < Duration::from_millis(500), "{to}: {took:?}");
            }
            let found = pod.ip("neigh show dev eth0");
            assert!(
                found.contains("169.254.1.1 lladdr ee:ee:ee:ee:ee:ee"),
                "{found}"
            );
            assert!(
                found.contains("fe80::1 lladdr ee:ee:ee:ee:ee:ee"),
                "{found}"
            );
        }
        for number in [2, 3] {
            delete_link(&format!("ptl0000000000{number}"))
                .await
                .unwrap();
        }
        assert!(!ip("route show table local").contains("169.254"));
    });
}

#[test]
fn inside_a_pod_addresses_are_good_at_once_and_loopback_is_shared() {
    in_netns(|| async {
        let pod = Pod::new();
        let link = link("ptl00000000001", &["10.244.0.2", "fd00:244::2"]);
        create_pod_link(&link, pod.netns(), pod.netlink())
            .await
            .unwrap();
        let own = pod.ip("-6 addr show dev eth0 scope global");
        assert!(
            own.contains("fd00:244::2/128") && !own.contains("tentative"),
            "{own}"
        );
        for address in ["10.244.0.2", "fd00:244::2", "127.0.0.1", "::1"] {
            let address: IpAddr = address.parse().unwrap();
            let took = talk(&pod, &pod, address);
            assert!(took < Duration::from_millis(500), "{address}: {took:?}");
        }
    });
}

#[test]
fn a_pod_of_one_family_gets_nothing_of_the_other() {
    in_netns(|| async {
        let (four, six) = (Pod::new(), Pod::new());
        let link4 = link("ptl00000000004", &["10.244.0.4"]);
        let link6 = link("ptl00000000006", &["fd00:244::6"]);
        create_pod_link(&link4, four.netns(), four.netlink())
            .await
            .unwrap();
        create_pod_link(&link6, six.netns(), six.netlink())
            .await
            .unwrap();
        assert_eq!(
            check_pod_link(&link4, four.netlink()).await.unwrap(),
            Vec::<String>::new()
        );
        assert_eq!(
            check_pod_link(&link6, six.netlink()).await.unwrap(),
            Vec::<String>::new()
        );
        assert!(!four.ip("-6 route show").contains("default"));
        assert_eq!(six.ip("-4 addr show dev eth0"), "");
    });
}

#[test]
fn a_link_has_the_address_asked_for_and_lets_loopback_through_only_when_asked() {
    in_netns(|| async {
        let (a, b) = (Pod::new(), Pod::new());
        let asked = PodLink {
            mac: Some([0x02, 0, 0, 0, 0, 9]),
            localnet: true,
            ..link("ptl00000000001", &["10.244.0.2"])
        };
        let made = create_pod_link(&asked, a.netns(), a.netlink())
            .await
            .unwrap();
        assert_eq!(made.pod_mac, [0x02, 0, 0, 0, 0, 9]);
        assert!(a.ip("link show eth0").contains("02:00:00:00:00:09"));
        let plain = link("ptl00000000002", &["10.244.0.3"]);
        create_pod_link(&plain, b.netns(), b.netlink())
            .await
            .unwrap();
        let localnet = |name: &str| {
            let path = format!("/proc/sys/net/ipv4/conf/{name}/route_localnet");
            std::fs::read_to_string(path).unwrap().trim().to_owned()
        };
        let both = ["ptl00000000001", "ptl00000000002"].map(localnet);
        assert_eq!(both, ["1", "0"]);
        for mac in [[0; 6], [0xff; 6], [1, 0, 0, 0, 0, 9]] {
            let bad = PodLink {
                mac: Some(mac),
                ..link("ptl00000000003", &["10.244.0.4"])
            };
            let refused = create_pod_link(&bad, b.netns(), b.netlink()).await;
            assert!(matches!(refused, Err(Error::Name { .. })), "{mac:?}");
        }
    });
}

#[test]
fn a_pod_with_routes_of_its_own_has_those_instead_of_the_default() {
    in_netns(|| async {
        let pod = Pod::new();
        let link = PodLink {
            routes: ["10.0.0.0/8", "192.0.2.7/32"]
                .map(|net| net.parse().unwrap())
                .into(),
            ..link("ptl00000000001", &["10.244.0.2", "fd00:244::2"])
        };
        create_pod_link(&link, pod.netns(), pod.netlink())
            .await
            .unwrap();
        let shown = pod.ip("-4 route show");
        for part in ["10.0.0.0/8 via 169.254.1.1", "192.0.2.7 via 169.254.1.1"] {
            assert!(shown.contains(part), "{shown}");
        }
        assert!(!shown.contains("default"), "{shown}");
        assert!(pod.ip("-6 route show").contains("default via fe80::1"));
        let wrong = check_pod_link(&link, pod.netlink()).await.unwrap();
        assert_eq!(wrong, Vec::<String>::new());
        pod.ip("route del 10.0.0.0/8");
        let wrong = check_pod_link(&link, pod.netlink()).await.unwrap();
        assert_eq!(
            wrong,
            ["the pod lacks the route to 10.0.0.0/8 by 169.254.1.1"]
        );
        let to: Vec<String> = link
            .destinations()
            .iter()
            .map(|(net, _)| net.to_string())
            .collect();
        assert_eq!(to, ["10.0.0.0/8", "192.0.2.7/32", "::/0"]);
    });
}

#[test]
fn a_check_says_each_thing_that_is_wrong() {
    in_netns(|| async {
        let pod = Pod::new();
        let link = link("ptl00000000001", &["10.244.0.2", "fd00:244::2"]);
        create_pod_link(&link, pod.netns(), pod.netlink())
            .await
            .unwrap();
        pod.ip("neigh del 169.254.1.1 dev eth0");
        pod.ip("route del default");
        pod.ip("-6 addr del fd00:244::2/128 dev eth0");
        ip("link set ptl00000000001 mtu 1300");
        let wrong = check_pod_link(&link, pod.netlink())
            .await
            .unwrap()
            .join("\n");
        for part in [
            "neighbour entry of 169.254.1.1",
            "default route by 169.254.1.1",
            "lacks address fd00:244::2",
            "MTU 1300",
        ] {
            assert!(wrong.contains(part), "{part} not in {wrong}");
        }
        assert_eq!(wrong.lines().count(), 4, "{wrong}");
        delete_link("ptl00000000001").await.unwrap();
        let wrong = check_pod_link(&link, pod.netlink()).await.unwrap();
        assert_eq!(wrong.len(), 2, "{wrong:?}");
    });
}

#[test]
fn a_failure_half_way_leaves_nothing_on_either_side() {
    in_netns(|| async {
        let pod = Pod::new();
        // A multicast address can't be given to an interface: the pair exists by then.
        let bad = link("ptl00000000001", &["10.244.0.2", "ff02::9"]);
        let error = create_pod_link(&bad, pod.netns(), pod.netlink())
            .await
            .unwrap_err();
        assert!(error.to_string().contains("ff02::9"), "{error}");
        assert_eq!(pod_links().await.unwrap(), []);
        assert!(!pod.ip("link show").contains("eth0"));
        // And the same pod can be attached afterwards.
        let good = link("ptl00000000001", &["10.244.0.2"]);
        create_pod_link(&good, pod.netns(), pod.netlink())
            .await
            .unwrap();
    });
}

#[test]
fn what_a_crashed_add_left_is_replaced_and_a_foreign_interface_is_not() {
    in_netns(|| async {
        let pod = Pod::new();
        let wanted = link("ptl00000000001", &["10.244.0.2"]);
        create_pod_link(&wanted, pod.netns(), pod.netlink())
            .await
            .unwrap();
        let again = create_pod_link(&wanted, pod.netns(), pod.netlink())
            .await
            .unwrap();
        assert_eq!(pod_links().await.unwrap()[0].index, again.host_index);
        assert_eq!(
            check_pod_link(&wanted, pod.netlink()).await.unwrap(),
            Vec::<String>::new()
        );

        let taken = Pod::new();
        taken.ip("link add eth0 type veth peer name other0");
        let second = link("ptl00000000002", &["10.244.0.3"]);
        let error = create_pod_link(&second, taken.netns(), taken.netlink())
            .await
            .unwrap_err();
        assert!(
            matches!(&error, Error::PodInterfaceExists(name) if name == "eth0"),
            "{error}"
        );
        assert_eq!(pod_links().await.unwrap().len(), 1);
        assert!(taken.ip("link show").contains("eth0"));
    });
}

#[test]
fn names_that_are_not_ours_are_never_touched() {
    in_netns(|| async {
        ip("link add docker0 type veth peer name peer0");
        assert!(matches!(
            delete_link("docker0").await,
            Err(Error::Name { .. })
        ));
        let pod = Pod::new();
        for host in ["docker0", "ptl.vxlan", "ptl/../x", "ptl0123456789abcdef"] {
            let link = link(host, &["10.244.0.2"]);
            let made = create_pod_link(&link, pod.netns(), pod.netlink()).await;
            assert!(matches!(made, Err(Error::Name { .. })), "{host}");
        }
        assert!(ip("link show").contains("docker0"));
    });
}
