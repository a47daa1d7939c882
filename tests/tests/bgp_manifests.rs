//! A peer's manifests change while its session runs: passwords, filters, limits, shutdown, drain, and manifests that are broken.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tests::agent::Agent;
use tests::frr::Frr;
use tests::netns::Netns;
use tests::rack::{Rack, node_manifest};
use tests::require_root;
use tests::wait::{eventually, pause};

const PATIENCE: Duration = Duration::from_secs(40);
const TOR: &str = "10.65.0.1";
const NODE: &str = "10.65.0.2";
const POD_CIDR: &str = "10.250.1.0/24";

const NO_MESH: &str = "
apiVersion: portolan.io/v1alpha1
kind: BGPConfiguration
metadata: {name: default}
spec: {nodeToNodeMeshEnabled: false}
";

/// A node and a ToR that announces two good prefixes and three that a node must not take.
struct Lab {
    agent: Agent,
    frr: Frr,
    rack: Rack,
    _tor: Netns,
    node: Netns,
}

impl Lab {
    /// `neighbor` are lines of FRR's about the node, `peer` what the BGPPeer says besides address and AS.
    fn new(tag: &str, neighbor: &[&str], peer: &str) -> Self {
        let rack = Rack::new(tag).unwrap();
        let [tor, node] = ["tor", "node"].map(|role| rack.machine(role).unwrap());
        rack.plug((&tor, "eth0"), ("seg", "tor"), Some("10.65.0.1/24"))
            .unwrap();
        rack.plug((&node, "eth0"), ("seg", "node"), Some("10.65.0.2/24"))
            .unwrap();
        let neighbor: String = neighbor
            .iter()
            .map(|line| format!(" neighbor {NODE} {line}\n"))
            .collect();
        let config = format!(
            "router bgp 65000
 bgp router-id {TOR}
 no bgp ebgp-requires-policy
 no bgp network import-check
 neighbor {NODE} remote-as 64512
 neighbor {NODE} timers connect 10
{neighbor} address-family ipv4 unicast
  network 0.0.0.0/0
  network 10.100.1.0/24
  network 10.100.2.0/24
  network {POD_CIDR}
  network 10.250.1.128/25
"
        );
        let frr = Frr::start(&tor, &config).unwrap();
        rack.manifest("bgp.yaml", NO_MESH).unwrap();
        let mut agent = rack.speaker("n1", &node).unwrap();
        let lab_node = node_manifest("n1", NODE, POD_CIDR, "");
        rack.manifest("node.yaml", &lab_node).unwrap();
        agent.start(&node).unwrap();
        let lab = Self {
            agent,
            frr,
            rack,
            _tor: tor,
            node,
        };
        lab.peer(peer);
        lab
    }

    /// Writes the BGPPeer anew.
    fn peer(&self, more: &str) {
        let text = format!(
            "apiVersion: portolan.io/v1alpha1\nkind: BGPPeer\nmetadata: {{name: tor}}\nspec: {{peerAddress: {TOR}, asNumber: 65000{more}}}\n"
        );
        self.rack.manifest("peer.yaml", &text).unwrap();
    }

    /// Writes the BGPFilter `edge` anew: its importV4 and exportV4 rules.
    fn filter(&self, import: &[&str], export: &[&str]) {
        let rules = |rules: &[&str]| rules.join(", ");
        let text = format!(
            "apiVersion: portolan.io/v1alpha1\nkind: BGPFilter\nmetadata: {{name: edge}}\nspec: {{importV4: [{}], exportV4: [{}]}}\n",
            rules(import),
            rules(export)
        );
        self.rack.manifest("filter.yaml", &text).unwrap();
    }

