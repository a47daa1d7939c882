//! Speakers in a network namespace of the test's own, and what they say of their routes.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    reason = "each test uses a part of it"
)]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bgp_proto::rib::Originated;
use bgp_proto::session::{PeerAs, State};
use bgp_proto::speaker::PeerStatus;
use bgp_proto::wire::Asn;
use bgp_speaker::{Config, Handle, Peer, RouteEvent, spawn};
use ipnet::IpNet;

pub const DEADLINE: Duration = Duration::from_secs(60);
const PORT: u16 = 1790;

/// Runs a test in a network namespace of its own, whose loopback holds 10.99.0.0/24: as a next hop, 127.0.0.0/8 is
/// malformed. Without root it says on standard error that the test did not run, or fails where `REQUIRE_NETNS=1`.
pub fn run(test: impl Future<Output = ()>) {
    if !nix::unistd::geteuid().is_root() {
        let required = std::env::var("REQUIRE_NETNS").is_ok_and(|value| value == "1");
        assert!(!required, "root is needed for network namespaces");
        let line = b"SKIPPED, NOT RUN: bgp-speaker tests need root (network namespaces)\n";
        std::io::stderr().write_all(line).unwrap();
        return;
    }
    // The test has a thread of its own, and all threads and programs it starts inherit the namespace.
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
    for words in ["link set lo up", "addr add 10.99.0.0/24 dev lo"] {
        assert!(
            Command::new("ip")
                .args(words.split(' '))
                .status()
                .unwrap()
                .success()
        );
    }
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(test);
}

/// The addresses of a test.
pub struct Net;

impl Net {
    pub fn new() -> Self {
        Self
    }

    pub fn ip(&self, host: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 99, 0, host)
    }

    pub fn address(&self, host: u8) -> SocketAddr {
        (self.ip(host), PORT).into()
    }

    /// The configuration of node `host`, in AS 65000 + `host`, with the given others as peers.
    pub fn config(&self, host: u8, peers: &[u8], originate: &[&str]) -> Config {
        Config {
            listen: vec![self.address(host)],
            peers: peers
                .iter()
                .map(|&peer| (name(peer), self.peer(host, peer)))
                .collect(),
            originate: originated(&nets(originate)),
            ..Config::new(asn(host), Ipv4Addr::new(10, 0, 0, host))
        }
    }

    fn peer(&self, host: u8, peer: u8) -> Peer {
        let source = Some(IpAddr::V4(self.ip(host)));
        let mut peer = Peer::at(self.address(peer), PeerAs::Number(asn(peer)), source);
        peer.session.max_prefixes.limit = 1_000_000;
        peer
    }
}

pub fn asn(host: u8) -> Asn {
    Asn(65_000 + u32::from(host))
}

pub fn name(host: u8) -> String {
    format!("n{host}")
}

pub fn nets(texts: &[&str]) -> BTreeSet<IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

pub fn originated(prefixes: &BTreeSet<IpNet>) -> BTreeMap<IpNet, Originated> {
    let plain = |prefix: &IpNet| (*prefix, Originated::default());
    prefixes.iter().map(plain).collect()
}

/// A running speaker and what it has said so far.
pub struct Node {
    pub handle: Handle,
    heard: Arc<Mutex<Heard>>,
}

#[derive(Default)]
struct Heard {
    routes: BTreeMap<IpNet, Vec<IpAddr>>,
    withdrawals: usize,
    initial_syncs: usize,
    ended: bool,
}

impl Heard {
    fn take(&mut self, event: RouteEvent) {
        let changes = match event {
            RouteEvent::Changes(changes) => changes,
            RouteEvent::InitialSync => {
                self.initial_syncs += 1;
                return;
            }
            RouteEvent::GatewayDown(_) | RouteEvent::GatewayUp(_) => return,
        };
        for change in changes {
            if change.next_hops.is_empty() {
                self.withdrawals += 1;
                self.routes.remove(&change.prefix);
            } else {
                let hops = change.next_hops.iter().map(|hop| hop.address);
                self.routes.insert(change.prefix, hops.collect());
            }
        }
    }
}

impl Node {
    pub fn start(config: Config) -> Self {
        let (handle, mut events) = spawn(config);
        let heard = Arc::new(Mutex::new(Heard::default()));
        let listener = Arc::clone(&heard);
        tokio::spawn(async move {
            while let Some(event) = events.next().await {
                listener.lock().unwrap().take(event);
            }
            listener.lock().unwrap().ended = true;
        });
        Self { handle, heard }
    }

    pub fn prefixes(&self) -> BTreeSet<IpNet> {
        self.heard.lock().unwrap().routes.keys().copied().collect()
    }

    pub fn next_hops(&self, prefix: &str) -> Vec<IpAddr> {
        let prefix: IpNet = prefix.parse().unwrap();
        self.heard
            .lock()
            .unwrap()
            .routes
            .get(&prefix)
            .cloned()
            .unwrap_or_default()
    }

    pub fn withdrawals(&self) -> usize {
        self.heard.lock().unwrap().withdrawals
    }

    pub fn initial_syncs(&self) -> usize {
        self.heard.lock().unwrap().initial_syncs
    }

    pub fn has_ended(&self) -> bool {
        self.heard.lock().unwrap().ended
    }

    pub async fn peer(&self, host: u8) -> PeerStatus {
        let all = self.handle.status().await.unwrap();
        all.into_iter()
            .find(|status| status.name == name(host))
            .unwrap()
    }

    /// Waits until exactly these prefixes are learned.
    pub async fn learns(&self, prefixes: &[&str]) {
        let wanted = nets(prefixes);
        let start = Instant::now();
        while self.prefixes() != wanted {
            if start.elapsed() > DEADLINE {
                let (learned, status) = (self.prefixes(), self.handle.status().await);
                panic!("{wanted:?} awaited, {learned:?} learned: {status:#?}");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn establishes(&self, host: u8) {
        let start = Instant::now();
        loop {
            let status = self.peer(host).await;
            if status.state == State::Established {
                return;
            }
            assert!(start.elapsed() < DEADLINE, "{status:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

pub async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(
            start.elapsed() < DEADLINE,
            "{what}: not within {DEADLINE:?}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
