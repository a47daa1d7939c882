//! Chains against an evaluator that is too simple to be wrong.

use proptest::prelude::*;

use super::*;

/// A net of a small world, so that conditions and routes meet; host bits now and then.
fn any_net() -> impl Strategy<Value = IpNet> {
    let v4 = (0_u32..8, 0_u8..=32)
        .prop_map(|(bits, len)| IpNet::V4(ipnet::Ipv4Net::new((bits << 29).into(), len).unwrap()));
    let v6 = (0_u128..8, 0_u8..=128)
        .prop_map(|(bits, len)| IpNet::V6(ipnet::Ipv6Net::new((bits << 125).into(), len).unwrap()));
    prop_oneof![v4, v6]
}

fn any_community() -> impl Strategy<Value = Community> {
    prop_oneof![
        (0_u32..4).prop_map(Community::Standard),
        (0_u32..4).prop_map(|global| Community::Large(LargeCommunity {
            global,
            local1: 0,
            local2: 0
        })),
    ]
}

fn any_match() -> impl Strategy<Value = Match> {
    use PrefixOperator::{Equal, In, NotEqual, NotIn};
    let operator = prop::sample::select(vec![Equal, NotEqual, In, NotIn]);
    let length = prop::option::of((0_u8..=40, 0_u8..=130).prop_map(|(min, max)| min..=max));
    let prefixes = (any_net(), operator, length).prop_map(|(net, operator, length)| PrefixMatch {
        net,
        operator,
        length,
    });
    let families = vec![Family::IPV4_UNICAST, Family::IPV6_UNICAST];
    (
        prop::option::of(prop::sample::select(families)),
        prop::option::of(prefixes),
        prop::option::of(prop::collection::vec((1_u32..4).prop_map(Asn), 0..3)),
        prop::collection::vec(any_community(), 0..2),
        prop::option::of(any::<bool>()),
        prop::option::of(any::<bool>()),
    )
        .prop_map(
            |(family, prefixes, path, communities, own, outside)| Match {
                family,
                prefixes,
                as_path_prefix: path,
                communities,
                source: own.map(|own| {
                    if own {
                        Source::Originated
                    } else {
                        Source::Learned
                    }
                }),
                peer_type: outside.map(|outside| {
                    if outside {
                        PeerType::External
                    } else {
                        PeerType::Internal
                    }
                }),
            },
        )
}

fn any_action() -> impl Strategy<Value = Action> {
    let operation = prop_oneof![
        any::<u32>().prop_map(Operation::SetLocalPref),
        any::<u32>().prop_map(Operation::SetMed),
        (prop::option::of((1_u32..4).prop_map(Asn)), any::<u8>())
            .prop_map(|(asn, times)| Operation::PrependAs { asn, times }),
        any_community().prop_map(Operation::AddCommunity),
        any_community().prop_map(Operation::RemoveCommunity),
    ];
    prop_oneof![
        Just(Action::Reject),
        prop::collection::vec(operation, 0..4).prop_map(Action::Accept)
    ]
}

prop_compose! {
    fn any_attributes()(
        kinds in prop::collection::vec((0_usize..3, prop::collection::vec(1_u32..4, 1..4)), 0..3),
        communities in prop::collection::vec(any_community(), 0..4),
    ) -> PathAttributes {
        let mut out = attributes(&[]);
        let kind = [SegmentKind::Sequence, SegmentKind::Set, SegmentKind::ConfedSequence];
        out.as_path = kinds.iter().map(|(place, asns)| segment(kind[*place], asns)).collect();
        for community in communities {
            match community {
                Community::Standard(one) => out.communities.push(one),
                Community::Large(one) => out.large_communities.push(one),
            }
        }
        out
    }
}

/// The first and the last address of a net, as numbers, and its family.
fn bounds(net: &IpNet) -> (bool, u128, u128) {
    match net {
        IpNet::V4(net) => {
            let first = u32::from(net.network());
            (true, first.into(), u32::from(net.broadcast()).into())
        }
        IpNet::V6(net) => (
            false,
            u128::from(net.network()),
            u128::from(net.broadcast()),
        ),
    }
}

