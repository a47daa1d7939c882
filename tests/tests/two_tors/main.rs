//! Two ToRs: packets take both ways, a way lost in each manner costs what finding it out takes, answers may come back by
//! the other ToR, and a narrower way is found.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test"
)]

mod lab;
mod stream;
mod underlay;

use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use lab::{Bfd, Lab, Mode, OUTSIDE, PATIENCE, family};
use serde_json::Value;
use tests::flow::{Kind, Outcome, measure};
use tests::netns::Netns;
use tests::rack::{say, sum};
use tests::reach::{Transport, Verdict, attempt, server_at};
use tests::require_root;
use tests::wait::{eventually, pause};

/// How often a measurement is tried on a machine that is too busy, and what it is left alone for in between.
const TRIES: usize = 6;
const REST: Duration = Duration::from_secs(5);
/// Probes per second of each flow.
const RATE: u32 = 100;
/// Three BFD packets, one every 100 ms.
const DETECTION: Duration = Duration::from_millis(300);
/// What FRR, which has to find it out too for the way back, and a busy machine may add.
const MARGIN: Duration = Duration::from_millis(700);

/// One lab at a time: a machine that does two things at once looks like a lost way.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn packets_take_both_ways_and_a_way_that_is_lost_costs_what_finding_out_takes() {
    require_root!();
    let _alone = alone();
    let lab = Lab::start("ttc", Bfd::FAST, Mode::Bgp).unwrap();
    both_ways_are_taken(&lab);

    loses_a_link(&lab);

    let down = || shut_sessions(&lab, true);
    let up = || shut_sessions(&lab, false);
    loses(
        &lab,
        "a ToR that is taken out of service",
        MARGIN,
        &down,
        &up,
    );
}

#[test]
fn a_tunnel_over_both_ways_costs_what_finding_out_takes_when_one_is_lost() {
    require_root!();
    let _alone = alone();
    let lab = Lab::start("ttv", Bfd::FAST, Mode::Vxlan).unwrap();
    both_carry_tunnelled_packets(&lab);
    loses_a_link(&lab);
}

/// The first node loses its link to the first ToR, without a word and then with both ends told.
fn loses_a_link(lab: &Lab) {
    let bound = DETECTION + MARGIN;
    let cut = || lab.rack.cut("n11");
    let heal = || lab.rack.heal("s11", "n11");
    let silent = loses(lab, "BFD, a silent cut", bound, &cut, &heal);
    assert!(silent > Duration::ZERO, "the cut way was in use");

    // Both ends are told at once: nobody waits for BFD.
    let out = || {
        ["n11", "t11"]
            .iter()
            .try_for_each(|port| lab.rack.unplug(port))
    };
    let back = || {
        ["n11", "t11"]
            .iter()
            .try_for_each(|port| lab.rack.plug_in(port))
    };
    loses(lab, "a cable that is taken out", bound, &out, &back);
}

/// Of connections to the pod of the other node a part goes by each ToR, packed: the ToRs and the spine know no pods.
fn both_carry_tunnelled_packets(lab: &Lab) {
    let places = lab.pods[1].addresses.clone();
    assert_eq!(places.len(), 2, "{places:?}");
    connections_take_both_ways(lab, places);
    let routers = lab.tors.iter().chain([&lab.spine]);
    let known = routers.map(|router| router.netns.ip("route show root 10.48.0.0/16").unwrap());
    let known: Vec<String> = known.collect();
    assert_eq!(known, ["", "", ""], "routes to pods");
}

fn shut_sessions(lab: &Lab, shut: bool) -> Result<()> {
    let word = if shut { "" } else { "no " };
    let lines = ["10.61.1.2", "fd61:1::2"].map(|to| format!("{word}neighbor {to} shutdown"));
    let commands = [
        "configure terminal",
        "router bgp 65001",
        &lines[0],
        &lines[1],
    ];
    lab.tors[0].frr.vtysh(&commands).map(drop)
}

/// Of many connections from the first node each way takes its part, in both families and to both places.
fn both_ways_are_taken(lab: &Lab) {
    let outside = OUTSIDE.iter().map(|address| address.parse().unwrap());
    let places: Vec<IpAddr> = outside.chain(lab.pods[1].addresses.clone()).collect();
    connections_take_both_ways(lab, places);
}

