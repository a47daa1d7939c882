//! A peer that never reads slows only itself, and costs bounded memory.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

mod support;

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::Duration;

use bgp_proto::session::State;
use bgp_proto::wire::{Capability, Decoder, Family, Message, Open, WireContext};
use bytes::BytesMut;
use ipnet::{IpNet, Ipv4Net};
use support::{DEADLINE, Net, Node, asn, eventually, run};

const SLOW: u8 = 3;
const MANY: u32 = 5_000;
/// Twice as many as the writer's queue and the sockets' buffers (64 KiB here) take.
const CHANGES: u8 = 30;

fn context() -> WireContext {
    WireContext {
        four_byte_as: true,
        internal: false,
        families: vec![Family::IPV4_UNICAST],
        ..WireContext::default()
    }
}

/// Takes the speaker's dial, opens a session without a hold timer and then reads nothing.
fn establish(listener: &TcpListener) -> TcpStream {
    let (mut stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let open = Message::Open(Open {
        asn: asn(SLOW),
        hold_time: 0,
        bgp_id: Ipv4Addr::new(10, 0, 0, SLOW),
        capabilities: vec![
            Capability::Multiprotocol(Family::IPV4_UNICAST),
            Capability::FourByteAs(asn(SLOW)),
        ],
    });
    let mut bytes = BytesMut::new();
    open.encode(&context(), &mut bytes);
    Message::Keepalive.encode(&context(), &mut bytes);
    stream.write_all(&bytes).unwrap();
    stream
}

/// The prefixes of every other round, and one of this round that is announced after all of them.
fn many(round: u8) -> (BTreeSet<IpNet>, IpNet) {
    let base = 0x1400_0000 + (u32::from(round % 2) << 24);
    let mut all: BTreeSet<IpNet> = (0..MANY)
        .map(|n| Ipv4Net::new((base + n).into(), 32).unwrap().into())
        .collect();
    let last = Ipv4Net::new(Ipv4Addr::new(30, 0, round, 0), 24)
        .unwrap()
        .into();
    all.insert(last);
    (all, last)
}

/// Reads until the marker is announced; how many prefixes were announced and withdrawn on the way.
fn read_until(mut stream: TcpStream, marker: IpNet) -> usize {
    let mut decoder = Decoder::new();
    let mut buffer = vec![0; 1 << 16];
    let mut seen = 0;
    loop {
        let read = stream.read(&mut buffer).unwrap();
        assert_ne!(read, 0, "the session was closed");
        decoder.push(&buffer[..read]);
        while let Some(message) = decoder.next(&context()).unwrap() {
            let Message::Update(update) = message else {
                continue;
            };
            seen += update.announced.len() + update.withdrawn.len();
            if update.announced.contains(&marker.into()) {
                return seen;
            }
        }
    }
}

#[test]
fn a_peer_that_never_reads_delays_nobody_and_gets_only_the_last_word() {
    run(async {
        for sysctl in ["tcp_wmem", "tcp_rmem"] {
            // Of the test's own namespace.
            std::fs::write(format!("/proc/sys/net/ipv4/{sysctl}"), "4096 16384 65536").unwrap();
        }
        let net = Net::new();
        let listener = TcpListener::bind(net.address(SLOW)).unwrap();
        let a = Node::start(net.config(1, &[2, SLOW], &[]));
        let stream = tokio::task::spawn_blocking(move || establish(&listener))
            .await
            .unwrap();
        let b = Node::start(net.config(2, &[1], &[]));
        a.establishes(SLOW).await;
        a.establishes(2).await;

        let mut config = net.config(1, &[2, SLOW], &[]);
        for round in 0..CHANGES {
            let (all, last) = many(round);
            config.originate = support::originated(&all);
            a.handle.configure(config.clone()).await.unwrap();
            let last = last.to_string();
            eventually("the reader to have it all", || {
                !b.next_hops(&last).is_empty()
            })
            .await;
        }
        let marker: IpNet = "192.0.2.0/24".parse().unwrap();
        config.originate = support::originated(&BTreeSet::from([marker]));
        a.handle.configure(config).await.unwrap();
        b.learns(&["192.0.2.0/24"]).await;

        assert_eq!(a.peer(SLOW).await.state, State::Established);
        let seen = tokio::task::spawn_blocking(move || read_until(stream, marker))
            .await
            .unwrap();
        let all_changes = usize::from(CHANGES) * 2 * MANY as usize;
        assert!(
            seen < all_changes * 3 / 4,
            "{seen} of {all_changes}: what was overtaken was sent all the same"
        );
        tokio::time::timeout(Duration::from_secs(1), a.handle.status())
            .await
            .unwrap()
            .unwrap();
    });
}
