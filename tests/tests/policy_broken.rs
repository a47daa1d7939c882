//! One policy or set that the kernel refuses leaves all others enforced, is told, and is tried again.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use anyhow::ensure;
use tests::lab::{Lab, Options};
use tests::reach::{Transport, Verdict, attempt, server_at};
use tests::require_root;
use tests::wait::eventually;

const PATIENCE: Duration = Duration::from_secs(15);
/// What was refused is tried again after 10 s.
const TRIED_AGAIN: Duration = Duration::from_secs(40);
/// Port 6666 and address 198.51.100.77 mark what the programs refuse.
const POLICIES: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: team, name: refused}
spec:
  podSelector: {matchLabels: {app: tester}}
  policyTypes: [Ingress]
  ingress:
    - {ports: [{port: 6666}], from: [{ipBlock: {cidr: 198.51.100.77/32}}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: sound}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Ingress]
  ingress:
    - from: [{podSelector: {matchLabels: {app: cache}}}]
";

/// A program that refuses as long as `folder/refuse` is there: what is in a line with `mark`, with words of its own.
fn wrap(folder: &Path, program: &str, mark: &str, words: &str) {
    let script = format!(
        "#!/bin/bash\n\
         real=$(PATH=${{PATH#{0}:}} command -v {program})\n\
         case \"$*\" in *restore*|*noflush*) ;; *) exec $real \"$@\";; esac\n\
         input=$(mktemp); cat > $input\n\
         line=$(grep -n -m1 -E -- '{mark}' $input | cut -d: -f1)\n\
         if [ -n \"$line\" ] && [ -e {0}/refuse ]; then {words}; rm $input; exit 1; fi\n\
         $real \"$@\" < $input; status=$?; rm $input; exit $status\n",
        folder.display()
    );
    let path = folder.join(program);
    fs::write(&path, script).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

fn verdict(lab: &Lab, from: &str, to: &str) -> Verdict {
    let (from, _) = lab.place(from, false).unwrap();
    let (_, to) = lab.place(to, false).unwrap();
    attempt(
        from,
        server_at(to),
        Transport::Tcp,
        Duration::from_millis(400),
    )
    .unwrap()
}

/// What is told of the refused policy: by the status, the metrics' number, and its event.
fn check_told(lab: &Lab, is_told: bool) -> anyhow::Result<()> {
    let status = lab.nodes[0].agent.status()?;
    let problems = status["policy"]["unsupported"].to_string();
    ensure!(problems.contains("refused") == is_told, "{problems}");
    ensure!(!problems.contains("sound"), "{problems}");
    let folder = lab.manifests().join(".status");
    let mut events = String::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.to_string_lossy().contains("events") {
            events += &fs::read_to_string(path)?;
        }
    }
    ensure!(
        events.contains("PolicyNotEnforced") == is_told,
        "events: {events}"
    );
    Ok(())
}

fn all_else_is_enforced(tag: &str, backend: &str, program: &str, mark: &str, words: &str) {
    let folder = tempfile::tempdir().unwrap();
    wrap(folder.path(), program, mark, words);
    fs::write(folder.path().join("refuse"), "").unwrap();
    let path = format!(
        "{}:{}",
        folder.path().display(),
        std::env::var("PATH").unwrap()
    );
    let options = Options::for_test(tag, env!("CARGO_BIN_EXE_portolan-demo")).unwrap();
    let mut lab = Lab::new(options).unwrap();
    let node = lab.node_mut(0).unwrap();
    node.agent.set_arguments(&["--iptables", backend]);
    node.agent.set_environment(&[("PATH", &path)]);
    node.agent.start(&node.netns).unwrap();
    node.agent.wait_synced().unwrap();
    for (namespace, name) in [("shop", "web"), ("shop", "cache"), ("team", "tester")] {
        lab.attach(0, namespace, name).unwrap();
    }
    assert_eq!(verdict(&lab, "team/tester", "shop/web"), Verdict::Answered);
    lab.drop_manifest("policies.yaml", POLICIES).unwrap();
    lab.nodes[0].agent.wait_synced().unwrap();
    eventually(PATIENCE, "the refused policy is told", || {
        check_told(&lab, true)
    })
    .unwrap_or_else(|error| panic!("{error:#}\n{}", lab.nodes[0].agent.log_end()));
    lab.nodes[0].agent.wait_synced().unwrap();
    assert_eq!(verdict(&lab, "shop/cache", "shop/web"), Verdict::Answered);
    assert_eq!(verdict(&lab, "team/tester", "shop/web"), Verdict::Silent);
    // Isolation stands: only what the refused rule allows is missing.
    assert_eq!(verdict(&lab, "shop/web", "team/tester"), Verdict::Silent);
    let log = lab.nodes[0].agent.log();
    assert!(log.contains("the kernel refuses these"), "{log}");
    fs::remove_file(folder.path().join("refuse")).unwrap();
    eventually(TRIED_AGAIN, "it is tried again", || check_told(&lab, false))
        .unwrap_or_else(|error| panic!("{error:#}\n{}", lab.nodes[0].agent.log_end()));
    lab.nodes[0].agent.wait_synced().unwrap();
    assert_eq!(verdict(&lab, "team/tester", "shop/web"), Verdict::Silent);
}

#[test]
fn a_chain_that_a_program_blames_by_its_line_is_left_out_alone() {
    require_root!();
    let words = "echo \"iptables-restore v1.8.9 (nf_tables): line $line: RULE_APPEND failed (Invalid argument): rule in chain X\" >&2";
    all_else_is_enforced("brl", "nft", "iptables-nft-restore", "6666", words);
}

#[test]
fn a_chain_that_nobody_blames_is_found_by_halves() {
    require_root!();
    let words = "echo \"iptables-restore: line $(grep -n COMMIT $input | tail -1 | cut -d: -f1) failed\" >&2";
    all_else_is_enforced("brc", "legacy", "iptables-legacy-restore", "6666", words);
}

#[test]
fn a_set_that_is_refused_is_left_out_alone() {
    require_root!();
    let words = "head -$((line - 1)) $input | $real \"$@\"; echo \"ipset v7.17: Error in line $line: Hash is full, cannot add more elements\" >&2";
    all_else_is_enforced("brs", "nft", "ipset", "add .*198.51.100.77", words);
}
