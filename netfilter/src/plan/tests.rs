//! Any sequence of plans, carried out by a model of the kernel, judges packets as the wanted rules alone would.

mod shared;

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::failed_line;
use crate::rule::{Action, Match, Protocol};

/// One table of the kernel, as lines; starts no program.
#[derive(Clone, Default)]
struct Kernel {
    chains: BTreeMap<String, Vec<String>>,
}

#[derive(Clone, Copy)]
struct Packet {
    mark: u32,
    protocol: Protocol,
}

type Verdict = Option<bool>;

const FORWARD: &str = "FORWARD";

impl Kernel {
    fn new() -> Self {
        Self {
            chains: BTreeMap::from([(FORWARD.to_owned(), Vec::new())]),
        }
    }

    /// Carries a transaction out, as strictly as the kernel does.
    fn restore(&mut self, text: &str) {
        for line in text.lines() {
            let words: Vec<&str> = line.splitn(4, ' ').collect();
            match words.as_slice() {
                ["*filter" | "COMMIT"] => {}
                ["-A", chain, ..] => {
                    let rule = line.splitn(3, ' ').nth(2).unwrap().to_owned();
                    self.chains.get_mut(*chain).unwrap().push(rule);
                }
                ["-I", chain, number, rule] => {
                    let at = number.parse::<usize>().unwrap() - 1;
                    self.chains
                        .get_mut(*chain)
                        .unwrap()
                        .insert(at, (*rule).to_owned());
                }
                ["-D", chain, number] => {
                    let at = number.parse::<usize>().unwrap() - 1;
                    self.chains.get_mut(*chain).unwrap().remove(at);
                }
                ["-D", chain, ..] => {
                    let rule = line.splitn(3, ' ').nth(2).unwrap();
                    let rules = self.chains.get_mut(*chain).unwrap();
                    let at = rules.iter().position(|held| held == rule).expect(line);
                    rules.remove(at);
                }
                ["-F", chain] => self.chains.get_mut(*chain).unwrap().clear(),
                ["-X", chain] => {
                    assert!(self.chains.remove(*chain).unwrap().is_empty(), "{line}");
                    assert!(!self.targets().contains(*chain), "{line}: in use");
                }
                [chain, "-", "[0:0]"] => {
                    let name = chain.strip_prefix(':').unwrap().to_owned();
                    assert!(self.chains.insert(name, Vec::new()).is_none(), "{line}");
                }
                _ => panic!("{line}"),
            }
        }
        for target in self.targets() {
            assert!(
                self.chains.contains_key(&target),
                "no chain {target}\n{text}"
            );
        }
    }

    fn targets(&self) -> BTreeSet<String> {
        let rules = self.chains.values().flatten();
        rules
            .filter_map(|rule| match Rule::parse(rule)?.action() {
                Action::Jump(chain) | Action::Goto(chain) => Some(chain.to_string()),
                _ => None,
            })
            .collect()
    }

    fn save(&self) -> String {
        let mut text = "*filter\n".to_owned();
        for name in self.chains.keys() {
            writeln!(text, ":{name} - [0:0]").unwrap();
        }
        for (name, rules) in &self.chains {
            for rule in rules {
                writeln!(text, "-A {name} {rule}").unwrap();
            }
        }
        text + "COMMIT\n"
    }

    /// What becomes of a packet, and its mark.
    fn judge(&self, mut packet: Packet) -> (Verdict, u32) {
        let verdict = self.walk(FORWARD, &mut packet);
        (verdict, packet.mark)
    }

    fn walk(&self, chain: &str, packet: &mut Packet) -> Verdict {
        for rule in &self.chains[chain] {
            let Some(rule) = Rule::parse(rule) else {
                continue;
            };
            if !rule
                .matches()
                .iter()
                .all(|condition| packet.meets(condition))
            {
                continue;
            }
            match rule.action() {
                Action::Jump(chain) => {
                    let verdict = self.walk(chain.as_str(), packet);
                    if verdict.is_some() {
                        return verdict;
                    }
                }
                Action::Goto(chain) => return self.walk(chain.as_str(), packet),
                Action::Return => return None,
                Action::Accept => return Some(true),
                Action::Drop => return Some(false),
                Action::SetMark { value, mask } => packet.mark = packet.mark & !mask ^ value,
                other => panic!("{other:?}"),
            }
        }
        None
    }
}

