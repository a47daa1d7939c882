//! What is compiled is taken by the real programs, and read back as it was meant.
#![expect(
    clippy::disallowed_methods,
    reason = "a test, which starts the real programs"
)]

use std::io::Write as _;
use std::process::{Command, Stdio};

use api::resources::Protocol;
use netfilter::{Actual, ActualSets, Effort, parse_sets, plan, plan_sets};
use nix::sched::{CloneFlags, unshare};

use super::fixture::*;

fn run(program: &str, arguments: &[&str], input: &str) -> String {
    let mut command = Command::new(program);
    command.args(arguments).env("XTABLES_LOCKFILE", "/dev/null");
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {error}\n{input}"
    );
    String::from_utf8(output.stdout).unwrap()
}

fn full() -> Cluster {
    let mut cluster = Cluster::small();
    for number in 0..40 {
        let name = format!("a/many{number}");
        let address = format!("10.0.2.{number}");
        let sixth = format!("fd00:2::{number:x}");
        cluster.local(
            &format!("ptl1{number:010x}"),
            pod(&name, "app=x", &[&address, &sixth]),
        );
        let mut one = policy(&name, "app=x");
        let ports = (1..20)
            .map(|n| port(Protocol::Sctp, n * 10, n * 10 + n % 2))
            .collect();
        let peers = vec![
            pods(None, "app"),
            block("0.0.0.0/0", &["10.0.0.0/8"]),
            block("::/0", &[]),
            pods(Some(""), ""),
        ];
        one.egress = Some(vec![rule(Some(peers), Some(ports)), rule(None, None)]);
        one.ingress = Some(vec![]);
        cluster.policies.push(one);
    }
    cluster
}

fn install(programs: [&str; 2], cluster: &Cluster) -> usize {
    let compiled = cluster.compile();
    let mut all = compiled.v4.sets.clone();
    all.extend(compiled.v6.sets.clone());
    let sets = plan_sets(&parse_sets(&run("ipset", &["save"], "")).unwrap(), &all);
    if let Some(text) = &sets.before {
        run("ipset", &["restore", "-exist"], text);
    }
    let mut written = sets.members_written;
    for (program, family) in programs.into_iter().zip([&compiled.v4, &compiled.v6]) {
        let save = format!("{program}-save");
        let made = plan(
            &Actual::parse(&run(&save, &[], "")).unwrap(),
            &family.rules,
            Effort::Exact,
        );
        if let Some(text) = &made.restore {
            run(&format!("{program}-restore"), &["--noflush", "-w"], text);
        }
        written += made.rules_written;
        let again = plan(
            &Actual::parse(&run(&save, &[], "")).unwrap(),
            &family.rules,
            Effort::Exact,
        );
        assert_eq!(again.restore, None, "{program}");
    }
    if let Some(text) = &sets.after {
        run("ipset", &["restore", "-exist"], text);
    }
    let again = plan_sets(&parse_sets(&run("ipset", &["save"], "")).unwrap(), &all);
    assert_eq!((again.before, again.after), (None, None));
    written
}

#[test]
fn compiled_rules_are_installed_read_back_and_taken_away_by_both_back_ends() {
    if !nix::unistd::geteuid().is_root() {
        assert!(
            std::env::var_os("REQUIRE_NETNS").is_none(),
            "REQUIRE_NETNS is set, but this is not root"
        );
        std::eprintln!("SKIPPED: needs root for a network namespace");
        return;
    }
    for programs in [
        ["iptables-nft", "ip6tables-nft"],
        ["iptables-legacy", "ip6tables-legacy"],
    ] {
        let test = move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            let mut cluster = full();
            assert!(install(programs, &cluster) > 500);
            assert_eq!(install(programs, &cluster), 0, "a restart changes nothing");
            let last = cluster.pods.last_mut().unwrap();
            last.labels.insert("app".to_owned(), "y".to_owned());
            let written = install(programs, &cluster);
            assert!(
                (1..40).contains(&written),
                "a label's change wrote {written}"
            );
            install(programs, &Cluster::small());
            let left = parse_sets(&run("ipset", &["save"], "")).unwrap();
            assert_ne!(left, ActualSets::default());
        };
        std::thread::spawn(test).join().unwrap();
    }
}
