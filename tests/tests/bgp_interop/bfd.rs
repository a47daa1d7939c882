//! BFD with FRR's bfdd and with BIRD: a silent cut is found at once, next hops first; strict mode waits for BFD.

use std::num::NonZeroU8;
use std::time::{Duration, Instant};

use bgp_proto::bfd::BfdConfig;
use bgp_proto::session::State;
use bgp_proto::speaker::Bfd;
use bgp_speaker::Forwarding;
use tests::bird::Bird;
use tests::frr::Frr;
use tests::netns::Netns;
use tests::require_root;

use crate::lab::*;
use crate::node::{Node, node};

const INTERVAL: Duration = Duration::from_millis(100);
const MULTIPLIER: u32 = 3;
/// What a busy machine may add to the detection time.
const MARGIN: Duration = Duration::from_millis(1_200);

fn watched(strict: bool) -> bgp_speaker::Config {
    node(&[OURS], |tor| {
        tor.session.hold_time = Duration::from_secs(90);
        tor.session.bfd = Some(Bfd { strict });
        tor.bfd = Some(bgp_speaker::Bfd {
            timers: BfdConfig {
                desired_min_tx: INTERVAL,
                required_min_rx: INTERVAL,
                detect_multiplier: NonZeroU8::new(3).unwrap(),
                control_plane_independent: false,
                passive: false,
            },
            hops: None,
        });
    })
}

/// Packets go nowhere from now on and no end is told.
fn cut(netns: &Netns, is_cut: bool) {
    // A route by policy: what would leave for the link is dropped on the way.
    let word = if is_cut { "add" } else { "del" };
    netns
        .ip(&format!(
            "rule {word} pref 0 from 10.0.0.0/24 to 10.0.0.0/24 blackhole"
        ))
        .unwrap();
}

fn is_cut_and_heals(tor: &Netns, netns: &Netns, router: &dyn Router) {
    // The rule that knows our own addresses comes first otherwise.
    for end in [tor, netns] {
        end.ip("rule add pref 1 lookup local").unwrap();
        end.ip("rule del pref 0").unwrap();
    }
    // A first start: after a restart BFD comes before the session, and FRR ends the BFD session of a peer whose address
    // it has just learned, which would be a flap.
    let ours = Node::start_after(netns, watched(false), Forwarding::Lost);
    ours.establishes("tor");
    ours.learns(THEIRS, &["10.0.0.1"]);
    router.has(&[OURS]);
    ours.until("tor", "BFD to be up", |status| status.bfd_up == Some(true));
    assert_eq!(
        ours.heard().gateways_down.len(),
        0,
        "{:?}",
        ours.status("tor")
    );
    let at = Instant::now();
    cut(tor, true);
    cut(netns, true);
    ours.loses(THEIRS);
    let heard = ours.heard();
    let (down, gateway) = heard.gateways_down[0];
    assert_eq!(gateway.address, THEIR_V4);
    let withdrawn = heard.withdrawn_at.unwrap();
    assert!(down <= withdrawn, "the gateway goes before its routes");
    let took = down.saturating_duration_since(at);
    assert!(
        took < INTERVAL * MULTIPLIER + MARGIN,
        "found after {took:?}"
    );
    let status = ours.status("tor");
    assert_ne!(status.state, State::Established);
    let (why, _) = status.last_down.unwrap();
    assert!(why.contains("BFD"), "{why}");
    cut(tor, false);
    cut(netns, false);
    ours.establishes("tor");
    ours.learns(THEIRS, &["10.0.0.1"]);
    router.has(&[OURS]);
    assert_eq!(ours.status("tor").flaps, 1);
}

const FRR_BFD: &str = " neighbor 10.0.0.2 bfd 3 100 100\n neighbor 10.0.0.2 timers 30 90";
const BIRD_BFD: &str = "protocol bfd { interface \"*\" { min rx interval 100 ms; min tx interval 100 ms; multiplier 3; }; }\n";

#[test]
fn a_silent_cut_of_the_link_to_frr_is_found_by_bfd_next_hop_first() {
    require_root!();
    let (tor, node) = link("df");
    let mut frr = Frr::start(&tor, "").unwrap();
    frr.start_bfdd(&tor, "").unwrap();
    let config = frr_config(FRR_BFD, "");
    let lines: Vec<&str> = std::iter::once("configure terminal")
        .chain(config.lines().filter(|line| !line.trim().is_empty()))
        .collect();
    frr.vtysh(&lines).unwrap();
    is_cut_and_heals(&tor, &node, &frr);
}

#[test]
fn a_silent_cut_of_the_link_to_bird_is_found_by_bfd_next_hop_first() {
    require_root!();
    let (tor, node) = link("db");
    let config = bird_config("bfd on;", "").replace("hold time 9", "hold time 90");
    let bird = Bird::start(&tor, &format!("{BIRD_BFD}{config}")).unwrap();
    is_cut_and_heals(&tor, &node, &bird);
}

#[test]
fn a_strict_session_with_bird_waits_until_bfd_is_up() {
    require_root!();
    let (tor, netns) = link("ds");
    let plain = bird_config("", "");
    let bird = Bird::start(&tor, &plain).unwrap();
    let ours = Node::start(&netns, watched(true));
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(4) {
        assert_ne!(ours.status("tor").state, State::Established);
        tests::wait::pause(Duration::from_millis(200)).unwrap();
    }
    assert!(!bird.is_up("node").unwrap());
    let with_bfd = format!("{BIRD_BFD}{}", bird_config("bfd on;", ""));
    std::fs::write(bird.dir().join("bird.conf"), with_bfd).unwrap();
    bird.birdc("configure").unwrap();
    let status = ours.establishes("tor");
    assert_eq!((status.bfd_up, status.flaps), (Some(true), 0));
    bird.has(&[OURS]);
}
