//! Peers that come, change and go by what the API server holds: sessions that are not concerned stay as they are.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test"
)]

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use cluster::agents::{AgentLab, PATIENCE};
use serde_json::Value;
use tests::require_root;
use tests::wait::eventually;

/// A mesh, and a ToR for each node of rack r1 with a password.
const PEERS: &str = "
apiVersion: portolan.io/v1alpha1
kind: BGPPeer
metadata: {name: tor-1}
spec:
  nodeSelector: \"rack == 'r1' && kubernetes.io/hostname == 'n1'\"
  peerAddress: 10.179.1.1
  asNumber: 65100
  password: {secretKeyRef: {name: bgp, key: tor}}
---
apiVersion: portolan.io/v1alpha1
kind: BGPPeer
metadata: {name: tor-2}
spec: {nodeSelector: \"rack == 'r1' && kubernetes.io/hostname == 'n2'\", peerAddress: 10.179.2.1, asNumber: 65100}
";

fn secret(lab: &AgentLab, password: &str) {
    lab.plane.apply(&format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: bgp, namespace: portolan}}\nstringData: {{tor: {password}}}\n"
    ));
}

#[test]
fn secrets_labels_and_addresses_change_sessions_live_and_only_those_they_concern() {
    require_root!();
    let mut lab = AgentLab::start("agb").unwrap();
    tor_password(&lab, "sesame");
    secret(&lab, "sesame");
    lab.plane.apply(PEERS);
    lab.start_agents(&[]).unwrap();
    for (node, peer) in [(0, "tor-1"), (0, "mesh/n2"), (1, "tor-2"), (1, "mesh/n1")] {
        until_established(&lab, node, peer);
    }
    let others = [(0, "mesh/n2"), (1, "mesh/n1"), (1, "tor-2")];
    let before = Steady::new(&lab, &others);
    let rotated = Instant::now();
    // The password is rotated: the old one holds no longer, the new one does, nobody else notices.
    tor_password(&lab, "mustard");
    secret(&lab, "mustard");
    until_anew(&lab, (0, "tor-1"), rotated);
    assert!(
        !lab.nodes[0].agent.log().contains("mustard"),
        "never logged"
    );
    let table = lab.nodes[0].agent.verb(&["status", "-o", "json"]).unwrap();
    assert!(!table.contains("mustard"));
    before.check(&lab);

    // n2 moves to another rack: its ToR's session ends, all else stays.
    let rest = Steady::new(&lab, &[(0, "mesh/n2"), (1, "mesh/n1"), (0, "tor-1")]);
    let label = |lab: &AgentLab, rack: &str| {
        let rack = format!("rack={rack}");
        lab.plane
            .kubectl(&["label", "node", "n2", &rack, "--overwrite"]);
    };
    label(&lab, "r2");
    eventually(PATIENCE, "n2 has no session with a ToR", || {
        ensure!(session(&lab, 1, "tor-2").is_err());
        Ok(())
    })
    .unwrap();
    label(&lab, "r1");
    until_established(&lab, 1, "tor-2");
    rest.check(&lab);

    addresses_by_annotation(&lab);
    lab.ensure_no_refusals().unwrap();
}

/// Sessions that are to stay: their time goes on.
struct Steady(Instant, Vec<(usize, &'static str, u64)>);

impl Steady {
    fn new(lab: &AgentLab, sessions: &[(usize, &'static str)]) -> Self {
        let all = sessions.iter();
        let all = all.map(|(node, name)| (*node, *name, uptime(lab, *node, name)));
        Self(Instant::now(), all.collect())
    }

    fn check(&self, lab: &AgentLab) {
        for (node, name, before) in &self.1 {
            let since = self.0.elapsed().as_secs();
            let now = uptime(lab, *node, name);
            // Either may be short of a second.
            assert!(
                now + 2 >= before + since,
                "{name}: {before} s, {since} s later {now} s"
            );
        }
    }
}

fn uptime(lab: &AgentLab, node: usize, name: &str) -> u64 {
    let session = session(lab, node, name).unwrap();
    session["establishedSeconds"].as_u64().unwrap()
}

/// Waits until a session is Established that was not so at that time.
fn until_anew(lab: &AgentLab, (node, name): (usize, &str), at: Instant) {
    eventually(PATIENCE, &format!("{name} is Established anew"), || {
        let session = session(lab, node, name)?;
        let uptime = session["establishedSeconds"].as_u64().context("down")?;
        ensure!(uptime < at.elapsed().as_secs(), "{session}");
        Ok(())
    })
    .unwrap();
}

/// A Node's annotation gives it another address: its neighbours dial that one, and one that is nowhere is told.
fn addresses_by_annotation(lab: &AgentLab) {
    let annotate = |what: &str| {
        lab.plane
            .kubectl(&["annotate", "node", "n2", what, "--overwrite"]);
    };
    lab.nodes[1]
        .netns
        .ip("addr add 10.179.2.77/24 dev eth0")
        .unwrap();
    annotate("portolan.io/ipv4-address=10.179.2.77");
    eventually(PATIENCE, "n1 speaks with n2's other address", || {
        let session = session(lab, 0, "mesh/n2")?;
        ensure!(
            session["address"].to_string().contains("10.179.2.77:"),
            "{session}"
        );
        ensure!(session["state"] == "Established", "{session}");
        Ok(())
    })
    .unwrap();
    annotate("portolan.io/ipv4-address=10.179.2.78");
    let told = |what: &str| {
        eventually(PATIENCE, what, || {
            let status = lab.nodes[1].agent.status()?;
            let text = format!("{} {}", status["errors"], status["sources"][0]["problems"]);
            ensure!(text.contains(what), "{text}");
            Ok(())
        })
        .unwrap();
    };
    told("Node n2: its address 10.179.2.78 is on no interface of this host");
    // A wrong one is a problem that names the Node; the last good state holds.
    annotate("portolan.io/ipv4-address=10.179.2.77");
    until_established(lab, 1, "mesh/n1");
    annotate("portolan.io/ipv4-address=10.179.2.0/24");
    told("Node n2: annotation portolan.io/ipv4-address");
    assert!(session(lab, 1, "mesh/n1").unwrap()["state"] == "Established");
}

/// What FRR expects of n1.
fn tor_password(lab: &AgentLab, password: &str) {
    let line = format!("neighbor 10.179.1.2 password {password}");
    lab.fabric
        .frr()
        .vtysh(&["configure terminal", "router bgp 65100", &line])
        .unwrap();
}

fn session(lab: &AgentLab, node: usize, name: &str) -> Result<Value> {
    let status = lab.nodes[node].agent.status()?;
    let sessions = status["sessions"].as_array().cloned().unwrap_or_default();
    let mut found = sessions.into_iter();
    let found = found.find(|session| session["name"] == name);
    found.with_context(|| format!("no session {name}: {}", status["sessions"]))
}

fn until_established(lab: &AgentLab, node: usize, name: &str) {
    eventually(PATIENCE, &format!("{name} is Established"), || {
        let session = session(lab, node, name)?;
        ensure!(session["state"] == "Established", "{session}");
        Ok(())
    })
    .unwrap_or_else(|error| panic!("{error:#}\n{}", lab.nodes[node].agent.log_end()));
}
