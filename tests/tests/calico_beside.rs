//! A node changes over from Calico: its BIRD in one mesh with our agents, its routes, chains and pods beside ours, nothing of theirs touched.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

use std::time::Duration;

use anyhow::{Result, ensure};
use tests::agent::Agent;
use tests::bird::Bird;
use tests::flow::{Flow, Kind, Outcome, measure, measure_while};
use tests::netns::{Netns, join};
use tests::rack::{Host, Rack, flow, node_manifest, sum};
use tests::require_root;
use tests::wait::{eventually, pause};

const PATIENCE: Duration = Duration::from_secs(60);
const RATE: u32 = 100;
/// Calico's marks are the upper sixteen bits by default; ours would lie among them.
const FLAGS: &[&str] = &["--mark-mask", "0x00000f00"];

/// What Felix leaves in a node's filter table for a pod of its own.
const CHAINS: &str = "
ipset create cali40all-ipam-pools hash:net
ipset add cali40all-ipam-pools 10.96.0.0/16
iptables -N cali-FORWARD
iptables -N cali-from-wl-dispatch
iptables -N cali-tw-pod
iptables -A FORWARD -m comment --comment cali:wUHhoiAYhphO9Mso -j cali-FORWARD
iptables -A cali-FORWARD -j MARK --set-xmark 0x0/0xe0000
iptables -A cali-FORWARD -i cali+ -j cali-from-wl-dispatch
iptables -A cali-FORWARD -o cali+ -j cali-tw-pod
iptables -A cali-from-wl-dispatch -m set --match-set cali40all-ipam-pools src -j MARK --set-xmark 0x10000/0x10000
iptables -A cali-tw-pod -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
iptables -A cali-tw-pod -p tcp --dport 9999 -j DROP
iptables -A cali-FORWARD -m mark --mark 0x10000/0x10000 -j ACCEPT
";

