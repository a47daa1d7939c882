//! A chain of filters: their rules one after the other, of which the first that matches decides.

use std::borrow::Cow;
use std::sync::Arc;

use super::{Action, Facts, Operation, Outcome, Rule, Source, Subject, Verdict, operation};
use crate::wire::{Asn, PathAttributes};

/// The rules of one direction in order. Cheap to clone; equal if rules and their names are.
///
/// An empty chain, the default, matches nothing.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FilterChain {
    entries: Arc<[Entry]>,
    needs_attributes: bool,
}

/// A rule and what people call it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Entry {
    rule: Rule,
    name: Box<str>,
}

impl Default for FilterChain {
    fn default() -> Self {
        Self::new(std::iter::empty::<(&str, Vec<Rule>)>())
    }
}

impl FilterChain {
    /// Joins the rules of several filters, each with its name, in this order.
    pub fn new<N: AsRef<str>>(filters: impl IntoIterator<Item = (N, Vec<Rule>)>) -> Self {
        let mut entries = Vec::new();
        for (filter, rules) in filters {
            for (rule, number) in rules.into_iter().zip(1_u32..) {
                let name = format!("filter {} rule {number}", filter.as_ref()).into();
                entries.push(Entry { rule, name });
            }
        }
        Self {
            needs_attributes: entries.iter().any(|entry| entry.rule.needs_attributes()),
            entries: entries.into(),
        }
    }

    /// Whether it has no rule.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How many rules it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether any condition looks at attributes. If none does, [`FilterChain::first_match`] never asks for them.
    #[must_use]
    pub fn needs_attributes(&self) -> bool {
        self.needs_attributes
    }

    /// Whether, for a given peer, which rule decides depends on the prefix alone.
    #[must_use]
    pub fn needs_prefix_only(&self) -> bool {
        let by_source = |entry: &Entry| entry.rule.matches.source.is_some();
        !self.needs_attributes && !self.entries.iter().any(by_source)
    }

    /// The place of the first rule that matches. `attributes` is called at most when a rule's other
    /// conditions hold and it looks at attributes too.
    pub fn first_match<'a>(
        &self,
        facts: &Facts,
        mut attributes: impl FnMut() -> &'a PathAttributes,
    ) -> Option<usize> {
        let matches = |entry: &Entry| entry.rule.matches.holds(facts, &mut attributes);
        self.entries.iter().position(matches)
    }

    /// The first rule that matches.
    #[must_use]
    pub fn evaluate(&self, subject: &Subject<'_>) -> Option<&Rule> {
        let place = self.first_match(&subject.facts(), || subject.attributes)?;
        self.rule(place)
    }

    /// What becomes of a route, its attributes as the deciding rule changes them.
    #[must_use]
    pub fn judge<'a>(&self, subject: &Subject<'a>) -> Outcome<'a> {
        let rule = self.first_match(&subject.facts(), || subject.attributes);
        let verdict = match rule.and_then(|place| self.rule(place)) {
            None => Verdict::NoMatch,
            Some(rule) => rule.verdict(subject.attributes, subject.own_as),
        };
        Outcome { rule, verdict }
    }

    /// The rule at a place.
    #[must_use]
    pub fn rule(&self, place: usize) -> Option<&Rule> {
        self.entries.get(place).map(|entry| &entry.rule)
    }

    /// What people call the rule at a place: `filter NAME rule 3`, counted from 1 in its filter.
    /// Empty where there is none.
    #[must_use]
    pub fn name_of(&self, place: usize) -> &str {
        self.entries.get(place).map_or("", |entry| &entry.name)
    }
}

impl Rule {
    /// What this rule makes of a route that it matches.
    #[must_use]
    pub fn verdict<'a>(&self, attributes: &'a PathAttributes, own_as: Asn) -> Verdict<'a> {
        match &self.action {
            Action::Reject => Verdict::Reject,
            Action::Accept(operations) => Verdict::Accept(changed(attributes, operations, own_as)),
        }
    }

    fn needs_attributes(&self) -> bool {
        self.matches.as_path_prefix.is_some() || !self.matches.communities.is_empty()
    }
}

fn changed<'a>(
    attributes: &'a PathAttributes,
    operations: &[Operation],
    own_as: Asn,
) -> Cow<'a, PathAttributes> {
    let mut out = Cow::Borrowed(attributes);
    for operation in operations {
        if operation.changes(&out) {
            operation::apply(operation, own_as, out.to_mut());
        }
    }
    out
}

impl Subject<'_> {
    /// What of it can be seen without its attributes.
    #[must_use]
    pub fn facts(&self) -> Facts {
        Facts {
            prefix: self.prefix,
            originated: self.originated,
            peer_external: self.peer_external,
            own_as: self.own_as,
        }
    }
}

impl Facts {
    pub(super) fn source(&self) -> Source {
        if self.originated {
            Source::Originated
        } else {
            Source::Learned
        }
    }
}
