//! Places: threads in network namespaces of their own, joined by links, where a test's two ends run.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    reason = "each test uses a part of it"
)]
#![allow(clippy::unwrap_used, reason = "a test")]

use std::io::Write as _;
use std::net::SocketAddr;
use std::num::NonZeroU8;
use std::pin::Pin;
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

use bgp_speaker::listener::{Accepted, Admitted, AdmittedSet, Keys, ListenConfig, Listener};
use bgp_speaker::socket::{Password, Ttl};
use tokio::sync::{mpsc, watch};

pub const DEADLINE: Duration = Duration::from_secs(30);
pub const PORT: u16 = 179;

type Job = Box<dyn FnOnce() -> Pin<Box<dyn Future<Output = ()>>> + Send>;

/// A thread in a namespace of its own; what is spawned there runs until the place is dropped.
pub struct Place {
    jobs: mpsc::Sender<Job>,
    thread: i32,
}

/// Whether namespaces can be made. Says so on standard error if not, or fails where `REQUIRE_NETNS=1`.
pub fn possible() -> bool {
    if nix::unistd::geteuid().is_root() {
        return true;
    }
    let required = std::env::var("REQUIRE_NETNS").is_ok_and(|value| value == "1");
    assert!(!required, "root is needed for network namespaces");
    let line = b"SKIPPED, NOT RUN: bgp-speaker socket tests need root (network namespaces)\n";
    std::io::stderr().write_all(line).unwrap();
    false
}

impl Place {
    pub fn new() -> Self {
        let (jobs, mut queue) = mpsc::channel::<Job>(16);
        let (started, thread) = sync_channel(1);
        std::thread::spawn(move || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            ip("link set lo up");
            started.send(nix::unistd::gettid().as_raw()).unwrap();
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = runtime.enable_all().build().unwrap();
            tokio::task::LocalSet::new().block_on(&runtime, async {
                while let Some(job) = queue.recv().await {
                    tokio::task::spawn_local(job());
                }
            });
        });
        let thread = thread.recv_timeout(DEADLINE).unwrap();
        Self { jobs, thread }
    }

    /// Runs a job there and waits for what it gives; a job that panics or hangs fails the test.
    pub fn run<T, F>(&self, job: impl FnOnce() -> F + Send + 'static) -> T
    where
        T: Send + 'static,
        F: Future<Output = T> + 'static,
    {
        let (give, result) = sync_channel(1);
        self.start(job, give);
        result.recv_timeout(DEADLINE).unwrap()
    }

    fn start<T, F>(&self, job: impl FnOnce() -> F + Send + 'static, give: SyncSender<T>)
    where
        T: Send + 'static,
        F: Future<Output = T> + 'static,
    {
        let job: Job = Box::new(move || {
            let work = job();
            Box::pin(async move {
                let _ = give.send(work.await);
            })
        });
        self.jobs
            .try_send(job)
            .map_err(|_| "place is gone")
            .unwrap();
    }

    pub fn ip(&self, arguments: &str) {
        let arguments = arguments.to_owned();
        self.run(async move || ip(&arguments));
    }

    pub fn sysctl(&self, name: &'static str, value: &'static str) {
        self.run(async move || std::fs::write(format!("/proc/sys/net/{name}"), value).unwrap());
    }
}

/// Joins two places by a link; each end is up, with these addresses at once in force.
pub fn join(left: (&Place, &str, &[&str]), right: (&Place, &str, &[&str])) {
    left.0.ip(&format!(
        "link add {} type veth peer name {} netns {}",
        left.1, right.1, right.0.thread
    ));
    for (place, name, addresses) in [left, right] {
        place.ip(&format!("link set {name} addrgenmode none"));
        place.ip(&format!("link set {name} up"));
        for address in addresses {
            let nodad = if address.contains(':') { "nodad" } else { "" };
            place.ip(&format!("addr add {address} dev {name} {nodad}"));
        }
    }
}

/// Two places on one link, `eth0` at both ends: 192.0.2.1 and .2, 2001:db8::1 and ::2, fe80::1 and ::2.
pub fn neighbours() -> (Place, Place) {
    let (a, b) = (Place::new(), Place::new());
    join(
        (
            &a,
            "eth0",
            &["192.0.2.1/24", "2001:db8::1/64", "fe80::1/64"],
        ),
        (
            &b,
            "eth0",
            &["192.0.2.2/24", "2001:db8::2/64", "fe80::2/64"],
        ),
    );
    (a, b)
}

fn ip(arguments: &str) {
    let output = Command::new("ip")
        .args(arguments.split_whitespace())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments}: {said}");
}

/// A listener and what it has accepted.
pub struct Server {
    pub listener: Listener,
    pub accepted: mpsc::Receiver<Accepted>,
    admitted: watch::Sender<Admitted>,
}

impl Server {
    /// Listens on `address` and returns once it does. To be called in a place.
    pub async fn start(address: &str, admitted: AdmittedSet, keys: Keys) -> Self {
        let config = ListenConfig {
            address: address.parse().unwrap(),
            slots: Arc::default(),
        };
        Self::start_with(config, admitted, keys).await
    }

    pub async fn start_with(config: ListenConfig, admitted: AdmittedSet, keys: Keys) -> Self {
        let (inbox, accepted) = mpsc::channel(1);
        let admitted = watch::Sender::new(Arc::new(admitted));
        let listener = Listener::start_with(config, keys, admitted.subscribe(), inbox);
        // The first step of its task opens the socket.
        tokio::task::yield_now().await;
        assert_eq!(listener.status().error, None);
        Self {
            listener,
            accepted,
            admitted,
        }
    }

    /// The next connection, if one comes in time.
    pub async fn accept(&mut self, within: Duration) -> Option<Accepted> {
        tokio::time::timeout(within, self.accepted.recv())
            .await
            .ok()
            .flatten()
    }

    pub fn refused(&self) -> u64 {
        self.listener.status().refused
    }
}

pub fn at(address: &str) -> SocketAddr {
    address.parse().unwrap()
}

pub fn hops(n: u8) -> Ttl {
    Ttl::Hops(NonZeroU8::new(n).unwrap())
}

pub fn security(n: u8) -> Ttl {
    Ttl::Security(NonZeroU8::new(n).unwrap())
}

pub fn keys(of: &[(&str, &str)]) -> Keys {
    of.iter()
        .map(|(net, key)| (net.parse().unwrap(), Password::new(key).unwrap()))
        .collect()
}

pub fn eventually(mut holds: impl FnMut() -> bool) {
    let start = std::time::Instant::now();
    while !holds() {
        assert!(start.elapsed() < DEADLINE, "not within {DEADLINE:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
