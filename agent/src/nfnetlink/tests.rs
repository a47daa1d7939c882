//! Against the kernel, each test in a network namespace of its own: packets wait for verdicts, and are shown.

use std::net::UdpSocket;
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};

use super::*;
use crate::exec::testing::run;

const PATIENCE: Duration = Duration::from_secs(5);
const LOOPBACK: [(&str, &str); 2] = [("iptables", "127.0.0.1:0"), ("ip6tables", "[::1]:0")];

/// A namespace for the calling thread, with loopback.
pub(crate) fn own_namespace() {
    unshare(CloneFlags::CLONE_NEWNET).expect("root, for a network namespace");
    run("ip", "link set lo up");
}

fn pair(address: &str) -> (UdpSocket, UdpSocket) {
    let one = UdpSocket::bind(address).unwrap();
    let other = UdpSocket::bind(address).unwrap();
    one.connect(other.local_addr().unwrap()).unwrap();
    other.set_nonblocking(true).unwrap();
    (one, other)
}

async fn arrives(socket: &UdpSocket) -> Vec<u8> {
    let mut buffer = [0; 64];
    for _ in 0..500 {
        if let Ok(length) = socket.recv(&mut buffer) {
            return buffer[..length].to_vec();
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("nothing came");
}

#[tokio::test]
async fn a_packet_waits_for_its_verdict_and_without_a_reader_goes_on() {
    own_namespace();
    for (program, address) in LOOPBACK {
        let (sender, receiver) = pair(address);
        let port = receiver.local_addr().unwrap().port();
        run(
            program,
            &format!("-A OUTPUT -p udp --dport {port} -j NFQUEUE --queue-num 7 --queue-bypass"),
        );
        let mut queue = Queue::open(7, 16).await.unwrap();
        assert!(Queue::open(7, 16).await.is_err(), "it is taken");
        sender.send(b"one").unwrap();
        let held = tokio::time::timeout(PATIENCE, queue.next())
            .await
            .unwrap()
            .unwrap();
        let packet = Packet::read(&held.octets).unwrap();
        assert_eq!(packet.datagram(), Some(&b"one"[..]));
        assert_eq!(packet.ports().unwrap().1, port);
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(receiver.recv(&mut [0; 8]).is_err(), "it waits");
        queue.verdicts().accept(held.id).unwrap();
        assert_eq!(arrives(&receiver).await, b"one");
        drop(queue);
        sender.send(b"two").unwrap();
        assert_eq!(arrives(&receiver).await, b"two");
    }
}

#[tokio::test]
async fn more_than_the_queue_holds_go_on_unheld() {
    own_namespace();
    let (sender, receiver) = pair("127.0.0.1:0");
    run(
        "iptables",
        "-A OUTPUT -p udp -j NFQUEUE --queue-num 7 --queue-bypass",
    );
    let queue = Queue::open(7, 3).await.unwrap();
    for number in 0..10_u8 {
        sender.send(&[number]).unwrap();
    }
    assert_eq!(arrives(&receiver).await, [3]);
    for number in 4..10 {
        assert_eq!(arrives(&receiver).await, [number]);
    }
    drop(queue);
}

#[tokio::test]
async fn a_packet_is_shown_with_its_rules_prefix_and_those_not_read_are_counted() {
    own_namespace();
    let mut log = Log::open(7).await.unwrap();
    assert!(Log::open(7).await.is_err(), "it is taken");
    for (program, address) in LOOPBACK {
        let (sender, receiver) = pair(address);
        let port = receiver.local_addr().unwrap().port();
        run(
            program,
            &format!(
                "-A OUTPUT -p udp --dport {port} -j NFLOG --nflog-group 7 --nflog-prefix PTL-x"
            ),
        );
        sender.send(b"one").unwrap();
        let shown = tokio::time::timeout(PATIENCE, log.next())
            .await
            .unwrap()
            .unwrap();
        assert_eq!(shown.prefix, "PTL-x");
        assert!(shown.output.is_some() && shown.input.is_none());
        let packet = Packet::read(&shown.octets).unwrap();
        assert_eq!(packet.destination, receiver.local_addr().unwrap().ip());
        assert_eq!(packet.ports().unwrap().1, port);
    }
    assert_eq!(log.lost(), 0);
    // Nobody reads while more come than the buffer holds.
    run(
        "iptables",
        "-A OUTPUT -p udp -j NFLOG --nflog-group 7 --nflog-prefix PTL-y",
    );
    let (sender, _receiver) = pair("127.0.0.1:0");
    for _ in 0..100_000 {
        sender.send(&[0; 1000]).unwrap();
    }
    let mut seen = 0;
    while let Ok(shown) = tokio::time::timeout(Duration::from_millis(500), log.next()).await {
        shown.unwrap();
        seen += 1;
    }
    sender.send(b"last").unwrap();
    tokio::time::timeout(PATIENCE, log.next())
        .await
        .unwrap()
        .unwrap();
    assert!(log.lost() > 0, "the buffer held all {seen}: send more");
    assert_eq!(seen + 1 + log.lost(), 100_001);
}
