//! Rules of every kind, and a ruleset of them.

use std::collections::BTreeMap;

use netfilter::*;

use crate::programs::run;

pub(crate) fn name(text: &str) -> InterfaceName {
    InterfaceName::new(text).unwrap()
}

pub(crate) fn set_name(family: Family) -> SetName {
    SetName::fixed(family, "endpoints")
}

fn ports_set_name(family: Family) -> SetName {
    SetName::hashed(family, "m", &["http"])
}

pub(crate) fn net(family: Family) -> ipnet::IpNet {
    let text = if family == Family::V4 {
        "10.1.0.0/16"
    } else {
        "fd00:1::/32"
    };
    text.parse().unwrap()
}

/// One rule for every kind of condition and action there is.
pub(crate) fn every_kind(family: Family) -> Vec<Rule> {
    let set = |direction, negated| Match::Set {
        name: set_name(family),
        direction,
        negated,
    };
    let states = |states: &[CtState]| Match::CtState(states.iter().copied().collect());
    let host = net(family).hosts().next().unwrap().into();
    let mut rules = vec![
        Rule::new(
            [Match::InInterface(InterfaceMatch::Prefix(name("ptl")))],
            Action::Return,
        ),
        Rule::new(
            [Match::OutInterface(InterfaceMatch::Exact(name(
                "ptl0123456789a",
            )))],
            Action::Drop,
        ),
        Rule::new(
            [Match::Source(net(family)), Match::Destination(host)],
            Action::Accept,
        ),
        Rule::new([Match::Protocol(Protocol::IpInIp)], Action::Drop),
        Rule::new([Match::Protocol(Protocol::Ipv6InIp)], Action::Drop),
        Rule::new(
            [
                Match::Protocol(Protocol::Tcp),
                Match::TcpNotSyn,
                states(&[CtState::New]),
            ],
            Action::Drop,
        ),
        Rule::new(
            [states(&[CtState::Established, CtState::Related])],
            Action::Accept,
        ),
        Rule::new([states(&[CtState::Invalid])], Action::Drop),
        Rule::new([set(SetDirection::DestinationAndOut, true)], Action::Drop),
        Rule::new([set(SetDirection::SourceAndIn, false)], Action::Return),
        Rule::new(
            [Match::Mark {
                value: 0x10000,
                mask: 0x10000,
                negated: false,
            }],
            Action::Return,
        ),
        Rule::new(
            [Match::Mark {
                value: 0,
                mask: 0xf0000,
                negated: false,
            }],
            Action::Goto(ChainName::fixed("OTHER")),
        ),
        Rule::new(
            [],
            Action::SetMark {
                value: 0,
                mask: 0xf0000,
            },
        ),
        Rule::new(
            [],
            Action::SetMark {
                value: 0x20000,
                mask: 0x20000,
            },
        ),
        Rule::new([], Action::Jump(ChainName::fixed("OTHER"))),
    ];
    rules.extend(every_kind_of_port(family));
    rules.extend(every_further_kind(family));
    rules.push(neither_in_nor_out());
    rules
}

fn neither_in_nor_out() -> Rule {
    let other = || InterfaceMatch::NotPrefix(name("ptl"));
    let conditions = [Match::InInterface(other()), Match::OutInterface(other())];
    Rule::new(conditions, Action::Return)
}

fn every_condition_at_once(family: Family) -> Rule {
    let ports = [PortRange::new(1, 2), PortRange::new(4, 4)];
    let interface = || InterfaceMatch::Prefix(name("ptl"));
    let all = [
        Match::Limit { rate: 10 },
        Match::Mark {
            value: 1,
            mask: 3,
            negated: false,
        },
        Match::Set {
            name: ports_set_name(family),
            direction: SetDirection::DestinationAndPort,
            negated: true,
        },
        Match::DestinationLocal,
        Match::SourceLocal,
        Match::CtReply,
        Match::CtState([CtState::Established].into()),
        Match::TcpNotSyn,
        Match::DestinationPorts(ports.to_vec()),
        Match::SourcePort(53),
        Match::Protocol(Protocol::Tcp),
        Match::OutInterface(interface()),
        Match::InInterface(interface()),
        Match::Destination(net(family)),
        Match::Source(net(family)),
    ];
    Rule::new(all, Action::Drop)
}

