//! Two ToRs of real FRR with BFD: a silent cut re-points next-hop groups at once, and BFD as a process outlives its agent.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tests::agent::{Agent, binaries};
use tests::flow::{Flow, Kind, measure};
use tests::frr::Frr;
use tests::netns::{Netns, join};
use tests::process::Process;
use tests::rack::{Host, Rack, flow, node_manifest, say, sum};
use tests::require_root;
use tests::wait::{eventually, pause};

const PATIENCE: Duration = Duration::from_secs(60);
/// Three packets, one every 100 ms.
const DETECTION: Duration = Duration::from_millis(300);
/// What a busy machine may add to it.
const MARGIN: Duration = Duration::from_millis(300);
const RATE: u32 = 400;
/// What each ToR announces besides the host outside, so that a RIB has something to do.
const ROUTES: usize = 2000;

const BFD: &str = "bfd: {minTx: 100ms, minRx: 100ms, multiplier: 3}";
/// Where a count of sessions lost is wanted, not speed: a busy machine must not look like a dead one.
const PATIENT_BFD: &str = "bfd: {minTx: 400ms, minRx: 400ms, multiplier: 3}";
const HOLD_TIMER: &str = "holdTime: 3s, keepaliveTime: 1s";

const BFDD: &str = "\
bfd
 profile fast
  receive-interval 100
  transmit-interval 100
  detect-multiplier 3
 !
!
";

/// Plain ToRs help others restart; these say that they keep forwarding over restarts of their own.
const GRACEFUL: &str = " bgp graceful-restart\n bgp graceful-restart preserve-fw-state\n";

const CONFIGURATION: &str = "
apiVersion: portolan.io/v1alpha1
kind: BGPConfiguration
metadata: {name: default}
spec: {nodeToNodeMeshEnabled: false, multipath: true, multipathRelax: true}
";

struct Tor {
    frr: Frr,
    netns: Netns,
}

/// A node with a link to each of two ToRs, and a host behind both, which answers by the second alone.
struct Lab {
    pod: Host,
    outside: Host,
    agent: Agent,
    tors: Vec<Tor>,
    node: Netns,
    rack: Rack,
}

impl Lab {
    /// `watch` is what the node's BGPPeers say besides address and AS.
    fn new(tag: &str, watch: &str, routes: usize) -> Self {
        Self::below(tag, watch, routes, "")
    }

    /// The same with more in the ToRs' bgpd.
    fn below(tag: &str, watch: &str, routes: usize, more: &str) -> Self {
        let rack = Rack::new(tag).unwrap();
        let node = rack.machine("node").unwrap();
        let outside = rack.empty("outside").unwrap();
        outside.ip("addr add 192.0.2.10/32 dev lo").unwrap();
        let mut manifests = vec![CONFIGURATION.to_owned()];
        let mut tors = Vec::new();
        for number in 1..=2 {
            tors.push(tor(&rack, (&node, &outside), number, (watch, routes, more)));
            manifests.push(format!(
                "apiVersion: portolan.io/v1alpha1\nkind: BGPPeer\nmetadata: {{name: tor{number}}}\nspec: {{peerAddress: 10.6{number}.0.1, sourceAddress: 10.6{number}.0.2, asNumber: 6500{number}, {watch}}}\n"
            ));
        }
        outside
            .ip("route add default via 10.72.0.1 src 192.0.2.10")
            .unwrap();
        let outside = Host::in_place(outside, "192.0.2.10").unwrap();
        let pod = rack.host("pod", &node, "10.250.1.2", "169.254.1.1");
        manifests.push(node_manifest("n1", "10.61.0.2", "10.250.1.0/24", ""));
        rack.manifest("all.yaml", &manifests.join("\n---\n"))
            .unwrap();
        let agent = rack.speaker("n1", &node).unwrap();
        Self {
            pod: pod.unwrap(),
            outside,
            agent,
            tors,
            node,
            rack,
        }
    }

    fn start(&mut self) {
        self.agent.start(&self.node).unwrap();
        self.wait_for_both();
    }

