//! Against the kernel: an answer waits until its addresses are in force, and the DNS goes on whatever happens.

use std::collections::BTreeSet;
use std::net::{SocketAddr, UdpSocket};
use std::time::Instant;

use api::resources::DomainName;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::SndBufForce;

use super::*;
use crate::exec::testing::run;
use crate::nfnetlink::tests::own_namespace;

/// `www.example.test` asked for A: 192.0.2.7.
const ANSWER: &[u8] = b"\x12\x34\x81\x80\0\x01\0\x01\0\0\0\0\
    \x03www\x07example\x04test\0\0\x01\0\x01\xc0\x0c\0\x01\0\x01\0\0\0\x0a\0\x04\xc0\0\x02\x07";

struct Bench {
    resolver: UdpSocket,
    pod: UdpSocket,
    core: mpsc::Receiver<Message>,
    applied: watch::Sender<firewall::Applied>,
    names: watch::Sender<Names>,
    counts: Arc<Counts>,
}

/// A resolver and a pod on loopback, and the task between them.
async fn bench(address: &str) -> Bench {
    own_namespace();
    for program in ["iptables", "ip6tables"] {
        run(
            program,
            "-A OUTPUT -p udp --sport 53 -j NFQUEUE --queue-num 9 --queue-bypass",
        );
        run(
            program,
            "-A OUTPUT -p tcp --sport 53 -j NFQUEUE --queue-num 9 --queue-bypass",
        );
    }
    let (sender, core) = mpsc::channel(HELD);
    let (applied, applied_now) = watch::channel(firewall::Applied::default());
    let name = DomainName::new("*.example.test").unwrap();
    let (names, names_now) = watch::channel(Some(Arc::new(BTreeSet::from([name]))));
    let counts = Arc::<Counts>::default();
    tokio::spawn(run_task(Task {
        queue: 9,
        names: names_now,
        core: sender,
        applied: applied_now,
        counts: Arc::clone(&counts),
    }));
    tokio::time::sleep(Duration::from_millis(100)).await;
    let address: SocketAddr = address.parse().unwrap();
    let resolver = UdpSocket::bind(address).unwrap();
    let pod = UdpSocket::bind((address.ip(), 0)).unwrap();
    pod.set_nonblocking(true).unwrap();
    // Held datagrams count as not sent yet.
    setsockopt(&resolver, SndBufForce, &(8 << 20)).unwrap();
    resolver.connect(pod.local_addr().unwrap()).unwrap();
    Bench {
        resolver,
        pod,
        core,
        applied,
        names,
        counts,
    }
}

