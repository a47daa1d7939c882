//! `portolan bgp` against a running agent with two ToRs of real FRR: tables, JSON, and what the other side sees of it.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tests::agent::Agent;
use tests::frr::Frr;
use tests::netns::Netns;
use tests::rack::{Rack, node_manifest};
use tests::require_root;
use tests::wait::eventually;

const PATIENCE: Duration = Duration::from_secs(40);
const NODE: &str = "10.66.0.2";
const TORS: [&str; 2] = ["10.66.0.1", "10.66.0.3"];
const POD_CIDR: &str = "10.250.1.0/24";

const BGP: &str = "
apiVersion: portolan.io/v1alpha1
kind: BGPConfiguration
metadata: {name: default}
spec: {nodeToNodeMeshEnabled: false}
---
apiVersion: portolan.io/v1alpha1
kind: BGPFilter
metadata: {name: edge}
spec:
  importV4:
  - {cidr: 10.100.8.0/24, matchOperator: Equal, action: Accept, operations: [{setLocalPref: {value: 300}}]}
  - {cidr: 10.100.9.0/24, matchOperator: Equal, action: Reject}
---
apiVersion: portolan.io/v1alpha1
kind: BGPPeer
metadata: {name: tor1}
spec: {peerAddress: 10.66.0.1, asNumber: 65001}
---
apiVersion: portolan.io/v1alpha1
kind: BGPPeer
metadata: {name: tor2}
spec: {peerAddress: 10.66.0.3, asNumber: 65002, filters: [edge]}
";

/// Both announce .1 and .8; the second with a longer path, and .9 alone.
struct Lab {
    agent: Agent,
    tors: Vec<Frr>,
    _spaces: Vec<Netns>,
    _rack: Rack,
}

impl Lab {
    fn new(tag: &str) -> Self {
        let rack = Rack::new(tag).unwrap();
        let node = rack.machine("node").unwrap();
        rack.plug((&node, "eth0"), ("seg", "node"), Some("10.66.0.2/24"))
            .unwrap();
        let (mut tors, mut spaces) = (Vec::new(), Vec::new());
        for (number, address) in (1..).zip(TORS) {
            let name = format!("tor{number}");
            let tor = rack.machine(&name).unwrap();
            let within = format!("{address}/24");
            rack.plug((&tor, "eth0"), ("seg", &name), Some(&within))
                .unwrap();
            let more = if number == 2 {
                "  network 10.100.9.0/24\n"
            } else {
                ""
            };
            let prepend = if number == 2 {
                "set as-path prepend 65002 65002"
            } else {
                "set metric 7"
            };
            let config = format!(
                "router bgp 6500{number}
 bgp router-id {address}
 no bgp ebgp-requires-policy
 no bgp network import-check
 neighbor {NODE} remote-as 64512
 neighbor {NODE} timers connect 10
 address-family ipv4 unicast
  neighbor {NODE} route-map out out
  network 10.100.1.0/24
  network 10.100.8.0/24
{more} exit-address-family
!
ip prefix-list mine seq 5 permit 10.100.0.0/16 le 24
route-map out permit 10
 match ip address prefix-list mine
 {prepend}
"
            );
            tors.push(Frr::start(&tor, &config).unwrap());
            spaces.push(tor);
        }
        let text = node_manifest("n1", NODE, POD_CIDR, "");
        rack.manifest("node.yaml", &text).unwrap();
        rack.manifest("bgp.yaml", BGP).unwrap();
        let mut agent = rack.speaker("n1", &node).unwrap();
        agent.start(&node).unwrap();
        spaces.push(node);
        let lab = Self {
            agent,
            tors,
            _spaces: spaces,
            _rack: rack,
        };
        lab.until(
            "five paths from two peers, and our prefix with both",
            || {
                let peers = lab.agent.bgp(&["peers"])?;
                let counts = [0, 1].map(|i| {
                    (
                        peers[i]["prefixesAccepted"].as_u64(),
                        peers[i]["prefixesRejected"].as_u64(),
                    )
                });
                ensure!(
                    counts == [(Some(2), Some(0)), (Some(2), Some(1))],
                    "{peers}"
                );
                for tor in &lab.tors {
                    let routes = tor.bgp_routes()?;
                    ensure!(
                        routes.iter().any(|(prefix, _)| prefix == POD_CIDR),
                        "{routes:?}"
                    );
                }
                Ok(())
            },
        );
        lab
    }

