//! Restarts and damage under probes: all nodes of a mesh at once, one again and again, the ToR's bgpd, and the kernel's routes.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tests::agent::Agent;
use tests::flow::{Flow, Kind, measure};
use tests::frr::Frr;
use tests::netns::Netns;
use tests::rack::{Host, Rack, flow, node_manifest, say, sum};
use tests::require_root;
use tests::wait::{eventually, pause};

const PATIENCE: Duration = Duration::from_secs(60);
/// How long FRR says that it has restarted (the R bit), counted from its start.
const RESTARTED: Duration = Duration::from_secs(120);

/// A helper as FRR is without a word: capability 64 with no address family.
const HELPER: &str = "";
/// A ToR whose zebra forwards on while its bgpd is away.
const RESTARTER: &str = " bgp graceful-restart\n bgp graceful-restart preserve-fw-state\n";

const BGP: &str = "
apiVersion: portolan.io/v1alpha1
kind: BGPPeer
metadata: {name: tor}
spec: {peerAddress: 10.50.0.1, asNumber: 65000}
";

struct Node {
    agent: Agent,
    netns: Netns,
    cidr: String,
}

/// Three nodes in a mesh, a ToR, and a host behind each of the four.
struct Lab {
    hosts: Vec<Host>,
    outside: Host,
    nodes: Vec<Node>,
    frr: Frr,
    tor: Netns,
    rack: Rack,
    started: Instant,
}

impl Lab {
    fn new(tag: &str, graceful: &str) -> Self {
        let rack = Rack::new(tag).unwrap();
        let tor = rack.machine("tor").unwrap();
        let at_tor = ("seg", "tor");
        rack.plug((&tor, "eth0"), at_tor, Some("10.50.0.1/24"))
            .unwrap();
        let outside = rack
            .host("outside", &tor, "192.0.2.10", "192.0.2.1")
            .unwrap();
        let (mut nodes, mut hosts) = (Vec::new(), Vec::new());
        for number in 1..=3 {
            let (name, cidr) = (format!("n{number}"), format!("10.250.{number}.0/24"));
            let address = format!("10.50.0.1{number}");
            let netns = rack.machine(&name).unwrap();
            let within = format!("{address}/24");
            rack.plug((&netns, "eth0"), ("seg", &name), Some(&within))
                .unwrap();
            let pod = format!("10.250.{number}.2");
            let host = rack.host(&format!("pod{number}"), &netns, &pod, "169.254.1.1");
            hosts.push(host.unwrap());
            let node = node_manifest(&name, &address, &cidr, "");
            rack.manifest(&format!("{name}.yaml"), &node).unwrap();
            let agent = rack.speaker(&name, &netns).unwrap();
            nodes.push(Node { agent, netns, cidr });
        }
        rack.manifest("bgp.yaml", BGP).unwrap();
        let neighbors = (1..=3).map(|n| format!(" neighbor 10.50.0.1{n} remote-as 64512\n"));
        let config = format!(
            "router bgp 65000\n bgp router-id 10.50.0.1\n no bgp ebgp-requires-policy\n{graceful} timers bgp connect 1\n{} address-family ipv4 unicast\n  network 192.0.2.10/32\n",
            neighbors.collect::<String>()
        );
        let started = Instant::now();
        let frr = Frr::start(&tor, &config).unwrap();
        let mut lab = Self {
            hosts,
            outside,
            nodes,
            frr,
            tor,
            rack,
            started,
        };
        lab.nodes.iter_mut().for_each(start);
        lab.wait_converged();
        lab
    }

