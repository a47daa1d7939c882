//! Each rule of the semantics by name; `naive` holds chains against an evaluator too simple to be wrong.

mod naive;

use std::cell::Cell;

use super::*;
use crate::wire::{AsPathSegment, LargeCommunity, SegmentKind};

const OWN: Asn = Asn(64512);

fn segment(kind: SegmentKind, asns: &[u32]) -> AsPathSegment {
    AsPathSegment {
        kind,
        asns: asns.iter().copied().map(Asn).collect(),
    }
}

fn attributes(path: &[u32]) -> PathAttributes {
    let mut attributes = PathAttributes::originated([10, 0, 0, 1].into());
    if !path.is_empty() {
        attributes.as_path = vec![segment(SegmentKind::Sequence, path)];
    }
    attributes
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn subject<'a>(prefix: &str, attributes: &'a PathAttributes) -> Subject<'a> {
    Subject {
        prefix: net(prefix),
        attributes,
        originated: false,
        peer_external: true,
        own_as: OWN,
    }
}

fn reject(matches: Match) -> Rule {
    Rule {
        matches,
        action: Action::Reject,
    }
}

fn accept(operations: &[Operation]) -> Rule {
    Rule {
        matches: Match::default(),
        action: Action::Accept(operations.to_vec()),
    }
}

fn chain(rules: Vec<Rule>) -> FilterChain {
    FilterChain::new([("f", rules)])
}

fn prefixes(text: &str, operator: PrefixOperator, length: Option<RangeInclusive<u8>>) -> Match {
    Match {
        prefixes: Some(PrefixMatch {
            net: net(text),
            operator,
            length,
        }),
        ..Match::default()
    }
}

fn rejects(matches: &Match, prefix: &str) -> bool {
    let attributes = attributes(&[1]);
    chain(vec![reject(matches.clone())])
        .judge(&subject(prefix, &attributes))
        .verdict
        == Verdict::Reject
}

#[test]
fn an_empty_chain_is_about_nothing() {
    let chain = FilterChain::default();
    assert!(chain.is_empty() && chain.needs_prefix_only());
    let attributes = attributes(&[]);
    let outcome = chain.judge(&subject("10.0.0.0/8", &attributes));
    assert_eq!((outcome.rule, outcome.verdict), (None, Verdict::NoMatch));
    assert_eq!(chain.name_of(0), "");
}

#[test]
fn an_empty_match_is_about_everything() {
    for prefix in ["0.0.0.0/0", "10.1.2.3/32", "::/0", "fd00::1/128"] {
        assert!(rejects(&Match::default(), prefix), "{prefix}");
    }
}

#[test]
fn the_first_rule_that_matches_decides_and_says_its_name() {
    let inside = prefixes("10.0.0.0/8", PrefixOperator::In, None);
    let chain = FilterChain::new([
        ("edge", vec![reject(inside), accept(&[])]),
        ("empty", Vec::new()),
        ("last", vec![reject(Match::default())]),
    ]);
    let attributes = attributes(&[1]);
    let inside = chain.judge(&subject("10.1.0.0/16", &attributes));
    assert_eq!((inside.rule, inside.verdict), (Some(0), Verdict::Reject));
    let outside = chain.judge(&subject("11.0.0.0/8", &attributes));
    assert_eq!(outside.rule, Some(1));
    assert!(matches!(
        outside.verdict,
        Verdict::Accept(Cow::Borrowed(same)) if same == &attributes
    ));
    assert_eq!(chain.name_of(1), "filter edge rule 2");
    assert_eq!(chain.name_of(2), "filter last rule 1");
    assert_eq!(chain.len(), 3);
}

#[test]
fn operators_and_lengths_mean_what_calico_says() {
    use PrefixOperator::{Equal, In, NotEqual, NotIn};
    for (operator, length, prefix, expected) in [
        (Equal, None, "10.0.0.0/8", true),
        (Equal, None, "10.0.0.0/9", false),
        (NotEqual, None, "10.0.0.0/8", false),
        (NotEqual, None, "10.0.0.0/9", true),
        (In, None, "10.0.0.0/8", true),
        (In, None, "10.255.0.1/32", true),
        (In, None, "0.0.0.0/0", false),
        (In, None, "11.0.0.0/8", false),
        (In, Some(16..=24), "10.0.0.0/8", false),
        (In, Some(16..=24), "10.1.0.0/16", true),
        (In, Some(16..=24), "10.1.1.0/24", true),
        (In, Some(16..=24), "10.1.1.0/25", false),
        (In, Some(0..=32), "0.0.0.0/0", false),
        (NotIn, None, "10.1.0.0/16", false),
        (NotIn, None, "0.0.0.0/0", true),
        (NotIn, Some(16..=24), "10.0.0.0/8", true),
        (NotIn, Some(16..=24), "10.1.0.0/16", false),
        // The other family meets no condition on a prefix.
        (In, None, "::/0", false),
        (NotIn, None, "fd00::/8", false),
        (NotEqual, None, "fd00::/8", false),
    ] {
        let rule = prefixes("10.7.7.7/8", operator, length.clone());
        assert_eq!(
            rejects(&rule, prefix),
            expected,
            "{prefix} {operator:?} 10.0.0.0/8 {length:?}"
        );
    }
}

