//! We as route reflector (RFC 4456) between FRR and BIRD: what each client sees of the other, and loops refused.

use bgp_proto::rib::Verdict;
use tests::bird::Bird;
use tests::frr::Frr;
use tests::require_root;

use crate::lab::*;
use crate::node::{Node, node, peer};

const BIRDS: &str = "198.51.100.0/24";

#[test]
fn frr_and_bird_see_each_others_routes_through_us_with_originator_and_cluster() {
    require_root!();
    let (tor, other, netns) = fork("rr");
    let internal = |text: String| text.replace(&OUR_AS.0.to_string(), "65000");
    let frr = Frr::start(&tor, &internal(frr_config("", ""))).unwrap();
    let config = internal(bird_config("", ""))
        .replace("10.0.0.", "10.0.1.")
        .replace(THEIRS, BIRDS)
        .replace(THEIRS6, "2001:db8:3::/64");
    let bird = Bird::start(&other, &config).unwrap();
    let mut config = node(&[], |tor| tor.session.route_reflector_client = true);
    config.speaker.asn = THEIR_AS;
    config.speaker.cluster_id = "9.9.9.9".parse().unwrap();
    config.listen = vec![(std::net::Ipv4Addr::UNSPECIFIED, 179).into()];
    let mut second = peer("10.0.1.1".parse().unwrap(), THEIR_AS);
    second.socket.source = Some("10.0.1.2".parse().unwrap());
    second.session.route_reflector_client = true;
    config.peers.insert("bird".to_owned(), second);
    let node = Node::start(&netns, config);
    node.establishes("tor");
    node.establishes("bird");
    node.learns(THEIRS, &["10.0.0.1"]);
    node.learns(BIRDS, &["10.0.1.1"]);
    shows(
        "FRR",
        &[
            "\"originatorId\":\"10.0.1.1\"",
            "\"list\":[\"9.9.9.9\"]",
            "\"ip\":\"10.0.1.1\"",
        ],
        || {
            let text = frr.vtysh(&[&format!("show bgp ipv4 unicast {BIRDS} json")])?;
            Ok(text.split_whitespace().collect())
        },
    );
    shows(
        "BIRD",
        &[
            "BGP.originator_id: 10.0.0.1",
            "BGP.cluster_list: 9.9.9.9",
            "BGP.next_hop: 10.0.0.1",
        ],
        || bird.birdc(&format!("show route all {THEIRS}")),
    );
    assert!(
        node.received("tor")
            .iter()
            .all(|(.., verdict)| *verdict == Verdict::Accepted)
    );
}

/// Two reflectors of one cluster: what the first reflects is refused by the second, and an FRR reflector between them
/// hands us back what has our cluster in it.
#[test]
fn what_comes_back_with_our_cluster_in_it_is_refused() {
    require_root!();
    let (tor, netns) = link("rl");
    netns.ip("addr add 10.0.0.3/24 dev veth0").unwrap();
    let clients = " neighbor 10.0.0.3 remote-as 65000\n neighbor 10.0.0.3 timers connect 1";
    let v4 = "  neighbor 10.0.0.3 activate\n  neighbor 10.0.0.3 route-reflector-client\n  neighbor 10.0.0.2 route-reflector-client";
    let config = frr_config(clients, v4).replace(&OUR_AS.0.to_string(), "65000");
    let frr = Frr::start(&tor, &config).unwrap();
    let reflector = |address: std::net::Ipv4Addr, originate: &[&str]| {
        let mut config = node(originate, |tor| tor.socket.source = Some(address.into()));
        config.speaker.asn = THEIR_AS;
        config.speaker.router_id = address;
        // FRR puts its BGP Identifier into CLUSTER_LIST, so this makes all three one cluster.
        config.speaker.cluster_id = "10.0.0.1".parse().unwrap();
        config.listen = vec![(address, 179).into()];
        Node::start(&netns, config)
    };
    let first = reflector(OUR_V4, &[OURS]);
    let second = reflector("10.0.0.3".parse().unwrap(), &[]);
    frr.has(&[OURS]);
    let heard = second.hears("tor", OURS, |_| true);
    assert_eq!(
        heard.cluster_list,
        ["10.0.0.1".parse::<std::net::Ipv4Addr>().unwrap()]
    );
    let received = second.received("tor");
    let verdict = received
        .iter()
        .find(|(nlri, ..)| nlri.prefix.to_string() == OURS);
    assert_eq!(verdict.unwrap().2, Verdict::ReflectionLoop);
    second.learns(THEIRS, &["10.0.0.1"]);
    assert!(!second.heard().routes.contains_key(&OURS.parse().unwrap()));
    assert_eq!(first.status("tor").flaps, 0);
}
