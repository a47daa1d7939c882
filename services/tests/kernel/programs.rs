//! Starting of the real programs, each test in a network namespace of its own.

use std::io::Write as _;
use std::process::{Command, Stdio};

use netfilter::Family;
use nix::sched::{CloneFlags, unshare};

const PROGRAMS: [(&str, Family); 4] = [
    ("iptables-nft", Family::V4),
    ("iptables-legacy", Family::V4),
    ("ip6tables-nft", Family::V6),
    ("ip6tables-legacy", Family::V6),
];

/// Runs a test for each family, likewise.
pub(crate) fn with_each_family(test: impl Fn(Family) + Send + Copy + 'static) {
    with_each_program(move |program, family| {
        if program.ends_with("-nft") {
            test(family);
        }
    });
}

/// Runs a test for each program, in a thread with a network namespace of its own; says so loudly where that can't be.
pub(crate) fn with_each_program(test: impl Fn(&'static str, Family) + Send + Copy + 'static) {
    if !nix::unistd::geteuid().is_root() {
        assert!(
            std::env::var_os("REQUIRE_NETNS").is_none(),
            "REQUIRE_NETNS is set, but this is not root"
        );
        eprintln!("SKIPPED: needs root for a network namespace");
        return;
    }
    for (program, family) in PROGRAMS {
        let enter_and_test = move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            test(program, family);
        };
        std::thread::spawn(enter_and_test).join().unwrap();
    }
}

/// Runs a program to its end; it must succeed.
pub(crate) fn run(program: &str, arguments: &[&str], input: &str) -> String {
    let mut command = Command::new(program);
    command.args(arguments).env("XTABLES_LOCKFILE", "/dev/null");
    let streams = command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = streams.stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // A program that has found a fault may not read the rest.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {error}\n{input}"
    );
    String::from_utf8(output.stdout).unwrap()
}