    /// Writes the Secret with a file mode.
    fn secret(&self, password: &str, mode: u32) {
        let text = format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: bgp, namespace: portolan}}\nstringData: {{tor: {password}}}\n"
        );
        let aside = self.rack.manifests().join(".secret.new");
        std::fs::write(&aside, text).unwrap();
        std::fs::set_permissions(&aside, std::fs::Permissions::from_mode(mode)).unwrap();
        std::fs::rename(aside, self.rack.manifests().join("secret.yaml")).unwrap();
    }

    fn until(&self, what: &str, probe: impl FnMut() -> Result<()>) {
        eventually(PATIENCE, what, probe).unwrap_or_else(|error| {
            let table = self.agent.status_table().unwrap_or_default();
            panic!(
                "{error:#}\n{table}\n{}\n{}",
                self.agent.log_end(),
                self.frr.log_end()
            )
        });
    }

    fn until_up(&self) {
        self.until("the session", || {
            self.agent.ensure_established(TOR)?;
            let state = self.frr.session_state(NODE)?;
            ensure!(state == "Established", "FRR: {state}");
            Ok(())
        });
    }

    /// Waits until the kernel's learned routes are exactly these.
    fn until_routes(&self, what: &str, wanted: &[&str]) {
        self.until(what, || {
            let text = self.node.ip("route show proto 179")?;
            let learned: Vec<&str> = text
                .lines()
                .filter(|line| line.contains(" via "))
                .filter_map(|line| line.split_whitespace().next())
                .collect();
            ensure!(learned == wanted, "{learned:?} instead of {wanted:?}");
            Ok(())
        });
    }

    /// Waits until `portolan status` tells of a problem in these words.
    fn until_told(&self, words: &[&str]) {
        self.until(&format!("status tells {words:?}"), || {
            let table = self.agent.status_table()?;
            let told = |word: &&str| {
                table
                    .lines()
                    .any(|line| line.starts_with("problem:") && line.contains(*word))
            };
            ensure!(words.iter().all(told), "{table}");
            Ok(())
        });
    }

    /// What FRR says of the node.
    fn neighbor(&self) -> Result<Value> {
        let all = self.frr.json("show bgp neighbors json")?;
        all.get(NODE).cloned().context("no such neighbour")
    }

    /// How often FRR has seen the session come up.
    fn times_up(&self) -> u64 {
        self.neighbor().unwrap()["connectionsEstablished"]
            .as_u64()
            .unwrap()
    }

    /// The communities that FRR has with the node's Pod CIDR.
    fn communities(&self) -> Result<String> {
        let route = self
            .frr
            .json(&format!("show bgp ipv4 unicast {POD_CIDR} json"))?;
        let paths = route["paths"].as_array().context("no paths")?;
        let learned = paths.iter().find(|path| path["peer"]["peerId"] == NODE);
        let learned = learned.with_context(|| route.to_string())?;
        Ok(learned["community"]["string"]
            .as_str()
            .unwrap_or_default()
            .to_owned())
    }
}

const GOOD: [&str; 2] = ["10.100.1.0/24", "10.100.2.0/24"];

#[test]
fn a_password_comes_from_a_secret_and_a_file_open_to_others_is_refused() {
    require_root!();
    let lab = Lab::new(
        "mpw",
        &["password sesame"],
        ", password: {secretKeyRef: {name: bgp, key: tor}}",
    );
    lab.until_told(&["BGPPeer tor makes no session", "Secret bgp"]);
    lab.secret("sesame", 0o644);
    lab.until_told(&["secret.yaml", "chmod 600"]);
    assert_eq!(lab.agent.bgp(&["peers"]).unwrap(), serde_json::json!([]));
    assert!(!lab.agent.log().contains("sesame"));
    lab.secret("sesame", 0o600);
    lab.until_up();
    // Another word on both sides: the session starts again with it.
    lab.frr
        .vtysh(&[
            "configure terminal",
            "router bgp 65000",
            &format!("neighbor {NODE} password mustard"),
        ])
        .unwrap();
    lab.secret("mustard", 0o600);
    lab.until("the session with the new password", || {
        ensure!(lab.times_up() >= 2, "FRR: {}", lab.times_up());
        lab.agent.ensure_established(TOR)
    });
    assert!(!lab.agent.log().contains("mustard"));
}

