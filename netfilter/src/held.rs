//! What the tables hold, as read back or as we wrote it: our chains rule by rule, of others' the places alone.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::names::{Builtin, CHAIN_PREFIX, ChainName, PROXY_CANARY, Table};
use crate::rule::{Protocol, Rule};
use crate::rule_text::COMMENT_PREFIX;
use crate::ruleset::Chains;
use crate::shared_map::SharedMap;

/// A rule as words that do not hang on the program's version, joined by NUL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Words(Arc<str>);

impl Words {
    /// The words that a rule of ours is read back as.
    pub(crate) fn rendered(text: &str) -> Self {
        Self::of(&tokens(text).expect("the renderer closes its quotes"))
    }

    /// Another's rule, of which only the place is known: it is no rule that we write.
    pub(crate) fn of_another() -> Self {
        Self("?".into())
    }

    /// The words of what follows `-A CHAIN`.
    pub(crate) fn of(words: &[Cow<'_, str>]) -> Self {
        let mut joined = String::with_capacity(words.iter().map(|word| word.len() + 1).sum());
        let mut previous = "";
        for word in words {
            if !joined.is_empty() {
                joined.push('\0');
            }
            joined.push_str(if previous == "-p" {
                Protocol::canonical(word)
            } else {
                word
            });
            previous = word;
        }
        Self(joined.into())
    }

    /// Whether they lead into a chain of Services.
    fn leads_to_services(&self) -> bool {
        let mut words = self
            .0
            .split('\0')
            .skip_while(|word| !matches!(*word, "-j" | "-g"));
        let target = words.nth(1).and_then(ChainName::read);
        target.is_some_and(|name| name.serves())
    }

    /// The rule that they say, if it is one that we write.
    pub(crate) fn rule(&self) -> Option<Rule> {
        let words: Vec<Cow<'_, str>> = self.0.split('\0').map(Cow::Borrowed).collect();
        Rule::from_words(&words)
    }
}

/// A chain of ours: a list that we wanted and all of which is in force, then what stands behind it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Held {
    /// The list, once we compared or wrote it.
    written: Option<Arc<[Rule]>>,
    /// What follows: without a list, all there is; behind one, rules that no packet reaches.
    rest: Vec<Words>,
}

impl Held {
    pub(crate) fn new(written: Arc<[Rule]>, dead: Vec<Words>) -> Self {
        Self {
            written: Some(written),
            rest: dead,
        }
    }

    pub(crate) fn push(&mut self, rule: Words) {
        self.rest.push(rule);
    }

    /// Whether this very list is in force.
    pub(crate) fn is(&self, wanted: &Arc<[Rule]>) -> bool {
        self.written
            .as_ref()
            .is_some_and(|written| Arc::ptr_eq(written, wanted))
    }

    /// How many rules no packet reaches, as far as we know.
    pub(crate) fn dead(&self) -> usize {
        if self.written.is_some() {
            self.rest.len()
        } else {
            0
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.written.as_ref().map_or(0, |written| written.len()) + self.rest.len()
    }

    /// All its rules.
    pub(crate) fn words(&self) -> Vec<Words> {
        let written = self.written.iter().flat_map(|rules| rules.iter());
        written
            .map(|rule| Words::rendered(&rule.render()))
            .chain(self.rest.iter().cloned())
            .collect()
    }
}

impl PartialEq for Held {
    fn eq(&self, other: &Self) -> bool {
        self.words() == other.words()
    }
}

impl Eq for Held {}

/// One place in a chain that is not ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Slot {
    /// Another owner's rule.
    Foreign,
    /// A rule of ours.
    Ours(Words),
}

