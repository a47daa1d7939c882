//! Peers from a range.

use std::time::Duration;

use super::lab::Lab;
use super::nodes::{config, peer, peer_name, pod_cidr};
use crate::speaker::{PeerEvent, RangeConfig};

const SOON: Duration = Duration::from_secs(30);

/// A hub that takes whoever dials from 10.0.0.0/16, and nodes that dial it.
fn hub(spokes: usize, limit: usize) -> Lab {
    let mut first = config(0, 65_000);
    let range = RangeConfig {
        range: "10.0.0.0/16".parse().unwrap(),
        limit,
        peer: peer(65_001),
    };
    first.ranges = [("range".to_owned(), range)].into();
    let spoke = |node| {
        let mut spoke = config(node, 65_001);
        spoke.peers = [(peer_name(0), peer(65_000))].into();
        spoke
    };
    let configs = std::iter::once(first).chain((1..=spokes).map(spoke));
    Lab::new(configs.collect(), 30)
}

#[test]
fn a_hundred_peers_come_from_a_range() {
    let mut lab = hub(100, 200);
    lab.run_until(SOON, "all spokes", |lab| {
        (1..=100)
            .all(|node| lab.is_up(node, 0) && lab.nodes[0].routes.contains_key(&pod_cidr(node)))
    });
}

#[test]
fn a_full_range_refuses_and_says_whom() {
    let mut lab = hub(3, 2);
    lab.run(SOON);
    let up = (1..=3).filter(|node| lab.is_up(*node, 0)).count();
    assert_eq!(up, 2);
    let full = |event: &PeerEvent| matches!(event, PeerEvent::RangeFull { .. });
    assert!(
        lab.nodes[0]
            .events
            .iter()
            .any(|(name, event)| name == "range" && full(event))
    );
}

#[test]
fn a_peer_from_a_range_is_forgotten_when_nothing_of_it_is_left() {
    let mut lab = hub(1, 1);
    lab.run_until(SOON, "the spoke", |lab| lab.is_up(1, 0));
    lab.kill(1);
    lab.run(Duration::from_secs(60));
    let held = |lab: &Lab| lab.nodes[0].speaker.as_ref().unwrap().status(lab.now).len();
    assert_eq!(held(&lab), 1, "its routes are stale, so it is still known");
    lab.run(Duration::from_secs(120));
    assert_eq!(held(&lab), 0);
    lab.boot(1, true);
    lab.run_until(SOON, "the spoke again", |lab| lab.is_up(1, 0));
}

#[test]
fn a_range_that_goes_takes_its_peers_with_it() {
    let mut lab = hub(3, 10);
    lab.run_until(SOON, "all spokes", |lab| {
        (1..=3).all(|node| lab.is_up(node, 0))
    });
    lab.configure(0, |config| config.ranges.clear());
    lab.run(Duration::from_secs(1));
    assert!((1..=3).all(|node| !lab.is_up(node, 0)));
    assert!(lab.nodes[0].routes.is_empty());
}