    /// Both ToRs serve the host outside, each has the node's prefix.
    fn wait_for_both(&self) {
        let both = eventually(PATIENCE, "two ways to the host outside", || {
            let gateways = self.gateways()?;
            ensure!(gateways.len() == 2, "{gateways:?}");
            for tor in &self.tors {
                let routes = tor.netns.ip("route show proto bgp")?;
                ensure!(routes.contains("10.250.1.0/24"), "{routes}");
            }
            Ok(())
        });
        if let Err(error) = both {
            let tors: String = self.tors.iter().map(|tor| tor.frr.log_end()).collect();
            panic!("{error:#}\n{}\n{tors}", self.agent.log_end());
        }
    }

    /// The gateways of the host outside, as the kernel has them in a next-hop group or the route itself.
    fn gateways(&self) -> Result<Vec<String>> {
        let route = self.node.ip_json("-d route show 192.0.2.10/32 proto 179")?;
        if let Some(gateway) = route.pointer("/0/gateway").and_then(Value::as_str) {
            return Ok(vec![gateway.to_owned()]);
        }
        let hops = route.pointer("/0/nexthops").and_then(Value::as_array);
        let gateway = |hop: &Value| Some(hop.get("gateway")?.as_str()?.to_owned());
        Ok(hops.into_iter().flatten().filter_map(gateway).collect())
    }

    /// Probes while the first ToR's link dies without a word; what was lost, and how long until one way was left.
    fn cut(&self, title: &str, patience: Duration) -> (u64, Duration) {
        let flows: [(&Netns, Flow); 1] = [(
            &self.pod.netns,
            flow("pod → outside", Kind::NewTcp, &self.outside, RATE),
        )];
        let mut took = Duration::ZERO;
        let outcomes = measure(&flows, Duration::from_secs(6), || {
            pause(Duration::from_secs(1))?;
            let start = Instant::now();
            self.rack.cut("node1")?;
            eventually(patience, "one way left", || {
                let gateways = self.gateways()?;
                ensure!(gateways == ["10.62.0.1"], "{gateways:?}");
                Ok(())
            })?;
            took = start.elapsed();
            Ok(())
        });
        let outcomes =
            outcomes.unwrap_or_else(|error| panic!("{title}: {error:#}\n{}", self.agent.log_end()));
        let (_, lost) = sum(title, &flows, &outcomes).unwrap();
        say(&format!("{title}: one way left after {took:?}"));
        (lost, took)
    }
}

/// The ToR of a number, on the node's link of that number.
fn tor(
    rack: &Rack,
    (node, outside): (&Netns, &Netns),
    number: u8,
    (watch, routes, more): (&str, usize, &str),
) -> Tor {
    let netns = rack.machine(&format!("tor{number}")).unwrap();
    let segment = format!("seg{number}");
    let (at_tor, at_node) = (
        format!("10.6{number}.0.1/24"),
        format!("10.6{number}.0.2/24"),
    );
    let port = format!("tor{number}");
    rack.plug((&netns, "eth0"), (&segment, &port), Some(&at_tor))
        .unwrap();
    let (link, port) = (format!("eth{number}"), format!("node{number}"));
    rack.plug((node, &link), (&segment, &port), Some(&at_node))
        .unwrap();
    join((&netns, "out"), (outside, &link)).unwrap();
    netns
        .ip(&format!("addr add 10.7{number}.0.1/24 dev out"))
        .unwrap();
    outside
        .ip(&format!("addr add 10.7{number}.0.10/24 dev {link}"))
        .unwrap();
    let beyond = format!("route add 192.0.2.10/32 via 10.7{number}.0.10");
    netns.ip(&beyond).unwrap();
    if routes > 0 {
        let lines = (0..routes).map(|i| {
            format!(
                "route add 10.128.{}.{}/32 via 10.7{number}.0.10\n",
                i / 256,
                i % 256
            )
        });
        let file = rack.manifests().join(format!("../routes{number}"));
        std::fs::write(&file, lines.collect::<String>()).unwrap();
        netns.ip(&format!("-batch {}", file.display())).unwrap();
    }
    let neighbor = format!("neighbor 10.6{number}.0.2");
    let bfd = if watch.starts_with("bfd") {
        format!(" {neighbor} bfd profile fast\n")
    } else {
        String::new()
    };
    let config = format!(
        "router bgp 6500{number}\n bgp router-id 10.6{number}.0.1\n no bgp ebgp-requires-policy\n{more} timers bgp 1 3\n {neighbor} remote-as 64512\n {neighbor} timers connect 1\n{bfd} address-family ipv4 unicast\n  redistribute kernel\n"
    );
    let mut frr = Frr::start(&netns, &config).unwrap();
    if watch.starts_with("bfd") {
        frr.start_bfdd(&netns, BFDD).unwrap();
    }
    Tor { frr, netns }
}