#[test]
fn filters_and_broken_manifests_change_routes_or_nothing_and_never_the_session() {
    require_root!();
    let lab = Lab::new("mflt", &[], "");
    lab.until_up();
    lab.until_routes(
        "neither a default route nor the node's own Pod CIDR or longer",
        &GOOD,
    );
    let received = lab.agent.bgp(&["received", "tor"]).unwrap();
    for refused in ["0.0.0.0/0", POD_CIDR, "10.250.1.128/25"] {
        let all = received.as_array().unwrap();
        let path = all.iter().find(|path| path["prefix"] == refused).unwrap();
        let problem = path["problem"].as_str().unwrap_or_default();
        assert!(problem.contains("a default route, or part of"), "{path}");
    }
    lab.filter(
        &["{cidr: 10.100.1.0/24, matchOperator: Equal, action: Reject}"],
        &[],
    );
    lab.peer(", filters: [edge]");
    lab.until_routes("a rejected route leaves the kernel", &["10.100.2.0/24"]);
    lab.filter(
        &["{cidr: 0.0.0.0/0, matchOperator: Equal, action: Accept}"],
        &[],
    );
    let with_default = ["default", "10.100.1.0/24", "10.100.2.0/24"];
    lab.until_routes(
        "the rejected one is back, and the default route accepted",
        &with_default,
    );
    broken_manifests_change_nothing(&lab, &with_default);
    lab.filter(
        &[],
        &["{cidr: 10.250.0.0/16, matchOperator: In, action: Reject}"],
    );
    lab.until("FRR loses what an export rule rejects", || {
        ensure!(lab.communities().is_err(), "still there");
        Ok(())
    });
    lab.until_routes("the default route is refused again", &GOOD);
    lab.filter(&[], &[]);
    lab.until("FRR has it again", || lab.communities().map(drop));
    assert_eq!(lab.times_up(), 1, "one session all along");
    let flaps = lab.agent.bgp(&["peer", "tor"]).unwrap();
    assert_eq!(flaps["flaps"], 0, "{flaps}");
}

/// Invariant 9: bad input is named, and what works stays.
fn broken_manifests_change_nothing(lab: &Lab, routes: &[&str]) {
    lab.filter(
        &["{cidr: 10.100.0.0/33, matchOperator: In, action: Reject}"],
        &[],
    );
    lab.until_told(&["filter.yaml", "10.100.0.0/33"]);
    lab.until_routes("the last good rules hold", routes);
    lab.peer(", filters: [edge], holdTime: soon");
    lab.until_told(&["peer.yaml", "BGPPeer tor", "\"soon\" is not a duration"]);
    lab.until_routes("the last good peer holds", routes);
    assert_eq!(lab.times_up(), 1);
    // Good again, as it was.
    lab.filter(
        &["{cidr: 0.0.0.0/0, matchOperator: Equal, action: Accept}"],
        &[],
    );
    lab.peer(", filters: [edge]");
    lab.until("no problem any more", || {
        let table = lab.agent.status_table()?;
        ensure!(!table.contains("problem:"), "{table}");
        Ok(())
    });
}

#[test]
fn a_peer_that_names_a_missing_filter_makes_no_session_and_says_why() {
    require_root!();
    let lab = Lab::new("mmis", &[], ", filters: [edge]");
    lab.until_told(&["BGPPeer tor makes no session", "BGPFilter edge"]);
    assert_eq!(lab.agent.bgp(&["peers"]).unwrap(), serde_json::json!([]));
    lab.filter(&[], &[]);
    lab.until_up();
    lab.until_routes("its routes", &GOOD);
}