impl Packet {
    fn all() -> impl Iterator<Item = Self> {
        let protocols = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
        protocols
            .into_iter()
            .flat_map(|protocol| (0..4).map(move |mark| Self { mark, protocol }))
    }

    fn meets(self, condition: &Match) -> bool {
        match condition {
            Match::Protocol(protocol) => *protocol == self.protocol,
            Match::Mark {
                value,
                mask,
                negated,
            } => (self.mark & mask == *value) != *negated,
            other => panic!("{other:?}"),
        }
    }
}

/// A rule by numbers; jumps lead to chains further on, so there is no loop.
fn numbered_rule(chain: usize, (kind, action, bit): (u8, u8, u8), present: &[bool]) -> Rule {
    let mask = 1 << (bit % 2);
    let condition = match kind % 5 {
        0 => None,
        1 => Some(Match::Protocol(Protocol::Tcp)),
        2 => Some(Match::Protocol(Protocol::Udp)),
        _ => Some(Match::Mark {
            value: mask,
            mask,
            negated: kind % 2 == 0,
        }),
    };
    let further = (chain + 1 + usize::from(bit / 2)..present.len()).find(|next| present[*next]);
    let action = match (action % 7, further) {
        (0, _) => Action::Accept,
        (1, _) => Action::Drop,
        (2, _) => Action::Return,
        (3, Some(next)) => Action::Goto(name(next)),
        (4 | 5, Some(next)) => Action::Jump(name(next)),
        _ => Action::SetMark {
            value: u32::from(kind & 1) * mask,
            mask,
        },
    };
    Rule::new(condition, action)
}

fn name(chain: usize) -> ChainName {
    ChainName::fixed(["A", "B", "C", "D", "E", "F"][chain])
}

type Numbers = Vec<(bool, Vec<(u8, u8, u8)>, u8)>;

/// A ruleset; what it has in common with the last one is the same allocation.
fn ruleset(numbers: &Numbers, last: &Ruleset) -> Ruleset {
    let present: Vec<bool> = numbers.iter().map(|(present, ..)| *present).collect();
    let before = last.tables.get(&Table::Filter);
    let mut table = TableRules {
        hooks: Vec::new(),
        // As a compiler does it: what is not changed is shared.
        chains: before
            .map(|before| before.chains.clone())
            .unwrap_or_default(),
    };
    for (chain, _) in present.iter().enumerate().filter(|(_, there)| !**there) {
        table.chains.remove(&name(chain));
    }
    for (chain, (_, rules, end)) in numbers.iter().enumerate().filter(|(_, (there, ..))| *there) {
        let mut rules: Vec<Rule> = rules
            .iter()
            .map(|rule| numbered_rule(chain, *rule, &present))
            .collect();
        // Some chains are left without an end.
        match end % 8 {
            0 => {}
            1 => rules.push(Rule::new([], Action::Accept)),
            2 => rules.push(Rule::new([], Action::Drop)),
            _ => rules.push(Rule::new([], Action::Return)),
        }
        let same = table.chains.get(&name(chain));
        if same.is_none_or(|before| **before != *rules) {
            table.chains.insert(name(chain), rules.into());
        }
    }
    let hook = |position, rule| Hook {
        chain: Builtin::Forward,
        position,
        rule,
    };
    if let Some(first) = table.chains.keys().next() {
        let jump = Rule::new([], Action::Jump(first.clone()));
        table.hooks.push(hook(HookPosition::First, jump));
        let marked = Match::Mark {
            value: 1,
            mask: 1,
            negated: false,
        };
        let accept = Rule::new([marked], Action::Accept);
        table.hooks.push(hook(HookPosition::Last, accept));
    }
    Ruleset {
        tables: BTreeMap::from([(Table::Filter, table)]),
    }
}

