//! Prints how long planning takes at size: `cargo run --release -p netfilter --example planning`.
#![allow(
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "an example that prints what it measured"
)]

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use netfilter::*;

const CHAINS: u16 = 5_000;
const RULES_PER_CHAIN: u16 = 4;
const SETS: u16 = 2_000;
const MEMBERS_OF_ONE: u32 = 10_000;
const ROUNDS: usize = 51;

fn chain(number: u16, port: u16) -> (ChainName, Arc<[Rule]>) {
    let name = ChainName::hashed("PI", &[number.to_string()]);
    let rule = |index| {
        let ports = Match::DestinationPorts(vec![PortRange::new(port, port + index)]);
        let pods = Match::Set {
            name: SetName::hashed(Family::V4, "p", &[number.to_string()]),
            direction: SetDirection::Source,
            negated: false,
        };
        Rule::new(
            [Match::Protocol(Protocol::Tcp), ports, pods],
            Action::Goto(ChainName::fixed("ALLOW")),
        )
    };
    let mut rules: Vec<Rule> = (1..RULES_PER_CHAIN).map(rule).collect();
    rules.push(Rule::new([], Action::Return));
    (name, rules.into())
}

fn set(number: u16, members: u32) -> (SetName, Arc<IpSet>) {
    let name = SetName::hashed(Family::V4, "p", &[number.to_string()]);
    let mut set = IpSet::new(name.clone(), Family::V4, SetKind::HashIp);
    for member in 0..members {
        set.insert_ip(IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + member)));
    }
    (name, set.into())
}

/// The median of some rounds, each with an input of its own that is made off the clock.
fn median<I, O>(what: &str, mut input: impl FnMut(usize) -> I, mut work: impl FnMut(&I) -> O) {
    let mut times: Vec<Duration> = (0..ROUNDS)
        .map(|round| {
            let input = input(round);
            let start = Instant::now();
            let output = work(&input);
            let took = start.elapsed();
            drop(output);
            took
        })
        .collect();
    times.sort();
    let (middle, most) = (times[ROUNDS / 2], times[ROUNDS - 1]);
    println!("{what:62} p50 {middle:>10.1?}  most {most:>10.1?}");
}

fn ruleset(chains: &Chains) -> Ruleset {
    let table = TableRules {
        hooks: vec![Hook {
            chain: Builtin::Forward,
            position: HookPosition::First,
            rule: Rule::new([], Action::Return),
        }],
        chains: chains.clone(),
    };
    Ruleset {
        tables: BTreeMap::from([(Table::Filter, table)]),
    }
}

/// What `iptables-save` would print.
fn saved(desired: &Ruleset) -> String {
    let mut text = "*filter\n".to_owned();
    let table = &desired.tables[&Table::Filter];
    for name in table.chains.keys() {
        text += &format!(":{name} - [0:0]\n");
    }
    for (name, rules) in &table.chains {
        for rule in rules.iter() {
            text += &format!("-A {name} {}\n", rule.render());
        }
    }
    text + ":FORWARD ACCEPT [0:0]\nCOMMIT\n"
}

fn rules() {
    let chains: Chains = (0..CHAINS).map(|number| chain(number, 80)).collect();
    let desired = ruleset(&chains);
    let one_changed = |round: usize| {
        let mut chains = chains.clone();
        chains.extend([chain(2_500, 1_000 + u16::try_from(round).unwrap())]);
        ruleset(&chains)
    };
    let text = saved(&desired);
    let parsed = Actual::parse(&text).unwrap();
    let known = plan(&Actual::default(), &desired, Effort::Exact).after;
    println!(
        "{CHAINS} chains, {} rules",
        u32::from(CHAINS) * u32::from(RULES_PER_CHAIN)
    );
    median("read back", |_| (), |()| Actual::parse(&text).unwrap());
    median(
        "planned from nothing",
        |_| Actual::default(),
        |actual| plan(actual, &desired, Effort::Exact),
    );
    median(
        "compared by words, once after reading back",
        |_| (),
        |()| plan(&parsed, &desired, Effort::Exact),
    );
    median(
        "nothing changed",
        |_| (),
        |()| plan(&known, &desired, Effort::Exact),
    );
    for effort in [Effort::Additive, Effort::Exact] {
        median(
            &format!("one chain changed, {effort:?}"),
            one_changed,
            |desired| plan(&known, desired, effort),
        );
    }
}

fn sets() {
    let small = (0..SETS).map(|number| set(number, 50));
    let sets: BTreeMap<_, _> = small.chain([set(SETS, MEMBERS_OF_ONE)]).collect();
    let known = plan_sets(&ActualSets::default(), &sets).applied_after;
    println!("{SETS} sets of 50, one of {MEMBERS_OF_ONE}");
    median(
        "planned from nothing",
        |_| ActualSets::default(),
        |actual| plan_sets(actual, &sets),
    );
    median("nothing changed", |_| (), |()| plan_sets(&known, &sets));
    for (what, number, members) in [
        ("a small set got one member", 1_000, 51),
        ("the large set got one member", SETS, MEMBERS_OF_ONE + 1),
    ] {
        let changed = |_| {
            let mut sets = sets.clone();
            sets.extend([set(number, members)]);
            sets
        };
        median(what, changed, |sets| plan_sets(&known, sets));
    }
}

fn main() {
    rules();
    sets();
}
