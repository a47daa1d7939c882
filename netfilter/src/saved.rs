//! What of ours `iptables-save -c` showed, as typed rules with their counters, for people who ask.

use std::collections::{BTreeMap, BTreeSet};

use crate::held::is_ours;
use crate::names::{ChainName, Table};
use crate::rule::Rule;
use crate::save::{ParseError, SavedLine, Sink, read};

/// All of ours that the tables of one family really hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Saved {
    /// Our chains.
    pub chains: BTreeMap<(Table, ChainName), Vec<SavedRule>>,
    /// Our rules in chains that are not ours, in the order of the text.
    pub hooks: Vec<SavedHook>,
}

/// A rule with its counters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedRule {
    /// What it says.
    pub rule: SavedText,
    /// Packets that met its conditions.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// A rule's text, understood or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SavedText {
    /// Exactly what we write for this rule.
    Rule(Rule),
    /// Anything else: another's rule in our chain, or ours changed by another. What follows `-A CHAIN`.
    Unknown(String),
}

/// A rule of ours in another's chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedHook {
    /// The table.
    pub table: Table,
    /// The chain, mostly a built-in one.
    pub chain: String,
    /// Its number in the chain, from 1.
    pub number: usize,
    /// How many rules the chain has.
    pub of: usize,
    /// The rule.
    pub rule: SavedRule,
}

impl Saved {
    /// Reads the output of `iptables-save -c` or `ip6tables-save -c`. Without `-c` all counters are 0.
    ///
    /// # Errors
    /// If a line is not understood or a table is incomplete.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let mut reader = Reader::default();
        read(text, &mut reader)?;
        let Reader {
            mut saved,
            lengths,
            marked,
        } = reader;
        let is_ours = |key: &(Table, ChainName)| !key.1.is_of_services() || marked.contains(key);
        saved.chains.retain(|key, _| is_ours(key));
        for hook in &mut saved.hooks {
            let key = (hook.table, hook.chain.clone());
            hook.of = lengths.get(&key).copied().unwrap_or_default();
        }
        Ok(saved)
    }
}

#[derive(Default)]
struct Reader {
    saved: Saved,
    /// How many rules each of others' chains has.
    lengths: BTreeMap<(Table, String), usize>,
    /// Chains of Services in which a rule says that they are ours.
    marked: BTreeSet<(Table, ChainName)>,
}

impl Sink for Reader {
    fn chain(&mut self, table: Table, name: &str) {
        if let Some(name) = ChainName::read(name) {
            self.saved.chains.entry((table, name)).or_default();
        }
    }

    fn rule(&mut self, table: Table, line: &SavedLine<'_>) {
        if let Some(name) = ChainName::read(line.chain) {
            let key = (table, name);
            if key.1.is_of_services() && is_ours(line.words) {
                self.marked.insert(key.clone());
            }
            let chain = self.saved.chains.entry(key).or_default();
            return chain.push(SavedRule::read(line));
        }
        let key = (table, line.chain.to_owned());
        let length = self.lengths.entry(key).or_default();
        *length += 1;
        if is_ours(line.words) {
            self.saved.hooks.push(SavedHook {
                table,
                chain: line.chain.to_owned(),
                number: *length,
                of: 0,
                rule: SavedRule::read(line),
            });
        }
    }
}

impl SavedRule {
    fn read(line: &SavedLine<'_>) -> Self {
        let unknown = || {
            let rest = line.text.splitn(3, ' ').nth(2).unwrap_or_default();
            SavedText::Unknown(rest.to_owned())
        };
        let (packets, bytes) = line.counters;
        Self {
            rule: Rule::from_words(line.words).map_or_else(unknown, SavedText::Rule),
            packets,
            bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::Action;

    #[test]
    fn our_rules_are_typed_and_whatever_else_stands_in_our_chains_is_shown_as_it_is() {
        let drop = Rule::new([], Action::Drop);
        let text = format!(
            "*filter\n:FORWARD ACCEPT [9:9]\n:PTL-A - [0:0]\n:OTHER - [0:0]\n\
             [1:60] -A FORWARD -j OTHER\n[2:120] -A FORWARD {}\n[3:180] -A FORWARD -j DROP\n\
             [4:240] -A PTL-A {}\n[5:300] -A PTL-A -p tcp -m comment --comment \"a b\" -j ACCEPT\n\
             [6:360] -A OTHER -j RETURN\nCOMMIT\n",
            Rule::new([], Action::Jump(ChainName::fixed("A"))).render(),
            drop.render(),
        );
        let saved = Saved::parse(&text).unwrap();
        let hook = saved.hooks.first().unwrap();
        assert_eq!(
            (hook.chain.as_str(), hook.number, hook.of),
            ("FORWARD", 2, 3)
        );
        assert_eq!((hook.rule.packets, hook.rule.bytes), (2, 120));
        let unknown = "-p tcp -m comment --comment \"a b\" -j ACCEPT".to_owned();
        let chain: Vec<(SavedText, u64)> = saved
            .chains
            .into_values()
            .flatten()
            .map(|rule| (rule.rule, rule.packets))
            .collect();
        assert_eq!(
            chain,
            [(SavedText::Rule(drop), 4), (SavedText::Unknown(unknown), 5)]
        );
    }

    #[test]
    fn a_rule_of_ours_with_one_word_changed_is_not_taken_for_ours() {
        let text = Rule::new([], Action::Drop).render();
        assert!(Rule::parse(&text).is_some());
        assert_eq!(Rule::parse(&text.replace("DROP", "ACCEPT")), None);
        assert_eq!(Rule::parse("-j DROP"), None);
    }
}
