//! `portolan doctor` in the lab: a healthy node has no findings, each thing that is broken is found, and its command mends it.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]
#![allow(
    clippy::print_stdout,
    reason = "what was tried is shown with --nocapture"
)]

mod agents;
mod breaks;
mod clinic;

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::ensure;
use serde_json::Value;
use tests::require_root;
use tests::wait::eventually;

use crate::clinic::{Clinic, PATIENCE, is_bad};

/// What the doctor promises.
const BOUND: Duration = Duration::from_secs(10);

/// Tunnels have a lab of their own: `tests/tests/vxlan` breaks what these checks look at; so do addresses that are answered for
/// on a link (`tests/tests/layer2`, and `tests/cluster/tests/address_leases.rs` for Leases).
const ELSEWHERE: [&str; 5] = [
    "tunnel",
    "tunnel-checksum",
    "address-interface",
    "address-answers",
    "address-lease",
];

#[test]
fn each_thing_that_is_broken_is_found_and_its_command_mends_it() {
    require_root!();
    let mut clinic = Clinic::open();
    let names = names(&clinic);
    healthy(&mut clinic, &names);
    breaks::switches(&mut clinic);
    breaks::runtime(&mut clinic);
    breaks::rules(&mut clinic);
    breaks::services(&mut clinic);
    breaks::sessions(&mut clinic);
    breaks::routes_and_pods(&mut clinic);
    breaks::policy(&mut clinic);
    agents::agent_elsewhere(&mut clinic);
    agents::source(&mut clinic);
    agents::services(&mut clinic);
    agents::without_an_agent(&mut clinic);
    agents::start_with_obstacles(&mut clinic);
    healthy(&mut clinic, &names);
    clinic.tried.extend(ELSEWHERE.map(str::to_owned));
    assert_eq!(
        clinic.tried, names,
        "every check has something that was broken for it"
    );
    assert!(
        clinic.mended >= 20,
        "{} mended by their commands",
        clinic.mended
    );
    assert!(
        clinic.slowest < BOUND,
        "the slowest look took {:?}",
        clinic.slowest
    );
    println!(
        "{} checks tried, {} findings mended by the printed command, the slowest look {:?}",
        names.len(),
        clinic.mended,
        clinic.slowest
    );
}

fn names(clinic: &Clinic) -> BTreeSet<String> {
    let text = clinic.run("portolan doctor --list -o json").unwrap();
    let list: Vec<Value> = serde_json::from_str(&text).unwrap();
    list.iter()
        .map(|check| check["name"].as_str().unwrap().to_owned())
        .collect()
}

/// No warning, no failure, and something of every check.
fn healthy(clinic: &mut Clinic, names: &BTreeSet<String>) {
    let findings = eventually(PATIENCE, "a healthy node", || {
        let (findings, code) = clinic.look();
        let bad: Vec<&Value> = findings.iter().filter(|finding| is_bad(finding)).collect();
        ensure!(bad.is_empty() && code == 0, "{code}: {bad:#?}");
        Ok(findings)
    });
    let findings = findings.unwrap();
    let seen = findings
        .iter()
        .map(|finding| finding["check"].as_str().unwrap().to_owned());
    assert_eq!(seen.collect::<BTreeSet<_>>(), *names);
    let skipped: Vec<&Value> = findings
        .iter()
        .filter(|finding| finding["verdict"] == "skipped")
        .collect();
    assert!(
        skipped
            .iter()
            .all(|finding| finding["check"] == "service-proxy"),
        "{skipped:#?}"
    );
}
