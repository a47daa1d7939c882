//! What others do to our rules and sets heals within two seconds, in both back ends and families, and theirs stay.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]
#![allow(
    clippy::print_stdout,
    reason = "measured times are shown with --nocapture"
)]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tests::lab::{Lab, Options};
use tests::netns::Netns;
use tests::require_root;
use tests::wait::eventually;

/// What the issue promises.
const HEALED: Duration = Duration::from_secs(2);
const POLICY: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: web}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Ingress]
  ingress:
    - from:
        - podSelector: {matchLabels: {app: cache}}
        - ipBlock: {cidr: 192.0.2.0/24, except: [192.0.2.128/25]}
";

fn lab(tag: &str, backend: &str, variables: &[(&str, &str)]) -> Lab {
    let options = Options::for_test(tag, env!("CARGO_BIN_EXE_portolan-demo")).unwrap();
    let mut lab = Lab::new(options).unwrap();
    lab.drop_manifest("web-policy.yaml", POLICY).unwrap();
    let node = lab.node_mut(0).unwrap();
    node.agent.set_arguments(&["--iptables", backend]);
    node.agent.set_environment(variables);
    node.agent.start(&node.netns).unwrap();
    node.agent.wait_synced().unwrap();
    for name in ["web", "cache"] {
        lab.attach(0, "shop", name).unwrap();
    }
    lab.attach(0, "team", "tester").unwrap();
    lab.nodes[0].agent.wait_synced().unwrap();
    settle(&lab);
    lab
}

fn settle(lab: &Lab) {
    lab.nodes[0].agent.wait_settled().unwrap();
}

fn node(lab: &Lab) -> &Netns {
    &lab.nodes[0].netns
}

/// Rules of ours by family, table and chain, in their order; and the sets' members.
type Ours = BTreeMap<String, Vec<String>>;

fn ours(netns: &Netns, backend: &str) -> Ours {
    let mut ours = Ours::new();
    for family in ["iptables", "ip6tables"] {
        let text = netns.run(&format!("{family}-{backend}-save"), &[]).unwrap();
        let mut table = "";
        for line in text.lines() {
            if let Some(name) = line.strip_prefix('*') {
                table = name;
            } else if let Some(rule) = line.strip_prefix("-A ") {
                let (chain, rule) = rule.split_once(' ').unwrap();
                if chain.starts_with("PTL-") || rule.contains("\"ptl:") || rule.contains(" ptl:") {
                    let chain = format!("{family} {table} {chain}");
                    ours.entry(chain).or_default().push(rule.to_owned());
                }
            }
        }
    }
    for line in netns.run("ipset", &["save"]).unwrap().lines() {
        let words: Vec<&str> = line.split(' ').collect();
        ours.entry(format!("set {}", words[1]))
            .or_default()
            .push(words[2..].join(" "));
    }
    ours.values_mut()
        .for_each(|rules| rules.retain(|rule| !rule.starts_with("hash:")));
    for (name, rules) in &mut ours {
        if name.starts_with("set ") {
            rules.sort();
        }
    }
    ours
}

/// Whether all that was there is at the head of its chain again: behind it, what is dead may wait for its removal.
fn check_whole(before: &Ours, now: &Ours) -> Result<()> {
    for (name, rules) in before {
        let there = now.get(name).map_or(&[][..], Vec::as_slice);
        ensure!(
            there.starts_with(rules),
            "{name}:\n{there:#?}\nwas\n{rules:#?}"
        );
    }
    Ok(())
}

fn check_first(netns: &Netns, backend: &str) -> Result<()> {
    for family in ["iptables", "ip6tables"] {
        let text = netns.run(&format!("{family}-{backend}-save"), &["-t", "filter"])?;
        let first = text.lines().find(|line| line.starts_with("-A FORWARD"));
        ensure!(
            first.is_some_and(|line| line.ends_with("-j PTL-FORWARD")),
            "{family}: {first:?}"
        );
    }
    Ok(())
}

/// Does damage, and gives how long it took until all was there again.
fn heal(lab: &Lab, backend: &str, damage: &str) -> Duration {
    let before = ours(node(lab), backend);
    let script = damage
        .replace("IPT", "iptables")
        .replace("IP6T", "ip6tables")
        .replace('@', backend);
    node(lab).run("bash", &["-c", &script]).unwrap();
    let start = Instant::now();
    let healed = eventually(HEALED * 4, damage, || {
        check_whole(&before, &ours(node(lab), backend))?;
        check_first(node(lab), backend)
    });
    healed.unwrap_or_else(|error| panic!("{error:#}\n{}", lab.nodes[0].agent.log_end()));
    let took = start.elapsed();
    settle(lab);
    let after = ours(node(lab), backend);
    assert_eq!(before, after, "after {damage} is tidied up");
    println!("{backend}: {damage}: {} ms", took.as_millis());
    took
}

