//! IPv4 routes with IPv6 next hops (RFC 8950): over an IPv6 session, and by interface alone.

use bgp_proto::session::PeerAs;
use bgp_proto::wire::Family;
use bgp_speaker::{Config, Peer, Target};
use tests::bird::Bird;
use tests::frr::Frr;
use tests::gobgp::GoBgp;
use tests::netns::{Netns, join};
use tests::require_root;

use crate::lab::*;
use crate::node::{Node, speaker};

/// The speaker with one peer, over IPv6 only.
fn over_v6() -> Config {
    let mut config = speaker(&[OURS, OURS6]);
    config.listen = vec![(OUR_V6, 179).into()];
    let address = (THEIR_V6, 179).into();
    let mut tor = Peer::at(address, PeerAs::Number(THEIR_AS), Some(OUR_V6.into()));
    tor.session.hold_time = std::time::Duration::from_secs(9);
    config.peers.insert("tor".to_owned(), tor);
    config
}

fn exchanges(netns: &Netns, router: &dyn Router, us: &str) -> Node {
    let node = Node::start(netns, over_v6());
    let status = node.establishes("tor");
    let context = status.negotiated.unwrap().context;
    assert_eq!(context.extended_next_hop, [Family::IPV4_UNICAST]);
    node.learns(THEIRS, &[&THEIR_V6.to_string()]);
    node.learns(THEIRS6, &[&THEIR_V6.to_string()]);
    let has = || Ok(format!("{:?}", router.from(us)?));
    shows("the router", &[OURS, OURS6], has);
    let advertised = node.advertised("tor");
    assert_eq!(advertised.len(), 2);
    for (nlri, attributes) in advertised {
        assert_eq!(attributes.next_hop, OUR_V6, "{nlri:?}");
    }
    node
}

#[test]
fn frr_takes_and_gives_ipv4_over_an_ipv6_session() {
    require_root!();
    let (tor, node) = link("nf");
    let config = frr_config(
        &format!(" neighbor {OUR_V4} capability extended-nexthop"),
        "",
    );
    let config = config.replace(&OUR_V4.to_string(), &OUR_V6.to_string());
    let frr = Frr::start(&tor, &config).unwrap();
    let _node = exchanges(&node, &frr, &OUR_V6.to_string());
    shows("FRR", &[&OUR_V6.to_string()], || {
        frr.vtysh(&[&format!("show bgp ipv4 unicast {OURS} json")])
    });
}

#[test]
fn bird_takes_and_gives_ipv4_over_an_ipv6_session() {
    require_root!();
    let (tor, node) = link("nb");
    let config = bird_config("", "extended next hop on;")
        .replace(&OUR_V4.to_string(), &OUR_V6.to_string())
        .replace(
            &format!("local {THEIR_V4} as"),
            &format!("local {THEIR_V6} as"),
        );
    let bird = Bird::start(&tor, &config).unwrap();
    let _node = exchanges(&node, &bird, "node");
    shows("BIRD", &[&format!("BGP.next_hop: {OUR_V6}")], || {
        bird.birdc(&format!("show route all {OURS}"))
    });
}

#[test]
fn gobgp_takes_and_gives_ipv4_over_an_ipv6_session() {
    require_root!();
    let (tor, node) = link("ng");
    let config = gobgp_config("", "").replace(&OUR_V4.to_string(), &OUR_V6.to_string());
    let gobgp: GoBgp = gobgp(&tor, &config);
    let node = exchanges(&node, &gobgp, &OUR_V6.to_string());
    assert_eq!(node.status("tor").flaps, 0);
}

#[test]
fn frr_is_found_by_interface_and_routes_go_both_ways_by_link_local_next_hops() {
    require_root!();
    let (tor, node) = (
        Netns::new("nu", "tor").unwrap(),
        Netns::new("nu", "node").unwrap(),
    );
    join((&tor, "eth0"), (&node, "eth0")).unwrap();
    let config = frr_config("", "").replace(&format!("neighbor {OUR_V4}"), "neighbor eth0");
    let config = config.replace(
        &format!("neighbor eth0 remote-as {}", OUR_AS.0),
        "neighbor eth0 interface remote-as external",
    );
    let frr = Frr::start(&tor, &config).unwrap();
    let mut config = speaker(&[OURS, OURS6]);
    config.listen = vec![(std::net::Ipv6Addr::UNSPECIFIED, 179).into()];
    let mut peer = Peer::at(
        (std::net::Ipv6Addr::UNSPECIFIED, 179).into(),
        PeerAs::External,
        None,
    );
    peer.target = Target::Interface {
        name: "eth0".to_owned(),
        port: 179,
    };
    config.peers.insert("tor".to_owned(), peer);
    let node = Node::start(&node, config);
    let status = node.establishes("tor");
    let theirs = status.address.unwrap().ip().to_string();
    assert!(theirs.starts_with("fe80:"), "{status:?}");
    for prefix in [THEIRS, THEIRS6] {
        let hops = node.learns(prefix, &[&theirs]);
        assert!(hops[0].link.is_some(), "{hops:?}");
    }
    let ours = status.local_address.unwrap().to_string();
    assert!(ours.starts_with("fe80:"), "{ours}");
    for (family, prefix) in [("ipv4", OURS), ("ipv6", OURS6)] {
        shows("FRR", &[&ours, "\"valid\":true"], || {
            let text = frr.vtysh(&[&format!("show bgp {family} unicast {prefix} json")])?;
            Ok(text.split_whitespace().collect())
        });
    }
    assert_eq!(node.status("tor").flaps, 0);
}
