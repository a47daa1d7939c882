//! The harness itself: namespaces, links, real FRR and real BIRD, probes, and nothing left behind.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    reason = "a test"
)]

use std::time::Duration;

use anyhow::{Result, ensure};
use tests::bird::Bird;
use tests::flow::{Flow, Kind, measure};
use tests::frr::Frr;
use tests::netns::{self, Netns};
use tests::reach::{Server, Transport, Verdict, attempt, server_at};
use tests::require_root;
use tests::snapshot::{Snapshot, namespaces};
use tests::wait::eventually;

const PATIENCE: Duration = Duration::from_secs(60);

fn pair(tag: &str) -> (Netns, Netns) {
    let (left, right) = (
        Netns::new(tag, "left").unwrap(),
        Netns::new(tag, "right").unwrap(),
    );
    netns::join((&left, "eth0"), (&right, "eth0")).unwrap();
    left.ip("addr add 10.99.0.1/24 dev eth0").unwrap();
    right.ip("addr add 10.99.0.2/24 dev eth0").unwrap();
    (left, right)
}

#[test]
fn frr_and_bird_exchange_routes_in_namespaces_of_their_own() {
    require_root!();
    let (left, right) = pair("fb");
    let frr = Frr::start(
        &left,
        "router bgp 65000\n bgp router-id 10.99.0.1\n no bgp ebgp-requires-policy\n \
         no bgp network import-check\n timers bgp connect 1\n neighbor 10.99.0.2 remote-as 64513\n \
         address-family ipv4 unicast\n  network 192.0.2.0/24\n",
    )
    .unwrap();
    let bird = Bird::start(
        &right,
        "router id 10.99.0.2;\nprotocol device {}\nprotocol static own { ipv4; route 10.244.1.0/24 \
         blackhole; }\nprotocol bgp tor { local as 64513; neighbor 10.99.0.1 as 65000; connect delay \
         time 1; ipv4 { import all; export where proto = \"own\"; }; }\n",
    )
    .unwrap();
    let up = || -> Result<()> {
        ensure!(
            frr.session_state("10.99.0.2")? == "Established",
            frr.log_end()
        );
        ensure!(bird.session_state("tor")? == "Established", bird.log_end());
        let routes = frr.bgp_routes()?;
        ensure!(
            routes
                .iter()
                .any(|(p, via)| p == "10.244.1.0/24" && via == &["10.99.0.2"])
        );
        ensure!(
            bird.routes_from("tor")?
                .contains(&"192.0.2.0/24".to_owned())
        );
        Ok(())
    };
    eventually(PATIENCE, "FRR and BIRD to exchange a route each", up).unwrap();
    frr.vtysh(&[
        "configure terminal",
        "router bgp 65000",
        "neighbor 10.99.0.2 shutdown",
    ])
    .unwrap();
    eventually(PATIENCE, "the routes to go with the session", || {
        ensure!(bird.routes_from("tor")?.is_empty());
        Ok(())
    })
    .unwrap();
}

#[test]
fn probes_of_every_kind_are_answered_and_a_cut_shows_as_loss() {
    require_root!();
    let (left, right) = pair("fl");
    let _server = Server::start(&right).unwrap();
    let to = server_at("10.99.0.2".parse().unwrap());
    let flows: Vec<_> = [Kind::NewTcp, Kind::EstablishedTcp, Kind::Udp]
        .into_iter()
        .map(|kind| {
            let (name, server) = ("x".to_owned(), right.name().to_owned());
            (
                &left,
                Flow {
                    name,
                    kind,
                    is_allowed: true,
                    to,
                    server,
                    rate: 100,
                },
            )
        })
        .collect();
    let duration = Duration::from_secs(2);
    for outcome in measure(&flows, duration, || Ok(())).unwrap() {
        assert!(outcome.is_meaningful() && outcome.lost == 0, "{outcome:?}");
    }
    let cut = || {
        std::thread::sleep(Duration::from_millis(500));
        right.run("iptables", &["-w", "-I", "INPUT", "-j", "DROP"])?;
        std::thread::sleep(Duration::from_millis(50));
        right.run("iptables", &["-w", "-D", "INPUT", "-j", "DROP"])?;
        Ok(())
    };
    for (outcome, (_, flow)) in measure(&flows, duration, cut).unwrap().iter().zip(&flows) {
        assert!(
            outcome.lost > 0,
            "{:?}: a cut of 50 ms was not seen: {outcome:?}",
            flow.kind
        );
    }
}

#[test]
fn a_dropped_packet_is_silence_and_a_closed_port_a_refusal() {
    require_root!();
    let (left, right) = pair("vd");
    let to = server_at("10.99.0.2".parse().unwrap());
    let look = |transport| attempt(&left, to, transport, Duration::from_secs(2)).unwrap();
    assert_eq!(look(Transport::Tcp), Verdict::Refused);
    assert_eq!(look(Transport::Udp), Verdict::Refused);
    let _server = Server::start(&right).unwrap();
    assert_eq!(look(Transport::Tcp), Verdict::Answered);
    assert_eq!(look(Transport::Udp), Verdict::Answered);
    right
        .run("iptables", &["-w", "-I", "INPUT", "-j", "DROP"])
        .unwrap();
    assert_eq!(look(Transport::Tcp), Verdict::Silent);
    assert_eq!(look(Transport::Udp), Verdict::Silent);
}

#[test]
fn a_dropped_namespace_takes_its_processes_with_it() {
    require_root!();
    let netns = Netns::new("gone", "x").unwrap();
    let name = netns.name().to_owned();
    let mut child = netns.command("sleep").arg("60").spawn().unwrap();
    eventually(PATIENCE, "the process to be inside", || {
        ensure!(!netns.processes()?.is_empty());
        Ok(())
    })
    .unwrap();
    drop(netns);
    assert!(!child.wait().unwrap().success());
    assert!(!namespaces().contains(&name));
}

#[test]
fn a_snapshot_sees_a_route_a_rule_and_a_set() {
    require_root!();
    let (left, _right) = pair("sn");
    let before = Snapshot::of(&left);
    left.ip("route add 10.1.0.0/16 via 10.99.0.2").unwrap();
    left.run(
        "iptables",
        &["-w", "-A", "FORWARD", "-s", "10.1.0.0/16", "-j", "DROP"],
    )
    .unwrap();
    left.run("ipset", &["create", "probe", "hash:net"]).unwrap();
    let difference = before.difference(&Snapshot::of(&left));
    assert_eq!(
        difference.lines().filter(|l| l.contains(": + ")).count(),
        3,
        "{difference}"
    );
    left.ip("route del 10.1.0.0/16").unwrap();
    left.run("iptables", &["-w", "-F", "FORWARD"]).unwrap();
    left.run("ipset", &["destroy", "probe"]).unwrap();
    assert_eq!(before.difference(&Snapshot::of(&left)), "");
}