fn connections_take_both_ways(lab: &Lab, places: Vec<IpAddr>) {
    const CONNECTIONS: u64 = 200;
    for to in places {
        let before = [1, 2].map(|tor| packets(lab, tor, "tx"));
        for _ in 0..CONNECTIONS {
            let verdict = attempt(
                lab.pods[0].netns(),
                server_at(to),
                Transport::Tcp,
                Duration::from_secs(2),
            );
            assert_eq!(verdict.unwrap(), Verdict::Answered, "{to}");
        }
        let sent = [0, 1].map(|tor: u8| packets(lab, tor + 1, "tx") - before[usize::from(tor)]);
        say(&format!(
            "{CONNECTIONS} connections to {to}: {sent:?} packets by each ToR"
        ));
        let all = sent[0] + sent[1];
        assert!(all >= CONNECTIONS * 4, "{sent:?}");
        assert!(sent.iter().all(|part| part * 4 >= all), "{to}: {sent:?}");
    }
}

/// Packets that the first node sent to a ToR (`tx`) or had from it (`rx`).
fn packets(lab: &Lab, tor: u8, way: &str) -> u64 {
    let links = lab.nodes[0]
        .netns
        .ip_json(&format!("-s link show tor{tor}"));
    let links = links.unwrap();
    links
        .pointer(&format!("/0/stats64/{way}/packets"))
        .and_then(Value::as_u64)
        .unwrap()
}

/// For how long the worst flow of single probes lost them while the first node loses its first ToR by `how`; `back`
/// brings that back. Where BFD lost the other ToR too, or it took longer than the bound, the machine may have been too
/// busy to measure: once more then, and what is too slow by itself is so every time.
fn loses(
    lab: &Lab,
    title: &str,
    bound: Duration,
    how: &dyn Fn() -> Result<()>,
    back: &dyn Fn() -> Result<()>,
) -> Duration {
    for _ in 0..TRIES {
        let before = lab.bfd_lost_by_the_other().unwrap();
        let worst = loses_once(lab, title, how);
        let after = lab.bfd_lost_by_the_other().unwrap();
        back().unwrap();
        lab.wait_for_all_ways().unwrap();
        if before == after && worst <= bound {
            return worst;
        }
        say(&format!(
            "{title}: void, BFD lost the other ToR {} times, {worst:?} of {bound:?}",
            after - before
        ));
        pause(REST).unwrap();
    }
    panic!("{title}: {TRIES} times the other ToR was lost too, or it took longer than {bound:?}");
}

fn loses_once(lab: &Lab, title: &str, how: &dyn Fn() -> Result<()>) -> Duration {
    let flows = lab.flows(RATE);
    let mut took = Duration::ZERO;
    let outcomes = measure(&flows, Duration::from_secs(6), || {
        pause(Duration::from_secs(1))?;
        let start = Instant::now();
        how()?;
        lab.wait_for_way_by(2)?;
        took = start.elapsed();
        Ok(())
    });
    let outcomes = outcomes
        .unwrap_or_else(|error| panic!("{title}: {error:#}\n{}", lab.nodes[0].agent.log_end()));
    sum(title, &flows, &outcomes).unwrap();
    // A connection that goes on sends again what was lost: its count is of segments, not of time.
    let single = flows.iter().zip(&outcomes);
    let single = single.filter(|((_, flow), _)| flow.kind != Kind::EstablishedTcp);
    let worst = single.map(|(_, outcome)| silence(outcome)).max().unwrap();
    say(&format!(
        "{title}: one way left after {took:?}, the worst flow lost {worst:?}"
    ));
    worst
}

fn silence(outcome: &Outcome) -> Duration {
    Duration::from_millis(outcome.lost * 1000 / u64::from(RATE))
}

#[test]
fn answers_may_come_back_by_the_other_tor_unless_the_host_forbids_it_which_the_doctor_names() {
    require_root!();
    let _alone = alone();
    let lab = Lab::start("tta", Bfd::PATIENT, Mode::Bgp).unwrap();
    // Out by the first, back by the second.
    let hide = [
        "configure terminal",
        "route-map none deny 10",
        "exit",
        "router bgp 65002",
    ];
    let hide = hide.into_iter().chain([
        "address-family ipv4 unicast",
        "neighbor 10.62.1.2 route-map none out",
    ]);
    lab.tors[1].frr.vtysh(&hide.collect::<Vec<_>>()).unwrap();
    let prefer = [
        "configure terminal",
        "router bgp 65000",
        "address-family ipv4 unicast",
        "neighbor 10.82.0.2 weight 100",
    ];
    lab.spine.frr.vtysh(&prefer).unwrap();
    lab.spine
        .frr
        .vtysh(&["clear bgp ipv4 unicast * soft"])
        .unwrap();
    eventually(PATIENCE, "out by one ToR, back by the other", || {
        let out = lab.gateways(0, "192.0.2.0/24")?;
        ensure!(out == ["10.61.1.1"], "{out:?}");
        let back = lab.back_to(1)?;
        ensure!(back == ["10.82.0.2"], "{back:?}");
        Ok(())
    })
    .unwrap();
    let node = &lab.nodes[0];
    let before = [packets(&lab, 1, "rx"), packets(&lab, 2, "rx")];
    assert_eq!(answered(&lab), 20, "rp_filter off");
    let after = [packets(&lab, 1, "rx"), packets(&lab, 2, "rx")];
    assert!(
        after[1] - before[1] >= 60,
        "answers came by the second: {before:?}, {after:?}"
    );

    node.netns
        .sysctl("net.ipv4.conf.tor2.rp_filter", "1")
        .unwrap();
    assert_eq!(answered(&lab), 0, "strict: the kernel drops them");
    let finding = finding_of_rp_filter(&lab).unwrap();
    assert_eq!(finding["verdict"], "warning", "{finding}");
    let remedy = finding["remedy"].as_str().unwrap();
    node.netns.run("sh", &["-ec", remedy]).unwrap();
    assert_eq!(answered(&lab), 20, "after `{remedy}`");
    assert_eq!(finding_of_rp_filter(&lab).unwrap()["verdict"], "ok");
}

