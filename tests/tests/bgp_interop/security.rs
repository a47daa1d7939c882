//! TCP MD5 (RFC 2385) and GTSM (RFC 5082): with the right settings a session, with others none, and no word of ours.

use std::num::NonZeroU8;
use std::time::{Duration, Instant};

use bgp_proto::session::State;
use bgp_speaker::socket::{Password, Ttl};
use bgp_speaker::{Peer, Shutdown};
use tests::bird::Bird;
use tests::frr::Frr;
use tests::netns::Netns;
use tests::openbgpd::OpenBgpd;
use tests::require_root;

use crate::lab::*;
use crate::node::{Node, node};

const RIGHT: &str = "right-key";
/// Long enough for several dials of both sides.
const QUIET: Duration = Duration::from_secs(4);

fn keyed(key: Option<&str>) -> impl FnOnce(&mut Peer) {
    let key = key.map(|key| Password::new(key).unwrap());
    move |tor| tor.socket.password = key
}

fn secured(hops: Option<u8>) -> impl FnOnce(&mut Peer) {
    let hops = hops.map(|hops| NonZeroU8::new(hops).unwrap());
    move |tor| tor.socket.ttl = Ttl::of_peer(true, None, hops)
}

fn stays_down(node: &Node, router: &dyn Router) {
    let start = Instant::now();
    let mut looks = 0;
    while start.elapsed() < QUIET {
        assert_ne!(node.status("tor").state, State::Established);
        assert!(!router.is_up(router.us()).unwrap());
        looks += 1;
        tests::wait::pause(Duration::from_millis(200)).unwrap();
    }
    assert!(looks > 5, "{looks} looks");
}

/// No session with another key or, if the router demands one, none; one with the right key, by a change of the configuration alone.
fn takes_only_its_key(netns: &Netns, router: &dyn Router, demands_one: bool) {
    let ours = Node::start(netns, node(&[OURS], keyed(Some("wrong key"))));
    stays_down(&ours, router);
    if demands_one {
        ours.configure(node(&[OURS], keyed(None)));
        stays_down(&ours, router);
    }
    ours.configure(node(&[OURS], keyed(Some(RIGHT))));
    ours.establishes("tor");
    ours.learns(THEIRS, &["10.0.0.1"]);
    router.has(&[OURS]);
    assert_eq!(ours.status("tor").flaps, 0);
}

#[test]
fn frr_and_we_have_a_session_with_the_same_md5_key_only() {
    require_root!();
    let (tor, node) = link("mf");
    let config = frr_config(&format!(" neighbor 10.0.0.2 password {RIGHT}"), "");
    let frr = Frr::start(&tor, &config).unwrap();
    takes_only_its_key(&node, &frr, true);
}

#[test]
fn bird_and_we_have_a_session_with_the_same_md5_key_only() {
    require_root!();
    let (tor, node) = link("mb");
    let config = bird_config(&format!("password \"{RIGHT}\";"), "");
    takes_only_its_key(&node, &Bird::start(&tor, &config).unwrap(), true);
}

#[test]
fn gobgp_and_we_have_a_session_with_the_same_md5_key_only() {
    require_root!();
    let (tor, node) = link("mg");
    let config = gobgp_config("", "");
    let key = format!("peer-as = {}\n    auth-password = \"{RIGHT}\"", OUR_AS.0);
    let config = config.replace(&format!("peer-as = {}", OUR_AS.0), &key);
    takes_only_its_key(&node, &gobgp(&tor, &config), true);
}

#[test]
fn openbgpd_and_we_have_a_session_with_the_same_md5_key_only() {
    require_root!();
    let (tor, node) = link("mo");
    // On Linux its listening socket takes connections without a key as well.
    let config = openbgpd_config(&format!("tcp md5sig password \"{RIGHT}\""), "");
    takes_only_its_key(&node, &OpenBgpd::start(&tor, &config).unwrap(), false);
}

/// Their side demands TTL 255: with it there is a session and both have the other's routes, without it neither has.
fn takes_only_ttl_255(netns: &Netns, router: &dyn Router) {
    let ours = Node::start(netns, node(&[OURS], secured(Some(1))));
    ours.establishes("tor");
    ours.learns(THEIRS, &["10.0.0.1"]);
    router.has(&[OURS]);
    ours.shut_down(Shutdown::Cease("no more GTSM".to_owned()));
    router.has(&[]);
    let ours = Node::start(netns, node(&[OURS], secured(None)));
    let start = Instant::now();
    let mut looks = 0;
    while start.elapsed() < QUIET {
        // FRR demands it a moment after it accepts: an OPEN may slip through, no more.
        assert!(router.from(router.us()).unwrap().is_empty());
        looks += 1;
        tests::wait::pause(Duration::from_millis(200)).unwrap();
    }
    assert!(looks > 5, "{looks} looks");
    assert_ne!(
        ours.status("tor").counts.accepted,
        2,
        "{:?}",
        ours.status("tor")
    );
}

#[test]
fn frr_and_we_have_a_session_with_ttl_security_on_both_sides_only() {
    require_root!();
    let (tor, node) = link("tf");
    let config = frr_config(" neighbor 10.0.0.2 ttl-security hops 1", "");
    takes_only_ttl_255(&node, &Frr::start(&tor, &config).unwrap());
}

#[test]
fn bird_and_we_have_a_session_with_ttl_security_on_both_sides_only() {
    require_root!();
    let (tor, node) = link("tb");
    let config = bird_config("ttl security on;", "");
    takes_only_ttl_255(&node, &Bird::start(&tor, &config).unwrap());
}

#[test]
fn gobgp_and_we_have_a_session_with_ttl_security_on_both_sides_only() {
    require_root!();
    let (tor, node) = link("tg");
    let security = "  [neighbors.ttl-security.config]\n    enabled = true\n    ttl-min = 255\n";
    takes_only_ttl_255(&node, &gobgp(&tor, &gobgp_config(security, "")));
}

#[test]
fn openbgpd_and_we_have_a_session_with_ttl_security_on_both_sides_only() {
    require_root!();
    let (tor, node) = link("to");
    let config = openbgpd_config("ttl-security yes\n  passive", "");
    takes_only_ttl_255(&node, &OpenBgpd::start(&tor, &config).unwrap());
}
