//! NetworkPolicy by real packets, and what bad input does to it: nothing.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::Value;
use tests::lab::{Lab, OUTSIDE, Options};
use tests::reach::{Transport, Verdict, attempt, server_at};
use tests::require_root;
use tests::snapshot::Snapshot;
use tests::wait::eventually;

const PATIENCE: Duration = Duration::from_secs(2);
const LONG: Duration = Duration::from_secs(30);
const POLICY: &str = include_str!("../../examples/demo-policy/db-only-from-web.yaml");

fn lab(tag: &str) -> Lab {
    let options = Options::for_test(tag, env!("CARGO_BIN_EXE_portolan-demo")).unwrap();
    let mut lab = Lab::new(options).unwrap();
    lab.start_agents().unwrap();
    lab.attach_all().unwrap();
    lab
}

fn verdict(lab: &Lab, from: &str, to: &str, transport: Transport) -> Verdict {
    let (netns, _) = lab.place(from, false).unwrap();
    let (_, address) = lab.place(to, false).unwrap();
    attempt(netns, server_at(address), transport, PATIENCE).unwrap()
}

fn expect(lab: &Lab, rows: &[(&str, &str, Transport, Verdict)]) {
    for (from, to, transport, wanted) in rows {
        assert_eq!(
            verdict(lab, from, to, *transport),
            *wanted,
            "{transport} {from} → {to}"
        );
    }
}

#[test]
fn a_policy_file_isolates_its_pods_and_its_removal_frees_them() {
    require_root!();
    let mut lab = lab("pol");
    lab.drop_manifest("policy.yaml", POLICY).unwrap();
    lab.wait_synced().unwrap();
    expect(
        &lab,
        &[
            ("shop/web", "shop/db", Transport::Tcp, Verdict::Answered),
            ("shop/web", "shop/db", Transport::Udp, Verdict::Silent),
            ("shop/cache", "shop/db", Transport::Tcp, Verdict::Silent),
            ("shop/web", "shop/cache", Transport::Tcp, Verdict::Silent),
            ("team/client", "shop/web", Transport::Tcp, Verdict::Answered),
            ("team/tester", "shop/web", Transport::Tcp, Verdict::Silent),
            ("shop/web", "team/tester", Transport::Udp, Verdict::Answered),
            ("outside", "shop/web", Transport::Tcp, Verdict::Answered),
            ("outside", "shop/db", Transport::Tcp, Verdict::Silent),
        ],
    );
    // The address that the ipBlock excepts.
    lab.outside
        .ip(&format!("addr del {OUTSIDE}/24 dev eth0"))
        .unwrap();
    lab.outside.ip("addr add 192.0.2.66/24 dev eth0").unwrap();
    lab.outside
        .ip("route replace default via 192.0.2.1")
        .unwrap();
    expect(
        &lab,
        &[("outside", "shop/web", Transport::Tcp, Verdict::Silent)],
    );

    std::fs::remove_file(lab.manifests().join("policy.yaml")).unwrap();
    eventually(LONG, "the pods to be free again", || {
        let freed = verdict(&lab, "shop/cache", "shop/db", Transport::Tcp) == Verdict::Answered;
        if freed { Ok(()) } else { Err("still isolated") }
    })
    .unwrap();
}

#[test]
fn a_pod_attached_while_it_is_denied_is_isolated_when_add_answers() {
    require_root!();
    let options = Options::for_test("iso", env!("CARGO_BIN_EXE_portolan-demo")).unwrap();
    let mut lab = Lab::new(options).unwrap();
    lab.drop_manifest("policy.yaml", POLICY).unwrap();
    lab.start_agents().unwrap();
    lab.attach(0, "team", "tester").unwrap();
    lab.attach(0, "shop", "cache").unwrap();
    expect(
        &lab,
        &[("team/tester", "shop/cache", Transport::Tcp, Verdict::Silent)],
    );
}

#[test]
fn a_broken_manifest_is_reported_by_name_and_line_and_the_last_state_stays() {
    require_root!();
    let mut lab = lab("bad");
    lab.drop_manifest("policy.yaml", POLICY).unwrap();
    lab.wait_synced().unwrap();
    lab.nodes[0].agent.wait_settled().unwrap();
    let before = Snapshot::of(&lab.nodes[0].netns);
    lab.drop_manifest(
        "policy.yaml",
        "apiVersion: networking.k8s.io/v1\nkind: [NetworkPolicy\n",
    )
    .unwrap();
    eventually(LONG, "the problem in the status", || -> Result<()> {
        let status = lab.nodes[0].agent.status()?;
        let sources = status["sources"].as_array().into_iter().flatten();
        let mut problems = sources
            .filter_map(|source| source["problems"].as_array())
            .flatten();
        let with_line = |text: &str| {
            let rest = text.split_once("policy.yaml:").map_or("", |(_, rest)| rest);
            rest.starts_with(|c: char| c.is_ascii_digit())
        };
        let named = problems.any(|p| p.as_str().is_some_and(with_line));
        ensure!(named, "{status}");
        Ok(())
    })
    .unwrap();
    assert_eq!(before.difference(&Snapshot::of(&lab.nodes[0].netns)), "");
    expect(
        &lab,
        &[
            ("shop/web", "shop/db", Transport::Tcp, Verdict::Answered),
            ("shop/cache", "shop/db", Transport::Tcp, Verdict::Silent),
        ],
    );
}

#[test]
fn the_status_counts_what_is_in_force() {
    require_root!();
    let mut lab = lab("sts");
    lab.drop_manifest("policy.yaml", POLICY).unwrap();
    lab.wait_synced().unwrap();
    let status = lab.nodes[0].agent.status().unwrap();
    assert_eq!(status["node"], "node1");
    assert_eq!(status["ready"], true, "{status}");
    assert_eq!(status["endpoints"].as_array().map(Vec::len), Some(3));
    assert_eq!(status["routes"]["failed"], Value::Array(Vec::new()));
    assert_eq!(
        status["routes"]["desired"], status["routes"]["inKernel"],
        "{status}"
    );
}
