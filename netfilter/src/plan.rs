//! The smallest `iptables-restore --noflush` text that leads from what is there to what is wanted.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::names::{Builtin, ChainName, Table};
use crate::rule::Rule;
use crate::ruleset::{HookPosition, Ruleset, TableRules};
use crate::save::{Actual, ActualTable, Slot, Words};

/// How much of a difference is to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// What judges packets rightly, by additions alone where that can be: iptables-nft adds at one price whatever the
    /// table's size, but is slow to delete. What no packet reaches any more may stay for a later, exact plan.
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
    /// What is there once it is written, if no one else writes.
    pub after: Actual,
    /// Whether an [`Effort::Exact`] plan would still write something.
    pub leftover: bool,
}

/// Compares what is there with what is wanted. Chains of ours that are not wanted go, in every table.
pub fn plan(actual: &Actual, desired: &Ruleset, _effort: Effort) -> Plan {
    let nothing = TableRules::default();
    let empty = ActualTable::default();
    let mut plan = Plan {
        restore: None,
        rules_written: 0,
        after: Actual::default(),
        leftover: false,
    };
    let mut text = String::new();
    for table in Table::ALL {
        let (present, wanted) = (actual.tables.get(&table), desired.tables.get(&table));
        if present.is_none() && wanted.is_none() {
            continue;
        }
        let edit = Edit::table(present.unwrap_or(&empty), wanted.unwrap_or(&nothing));
        plan.rules_written += edit.rules_written;
        edit.render(table, &mut text);
        plan.after.tables.insert(table, edit.after);
    }
    plan.restore = (!text.is_empty()).then_some(text);
    plan
}

/// The changes to one table. Lines are in the order in which they must be carried out.
#[derive(Default)]
struct Edit {
    new_chains: Vec<ChainName>,
    lines: Vec<String>,
    /// Chains to be emptied and removed once nothing refers to them.
    stale: Vec<ChainName>,
    rules_written: usize,
    after: ActualTable,
}

/// A wanted rule: what is written, and what is read back.
struct Wanted {
    text: String,
    words: Words,
}

impl Wanted {
    fn of(rule: &Rule) -> Self {
        let text = rule.render();
        let words = Words::parse(&text).expect("the renderer closes its quotes");
        Self { text, words }
    }
}

impl Edit {
    fn table(present: &ActualTable, wanted: &TableRules) -> Self {
        let mut edit = Self::default();
        for (name, rules) in &wanted.chains {
            let rules: Vec<Wanted> = rules.iter().map(Wanted::of).collect();
            match present.ours.get(name) {
                Some(old) => edit.change_chain(name, old, &rules),
                None => edit.new_chain(name, &rules),
            }
            let words = rules.into_iter().map(|rule| rule.words).collect();
            edit.after.ours.insert(name.clone(), words);
        }
        edit.hooks(present, wanted);
        let stale = present
            .ours
            .keys()
            .filter(|name| !wanted.chains.contains_key(*name));
        edit.stale = stale.cloned().collect();
        edit
    }

    fn new_chain(&mut self, name: &ChainName, rules: &[Wanted]) {
        self.new_chains.push(name.clone());
        for rule in rules {
            self.append(name.as_str(), &rule.text);
        }
    }

    /// Keeps what both begin and end with, and rewrites what is between.
    fn change_chain(&mut self, name: &ChainName, old: &[Words], new: &[Wanted]) {
        let same = |(old, new): &(&Words, &Wanted)| *old == &new.words;
        let kept_first = old.iter().zip(new).take_while(same).count();
        let most = old.len().min(new.len()) - kept_first;
        let kept_last = old
            .iter()
            .rev()
            .zip(new.iter().rev())
            .take(most)
            .take_while(same)
            .count();
        for number in (kept_first + 1..=old.len() - kept_last).rev() {
            self.delete(name.as_str(), number);
        }
        let inserted = new
            .iter()
            .enumerate()
            .take(new.len() - kept_last)
            .skip(kept_first);
        for (index, rule) in inserted {
            if kept_last == 0 {
                self.append(name.as_str(), &rule.text);
            } else {
                self.insert(name.as_str(), index + 1, &rule.text);
            }
        }
    }