/// BIRD as Calico configures it: its block a blackhole, the mesh, routes left in the kernel when it goes.
fn calico_bird(number: u8, others: &[u8]) -> String {
    let sessions: String = others
        .iter()
        .map(|other| {
            format!(
                "protocol bgp Mesh_{other} {{
  local 10.66.0.{number} as 64512;
  neighbor 10.66.0.{other} as 64512;
  multihop;
  graceful restart;
  connect delay time 1;
  connect retry time 2;
  ipv4 {{ import all; export where source = RTS_STATIC; }};
}}
"
            )
        })
        .collect();
    format!(
        "router id 10.66.0.{number};
protocol device {{ scan time 2; }}
protocol direct {{ ipv4; interface -\"cali*\", \"*\"; }}
protocol kernel {{
  learn; persist; scan time 2;
  ipv4 {{ import all; export where source = RTS_BGP || source = RTS_STATIC; }};
}}
protocol static {{ ipv4; route 10.96.{number}.0/26 blackhole; }}
{sessions}"
    )
}

/// A pod as Calico attaches it: a host end `cali…` with a route by protocol boot.
fn calico_pod(rack: &Rack, role: &str, machine: &Netns, address: &str) -> Host {
    let netns = rack.empty(role).unwrap();
    let link = format!("cali{role}");
    join((machine, &link), (&netns, "eth0")).unwrap();
    machine
        .ip(&format!("addr add 169.254.1.1/32 dev {link}"))
        .unwrap();
    machine
        .ip(&format!("route add {address}/32 dev {link} proto boot"))
        .unwrap();
    netns
        .ip(&format!("addr add {address}/32 dev eth0"))
        .unwrap();
    netns.ip("route add 169.254.1.1/32 dev eth0").unwrap();
    netns.ip("route add default via 169.254.1.1").unwrap();
    Host::in_place(netns, address).unwrap()
}

fn machine(rack: &Rack, number: u8) -> Netns {
    let name = format!("n{number}");
    let netns = rack.machine(&name).unwrap();
    let within = format!("10.66.0.{number}/24");
    rack.plug((&netns, "eth0"), ("seg", &name), Some(&within))
        .unwrap();
    let node = node_manifest(
        &name,
        &format!("10.66.0.{number}"),
        &format!("10.97.{number}.0/24"),
        "",
    );
    rack.manifest(&format!("{name}.yaml"), &node).unwrap();
    netns
}

/// Everything on a node that is Calico's: rules, sets, routes, line by line.
fn theirs(netns: &Netns) -> Vec<String> {
    let rules = netns.run("iptables-save", &["-t", "filter"]).unwrap();
    let sets = netns
        .run("ipset", &["save", "cali40all-ipam-pools"])
        .unwrap();
    let routes = ["bird", "boot"].map(|protocol| {
        netns
            .ip(&format!("route show table main proto {protocol}"))
            .unwrap()
    });
    let all = format!("{rules}{sets}{}", routes.concat());
    let of_calico = |line: &&str| {
        let ours = line.contains("PTL-") || line.contains("ptl");
        !ours && !line.starts_with(['#', ':', '*']) && *line != "COMMIT"
    };
    let line = |line: &str| line.trim_end().to_owned();
    let mut lines: Vec<String> = all.lines().filter(of_calico).map(line).collect();
    lines.sort();
    lines
}

fn has(netns: &Netns, protocol: &str, routes: &[&str]) -> Result<()> {
    let kernel = netns.ip(&format!("route show proto {protocol}"))?;
    for route in routes {
        ensure!(
            kernel.contains(route),
            "no {route} by {protocol} in\n{kernel}"
        );
    }
    Ok(())
}

fn start(rack: &Rack, name: &str, netns: &Netns) -> Agent {
    let agent = rack.speaker(name, netns).unwrap();
    let mut agent = agent.with_features("bgp,policy");
    agent.set_arguments(FLAGS);
    agent.start(netns).unwrap();
    agent.wait_synced().unwrap();
    agent
}

/// Three nodes of one mesh: n1 has changed over before, n2 will later, n3 does now. On n3 are two pods of Calico's.
struct Stage {
    n1: Netns,
    n2: Netns,
    n3: Netns,
    agent1: Agent,
    ours1: Host,
    theirs2: Host,
    left: Host,
    other: Host,
    _bird2: Bird,
}

impl Stage {
    fn start(rack: &Rack) -> (Self, Bird) {
        let [n1, n2, n3] = [1, 2, 3].map(|number| machine(rack, number));
        let agent1 = start(rack, "n1", &n1);
        let bird2 = Bird::start(&n2, &calico_bird(2, &[1, 3])).unwrap();
        let bird3 = Bird::start(&n3, &calico_bird(3, &[1, 2])).unwrap();
        for netns in [&n2, &n3] {
            netns.run("bash", &["-ec", CHAINS]).unwrap();
        }
        let [left, other] = [("p3", "10.96.3.5"), ("q3", "10.96.3.6")]
            .map(|(role, at)| calico_pod(rack, role, &n3, at));
        let stage = Self {
            ours1: rack.host("h1", &n1, "10.97.1.2", "169.254.1.1").unwrap(),
            theirs2: calico_pod(rack, "p2", &n2, "10.96.2.5"),
            n1,
            n2,
            n3,
            agent1,
            left,
            other,
            _bird2: bird2,
        };
        stage.until("one mesh of both kinds", || {
            stage.n1_knows(&["10.96.2.0/26 via 10.66.0.2", "10.96.3.0/26 via 10.66.0.3"])?;
            let others = ["10.97.1.0/24 via 10.66.0.1", "10.96.3.0/26 via 10.66.0.3"];
            has(&stage.n2, "bird", &others)?;
            let others = ["10.97.1.0/24 via 10.66.0.1", "10.96.2.0/26 via 10.66.0.2"];
            has(&stage.n3, "bird", &others)
        });
        (stage, bird3)
    }

    fn n1_knows(&self, routes: &[&str]) -> Result<()> {
        has(&self.n1, "179", routes)
    }

    fn until(&self, what: &str, probe: impl FnMut() -> Result<()>) {
        eventually(PATIENCE, what, probe)
            .unwrap_or_else(|error| panic!("{error:#}\n{}", self.agent1.log_end()));
    }

    /// Between nodes that do not change, and between pods that Calico left on the one that does.
    fn flows(&self) -> Flows<'_> {
        let Self {
            ours1,
            theirs2,
            left,
            other,
            ..
        } = self;
        vec![
            way("ours to Calico's", Kind::NewTcp, ours1, theirs2),
            way("ours to Calico's", Kind::Udp, ours1, theirs2),
            way("Calico's to ours", Kind::NewTcp, theirs2, ours1),
            way("Calico's to ours", Kind::EstablishedTcp, theirs2, ours1),
            way("on the node itself", Kind::NewTcp, left, other),
            way("on the node itself", Kind::EstablishedTcp, left, other),
        ]
    }

    /// calico-node goes and leaves all it wrote; then the agent comes.
    fn change_over(&self, rack: &Rack, bird3: &mut Bird) -> Result<(Vec<String>, Agent)> {
        bird3.kill()?;
        let before = theirs(&self.n3);
        let agent3 = start(rack, "n3", &self.n3);
        eventually(PATIENCE, "n3 to be one of ours", || {
            self.n1_knows(&["10.97.3.0/24 via 10.66.0.3"])?;
            has(&self.n2, "bird", &["10.97.3.0/24 via 10.66.0.3"])?;
            let others = ["10.97.1.0/24 via 10.66.0.1", "10.96.2.0/26 via 10.66.0.2"];
            has(&self.n3, "179", &others)
        })?;
        Ok((before, agent3))
    }
}