    fn until(&self, what: &str, probe: impl FnMut() -> Result<()>) {
        eventually(PATIENCE, what, probe)
            .unwrap_or_else(|error| panic!("{error:#}\n{}", self.agent.log_end()));
    }

    fn table(&self, words: &[&str]) -> String {
        self.agent.verb(&[&["bgp"], words].concat()).unwrap()
    }

    /// What a ToR says of the node.
    fn neighbor(&self, tor: usize) -> Result<Value> {
        let all = self.tors[tor].json("show bgp neighbors json")?;
        all.get(NODE).cloned().context("no such neighbour")
    }

    /// The prefixes that a ToR says it has sent us.
    fn sent_by(&self, tor: usize) -> BTreeSet<String> {
        let command = format!("show bgp ipv4 unicast neighbors {NODE} advertised-routes json");
        let said = self.tors[tor].json(&command).unwrap();
        said["advertisedRoutes"]
            .as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect()
    }
}

fn prefixes(paths: &Value) -> BTreeSet<String> {
    let paths = paths.as_array().unwrap().iter();
    paths
        .map(|path| path["prefix"].as_str().unwrap().to_owned())
        .collect()
}

/// The line of a table that begins with these words.
fn line<'a>(table: &'a str, words: &[&str]) -> &'a str {
    let found = table.lines().find(|line| {
        line.split_whitespace()
            .take(words.len())
            .eq(words.iter().copied())
    });
    found.unwrap_or_else(|| panic!("no line {words:?} in\n{table}"))
}

fn of_peer<'a>(paths: &'a Value, peer: &str) -> &'a Value {
    let mut paths = paths.as_array().unwrap().iter();
    paths.find(|path| path["peer"] == peer).unwrap()
}

#[test]
fn peers_and_routes_are_shown_as_tables_and_as_json_and_agree_with_the_other_side() {
    require_root!();
    let lab = Lab::new("vtab");
    let table = lab.table(&["peers"]);
    assert!(line(&table, &["PEER", "ADDRESS", "AS", "STATE"]).contains("LAST DOWN"));
    line(&table, &["tor1", "10.66.0.1:179", "65001", "Established"]);
    let one = lab.agent.bgp(&["peer", "tor2"]).unwrap();
    assert_eq!(
        (&one["asNumber"], &one["routerID"]),
        (&65002.into(), &TORS[1].into())
    );
    assert_eq!(
        (&one["session"]["holdSeconds"], &one["flaps"]),
        (&90.into(), &0.into())
    );
    let table = lab.table(&["peer", "tor2"]);
    line(&table, &["HoldTime", "90", "s"]);
    line(&table, &["families", "IPv4"]);
    assert!(table.contains("route refresh (RFC 2918)"), "{table}");

    for (index, tor) in ["tor1", "tor2"].into_iter().enumerate() {
        let received = lab.agent.bgp(&["received", tor]).unwrap();
        assert_eq!(prefixes(&received), lab.sent_by(index), "from {tor}");
        let advertised = lab.agent.bgp(&["advertised", tor]).unwrap();
        assert_eq!(
            prefixes(&advertised),
            [POD_CIDR.to_owned()].into(),
            "to {tor}"
        );
        assert_eq!(advertised[0]["nextHop"], NODE);
        let held = lab.tors[index].bgp_routes().unwrap();
        assert!(
            held.contains(&(POD_CIDR.to_owned(), vec![NODE.to_owned()])),
            "{held:?}"
        );
    }
    let table = lab.table(&["received", "tor2"]);
    assert!(
        line(&table, &["10.100.9.0/24"]).contains("a filter rejects it"),
        "{table}"
    );
    assert!(
        line(&table, &["10.100.1.0/24"]).contains("65002 65002 65002"),
        "{table}"
    );

    let table = lab.table(&["routes", "10.100.0.0/16"]);
    assert!(
        line(&table, &[">", "10.100.1.0/24", "10.66.0.1", "tor1"]).contains('7'),
        "{table}"
    );
    line(&table, &[">", "10.100.8.0/24", "10.66.0.3", "tor2", "300"]);
    assert!(!table.contains(POD_CIDR), "{table}");
    let routes = lab.agent.bgp(&["routes"]).unwrap();
    assert!(prefixes(&routes).contains(POD_CIDR), "{routes}");
    let limited = lab.agent.bgp(&["routes", "--limit", "1"]).unwrap();
    assert_eq!(limited.as_array().unwrap().len(), 1);
}