/// What domain names, the guard and the showing of drops need.
fn every_further_kind(family: Family) -> Vec<Rule> {
    let ports_set = |negated| Match::Set {
        name: ports_set_name(family),
        direction: SetDirection::DestinationAndPort,
        negated,
    };
    let mark = |value, mask, negated| Match::Mark {
        value,
        mask,
        negated,
    };
    let udp = Match::Protocol(Protocol::Udp);
    let tcp = Match::Protocol(Protocol::Tcp);
    let established = Match::CtState([CtState::Established].into());
    let log = |group| Action::Nflog {
        group,
        prefix: ChainName::hashed("PI", &["a\n\"b\0../"]),
    };
    let one = |port| Match::DestinationPorts(vec![PortRange::new(port, port)]);
    let two = Match::DestinationPorts(vec![PortRange::new(1, 2), PortRange::new(4, 4)]);
    let mut rules = vec![
        every_condition_at_once(family),
        Rule::new([Match::CtReply], Action::Return),
        Rule::new([established.clone(), Match::CtReply], Action::Return),
        Rule::new([Match::SourceLocal], Action::Return),
        Rule::new([Match::DestinationLocal], Action::Return),
        Rule::new([Match::SourceLocal, Match::DestinationLocal], Action::Drop),
        Rule::new([ports_set(false)], Action::Return),
        Rule::new([mark(0x10000, 0xf0000, true)], Action::Drop),
        Rule::new([mark(0, 0x60000, true)], Action::Return),
        Rule::new([mark(7, u32::MAX, false)], Action::Return),
        Rule::new([], log(0)),
        Rule::new([], log(1)),
        Rule::new([Match::Limit { rate: 10 }], log(u16::MAX)),
        Rule::new(
            [
                udp.clone(),
                Match::SourcePort(53),
                established,
                Match::CtReply,
            ],
            Action::Nfqueue { queue: 7 },
        ),
        Rule::new([], Action::Nfqueue { queue: 0 }),
        Rule::new([udp.clone(), Match::SourcePort(53), one(53)], Action::Drop),
        Rule::new([udp, Match::SourcePort(0), two], Action::Drop),
        Rule::new(
            [tcp, Match::SourcePort(65_535), one(80), Match::TcpNotSyn],
            Action::Drop,
        ),
        Rule::new(
            [Match::Protocol(Protocol::Sctp), Match::SourcePort(9)],
            Action::Drop,
        ),
    ];
    for rate in [
        0,
        1,
        2,
        3,
        5,
        7,
        27,
        60,
        73,
        100,
        999,
        3_600,
        9_999,
        u16::MAX,
    ] {
        rules.push(Rule::new([Match::Limit { rate }], Action::Drop));
    }
    rules
}

pub(crate) fn every_kind_of_port(family: Family) -> Vec<Rule> {
    let ports = |ranges: &[(u16, u16)]| {
        Match::DestinationPorts(
            ranges
                .iter()
                .map(|(first, last)| PortRange::new(*first, *last))
                .collect(),
        )
    };
    let mut rules = Vec::new();
    for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Sctp] {
        let lists: [&[(u16, u16)]; 6] = [
            &[(80, 80)],
            &[(0, 5)],
            &[(1024, 65535)],
            &[(0, 65535)],
            &[(1, 2), (5, 5)],
            &[(65535, 65535)],
        ];
        for list in lists {
            rules.push(Rule::new(
                [Match::Protocol(protocol), ports(list)],
                Action::Return,
            ));
        }
        rules.push(Rule::new([Match::Protocol(protocol)], Action::Return));
    }
    let many: Vec<(u16, u16)> = (0..7)
        .map(|n| (n * 10 + 1, n * 10 + 2))
        .chain([(99, 99)])
        .collect();
    rules.push(Rule::new(
        [Match::Protocol(Protocol::Udp), ports(&many)],
        Action::Return,
    ));
    if family == Family::V6 {
        let discovery = [Match::Protocol(Protocol::Icmpv6), Match::Icmpv6Type(135)];
        rules.push(Rule::new(discovery, Action::Return));
    } else {
        rules.push(Rule::new([Match::Protocol(Protocol::Icmp)], Action::Return));
    }
    rules
}

pub(crate) fn example(family: Family) -> Ruleset {
    let hooks = vec![
        Hook {
            chain: Builtin::Forward,
            position: HookPosition::First,
            rule: Rule::new([], Action::Jump(ChainName::fixed("FORWARD"))),
        },
        Hook {
            chain: Builtin::Forward,
            position: HookPosition::Last,
            rule: Rule::new(
                [Match::Mark {
                    value: 0x10000,
                    mask: 0x10000,
                    negated: false,
                }],
                Action::Accept,
            ),
        },
    ];
    let chains = Chains::from([
        (ChainName::fixed("FORWARD"), every_kind(family).into()),
        (
            ChainName::fixed("OTHER"),
            vec![Rule::new([], Action::Return)].into(),
        ),
    ]);
    let raw_chain = ChainName::fixed("PREROUTING");
    let raw = TableRules {
        hooks: vec![Hook {
            chain: Builtin::Prerouting,
            position: HookPosition::First,
            rule: Rule::new([], Action::Jump(raw_chain.clone())),
        }],
        chains: Chains::from([(raw_chain, vec![Rule::new([], Action::Return)].into())]),
    };
    Ruleset {
        tables: BTreeMap::from([
            (Table::Filter, TableRules { hooks, chains }),
            (Table::Raw, raw),
        ]),
    }
}

pub(crate) fn edit_forward(ruleset: &mut Ruleset, edit: impl FnOnce(&mut Vec<Rule>)) {
    let filter = ruleset.tables.get_mut(&Table::Filter).unwrap();
    let chain = filter.chains.get_mut(&ChainName::fixed("FORWARD")).unwrap();
    let mut rules = chain.to_vec();
    edit(&mut rules);
    *chain = rules.into();
}

pub(crate) fn make_sets(family: Family) {
    let kinds = [
        (set_name(family), SetKind::HashNetIface),
        (ports_set_name(family), SetKind::HashIpPort),
    ];
    let empty = |(name, kind): (SetName, _)| (name.clone(), IpSet::new(name, family, kind).into());
    let sets: BTreeMap<_, _> = kinds.into_iter().map(empty).collect();
    let made = plan_sets(&ActualSets::default(), &sets);
    run("ipset", &["restore", "-exist"], &made.before.unwrap());
}