/// The wanted rules alone.
fn reference(desired: &Ruleset) -> Kernel {
    let mut kernel = Kernel::new();
    let table = &desired.tables[&Table::Filter];
    for (name, rules) in &table.chains {
        let rules = rules.iter().map(Rule::render).collect();
        kernel.chains.insert(name.to_string(), rules);
    }
    let hooks = table.hooks.iter().map(|hook| hook.rule.render()).collect();
    kernel.chains.insert(FORWARD.to_owned(), hooks);
    kernel
}

fn ours(kernel: &Kernel) -> Kernel {
    let mut ours = kernel.clone();
    for rules in ours.chains.values_mut() {
        rules.retain(|rule| rule.contains("ptl:"));
    }
    ours
}

fn numbers() -> impl Strategy<Value = Numbers> {
    let rule = (0u8..8, 0u8..8, 0u8..6);
    let chain = (
        prop::bool::weighted(0.85),
        prop::collection::vec(rule, 0..5),
        0u8..8,
    );
    prop::collection::vec(chain, 6)
}

#[derive(Clone, Debug)]
struct Step {
    /// New numbers for one chain, or for all.
    all: Option<Numbers>,
    one: (usize, Numbers),
    additive: bool,
    /// The agent was restarted, and another has put a rule somewhere.
    read_back: Option<usize>,
}

fn step() -> impl Strategy<Value = Step> {
    let all = prop::option::weighted(0.2, numbers());
    let read_back = prop::option::weighted(0.3, 0usize..4);
    (
        all,
        0usize..6,
        numbers(),
        prop::bool::weighted(0.7),
        read_back,
    )
        .prop_map(|(all, one, numbers, additive, read_back)| Step {
            all,
            one: (one, numbers),
            additive,
            read_back,
        })
}

/// The same as it would be read: nothing is known of the last plan.
fn forgetful(actual: &Actual) -> Actual {
    let mut actual = actual.clone();
    for table in actual.tables.values_mut() {
        table.planned = Planned::default();
    }
    actual
}

/// Two that want together what one wants.
fn halves(desired: &Ruleset) -> [Ruleset; 2] {
    let (mut one, mut two) = (desired.clone(), desired.clone());
    for (number, chain) in ["A", "B", "C", "D", "E", "F"].into_iter().enumerate() {
        let half = if number % 2 == 0 { &mut two } else { &mut one };
        let table = half.tables.get_mut(&Table::Filter).unwrap();
        table.chains.remove(&ChainName::fixed(chain));
    }
    two.tables.get_mut(&Table::Filter).unwrap().hooks.clear();
    [one, two]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_sequence_of_plans_judges_as_the_wanted_rules_and_an_exact_one_leaves_nothing_else(
        first in numbers(), steps in prop::collection::vec(step(), 1..12)
    ) {
        let (mut kernel, mut actual) = (Kernel::new(), Actual::parse(&Kernel::new().save()).unwrap());
        let (mut current, mut desired) = (first, Ruleset::default());
        let mut in_halves = actual.clone();
        for step in steps {
            current = step.all.unwrap_or(current);
            current[step.one.0] = step.one.1[step.one.0].clone();
            desired = ruleset(&current, &desired);
            if let Some(at) = step.read_back {
                let forward = kernel.chains.get_mut(FORWARD).unwrap();
                forward.insert(at.min(forward.len()), "-p tcp -j OTHERS".to_owned());
                actual = Actual::parse(&kernel.save()).unwrap();
                in_halves = actual.clone();
            }
            let effort = if step.additive { Effort::Additive } else { Effort::Exact };
            let made = plan(&actual, &desired, effort);
            let anew = plan(&forgetful(&actual), &desired, effort);
            prop_assert_eq!(
                (&anew.restore, anew.leftover, anew.dead_rules),
                (&made.restore, made.leftover, made.dead_rules)
            );
            let [one, two] = halves(&desired);
            let parts = plan_parts(&in_halves, &[&one, &two], effort);
            prop_assert_eq!(
                (&parts.restore, parts.leftover, parts.dead_rules),
                (&made.restore, made.leftover, made.dead_rules)
            );
            in_halves = parts.after;
            if let Some(text) = &made.restore {
                if step.additive {
                    prop_assert!(!text.contains("\n-F ") && !text.contains("\n-X "), "{}", text);
                    for line in text.lines().filter(|line| line.starts_with("-D PTL-")) {
                        let chain = ChainName::read(line.split(' ').nth(1).unwrap()).unwrap();
                        let wanted = &desired.tables[&Table::Filter].chains[&chain];
                        prop_assert!(!wanted.last().is_some_and(Rule::is_terminal), "{}", text);
                    }
                }
                kernel.restore(text);
            }
            let wanted = reference(&desired);
            for packet in Packet::all() {
                prop_assert_eq!(kernel.judge(packet), wanted.judge(packet));
            }
            let read_back = Actual::parse(&kernel.save()).unwrap();
            prop_assert_eq!(&made.after, &read_back);
            for known in [&made.after, &read_back] {
                let again = plan(known, &desired, effort);
                prop_assert_eq!(&again.restore, &None);
                prop_assert_eq!((again.leftover, again.dead_rules), (made.leftover, made.dead_rules));
                let exact = plan(known, &desired, Effort::Exact);
                prop_assert_eq!(exact.restore.is_some(), made.leftover);
                prop_assert_eq!((exact.leftover, exact.dead_rules), (false, 0));
            }
            if !step.additive {
                prop_assert!(!made.leftover);
                prop_assert_eq!(ours(&kernel).save(), wanted.save());
            }
            actual = made.after;
        }
    }
}

