//! Lines that change one chain, in the order in which they must be carried out.

use std::fmt::Write as _;

use crate::held::{Slot, Words};
use crate::rule::Rule;

/// A wanted rule: what is written, and what is read back.
pub(crate) struct Wanted {
    text: String,
    words: Words,
}

impl Wanted {
    pub(crate) fn of(rule: &Rule) -> Self {
        let text = rule.render();
        let words = Words::rendered(&text);
        Self { text, words }
    }
}

/// The lines of one table that change rules.
#[derive(Default)]
pub(crate) struct Edit {
    pub(crate) lines: String,
    /// How many rules they add, insert or delete.
    pub(crate) rules_written: usize,
}

impl Edit {
    /// Puts the wanted list, which lets no packet past its end, before what is there. Rules that stand in the wanted order
    /// already become part of it. Returns how many those are; what follows them is reached no more.
    pub(crate) fn put_before(&mut self, chain: &str, old: &[Words], new: &[Wanted]) -> usize {
        let mut live = 0;
        for (index, rule) in new.iter().enumerate() {
            match old.get(live) {
                Some(words) if *words == rule.words => live += 1,
                Some(_) => self.insert(chain, index + 1, &rule.text),
                None => self.append(chain, &rule.text),
            }
        }
        live
    }

    /// Keeps what both begin and end with, and rewrites what is between.
    pub(crate) fn replace(&mut self, chain: &str, old: &[Words], new: &[Wanted]) {
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
            self.delete(chain, number);
        }
        let inserted = new
            .iter()
            .enumerate()
            .take(new.len() - kept_last)
            .skip(kept_first);
        for (index, rule) in inserted {
            if kept_last == 0 {
                self.append(chain, &rule.text);
            } else {
                self.insert(chain, index + 1, &rule.text);
            }
        }
    }

    /// Puts our rules before and after everyone else's; what stands right already stays. Returns the chain's new places.
    pub(crate) fn hook_chain(
        &mut self,
        name: &str,
        slots: &[Slot],
        first: &[Wanted],
        last: &[Wanted],
    ) -> Vec<Slot> {
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
                Slot::Ours(words) => self.delete_from_others(name, slots, index, words),
            }
        }
        for (index, rule) in first.iter().enumerate().skip(kept_first) {
            self.insert(name, index + 1, &rule.text);
        }
        let before_last = first.len() + foreign;
        for (index, rule) in last.iter().enumerate().take(last.len() - kept_last) {
            self.insert(name, before_last + index + 1, &rule.text);
        }
        let ours = |rule: &Wanted| Slot::Ours(rule.words.clone());
        first
            .iter()
            .map(ours)
            .chain(std::iter::repeat_n(Slot::Foreign, foreign))
            .chain(last.iter().map(ours))
            .collect()
    }

    pub(crate) fn append(&mut self, chain: &str, rule: &str) {
        self.line(format_args!("-A {chain} {rule}"));
    }

    fn insert(&mut self, chain: &str, number: usize, rule: &str) {
        self.line(format_args!("-I {chain} {number} {rule}"));
    }

    /// Others may have inserted or removed rules of theirs since the chain was read: then a number means another rule. So
    /// ours goes by what it says, where that is one of our own rules and stands there once.
    fn delete_from_others(&mut self, chain: &str, slots: &[Slot], index: usize, words: &Words) {
        let same = |slot: &&Slot| matches!(slot, Slot::Ours(other) if other == words);
        let is_alone = slots.iter().filter(same).count() == 1;
        match words.rule().filter(|_| is_alone) {
            Some(rule) => self.line(format_args!("-D {chain} {}", rule.render())),
            None => self.delete(chain, index + 1),
        }
    }

    fn delete(&mut self, chain: &str, number: usize) {
        self.line(format_args!("-D {chain} {number}"));
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        self.rules_written += 1;
        // A String takes every write.
        let _ = writeln!(self.lines, "{line}");
    }
}
