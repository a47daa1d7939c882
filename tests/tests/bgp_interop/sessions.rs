//! Both families over one session, four-byte AS numbers, both sides dialling at once, again and again.

use bgp_proto::wire::Family;
use bgp_speaker::Shutdown;
use tests::bird::Bird;
use tests::frr::Frr;
use tests::netns::Netns;
use tests::openbgpd::OpenBgpd;
use tests::require_root;

use crate::lab::*;
use crate::node::{Node, node};

/// How often both dial at once.
const ROUNDS: usize = 5;

fn ours() -> bgp_speaker::Config {
    node(&[OURS, OURS6], |tor| {
        tor.session.own_addresses = vec![OUR_V6.into()];
    })
}

/// Both families both ways, `ROUNDS` sessions each begun by both sides.
fn exchanges(netns: &Netns, router: &dyn Router, gives_v6: bool, revive: impl Fn()) {
    for round in 0..ROUNDS {
        revive();
        let node = Node::start(netns, ours());
        let status = node.establishes("tor");
        router.establishes();
        node.learns(THEIRS, &[&THEIR_V4.to_string()]);
        if gives_v6 {
            node.learns(THEIRS6, &[&THEIR_V6.to_string()]);
        }
        router.has(&[OURS, OURS6]);
        assert_eq!(
            (status.asn, status.flaps),
            (Some(THEIR_AS), 0),
            "{status:?}"
        );
        let negotiated = node.status("tor").negotiated.unwrap();
        let families = [Family::IPV4_UNICAST, Family::IPV6_UNICAST];
        assert_eq!(negotiated.context.families, families, "round {round}");
        assert!(negotiated.context.four_byte_as);
        assert_eq!(node.advertised("tor").len(), 2);
        node.synced();
        if round % 2 == 0 {
            node.shut_down(Shutdown::Cease("next round".to_owned()));
            router.has(&[]);
        } else {
            node.kill();
        }
    }
}

#[test]
fn frr_and_we_dial_at_once_and_exchange_both_families() {
    require_root!();
    let (tor, node) = link("sf");
    exchanges(
        &node,
        &Frr::start(&tor, &frr_config("", "")).unwrap(),
        true,
        || {},
    );
}

#[test]
fn bird_and_we_dial_at_once_and_exchange_both_families() {
    require_root!();
    let (tor, node) = link("sb");
    exchanges(
        &node,
        &Bird::start(&tor, &bird_config("", "")).unwrap(),
        true,
        || {},
    );
}

#[test]
fn gobgp_and_we_dial_at_once_and_exchange_both_families() {
    require_root!();
    let (tor, node) = link("sg");
    exchanges(&node, &gobgp(&tor, &gobgp_config("", "")), true, || {});
}

#[test]
fn openbgpd_and_we_dial_at_once_and_exchange_both_families() {
    require_root!();
    let (tor, node) = link("so");
    // Over IPv4 it tells its IPv6 routes with the next hop ::1, which RFC 7606 makes a withdrawal of: the session stays.
    let openbgpd = OpenBgpd::start(&tor, &openbgpd_config("", "")).unwrap();
    // It would rest for half a minute and more after each loss.
    exchanges(&node, &openbgpd, false, || {
        openbgpd.bgpctl(&["neighbor", "10.0.0.2", "clear"]).unwrap();
    });
}