/// What the kernel says of next hops and routes from its making on.
struct Watch {
    monitor: Process,
    group: String,
}

impl Watch {
    fn of(lab: &Lab) -> Self {
        let route = lab.node.ip("route show 192.0.2.10/32 proto 179").unwrap();
        let mut words = route.split_whitespace().skip_while(|word| *word != "nhid");
        let group = words.nth(1).unwrap().to_owned();
        let mut command = lab.node.command("ip");
        command.args(["monitor", "label", "nexthop", "route"]);
        let log = lab.rack.manifests().join("../monitor.log");
        let monitor = Process::start("ip monitor", command, &log).unwrap();
        Self { monitor, group }
    }

    /// One message to the kernel moved all routes: the group lost its gateway before any route was written.
    fn tells_that_the_group_came_first(&self) {
        let log = self.monitor.log();
        let group = format!("id {} group ", self.group);
        let first = log.lines().position(|line| line.contains(&group));
        let first = first.unwrap_or_else(|| panic!("{group}: {}", head(&log)));
        let replaced = log.lines().nth(first).unwrap();
        assert!(!replaced.contains('/'), "one gateway left: {replaced}");
        let before = log.lines().take(first);
        let routes = before.filter(|line| line.contains("10.128.")).count();
        assert_eq!(routes, 0, "{}", head(&log));
    }
}

fn head(log: &str) -> String {
    log.lines().take(20).collect::<Vec<_>>().join("\n")
}

/// How many probes go out in a time.
fn worth(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap() * u64::from(RATE) / 1000
}

#[test]
fn a_silent_cut_loses_no_more_than_the_detection_time_and_the_healed_link_is_used_again() {
    require_root!();
    let mut lab = Lab::new("fbfd", BFD, ROUTES);
    lab.start();
    eventually(PATIENCE, "all routes, and BFD up", || {
        let held = lab.node.ip("route show proto 179")?.lines().count();
        ensure!(held > ROUTES, "{held}");
        let peers = lab.agent.bgp(&["peers"])?;
        let up = |peer: &Value| peer["bfd"] == "Up";
        ensure!(
            peers.as_array().is_some_and(|all| all.iter().all(up)),
            "{peers}"
        );
        Ok(())
    })
    .unwrap();
    let groups = lab.node.ip("nexthop show proto 179").unwrap();
    assert!(groups.contains("group"), "{groups}");
    let watch = Watch::of(&lab);
    let (lost, took) = lab.cut(
        "BFD, a silent cut of one ToR of two",
        Duration::from_secs(5),
    );
    assert!(
        lost > 0,
        "the cut way was in use: the count means something"
    );
    assert!(
        lost <= worth(DETECTION + MARGIN),
        "{lost} lost, one way left after {took:?}\n{}",
        lab.agent.log_end()
    );
    let log = lab.agent.log();
    assert!(log.contains("BFD: the path to the peer is gone"), "{log}");
    watch.tells_that_the_group_came_first();
    lab.rack.heal("seg1", "node1").unwrap();
    lab.wait_for_both();
}

