//! Starting of the real programs, each test in a network namespace of its own.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use netfilter::*;
use nix::sched::{CloneFlags, unshare};

use crate::examples::make_sets;

pub(crate) const PROGRAMS: [(&str, Family); 4] = [
    ("iptables-nft", Family::V4),
    ("iptables-legacy", Family::V4),
    ("ip6tables-nft", Family::V6),
    ("ip6tables-legacy", Family::V6),
];

/// Runs a test in a thread with a network namespace of its own; says so loudly where that is not possible.
pub(crate) fn in_namespace(test: impl FnOnce() + Send + 'static) {
    if !nix::unistd::geteuid().is_root() {
        assert!(
            std::env::var_os("REQUIRE_NETNS").is_none(),
            "REQUIRE_NETNS is set, but this is not root"
        );
        eprintln!("SKIPPED: needs root for a network namespace");
        return;
    }
    let enter_and_test = || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        test();
    };
    std::thread::spawn(enter_and_test).join().unwrap();
}

pub(crate) fn try_run(program: &str, arguments: &[&str], input: &str) -> Output {
    let mut command = Command::new(program);
    command.args(arguments).env("XTABLES_LOCKFILE", "/dev/null");
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // A program that has found a fault may not read the rest.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    child.wait_with_output().unwrap()
}

pub(crate) fn run(program: &str, arguments: &[&str], input: &str) -> String {
    let output = try_run(program, arguments, input);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {error}\n{input}"
    );
    String::from_utf8(output.stdout).unwrap()
}

pub(crate) fn iptables(program: &str, line: &str) {
    let words: Vec<&str> = line.split(' ').collect();
    run(program, &words, "");
}

pub(crate) fn save(program: &str) -> Actual {
    Actual::parse(&run(&format!("{program}-save"), &["-c"], "")).unwrap()
}

/// Carries an exact plan out and checks that what is read back is what was foretold; returns how many rules it wrote.
pub(crate) fn apply(program: &str, desired: &Ruleset) -> usize {
    let made = apply_with(program, &save(program), desired, Effort::Exact);
    assert!(!made.leftover);
    made.rules_written
}

/// Carries a plan out and checks that what is read back is what was foretold.
pub(crate) fn apply_with(program: &str, known: &Actual, desired: &Ruleset, effort: Effort) -> Plan {
    let made = plan(known, desired, effort);
    if let Some(text) = &made.restore {
        run(&format!("{program}-restore"), &["--noflush", "-w"], text);
    }
    let read_back = save(program);
    for known in [&read_back, &made.after] {
        let again = plan(known, desired, effort);
        assert_eq!(
            again.restore, None,
            "{program}: not what was wanted after\n{:?}",
            made.restore
        );
        assert_eq!(again.leftover, made.leftover);
    }
    // The kernel shows built-in chains of tables that nobody has asked for yet only once they are used.
    assert_eq!(read_back.rule_count(), made.after.rule_count());
    made
}

pub(crate) fn with_each_program(
    test: impl Fn(&'static str, Family) + Send + Sync + Copy + 'static,
) {
    for (program, family) in PROGRAMS {
        in_namespace(move || {
            make_sets(family);
            test(program, family);
        });
    }
}
