//! What is agreed on in OPENs, and who opens: two-byte AS numbers, long messages, local AS, own AS, passive.

use bgp_proto::rib::Verdict;
use bgp_proto::session::Direction;
use bgp_proto::wire::Asn;
use tests::bird::Bird;
use tests::frr::Frr;
use tests::gobgp::GoBgp;
use tests::netns::Netns;
use tests::openbgpd::OpenBgpd;
use tests::require_root;

use crate::lab::*;
use crate::node::{Node, node};

/// So many prefixes are one long message, or several short ones.
const PREFIXES: usize = 6_000;

fn table() -> Vec<String> {
    (0..PREFIXES)
        .map(|n| format!("11.{}.{}.0/24", n >> 8, n & 255))
        .collect()
}

/// A peer of two-byte AS numbers takes us for AS_TRANS, and our real number goes beside the path (RFC 6793 §4.2.2).
fn is_as_trans_to(netns: &Netns, router: &dyn Router) {
    let ours = Node::start(netns, node(&[OURS], |_| {}));
    let negotiated = ours.establishes("tor").negotiated.unwrap();
    assert!(!negotiated.context.four_byte_as);
    ours.learns(THEIRS, &["10.0.0.1"]);
    router.has(&[OURS]);
    assert_eq!(ours.status("tor").flaps, 0);
}

#[test]
fn openbgpd_with_two_byte_as_numbers_takes_us_for_as_trans() {
    require_root!();
    let (tor, node) = link("wo");
    let config = openbgpd_config("announce as-4byte no", "");
    is_as_trans_to(&node, &OpenBgpd::start(&tor, &config).unwrap());
}

#[test]
fn bird_takes_messages_longer_than_4096_octets() {
    require_root!();
    let (tor, netns) = link("wx");
    let routes: String = (0..PREFIXES)
        .map(|n| format!("route 12.{}.{}.0/24 blackhole; ", n >> 8, n & 255))
        .collect();
    let config = bird_config("enable extended messages on;", "").replace(
        &format!("route {THEIRS} blackhole;"),
        &format!("route {THEIRS} blackhole; {routes}"),
    );
    let bird = Bird::start(&tor, &config).unwrap();
    let all = table();
    let ours = Node::start(
        &netns,
        node(&all.iter().map(String::as_str).collect::<Vec<_>>(), |_| {}),
    );
    let negotiated = ours.establishes("tor").negotiated.unwrap();
    assert!(negotiated.context.extended_messages);
    let status = ours.until("tor", "all of BIRD's routes", |status| {
        status.counts.accepted == PREFIXES + 2
    });
    // In 4096 octets there is room for about a thousand prefixes; BIRD stays below that anyway.
    assert!(status.updates.1 < 6, "{:?}", status.updates);
    shows(
        "BIRD",
        &[&format!("{} routes for", 2 * PREFIXES + 1)],
        || bird.birdc("show route count table master4"),
    );
    assert_eq!(ours.status("tor").flaps, 0);
}

/// FRR and GoBGP offer extended messages by themselves; that they take one is what `PREFIXES` shows.
fn takes_a_long_message(netns: &Netns, has_all: impl Fn() -> anyhow::Result<String>, wanted: &str) {
    let all = table();
    let ours = Node::start(
        netns,
        node(&all.iter().map(String::as_str).collect::<Vec<_>>(), |_| {}),
    );
    assert!(
        ours.establishes("tor")
            .negotiated
            .unwrap()
            .context
            .extended_messages
    );
    shows("the router", &[wanted], has_all);
    let status = ours.status("tor");
    assert!(status.updates.1 < 6 && status.flaps == 0, "{status:?}");
}

#[test]
fn frr_takes_messages_longer_than_4096_octets() {
    require_root!();
    let (tor, netns) = link("wf");
    let frr = Frr::start(&tor, &frr_config("", "")).unwrap();
    takes_a_long_message(
        &netns,
        || frr.vtysh(&["show bgp ipv4 unicast summary json"]),
        &format!("\"pfxRcd\":{PREFIXES}"),
    );
}

#[test]
fn gobgp_takes_messages_longer_than_4096_octets() {
    require_root!();
    let (tor, netns) = link("wg");
    let gobgp: GoBgp = gobgp(&tor, &gobgp_config("", ""));
    let show = || {
        let text = gobgp.gobgp(&["neighbor", "10.0.0.2"])?;
        Ok(text.split_whitespace().collect::<Vec<_>>().join(" "))
    };
    takes_a_long_message(&netns, show, &format!("Received: {PREFIXES} "));
}

#[test]
fn frr_sees_a_local_as_before_ours() {
    require_root!();
    let (tor, netns) = link("wl");
    let config = frr_config("", "").replace(&OUR_AS.0.to_string(), "65100");
    let frr = Frr::start(&tor, &config).unwrap();
    let ours = Node::start(
        &netns,
        node(&[OURS], |tor| tor.session.local_as = Some(Asn(65_100))),
    );
    ours.establishes("tor");
    frr.has(&[OURS]);
    shows("FRR", &["\"string\":\"65100 4200000001\""], || {
        frr.vtysh(&[&format!("show bgp ipv4 unicast {OURS} json")])
    });
    ours.learns(THEIRS, &["10.0.0.1"]);
}

#[test]
fn our_own_as_in_a_path_of_frr_is_a_loop_unless_allowed() {
    require_root!();
    let (tor, netns) = link("wa");
    let map = format!(
        "route-map LOOP permit 10\n set as-path prepend {}\nexit\n",
        OUR_AS.0
    );
    let config = frr_config("", "  neighbor 10.0.0.2 route-map LOOP out");
    let frr = Frr::start(&tor, &format!("{map}{config}")).unwrap();
    let allowed = |count| node(&[OURS], move |tor| tor.session.allow_own_as = count);
    let ours = Node::start(&netns, allowed(0));
    ours.hears("tor", THEIRS, |_| true);
    let received = ours.received("tor");
    let verdict = received
        .iter()
        .find(|(nlri, ..)| nlri.prefix.to_string() == THEIRS);
    assert_eq!(verdict.unwrap().2, Verdict::AsLoop);
    let theirs = THEIRS.parse().unwrap();
    assert!(!ours.heard().routes.contains_key(&theirs));
    ours.configure(allowed(1));
    ours.learns(THEIRS, &["10.0.0.1"]);
    assert_eq!(ours.status("tor").flaps, 0);
    frr.has(&[OURS]);
}

#[test]
fn whoever_is_passive_is_dialled_by_the_other() {
    require_root!();
    let (tor, netns) = link("wp");
    let bird = Bird::start(&tor, &bird_config("", "")).unwrap();
    let ours = Node::start(&netns, node(&[OURS], |tor| tor.session.passive = true));
    let negotiated = ours.establishes("tor").negotiated.unwrap();
    assert_eq!(negotiated.direction, Direction::Incoming);
    bird.has(&[OURS]);
    drop(ours);
    std::fs::write(bird.dir().join("bird.conf"), bird_config("passive on;", "")).unwrap();
    bird.birdc("configure").unwrap();
    let ours = Node::start(&netns, node(&[OURS], |_| {}));
    let negotiated = ours.establishes("tor").negotiated.unwrap();
    assert_eq!(negotiated.direction, Direction::Outgoing);
    bird.has(&[OURS]);
}