#[test]
fn explain_says_at_which_step_a_path_lost_which_rule_rejected_one_and_who_is_told() {
    require_root!();
    let lab = Lab::new("vexp");
    let told = lab.agent.bgp(&["explain", "10.100.1.0/24"]).unwrap();
    assert_eq!(of_peer(&told["paths"], "tor1")["outcome"], "best");
    let lost = of_peer(&told["paths"], "tor2")["outcome"].as_str().unwrap();
    assert_eq!(lost, "lost to tor1 at the shorter AS path: 3 against 1");
    let table = lab.table(&["explain", "10.100.1.0/24"]);
    assert!(table.contains(lost), "{table}");
    assert!(
        table.contains("not sent to tor2: it was learned, and a node is no transit"),
        "{table}"
    );

    let told = lab.agent.bgp(&["explain", "10.100.8.0/24"]).unwrap();
    let best = of_peer(&told["paths"], "tor2")["outcome"].as_str().unwrap();
    assert_eq!(best, "best (filter edge importV4 rule 1)");
    let lost = of_peer(&told["paths"], "tor1")["outcome"].as_str().unwrap();
    assert!(
        lost.starts_with("lost to tor2 at the higher local preference"),
        "{lost}"
    );

    let table = lab.table(&["explain", "10.100.9.0/24"]);
    let rule = "not used: a filter rejects it (filter edge importV4 rule 2)";
    assert!(table.contains(rule), "{table}");
    let table = lab.table(&["explain", POD_CIDR]);
    for tor in ["tor1", "tor2"] {
        assert!(
            table.contains(&format!("sent to {tor}: the best path")),
            "{table}"
        );
    }
    let table = lab.table(&["explain", "10.99.0.0/16"]);
    assert!(table.contains("nobody announces it"), "{table}");
}

#[test]
fn refresh_asks_for_all_again_reset_starts_a_session_again_and_a_wrong_name_is_told() {
    require_root!();
    let lab = Lab::new("vact");
    let refreshes = |lab: &Lab| -> Result<u64> {
        let neighbor = lab.neighbor(0)?;
        let count = neighbor["messageStats"]["routeRefreshRecv"].as_u64();
        count.with_context(|| neighbor.to_string())
    };
    let before = refreshes(&lab).unwrap();
    let said = lab.table(&["refresh", "tor1"]);
    assert!(said.contains("tor1 was asked for all its routes"), "{said}");
    lab.until("FRR counts the request", || {
        let now = refreshes(&lab)?;
        ensure!(now > before, "{now}");
        Ok(())
    });
    assert_eq!(lab.neighbor(0).unwrap()["connectionsEstablished"], 1);

    let said = lab
        .agent
        .bgp(&["reset", "tor1", "--message", "new optics"])
        .unwrap();
    assert_eq!(said["done"], "tor1 starts again");
    lab.until("FRR is told why", || {
        let neighbor = lab.neighbor(0)?;
        let reason = neighbor["lastNotificationReason"].as_str();
        let reason = reason.unwrap_or_default();
        ensure!(reason.contains("Administrative Reset"), "{neighbor}");
        Ok(())
    });
    lab.until("the session comes back", || {
        let neighbor = lab.neighbor(0)?;
        ensure!(neighbor["connectionsEstablished"] == 2, "{neighbor}");
        lab.agent.ensure_established(TORS[0])
    });
    assert_eq!(
        lab.neighbor(1).unwrap()["connectionsEstablished"],
        1,
        "the other stays"
    );
    let peer = lab.agent.bgp(&["peer", "tor1"]).unwrap();
    assert_eq!(peer["flaps"], 1, "{peer}");

    for verb in ["peer", "advertised", "received", "refresh", "reset"] {
        let error = lab
            .agent
            .verb(&["bgp", verb, "tor9"])
            .unwrap_err()
            .to_string();
        assert!(error.contains("tor9"), "{verb}: {error}");
    }
}