    /// Every kernel has every route, and the ToR every node's.
    fn wait_converged(&mut self) {
        let what = "sessions, and routes in every kernel";
        let converged = eventually(PATIENCE, what, || {
            for node in &self.nodes {
                node.agent.ensure_established("10.50.0.1")?;
                let kernel = node.netns.ip("route show proto 179")?;
                let others = self.nodes.iter().map(|node| node.cidr.as_str());
                for prefix in others.chain(["192.0.2.10"]) {
                    ensure!(kernel.contains(prefix), "no {prefix} in\n{kernel}");
                }
                let tor = self.tor.ip("route show proto bgp")?;
                ensure!(tor.contains(&node.cidr), "no {} in\n{tor}", node.cidr);
            }
            Ok(())
        });
        if let Err(error) = converged {
            let logs = self.nodes.iter().map(|node| node.agent.log_end());
            let logs: Vec<_> = logs.collect();
            panic!("{error:#}\n{}\n{}", logs.join("\n\n"), self.frr.log_end());
        }
    }

    /// Probes for so many seconds while `during` has nodes, daemons and links; what was lost.
    fn lost(
        &mut self,
        title: &str,
        seconds: u64,
        during: impl FnOnce(&mut [Node], &mut Frr, &Netns, &Rack) -> Result<()>,
    ) -> u64 {
        let flows = flows(&self.hosts, &self.outside);
        let (nodes, frr) = (&mut self.nodes, &mut self.frr);
        let outcomes = measure(&flows, Duration::from_secs(seconds), || {
            during(nodes, frr, &self.tor, &self.rack)
        });
        let (sent, lost) = sum(title, &flows, &outcomes.unwrap()).unwrap();
        assert!(sent > 0, "{title}");
        if lost > 0 {
            for node in &self.nodes {
                say(&node.agent.log_end());
            }
        }
        lost
    }
}

/// In and out of the rack and between its nodes, each kind somewhere.
fn flows<'a>(hosts: &'a [Host], outside: &'a Host) -> Vec<(&'a Netns, Flow)> {
    let [one, two, three] = [&hosts[0], &hosts[1], &hosts[2]];
    [
        ("outside → n1", Kind::Udp, outside, one),
        ("outside → n2", Kind::NewTcp, outside, two),
        ("n3 → outside", Kind::Udp, three, outside),
        ("n1 → n2", Kind::Udp, one, two),
        ("n2 → n3", Kind::EstablishedTcp, two, three),
    ]
    .map(|(name, kind, from, to)| (&from.netns, flow(name, kind, to, 100)))
    .into()
}

fn start(node: &mut Node) {
    node.agent.start(&node.netns).unwrap();
}

/// Tells whether routes of ours have gone from a kernel since it was made.
struct Watch(tests::process::Process);

impl Watch {
    fn of(netns: &Netns, rack: &Rack) -> Self {
        let log = rack.manifests().join("../monitor.log");
        let mut command = netns.command("ip");
        command.args(["-o", "monitor", "route"]);
        Self(tests::process::Process::start("ip monitor", command, &log).unwrap())
    }

    fn deleted(&self) -> Vec<String> {
        let log = self.0.log();
        let lines = log.lines().filter(|line| line.starts_with("Deleted"));
        lines
            .filter(|line| line.contains("proto 179"))
            .map(str::to_owned)
            .collect()
    }
}

#[test]
fn a_control_run_shows_that_a_short_loss_is_seen() {
    require_root!();
    let mut lab = Lab::new("rctl", HELPER);
    let lost = lab.lost("control: 300 ms without n2's link", 3, |_, _, _, rack| {
        rack.cut("n2")?;
        pause(Duration::from_millis(300))?;
        rack.heal("seg", "n2")
    });
    assert!(lost > 0);
}