fn one_chain(rules: impl IntoIterator<Item = u32>) -> Ruleset {
    let marked = |value| {
        Rule::new(
            [],
            Action::SetMark {
                value,
                mask: u32::MAX,
            },
        )
    };
    let mut chain: Vec<Rule> = rules.into_iter().map(marked).collect();
    chain.push(Rule::new([], Action::Return));
    let chains = Chains::from([(name(0), chain.into())]);
    let table = TableRules {
        hooks: Vec::new(),
        chains,
    };
    Ruleset {
        tables: BTreeMap::from([(Table::Filter, table)]),
    }
}

#[test]
fn rules_that_no_packet_reaches_do_not_pile_up() {
    let mut actual = Actual::default();
    let (mut most, mut exact) = (0, 0);
    for number in 0..3_000 {
        let made = plan(&actual, &one_chain([number]), Effort::Additive);
        let text = made.restore.unwrap();
        exact += usize::from(text.contains("\n-D "));
        most = most.max(made.dead_rules);
        actual = made.after;
    }
    assert!((1_900..=MOST_DEAD_RULES).contains(&most), "{most}");
    assert!((1..4).contains(&exact), "{exact} plans deleted something");
    assert!(actual.rule_count() < 2_100);
}

#[test]
fn what_is_the_old_list_with_rules_put_in_writes_those_alone() {
    let actual = plan(&Actual::default(), &one_chain([1, 2, 3]), Effort::Additive).after;
    let made = plan(&actual, &one_chain([1, 9, 2, 3, 8]), Effort::Additive);
    assert_eq!((made.rules_written, made.leftover), (2, false));
    let made = plan(&made.after, &one_chain([1, 9, 3, 8]), Effort::Additive);
    assert_eq!((made.rules_written, made.leftover), (3, true));
    let made = plan(&made.after, &one_chain([1, 9, 3, 8]), Effort::Exact);
    assert!(made.restore.unwrap().contains("-D PTL-A "));
}

#[test]
fn a_refused_line_names_its_chain() {
    let mut desired = one_chain([1]);
    let table = desired.tables[&Table::Filter].clone();
    desired.tables.insert(Table::Raw, table);
    let made = plan(&Actual::default(), &desired, Effort::Exact);
    let text = made.restore.clone().unwrap();
    assert_eq!(text.lines().next(), Some("*raw"));
    let at = |line| made.chain_at_line(line);
    // Table, chain, two rules, COMMIT; twice.
    assert_eq!((at(0), at(1), at(5), at(11)), (None, None, None, None));
    assert_eq!(at(3), Some((Table::Raw, name(0))));
    assert_eq!(at(7), Some((Table::Filter, name(0))));
    let line = failed_line("Error occurred at line: 9\n").unwrap();
    assert_eq!(at(line), Some((Table::Filter, name(0))));
}