const DAMAGES: [&str; 15] = [
    "IPT-@ -F",
    "IP6T-@ -F",
    "IPT-@ -F PTL-POD",
    "IPT-@ -F; IPT-@ -X; IP6T-@ -F; IP6T-@ -X",
    "IPT-@ -t raw -F; IP6T-@ -t raw -F PTL-PREROUTING",
    "IPT-@ -t mangle -F; IPT-@ -t mangle -X",
    "IPT-@ -D FORWARD 1",
    "IPT-@ -I FORWARD 1 -s 203.0.113.7 -j ACCEPT",
    "IPT-@ -D PTL-POD 1",
    "IP6T-@ -I PTL-POD 1 -j ACCEPT",
    "for s in $(ipset list -n | grep ptl4-); do ipset flush $s; done",
    "s=$(ipset list -n | grep ptl4-n); ipset del $s $(ipset save $s | grep add | head -1 | cut -d' ' -f3)",
    // The agent may be faster than this: then a set is in use again.
    "for t in filter raw mangle; do for i in IPT IP6T; do $i-@ -t $t -F; $i-@ -t $t -X; done; done; \
     for s in $(ipset list -n | grep ptl); do ipset destroy $s || true; done",
    // Again and again, while the agent writes: what it writes in between is refused, and nothing is wrong with it.
    "end=$((SECONDS + 2)); \
     while [ $SECONDS -lt $end ]; do for s in $(ipset list -n | grep ptl); do ipset destroy $s; done; done 2>/dev/null & \
     while [ $SECONDS -lt $end ]; do for i in IPT IP6T; do $i-@ -F; $i-@ -X; $i-@ -t raw -F; $i-@ -t raw -X; done; done 2>/dev/null; \
     wait",
    "printf '*filter\\n:INPUT ACCEPT\\n:FORWARD ACCEPT\\n:OUTPUT ACCEPT\\nCOMMIT\\n' | IPT-@-restore",
];

fn all_damages_heal(tag: &str, backend: &str) {
    let lab = lab(tag, backend, &[]);
    node(&lab)
        .run(
            &format!("iptables-{backend}"),
            &["-A", "INPUT", "-s", "203.0.113.9", "-j", "DROP"],
        )
        .unwrap();
    let mut times: Vec<Duration> = DAMAGES
        .iter()
        .map(|damage| heal(&lab, backend, damage))
        .collect();
    times.sort();
    println!(
        "{backend}: healed in {:?} (median), {:?} (worst)",
        times[times.len() / 2],
        times[times.len() - 1]
    );
    assert!(times[times.len() - 1] < HEALED, "{times:?}");
    let log = lab.nodes[0].agent.log();
    assert!(!log.contains("panicked"), "{log}");
    let status = lab.nodes[0].agent.status().unwrap();
    assert_eq!(status["ready"], true, "{status}");
}

#[test]
fn all_that_others_break_heals_within_two_seconds_on_nft() {
    require_root!();
    all_damages_heal("hln", "nft");
}

#[test]
fn all_that_others_break_heals_within_two_seconds_on_legacy() {
    require_root!();
    all_damages_heal("hll", "legacy");
}

#[test]
fn a_lock_held_by_another_delays_and_breaks_nothing() {
    require_root!();
    let folder = tempfile::tempdir().unwrap();
    let lock = folder.path().join("xtables.lock");
    let lock = lock.to_str().unwrap();
    let lab = lab("hlk", "legacy", &[("XTABLES_LOCKFILE", lock)]);
    let before = ours(node(&lab), "legacy");
    // For longer than iptables-restore waits for it (5 s): the agent tries again.
    let script = format!("XTABLES_LOCKFILE={lock} iptables-legacy -F; flock -x {lock} sleep 6.5");
    node(&lab).run("bash", &["-c", &script]).unwrap();
    let start = Instant::now();
    eventually(HEALED, "healed after the lock is free", || {
        check_whole(&before, &ours(node(&lab), "legacy"))
    })
    .unwrap();
    println!(
        "legacy: {} ms after the lock was free",
        start.elapsed().as_millis()
    );
    let log = lab.nodes[0].agent.log();
    assert!(
        log.contains("xtables lock") && !log.contains("panicked"),
        "{log}"
    );
}

#[test]
fn a_storm_of_others_changes_makes_few_read_backs_and_hides_no_damage() {
    require_root!();
    for backend in ["nft", "legacy"] {
        let lab = lab("hst", backend, &[]);
        let count = |name: &str| {
            lab.nodes[0].agent.status().unwrap()["policy"][name]
                .as_u64()
                .unwrap()
        };
        let (reads, repairs) = (count("readBacks"), count("repairs"));
        let storm = format!(
            "iptables-{backend} -N KUBE-X; for i in $(seq 60); do iptables-{backend} -w -A KUBE-X -s 203.0.113.$i -j DROP; sleep 0.1; done"
        );
        let start = Instant::now();
        node(&lab).run("bash", &["-c", &storm]).unwrap();
        let (made, seconds) = (count("readBacks") - reads, start.elapsed().as_secs_f64());
        println!("{backend}: {made} read-backs in {seconds:.1} s of others' changes");
        assert!(
            made >= 2 && f64::from(u32::try_from(made).unwrap()) < seconds * 4.5,
            "{made} in {seconds}"
        );
        assert_eq!(count("repairs"), repairs);
        let again = storm.replace("KUBE-X", "KUBE-Y");
        let mut storm = node(&lab)
            .command("bash")
            .args(["-c", &again])
            .spawn()
            .unwrap();
        let took = heal(&lab, backend, "IPT-@ -w -D FORWARD 1");
        assert!(took < HEALED, "{took:?}");
        assert!(storm.wait().unwrap().success());
    }
}
