//! Several paths a prefix both ways (RFC 7911): two neighbours announce one prefix, and both ends hear of both.

use std::collections::BTreeSet;

use anyhow::ensure;
use bgp_proto::speaker::AddPath;
use bgp_proto::wire::{Asn, Family};
use tests::bird::Bird;
use tests::frr::Frr;
use tests::gobgp::GoBgp;
use tests::netns::Netns;
use tests::openbgpd::OpenBgpd;
use tests::require_root;
use tests::wait::eventually;

use crate::lab::*;
use crate::node::{Node, node, peer};

const SHARED: &str = "198.51.100.0/24";

/// A neighbour of both the router and us, at 10.0.0.`host` in AS 65000 + `host`.
fn source(netns: &Netns, host: u8) -> Node {
    let address = std::net::Ipv4Addr::new(10, 0, 0, host);
    netns
        .ip(&format!("addr add {address}/24 dev veth0"))
        .unwrap();
    let from_there = |tor: &mut bgp_speaker::Peer| tor.socket.source = Some(address.into());
    let mut config = node(&[SHARED], from_there);
    let mut us = peer(OUR_V4, OUR_AS);
    from_there(&mut us);
    config.peers.insert("us".to_owned(), us);
    config.speaker.asn = Asn(65_000 + u32::from(host));
    config.speaker.router_id = address;
    config.listen = vec![(address, 179).into()];
    Node::start(netns, config)
}

/// Two sources, and us between them and the router.
fn both_hear_of_both(netns: &Netns, paths_at_router: impl Fn() -> anyhow::Result<usize>) -> Node {
    let mut config = node(&[OURS], |tor| {
        tor.session.add_path = AddPath {
            receive: true,
            send: 4,
        };
        tor.session.transit = true;
    });
    for host in [3, 4] {
        let asn = Asn(65_000 + u32::from(host));
        let one = peer(std::net::Ipv4Addr::new(10, 0, 0, host), asn);
        config.peers.insert(format!("source{host}"), one);
    }
    let ours = Node::start(netns, config);
    let _sources = [source(netns, 3), source(netns, 4)];
    let negotiated = ours.establishes("tor").negotiated.unwrap();
    assert!(
        negotiated
            .context
            .add_path_receive
            .contains(&Family::IPV4_UNICAST)
    );
    assert!(
        negotiated
            .context
            .add_path_send
            .contains(&Family::IPV4_UNICAST)
    );
    let shared: ipnet::IpNet = SHARED.parse().unwrap();
    eventually(DEADLINE, "two paths from the router", || {
        let received = ours.received("tor");
        let of = received.iter().filter(|(nlri, ..)| nlri.prefix == shared);
        let (ids, paths): (BTreeSet<_>, BTreeSet<_>) = of
            .map(|(nlri, attributes, _)| (nlri.path_id, attributes.as_path.clone()))
            .unzip();
        ensure!(ids.len() >= 2 && paths.len() >= 2, "{received:#?}");
        Ok(())
    })
    .unwrap();
    eventually(DEADLINE, "two paths from us at the router", || {
        let paths = paths_at_router()?;
        ensure!(paths >= 2, "{paths} paths; {:?}", ours.advertised("tor"));
        Ok(())
    })
    .unwrap();
    assert_eq!(ours.status("tor").flaps, 0);
    ours
}

/// Of the lines or objects of a text, those that say that a path came by us.
fn count(text: &str, mark: &str) -> usize {
    text.matches(mark).count()
}

#[test]
fn frr_sends_us_all_paths_and_takes_all_of_ours() {
    require_root!();
    let (tor, node) = link("pf");
    let routers = " neighbor 10.0.0.3 remote-as 65003\n neighbor 10.0.0.4 remote-as 65004";
    let v4 = "  neighbor 10.0.0.3 activate\n  neighbor 10.0.0.4 activate\n  neighbor 10.0.0.2 addpath-tx-all-paths";
    let frr = Frr::start(&tor, &frr_config(routers, v4)).unwrap();
    both_hear_of_both(&node, || {
        let text = frr.vtysh(&[&format!("show bgp ipv4 unicast {SHARED}")])?;
        Ok(count(&text, "\n  4200000001 6500"))
    });
}

#[test]
fn bird_sends_us_all_paths_and_takes_all_of_ours() {
    require_root!();
    let (tor, node) = link("pb");
    let mut config = bird_config("", "add paths on;");
    for host in [3, 4] {
        config += &format!(
            "protocol bgp source{host} {{ local {THEIR_V4} as 65000; neighbor 10.0.0.{host} as 6500{host}; connect delay time 1; ipv4 {{ import all; export none; }}; }}\n"
        );
    }
    let bird = Bird::start(&tor, &config).unwrap();
    both_hear_of_both(&node, || {
        let text = bird.birdc(&format!("show route all protocol node {SHARED}"))?;
        Ok(count(&text, "BGP.as_path: 4200000001 6500"))
    });
}

#[test]
fn gobgp_sends_us_all_paths_and_takes_all_of_ours() {
    require_root!();
    let (tor, node) = link("pg");
    let add_paths =
        "    [neighbors.afi-safis.add-paths.config]\n      receive = true\n      send-max = 8\n";
    let mut config = gobgp_config("", add_paths);
    for host in [3, 4] {
        config += &format!(
            "[[neighbors]]\n  [neighbors.config]\n    neighbor-address = \"10.0.0.{host}\"\n    peer-as = 6500{host}\n"
        );
    }
    let gobgp: GoBgp = gobgp(&tor, &config);
    both_hear_of_both(&node, || {
        let text = gobgp.gobgp(&["-j", "neighbor", "10.0.0.2", "adj-in"])?;
        let shown: serde_json::Value = serde_json::from_str(&text)?;
        let paths = shown.get(SHARED).and_then(|paths| paths.as_array());
        Ok(paths.map_or(0, Vec::len))
    });
}

#[test]
fn openbgpd_sends_us_all_paths_and_takes_all_of_ours() {
    require_root!();
    let (tor, node) = link("po");
    let mut config = openbgpd_config(
        "announce add-path recv yes\n  announce add-path send all",
        "",
    );
    let sources: String = [3, 4]
        .iter()
        .map(|host| format!("neighbor 10.0.0.{host} {{\n  remote-as 6500{host}\n  local-address {THEIR_V4}\n}}\n"))
        .collect();
    config = config.replace("allow from any", &format!("{sources}allow from any"));
    let openbgpd = OpenBgpd::start(&tor, &config).unwrap();
    both_hear_of_both(&node, || {
        let text = openbgpd.bgpctl(&["show", "rib", "in", "neighbor", "10.0.0.2"])?;
        Ok(count(&text, SHARED))
    });
}
