//! A hundred peers of one range: we hold it for 99 speakers and a real BIRD, FRR holds it for a hundred of ours.

use std::net::Ipv4Addr;

use anyhow::ensure;
use bgp_proto::session::{PeerAs, State};
use bgp_speaker::{Config, Peer, Target};
use tests::bird::Bird;
use tests::frr::Frr;
use tests::netns::Netns;
use tests::require_root;
use tests::wait::eventually;

use crate::lab::*;
use crate::node::{Node, speaker};

/// Peers of the range; one of them is BIRD.
const PEERS: usize = 100;

/// Speaker `n` of the crowd, at 10.0.0.`10 + n`, which dials `to` and originates 10.50.`n`.0/24.
fn one_of_many(netns: &Netns, n: usize, asn: u32, to: (Ipv4Addr, PeerAs)) -> Node {
    let address = Ipv4Addr::new(10, 0, 0, u8::try_from(10 + n).unwrap());
    netns
        .ip(&format!("addr add {address}/24 dev veth0"))
        .unwrap();
    let mut config = Config::new(bgp_proto::wire::Asn(asn), address);
    let prefix = format!("10.50.{n}.0/24");
    config
        .originate
        .insert(prefix.parse().unwrap(), Default::default());
    let mut peer = Peer::at((to.0, 179).into(), to.1, Some(address.into()));
    peer.session.hold_time = std::time::Duration::from_secs(30);
    config.peers.insert("holder".to_owned(), peer);
    Node::start(netns, config)
}

#[test]
fn a_hundred_peers_of_a_range_of_ours_are_served_and_the_next_one_is_refused() {
    require_root!();
    let (tor, netns) = link("dy");
    let bird = Bird::start(&tor, &bird_config("", "")).unwrap();
    let mut config = speaker(&[OURS]);
    let mut range = Peer::at((OUR_V4, 179).into(), PeerAs::Number(THEIR_AS), None);
    range.target = Target::Range {
        range: "10.0.0.0/24".parse().unwrap(),
        limit: PEERS,
    };
    range.session.transit = true;
    config.peers.insert("range".to_owned(), range);
    let holder = Node::start(&netns, config);
    holder.establishes_range("range/10.0.0.1");
    let to = (OUR_V4, PeerAs::Number(OUR_AS));
    let crowd: Vec<Node> = (0..PEERS - 1)
        .map(|n| one_of_many(&tor, n, THEIR_AS.0, to))
        .collect();
    eventually(DEADLINE, "a hundred sessions", || {
        let all = holder.all();
        let up = all
            .iter()
            .filter(|status| status.state == State::Established)
            .count();
        ensure!(up == PEERS, "{up} of {}", all.len());
        Ok(())
    })
    .unwrap();
    eventually(DEADLINE, "everyone's prefix", || {
        let routes = holder.heard().routes.len();
        // BIRD has one of IPv4 and one of IPv6.
        ensure!(routes == PEERS - 1 + 2, "{routes} routes");
        Ok(())
    })
    .unwrap();
    bird.has(&[OURS]);
    for (n, one) in crowd.iter().enumerate() {
        assert_eq!(one.establishes("holder").counts.accepted, 1, "speaker {n}");
    }
    let late = one_of_many(&tor, PEERS, THEIR_AS.0, to);
    let refused = late.until("holder", "the hundred and first to be refused", |status| {
        status.last_down.is_some()
    });
    assert_ne!(refused.state, State::Established);
    assert_eq!(holder.all().len(), PEERS);
    // A place is free again when somebody goes.
    crowd
        .into_iter()
        .next()
        .unwrap()
        .shut_down(bgp_speaker::Shutdown::Cease("gone".to_owned()));
    late.establishes("holder");
}

#[test]
fn frr_serves_a_hundred_of_us_by_a_range_of_its_own() {
    require_root!();
    let (tor, netns) = link("dz");
    let asn = OUR_AS.0;
    let range = format!(
        " neighbor MANY peer-group\n neighbor MANY remote-as {asn}\n bgp listen limit 200\n bgp listen range 10.0.0.0/24 peer-group MANY"
    );
    let frr = Frr::start(&tor, &frr_config(&range, "  neighbor MANY activate")).unwrap();
    let to = (THEIR_V4, PeerAs::Number(THEIR_AS));
    let crowd: Vec<Node> = (0..PEERS)
        .map(|n| one_of_many(&netns, n, asn, to))
        .collect();
    for one in &crowd {
        one.establishes("holder");
        one.learns(THEIRS, &["10.0.0.1"]);
    }
    eventually(DEADLINE, "FRR to have them all", || {
        let summary = frr.json("show bgp ipv4 unicast summary json")?;
        let peers = summary
            .get("dynamicPeers")
            .and_then(serde_json::Value::as_u64);
        let routes = frr.bgp_routes()?;
        let theirs = routes
            .iter()
            .filter(|(prefix, _)| prefix.starts_with("10.50."))
            .count();
        ensure!(
            peers == Some(PEERS as u64) && theirs == PEERS,
            "{peers:?} peers, {theirs} routes"
        );
        Ok(())
    })
    .unwrap();
    assert!(crowd.iter().all(|one| one.status("holder").flaps == 0));
}
