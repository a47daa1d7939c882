//! The cheapest `iptables-restore --noflush` text that leads from what is there to what is wanted.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;

use crate::edit::{Edit, Wanted};
use crate::failure;
use crate::held::{Actual, ActualTable, Held};
use crate::names::{Builtin, ChainName, Table};
use crate::rule::Rule;
use crate::ruleset::{Hook, HookPosition, Ruleset, TableRules};

/// An additive plan that would leave more rules than this which no packet reaches is made an exact one.
const MOST_DEAD_RULES: usize = 2_000;

/// So many new chains make iptables-nft slow: for each command it goes through a list of all chains that are named.
const MANY_CHAINS: usize = 500;

/// How much of a difference is to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// What judges packets rightly, by additions alone where that can be: iptables-nft adds at one price whatever the
    /// table's size, but is slow to delete. What no packet reaches any more may stay for a later, exact plan; so a set
    /// that is no longer wanted may still be referred to and can be destroyed only after that. With iptables-legacy
    /// every change costs the same, and an exact plan is the better one.
    Additive,
    /// The kernel holds what is wanted and nothing else.
    Exact,
}

/// What is to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// For `iptables-restore --noflush`; `None` if all is as it should be. Each table in it is one transaction.
    pub restore: Option<String>,
    /// How many rules it adds, inserts or deletes.
    pub rules_written: usize,
    /// What is there once it is written, if no one else writes. Keep it even if there is nothing to write: it remembers
    /// what was compared, so that the next plan compares only what is new.
    pub after: Actual,
    /// Whether an [`Effort::Exact`] plan would still write something.
    pub leftover: bool,
    /// How many rules stay that no packet reaches. Additive plans keep this below a bound by being exact now and then.
    pub dead_rules: usize,
}

impl Plan {
    /// Which chain of ours a line of [`Plan::restore`] (from 1, as [`failed_line`](crate::failed_line) finds it) is about.
    /// `None` for rules in others' chains and for the lines of a whole table: where the kernel refuses the transaction.
    pub fn chain_at_line(&self, line: usize) -> Option<(Table, ChainName)> {
        failure::chain_at_line(self.restore.as_deref()?, line)
    }
}

/// Compares what is there with what is wanted. Chains of ours that are not wanted go, in every table, sooner or later.
///
/// A chain that is the same allocation as when it was last planned costs one comparison of pointers.
pub fn plan(actual: &Actual, desired: &Ruleset, effort: Effort) -> Plan {
    plan_parts(actual, &[desired], effort)
}

/// The same for what several want, each without knowing of the others. In a table that several write to, hooks at one
/// place stand in the parts' order; of chains of one name the last part's is taken.
pub fn plan_parts(actual: &Actual, parts: &[&Ruleset], effort: Effort) -> Plan {
    let plan = attempt(actual, parts, effort);
    if plan.dead_rules > MOST_DEAD_RULES {
        return attempt(actual, parts, Effort::Exact);
    }
    plan
}

/// What all parts want in a table; copied only where several want something.
fn wanted<'a>(parts: &[&'a Ruleset], table: Table) -> Option<Cow<'a, TableRules>> {
    let mut parts = parts.iter().filter_map(|part| part.tables.get(&table));
    let mut whole = Cow::Borrowed(parts.next()?);
    for part in parts {
        let whole = whole.to_mut();
        whole.hooks.extend(part.hooks.iter().cloned());
        let chains = part.chains.iter();
        whole
            .chains
            .extend(chains.map(|(name, rules)| (name.clone(), rules.clone())));
    }
    Some(whole)
}

fn attempt(actual: &Actual, parts: &[&Ruleset], effort: Effort) -> Plan {
    let empty = ActualTable::default();
    let mut plan = Plan {
        restore: None,
        rules_written: 0,
        after: Actual::default(),
        leftover: false,
        dead_rules: 0,
    };
    let mut text = String::new();
    for table in Table::ALL {
        let (present, wanted) = (actual.tables.get(&table), wanted(parts, table));
        if present.is_none() && wanted.is_none() {
            continue;
        }
        let (present, wanted) = (present.unwrap_or(&empty), wanted.unwrap_or_default());
        let mut planner = TablePlanner::new(present, effort);
        planner.chains(&wanted);
        planner.hooks(&wanted);
        plan.rules_written += planner.edit.rules_written;
        plan.leftover |= planner.leftover;
        plan.dead_rules += planner.dead_rules;
        planner.render(table, &mut text);
        plan.after.tables.insert(table, planner.after);
    }
    plan.restore = (!text.is_empty()).then_some(text);
    plan
}

/// Plans one table.
struct TablePlanner<'a> {
    present: &'a ActualTable,
    effort: Effort,
    edit: Edit,
    new_chains: Vec<ChainName>,
    /// Base chains that rules of ours are to stand in.
    hooked: BTreeSet<&'static str>,
    /// Chains to be emptied and removed once nothing refers to them.
    stale: Vec<ChainName>,
    leftover: bool,
    dead_rules: usize,
    after: ActualTable,
}

impl<'a> TablePlanner<'a> {
    fn new(present: &'a ActualTable, effort: Effort) -> Self {
        Self {
            present,
            effort,
            edit: Edit::default(),
            new_chains: Vec::new(),
            hooked: BTreeSet::new(),
            stale: Vec::new(),
            leftover: false,
            dead_rules: 0,
            after: present.clone(),
        }
    }

