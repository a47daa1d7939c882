//! What the agent tells of itself over HTTP, and that it neither writes before it knows nor leaves damage by others.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::ensure;
use tests::lab::{Lab, Options};
use tests::require_root;
use tests::wait::eventually;

/// The agent is told of what others do to its rules; routes may take longer (`policy_heal` measures the rules).
const REPAIR: Duration = Duration::from_secs(60);

fn lab(tag: &str) -> Lab {
    let options = Options::for_test(tag, env!("CARGO_BIN_EXE_portolan-demo")).unwrap();
    Lab::new(options).unwrap()
}

/// The answer's status line and body.
fn get(lab: &Lab, path: &str) -> (String, String) {
    let asked = lab.nodes[0].netns.inside(|| {
        let mut stream = TcpStream::connect("127.0.0.1:9179").unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: node1\r\nConnection: close\r\n\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    });
    let answer = asked.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.lines().next().unwrap().to_owned(), body.to_owned())
}

#[test]
fn health_and_metrics_are_served_and_tell_the_truth() {
    require_root!();
    let mut lab = lab("hlt");
    lab.start_agents().unwrap();
    lab.attach_all().unwrap();
    assert_eq!(get(&lab, "/livez").0, "HTTP/1.1 200 OK");
    assert_eq!(get(&lab, "/readyz").0, "HTTP/1.1 200 OK");
    assert_eq!(get(&lab, "/nothing").0, "HTTP/1.1 404 Not Found");
    let (status, metrics) = get(&lab, "/metrics");
    assert_eq!(status, "HTTP/1.1 200 OK");
    for line in [
        "portolan_agent_ready 1",
        "portolan_bgp_session_established{peer=\"tor-node1\"} 1",
        "portolan_cni_endpoints 3",
        "portolan_routes_failed 0",
    ] {
        assert!(metrics.contains(line), "{line} is missing in\n{metrics}");
    }
}

#[test]
fn an_agent_that_does_not_know_its_node_writes_no_route_and_says_so() {
    require_root!();
    let mut lab = lab("ukn");
    // The Node manifests are gone before the agents start: sources in sync, this node unknown (invariants 3 and 9).
    for entry in std::fs::read_dir(lab.manifests()).unwrap() {
        let path = entry.unwrap().path();
        if std::fs::read_to_string(&path).is_ok_and(|text| text.contains("kind: Node\n")) {
            std::fs::remove_file(path).unwrap();
        }
    }
    let node = &mut lab.nodes[0];
    node.agent.start(&node.netns).unwrap();
    eventually(
        Duration::from_secs(20),
        "the agent says what is missing",
        || {
            let status = lab.nodes[0].agent.status()?;
            ensure!(status["ready"] == false, "{status}");
            let errors = status["errors"].to_string();
            ensure!(errors.contains("there is no Node node1"), "{errors}");
            Ok(())
        },
    )
    .unwrap();
    assert_eq!(get(&lab, "/readyz").0, "HTTP/1.1 503 Service Unavailable");
    let routes = lab.nodes[0].netns.ip("route show proto 179").unwrap();
    assert_eq!(routes.trim(), "");
}

#[test]
fn rules_routes_and_sets_that_others_damage_are_repaired() {
    require_root!();
    let mut lab = lab("dmg");
    lab.start_agents().unwrap();
    lab.attach_all().unwrap();
    let save = |lab: &Lab| {
        let text = lab.nodes[0].netns.run("iptables-save", &[]).unwrap();
        text.lines()
            .filter(|line| line.starts_with("-A"))
            .collect::<Vec<_>>()
            .join("\n")
    };
    let before = save(&lab);
    let routes = lab.nodes[0].netns.ip("route show proto 179").unwrap();
    assert!(
        before.contains("PTL-FORWARD") && routes.contains("ptl"),
        "{before}\n{routes}"
    );
    let netns = &lab.nodes[0].netns;
    netns.run("iptables", &["-F", "PTL-POD"]).unwrap();
    netns.run("iptables", &["-D", "FORWARD", "1"]).unwrap();
    netns.ip("route flush proto 179").unwrap();
    assert_ne!(save(&lab), before);
    eventually(REPAIR, "rules and routes are as before", || {
        ensure!(save(&lab) == before, "{}", save(&lab));
        let now = lab.nodes[0].netns.ip("route show proto 179")?;
        ensure!(now == routes, "{now}");
        Ok(())
    })
    .unwrap();
    let status = lab.nodes[0].agent.status().unwrap();
    let repairs = status["policy"]["repairs"].as_u64();
    assert!(repairs.is_some_and(|count| count >= 1), "{status}");
}