/// Says in the plainest way whether a rule is about a route.
fn naive_match(matches: &Match, subject: &Subject<'_>) -> bool {
    let mut holds = Vec::new();
    let (v4, first, last) = bounds(&subject.prefix);
    if let Some(family) = matches.family {
        holds.push((family.afi == 1) == v4);
    }
    if let Some(wanted) = &matches.prefixes {
        let (wanted_v4, wanted_first, wanted_last) = bounds(&wanted.net);
        let len = subject.prefix.prefix_len();
        let equal = (first, last) == (wanted_first, wanted_last);
        let inside = first >= wanted_first
            && last <= wanted_last
            && wanted
                .length
                .clone()
                .is_none_or(|range| *range.start() <= len && len <= *range.end());
        holds.push(wanted_v4 == v4);
        holds.push(match wanted.operator {
            PrefixOperator::Equal => equal,
            PrefixOperator::NotEqual => !equal,
            PrefixOperator::In => inside,
            PrefixOperator::NotIn => !inside,
        });
    }
    if let Some(wanted) = &matches.as_path_prefix {
        let mut leading: Vec<Asn> = Vec::new();
        let mut left_confederation = false;
        for segment in &subject.attributes.as_path {
            match segment.kind {
                SegmentKind::Sequence => leading.extend(&segment.asns),
                SegmentKind::Set => break,
                _ if left_confederation => break,
                _ => continue,
            }
            left_confederation = true;
        }
        holds.push(leading.len() >= wanted.len() && leading[..wanted.len()] == wanted[..]);
    }
    for community in &matches.communities {
        holds.push(match community {
            Community::Standard(one) => subject.attributes.communities.contains(one),
            Community::Large(one) => subject.attributes.large_communities.contains(one),
        });
    }
    match matches.source {
        Some(Source::Originated) => holds.push(subject.originated),
        Some(Source::Learned) => holds.push(!subject.originated),
        None => {}
    }
    match matches.peer_type {
        Some(PeerType::External) => holds.push(subject.peer_external),
        Some(PeerType::Internal) => holds.push(!subject.peer_external),
        None => {}
    }
    !holds.contains(&false)
}

/// The numbers that a path is made of, and all else that operations change.
fn naive_change(operations: &[Operation], before: &PathAttributes) -> (Vec<Asn>, PathAttributes) {
    let public = |segment: &&AsPathSegment| segment.kind != SegmentKind::ConfedSequence;
    let segments = before.as_path.iter().filter(public);
    let mut path: Vec<Asn> = segments.flat_map(|one| one.asns.clone()).collect();
    let mut out = before.clone();
    for operation in operations {
        match *operation {
            Operation::SetLocalPref(value) => out.local_pref = Some(value),
            Operation::SetMed(value) => out.med = Some(value),
            Operation::PrependAs { asn, times } => {
                for _ in 0..times {
                    path.insert(0, asn.unwrap_or(OWN));
                }
            }
            Operation::AddCommunity(Community::Standard(one)) => {
                if !out.communities.contains(&one) {
                    out.communities.push(one);
                }
            }
            Operation::AddCommunity(Community::Large(one)) => {
                if !out.large_communities.contains(&one) {
                    out.large_communities.push(one);
                }
            }
            Operation::RemoveCommunity(Community::Standard(one)) => {
                out.communities.retain(|other| *other != one);
            }
            Operation::RemoveCommunity(Community::Large(one)) => {
                out.large_communities.retain(|other| *other != one);
            }
        }
    }
    (path, out)
}

proptest! {
    #[test]
    fn a_chain_decides_as_the_naive_evaluator(
        filters in prop::collection::vec(
            prop::collection::vec((any_match(), any_action()), 0..4), 0..4),
        prefix in any_net(),
        attributes in any_attributes(),
        originated in any::<bool>(),
        peer_external in any::<bool>(),
    ) {
        let subject = Subject {
            prefix: prefix.trunc(), attributes: &attributes, originated, peer_external, own_as: OWN,
        };
        let rules = |filter: &Vec<(Match, Action)>| -> Vec<Rule> {
            let rule = |(matches, action): &(Match, Action)| Rule {
                matches: matches.clone(),
                action: action.clone(),
            };
            filter.iter().map(rule).collect()
        };
        let named = filters.iter().enumerate();
        let chain = FilterChain::new(named.map(|(place, one)| (place.to_string(), rules(one))));
        let mut expected = None;
        for (place, filter) in filters.iter().enumerate() {
            for (number, (matches, action)) in filter.iter().enumerate() {
                if expected.is_none() && naive_match(matches, &subject) {
                    expected = Some((format!("filter {place} rule {}", number + 1), action));
                }
            }
        }
        let outcome = chain.judge(&subject);
        let name = outcome.rule.map(|place| chain.name_of(place).to_owned());
        prop_assert_eq!(&name, &expected.as_ref().map(|(name, _)| name.clone()));
        match (expected.map(|(_, action)| action), outcome.verdict) {
            (None, Verdict::NoMatch) | (Some(Action::Reject), Verdict::Reject) => {}
            (Some(Action::Accept(operations)), Verdict::Accept(after)) => {
                let (path, mut out) = naive_change(operations, &attributes);
                let (after_path, _) = naive_change(&[], &after);
                prop_assert_eq!(path, after_path);
                prop_assert!(after.as_path.iter().all(|one| one.asns.len() <= 255));
                out.as_path.clone_from(&after.as_path);
                prop_assert_eq!(out, after.into_owned());
            }
            (expected, verdict) => prop_assert!(false, "{expected:?} {verdict:?}"),
        }
    }
}
