//! Filters of ours and route-maps of FRR, changed under a running session: the right routes after, and no reset.

use bgp_proto::filter::{
    Action, Community, FilterChain, Match, Operation, PrefixMatch, PrefixOperator, Rule,
};
use bgp_proto::rib::Verdict;
use tests::bird::Bird;
use tests::frr::Frr;
use tests::require_root;

use crate::lab::*;
use crate::node::{Node, node};

const OTHER: &str = "10.244.2.0/24";

fn rule(prefix: &str, action: Action) -> Rule {
    Rule {
        matches: Match {
            prefixes: Some(PrefixMatch {
                net: prefix.parse().unwrap(),
                operator: PrefixOperator::Equal,
                length: None,
            }),
            ..Match::default()
        },
        action,
    }
}

fn chain(rules: Vec<Rule>) -> FilterChain {
    FilterChain::new([("scenario", rules)])
}

#[test]
fn our_filters_change_what_bird_has_and_what_we_take_without_a_reset() {
    require_root!();
    let (tor, netns) = link("fb");
    let bird = Bird::start(&tor, &bird_config("", "")).unwrap();
    let with = |import: Vec<Rule>, export: Vec<Rule>| {
        node(&[OURS, OTHER], |tor| {
            tor.session.import = chain(import);
            tor.session.export = chain(export);
        })
    };
    let ours = Node::start(&netns, with(Vec::new(), Vec::new()));
    bird.has(&[OURS, OTHER]);
    ours.learns(THEIRS, &["10.0.0.1"]);
    // One goes, the other comes with more.
    let marked = Action::Accept(vec![
        Operation::AddCommunity(Community::Standard((65_000 << 16) + 9)),
        Operation::SetMed(77),
        Operation::PrependAs {
            asn: None,
            times: 2,
        },
    ]);
    ours.configure(with(
        vec![rule(THEIRS, Action::Reject)],
        vec![rule(OTHER, Action::Reject), rule(OURS, marked)],
    ));
    bird.has(&[OURS]);
    shows(
        "BIRD",
        &[
            "BGP.as_path: 4200000001 4200000001 4200000001\n",
            "BGP.community: (65000,9)",
            "BGP.med: 77",
        ],
        || bird.birdc(&format!("show route all {OURS}")),
    );
    ours.loses(THEIRS);
    let received = ours.received("tor");
    let theirs = received
        .iter()
        .find(|(nlri, ..)| nlri.prefix.to_string() == THEIRS);
    assert_eq!(theirs.unwrap().2, Verdict::Filtered, "kept, not used");
    // And back.
    ours.configure(with(Vec::new(), Vec::new()));
    bird.has(&[OURS, OTHER]);
    ours.learns(THEIRS, &["10.0.0.1"]);
    shows("BIRD", &["plain"], || {
        let text = bird.birdc(&format!("show route all {OURS}"))?;
        let plain = text.contains("BGP.as_path: 4200000001\n") && !text.contains("BGP.med");
        Ok(if plain { "plain".to_owned() } else { text })
    });
    assert_eq!(ours.status("tor").flaps, 0);
}

#[test]
fn route_maps_of_frr_change_both_tables_without_a_reset() {
    require_root!();
    let (tor, netns) = link("ff");
    let maps = format!(
        "ip prefix-list ONE seq 5 permit {OTHER}\nroute-map IN permit 10\nexit\nroute-map OUT permit 10\nexit\n"
    );
    let v4 = "  neighbor 10.0.0.2 route-map IN in\n  neighbor 10.0.0.2 route-map OUT out\n  neighbor 10.0.0.2 soft-reconfiguration inbound";
    let frr = Frr::start(&tor, &format!("{maps}{}", frr_config("", v4))).unwrap();
    let ours = Node::start(&netns, node(&[OURS, OTHER], |_| {}));
    frr.has(&[OURS, OTHER]);
    let heard = ours.hears("tor", THEIRS, |_| true);
    assert_eq!(heard.med, Some(0));
    frr.vtysh(&[
        "configure terminal",
        "route-map IN deny 5",
        "match ip address prefix-list ONE",
        "exit",
        "route-map OUT permit 10",
        "set metric 50",
        "set community 65000:50",
    ])
    .unwrap();
    let heard = ours.hears("tor", THEIRS, |attributes| attributes.med == Some(50));
    assert_eq!(heard.communities, [(65_000 << 16) + 50]);
    shows("FRR", &["only one"], || {
        let text = frr.vtysh(&["show bgp ipv4 unicast"])?;
        let one = text.contains(OURS) && !text.contains(OTHER);
        Ok(if one { "only one".to_owned() } else { text })
    });
    frr.vtysh(&[
        "configure terminal",
        "no route-map IN deny 5",
        "route-map OUT deny 10",
    ])
    .unwrap();
    ours.loses(THEIRS);
    shows("FRR", &[OURS, OTHER], || {
        frr.vtysh(&["show bgp ipv4 unicast"])
    });
    frr.vtysh(&["configure terminal", "route-map OUT permit 10"])
        .unwrap();
    ours.learns(THEIRS, &["10.0.0.1"]);
    assert_eq!(ours.status("tor").flaps, 0);
}