impl Slot {
    /// Ours is what bears our comment or leads into a chain of ours.
    pub(crate) fn read(words: &[Cow<'_, str>]) -> Self {
        if is_ours(words) {
            Self::Ours(Words::of(words))
        } else {
            Self::Foreign
        }
    }
}

pub(crate) fn is_ours(words: &[Cow<'_, str>]) -> bool {
    let mut pairs = words.iter().zip(words.iter().skip(1));
    pairs.any(|(option, value)| match option.as_ref() {
        "--comment" => value.starts_with(COMMENT_PREFIX),
        "-j" | "-g" => value.starts_with(CHAIN_PREFIX),
        _ => false,
    })
}

/// What one table holds. Copies share what they don't change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ActualTable {
    pub(crate) ours: SharedMap<ChainName, Arc<Held>>,
    /// The built-in chains, and others' chains that hold a rule of ours.
    pub(crate) others: Arc<BTreeMap<String, Vec<Slot>>>,
    /// A chain of another service proxy, if there is one.
    pub(crate) other_proxy: Option<Arc<str>>,
    pub(crate) planned: Planned,
}

/// For what the table was planned last; nothing where it was read since. All chains hold what these want and nothing else but
/// those that are named: so the next plan looks at these, and at what is wanted otherwise now.
#[derive(Clone, Debug, Default)]
pub(crate) struct Planned(pub(crate) Option<(Vec<Chains>, BTreeSet<ChainName>)>);

/// What is there is the same, whatever is remembered of how it came to be.
impl PartialEq for Planned {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Planned {}

impl ActualTable {
    /// Takes a rule in a chain that is not known to be ours, or that is.
    pub(crate) fn push(&mut self, chain: &str, words: &[Cow<'_, str>]) {
        let name = ChainName::read(chain).filter(|name| {
            !name.is_of_services() || is_ours(words) || self.ours.contains_key(name)
        });
        let Some(name) = name else {
            let slots = Arc::make_mut(&mut self.others);
            let slots = slots.entry(chain.to_owned()).or_default();
            return slots.push(Slot::read(words));
        };
        if name.is_of_services() && self.others.contains_key(chain) {
            // The first rule that says whose the chain is: what stands before it is another's, put into a chain of ours.
            let before = Arc::make_mut(&mut self.others).remove(chain);
            let held = self.ours.get_or_default(&name);
            for _ in before.iter().flatten() {
                Arc::make_mut(held).push(Words::of_another());
            }
        }
        let held = self.ours.get_or_default(&name);
        Arc::make_mut(held).push(Words::of(words));
    }

    /// Takes a chain, which may stay empty.
    pub(crate) fn chain(&mut self, chain: &str) {
        match ChainName::read(chain).filter(|name| !name.is_of_services()) {
            Some(name) => {
                self.ours.get_or_default(&name);
            }
            None => {
                let others = Arc::make_mut(&mut self.others);
                others.entry(chain.to_owned()).or_default();
            }
        }
    }

    /// Notes a chain that only another service proxy makes: it fills one of such a name, and leaves its canary empty.
    pub(crate) fn find_other_proxy(&mut self) {
        let is_its = |(name, slots): &(&String, &Vec<Slot>)| {
            name.as_str() == PROXY_CANARY || (!slots.is_empty() && ChainName::read(name).is_some())
        };
        let found = self.others.iter().find(is_its);
        self.other_proxy = found.map(|(name, _)| name.as_str().into());
    }
    /// Forgets others' chains that do not concern us: a node can have tens of thousands.
    pub(crate) fn forget_foreign(&mut self) {
        let concerns = |name: &str, slots: &[Slot]| {
            Builtin::ALL.into_iter().any(|known| known.name() == name)
                || slots.iter().any(|slot| *slot != Slot::Foreign)
        };
        Arc::make_mut(&mut self.others).retain(|name, slots| concerns(name, slots));
    }
}

/// What the tables of one family hold, as far as it concerns us. Copies share what they don't change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Actual {
    pub(crate) tables: BTreeMap<Table, ActualTable>,
}

impl Actual {
    /// A chain that kube-proxy, or another that does its work by its names, made here. Who finds one must not write chains
    /// of Services: a restore would take away the other's (semantics 149).
    pub fn other_proxy(&self) -> Option<&str> {
        let mut found = self
            .tables
            .values()
            .filter_map(|table| table.other_proxy.as_deref());
        found.next()
    }

    /// The same as if chains of Services, and the ways into them, were others': a plan neither uses nor removes them.
    #[must_use]
    pub fn without_services(mut self) -> Self {
        for table in self.tables.values_mut() {
            table.ours.retain(|name, _| !name.serves());
            table.planned = Planned::default();
            for slot in Arc::make_mut(&mut table.others).values_mut().flatten() {
                if matches!(slot, Slot::Ours(words) if words.leads_to_services()) {
                    *slot = Slot::Foreign;
                }
            }
        }
        self
    }

    /// How many rules of ours there are, hooks included.
    pub fn rule_count(&self) -> usize {
        let ours_in =
            |slots: &Vec<Slot>| slots.iter().filter(|slot| **slot != Slot::Foreign).count();
        let of_table = |table: &ActualTable| {
            table.ours.values().map(|chain| chain.len()).sum::<usize>()
                + table.others.values().map(ours_in).sum::<usize>()
        };
        self.tables.values().map(of_table).sum()
    }
}

/// Cuts a line into words; quotes keep blanks, a backslash keeps the next character. `None` if a quote stays open.
pub(crate) fn tokens(line: &str) -> Option<Vec<Cow<'_, str>>> {
    let mut words = Vec::with_capacity(line.len() / 6);
    let mut rest = line.trim_start_matches(' ');
    while !rest.is_empty() {
        let (word, after) = match plain_token(rest) {
            Some(plain) => plain,
            None => token(rest)?,
        };
        words.push(word);
        rest = after.trim_start_matches(' ');
    }
    Some(words)
}

/// The first word, if it is as it stands or wholly in quotes: nearly all are.
fn plain_token(text: &str) -> Option<(Cow<'_, str>, &str)> {
    let (word, after) = match text.strip_prefix('"') {
        Some(inner) => {
            let (word, after) = inner.split_at_checked(inner.find(['"', '\\'])?)?;
            (word, after.strip_prefix('"')?)
        }
        None => text.split_at_checked(text.find([' ', '"', '\\']).unwrap_or(text.len()))?,
    };
    let ends = after.is_empty() || after.starts_with(' ');
    ends.then_some((Cow::Borrowed(word), after))
}

/// The first word, however it is written.
fn token(text: &str) -> Option<(Cow<'_, str>, &str)> {
    let mut word = String::new();
    let mut quoted = false;
    let mut characters = text.chars();
    loop {
        let before = characters.as_str();
        match characters.next() {
            Some('"') => quoted = !quoted,
            Some('\\') => word.push(characters.next()?),
            Some(' ') if !quoted => return Some((word.into(), before)),
            Some(other) => word.push(other),
            None => return (!quoted).then(|| (word.into(), before)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_cut_as_a_shell_would() {
        let cut = |text| tokens(text).map(|words| words.join("|"));
        assert_eq!(cut("a  b c ").as_deref(), Some("a|b|c"));
        assert_eq!(cut("a \"b c\" d").as_deref(), Some("a|b c|d"));
        assert_eq!(cut("a \"b \\\" c\" d\\ e").as_deref(), Some("a|b \" c|d e"));
        assert_eq!(cut("a\"b c\"d \"\" e\"\"").as_deref(), Some("ab cd||e"));
        assert_eq!(cut("").as_deref(), Some(""));
        for open in ["a \"b", "a\"", "a \\", "\"a\\\""] {
            assert_eq!(cut(open), None, "{open}");
        }
    }
}
