//! Rules of every kind are text that reads back as the same rule, whatever words their names were made of.

use std::collections::BTreeSet;
use std::net::IpAddr;

use proptest::prelude::*;

use super::*;
use crate::names::Family;

/// Words from outside, as they reach a name's hash or an interface's check.
pub(crate) fn word() -> impl Strategy<Value = String> {
    let bad = [
        "\n-A FORWARD -j ACCEPT",
        "\nCOMMIT\n",
        "\"",
        "'",
        "\\",
        "\0",
        "../..",
        "\r",
        " -j ACCEPT",
        "$(id)",
    ];
    prop_oneof![
        prop::collection::vec(prop::sample::select(bad.to_vec()), 1..4)
            .prop_map(|words| words.concat()),
        any::<String>(),
        "[a-z0-9]{1,12}",
    ]
}

fn interface() -> impl Strategy<Value = InterfaceMatch> {
    let checked = word().prop_map(|word| {
        InterfaceName::new(&word).unwrap_or_else(|_| InterfaceName::new("ptl0123456789a").unwrap())
    });
    let ways = [
        InterfaceMatch::Exact,
        InterfaceMatch::Prefix,
        InterfaceMatch::NotPrefix,
    ];
    (checked, prop::sample::select(ways.to_vec())).prop_map(|(name, way)| way(name))
}

fn net() -> impl Strategy<Value = IpNet> {
    (any::<IpAddr>(), 0u8..=128).prop_map(|(address, length)| {
        let most = if address.is_ipv4() { 32 } else { 128 };
        IpNet::new(address, length.min(most)).unwrap()
    })
}

fn chain() -> impl Strategy<Value = ChainName> {
    prop_oneof![
        Just(ChainName::fixed("ACCEPT")),
        word().prop_map(|word| ChainName::of_service("KUBE-SEP-", &[&word])),
        word().prop_map(|word| ChainName::hashed("PI", &[word])),
    ]
}

fn set() -> impl Strategy<Value = Match> {
    let name = (
        word(),
        prop::sample::select(vec!["p", "n", "d", "m"]),
        any::<bool>(),
    );
    let direction = prop::sample::select(vec![
        SetDirection::Source,
        SetDirection::Destination,
        SetDirection::SourceAndIn,
        SetDirection::SourceAndOut,
        SetDirection::DestinationAndOut,
    ]);
    (name, direction, any::<bool>()).prop_map(|((word, prefix, v4), direction, negated)| {
        let family = if v4 { Family::V4 } else { Family::V6 };
        let name = SetName::hashed(family, prefix, &[word]);
        let direction = match direction {
            SetDirection::DestinationAndOut if name.is_of_ports() => {
                SetDirection::DestinationAndPort
            }
            other => other,
        };
        Match::Set {
            name,
            direction,
            negated,
        }
    })
}

fn ports() -> impl Strategy<Value = Vec<Match>> {
    let range = (any::<u16>(), any::<u16>(), any::<bool>())
        .prop_map(|(a, b, one)| PortRange::new(a, if one { a } else { b }));
    let protocol = prop::sample::select(vec![Protocol::Tcp, Protocol::Udp, Protocol::Sctp]);
    let ranges = prop::collection::vec(range, 0..7);
    (protocol, ranges, any::<Option<u16>>(), any::<bool>()).prop_map(
        |(protocol, ranges, source, not_syn)| {
            let mut matches = vec![Match::Protocol(protocol)];
            if !ranges.is_empty() {
                matches.push(Match::DestinationPorts(ranges));
            }
            matches.extend(source.map(Match::SourcePort));
            if not_syn && protocol == Protocol::Tcp {
                matches.push(Match::TcpNotSyn);
            }
            matches
        },
    )
}

fn protocol() -> impl Strategy<Value = Vec<Match>> {
    prop_oneof![
        Just(vec![]),
        prop::sample::select(Protocol::ALL.to_vec())
            .prop_map(|protocol| vec![Match::Protocol(protocol)]),
        any::<u8>()
            .prop_map(|number| vec![Match::Protocol(Protocol::Icmpv6), Match::Icmpv6Type(number)]),
        ports(),
    ]
}

fn family() -> impl Strategy<Value = Family> {
    prop::sample::select(Family::ALL.to_vec())
}

fn kind(condition: &Match) -> String {
    format!("{:?}", std::mem::discriminant(condition))
}

fn conditions() -> impl Strategy<Value = Vec<Match>> {
    let states = prop::collection::btree_set(prop::sample::select(CtState::ALL.to_vec()), 1..4);
    let once = prop_oneof![
        net().prop_map(Match::Source),
        net().prop_map(Match::Destination),
        interface().prop_map(Match::InInterface),
        interface().prop_map(Match::OutInterface),
        states.prop_map(Match::CtState),
        Just(Match::CtReply),
        Just(Match::SourceLocal),
        Just(Match::DestinationLocal),
        any::<u16>().prop_map(|rate| Match::Limit { rate }),
        (0u32..=1 << 31).prop_map(Match::Random),
        (2u32..2_000).prop_map(|packets| Match::one_of(packets).unwrap()),
        (chain(), family(), any::<Option<u32>>()).prop_map(|(list, family, seconds)| {
            Match::Recent {
                list,
                family,
                seconds,
            }
        }),
    ];
    let several = prop_oneof![
        set(),
        (any::<u32>(), any::<u32>(), any::<bool>()).prop_map(|(value, mask, negated)| {
            Match::Mark {
                value,
                mask,
                negated,
            }
        }),
    ];
    let lists = (
        protocol(),
        prop::collection::vec(once, 0..6),
        prop::collection::vec(several, 0..3),
    );
    lists.prop_map(|(mut matches, once, several)| {
        let mut seen = BTreeSet::new();
        matches.extend(
            once.into_iter()
                .filter(|condition| seen.insert(kind(condition))),
        );
        matches.extend(several);
        matches
    })
}

