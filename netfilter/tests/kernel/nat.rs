//! Rules of the nat table: destinations and sources translated, as host ports need them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use netfilter::*;

use crate::examples::*;
use crate::programs::*;

fn host(family: Family) -> IpAddr {
    let text = if family == Family::V4 {
        "10.1.0.7"
    } else {
        "fd00:1::7"
    };
    text.parse().unwrap()
}

fn ports(first: u16, last: u16) -> Match {
    Match::DestinationPorts(vec![PortRange::new(first, last)])
}

fn hook(chain: Builtin, conditions: Vec<Match>, to: &'static str) -> Hook {
    Hook {
        chain,
        position: HookPosition::First,
        rule: Rule::new(conditions, Action::Jump(ChainName::fixed(to))),
    }
}

/// Destinations of every kind that a host port has.
fn destinations(family: Family) -> Vec<Rule> {
    let address = host(family);
    let mut rules = Vec::new();
    for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Sctp] {
        let of_port = [Match::Protocol(protocol), ports(8080, 8080)];
        let of_host = Match::Destination(address.into());
        let to = |port| Action::Dnat { address, port };
        rules.push(Rule::new(of_port.clone(), to(80)));
        rules.push(Rule::new(
            of_port.into_iter().chain([of_host]),
            to(u16::MAX),
        ));
        let of_range = [Match::Protocol(protocol), ports(8192, 12_287)];
        rules.push(Rule::new(of_range, Action::Goto(ChainName::fixed("HP"))));
    }
    rules.push(Rule::new([], Action::Return));
    rules
}

fn sources(family: Family) -> Vec<Rule> {
    let hairpin = Match::Set {
        name: set_name(family),
        direction: SetDirection::SourceAndOut,
        negated: false,
    };
    vec![
        Rule::new([hairpin], Action::Masquerade),
        Rule::new([Match::Source(net(family))], Action::Masquerade),
        Rule::new([], Action::Return),
    ]
}

fn translation(family: Family) -> Ruleset {
    let local = || vec![Match::DestinationLocal];
    let to_pods = Match::OutInterface(InterfaceMatch::Prefix(name("ptl")));
    let returns: Vec<Rule> = vec![Rule::new([], Action::Return)];
    let nat = TableRules {
        hooks: vec![
            hook(Builtin::Prerouting, local(), "DNAT"),
            hook(Builtin::Output, local(), "DNAT"),
            hook(Builtin::Postrouting, vec![to_pods], "MASQ"),
        ],
        chains: Chains::from([
            (ChainName::fixed("DNAT"), destinations(family).into()),
            (ChainName::fixed("HP"), returns.into()),
            (ChainName::fixed("MASQ"), sources(family).into()),
        ]),
    };
    Ruleset {
        tables: BTreeMap::from([(Table::Nat, nat)]),
    }
}

#[test]
fn translations_are_accepted_and_read_back_as_they_were_written() {
    with_each_program(|program, family| {
        let desired = translation(family);
        assert_eq!(apply(program, &desired), 10 + 1 + 3 + 3);
        assert_eq!(apply(program, &desired), 0, "a restart changes nothing");
        let saved = Saved::parse(&run(&format!("{program}-save"), &["-c"], "")).unwrap();
        let chain = |name| {
            let rules = saved.chains[&(Table::Nat, ChainName::fixed(name))].iter();
            let read = |rule: &SavedRule| match &rule.rule {
                SavedText::Rule(rule) => rule.clone(),
                SavedText::Unknown(text) => panic!("{program}: {text}"),
            };
            rules.map(read).collect::<Vec<Rule>>()
        };
        assert_eq!(chain("DNAT"), destinations(family));
        assert_eq!(chain("MASQ"), sources(family));
        apply(program, &Ruleset::default());
        let text = run(&format!("{program}-save"), &[], "");
        assert!(!text.contains("PTL-") && !text.contains("ptl:"), "{text}");
    });
}

#[test]
fn what_several_want_is_one_plan_and_goes_when_one_wants_it_no_more() {
    with_each_program(|program, family| {
        let (first, second) = (example(family), translation(family));
        let mut second = second;
        let guard = Hook {
            chain: Builtin::Prerouting,
            position: HookPosition::First,
            rule: Rule::new([Match::Source(net(family))], Action::Drop),
        };
        let raw = TableRules {
            hooks: vec![guard],
            chains: Chains::default(),
        };
        second.tables.insert(Table::Raw, raw);
        let write = |parts: &[&Ruleset]| {
            let made = plan_parts(&save(program), parts, Effort::Exact);
            if let Some(text) = &made.restore {
                run(&format!("{program}-restore"), &["--noflush", "-w"], text);
            }
            assert_eq!(
                plan_parts(&save(program), parts, Effort::Exact).restore,
                None
            );
            made.rules_written
        };
        write(&[&first, &second]);
        let text = run(&format!("{program}-save"), &["-t", "raw"], "");
        let mut hooks = text
            .lines()
            .filter(|line| line.starts_with("-A PREROUTING"));
        let ends: Vec<&str> = hooks
            .by_ref()
            .filter_map(|line| line.rsplit(' ').next())
            .collect();
        assert_eq!(ends, ["PTL-PREROUTING", "DROP"], "in the parts' order");
        let hooks_of_the_second = 3 + 1;
        assert_eq!(write(&[&first]), hooks_of_the_second, "chains go whole");
        assert_eq!(apply(program, &first), 0);
    });
}

#[test]
fn where_nobody_translates_no_nat_table_is_made() {
    with_each_program(|program, family| {
        apply(program, &example(family));
        let text = run(&format!("{program}-save"), &[], "");
        assert!(!text.contains("*nat"), "{program}: {text}");
    });
}
