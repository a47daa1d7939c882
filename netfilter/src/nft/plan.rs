//! From what is there to what is wanted, as transactions: nobody sees half of one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::encode::{
    self, DELSETELEM, Message, NEWSETELEM, delete_chain, delete_set, delete_table, elements,
    flush_chain, new_chain, new_rule, new_set, new_table,
};
use super::read::Reading;
use super::{Chain, Name, Octets, Part, Parts, Set, Value};
use crate::names::Family;

/// The name of our table, in both families.
pub const TABLE: &str = "portolan-services";
/// What is new and leads nowhere yet may go to the kernel in several transactions of so many octets.
const TRANSACTION: usize = 2 << 20;

/// What is to be written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Steps {
    /// One after the other. Where there are several, all but the last bring what no packet reaches yet.
    pub transactions: Vec<Vec<Message>>,
}

impl Steps {
    /// Whether there is nothing to be written.
    pub fn is_empty(&self) -> bool {
        self.transactions.is_empty()
    }

    /// How many requests there are.
    pub fn requests(&self) -> usize {
        self.transactions.iter().map(Vec::len).sum()
    }
}

/// From parts that we wrote and that stand as we wrote them. A part that is the same allocation costs a comparison of pointers.
pub fn plan(family: Family, held: &Parts, wanted: &Parts) -> Steps {
    let mut changes = Changes::of(wanted);
    let (mut old, mut new) = (held.iter().peekable(), wanted.iter().peekable());
    loop {
        let (before, after): (&Part, &Part) = match (old.peek(), new.peek()) {
            (None, None) => break,
            (Some((name, before)), Some((of, after))) if name == of => {
                let pair = (*before, *after);
                old.next();
                new.next();
                if Arc::ptr_eq(pair.0, pair.1) {
                    continue;
                }
                (pair.0, pair.1)
            }
            (Some((name, before)), other) if other.is_none_or(|(of, _)| name < of) => {
                let before = *before;
                old.next();
                (before, &NOTHING)
            }
            (_, Some((_, after))) => {
                let after = *after;
                new.next();
                (&NOTHING, after)
            }
            // Without a new one the old one is first.
            (Some(_), None) => break,
        };
        changes.add(before, after);
    }
    changes.settle();
    changes.steps(family, Vec::new())
}

/// From whatever is there, by one transaction: for what is there is not understood, or of another shape.
pub fn rebuild(family: Family, wanted: &Parts) -> Steps {
    let changes = Changes::all(wanted);
    // A table that is not there cannot be deleted: so there is one first.
    let start = vec![new_table(family), delete_table(family), new_table(family)];
    changes.one_step(family, start)
}

/// Away with all of it.
pub fn removal(family: Family) -> Steps {
    Steps {
        transactions: vec![vec![new_table(family), delete_table(family)]],
    }
}

/// From what was read back: what equals is adopted, what differs is replaced.
pub fn repair(family: Family, read: &Reading, wanted: &Parts) -> Steps {
    if read.is_empty() {
        return Changes::all(wanted).steps(family, vec![new_table(family)]);
    }
    match Changes::of_read(family, read, wanted) {
        Some(changes) => changes.one_step(family, Vec::new()),
        None => rebuild(family, wanted),
    }
}

/// What differs, by the order in which it is written.
#[derive(Default)]
struct Changes<'a> {
    /// Sets whose new elements no packet asks before those of others are there.
    behind: BTreeSet<&'a str>,
    new_sets: Vec<(&'a Name, &'a Set)>,
    new_chains: Vec<(&'a Name, &'a Chain)>,
    changed_chains: Vec<(&'a Name, &'a Chain)>,
    /// New keys of sets that are behind others.
    early_elements: Elements<'a>,
    gone_elements: BTreeMap<&'a str, Vec<&'a Octets>>,
    new_elements: Elements<'a>,
    gone_chains: Vec<&'a str>,
    gone_sets: Vec<&'a str>,
}

/// By their sets.
type Elements<'a> = BTreeMap<&'a str, Vec<(&'a Octets, &'a Value)>>;