type Flows<'a> = Vec<(&'a Netns, Flow)>;

fn way<'a>(name: &str, kind: Kind, from: &'a Host, to: &Host) -> (&'a Netns, Flow) {
    (&from.netns, flow(name, kind, to, RATE))
}

/// Nothing of all the flows is lost.
fn assert_all(title: &str, flows: &Flows<'_>, outcomes: &[Outcome], least: u64) {
    let (sent, lost) = sum(title, flows, outcomes).unwrap();
    assert!(sent >= least, "only {sent} probes");
    assert_eq!(lost, 0, "{title}");
}

#[test]
fn a_node_changes_over_from_calico_and_back_while_pods_elsewhere_lose_nothing() {
    require_root!();
    let rack = Rack::new("cal").unwrap();
    let (stage, mut bird3) = Stage::start(&rack);
    let flows = stage.flows();
    let mut changed = None;
    let outcomes = measure_while(&flows, || {
        pause(Duration::from_secs(1))?;
        changed = Some(stage.change_over(&rack, &mut bird3)?);
        pause(Duration::from_secs(1))
    });
    let (before, mut agent3) = changed.expect("the node has changed over");
    let outcomes = outcomes.unwrap_or_else(|error| panic!("{error:#}\n{}", agent3.log_end()));
    assert_all("a node changes over", &flows, &outcomes, 1200);
    let untouched = "something of Calico's was touched";
    assert_eq!(theirs(&stage.n3), before, "{untouched}");
    assert!(before.len() >= 12, "{before:?}");

    // Pods of ours on the changed node, both ways, to both kinds, and to those that Calico left there.
    let ours3 = rack
        .host("h3", &stage.n3, "10.97.3.2", "169.254.1.1")
        .unwrap();
    let flows = vec![
        way("changed to ours", Kind::NewTcp, &ours3, &stage.ours1),
        way("ours to changed", Kind::Udp, &stage.ours1, &ours3),
        way("changed to Calico's", Kind::NewTcp, &ours3, &stage.theirs2),
        way("Calico's to changed", Kind::NewTcp, &stage.theirs2, &ours3),
        way(
            "changed to what was left there",
            Kind::NewTcp,
            &ours3,
            &stage.left,
        ),
    ];
    let outcomes = measure(&flows, Duration::from_secs(2), || Ok(())).unwrap();
    assert_all("after it", &flows, &outcomes, 900);

    // Back: ours goes without a trace, theirs comes and finds what it left.
    drop(ours3);
    agent3.terminate().unwrap();
    agent3.verb(&["cleanup"]).unwrap();
    assert_eq!(theirs(&stage.n3), before, "{untouched}");
    assert_eq!(stage.n3.ip("route show proto 179").unwrap(), "");
    bird3.recover(&stage.n3).unwrap();
    stage.until("the pods that stayed to be reached again", || {
        stage.n1_knows(&["10.96.3.0/26 via 10.66.0.3"])?;
        has(&stage.n2, "bird", &["10.96.3.0/26 via 10.66.0.3"])
    });
    let flows = vec![
        way(
            "ours to what stayed",
            Kind::NewTcp,
            &stage.ours1,
            &stage.left,
        ),
        way(
            "what stayed to Calico's",
            Kind::NewTcp,
            &stage.left,
            &stage.theirs2,
        ),
    ];
    let outcomes = measure(&flows, Duration::from_secs(2), || Ok(())).unwrap();
    assert_all("back again", &flows, &outcomes, 360);
}
