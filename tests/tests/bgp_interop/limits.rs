//! Bounds on prefixes on either side: the session ends, and comes back when it is time.

use std::time::{Duration, Instant};

use anyhow::ensure;
use bgp_proto::session::State;
use bgp_proto::speaker::MaxPrefixes;
use tests::bird::Bird;
use tests::frr::Frr;
use tests::netns::Netns;
use tests::openbgpd::OpenBgpd;
use tests::require_root;
use tests::wait::eventually;

use crate::lab::*;
use crate::node::{Node, node};

const PAUSE: Duration = Duration::from_secs(4);

#[test]
fn too_many_prefixes_of_frr_end_the_session_which_comes_back_after_the_pause() {
    require_root!();
    let (tor, netns) = link("xf");
    let more: String = (0..5)
        .map(|n| format!("  network 198.51.{n}.0/24\n"))
        .collect();
    let frr = Frr::start(&tor, &frr_config("", &more)).unwrap();
    let ours = Node::start(
        &netns,
        node(&[OURS], |tor| {
            tor.session.max_prefixes = MaxPrefixes {
                limit: 3,
                warn_at: Some(2),
                restart_after: Some(PAUSE),
            };
        }),
    );
    let status = ours.until("tor", "the bound to be passed", |status| {
        status.held_down_for.is_some()
    });
    let passed = Instant::now();
    assert_ne!(status.state, State::Established);
    shows("FRR", &["Cease/Maximum Number of Prefixes Reached"], || {
        frr.vtysh(&["show bgp neighbors 10.0.0.2"])
    });
    frr.has(&[]);
    assert!(ours.heard().routes.is_empty(), "{:?}", ours.heard());
    let family = [
        "configure terminal",
        "router bgp 65000",
        "address-family ipv4 unicast",
    ];
    let removals: Vec<String> = (0..5)
        .map(|n| format!("no network 198.51.{n}.0/24"))
        .collect();
    let removals: Vec<&str> = removals.iter().map(String::as_str).collect();
    frr.vtysh(&[&family[..], &removals].concat()).unwrap();
    ours.establishes("tor");
    assert!(passed.elapsed() > PAUSE / 2, "{:?}", passed.elapsed());
    ours.learns(THEIRS, &["10.0.0.1"]);
    frr.has(&[OURS]);
    assert_eq!(ours.status("tor").flaps, 1);
}

/// The router takes two prefixes and we have more and more: it ends the session; with one we are let in again.
fn survives_their_bound(netns: &Netns, router: &dyn Router, clear: impl Fn()) {
    let with = |count: usize| {
        let all: Vec<String> = (1..=count).map(|n| format!("10.244.{n}.0/24")).collect();
        node(&all.iter().map(String::as_str).collect::<Vec<_>>(), |_| {})
    };
    let ours = Node::start(netns, with(2));
    router.has(&[OURS, "10.244.2.0/24"]);
    assert_eq!(ours.status("tor").flaps, 0);
    let mut count = 2;
    let status = eventually(DEADLINE, "the router's bound", || {
        // FRR counts late, so that one more may be no more than a warning to it.
        count += 1;
        ours.configure(with(count));
        let status = ours.status("tor");
        let cease = status
            .last_down
            .as_ref()
            .is_some_and(|(why, _)| why.contains("Cease"));
        ensure!(cease, "{status:?}");
        Ok(status)
    })
    .unwrap();
    let (why, _) = status.last_down.unwrap();
    assert!(why.contains("Maximum Number of Prefixes"), "{why}");
    ours.configure(node(&[OURS], |_| {}));
    clear();
    ours.establishes("tor");
    router.has(&[OURS]);
    ours.learns(THEIRS, &["10.0.0.1"]);
}

#[test]
fn the_bound_of_frr_is_survived() {
    require_root!();
    let (tor, node) = link("yf");
    let config = frr_config("", "  neighbor 10.0.0.2 maximum-prefix 2");
    let frr = Frr::start(&tor, &config).unwrap();
    survives_their_bound(&node, &frr, || {
        frr.vtysh(&["clear bgp ipv4 unicast 10.0.0.2"]).unwrap();
    });
}

#[test]
fn the_bound_of_bird_is_survived() {
    require_root!();
    let (tor, node) = link("yb");
    let config = bird_config("", "import limit 2 action restart;");
    survives_their_bound(&node, &Bird::start(&tor, &config).unwrap(), || {});
}

#[test]
fn the_bound_of_openbgpd_is_survived() {
    require_root!();
    let (tor, node) = link("yo");
    let config = openbgpd_config("max-prefix 2 restart 1\n  passive", "");
    let openbgpd = OpenBgpd::start(&tor, &config).unwrap();
    survives_their_bound(&node, &openbgpd, || {
        openbgpd.bgpctl(&["neighbor", "10.0.0.2", "clear"]).unwrap();
    });
}
