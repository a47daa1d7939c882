//! What `portolan doctor` finds of addresses that nodes answer for, each thing broken in the kernel and mended by what it prints.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tests::netns::Netns;
use tests::rack::say;
use tests::wait::eventually;

use crate::segment::{BOTH, PATIENCE, Segment, V4};

const CHECKS: [&str; 3] = ["address-interface", "address-answers", "address-lease"];

fn of(segment: &Segment, node: usize, check: &str) -> Result<Vec<Value>> {
    let mut findings = segment.stations[node].agent.findings(&[])?;
    findings.retain(|finding| finding["check"] == check);
    ensure!(!findings.is_empty(), "no finding of {check}");
    Ok(findings)
}

fn is_bad(finding: &Value) -> bool {
    finding["verdict"] == "warning" || finding["verdict"] == "failure"
}

/// Waits for a finding with these words; what mends it.
fn finds(segment: &Segment, node: usize, (check, verdict): (&str, &str), words: &str) -> String {
    let mut remedy = String::new();
    eventually(PATIENCE, &format!("{check}: {words}"), || {
        let findings = of(segment, node, check)?;
        let has = |finding: &&Value| {
            let what = finding["what"].as_str().unwrap_or_default();
            finding["verdict"] == verdict && what.contains(words)
        };
        let found = findings.iter().find(has);
        let found = found.with_context(|| format!("{findings:#?}"))?;
        remedy = found["remedy"].as_str().unwrap_or_default().to_owned();
        ensure!(!remedy.is_empty() && found["cause"] != "", "{found}");
        Ok(())
    })
    .unwrap();
    say(&format!("{check}: {words}: {remedy}"));
    remedy
}

/// Waits until a check is well there.
fn is_well(segment: &Segment, node: usize, check: &str) {
    eventually(PATIENCE, &format!("{check} to be well"), || {
        let findings = of(segment, node, check)?;
        ensure!(!findings.iter().any(is_bad), "{findings:#?}");
        Ok(())
    })
    .unwrap();
}

/// Nothing is wrong on the node that answers and on one that does not.
pub(crate) fn finds_nothing(segment: &Segment) {
    let holder = segment.answering(V4)[0];
    for node in [holder, segment.order(V4).unwrap()[1]] {
        for check in CHECKS {
            is_well(segment, node, check);
        }
        let said = of(segment, node, "address-answers").unwrap();
        assert_eq!(
            said[0]["what"],
            "asked on the link for 2 addresses: each has one answer"
        );
    }
}

/// A machine of the segment has an address of a pool, and its kernel answers.
pub(crate) fn finds_another_machine(segment: &Segment) {
    let intruder = segment.server();
    let link = intruder.ip_json("link show dev eth0").unwrap();
    let mac = link[0]["address"].as_str().unwrap().to_owned();
    for address in BOTH {
        let holder = segment.answering(address)[0];
        let length = if address == V4 { "/32" } else { "/128" };
        // Given by hand where nobody looks first: a kernel by itself would find an IPv6 address in use.
        let dad = if address == V4 { "" } else { " nodad" };
        intruder
            .ip(&format!("addr add {address}{length} dev eth0{dad}"))
            .unwrap();
        let remedy = finds(
            segment,
            holder,
            ("address-answers", "failure"),
            &format!("{mac} say on eth0 that they have {address}, which this node answers for"),
        );
        let (_, there) = remedy.split_once("; on that machine: ").unwrap();
        let found = run(intruder, there).unwrap();
        assert!(found.contains("eth0"), "{there}: {found}");
        intruder
            .ip(&format!("addr del {address}{length} dev eth0"))
            .unwrap();
        is_well(segment, holder, "address-answers");
    }
}

/// The pool names an interface that is not there, then is down, then has no carrier: its own address stays unanswered until it is up.
pub(crate) fn finds_the_interface(segment: &Segment) {
    let node = segment.answering(V4)[0];
    let station = &segment.stations[node];
    let check = "address-interface";
    segment.name_interface(Some("front")).unwrap();
    let remedy = finds(
        segment,
        node,
        (check, "failure"),
        "names front, which is not here",
    );
    assert_eq!(remedy, "kubectl edit ippool segment");
    station
        .netns
        .ip("link add front type veth peer name behind")
        .unwrap();
    let remedy = finds(segment, node, (check, "failure"), "front is down");
    run(&station.netns, &remedy).unwrap();
    let remedy = finds(segment, node, (check, "failure"), "front has no carrier");
    assert!(run(&station.netns, &remedy).unwrap().contains("NO-CARRIER"));
    station.netns.ip("link set behind up").unwrap();
    is_well(segment, node, check);
    segment.wait_for(V4, node);
    segment.name_interface(None).unwrap();
    station.netns.ip("link del front").unwrap();
    eventually(PATIENCE, "the client to be answered again", || {
        ensure!(segment.ask(V4) == tests::reach::Verdict::Answered);
        Ok(())
    })
    .unwrap();
}

/// No endpoint is ready.
pub(crate) fn finds_that_nobody_may(segment: &mut Segment) {
    let node = segment.answering(V4)[0];
    segment.serve(false).unwrap();
    let words = format!("no node may answer for {V4} of IPPool segment");
    finds(segment, node, ("address-answers", "warning"), &words);
    segment.serve(true).unwrap();
    is_well(segment, node, "address-answers");
}

fn run(netns: &Netns, command: &str) -> Result<String> {
    netns.run("bash", &["-ec", command])
}