#[test]
fn too_many_prefixes_end_the_session_until_restart_after() {
    require_root!();
    let lab = Lab::new("mmax", &[], ", maxPrefixes: {limit: 3, restartAfter: 4s}");
    lab.until("FRR is told why the session ends", || {
        let neighbor = lab.neighbor()?;
        let reason = neighbor["lastNotificationReason"]
            .as_str()
            .unwrap_or_default();
        ensure!(reason.contains("Maximum Number of Prefixes"), "{neighbor}");
        let peer = lab.agent.bgp(&["peer", "tor"])?;
        ensure!(peer["heldDownSeconds"].is_u64(), "{peer}");
        Ok(())
    });
    assert!(
        lab.agent.log().contains("too many prefixes"),
        "{}",
        lab.agent.log_end()
    );
    let less =
        ["0.0.0.0/0", POD_CIDR, "10.250.1.128/25"].map(|prefix| format!("no network {prefix}"));
    let mut commands = vec![
        "configure terminal",
        "router bgp 65000",
        "address-family ipv4 unicast",
    ];
    commands.extend(less.iter().map(String::as_str));
    lab.frr.vtysh(&commands).unwrap();
    lab.until_up();
    lab.until_routes("what is left of them", &GOOD);
}

#[test]
fn a_shutdown_tells_its_reason_and_ttl_security_takes_whoever_has_it_too() {
    require_root!();
    let lab = Lab::new("mshd", &[], "");
    lab.until_up();
    lab.peer(", adminShutdown: true, shutdownMessage: 'moving to rack 7'");
    lab.until("FRR is told why", || {
        let neighbor = lab.neighbor()?;
        let reason = neighbor["lastNotificationReason"]
            .as_str()
            .unwrap_or_default();
        ensure!(reason.contains("Administrative Shutdown"), "{neighbor}");
        let text = neighbor["lastShutdownDescription"]
            .as_str()
            .unwrap_or_default();
        ensure!(text == "moving to rack 7", "{neighbor}");
        Ok(())
    });
    lab.until_routes("nothing of a peer that is shut down", &[]);
    assert!(
        lab.agent
            .verb(&["bgp", "peers"])
            .unwrap()
            .contains("shut down")
    );
    // GTSM on our side alone: FRR's packets come with TTL 1 and are dropped.
    lab.peer(", ttlSecurity: 1");
    lab.until("the peer wants to", || {
        let peer = lab.agent.bgp(&["peer", "tor"])?;
        ensure!(peer["shutDown"] == false, "{peer}");
        Ok(())
    });
    // We dial at once, as the next one shows, and here it comes to nothing.
    for _ in 0..20 {
        pause(Duration::from_millis(100)).unwrap();
        assert!(lab.agent.ensure_established(TOR).is_err());
    }
    let ttl = format!("neighbor {NODE} ttl-security hops 1");
    lab.frr
        .vtysh(&["configure terminal", "router bgp 65000", &ttl])
        .unwrap();
    lab.until_up();
    lab.until_routes("its routes", &GOOD);
}

#[test]
fn a_drained_node_is_announced_with_graceful_shutdown_and_its_session_stays() {
    require_root!();
    let lab = Lab::new("mdrn", &[], "");
    lab.until_up();
    lab.until("FRR has the Pod CIDR as it is", || {
        let said = lab.communities()?;
        ensure!(said.is_empty(), "{said}");
        Ok(())
    });
    let drained = node_manifest(
        "n1",
        NODE,
        POD_CIDR,
        "\n    portolan.io/bgp-drain: \"true\"",
    );
    lab.rack.manifest("node.yaml", &drained).unwrap();
    lab.until("FRR sees 65535:0", || {
        let said = lab.communities()?;
        ensure!(
            ["gracefulShutdown", "graceful-shutdown", "65535:0"].contains(&said.as_str()),
            "{said}"
        );
        Ok(())
    });
    let back = node_manifest("n1", NODE, POD_CIDR, "");
    lab.rack.manifest("node.yaml", &back).unwrap();
    lab.until("FRR sees it no more", || {
        let said = lab.communities()?;
        ensure!(said.is_empty(), "{said}");
        Ok(())
    });
    assert_eq!(lab.times_up(), 1);
}
