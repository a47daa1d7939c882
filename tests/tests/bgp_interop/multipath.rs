//! Two routers with the same prefix: both next hops, weights by link bandwidth, and one when the other is gone.

use bgp_proto::rib::Multipath;
use bgp_proto::wire::Asn;
use tests::bird::Bird;
use tests::frr::Frr;
use tests::require_root;

use crate::lab::*;
use crate::node::{Node, node, peer};

/// The node between 10.0.0.1 in AS 65000 and 10.0.1.1 in AS 65001.
fn between(multipath: Multipath) -> bgp_speaker::Config {
    let mut config = node(&[OURS], |tor| tor.session.graceful_restart = None);
    let mut second = peer("10.0.1.1".parse().unwrap(), Asn(65_001));
    second.socket.source = Some("10.0.1.2".parse().unwrap());
    second.session.graceful_restart = None;
    config.peers.insert("second".to_owned(), second);
    config.listen = vec![(std::net::Ipv4Addr::UNSPECIFIED, 179).into()];
    config.speaker.multipath = multipath;
    config
}

const RELAXED: Multipath = Multipath {
    max_paths: 4,
    as_path_relax: true,
    link_bandwidth: true,
};

fn of_second(config: String) -> String {
    config
        .replace("10.0.0.", "10.0.1.")
        .replace("65000", "65001")
}

#[test]
fn frr_and_bird_are_both_next_hops_until_one_goes() {
    require_root!();
    let (tor, other, netns) = fork("eb");
    let frr = Frr::start(&tor, &frr_config("", "")).unwrap();
    let mut bird = Bird::start(&other, &of_second(bird_config("", ""))).unwrap();
    let ours = Node::start(&netns, between(RELAXED));
    let hops = ours.learns(THEIRS, &["10.0.0.1", "10.0.1.1"]);
    assert_eq!(hops[0].weight, hops[1].weight);
    let routes = ours.routes();
    let route = routes
        .iter()
        .find(|route| route.prefix.to_string() == THEIRS);
    let paths = &route.unwrap().paths;
    assert_eq!(
        (
            paths.len(),
            paths
                .iter()
                .filter(|path| path.best || path.multipath)
                .count()
        ),
        (2, 2)
    );
    frr.has(&[OURS]);
    bird.has(&[OURS]);
    bird.kill().unwrap();
    ours.learns(THEIRS, &["10.0.0.1"]);
    assert_eq!(
        ours.heard().withdrawals,
        0,
        "the prefix was never without a next hop"
    );
    let strict = Multipath {
        as_path_relax: false,
        ..RELAXED
    };
    ours.configure(between(strict));
    let _bird = Bird::start(&other, &of_second(bird_config("", ""))).unwrap();
    ours.establishes("second");
    ours.hears("second", THEIRS, |_| true);
    assert_eq!(
        ours.learns(THEIRS, &["10.0.0.1"]).len(),
        1,
        "another AS without relax"
    );
    ours.configure(between(RELAXED));
    ours.learns(THEIRS, &["10.0.0.1", "10.0.1.1"]);
}

#[test]
fn the_link_bandwidth_of_two_frrs_weights_their_next_hops() {
    require_root!();
    let (tor, other, netns) = fork("ew");
    let start = |netns, megabytes: u32, second: bool| {
        let map =
            format!("route-map BW permit 10\n set extcommunity bandwidth {megabytes}\nexit\n");
        let config = format!(
            "{map}{}",
            frr_config("", "  neighbor 10.0.0.2 route-map BW out")
        );
        let config = if second { of_second(config) } else { config };
        Frr::start(netns, &config).unwrap()
    };
    let _first = start(&tor, 1_000, false);
    let _second = start(&other, 3_000, true);
    let ours = Node::start(&netns, between(RELAXED));
    let heard = ours.hears("tor", THEIRS, |_| true);
    assert_eq!(heard.extended_communities.len(), 1, "{heard:?}");
    let hops = ours.learns(THEIRS, &["10.0.0.1", "10.0.1.1"]);
    assert_eq!((hops[0].weight, hops[1].weight), (1, 3), "{hops:?}");
}
