//! TTL and GTSM (RFC 5082) on the real kernel: how far away a peer may be.
#![allow(clippy::unwrap_used, reason = "a test")]

mod places;

use std::time::Duration;

use bgp_speaker::listener::{Accepted, Admission, AdmittedSet, Keys};
use bgp_speaker::socket::{SocketOptions, Ttl, dial};
use places::{PORT, Place, Server, at, eventually, hops, join, neighbours, possible, security};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

/// Long enough for what is let through to arrive.
const SHORT: Duration = Duration::from_millis(1500);

fn with(ttl: Ttl) -> SocketOptions {
    SocketOptions {
        ttl,
        ..SocketOptions::default()
    }
}

fn everyone(ttl: Ttl) -> AdmittedSet {
    let mut set = AdmittedSet::default();
    for net in ["0.0.0.0/0", "::/0"] {
        set.admit(net.parse().unwrap(), Admission { ttl });
    }
    set
}

/// A listener in a place, on both families, that admits everyone so far away.
fn listen(place: &Place, ttl: Ttl) -> [Server; 2] {
    place.run(async move || {
        [
            Server::start(&format!("0.0.0.0:{PORT}"), everyone(ttl), Keys::new()).await,
            Server::start(&format!("[::]:{PORT}"), everyone(ttl), Keys::new()).await,
        ]
    })
}

fn connect(place: &Place, address: &str, ttl: Ttl) -> std::io::Result<TcpStream> {
    let remote = at(&format!("{address}:{PORT}"));
    place.run(async move || {
        let dialled = tokio::time::timeout(SHORT, dial(remote, &with(ttl))).await;
        dialled.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
    })
}

fn accept(server: &mut Server) -> Accepted {
    let mut accepted = None;
    eventually(|| {
        accepted = server.accepted.try_recv().ok();
        accepted.is_some()
    });
    accepted.unwrap()
}

/// What arrives of `bytes` in a short while.
fn passes(stream: &TcpStream, to: &Place, accepted: &mut Accepted, bytes: &'static [u8]) -> bool {
    stream.try_write(bytes).unwrap();
    let fd = std::os::fd::AsFd::as_fd(&accepted.stream)
        .try_clone_to_owned()
        .unwrap();
    to.run(async move || {
        let mut stream = TcpStream::from_std(std::net::TcpStream::from(fd)).unwrap();
        let mut buffer = vec![0; bytes.len()];
        let read = tokio::time::timeout(SHORT, stream.read_exact(&mut buffer)).await;
        read.is_ok_and(|read| read.is_ok()) && buffer == bytes
    })
}

fn set_ttl(stream: &TcpStream, ttl: u32) {
    let socket = socket2::SockRef::from(stream);
    if stream.peer_addr().unwrap().is_ipv4() {
        socket.set_ttl_v4(ttl).unwrap();
    } else {
        socket.set_unicast_hops_v6(ttl).unwrap();
    }
}

/// Two places with a router between: 192.0.2.1 and 2001:db8::1, 198.51.100.1 and 2001:db8:1::1.
fn across_a_router() -> (Place, Place, Place) {
    let (a, router, b) = (Place::new(), Place::new(), Place::new());
    router.sysctl("ipv4/ip_forward", "1");
    router.sysctl("ipv6/conf/all/forwarding", "1");
    join(
        (
            &a,
            "eth0",
            &["192.0.2.1/24", "2001:db8::1/64", "fe80::1/64"],
        ),
        (
            &router,
            "left",
            &["192.0.2.254/24", "2001:db8::fe/64", "fe80::2/64"],
        ),
    );
    join(
        (
            &b,
            "eth0",
            &["198.51.100.1/24", "2001:db8:1::1/64", "fe80::1/64"],
        ),
        (
            &router,
            "right",
            &["198.51.100.254/24", "2001:db8:1::fe/64", "fe80::2/64"],
        ),
    );
    for (place, v4, v6) in [
        (&a, "192.0.2.254", "2001:db8::fe"),
        (&b, "198.51.100.254", "2001:db8:1::fe"),
    ] {
        place.ip(&format!("route add default via {v4}"));
        place.ip(&format!("-6 route add default via {v6}"));
    }
    (a, router, b)
}

const NEIGHBOUR: [&str; 2] = ["192.0.2.2", "[2001:db8::2]"];
const FAR: [&str; 2] = ["198.51.100.1", "[2001:db8:1::1]"];