static NOTHING: Part = Part {
    sets: BTreeMap::new(),
    chains: BTreeMap::new(),
    elements: BTreeMap::new(),
};

impl<'a> Changes<'a> {
    /// None yet, on the way to this.
    fn of(wanted: &'a Parts) -> Self {
        let sets = wanted.values().next().map(|first| first.sets.iter());
        let behind = sets.into_iter().flatten().filter(|(_, set)| set.is_behind);
        Self {
            behind: behind.map(|(name, _)| name.as_str()).collect(),
            ..Self::default()
        }
    }

    fn all(wanted: &'a Parts) -> Self {
        let mut changes = Self::of(wanted);
        for part in wanted.values() {
            changes.add(&NOTHING, part);
        }
        changes
    }

    fn add(&mut self, before: &'a Part, after: &'a Part) {
        for (name, set) in &after.sets {
            if !before.sets.contains_key(name) {
                self.new_sets.push((name, set));
            }
        }
        let gone = before.sets.keys();
        let gone = gone.filter(|name| !after.sets.contains_key(*name));
        self.gone_sets.extend(gone.map(Name::as_str));
        for (name, chain) in &after.chains {
            match before.chains.get(name) {
                None => self.new_chains.push((name, chain)),
                Some(old) if old.rules != chain.rules => self.changed_chains.push((name, chain)),
                Some(_) => {}
            }
        }
        let gone = before.chains.keys();
        let gone = gone.filter(|name| !after.chains.contains_key(*name));
        self.gone_chains.extend(gone.map(Name::as_str));
        for (key, value) in &before.elements {
            if after.elements.get(key) != Some(value) {
                let of_set = self.gone_elements.entry(key.0.as_str()).or_default();
                of_set.push(&key.1);
            }
        }
        for (key, value) in &after.elements {
            let held = before.elements.get(key);
            if held != Some(value) {
                self.add_element((key.0.as_str(), &key.1), value, held.is_some());
            }
        }
    }

    /// A key that one part gives up and another takes is no new one: it is asked.
    fn settle(&mut self) {
        for (set, all) in &mut self.early_elements {
            let gone = self.gone_elements.get(set);
            let gone: BTreeSet<&Octets> = gone.into_iter().flatten().copied().collect();
            if !gone.is_empty() {
                let (asked, new) = all.drain(..).partition(|(key, _)| gone.contains(key));
                let asked: Vec<_> = asked;
                *all = new;
                self.new_elements.entry(set).or_default().extend(asked);
            }
        }
    }

    fn add_element(&mut self, (set, key): (&'a str, &'a Octets), value: &'a Value, is_held: bool) {
        let all = match self.behind.contains(set) && !is_held {
            true => &mut self.early_elements,
            false => &mut self.new_elements,
        };
        all.entry(set).or_default().push((key, value));
    }

    /// `None` if a set or a place where the kernel asks is another than wanted: those cannot be changed.
    fn of_read(family: Family, read: &'a Reading, wanted: &'a Parts) -> Option<Self> {
        let mut changes = Self::of(wanted);
        let (mut sets, mut chains) = (read.sets.clone(), read.chains.clone());
        let mut elements: BTreeMap<(&str, &Octets), &Value> = BTreeMap::new();
        for (set, held) in &read.elements {
            elements.extend(held.iter().map(|(key, value)| ((set.as_str(), key), value)));
        }
        for part in wanted.values() {
            for (name, set) in &part.sets {
                match sets.remove(name.as_str()) {
                    None => changes.new_sets.push((name, set)),
                    Some(held) if held == encode::shape(set) => {}
                    Some(_) => return None,
                }
            }
            for (name, chain) in &part.chains {
                let Some(held) = chains.remove(name.as_str()) else {
                    changes.new_chains.push((name, chain));
                    continue;
                };
                if held.hook != chain.hook.as_ref().map(super::read::ReadHook::of) {
                    return None;
                }
                let hashes = chain.rules.iter().map(|rule| encode::hash(family, rule));
                if !held.rules.iter().cloned().eq(hashes.map(Some)) {
                    changes.changed_chains.push((name, chain));
                }
            }
            for ((set, key), value) in &part.elements {
                let held = elements.remove(&(set.as_str(), key));
                if held == Some(value) {
                    continue;
                }
                if held.is_some() {
                    let of_set = changes.gone_elements.entry(set.as_str()).or_default();
                    of_set.push(key);
                }
                changes.add_element((set.as_str(), key), value, held.is_some());
            }
        }
        for (set, key) in elements.into_keys() {
            changes.gone_elements.entry(set).or_default().push(key);
        }
        let gone = read.chains.keys().filter(|name| chains.contains_key(*name));
        changes.gone_chains = gone.map(String::as_str).collect();
        let gone = read.sets.keys().filter(|name| sets.contains_key(*name));
        changes.gone_sets = gone.map(String::as_str).collect();
        Some(changes)
    }

