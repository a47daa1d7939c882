//! The API server goes away for a minute: what is in force keeps forwarding, an agent that is killed meanwhile writes nothing
//! before it knows all, and what changed is caught up with.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test"
)]

use std::time::{Duration, Instant};

use anyhow::ensure;
use cluster::agents::{AgentLab, AgentNode, AgentPod, PATIENCE, TORS, count};
use tests::cni::Sandbox;
use tests::flow::{Flow, Kind, measure};
use tests::netns::Netns;
use tests::rack::{say, sum};
use tests::reach::{Verdict, server_at};
use tests::require_root;
use tests::wait::{eventually, pause};

const ONLY_CLIENTS: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: only-clients, namespace: shop}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress: [{from: [{podSelector: {matchLabels: {app: client}}}]}]
";

/// For how long the API server is away.
const AWAY: Duration = Duration::from_secs(60);
/// For how long probes go on: before, while and after.
const PROBED: Duration = Duration::from_secs(75);
const PROBES: usize = 20;
/// For how long nothing changes in a kernel that is settled.
const SETTLED: Duration = Duration::from_secs(11);

#[test]
fn an_api_server_that_is_away_for_a_minute_takes_nothing_with_it_and_is_caught_up_with() {
    require_root!();
    let mut lab = AgentLab::start("aga").unwrap();
    lab.plane.apply(TORS);
    lab.start_agents(&[]).unwrap();
    lab.plane.apply(ONLY_CLIENTS);
    let web = lab.run_pod("web", 0, "web").unwrap();
    let client = lab.run_pod("client", 1, "client").unwrap();
    let stranger = lab.run_pod("stranger", 1, "stranger").unwrap();
    lab.until(&client, &web, Verdict::Answered).unwrap();
    lab.until(&stranger, &web, Verdict::Silent).unwrap();

    let flows = flows(&client, &stranger, &web);
    let before = settled(&lab.nodes[0]);
    let outcomes = {
        let AgentLab { nodes, plane, .. } = &mut lab;
        measure(&flows, PROBED, || {
            pause(Duration::from_secs(2))?;
            plane.stop_api_server();
            let stopped = Instant::now();
            the_server_is_missed(&nodes[0]);
            // Killed, and started with nobody to ask.
            nodes[0].agent.kill()?;
            let AgentNode { agent, netns, .. } = &mut nodes[0];
            agent.start(netns)?;
            an_agent_that_knows_nothing_waits(&nodes[0]);
            assert_eq!(in_kernel(&nodes[0]), before, "what is there stays as it is");
            pause(AWAY.saturating_sub(stopped.elapsed()))?;
            plane.start_api_server();
            say(&format!("away for {:?}", stopped.elapsed()));
            Ok(())
        })
        .unwrap()
    };
    let (sent, lost) = sum("the API server away, an agent killed", &flows, &outcomes).unwrap();
    assert!(sent > 5_000, "{sent}");
    let leaked: u64 = outcomes.iter().map(|outcome| outcome.leaked).sum();
    assert_eq!((lost, leaked), (0, 0));

    let late = lab.run_pod("late", 1, "web").unwrap();
    let silent = count(&stranger, &late, Verdict::Silent, PROBES).unwrap();
    assert_eq!(
        silent, PROBES,
        "a new pod is isolated before its first packet"
    );
    // What changed since is caught up with.
    lab.plane
        .kubectl(&["-n", "shop", "delete", "networkpolicy", "only-clients"]);
    lab.until(&stranger, &web, Verdict::Answered).unwrap();
    for node in &lab.nodes {
        node.wait_ready().unwrap();
        eventually(PATIENCE, "nothing is away", || {
            let status = node.agent.status()?;
            ensure!(status["sources"][0]["awaySeconds"].is_null(), "{status}");
            Ok(())
        })
        .unwrap();
    }
    lab.ensure_no_refusals().unwrap();
}

fn flows<'a>(
    client: &'a AgentPod,
    stranger: &'a AgentPod,
    web: &AgentPod,
) -> Vec<(&'a Netns, Flow)> {
    let flow = |from: &'a AgentPod, kind, is_allowed| {
        let flow = Flow {
            name: format!("{} → web", from.sandbox.name),
            kind,
            is_allowed,
            to: server_at(web.addresses[0]),
            server: web.sandbox.netns.name().to_owned(),
            rate: 40,
        };
        (&from.sandbox.netns, flow)
    };
    vec![
        flow(client, Kind::NewTcp, true),
        flow(client, Kind::EstablishedTcp, true),
        flow(client, Kind::Udp, true),
        flow(stranger, Kind::NewTcp, false),
        flow(stranger, Kind::Udp, false),
    ]
}

/// What is in the kernel once nothing has changed for a while: chains that nothing leads to any more go up to ten
/// seconds after what took their place.
fn settled(node: &AgentNode) -> String {
    let mut seen = (in_kernel(node), Instant::now());
    eventually(PATIENCE, "the kernel's rules stay as they are", || {
        let now = in_kernel(node);
        if now != seen.0 {
            seen = (now, Instant::now());
        }
        let since = seen.1.elapsed();
        ensure!(since >= SETTLED, "the last change was {since:?} ago");
        Ok(())
    })
    .unwrap();
    seen.0
}

/// Routes and rules of ours, without counters.
fn in_kernel(node: &AgentNode) -> String {
    let rules = node.netns.run("iptables-save", &[]).unwrap();
    let ours = rules.lines().filter(|line| line.contains("PTL-"));
    let ours: Vec<&str> = ours
        .map(|line| line.split(" [").next().unwrap_or_default())
        .collect();
    let routes = node.netns.ip("route show proto 179").unwrap();
    format!("{}\n{routes}", ours.join("\n"))
}

/// It is told since when, and the agent is as ready as before.
fn the_server_is_missed(node: &AgentNode) {
    eventually(PATIENCE, "the agent misses the API server", || {
        let table = node.agent.status_table()?;
        ensure!(
            table.contains("in sync; the API server has been away for"),
            "{table}"
        );
        Ok(())
    })
    .unwrap();
    assert_eq!(asked(node, "readyz").unwrap(), "ok\n");
    assert_eq!(asked(node, "livez").unwrap(), "ok\n");
    let metrics = asked(node, "metrics").unwrap();
    let line = metrics
        .lines()
        .find(|line| line.starts_with("portolan_source_away_seconds "));
    let seconds = line.and_then(|line| line.split(' ').nth(1)?.parse::<f64>().ok());
    assert!(seconds.is_some_and(|seconds| seconds >= 0.0), "{line:?}");
}

/// Alive, not ready, and no pod gets an address.
fn an_agent_that_knows_nothing_waits(node: &AgentNode) {
    eventually(PATIENCE, "the new agent is alive", || asked(node, "livez")).unwrap();
    assert!(asked(node, "readyz").is_err());
    let status = node.agent.status().unwrap();
    assert_eq!(status["sources"][0]["inSync"], false, "{status}");
    let sandbox = Sandbox::new("aga", "shop", "early").unwrap();
    let uid = "5d1f2f5e-0000-4000-8000-000000000000";
    let answer = node.call("ADD", &sandbox, uid).unwrap();
    assert_eq!(answer.code(), Some(11), "{answer:?}");
}

fn asked(node: &AgentNode, path: &str) -> anyhow::Result<String> {
    let url = format!("http://127.0.0.1:9179/{path}");
    node.netns.run("curl", &["-sf", "--max-time", "5", &url])
}
