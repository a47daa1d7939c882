//! Which packets the kernel's rules have counted, added up by the policies' rules that they come from.

use std::collections::BTreeMap;

use ::policy::{Compiled, Direction, FamilyRules, Origin};
use api::Key;
use netfilter::{Action, ChainName, Family, Rule, SavedRule, SavedText, Table};

use crate::firewall::Held;

/// Packets and bytes that met a rule's conditions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Count {
    pub(super) packets: u64,
    pub(super) bytes: u64,
}

/// What the rules of one direction of a policy have counted. Chains are shared: it is that of all pods of this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct PolicyCounts {
    /// By the rule's place in the policy, from 0.
    pub(super) rules: BTreeMap<usize, Count>,
    pub(super) allowed: u64,
    pub(super) denied: u64,
    pub(super) passed: u64,
    /// Chains of it that the kernel does not hold.
    pub(super) missing: Vec<ChainName>,
}

/// The counts of every policy and direction that has a chain here.
pub(super) fn count(compiled: &Compiled, held: &Held) -> BTreeMap<(Key, Direction), PolicyCounts> {
    let mut all: BTreeMap<(Key, Direction), PolicyCounts> = BTreeMap::new();
    for family in Family::ALL {
        for (name, rules) in filter_chains(of_family(compiled, family)) {
            let chain = held
                .rules(family)
                .chains
                .get(&(Table::Filter, name.clone()));
            match compiled.origins.get(name).map(AsRef::as_ref) {
                Some(Origin::Policy {
                    key,
                    direction,
                    rules: from,
                }) => {
                    let counts = all.entry((key.clone(), *direction)).or_default();
                    match chain {
                        Some(chain) => counts.add(rules, from, chain),
                        None => counts.missing.push(name.clone()),
                    }
                }
                Some(Origin::Group {
                    policies,
                    direction,
                }) => {
                    let denied = chain.map_or(0, |chain| end_of(rules, chain).packets);
                    let isolating = policies
                        .iter()
                        .filter(|key| matches!(key, Key::NetworkPolicy(_)));
                    for key in isolating {
                        all.entry((key.clone(), *direction)).or_default().denied += denied;
                    }
                }
                Some(Origin::Endpoint { .. }) | None => {}
            }
        }
    }
    all
}

/// What is to be in the kernel for one family.
pub(super) fn of_family(compiled: &Compiled, family: Family) -> &FamilyRules {
    match family {
        Family::V4 => &compiled.v4,
        Family::V6 => &compiled.v6,
    }
}

/// The chains of the filter table.
pub(super) fn filter_chains(rules: &FamilyRules) -> impl Iterator<Item = (&ChainName, &[Rule])> {
    let filter = rules.rules.tables.get(&Table::Filter).into_iter();
    let chains = filter.flat_map(|table| &table.chains);
    chains.map(|(name, rules)| (name, &**rules))
}

/// What a group's last rule dropped: packets that a NetworkPolicy isolated from and none allowed.
pub(super) fn end_of(rules: &[Rule], chain: &[SavedRule]) -> Count {
    let drops = rules
        .last()
        .is_some_and(|rule| rule.is_terminal() && *rule.action() == Action::Drop);
    let counts = counts_of(rules, chain);
    let last = counts.last().copied().flatten();
    last.filter(|_| drops).unwrap_or_default()
}

/// The count of each wanted rule: of the first equal one that the kernel holds behind those before it.
pub(super) fn counts_of(wanted: &[Rule], held: &[SavedRule]) -> Vec<Option<Count>> {
    let mut rest = held;
    let found = wanted.iter().map(|rule| {
        let is_it = |saved: &SavedRule| matches!(&saved.rule, SavedText::Rule(one) if one == rule);
        let at = rest.iter().position(is_it)?;
        let (_, from) = rest.split_at(at);
        let (saved, behind) = from.split_first()?;
        rest = behind;
        Some(Count {
            packets: saved.packets,
            bytes: saved.bytes,
        })
    });
    found.collect()
}

impl PolicyCounts {
    fn add(&mut self, rules: &[Rule], from: &[usize], chain: &[SavedRule]) {
        let counts = counts_of(rules, chain);
        for ((rule, from), count) in rules.iter().zip(from).zip(counts) {
            let count = count.unwrap_or_default();
            let total = match rule.action() {
                Action::Goto(name) if *name == ChainName::fixed("ALLOW") => &mut self.allowed,
                // A chain of few rules sets the mark itself, once for each packet.
                Action::SetMark { .. } => &mut self.allowed,
                Action::Goto(_) => &mut self.passed,
                Action::Drop => &mut self.denied,
                // It shows packets that the rule behind it drops and counts.
                _ => continue,
            };
            *total += count.packets;
            let of_rule = self.rules.entry(*from).or_default();
            of_rule.packets += count.packets;
            of_rule.bytes += count.bytes;
        }
    }
}
