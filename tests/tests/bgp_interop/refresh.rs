//! Route refresh both ways (RFC 2918, RFC 7313): routes come again and the session stays.

use tests::bird::Bird;
use tests::frr::Frr;
use tests::netns::Netns;
use tests::openbgpd::OpenBgpd;
use tests::require_root;

use crate::lab::*;
use crate::node::{Node, node};

/// The router, made to by `ask`, asks first, then we do.
fn both_ask(netns: &Netns, router: &dyn Router, enhanced: bool, ask: impl Fn()) {
    let node = asked(netns, router, enhanced, ask);
    asks(&node);
}

fn asked(netns: &Netns, router: &dyn Router, enhanced: bool, ask: impl Fn()) -> Node {
    let node = settled(netns, router, enhanced);
    let before = node.status("tor").updates;
    ask();
    node.until("tor", "our routes to be sent again", |status| {
        status.updates.1 > before.1
    });
    router.has(&[OURS]);
    node
}

fn settled(netns: &Netns, router: &dyn Router, enhanced: bool) -> Node {
    let node = Node::start(netns, node(&[OURS], |_| {}));
    let status = node.establishes("tor");
    let negotiated = status.negotiated.unwrap();
    assert!(negotiated.route_refresh);
    assert_eq!(negotiated.enhanced_refresh, enhanced);
    node.learns(THEIRS, &["10.0.0.1"]);
    router.has(&[OURS]);
    node.synced();
    node
}

fn asks(node: &Node) {
    let before = node.status("tor").updates;
    node.refresh("tor");
    node.until("tor", "their routes to come again", |status| {
        status.updates.0 > before.0
    });
    node.learns(THEIRS, &["10.0.0.1"]);
    let heard = node.heard();
    assert_eq!((heard.withdrawals, node.status("tor").flaps), (0, 0));
}

#[test]
fn frr_and_we_refresh_routes_without_a_reset() {
    require_root!();
    let (tor, node) = link("rf");
    let frr = Frr::start(&tor, &frr_config("", "")).unwrap();
    both_ask(&node, &frr, true, || {
        frr.vtysh(&["clear bgp ipv4 unicast 10.0.0.2 soft in"])
            .unwrap();
    });
}

#[test]
fn bird_and_we_refresh_routes_without_a_reset() {
    require_root!();
    let (tor, node) = link("rb");
    let bird = Bird::start(&tor, &bird_config("", "")).unwrap();
    both_ask(&node, &bird, true, || {
        bird.birdc("reload in node").unwrap();
    });
}

#[test]
fn gobgp_refreshes_our_routes_and_what_it_has_of_ours_without_a_reset() {
    require_root!();
    let (tor, node) = link("rg");
    let gobgp = gobgp(&tor, &gobgp_config("", ""));
    let node = settled(&node, &gobgp, false);
    // It keeps all it was told, so it never asks.
    gobgp
        .gobgp(&["neighbor", "10.0.0.2", "softresetin"])
        .unwrap();
    gobgp.has(&[OURS]);
    asks(&node);
}

#[test]
fn openbgpd_refreshes_our_routes_and_survives_being_asked() {
    require_root!();
    let (tor, node) = link("ro");
    let openbgpd = OpenBgpd::start(&tor, &openbgpd_config("", "")).unwrap();
    let node = asked(&node, &openbgpd, false, || {
        openbgpd
            .bgpctl(&["neighbor", "10.0.0.2", "refresh"])
            .unwrap();
    });
    // 7.7 counts the request and then says that the family was not negotiated, to BIRD as well: nothing comes again.
    node.refresh("tor");
    shows("OpenBGPD", &["asked"], || {
        let shown = openbgpd.json(&["show", "neighbor", "10.0.0.2"])?;
        let count = shown.pointer("/neighbors/0/stats/message/received/route_refresh");
        let asked = count.and_then(serde_json::Value::as_u64) >= Some(1);
        Ok(if asked {
            "asked".to_owned()
        } else {
            shown.to_string()
        })
    });
    openbgpd.has(&[OURS]);
    assert_eq!(node.status("tor").flaps, 0);
}
