//! Leaks are found and taken back: pods whose end nobody told of, host ends of nobody, and what `portolan ipam` says.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::Value;
use tests::agent::binaries;
use tests::cni::{Answer, Plugin, Sandbox};
use tests::one_node::OneNode;
use tests::require_root;
use tests::wait::{eventually, pause};

const PATIENCE: Duration = Duration::from_secs(20);

fn plugin(lab: &OneNode, version: &str) -> Plugin {
    Plugin {
        program: binaries().unwrap().join("portolan-cni"),
        socket: lab.agent.cni_socket(),
        version: version.to_owned(),
    }
}

/// The names of the pods that hold addresses.
fn holders(lab: &OneNode) -> Result<Vec<String>> {
    let status = lab.agent.status()?;
    let endpoints = status["endpoints"].as_array().cloned().unwrap_or_default();
    let name = |endpoint: &Value| endpoint["name"].as_str().unwrap_or_default().to_owned();
    Ok(endpoints.iter().map(name).collect())
}

fn wait_for_holders(lab: &OneNode, expected: &[&str]) {
    let waited = eventually(PATIENCE, "the holders", || {
        let names = holders(lab)?;
        ensure!(names == expected, "{names:?}");
        Ok(())
    });
    waited.unwrap_or_else(|error| panic!("{error:#}\n{}", lab.agent.log_end()));
}

fn metric(lab: &OneNode, name: &str) -> String {
    let text = lab
        .node
        .run("curl", &["-s", "http://127.0.0.1:9179/metrics"])
        .unwrap();
    let line = text.lines().find(|line| line.starts_with(name));
    line.unwrap_or_else(|| panic!("no {name} in {text}"))
        .to_owned()
}

fn host_ends(lab: &OneNode) -> usize {
    let links = lab.node.ip("-o link show").unwrap();
    links.lines().filter(|line| line.contains(": ptl")).count()
}

#[test]
fn a_pod_whose_end_no_runtime_tells_of_is_released_by_the_agent_and_a_live_one_is_not() {
    require_root!();
    let mut lab = OneNode::start("recl", "", &["--reclaim-after", "1s"]).unwrap();
    lab.attach("shop", "stays").unwrap();
    lab.attach("shop", "goes").unwrap();
    let before = lab.node.ip("route show proto 179").unwrap();
    let address = lab.pods[1].addresses[0].to_string();
    assert!(before.contains(&address), "{before}");
    // The namespace goes, and its link with it; nobody calls DEL.
    drop(lab.pods.pop());
    wait_for_holders(&lab, &["stays"]);
    assert_eq!(
        metric(&lab, "portolan_ipam_attachments_reclaimed_total"),
        "portolan_ipam_attachments_reclaimed_total 1"
    );
    assert!(
        lab.agent.log().contains("released an attachment"),
        "{}",
        lab.agent.log_end()
    );
    eventually(PATIENCE, "the route to go", || {
        let routes = lab.node.ip("route show proto 179")?;
        ensure!(!routes.contains(&address), "{routes}");
        Ok(())
    })
    .unwrap();
    pause(Duration::from_secs(2)).unwrap();
    assert_eq!(holders(&lab).unwrap(), ["stays"]);
    assert_eq!(host_ends(&lab), 1);
}

#[test]
fn after_a_reboot_what_ran_before_is_released_once_the_grace_is_over_and_not_sooner() {
    require_root!();
    let mut lab = OneNode::start("boot", "", &["--reclaim-after", "4s"]).unwrap();
    lab.attach("shop", "one").unwrap();
    lab.attach("shop", "two").unwrap();
    lab.agent.kill().unwrap();
    lab.pods.clear();
    std::fs::remove_dir_all(lab.agent.run_dir()).unwrap();
    eventually(
        PATIENCE,
        "the host ends to go with their namespaces",
        || {
            ensure!(host_ends(&lab) == 0, "still there");
            Ok(())
        },
    )
    .unwrap();
    lab.agent.start(&lab.node).unwrap();
    lab.agent.wait_synced().unwrap();
    assert_eq!(holders(&lab).unwrap().len(), 2);
    pause(Duration::from_secs(1)).unwrap();
    assert_eq!(holders(&lab).unwrap().len(), 2);
    wait_for_holders(&lab, &[]);
    // What comes back in time keeps what it has.
    let kept = lab.attach("shop", "one").unwrap().addresses.clone();
    pause(Duration::from_secs(6)).unwrap();
    assert_eq!(holders(&lab).unwrap(), ["one"], "{kept:?}");
}

#[test]
fn a_host_end_that_no_attachment_has_is_deleted_and_others_interfaces_are_not() {
    require_root!();
    let lab = OneNode::start("orph", "", &["--reclaim-after", "1s"]).unwrap();
    lab.node
        .ip("link add ptl0123456789a type veth peer name lost")
        .unwrap();
    lab.node
        .ip("link add theirs type veth peer name others")
        .unwrap();
    eventually(PATIENCE, "the host end to go", || {
        ensure!(host_ends(&lab) == 0, "still there");
        Ok(())
    })
    .unwrap();
    let links = lab.node.ip("-o link show").unwrap();
    assert!(
        links.contains("theirs") && !links.contains("lost"),
        "{links}"
    );
    assert_eq!(
        metric(&lab, "portolan_ipam_host_ends_reclaimed_total"),
        "portolan_ipam_host_ends_reclaimed_total 1"
    );
}

fn status(lab: &OneNode, sandbox: &Sandbox) -> Answer {
    plugin(lab, "1.1.0")
        .call("STATUS", &lab.node, sandbox, None)
        .unwrap()
}

