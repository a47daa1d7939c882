//! Who gets past the listening socket: peers' addresses and ranges, and not too many at once.
#![allow(clippy::unwrap_used, reason = "a test")]

mod places;

use std::io::Read as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bgp_speaker::listener::{Accepted, Admission, AdmittedSet, Keys, ListenConfig, Slots};
use bgp_speaker::socket::{SocketOptions, dial};
use places::{PORT, Place, Server, at, eventually, neighbours, possible};
use tokio::net::TcpStream;

const SHORT: Duration = Duration::from_secs(1);

fn set(nets: &[&str]) -> AdmittedSet {
    let mut set = AdmittedSet::default();
    for net in nets {
        set.admit(net.parse().unwrap(), Admission::default());
    }
    set
}

/// A connection to `remote` from one of the place's addresses.
fn connect(place: &Place, source: &str, remote: &str) -> TcpStream {
    let remote = at(remote);
    let options = SocketOptions {
        source: Some(source.parse().unwrap()),
        ..SocketOptions::default()
    };
    place.run(async move || dial(remote, &options).await.unwrap())
}

fn is_closed(stream: TcpStream) -> bool {
    let mut stream = stream.into_std().unwrap();
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(SHORT)).unwrap();
    let read = stream.read(&mut [0]);
    matches!(read, Ok(0))
        || read.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset)
}

#[test]
fn only_peers_and_those_of_a_range_get_in_and_the_others_are_counted() {
    if !possible() {
        return;
    }
    let (a, b) = neighbours();
    a.ip("addr add 192.0.2.77/24 dev eth0");
    a.ip("addr add 192.0.2.200/24 dev eth0");
    a.ip("addr add 2001:db8::77/64 dev eth0 nodad");
    let mut servers = b.run(async || {
        let admitted = || set(&["192.0.2.1/32", "192.0.2.64/26", "2001:db8::1/128"]);
        [
            Server::start(&format!("0.0.0.0:{PORT}"), admitted(), Keys::new()).await,
            Server::start(&format!("[::]:{PORT}"), admitted(), Keys::new()).await,
        ]
    });
    let mut open = Vec::new();
    for (family, source, remote, admitted) in [
        (0, "192.0.2.1", "192.0.2.2:179", true),
        (0, "192.0.2.77", "192.0.2.2:179", true),
        (0, "192.0.2.200", "192.0.2.2:179", false),
        (1, "2001:db8::1", "[2001:db8::2]:179", true),
        (1, "2001:db8::77", "[2001:db8::2]:179", false),
    ] {
        let server: &mut Server = servers.get_mut(family).unwrap();
        let refused = server.refused();
        let stream = connect(&a, source, remote);
        if admitted {
            let mut accepted = None;
            eventually(|| {
                accepted = server.accepted.try_recv().ok();
                accepted.is_some()
            });
            let accepted = accepted.unwrap();
            assert_eq!(accepted.remote.ip().to_string(), source);
            open.push((accepted, stream));
        } else {
            eventually(|| server.refused() == refused + 1);
            assert!(is_closed(stream), "{source}");
        }
    }
    assert_eq!(servers.each_ref().map(Server::refused), [1, 1]);
}

/// A server with small bounds, and all that its inbox has given so far.
fn bounded(b: &Place, per_address: usize, total: usize) -> Server {
    b.run(async move || {
        let config = ListenConfig {
            address: format!("0.0.0.0:{PORT}").parse::<SocketAddr>().unwrap(),
            slots: Arc::new(Slots::new(per_address, total)),
        };
        Server::start_with(config, set(&["192.0.2.0/24"]), Keys::new()).await
    })
}

fn take(server: &mut Server) -> Accepted {
    let mut accepted = None;
    eventually(|| {
        accepted = server.accepted.try_recv().ok();
        accepted.is_some()
    });
    accepted.unwrap()
}

#[test]
fn connections_without_a_session_are_bounded_by_address_and_in_all() {
    if !possible() {
        return;
    }
    let (a, b) = neighbours();
    for host in 11..14 {
        a.ip(&format!("addr add 192.0.2.{host}/24 dev eth0"));
    }
    let mut server = bounded(&b, 2, 3);
    let mut streams = Vec::new();
    let mut held = Vec::new();
    for source in ["192.0.2.11", "192.0.2.11", "192.0.2.12"] {
        streams.push(connect(&a, source, "192.0.2.2:179"));
        held.push(take(&mut server));
    }
    assert_eq!(server.refused(), 0);
    for (n, source) in ["192.0.2.11", "192.0.2.13"].into_iter().enumerate() {
        assert!(is_closed(connect(&a, source, "192.0.2.2:179")), "{source}");
        eventually(|| server.refused() == n as u64 + 1);
    }
    // A session came up: its place is free, its connection lives on.
    let Accepted { stream, slot, .. } = held.remove(0);
    drop(slot);
    streams.push(connect(&a, "192.0.2.13", "192.0.2.2:179"));
    held.push(take(&mut server));
    stream.try_write(b"x").unwrap();
    assert_eq!(server.refused(), 2);
    drop((streams, held));
}

#[test]
fn a_flood_from_strangers_keeps_no_peer_out() {
    if !possible() {
        return;
    }
    let (a, b) = neighbours();
    a.ip("addr add 192.0.2.200/24 dev eth0");
    let mut server = b.run(async || {
        Server::start(
            &format!("0.0.0.0:{PORT}"),
            set(&["192.0.2.1/32"]),
            Keys::new(),
        )
        .await
    });
    // Strangers' connections take no place, so that as many as they like leave the peer's free.
    let flood: Vec<TcpStream> = (0..200)
        .map(|_| connect(&a, "192.0.2.200", "192.0.2.2:179"))
        .collect();
    let _peer = connect(&a, "192.0.2.1", "192.0.2.2:179");
    assert_eq!(take(&mut server).remote.ip().to_string(), "192.0.2.1");
    eventually(|| server.refused() == flood.len() as u64);
}