#[test]
fn a_neighbour_with_ttl_255_is_taken_and_a_packet_with_less_is_dropped_after_accept_too() {
    if !possible() {
        return;
    }
    let (a, b) = neighbours();
    let servers = listen(&b, security(1));
    for (mut server, address) in servers.into_iter().zip(NEIGHBOUR) {
        let stream = connect(&a, address, security(1)).unwrap();
        let mut accepted = accept(&mut server);
        assert!(passes(&stream, &b, &mut accepted, b"near"), "{address}");
        set_ttl(&stream, 254);
        assert!(!passes(&stream, &b, &mut accepted, b"far"), "{address}");
        // The control: the same bytes, sent again with 255, do arrive.
        set_ttl(&stream, 255);
        assert!(passes(&stream, &b, &mut accepted, b""), "{address}");
        let mut arrived = [0; 3];
        eventually(|| accepted.stream.try_read(&mut arrived).is_ok());
        assert_eq!(&arrived, b"far");
        assert_eq!(server.refused(), 0);
    }
}

#[test]
fn a_connection_whose_syn_had_too_low_a_ttl_is_closed_unread_and_counted() {
    if !possible() {
        return;
    }
    let (a, b) = neighbours();
    let servers = listen(&b, security(1));
    for (mut server, address) in servers.into_iter().zip(NEIGHBOUR) {
        // A sender that turns its TTL up right after the handshake has had its SYN seen.
        let stream = connect(&a, address, hops(254)).unwrap();
        set_ttl(&stream, 255);
        eventually(|| server.refused() == 1);
        assert!(server.accepted.try_recv().is_err(), "{address}");
    }
}

#[test]
fn ttl_security_counts_routers_on_the_way() {
    if !possible() {
        return;
    }
    let (a, _router, b) = across_a_router();
    for (allowed, taken) in [(1, false), (2, true)] {
        let servers = listen(&b, security(allowed));
        for (mut server, address) in servers.into_iter().zip(FAR) {
            // The dialling side's own filter is as wide as the way, so that only the listener's is judged.
            let stream = connect(&a, address, security(2)).unwrap();
            if taken {
                let mut accepted = accept(&mut server);
                assert!(passes(&stream, &b, &mut accepted, b"x"), "{address}");
            } else {
                eventually(|| server.refused() == 1);
                assert!(server.accepted.try_recv().is_err(), "{address}");
            }
        }
    }
}

#[test]
fn a_dialling_socket_drops_the_syn_ack_of_a_peer_without_ttl_security() {
    if !possible() {
        return;
    }
    let (a, b) = neighbours();
    let _plain = b.run(async || tokio::net::TcpListener::bind("0.0.0.0:179").await.unwrap());
    assert!(connect(&a, NEIGHBOUR[0], hops(1)).is_ok());
    assert!(connect(&a, NEIGHBOUR[0], security(1)).is_err());
}

#[test]
fn an_external_peer_without_multihop_is_not_reached_across_a_router() {
    if !possible() {
        return;
    }
    let (a, _router, b) = across_a_router();
    let _servers = listen(&b, hops(64));
    let default = Ttl::of_peer(true, None, None);
    let two = Ttl::of_peer(true, std::num::NonZeroU8::new(2), None);
    for address in FAR {
        assert!(connect(&a, address, default).is_err(), "{address}");
        assert!(connect(&a, address, two).is_ok(), "{address}");
        assert!(
            connect(&a, address, Ttl::of_peer(false, None, None)).is_ok(),
            "{address}"
        );
    }
}

#[test]
fn an_accepted_connection_answers_with_its_peers_ttl() {
    if !possible() {
        return;
    }
    let (a, _router, b) = across_a_router();
    let servers = listen(&b, Ttl::of_peer(true, None, None));
    for (mut server, address) in servers.into_iter().zip(FAR) {
        // The SYN-ACK has 255, but what follows does not pass the router.
        let stream = connect(&a, address, hops(64)).unwrap();
        let accepted = accept(&mut server);
        accepted.stream.try_write(b"x").unwrap();
        let mut buffer = [0; 1];
        std::thread::sleep(SHORT);
        let read = stream.try_read(&mut buffer);
        assert!(
            read.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock),
            "{address}"
        );
    }
}