#[test]
fn a_rule_of_one_family_never_matches_the_other() {
    let v4 = Match {
        family: Some(Family::IPV4_UNICAST),
        ..Match::default()
    };
    assert!(rejects(&v4, "10.0.0.0/8") && !rejects(&v4, "fd00::/8"));
    let v6 = Match {
        family: Some(Family::IPV6_UNICAST),
        ..Match::default()
    };
    assert!(!rejects(&v6, "10.0.0.0/8") && rejects(&v6, "fd00::/8"));
}

#[test]
fn a_path_begins_with_its_sequences_only() {
    use SegmentKind::{ConfedSequence, Sequence, Set};
    let cases: [(Vec<AsPathSegment>, &[u32], bool); 9] = [
        (vec![segment(Sequence, &[1, 2, 3])], &[1, 2], true),
        (vec![segment(Sequence, &[1, 2, 3])], &[2], false),
        (vec![segment(Sequence, &[1])], &[1, 2], false),
        (vec![], &[1], false),
        (vec![], &[], true),
        (
            vec![segment(Sequence, &[1]), segment(Sequence, &[2])],
            &[1, 2],
            true,
        ),
        (
            vec![segment(Sequence, &[1]), segment(Set, &[2])],
            &[1, 2],
            false,
        ),
        (vec![segment(Set, &[1])], &[1], false),
        (
            vec![segment(ConfedSequence, &[9]), segment(Sequence, &[1])],
            &[1],
            true,
        ),
    ];
    for (path, wanted, expected) in cases {
        let mut attributes = attributes(&[]);
        attributes.as_path = path.clone();
        let matches = Match {
            as_path_prefix: Some(wanted.iter().copied().map(Asn).collect()),
            ..Match::default()
        };
        let chain = chain(vec![reject(matches)]);
        let matched = chain.evaluate(&subject("10.0.0.0/8", &attributes));
        assert_eq!(matched.is_some(), expected, "{path:?} {wanted:?}");
    }
}

#[test]
fn every_community_of_a_rule_must_be_there_whatever_its_size() {
    let large = LargeCommunity {
        global: 65_000,
        local1: 1,
        local2: 2,
    };
    let wanted = vec![Community::Standard(0xFDE8_0001), Community::Large(large)];
    let chain = chain(vec![reject(Match {
        communities: wanted.clone(),
        ..Match::default()
    })]);
    let mut attributes = attributes(&[]);
    assert!(chain.evaluate(&subject("::/0", &attributes)).is_none());
    attributes.communities = vec![7, 0xFDE8_0001];
    assert!(chain.evaluate(&subject("::/0", &attributes)).is_none());
    attributes.large_communities = vec![large];
    assert!(chain.evaluate(&subject("::/0", &attributes)).is_some());
    let texts: Vec<String> = wanted.iter().map(ToString::to_string).collect();
    assert_eq!(texts, ["65000:1", "65000:1:2"]);
}

#[test]
fn source_and_peer_type_are_those_of_the_route_and_the_session() {
    let attributes = attributes(&[1]);
    for (originated, peer_external) in [(false, false), (false, true), (true, false), (true, true)]
    {
        let subject = Subject {
            originated,
            peer_external,
            ..subject("10.0.0.0/8", &attributes)
        };
        for (source, peer_type) in [
            (Source::Originated, PeerType::External),
            (Source::Learned, PeerType::Internal),
        ] {
            let by_source = Match {
                source: Some(source),
                ..Match::default()
            };
            let by_type = Match {
                peer_type: Some(peer_type),
                ..Match::default()
            };
            assert!(!chain(vec![reject(by_source.clone())]).needs_prefix_only());
            assert_eq!(
                chain(vec![reject(by_source)]).evaluate(&subject).is_some(),
                (source == Source::Originated) == originated
            );
            assert_eq!(
                chain(vec![reject(by_type)]).evaluate(&subject).is_some(),
                (peer_type == PeerType::External) == peer_external
            );
        }
    }
}

