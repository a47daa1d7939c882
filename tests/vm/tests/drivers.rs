//! The drivers that the common kernel of CI lacks, each used for what it is there for.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    reason = "a test"
)]

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::ensure;
use socket2::{Domain, Protocol, Socket, Type};
use tests::netns::{Netns, run};
use tests::reach::PORT;
use tests::wait::eventually;
use vm::{connect, packets, pair, release};

/// Both ends' tunnel addresses: 198.51.100.1 on the left, 198.51.100.2 on the right.
fn number(left: &Netns, right: &Netns, interface: &str) {
    for (netns, last) in [(left, 1), (right, 2)] {
        netns
            .ip(&format!("addr add 198.51.100.{last}/24 dev {interface}"))
            .unwrap();
        netns.ip(&format!("link set {interface} up")).unwrap();
    }
}

/// A connection by the tunnel, and packets of it counted there at both ends.
fn connect_through(left: &Netns, right: &Netns, interface: &str) {
    connect(left, right, "198.51.100.2").unwrap();
    for netns in [left, right] {
        let (received, sent) = packets(netns, interface).unwrap();
        assert!(received >= 3 && sent >= 3, "{received} in, {sent} out");
    }
}

#[test]
fn the_kernel_is_debians_of_long_term_support() {
    let release = release().unwrap();
    println!("kernel {release}");
    assert!(
        release.ends_with("-amd64"),
        "{release} is no stock kernel: run this by scripts/vm"
    );
}

#[test]
fn ipip_carries_a_connection() {
    let (left, right) = pair("ipip").unwrap();
    for (netns, local, remote) in [(&left, 1, 2), (&right, 2, 1)] {
        netns
            .ip(&format!(
                "link add t0 type ipip local 192.0.2.{local} remote 192.0.2.{remote}"
            ))
            .unwrap();
    }
    number(&left, &right, "t0");
    connect_through(&left, &right, "t0");
}

#[test]
fn wireguard_carries_a_connection() {
    let (left, right) = pair("wg").unwrap();
    let keys = tempfile::tempdir().unwrap();
    let made = |name: &str| {
        let file = keys.path().join(name);
        let secret = run("wg", &["genkey"]).unwrap();
        std::fs::write(&file, secret).unwrap();
        let file = file.to_str().unwrap().to_owned();
        let public = run("sh", &["-c", &format!("wg pubkey <{file}")]).unwrap();
        (file, public.trim().to_owned())
    };
    let (ours, theirs) = (made("left"), made("right"));
    let ends = [(&left, &ours, &theirs, 2), (&right, &theirs, &ours, 1)];
    for (netns, own, peer, at) in ends {
        netns.ip("link add wg0 type wireguard").unwrap();
        let endpoint = format!("192.0.2.{at}:51820");
        let words = ["set", "wg0", "listen-port", "51820", "private-key", &own.0];
        let peer = ["peer", &peer.1, "allowed-ips", "198.51.100.0/24"];
        let words = [&words[..], &peer, &["endpoint", &endpoint]].concat();
        netns.run("wg", &words).unwrap();
    }
    number(&left, &right, "wg0");
    connect_through(&left, &right, "wg0");
}

#[test]
fn a_vrf_has_routes_of_its_own() {
    let netns = Netns::new("vrf", "one").unwrap();
    netns.ip("link add red type vrf table 1001").unwrap();
    netns.ip("link set red up").unwrap();
    netns.ip("link add d0 type dummy").unwrap();
    netns.ip("link set d0 master red").unwrap();
    netns.ip("addr add 203.0.113.1/24 dev d0").unwrap();
    netns.ip("link set d0 up").unwrap();
    let routes = netns.ip("route show table 1001").unwrap();
    assert!(routes.contains("203.0.113.0/24 dev d0"), "{routes}");
    assert_eq!(netns.ip("route show").unwrap(), "");
    let route = netns.ip("route get 203.0.113.9 vrf red").unwrap();
    assert!(route.contains("dev d0 table 1001"), "{route}");
}

#[test]
fn a_dummy_takes_packets() {
    let netns = Netns::new("dummy", "one").unwrap();
    netns.ip("link add d0 type dummy").unwrap();
    netns.ip("addr add 203.0.113.1/24 dev d0").unwrap();
    netns.ip("link set d0 up").unwrap();
    connect(&netns, &netns, "203.0.113.1").unwrap();
    let (_, before) = packets(&netns, "d0").unwrap();
    netns
        .inside(|| {
            let socket = std::net::UdpSocket::bind("203.0.113.1:0").unwrap();
            socket.send_to(b"ahoy", "203.0.113.9:9").unwrap();
        })
        .unwrap();
    assert_eq!(packets(&netns, "d0").unwrap().1, before + 1);
}

#[test]
fn sctp_carries_an_association() {
    let netns = Netns::new("sctp", "one").unwrap();
    netns
        .inside(|| {
            let sctp = || {
                let protocol = Protocol::from(nix::libc::IPPROTO_SCTP);
                Socket::new(Domain::IPV4, Type::STREAM, Some(protocol)).unwrap()
            };
            let server = sctp();
            let address: SocketAddr = "127.0.0.1:0".parse().unwrap();
            server.bind(&address.into()).unwrap();
            server.listen(1).unwrap();
            let mut client = sctp();
            client.connect(&server.local_addr().unwrap()).unwrap();
            let (mut accepted, _) = server.accept().unwrap();
            client.write_all(b"ahoy").unwrap();
            let mut buffer = [0_u8; 4];
            accepted.read_exact(&mut buffer).unwrap();
            assert_eq!(&buffer, b"ahoy");
        })
        .unwrap();
}

#[test]
fn ip_vs_leads_a_service_to_its_endpoint() {
    let (left, right) = pair("ipvs").unwrap();
    left.ip("addr add 203.0.113.10/32 dev lo").unwrap();
    right.ip("route add 203.0.113.10 via 192.0.2.1").unwrap();
    let (service, endpoint) = (format!("203.0.113.10:{PORT}"), format!("192.0.2.2:{PORT}"));
    left.run("ipvsadm", &["-A", "-t", &service, "-s", "rr"])
        .unwrap();
    left.run("ipvsadm", &["-a", "-t", &service, "-r", &endpoint, "-m"])
        .unwrap();
    connect(&left, &right, "203.0.113.10").unwrap();
    // The kernel adds its processors' counts up every two seconds.
    eventually(Duration::from_secs(10), "the packets to be counted", || {
        let counted = left.run("ipvsadm", &["-L", "-n", "--stats"])?;
        let line = counted.lines().find(|line| line.contains(&endpoint));
        let packets = line.and_then(|line| line.split_whitespace().nth(3)?.parse::<u64>().ok());
        ensure!(packets.is_some_and(|count| count >= 3), "{counted}");
        Ok(())
    })
    .unwrap();
}

#[test]
fn nftables_takes_a_flow_table() {
    let (left, _right) = pair("ft").unwrap();
    let rules = "table inet t { flowtable f { hook ingress priority 0; devices = { eth0 }; }\n\
                 chain c { type filter hook forward priority 0; ip protocol tcp flow add @f\n}\n}";
    left.run("sh", &["-c", &format!("echo '{rules}' | nft -f -")])
        .unwrap();
    let read = left.run("nft", &["list", "ruleset"]).unwrap();
    assert!(read.contains("flow add @f"), "{read}");
}
