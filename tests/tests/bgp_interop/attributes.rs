//! Attributes through us as transit: communities of three kinds, and one nobody here knows, unchanged.

use bgp_proto::wire::LargeCommunity;
use tests::bird::Bird;
use tests::frr::Frr;
use tests::require_root;

use crate::lab::*;
use crate::node::{Node, node, peer};
use crate::raw::Raw;

const FRR_COMMUNITIES: &str = "
route-map MARK permit 10
 set community 65000:77 65000:78
 set extcommunity rt 65000:88
 set large-community 65000:1:2
exit
";

const BIRD_COMMUNITIES: &str = "
filter mark {
  bgp_community.add((65001,77));
  bgp_ext_community.add((rt,65001,88));
  bgp_large_community.add((65001,1,2));
  accept;
}
";

/// FRR at 10.0.0.1 in AS 65000, BIRD at 10.0.1.1 in AS 65001, and we between them pass everything on.
#[test]
fn communities_of_three_kinds_pass_through_us_from_frr_to_bird_and_back() {
    require_root!();
    let (tor, other, netns) = fork("at");
    let mark = format!("  neighbor {OUR_V4} route-map MARK out");
    let config = format!("{FRR_COMMUNITIES}{}", frr_config("", &mark));
    let frr = Frr::start(&tor, &config).unwrap();
    let config = bird_config("", "")
        .replace("10.0.0.", "10.0.1.")
        .replace("as 65000", "as 65001")
        .replace(THEIRS, "198.51.100.0/24")
        .replace(THEIRS6, "2001:db8:3::/64")
        .replace("export all;", "export filter mark;")
        .replace(
            "protocol device",
            &format!("{BIRD_COMMUNITIES}protocol device"),
        );
    let bird = Bird::start(&other, &config).unwrap();
    let mut config = node(&[OURS], |tor| tor.session.transit = true);
    let mut second = peer("10.0.1.1".parse().unwrap(), bgp_proto::wire::Asn(65_001));
    second.socket.source = Some("10.0.1.2".parse().unwrap());
    second.session.transit = true;
    config.listen = vec![(std::net::Ipv4Addr::UNSPECIFIED, 179).into()];
    config.peers.insert("bird".to_owned(), second);
    let node = Node::start(&netns, config);
    let large = |global| LargeCommunity {
        global,
        local1: 1,
        local2: 2,
    };
    let heard = node.hears("tor", THEIRS, |attributes| {
        attributes.communities == [(65_000 << 16) + 77, (65_000 << 16) + 78]
    });
    assert_eq!(heard.large_communities, [large(65_000)]);
    assert_eq!(heard.extended_communities, [0x0002_FDE8_0000_0058]);
    let heard = node.hears("bird", "198.51.100.0/24", |attributes| {
        attributes.communities == [(65_001 << 16) + 77]
    });
    assert_eq!(heard.large_communities, [large(65_001)]);
    assert_eq!(heard.extended_communities, [0x0002_FDE9_0000_0058]);
    shows(
        "BIRD",
        &[
            "BGP.as_path: 4200000001 65000",
            "BGP.community: (65000,77) (65000,78)",
            "BGP.ext_community: (rt, 65000, 88)",
            "BGP.large_community: (65000, 1, 2)",
        ],
        || bird.birdc(&format!("show route all {THEIRS}")),
    );
    shows(
        "FRR",
        &[
            "\"string\":\"4200000001 65001\"",
            "\"string\":\"65001:77\"",
            "\"string\":\"RT:65001:88\"",
            "\"string\":\"65001:1:2\"",
        ],
        || frr.vtysh(&["show bgp ipv4 unicast 198.51.100.0/24 json"]),
    );
}

#[test]
fn an_unknown_optional_transitive_attribute_reaches_bird_through_us_untouched() {
    require_root!();
    let (tor, netns) = link("au");
    let bird = Bird::start(&tor, &bird_config("", "")).unwrap();
    netns.ip("addr add 10.0.0.3/24 dev veth0").unwrap();
    let mut config = node(&[OURS], |tor| tor.session.transit = true);
    let mut source = peer("10.0.0.3".parse().unwrap(), bgp_proto::wire::Asn(65_003));
    source.session.passive = true;
    config.peers.insert("raw".to_owned(), source);
    let node = Node::start(&netns, config);
    node.establishes("tor");
    let mut raw = Raw::connect(&netns, "10.0.0.3", 65_003);
    raw.announce_with(
        "203.0.113.0/24",
        "10.0.0.3",
        &[0xC0, 99, 4, 0xDE, 0xAD, 0xBE, 0xEF],
    );
    let heard = node.hears("raw", "203.0.113.0/24", |_| true);
    assert_eq!(heard.unknown.len(), 1);
    assert_eq!(
        (heard.unknown[0].code, &heard.unknown[0].value[..]),
        (99, &[0xDE, 0xAD, 0xBE, 0xEF][..])
    );
    let shown = shows("BIRD", &["BGP.63", "de ad be ef"], || {
        bird.birdc("show route all 203.0.113.0/24")
    });
    assert!(shown.contains("BGP.as_path: 4200000001 65003"), "{shown}");
    let sent = node.advertised("tor");
    let sent = sent
        .iter()
        .find(|(nlri, _)| nlri.prefix.to_string() == "203.0.113.0/24");
    assert_eq!(
        sent.unwrap().1.unknown[0].flags & 0xF0,
        0xE0,
        "with the Partial bit"
    );
}