/// Of 20 connections to the outside.
fn answered(lab: &Lab) -> usize {
    let to = server_at(OUTSIDE[0].parse().unwrap());
    let patience = Duration::from_millis(500);
    let tries =
        (0..20).map(|_| attempt(lab.pods[0].netns(), to, Transport::Tcp, patience).unwrap());
    tries
        .filter(|verdict| *verdict == Verdict::Answered)
        .count()
}

fn finding_of_rp_filter(lab: &Lab) -> Result<Value> {
    let all = lab.nodes[0].agent.findings(&[])?;
    let mut found = all.into_iter().filter(|one| one["check"] == "rp-filter");
    found.next().context("no finding of rp-filter")
}

/// Only what a pod asked for, and what belongs to it, comes in.
const ISOLATED: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: nobody-in, namespace: shop}
spec: {podSelector: {}, policyTypes: [Ingress], ingress: []}
";

/// The way by the first ToR takes smaller packets only.
const NARROW: u32 = 1300;

#[test]
fn a_pod_finds_the_mtu_of_a_narrower_way_also_behind_a_policy() {
    require_root!();
    let _alone = alone();
    let mut lab = Lab::start("ttm", Bfd::PATIENT, Mode::Bgp).unwrap();
    lab.rack.manifest("policy.yaml", ISOLATED).unwrap();
    lab.nodes[0].agent.wait_synced().unwrap();
    narrow(&lab, 0);
    for to in OUTSIDE.map(|address| address.parse::<IpAddr>().unwrap()) {
        let done = stream::send_many((lab.pods[0].netns(), &lab.outside), to).unwrap();
        assert_eq!(done, stream::STREAMS, "{}", family(to));
        let learned = known_mtu(lab.pods[0].netns(), to);
        assert_eq!(learned, Some(u64::from(NARROW)), "{}", family(to));
    }
    // The control: when nobody is told, nothing gets through; by either way, as a connection that hears nothing takes
    // another one (its packets' hash is made anew).
    narrow(&lab, 1);
    lab.attach(0, "deaf").unwrap();
    let deaf = lab.pods.last().unwrap();
    for (program, protocol, option, kind) in [
        ("iptables", "icmp", "--icmp-type", "fragmentation-needed"),
        ("ip6tables", "icmpv6", "--icmpv6-type", "packet-too-big"),
    ] {
        let rule = ["-p", protocol, option, kind, "-j", "DROP"];
        let words = [&["-t", "raw", "-I", "PREROUTING", "-i", "tor+"][..], &rule].concat();
        lab.nodes[0].netns.run(program, &words).unwrap();
    }
    for to in OUTSIDE.map(|address| address.parse::<IpAddr>().unwrap()) {
        let done = stream::send_many((deaf.netns(), &lab.outside), to).unwrap();
        assert_eq!(done, 0, "{}", family(to));
    }
}

/// The link between a ToR, counted from 0, and the spine takes smaller packets only from now on.
fn narrow(lab: &Lab, tor: usize) {
    let at_spine = format!("tor{}", tor + 1);
    for (netns, link) in [
        (&lab.tors[tor].netns, "spine"),
        (&lab.spine.netns, &*at_spine),
    ] {
        netns.ip(&format!("link set {link} mtu {NARROW}")).unwrap();
    }
}

/// What a namespace has learned of the way to an address, in bytes.
fn known_mtu(netns: &Netns, to: IpAddr) -> Option<u64> {
    let routes = netns.ip_json(&format!("route get {to}")).unwrap();
    routes.pointer("/0/metrics/0/mtu").and_then(Value::as_u64)
}