#[test]
fn others_chains_that_do_not_concern_us_are_not_kept() {
    let mut text = "*filter\n:FORWARD ACCEPT [0:0]\n".to_owned();
    for number in 0..100 {
        writeln!(text, ":KUBE-SVC-{number} - [0:0]").unwrap();
    }
    for number in 0..100 {
        writeln!(text, "-A KUBE-SVC-{number} -j ACCEPT").unwrap();
    }
    text += "-A KUBE-SVC-7 -j PTL-A\nCOMMIT\n";
    let actual = Actual::parse(&text).unwrap();
    let kept: Vec<&String> = actual.tables[&Table::Filter].others.keys().collect();
    assert_eq!(kept, ["FORWARD", "KUBE-SVC-7"]);
    let made = plan(&actual, &Ruleset::default(), Effort::Exact);
    assert_eq!(made.restore.unwrap(), "*filter\n-D KUBE-SVC-7 2\nCOMMIT\n");
}

#[test]
fn ours_is_taken_from_a_chain_of_others_by_what_it_says_not_by_where_it_stood() {
    let mut wanted = one_chain([1]);
    let jump = Rule::new([], Action::Jump(name(0)));
    let hook = Hook {
        chain: Builtin::Forward,
        position: HookPosition::First,
        rule: jump.clone(),
    };
    wanted
        .tables
        .get_mut(&Table::Filter)
        .unwrap()
        .hooks
        .push(hook);
    let mut kernel = Kernel::new();
    kernel.restore(
        &plan(&Actual::default(), &wanted, Effort::Exact)
            .restore
            .unwrap(),
    );
    let forward = |kernel: &mut Kernel, theirs: &str| {
        let rules = kernel.chains.get_mut(FORWARD).unwrap();
        rules.insert(0, theirs.to_owned());
    };
    forward(&mut kernel, "-s 192.0.2.1/32 -j DROP");
    let read = Actual::parse(&kernel.save()).unwrap();
    // Between the look and the write.
    forward(&mut kernel, "-s 192.0.2.2/32 -j DROP");
    kernel.restore(&plan(&read, &wanted, Effort::Additive).restore.unwrap());
    let expected = [
        jump.render(),
        "-s 192.0.2.2/32 -j DROP".to_owned(),
        "-s 192.0.2.1/32 -j DROP".to_owned(),
    ];
    assert_eq!(kernel.chains[FORWARD], expected);
}

/// So many chains that a rule in a built-in chain leads to.
fn many_chains(table: Table, count: usize) -> Ruleset {
    let mut wanted = Ruleset::default();
    let of_table = wanted.tables.entry(table).or_default();
    for number in 0..count {
        let rule = Rule::new([], Action::Return);
        let chain = ChainName::hashed("X", &[&number.to_string()]);
        of_table.chains.insert(chain.clone(), [rule].into());
        of_table.hooks.push(Hook {
            chain: Builtin::Output,
            position: HookPosition::First,
            rule: Rule::new([], Action::Jump(chain)),
        });
    }
    wanted
}

#[test]
fn many_new_chains_stand_last_name_first_behind_a_listing_if_their_base_chains_are_there() {
    let lines = |actual: &str, table, count| -> Vec<String> {
        let actual = Actual::parse(actual).unwrap();
        let made = plan(&actual, &many_chains(table, count), Effort::Exact);
        made.restore.unwrap().lines().map(str::to_owned).collect()
    };
    let nat = lines("", Table::Nat, 500);
    assert_eq!(nat[1..3], ["-S", ":OUTPUT ACCEPT [0:0]"]);
    assert!(nat[3..503].is_sorted_by(|one, next| one > next), "{nat:?}");
    assert_eq!(lines("", Table::Nat, 499)[1][..5], *":PTL-");
    // A policy of filter is not ours to set.
    assert_eq!(lines("", Table::Filter, 500)[1][..5], *":PTL-");
    let there = "*filter\n:OUTPUT DROP [0:0]\nCOMMIT\n";
    let filter = lines(there, Table::Filter, 500);
    assert_eq!(filter[1], "-S");
    assert!(filter[2].starts_with(":PTL-"), "{filter:?}");
}