    /// Both sides are sorted: one walk over the two.
    fn chains(&mut self, wanted: &TableRules) {
        let present = self.present;
        let mut old = present.ours.iter().peekable();
        let mut changed: Vec<(ChainName, Held)> = Vec::new();
        for (name, rules) in &wanted.chains {
            while let Some((unwanted, chain)) = old.next_if(|(held, _)| *held < name) {
                self.unwanted(unwanted, chain);
            }
            match old.next_if(|(held, _)| *held == name) {
                Some((_, held)) => {
                    changed.extend(
                        self.chain(name, held, rules)
                            .map(|held| (name.clone(), held)),
                    );
                }
                None => {
                    self.new_chains.push(name.clone());
                    for rule in rules.iter() {
                        self.edit.append(name.as_str(), &rule.render());
                    }
                    changed.push((name.clone(), Held::new(rules.clone(), Vec::new())));
                }
            }
        }
        for (unwanted, chain) in old {
            self.unwanted(unwanted, chain);
        }
        if changed.is_empty() && self.stale.is_empty() {
            return;
        }
        let after = Arc::make_mut(&mut self.after.ours);
        for name in &self.stale {
            after.remove(name);
        }
        after.extend(
            changed
                .into_iter()
                .map(|(name, held)| (name, Arc::new(held))),
        );
    }

    fn unwanted(&mut self, name: &ChainName, chain: &Held) {
        match self.effort {
            Effort::Exact => self.stale.push(name.clone()),
            Effort::Additive => {
                self.leftover = true;
                // A chain costs something even if it is empty.
                self.dead_rules += chain.len() + 1;
            }
        }
    }

    /// What a wanted chain then holds, if that (or what we know of it) is something else than now.
    fn chain(&mut self, name: &ChainName, held: &Held, wanted: &Arc<[Rule]>) -> Option<Held> {
        let additive =
            self.effort == Effort::Additive && wanted.last().is_some_and(Rule::is_terminal);
        if held.is(wanted) && (additive || held.dead() == 0) {
            self.dead(held.dead());
            return None;
        }
        let old = held.words();
        let rules: Vec<Wanted> = wanted.iter().map(Wanted::of).collect();
        let dead = if additive {
            let live = self.edit.put_before(name.as_str(), &old, &rules);
            old.into_iter().skip(live).collect()
        } else {
            self.edit.replace(name.as_str(), &old, &rules);
            Vec::new()
        };
        self.dead(dead.len());
        Some(Held::new(wanted.clone(), dead))
    }

    fn dead(&mut self, rules: usize) {
        self.dead_rules += rules;
        self.leftover |= rules > 0;
    }

    fn hooks(&mut self, wanted: &TableRules) {
        let mut chains: BTreeMap<&str, (Vec<Wanted>, Vec<Wanted>)> = BTreeMap::new();
        for Hook {
            chain,
            position,
            rule,
        } in &wanted.hooks
        {
            let name = Builtin::name(*chain);
            self.hooked.insert(name);
            let (first, last) = chains.entry(name).or_default();
            match position {
                HookPosition::First => first.push(Wanted::of(rule)),
                HookPosition::Last => last.push(Wanted::of(rule)),
            }
        }
        let present = self.present;
        for (name, slots) in present.others.iter() {
            let (first, last) = chains.remove(name.as_str()).unwrap_or_default();
            let after = self.edit.hook_chain(name, slots, &first, &last);
            if after != *slots {
                Arc::make_mut(&mut self.after.others).insert(name.clone(), after);
            }
        }
        for (name, (first, last)) in chains {
            let after = self.edit.hook_chain(name, &[], &first, &last);
            Arc::make_mut(&mut self.after.others).insert(name.to_owned(), after);
        }
    }

    fn render(&self, table: Table, text: &mut String) {
        let idle = self.new_chains.is_empty() && self.stale.is_empty();
        if idle && self.edit.lines.is_empty() {
            return;
        }
        // A String takes every write.
        let _ = self.write(table, text);
    }

    /// Where many chains are new, has the program list the table first, which has none of ours yet. iptables-nft then reads all
    /// chains, and no longer looks each command's chain up in the list of those that it is to read: 75,800 rules in 12,900 chains
    /// take it 3 s in place of 16 s, and 175,800 in 62,900 chains 10 s of processor time where they never came to an end.
    ///
    /// It makes no base chain then, either, so those must be there. Those of nat are made: a policy of theirs is always ACCEPT.
    fn have_all_chains_read(&self, table: Table, text: &mut String) -> std::fmt::Result {
        let is_first = self.present.ours.len() < MANY_CHAINS;
        if self.new_chains.len() < MANY_CHAINS || !is_first {
            return Ok(());
        }
        let absent = self
            .hooked
            .iter()
            .filter(|name| !self.present.others.contains_key(**name));
        let absent: Vec<&str> = absent.copied().collect();
        if !absent.is_empty() && table != Table::Nat {
            return Ok(());
        }
        writeln!(text, "-S")?;
        absent
            .iter()
            .try_for_each(|name| writeln!(text, ":{name} ACCEPT [0:0]"))
    }

    fn write(&self, table: Table, text: &mut String) -> std::fmt::Result {
        writeln!(text, "*{}", table.name())?;
        self.have_all_chains_read(table, text)?;
        let mut new: Vec<&ChainName> = self.new_chains.iter().collect();
        // iptables-nft keeps a sorted list of chains and looks for each new one's place from its start: the last name first
        // is found at once, where the first name first takes time by the square of their number.
        if new.len() >= MANY_CHAINS {
            new.reverse();
        }
        for chain in new {
            writeln!(text, ":{chain} - [0:0]")?;
        }
        text.push_str(&self.edit.lines);
        for chain in &self.stale {
            writeln!(text, "-F {chain}")?;
        }
        for chain in &self.stale {
            writeln!(text, "-X {chain}")?;
        }
        writeln!(text, "COMMIT")
    }
}

#[cfg(test)]
mod tests;
