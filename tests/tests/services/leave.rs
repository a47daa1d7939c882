//! `portolan cleanup` over Services: in both back ends of iptables, and in nftables; and that serving them changes no setting.

use anyhow::{Result, ensure};
use tests::fabric::{Fabric, PATIENCE};
use tests::netns::Netns;
use tests::rack::say;
use tests::require_root;
use tests::wait::eventually;

use super::modes::{ALL, restart_with};
use super::rules::settings;
use super::{prepare, right_ways};

/// What others have beside us: kubelet's chains, another's that are named as Services', a rule in a chain of the kernel's.
const OTHERS: &str = "*nat
:KUBE-KUBELET-CANARY - [0:0]
:KUBE-MARK-DROP - [0:0]
:KUBE-SVC-ANOTHERS00000000 - [0:0]
-A PREROUTING -i none -j KUBE-SVC-ANOTHERS00000000
-A KUBE-MARK-DROP -j MARK --set-xmark 0x8000/0x8000
-A KUBE-SVC-ANOTHERS00000000 -s 192.0.2.1/32 -j RETURN
COMMIT
*filter
:KUBE-FIREWALL - [0:0]
-A INPUT -j KUBE-FIREWALL
-A KUBE-FIREWALL -i none -j DROP
COMMIT
";
const TABLES: &str =
    "table ip others { map services { type ipv4_addr : verdict; }; chain leads { }; }
table ip6 portolan-services-of-others { set cluster-ips { type ipv6_addr; }; }
";

/// What one of the programs that save prints, without its counters and remarks.
fn saved(node: &Netns, backend: &str) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    for family in ["", "6"] {
        let text = node.run(&format!("ip{family}tables-{backend}-save"), &[])?;
        let kept = text.lines().filter(|line| !line.starts_with('#'));
        let plain = kept.map(|line| line.split(" [").next().unwrap_or(line).to_owned());
        lines.extend(plain);
    }
    Ok(lines)
}

/// Chains and rules of Services and of others of ours.
fn ours(lines: &[String]) -> usize {
    let is_ours = |line: &&String| {
        let is_others = OTHERS.contains(line.as_str());
        let is_named = ["PTL-", "ptl:", "KUBE-"]
            .iter()
            .any(|word| line.contains(word));
        is_named && !is_others
    };
    lines.iter().filter(is_ours).count()
}

/// Lines of others that are there.
fn others(lines: &[String]) -> usize {
    let wanted = OTHERS.lines().filter(|line| line.contains("KUBE-"));
    let plain = wanted.map(|line| line.split(" [").next().unwrap_or(line));
    plain
        .filter(|line| lines.iter().any(|there| there == line))
        .count()
}

fn restore(node: &Netns, backend: &str, text: &str) {
    let script = format!("iptables-{backend}-restore --noflush <<'END'\n{text}END\n");
    node.run("sh", &["-ec", &script]).unwrap();
}

/// Takes others' rules away again.
fn remove_others(node: &Netns, backend: &str) {
    let mut text = String::new();
    for line in OTHERS.lines() {
        match line.strip_prefix(':') {
            Some(_) => {}
            None => text += &format!("{}\n", line.replacen("-A ", "-D ", 1)),
        }
    }
    let chains = OTHERS.lines().filter_map(|line| line.strip_prefix(':'));
    let chains = chains.filter_map(|line| line.split(' ').next());
    for chain in chains {
        let table = if chain == "KUBE-FIREWALL" {
            "*filter"
        } else {
            "*nat"
        };
        text += &format!("{table}\n-X {chain}\nCOMMIT\n");
    }
    restore(node, backend, &text);
}

fn cleanup(lab: &Fabric) {
    let run_dir = lab.stations[0].agent.run_dir();
    let program = tests::agent::binaries().unwrap().join("portolan");
    let words = ["cleanup", "--run-dir", run_dir.to_str().unwrap()];
    let node = &lab.stations[0].netns;
    node.run(program.to_str().unwrap(), &words).unwrap();
}