/// Any rule that iptables takes.
pub(crate) fn rule() -> impl Strategy<Value = Rule> {
    let action = prop_oneof![
        chain().prop_map(Action::Jump),
        chain().prop_map(Action::Goto),
        Just(Action::Return),
        Just(Action::Accept),
        Just(Action::Drop),
        (any::<u32>(), any::<u32>()).prop_map(|(value, mask)| Action::SetMark { value, mask }),
        (any::<u16>(), chain()).prop_map(|(group, prefix)| Action::Nflog { group, prefix }),
        any::<u16>().prop_map(|queue| Action::Nfqueue { queue }),
        (any::<IpAddr>(), any::<u16>()).prop_map(|(address, port)| Action::Dnat { address, port }),
        Just(Action::Masquerade),
        family().prop_map(Action::Reject),
    ];
    (conditions(), action, prop::option::of(word())).prop_map(|(matches, action, note)| {
        let rule = Rule::new(matches, action);
        match note {
            Some(note) => rule.noted(Note::new(&note)),
            None => rule,
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn a_rule_of_any_kind_reads_back_as_the_same_rule(rule in rule()) {
        let text = rule.render();
        prop_assert_eq!(Rule::parse(&text), Some(rule), "{}", text);
    }

    #[test]
    fn the_order_of_conditions_makes_no_difference(rule in rule(), by in 0usize..8) {
        // Conditions that may stand more than once keep the order they were given in.
        let kinds: BTreeSet<String> =
            rule.matches().iter().map(kind).collect();
        prop_assume!(kinds.len() == rule.matches().len());
        let mut turned = rule.matches().to_vec();
        let length = turned.len().max(1);
        turned.rotate_left(by % length);
        let turned = Rule::new(turned, rule.action().clone());
        let turned = rule.note().cloned().into_iter().fold(turned, Rule::noted);
        prop_assert_eq!(turned.render(), rule.render());
    }

    #[test]
    fn no_word_from_outside_reaches_a_rules_text(rule in rule()) {
        let text = rule.render();
        let plain = |c: char| c.is_ascii_alphanumeric() || " -_.:,/+![]>\"".contains(c);
        prop_assert!(text.chars().all(plain), "{:?}", text);
        prop_assert_eq!(text.matches('"').count(), 2, "{:?}", text);
        prop_assert!(!text.contains("../"), "{:?}", text);
    }

    #[test]
    fn nothing_that_is_read_panics(text in any::<String>()) {
        let _ = Rule::parse(&text);
    }
}

#[test]
fn a_limit_is_one_that_the_kernel_can_count() {
    let limited = |rate| Rule::new([Match::Limit { rate }], Action::Drop);
    assert_eq!(limited(3_600), limited(5_000));
    assert_eq!(limited(0), limited(1));
    assert!(
        limited(10)
            .render()
            .contains("--limit 10/sec --limit-burst 10 ")
    );
    assert!(
        limited(5)
            .render()
            .starts_with("-m limit --limit 5/sec -m comment")
    );
}

#[test]
fn conditions_of_one_module_are_one_match() {
    let rule = Rule::new(
        [
            Match::CtReply,
            Match::CtState([CtState::Established].into()),
            Match::DestinationPorts(vec![PortRange::new(1, 2)]),
            Match::SourcePort(53),
            Match::Protocol(Protocol::Udp),
        ],
        Action::Nfqueue { queue: 7 },
    );
    let text = rule.render();
    assert!(
        text.starts_with(
            "-p udp -m udp --sport 53 --dport 1:2 -m conntrack --ctstate ESTABLISHED --ctdir REPLY -m comment"
        ),
        "{text}"
    );
}

/// As iptables-nft 1.8.9 and iptables-legacy 1.8.9 showed them (`-save -t nat`), the comment's hash left out: both alike.
const SAVED_TRANSLATIONS: [&str; 10] = [
    "-d 10.1.0.7/32 -p sctp -m sctp --dport 8080 ; -j DNAT --to-destination 10.1.0.7:80",
    "-d fd00:1::7/128 -p sctp -m sctp --dport 8080 ; -j DNAT --to-destination [fd00:1::7]:80",
    "-p tcp -m tcp --dport 8192:12287 ; -g PTL-H",
    "-m addrtype --dst-type LOCAL ; -j PTL-D",
    "-m statistic --mode random --probability 0.33333333349 ; -j KUBE-SEP-SXIVWICOYRO3J4NJ",
    "-m recent --rcheck --seconds 10800 --reap --name KUBE-SEP-SXIVWICOYRO3J4NJ --mask 255.255.255.255 --rsource ; -j KUBE-SEP-SXIVWICOYRO3J4NJ",
    "-p tcp -m recent --set --name PTL-H --mask ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff --rsource ; -j DNAT --to-destination [fd00::1]:80",
    "-d 10.1.0.7/32 -p tcp -m tcp --dport 80 ; -j REJECT --reject-with icmp-port-unreachable",
    "-m set --match-set ptl4-x src,dst ; -j MASQUERADE --random-fully",
    "-m set --match-set ptl6-x src,dst ; -j MASQUERADE --random-fully",
];

#[test]
fn translations_are_read_from_what_both_back_ends_show() {
    for line in SAVED_TRANSLATIONS {
        let (conditions, action) = line.split_once("; ").unwrap();
        let hash = short_hash(&[conditions, action], COMMENT_DIGITS);
        let text = format!("{conditions}-m comment --comment \"ptl:{hash}\" {action}");
        let rule = Rule::parse(&text).unwrap_or_else(|| panic!("{text}"));
        assert_eq!(rule.render(), text);
    }
}