#[test]
fn a_silent_cut_of_a_tor_with_graceful_restart_is_no_restart() {
    require_root!();
    let mut lab = Lab::below("fgr", BFD, 0, GRACEFUL);
    lab.start();
    wait_bfd_up(&lab);
    let title = "BFD, a silent cut of a ToR with graceful restart";
    let (lost, took) = lab.cut(title, Duration::from_secs(5));
    let most = worth(DETECTION + MARGIN);
    assert!(
        lost > 0 && lost <= most,
        "{lost} lost, {took:?}\n{}",
        lab.agent.log_end()
    );
    lab.rack.heal("seg1", "node1").unwrap();
    lab.wait_for_both();
}

#[test]
fn a_tor_whose_control_plane_dies_keeps_its_routes_though_bfd_goes_down() {
    require_root!();
    // FRR's C bit is 0: after the end of its session, BFD down says that its control plane restarts (RFC 5882 §4.3.1).
    let mut lab = Lab::below("fcp", PATIENT_BFD, 0, GRACEFUL);
    lab.start();
    wait_bfd_up(&lab);
    let flows = [("pod → outside", &lab.pod, &lab.outside)]
        .map(|(name, from, to)| (&from.netns, flow(name, Kind::NewTcp, to, 200)));
    let (tor, agent) = (&mut lab.tors[0], &lab.agent);
    let outcomes = measure(&flows, Duration::from_secs(8), || {
        tor.frr.kill_bgpd()?;
        tor.frr.kill_bfdd()?;
        eventually(PATIENCE, "BFD down and stale routes", || {
            let peer = agent.bgp(&["peer", "tor1"])?;
            ensure!(peer["bfd"] == "Down", "{peer}");
            ensure!(peer["prefixesStale"].as_u64() > Some(0), "{peer}");
            Ok(())
        })?;
        tor.frr.restart_bgpd(&tor.netns)?;
        tor.frr.start_bfdd(&tor.netns, BFDD)
    });
    let title = "bgpd and bfdd of one ToR of two by kill -9";
    let (_, lost) = sum(title, &flows, &outcomes.unwrap()).unwrap();
    assert_eq!(lost, 0, "{}", lab.agent.log_end());
    wait_bfd_up(&lab);
    lab.wait_for_both();
}

#[test]
fn without_bfd_the_hold_timer_finds_the_cut_and_costs_more() {
    require_root!();
    let mut lab = Lab::new("fhold", HOLD_TIMER, 0);
    lab.start();
    let (lost, took) = lab.cut("hold time 3 s alone", Duration::from_secs(5));
    assert!(
        lost > worth(DETECTION + MARGIN) / 2,
        "{lost} lost, {took:?}"
    );
    assert!(took > Duration::from_millis(1500), "{took:?}");
    lab.rack.heal("seg1", "node1").unwrap();
    lab.wait_for_both();
}

/// How often a ToR's bfdd has seen its session go down, and whether it is up.
fn bfd_of(tor: &Tor) -> Result<(u64, String)> {
    let number = |value: &Value| {
        let down = value.pointer("/0/session-down").and_then(Value::as_u64);
        down.with_context(|| value.to_string())
    };
    let downs = number(&tor.frr.json("show bfd peers counters json")?)?;
    let peers = tor.frr.json("show bfd peers json")?;
    let status = peers.pointer("/0/status").and_then(Value::as_str);
    Ok((downs, status.context("no BFD peer")?.to_owned()))
}

/// BFD up as the ToRs see it, and the sessions too: FRR makes BFD anew once a session tells its source address.
fn wait_bfd_up(lab: &Lab) {
    let up = eventually(PATIENCE, "sessions and BFD up on both ToRs", || {
        for (tor, address) in lab.tors.iter().zip(["10.61.0.1", "10.62.0.1"]) {
            let (_, status) = bfd_of(tor)?;
            ensure!(status == "up", "{status}");
            lab.agent.ensure_established(address)?;
        }
        Ok(())
    });
    up.unwrap_or_else(|error| panic!("{error:#}\n{}", lab.agent.log_end()));
}

