//! A peer that stops reading (zero window): everybody else is served as if it were not there.

use std::time::Duration;

use bgp_proto::session::State;
use bgp_proto::wire::Asn;
use tests::bird::Bird;
use tests::require_root;
use tests::wait::eventually;

use anyhow::ensure;

use crate::lab::*;
use crate::node::{Node, node, peer};
use crate::raw::Raw;

/// Far more than the sockets of the stuck peer can hold.
const PREFIXES: usize = 30_000;

fn table(first_octet: u8) -> Vec<String> {
    (0..PREFIXES)
        .map(|n| format!("{first_octet}.{}.{}.0/24", n >> 8, n & 255))
        .collect()
}

#[test]
fn a_peer_that_stops_reading_delays_nobody_and_bird_gets_every_change() {
    require_root!();
    let (tor, netns) = link("zw");
    let bird = Bird::start(&tor, &bird_config("", "")).unwrap();
    netns.ip("addr add 10.0.0.3/24 dev veth0").unwrap();
    let with = |prefixes: &[String]| {
        let all: Vec<&str> = prefixes.iter().map(String::as_str).collect();
        let mut config = node(&all, |_| {});
        let mut stuck = peer("10.0.0.3".parse().unwrap(), Asn(65_003));
        stuck.session.passive = true;
        config.peers.insert("stuck".to_owned(), stuck);
        config
    };
    let ours = Node::start(&netns, with(&[]));
    ours.establishes("tor");
    let _stuck = Raw::connect(&netns, "10.0.0.3", 65_003);
    ours.establishes("stuck");
    // Three whole tables, one after the other, that the stuck peer never reads.
    for first in [11, 12, 13] {
        ours.configure(with(&table(first)));
        eventually(Duration::from_secs(30), "BIRD to have the table", || {
            let text = bird.birdc("show route count table master4")?;
            let expected = format!("{} of {} routes", PREFIXES + 1, PREFIXES + 1);
            ensure!(text.contains(&expected), "{text}");
            let one = bird.birdc(&format!("show route {first}.0.7.0/24"))?;
            ensure!(one.contains("node"), "{one}");
            Ok(())
        })
        .unwrap();
        assert_eq!(ours.status("stuck").state, State::Established);
    }
    let status = ours.status("tor");
    assert_eq!(
        (status.flaps, status.counts.sent),
        (0, PREFIXES),
        "{status:?}"
    );
    assert_eq!(
        ours.status("stuck").flaps,
        0,
        "the send-hold timer is minutes away"
    );
    // Not one hold time of BIRD's session was missed meanwhile.
    assert!(bird.is_up("node").unwrap());
}
