//! Which iptables back end holds our rules: as the host's others do, by the flag, moved with the host; a mix is refused.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

use std::time::Duration;

use anyhow::ensure;
use serde_json::Value;
use tests::cni::Sandbox;
use tests::lab::{Lab, Options};
use tests::netns::Netns;
use tests::require_root;
use tests::wait::eventually;

const PATIENCE: Duration = Duration::from_secs(20);
/// Both back ends are looked at every 30 s.
const RECHECK: Duration = Duration::from_secs(60);
/// As Docker and kube-proxy leave the filter table.
const OTHERS: [&str; 4] = [
    "-P FORWARD DROP",
    "-N KUBE-FORWARD",
    "-A FORWARD -j KUBE-FORWARD",
    "-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP",
];

fn lab(tag: &str) -> Lab {
    let options = Options::for_test(tag, env!("CARGO_BIN_EXE_portolan-demo")).unwrap();
    Lab::new(options).unwrap()
}

fn start(lab: &mut Lab) {
    let node = lab.node_mut(0).unwrap();
    node.agent.start(&node.netns).unwrap();
}

fn node(lab: &Lab) -> &Netns {
    &lab.nodes[0].netns
}

fn iptables(netns: &Netns, backend: &str, words: &str) {
    let words: Vec<&str> = words.split(' ').collect();
    netns.run(&format!("iptables-{backend}"), &words).unwrap();
}

fn others_work_with(netns: &Netns, backend: &str) {
    for words in OTHERS {
        iptables(netns, backend, words);
    }
}

fn forget_others(netns: &Netns, backend: &str) {
    iptables(netns, backend, "-P FORWARD ACCEPT");
    iptables(netns, backend, "-D FORWARD -j KUBE-FORWARD");
    iptables(netns, backend, "-F KUBE-FORWARD");
    iptables(netns, backend, "-X KUBE-FORWARD");
}

/// Both families' rules in a back end, without those that are listed nowhere: the old tables are not made by looking.
fn saved(netns: &Netns, backend: &str) -> String {
    let names = netns.run("cat", &["/proc/net/ip_tables_names"]).unwrap();
    if backend == "legacy" && names.is_empty() {
        return String::new();
    }
    let of = |program: &str| {
        netns
            .run(&format!("{program}-{backend}-save"), &[])
            .unwrap()
    };
    of("iptables") + &of("ip6tables")
}

fn status(lab: &Lab) -> Value {
    lab.nodes[0].agent.status().unwrap()
}

#[test]
fn ours_go_where_others_rules_are_and_the_old_tables_are_not_made_by_looking() {
    require_root!();
    for (tag, theirs, other) in [("bkn", "nft", "legacy"), ("bkl", "legacy", "nft")] {
        let mut lab = lab(tag);
        others_work_with(node(&lab), theirs);
        start(&mut lab);
        lab.nodes[0].agent.wait_synced().unwrap();
        lab.attach(0, "shop", "web").unwrap();
        assert_eq!(status(&lab)["policy"]["backend"], theirs);
        assert!(saved(node(&lab), theirs).contains("-j PTL-FORWARD"));
        let there = saved(node(&lab), other);
        assert_eq!(
            there.lines().find(|line| line.starts_with(['*', '-'])),
            None
        );
        let (web, server) = lab.place("shop/web", false).unwrap();
        assert!(
            web.ip("addr show eth0")
                .unwrap()
                .contains(&server.to_string())
        );
    }
}

#[test]
fn kubelets_hint_alone_decides() {
    require_root!();
    let mut lab = lab("bkh");
    iptables(node(&lab), "legacy", "-t mangle -N KUBE-IPTABLES-HINT");
    start(&mut lab);
    lab.nodes[0].agent.wait_synced().unwrap();
    assert_eq!(status(&lab)["policy"]["backend"], "legacy");
}

