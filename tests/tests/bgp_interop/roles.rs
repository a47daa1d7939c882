//! Roles and OTC (RFC 9234): agreed on, refused, and the mark on what goes down.

use bgp_proto::wire::Role;
use tests::bird::Bird;
use tests::frr::Frr;
use tests::netns::Netns;
use tests::openbgpd::OpenBgpd;
use tests::require_root;

use crate::lab::*;
use crate::node::{Node, node};

/// The router is our customer; then we say that we are its customer as well, which cannot be.
fn is_our_customer(netns: &Netns, router: &dyn Router) -> Node {
    let as_role = |role| node(&[OURS], move |tor| tor.session.role = Some(role));
    let ours = Node::start(netns, as_role(Role::Customer));
    let refused = ours.until("tor", "the roles to be refused", |status| {
        let why = status.last_down.as_ref();
        why.is_some_and(|(why, _)| why.to_lowercase().contains("role"))
    });
    assert_eq!(refused.flaps, 0, "{refused:?}");
    assert!(!router.is_up(router.us()).unwrap());
    ours.configure(as_role(Role::Provider));
    let negotiated = ours.establishes("tor").negotiated.unwrap();
    assert_eq!(negotiated.role, Some(Role::Provider));
    assert_eq!(negotiated.peer_role, Some(Role::Customer));
    ours.learns(THEIRS, &["10.0.0.1"]);
    router.has(&[OURS]);
    let sent = ours.advertised("tor");
    assert_eq!(
        sent[0].1.only_to_customer,
        Some(OUR_AS),
        "what goes down is marked"
    );
    ours
}

#[test]
fn bird_as_customer_sees_our_mark_and_a_mismatch_is_refused() {
    require_root!();
    let (tor, node) = link("lb");
    let bird = Bird::start(&tor, &bird_config("local role customer;", "")).unwrap();
    let _ours = is_our_customer(&node, &bird);
    shows("BIRD", &["BGP.otc: 4200000001"], || {
        bird.birdc(&format!("show route all {OURS}"))
    });
}

#[test]
fn frr_as_customer_sees_our_mark_and_a_mismatch_is_refused() {
    require_root!();
    let (tor, node) = link("lf");
    let config = frr_config(" neighbor 10.0.0.2 local-role customer", "");
    let frr = Frr::start(&tor, &config).unwrap();
    let _ours = is_our_customer(&node, &frr);
    shows("FRR", &["4200000001", "otc"], || {
        frr.vtysh(&[&format!("show bgp ipv4 unicast {OURS} json")])
    });
    shows(
        "FRR",
        &["Local Role: customer", "Remote Role: provider"],
        || frr.vtysh(&["show bgp neighbors 10.0.0.2"]),
    );
}

#[test]
fn openbgpd_as_customer_agrees_and_a_mismatch_is_refused() {
    require_root!();
    let (tor, node) = link("lo");
    let config = openbgpd_config("announce policy customer\n  passive", "");
    let openbgpd = OpenBgpd::start(&tor, &config).unwrap();
    let _ours = is_our_customer(&node, &openbgpd);
    shows("OpenBGPD", &["4200000001"], || {
        openbgpd.bgpctl(&["show", "rib", "detail", OURS])
    });
}

#[test]
fn a_strict_role_refuses_a_bird_that_tells_none() {
    require_root!();
    let (tor, netns) = link("ls");
    let bird = Bird::start(&tor, &bird_config("", "")).unwrap();
    let role = |strict| {
        node(&[OURS], move |tor| {
            tor.session.role = Some(Role::Provider);
            tor.session.strict_role = strict;
        })
    };
    let ours = Node::start(&netns, role(true));
    ours.until("tor", "a BIRD without a role to be refused", |status| {
        let why = status.last_down.as_ref();
        why.is_some_and(|(why, _)| why.to_lowercase().contains("role"))
    });
    assert!(!bird.is_up("node").unwrap());
    ours.configure(role(false));
    ours.establishes("tor");
    bird.has(&[OURS]);
}