    fn hooks(&mut self, present: &ActualTable, wanted: &TableRules) {
        let mut chains: BTreeMap<&str, (Vec<Wanted>, Vec<Wanted>)> = BTreeMap::new();
        for hook in &wanted.hooks {
            let (first, last) = chains.entry(Builtin::name(hook.chain)).or_default();
            let side = if hook.position == HookPosition::First {
                first
            } else {
                last
            };
            side.push(Wanted::of(&hook.rule));
        }
        for (name, slots) in &present.others {
            let (first, last) = chains.remove(name.as_str()).unwrap_or_default();
            self.hook_chain(name, slots, &first, &last);
        }
        for (name, (first, last)) in chains {
            self.hook_chain(name, &[], &first, &last);
        }
    }

    /// Puts our rules before and after everyone else's. What stands right already stays.
    fn hook_chain(&mut self, name: &str, slots: &[Slot], first: &[Wanted], last: &[Wanted]) {
        let same = |(slot, rule): &(&Slot, &Wanted)| matches!(slot, Slot::Ours(words) if *words == rule.words);
        let kept_first = slots.iter().zip(first).take_while(same).count();
        let most = slots.len() - kept_first;
        let kept_last = slots
            .iter()
            .rev()
            .zip(last.iter().rev())
            .take(most)
            .take_while(same)
            .count();
        let between = kept_first..slots.len() - kept_last;
        let mut foreign = 0;
        for (index, slot) in slots
            .iter()
            .enumerate()
            .rev()
            .filter(|(index, _)| between.contains(index))
        {
            match slot {
                Slot::Foreign => foreign += 1,
                Slot::Ours(_) => self.delete(name, index + 1),
            }
        }
        for (index, rule) in first.iter().enumerate().skip(kept_first) {
            self.insert(name, index + 1, &rule.text);
        }
        let before_last = first.len() + foreign;
        for (index, rule) in last.iter().enumerate().take(last.len() - kept_last) {
            self.insert(name, before_last + index + 1, &rule.text);
        }
        let ours = |rules: &[Wanted]| -> Vec<Slot> {
            rules
                .iter()
                .map(|rule| Slot::Ours(rule.words.clone()))
                .collect()
        };
        let mut after = ours(first);
        after.extend(std::iter::repeat_n(Slot::Foreign, foreign));
        after.extend(ours(last));
        self.after.others.insert(name.to_owned(), after);
    }

    fn append(&mut self, chain: &str, rule: &str) {
        self.rules_written += 1;
        self.lines.push(format!("-A {chain} {rule}"));
    }

    fn insert(&mut self, chain: &str, number: usize, rule: &str) {
        self.rules_written += 1;
        self.lines.push(format!("-I {chain} {number} {rule}"));
    }

    fn delete(&mut self, chain: &str, number: usize) {
        self.rules_written += 1;
        self.lines.push(format!("-D {chain} {number}"));
    }

    fn render(&self, table: Table, text: &mut String) {
        if self.new_chains.is_empty() && self.lines.is_empty() && self.stale.is_empty() {
            return;
        }
        // A String takes every write.
        let _ = self.write(table, text);
    }

    fn write(&self, table: Table, text: &mut String) -> std::fmt::Result {
        writeln!(text, "*{}", table.name())?;
        for chain in &self.new_chains {
            writeln!(text, ":{chain} - [0:0]")?;
        }
        for line in &self.lines {
            writeln!(text, "{line}")?;
        }
        for chain in &self.stale {
            writeln!(text, "-F {chain}")?;
        }
        for chain in &self.stale {
            writeln!(text, "-X {chain}")?;
        }
        writeln!(text, "COMMIT")
    }
}