#[test]
fn status_says_50_while_no_address_is_left_or_the_node_has_no_cidr() {
    require_root!();
    let mut lab = OneNode::start("stat", "", &[]).unwrap();
    let sandbox = Sandbox::new("stat", "shop", "asks").unwrap();
    assert!(status(&lab, &sandbox).is_success);
    let node = |cidrs: &str| {
        let text = format!(
            "apiVersion: v1\nkind: Node\nmetadata: {{name: node1}}\nspec: {{podCIDRs: {cidrs}}}\n\
             status: {{addresses: [{{type: InternalIP, address: 192.0.2.1}}]}}\n"
        );
        std::fs::write(lab.folder().join("manifests/all.yaml"), text).unwrap();
        lab.agent.verb(&["sync", "--timeout", "10s"]).unwrap();
    };
    node("[]");
    let answer = status(&lab, &sandbox);
    assert_eq!(answer.code(), Some(50), "{answer:?}");
    assert!(answer.output.to_string().contains("podCIDRs"), "{answer:?}");
    node("[10.244.9.0/30]");
    assert!(status(&lab, &sandbox).is_success);
    lab.attach("shop", "one").unwrap();
    assert!(status(&lab, &sandbox).is_success);
    lab.attach("shop", "two").unwrap();
    let answer = status(&lab, &sandbox);
    assert_eq!(answer.code(), Some(50), "{answer:?}");
    assert!(
        answer.output.to_string().contains("no address is left"),
        "{answer:?}"
    );
    let gone = lab.pods.pop().unwrap();
    let del = plugin(&lab, "1.0.0")
        .call("DEL", &lab.node, &gone.sandbox, None)
        .unwrap();
    assert!(del.is_success, "{del:?}");
    // What rests is given when nothing else is left.
    assert!(status(&lab, &sandbox).is_success);
}

/// What `portolan ipam check` says, and with what it ends.
fn check(lab: &OneNode) -> (Option<i32>, Value) {
    let program = binaries().unwrap().join("portolan");
    let mut command = lab.node.command(program);
    command.args(["ipam", "check", "-o", "json", "--run-dir"]);
    let output = command.arg(lab.agent.run_dir()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let view = serde_json::from_slice(&output.stdout);
    let view = view.unwrap_or_else(|error| panic!("{error}: {said}"));
    (output.status.code(), view)
}

#[test]
fn show_check_and_release_tell_a_live_pod_from_a_dead_one() {
    require_root!();
    let mut lab = OneNode::start("verb", "", &["--reclaim-after", "10m"]).unwrap();
    lab.attach("shop", "lives").unwrap();
    let lives = lab.pods[0].addresses[0].to_string();
    let (code, view) = check(&lab);
    assert_eq!(code, Some(0), "{view}");
    assert_eq!(
        (&view["attachments"], &view["hostEnds"]),
        (&1.into(), &1.into()),
        "{view}"
    );

    lab.attach("shop", "dies").unwrap();
    let dies = lab.pods[1].addresses[0].to_string();
    let container = lab.pods[1].sandbox.container_id.clone();
    drop(lab.pods.pop());
    eventually(PATIENCE, "the host end to go with its namespace", || {
        ensure!(host_ends(&lab) == 1, "still there");
        Ok(())
    })
    .unwrap();
    let (code, view) = check(&lab);
    assert_eq!(code, Some(2), "{view}");
    let findings = view["findings"].as_array().unwrap();
    let leaks: Vec<&Value> = findings
        .iter()
        .filter(|one| one["isLeak"] == true)
        .collect();
    assert_eq!(leaks.len(), 1, "{view}");
    assert_eq!(leaks[0]["kind"], "hostEndGone");
    assert!(
        leaks[0]["advice"].as_str().unwrap().contains(&container),
        "{view}"
    );

    let shown = lab.agent.verb(&["ipam", "show"]).unwrap();
    assert!(
        shown.contains("10.244.1.0/24") && shown.contains(&lives),
        "{shown}"
    );
    let shown = lab
        .agent
        .verb(&["ipam", "show", "--address", &dies])
        .unwrap();
    assert!(
        shown.contains("shop/dies") && shown.contains("(gone)"),
        "{shown}"
    );

    // Who lives is not released but by force; who is gone, at once.
    let error = lab.agent.verb(&["ipam", "release", &lives]).unwrap_err();
    assert!(format!("{error:#}").contains("--force"), "{error:#}");
    assert_eq!(host_ends(&lab), 1);
    lab.agent
        .verb(&["ipam", "release", "--container", &container])
        .unwrap();
    assert_eq!(holders(&lab).unwrap(), ["lives"]);
    let shown = lab
        .agent
        .verb(&["ipam", "show", "--address", &dies])
        .unwrap();
    assert!(shown.contains("resting"), "{shown}");
    assert_eq!(check(&lab).0, Some(0));
    let error = lab
        .agent
        .verb(&["ipam", "release", "--container", &container])
        .unwrap_err();
    assert!(format!("{error:#}").contains("no attachment"), "{error:#}");

    lab.agent
        .verb(&["ipam", "release", &lives, "--force"])
        .unwrap();
    assert_eq!(host_ends(&lab), 0);
    eventually(PATIENCE, "the routes to go", || {
        let routes = lab.node.ip("route show proto 179")?;
        ensure!(!routes.contains(&lives), "{routes}");
        Ok(())
    })
    .unwrap();
    assert_eq!(check(&lab).0, Some(0));
}