#[test]
fn all_nodes_of_a_mesh_restarted_at_once_lose_nothing() {
    require_root!();
    let mut lab = Lab::new("rall", HELPER);
    let watch = Watch::of(&lab.nodes[0].netns, &lab.rack);
    let lost = lab.lost(
        "all by SIGTERM (BIRD 1,031, FRR 1,180)",
        8,
        |nodes, _, _, _| {
            nodes
                .iter_mut()
                .try_for_each(|node| node.agent.terminate())?;
            pause(Duration::from_secs(1))?;
            nodes.iter_mut().for_each(start);
            Ok(())
        },
    );
    assert_eq!(lost, 0, "by SIGTERM");
    lab.wait_converged();
    let lost = lab.lost("all by kill -9", 8, |nodes, _, _, _| {
        nodes.iter_mut().try_for_each(|node| node.agent.kill())?;
        pause(Duration::from_secs(1))?;
        nodes.iter_mut().for_each(start);
        Ok(())
    });
    assert_eq!(lost, 0, "by kill -9");
    lab.wait_converged();
    // FRR has said all along that it has restarted itself: its routes were waited for, not swept.
    assert!(
        lab.started.elapsed() < RESTARTED,
        "{:?}",
        lab.started.elapsed()
    );
    assert_eq!(watch.deleted(), Vec::<String>::new());
}

#[test]
fn three_restarts_of_a_node_in_six_seconds_lose_nothing() {
    require_root!();
    let mut lab = Lab::new("rthr", HELPER);
    let title = "three restarts, 2 s apart (BIRD 5,500, FRR 4,100)";
    let lost = lab.lost(title, 10, |nodes, _, _, _| {
        for round in 0..3 {
            let node = &mut nodes[0];
            if round == 1 {
                node.agent.kill()?;
            } else {
                node.agent.terminate()?;
            }
            start(node);
            pause(Duration::from_secs(2))?;
        }
        Ok(())
    });
    assert_eq!(lost, 0);
    lab.wait_converged();
}

#[test]
fn a_killed_bgpd_of_the_tor_loses_nothing() {
    require_root!();
    let mut lab = Lab::new("rtor", RESTARTER);
    let title = "the ToR's bgpd by kill -9 (BIRD 0, FRR 1,778)";
    let lost = lab.lost(title, 10, |_, frr, tor, _| {
        frr.kill_bgpd()?;
        pause(Duration::from_secs(2))?;
        frr.restart_bgpd(tor)
    });
    assert_eq!(lost, 0);
    lab.wait_converged();
}

#[test]
fn routes_that_others_take_out_of_the_kernel_come_back() {
    require_root!();
    let mut lab = Lab::new("rdam", HELPER);
    let before = prefixes(&lab.nodes[0].netns).unwrap();
    assert!(before.len() >= 4, "{before:?}");
    let title = "routes and next-hop objects deleted behind our back (BIRD 1.3 s, FRR 10 ms)";
    let lost = lab.lost(title, 6, |nodes, _, _, _| {
        let netns = &nodes[0].netns;
        // iproute2's flush refuses routes of next-hop objects (EINVAL), so each by itself; then the objects.
        for prefix in &before {
            netns.ip(&format!("route del {prefix} proto 179 metric 179"))?;
        }
        let routes = healed(netns, &before)?;
        netns.ip("nexthop flush proto 179")?;
        let objects = healed(netns, &before)?;
        say(&format!(
            "healed: routes after {routes:?}, objects and their routes after {objects:?}"
        ));
        Ok(())
    });
    assert!(lost > 0, "what was deleted was in use");
    lab.wait_converged();
}

/// The prefixes of our routes in a kernel, with the type of those that are not unicast.
fn prefixes(netns: &Netns) -> Result<Vec<String>> {
    let text = netns.ip("route show proto 179")?;
    let prefix = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let length = if words.first() == Some(&"blackhole") {
            2
        } else {
            1
        };
        words[..length].join(" ")
    };
    Ok(text.lines().map(prefix).collect())
}

fn healed(netns: &Netns, before: &[String]) -> Result<Duration> {
    let start = Instant::now();
    eventually(Duration::from_secs(10), "the routes are back", || {
        let now = prefixes(netns)?;
        ensure!(now == before, "{now:?} instead of {before:?}");
        Ok(())
    })?;
    Ok(start.elapsed())
}
