//! A network namespace per test thread, `ip` inside it, and pods as threads in namespaces of their own.
#![allow(dead_code, reason = "each test program uses its part")]

use std::fs::File;
use std::future::Future;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};

/// Runs a test in a fresh namespace with a one-thread runtime; without root it says so and passes,
/// unless REQUIRE_NETNS=1.
pub(crate) fn in_netns<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    let thread = std::thread::spawn(move || {
        if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
            let required = std::env::var("REQUIRE_NETNS").is_ok_and(|v| v == "1");
            assert!(
                !required,
                "REQUIRE_NETNS=1, but no network namespace can be made: {error}"
            );
            eprintln!("SKIPPED, not tested: no network namespace can be made: {error}");
            return;
        }
        ip("link set lo up");
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().build().unwrap().block_on(test());
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs `ip`, expecting success; returns what it printed.
pub(crate) fn ip(arguments: &str) -> String {
    run("ip", arguments)
}

/// Runs a program, expecting success; returns what it printed.
pub(crate) fn run(program: &str, arguments: &str) -> String {
    run_with(program, arguments, "")
}

/// Runs a program with a text as its input, expecting success; returns what it printed.
pub(crate) fn run_with(program: &str, arguments: &str, input: &str) -> String {
    let mut child = Command::new(program)
        .args(arguments.split_whitespace())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // One that does not read closes it; whether it succeeded is what counts.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

/// Routes of ours in table main, v4 and v6, one a line, blanks squeezed.
pub(crate) fn ours() -> Vec<String> {
    let mut lines = Vec::new();
    for family in ["-4", "-6"] {
        // A namespace without any route has no table main, which `ip` calls an error.
        let arguments = [family, "route", "show", "table", "main", "proto", "179"];
        let output = Command::new("ip").args(arguments).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        lines.extend(
            text.lines()
                .map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ")),
        );
    }
    lines
}

/// A link with 192.0.2.1/24 and 2001:db8::1/64; any neighbour there is a valid next hop.
pub(crate) fn uplink() {
    ip("link add up0 type veth peer name up1");
    ip("addr add 192.0.2.1/24 dev up0");
    ip("-6 addr add 2001:db8::1/64 dev up0 nodad");
    ip("link set up1 up");
    ip("link set up0 up");
}

type Job = Box<dyn FnOnce() + Send>;

/// A thread that lives in its own namespace.
pub(crate) struct Pod {
    jobs: Sender<Job>,
}

impl Pod {
    pub(crate) fn new() -> Self {
        let (jobs, queue) = channel::<Job>();
        std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            for job in queue {
                job();
            }
        });
        Self { jobs }
    }

    /// Runs a job inside and waits for what it returns.
    pub(crate) fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (result, wait) = channel();
        self.jobs
            .send(Box::new(move || result.send(job()).unwrap()))
            .unwrap();
        wait.recv_timeout(Duration::from_secs(20)).unwrap()
    }

    pub(crate) fn ip(&self, arguments: &'static str) -> String {
        self.run(move || ip(arguments))
    }

    pub(crate) fn netns(&self) -> File {
        self.run(|| File::open("/proc/thread-self/ns/net").unwrap())
    }

    /// A netlink socket made inside, as the plugin passes one.
    pub(crate) fn netlink(&self) -> OwnedFd {
        self.run(|| {
            let protocol = SockProtocol::NetlinkRoute;
            socket(
                AddressFamily::Netlink,
                SockType::Raw,
                SockFlag::SOCK_CLOEXEC,
                protocol,
            )
            .unwrap()
        })
    }
}