impl Bench {
    async fn arrives_within(&self, patience: Duration) -> bool {
        let end = Instant::now() + patience;
        while Instant::now() < end {
            if self.pod.recv(&mut [0; 512]).is_ok() {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        false
    }

    async fn asked(&mut self) -> (DnsAnswer, oneshot::Sender<u64>) {
        let message = tokio::time::timeout(Duration::from_secs(5), self.core.recv()).await;
        match message.unwrap().unwrap() {
            Message::DnsAnswer { answer, reply } => (answer, reply),
            _ => panic!("something else"),
        }
    }

    fn count(&self, name: &str) -> u64 {
        let answers = self.counts.report().answers;
        let found = answers.into_iter().find(|(outcome, _)| outcome == name);
        found.unwrap().1
    }
}

async fn waits_for_the_kernel(address: &str) {
    let mut bench = bench(address).await;
    bench.resolver.send(ANSWER).unwrap();
    let (answer, reply) = bench.asked().await;
    assert_eq!(answer.question, "www.example.test");
    assert!(!bench.arrives_within(Duration::from_millis(100)).await);
    reply.send(5).unwrap();
    bench.applied.send_modify(|state| state.generation = 4);
    assert!(!bench.arrives_within(Duration::from_millis(100)).await);
    bench.applied.send_modify(|state| state.generation = 5);
    assert!(bench.arrives_within(Duration::from_secs(1)).await);
    assert_eq!(bench.count("held"), 1);
}

#[tokio::test]
async fn an_answer_waits_until_its_addresses_are_in_force_over_ipv4() {
    waits_for_the_kernel("127.0.0.1:53").await;
}

#[tokio::test]
async fn an_answer_waits_until_its_addresses_are_in_force_over_ipv6() {
    waits_for_the_kernel("[::1]:53").await;
}

#[tokio::test]
async fn other_names_and_what_is_no_answer_go_on_at_once() {
    let bench = bench("127.0.0.1:53").await;
    let mut other = ANSWER.to_vec();
    other[17] = b'E' + 1;
    for message in [&other, &ANSWER[..20], b"?", b""] {
        bench.resolver.send(message).unwrap();
        assert!(bench.arrives_within(Duration::from_secs(1)).await);
    }
    assert_eq!((bench.count("passed"), bench.count("malformed")), (1, 3));
    bench.names.send_replace(Some(Arc::default()));
    bench.resolver.send(ANSWER).unwrap();
    assert!(bench.arrives_within(Duration::from_secs(1)).await);
    assert_eq!(bench.count("passed"), 2);
}

#[tokio::test]
async fn a_firewall_that_does_not_follow_holds_nobody_longer_than_two_seconds() {
    let mut bench = bench("127.0.0.1:53").await;
    let start = Instant::now();
    bench.resolver.send(ANSWER).unwrap();
    bench.asked().await.1.send(1).unwrap();
    assert!(bench.arrives_within(PATIENCE * 3).await);
    assert!(start.elapsed() >= PATIENCE);
    assert_eq!(bench.count("late"), 1);
}

#[tokio::test]
async fn while_the_firewall_fails_nobody_is_held() {
    let mut bench = bench("127.0.0.1:53").await;
    bench
        .applied
        .send_modify(|state| state.error = Some("a test".to_owned()));
    bench.resolver.send(ANSWER).unwrap();
    bench.asked().await.1.send(1).unwrap();
    assert!(bench.arrives_within(PATIENCE / 2).await);
    assert_eq!(bench.count("late"), 1);
}

#[tokio::test]
async fn more_than_can_be_held_go_on_unheld_and_are_learned_from() {
    let mut bench = bench("127.0.0.1:53").await;
    for _ in 0..HELD + 3 {
        bench.resolver.send(ANSWER).unwrap();
    }
    // The core does not answer: only what has no room goes on before the end of patience. What it is told is bounded, too.
    assert!(bench.arrives_within(PATIENCE).await);
    let over = bench.count("unheld") + bench.count("unread");
    assert_eq!((over, bench.count("late")), (3, 0));
    for _ in 0..HELD {
        bench.asked().await;
    }
}

/// What has come by TCP within a tenth of a second.
async fn come(pod: &tokio::net::TcpStream) -> usize {
    tokio::time::sleep(Duration::from_millis(100)).await;
    pod.try_read(&mut [0; 4096]).unwrap_or(0)
}

async fn by_tcp(address: &str) {
    use tokio::io::AsyncWriteExt as _;
    let mut bench = bench(address).await;
    let listener = tokio::net::TcpListener::bind(address).await.unwrap();
    let pod = tokio::net::TcpStream::connect(address).await.unwrap();
    let (mut resolver, _) = listener.accept().await.unwrap();
    resolver.set_nodelay(true).unwrap();
    let length = u16::try_from(ANSWER.len()).unwrap().to_be_bytes();
    let octets = [&length, ANSWER].concat();
    // Parts of a message wait for nothing.
    for part in [&octets[..1], &octets[1..30]] {
        resolver.write_all(part).await.unwrap();
        assert_eq!(come(&pod).await, part.len());
    }
    // Its end waits, and what comes after it, too.
    resolver.write_all(&octets[30..]).await.unwrap();
    let (answer, reply) = bench.asked().await;
    assert_eq!(answer.question, "www.example.test");
    resolver.write_all(&octets[..5]).await.unwrap();
    assert_eq!(come(&pod).await, 0);
    reply.send(5).unwrap();
    assert_eq!(come(&pod).await, 0);
    bench.applied.send_modify(|state| state.generation = 5);
    assert_eq!(come(&pod).await, octets.len() - 30 + 5);
    assert_eq!((bench.count("held"), bench.count("unfollowed")), (1, 0));
    assert_eq!((bench.count("late"), bench.count("malformed")), (0, 0));
}

#[tokio::test]
async fn an_answer_by_tcp_in_parts_waits_with_its_last_part_over_ipv4() {
    by_tcp("127.0.0.1:53").await;
}

#[tokio::test]
async fn an_answer_by_tcp_in_parts_waits_with_its_last_part_over_ipv6() {
    by_tcp("[::1]:53").await;
}