/// Kills the agent, starts it after a moment; how often BFD went down on the ToRs, and what was lost.
fn kill_agent(lab: &mut Lab, title: &str) -> (u64, u64) {
    wait_bfd_up(lab);
    let downs = |lab: &Lab| -> u64 { lab.tors.iter().map(|tor| bfd_of(tor).unwrap().0).sum() };
    let before = downs(lab);
    let flows = [
        ("pod → outside", &lab.pod, &lab.outside),
        ("outside → pod", &lab.outside, &lab.pod),
    ]
    .map(|(name, from, to)| (&from.netns, flow(name, Kind::Udp, to, 100)));
    let (agent, node) = (&mut lab.agent, &lab.node);
    let outcomes = measure(&flows, Duration::from_secs(8), || {
        agent.kill()?;
        // Shorter than the detection time: BFD of the killed agent is still up on the ToRs.
        pause(Duration::from_millis(300))?;
        agent.start(node)
    });
    let (_, lost) = sum(title, &flows, &outcomes.unwrap()).unwrap();
    lab.wait_for_both();
    wait_bfd_up(lab);
    let downs = downs(lab) - before;
    say(&format!("{title}: bfdd saw {downs} sessions go down"));
    (downs, lost)
}

#[test]
fn bfd_as_a_process_of_its_own_stays_up_while_the_agent_is_killed() {
    require_root!();
    let mut lab = Lab::new("fproc", PATIENT_BFD, 0);
    let run_dir = lab.agent.run_dir();
    let mut command = lab.node.command(binaries().unwrap().join("portolan"));
    command.arg("bfd").arg("--run-dir").arg(&run_dir);
    let _bfd = Process::start("portolan bfd", command, &run_dir.join("bfd.log")).unwrap();
    eventually(PATIENCE, "the socket of BFD", || {
        ensure!(run_dir.join("bfd.sock").exists(), "not there");
        Ok(())
    })
    .unwrap();
    lab.start();
    let (downs, lost) = kill_agent(&mut lab, "BFD as a process, agent by kill -9");
    assert_eq!((downs, lost), (0, 0), "{}", lab.agent.log_end());
    let adoptions = lab.agent.log().matches("BFD adopted").count();
    assert_eq!(adoptions, 2, "{}", lab.agent.log_end());
}

#[test]
fn an_agent_that_is_told_so_waits_for_the_process_of_bfd_and_finds_it_again() {
    require_root!();
    let mut lab = Lab::new("fwait", PATIENT_BFD, 0);
    lab.agent.set_arguments(&["--bfd", "process"]);
    lab.agent.start(&lab.node).unwrap();
    lab.wait_for_both();
    // Sessions stand without it; nobody has BFD's port.
    let ports = || {
        lab.node
            .run("ss", &["-Hulpn", "sport", "=", "3784"])
            .unwrap()
    };
    assert_eq!(ports(), "", "BFD runs in the agent");
    let run_dir = lab.agent.run_dir();
    // Twice: whoever replaces that process is found, too.
    for times in 1..=2 {
        let mut command = lab.node.command(binaries().unwrap().join("portolan"));
        command.arg("bfd").arg("--run-dir").arg(&run_dir);
        let log = run_dir.join("bfd.log");
        let mut bfd = Process::start("portolan bfd", command, &log).unwrap();
        eventually(PATIENCE, "the agent to find BFD", || {
            let adoptions = lab.agent.log().matches("BFD adopted").count();
            ensure!(adoptions == times, "{adoptions} of {times}");
            Ok(())
        })
        .unwrap();
        wait_bfd_up(&lab);
        // The peer may not have noticed that the one before was gone.
        eventually(PATIENCE, "BFD's port", || {
            ensure!(!ports().is_empty(), "nobody has it");
            Ok(())
        })
        .unwrap();
        bfd.kill().unwrap();
    }
}

#[test]
fn bfd_in_the_agent_ends_with_it_and_graceful_restart_keeps_the_routes() {
    require_root!();
    let mut lab = Lab::new("finp", PATIENT_BFD, 0);
    lab.start();
    let (downs, lost) = kill_agent(&mut lab, "BFD in the agent, agent by kill -9");
    assert_eq!(
        downs, 2,
        "the control: without its own process BFD goes down"
    );
    assert_eq!(lost, 0, "{}", lab.agent.log_end());
}