/// Chains of Services in a back end, with others' beside them; then a killed agent's are taken away.
fn of_iptables(lab: &mut Fabric, backend: &str) -> usize {
    let node = &lab.stations[0].netns;
    let before = saved(node, backend).unwrap();
    let count = ours(&before);
    assert!(count >= 100, "{count} in {backend}: {before:#?}");
    lab.stations[0].agent.kill().unwrap();
    let node = &lab.stations[0].netns;
    restore(node, backend, OTHERS);
    cleanup(lab);
    let after = saved(node, backend).unwrap();
    assert_eq!(ours(&after), 0, "{after:#?}");
    assert_eq!(others(&after), 9, "{after:#?}");
    let sets = node.run("ipset", &["list", "-n"]).unwrap();
    assert!(!sets.contains("ptl"), "{sets}");
    remove_others(node, backend);
    let rest = saved(node, backend).unwrap();
    assert!(!rest.join("\n").contains("KUBE-"), "{rest:#?}");
    count
}

fn wait_for(node: &Netns, what: &str, is_there: impl Fn() -> Result<bool>) {
    eventually(PATIENCE, what, || {
        ensure!(is_there()?, "not yet in {}", node.name());
        Ok(())
    })
    .unwrap();
}

/// Semantics 151 and 152, too: the settings of the host are what they were, in each mode.
#[test]
fn cleanup_takes_services_out_of_every_back_end_and_leaves_others_and_no_setting_changes() {
    require_root!();
    let (mut lab, _tellers) = prepare("svl");
    let before = settings(&lab.stations[0].netns);
    assert!(before.len() > 200, "{}", before.len());
    assert_eq!(before["net/ipv4/conf/all/route_localnet"].trim(), "0");
    let unchanged = |lab: &Fabric, mode: &str| {
        let after = settings(&lab.stations[0].netns);
        let changed: Vec<_> = after
            .iter()
            .filter(|(name, value)| before.get(*name) != Some(*value))
            .collect();
        assert!(changed.is_empty(), "{mode} changed {changed:?}");
    };
    restart_with(&mut lab.stations[0], &["--features", ALL]).unwrap();
    assert_eq!(right_ways(&lab), 16);
    unchanged(&lab, "iptables");
    let words = ["--features", ALL, "--proxy-mode", "nftables"];
    restart_with(&mut lab.stations[0], &words).unwrap();
    wait_for(&lab.stations[0].netns, "tables alone", || {
        let chains = saved(&lab.stations[0].netns, "nft")?;
        Ok(!chains.join("\n").contains("KUBE-"))
    });
    assert_eq!(right_ways(&lab), 16);
    unchanged(&lab, "nftables");

    lab.stations[0].agent.kill().unwrap();
    let node = &lab.stations[0].netns;
    let script = format!("nft -f - <<'END'\n{TABLES}END\n");
    node.run("sh", &["-ec", &script]).unwrap();
    let list = |table: &str| node.run("nft", &["list", "table", "ip", table]);
    let elements = list("portolan-services").unwrap().matches("goto").count();
    assert!(elements >= 10, "{elements}");
    let foreign = list("others").unwrap();
    cleanup(&lab);
    let tables = node.run("nft", &["list", "tables"]).unwrap();
    let names: Vec<&str> = tables
        .lines()
        .filter(|line| line.contains("portolan-services"))
        .collect();
    assert_eq!(names, ["table ip6 portolan-services-of-others"], "{tables}");
    assert_eq!(list("others").unwrap(), foreign);

    // One back end after the other: rules of others in both would be a reason to write into none.
    let mut counts = Vec::new();
    for backend in ["nft", "legacy"] {
        let words = ["--features", ALL, "--iptables", backend];
        restart_with(&mut lab.stations[0], &words).unwrap();
        wait_for(&lab.stations[0].netns, backend, || {
            let chains = saved(&lab.stations[0].netns, backend)?;
            Ok(chains.join("\n").contains("KUBE-SEP-"))
        });
        counts.push(of_iptables(&mut lab, backend));
    }
    say(&format!(
        "cleaned up: {elements} elements of nftables, {counts:?} chains and rules; others' stayed; {} settings as before",
        before.len()
    ));
}