    /// What is new and not reached yet, in pieces that need not be one transaction.
    fn unreached(&self, family: Family) -> Vec<Vec<Message>> {
        let mut pieces = Vec::new();
        let sets = self.new_sets.iter();
        pieces.extend(sets.map(|(name, set)| vec![new_set(family, name, set)]));
        let chains = self.new_chains.iter();
        pieces.extend(chains.map(|(name, chain)| vec![new_chain(family, name, chain)]));
        let chains = self.new_chains.iter();
        pieces.extend(chains.map(|(name, chain)| rules(family, name, chain)));
        pieces.extend(new_elements(family, &self.early_elements).map(|one| vec![one]));
        pieces
    }

    /// What packets notice.
    fn reached(&self, family: Family) -> Vec<Message> {
        let mut messages = Vec::new();
        for (name, chain) in &self.changed_chains {
            messages.push(flush_chain(family, name.as_str()));
            messages.extend(rules(family, name, chain));
        }
        for (set, keys) in &self.gone_elements {
            let keys = keys.iter().map(|key| (*key, None));
            messages.extend(elements(family, DELSETELEM, set, keys));
        }
        messages.extend(new_elements(family, &self.new_elements));
        let gone = self.gone_chains.iter();
        messages.extend(gone.map(|name| flush_chain(family, name)));
        let gone = self.gone_chains.iter();
        messages.extend(gone.map(|name| delete_chain(family, name)));
        let gone = self.gone_sets.iter();
        messages.extend(gone.map(|name| delete_set(family, name)));
        messages
    }

    fn steps(&self, family: Family, start: Vec<Message>) -> Steps {
        let mut transactions = Vec::new();
        let (mut transaction, mut size) = (start, 0);
        for piece in self.unreached(family) {
            size += piece
                .iter()
                .map(|message| message.body.len() + 16)
                .sum::<usize>();
            transaction.extend(piece);
            if size > TRANSACTION {
                transactions.push(std::mem::take(&mut transaction));
                size = 0;
            }
        }
        transaction.extend(self.reached(family));
        if !transaction.is_empty() {
            transactions.push(transaction);
        }
        Steps { transactions }
    }

    fn one_step(&self, family: Family, start: Vec<Message>) -> Steps {
        let mut transaction = start;
        transaction.extend(self.unreached(family).into_iter().flatten());
        transaction.extend(self.reached(family));
        let transactions = Some(transaction).filter(|messages| !messages.is_empty());
        Steps {
            transactions: transactions.into_iter().collect(),
        }
    }
}

fn rules(family: Family, name: &Name, chain: &Chain) -> Vec<Message> {
    let rules = chain.rules.iter();
    rules.map(|rule| new_rule(family, name, rule)).collect()
}

fn new_elements(family: Family, all: &Elements<'_>) -> impl Iterator<Item = Message> {
    all.iter().flat_map(move |(set, all)| {
        let all = all.iter().map(|(key, value)| (*key, Some(*value)));
        elements(family, NEWSETELEM, set, all)
    })
}