#[test]
fn attributes_are_not_asked_for_unless_a_condition_looks_at_them() {
    let asked = Cell::new(0);
    let attributes = attributes(&[1]);
    let with_community = Match {
        communities: vec![Community::Standard(1)],
        ..prefixes("192.0.2.0/24", PrefixOperator::In, None)
    };
    let plain = chain(vec![
        reject(prefixes("11.0.0.0/8", PrefixOperator::In, None)),
        accept(&[Operation::SetMed(1)]),
    ]);
    let rich = chain(vec![reject(with_community), accept(&[])]);
    assert!(!plain.needs_attributes() && rich.needs_attributes());
    let place = |chain: &FilterChain, prefix| {
        chain.first_match(&subject(prefix, &attributes).facts(), || {
            asked.set(asked.get() + 1);
            &attributes
        })
    };
    assert_eq!(place(&plain, "10.0.0.0/8"), Some(1));
    assert_eq!(place(&rich, "10.0.0.0/8"), Some(1));
    assert_eq!(asked.get(), 0);
    assert_eq!(place(&rich, "192.0.2.0/25"), Some(1));
    assert_eq!(asked.get(), 1);
}

#[test]
fn operations_apply_in_order() {
    let before = attributes(&[1]);
    let community = Community::Standard(5);
    let large = Community::Large(LargeCommunity {
        global: 1,
        local1: 2,
        local2: 3,
    });
    let chain = chain(vec![accept(&[
        Operation::SetLocalPref(200),
        Operation::SetMed(50),
        Operation::PrependAs {
            asn: None,
            times: 2,
        },
        Operation::PrependAs {
            asn: Some(Asn(7)),
            times: 1,
        },
        Operation::AddCommunity(community),
        Operation::AddCommunity(community),
        Operation::AddCommunity(large),
        Operation::RemoveCommunity(community),
    ])]);
    let Verdict::Accept(after) = chain.judge(&subject("10.0.0.0/8", &before)).verdict else {
        panic!()
    };
    assert_eq!((after.local_pref, after.med), (Some(200), Some(50)));
    assert_eq!(
        after.as_path,
        [segment(SegmentKind::Sequence, &[7, OWN.0, OWN.0, 1])]
    );
    assert!(after.communities.is_empty());
    assert_eq!(after.large_communities.len(), 1);
}

#[test]
fn prepending_never_overfills_a_segment_and_never_enters_a_set() {
    let full: Vec<u32> = (1..=254).collect();
    let mut before = attributes(&full);
    for expected in [
        vec![254, 255],
        vec![254, 255, 255],
        vec![254, 255, 255, 255],
    ] {
        let chain = chain(vec![accept(&[Operation::PrependAs {
            asn: Some(Asn(9)),
            times: 255,
        }])]);
        let outcome = chain.judge(&subject("10.0.0.0/8", &before)).verdict;
        let Verdict::Accept(after) = outcome else {
            panic!()
        };
        let lengths: Vec<usize> = after.as_path.iter().map(|one| one.asns.len()).collect();
        assert_eq!(lengths, expected);
        before = after.into_owned();
    }
    let mut set = attributes(&[]);
    set.as_path = vec![segment(SegmentKind::Set, &[1, 2])];
    let chain = chain(vec![accept(&[Operation::PrependAs {
        asn: None,
        times: 1,
    }])]);
    let Verdict::Accept(after) = chain.judge(&subject("10.0.0.0/8", &set)).verdict else {
        panic!()
    };
    assert_eq!(after.as_path[0], segment(SegmentKind::Sequence, &[OWN.0]));
    assert_eq!(after.as_path[1], set.as_path[0]);
}

#[test]
fn what_changes_nothing_borrows() {
    let mut before = attributes(&[1]);
    before.local_pref = Some(100);
    before.communities = vec![5];
    let chain = chain(vec![accept(&[
        Operation::SetLocalPref(100),
        Operation::AddCommunity(Community::Standard(5)),
        Operation::RemoveCommunity(Community::Standard(6)),
        Operation::PrependAs {
            asn: None,
            times: 0,
        },
    ])]);
    let outcome = chain.judge(&subject("10.0.0.0/8", &before));
    assert!(matches!(outcome.verdict, Verdict::Accept(Cow::Borrowed(_))));
}