#[test]
fn a_mix_is_refused_with_what_was_found_until_the_owner_decides() {
    require_root!();
    let mut lab = lab("bkm");
    others_work_with(node(&lab), "nft");
    others_work_with(node(&lab), "legacy");
    let before = (saved(node(&lab), "nft"), saved(node(&lab), "legacy"));
    start(&mut lab);
    eventually(PATIENCE, "status says it", || {
        let status = lab.nodes[0].agent.status()?;
        let errors = status["errors"].to_string();
        ensure!(status["ready"] == false, "{status}");
        for part in ["both iptables back ends", "KUBE-FORWARD", "--iptables nft"] {
            ensure!(errors.contains(part), "{part} is not in {errors}");
        }
        Ok(())
    })
    .unwrap();
    let sandbox = Sandbox::new("bkm", "shop", "web").unwrap();
    let started = std::time::Instant::now();
    let answer = lab
        .plugin(0)
        .unwrap()
        .call("ADD", node(&lab), &sandbox, None)
        .unwrap();
    assert!(
        !answer.is_success && started.elapsed() < Duration::from_secs(5),
        "{answer:?}"
    );
    assert!(
        answer
            .output
            .to_string()
            .contains("both iptables back ends"),
        "{answer:?}"
    );
    let counted = |text: String| {
        text.lines()
            .filter(|l| !l.starts_with('#'))
            .map(|l| l.split(" [").next().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let after = (saved(node(&lab), "nft"), saved(node(&lab), "legacy"));
    assert_eq!(counted(before.0), counted(after.0));
    assert_eq!(counted(before.1), counted(after.1));

    // The owner removes one side: nothing has to be started again.
    forget_others(node(&lab), "nft");
    lab.nodes[0].agent.wait_synced().unwrap();
    assert_eq!(status(&lab)["policy"]["backend"], "legacy");
    assert_eq!(status(&lab)["ready"], true, "{}", status(&lab));
    assert!(!saved(node(&lab), "nft").contains("PTL-"));

    // Or the flag decides.
    others_work_with(node(&lab), "nft");
    lab.nodes[0].agent.terminate().unwrap();
    lab.nodes[0].agent.set_arguments(&["--iptables", "nft"]);
    start(&mut lab);
    lab.nodes[0].agent.wait_synced().unwrap();
    assert_eq!(status(&lab)["policy"]["backend"], "nft");
    assert!(saved(node(&lab), "nft").contains("-j PTL-FORWARD"));
    eventually(PATIENCE, "ours are gone from the other", || {
        let left = saved(node(&lab), "legacy");
        ensure!(!left.contains("PTL-"), "{left}");
        Ok(())
    })
    .unwrap();
    assert!(saved(node(&lab), "legacy").contains("KUBE-FORWARD"));
}

#[test]
fn when_the_host_switches_ours_move_and_are_taken_from_the_old_one() {
    require_root!();
    let mut lab = lab("bks");
    others_work_with(node(&lab), "nft");
    start(&mut lab);
    lab.nodes[0].agent.wait_synced().unwrap();
    lab.attach(0, "shop", "web").unwrap();
    let rules = saved(node(&lab), "nft").matches("-j PTL-").count();
    forget_others(node(&lab), "nft");
    others_work_with(node(&lab), "legacy");
    eventually(RECHECK, "ours have moved", || {
        let now = saved(node(&lab), "legacy").matches("-j PTL-").count();
        ensure!(now == rules, "{now} of {rules} jumps");
        let left = saved(node(&lab), "nft");
        ensure!(!left.contains("PTL-"), "{left}");
        Ok(())
    })
    .unwrap();
    assert_eq!(status(&lab)["policy"]["backend"], "legacy");
    lab.detach_all().unwrap();
    lab.nodes[0].agent.terminate().unwrap();
    lab.nodes[0].agent.verb(&["cleanup"]).unwrap();
    let left = saved(node(&lab), "legacy");
    assert!(
        !left.contains("PTL-") && left.contains("KUBE-FORWARD"),
        "{left}"
    );
    assert!(
        !node(&lab)
            .run("ipset", &["list", "-n"])
            .unwrap()
            .contains("ptl4-")
    );
}
