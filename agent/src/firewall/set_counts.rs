//! How many members our sets should have while they are looked at: writes of ours go on meanwhile, and are no damage.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use netfilter::SetName;
use routes::rule_notices::SetHeader;

/// The members of each set, by our own books.
pub(crate) type Counts = BTreeMap<SetName, usize>;

/// What the sets are by our books, and what they were since a look at them began.
#[derive(Clone, Debug, Default)]
pub(crate) struct SetCounts {
    now: Counts,
    /// Sets that were written since.
    since: BTreeMap<SetName, Span>,
}

/// What a set was, in a time: a write is seen half done, too.
#[derive(Clone, Debug)]
struct Span {
    members: RangeInclusive<usize>,
    /// It was not there before, or is not any more.
    was_absent: bool,
}

impl SetCounts {
    /// After a write of ours the sets have so many members, and on the way there some had `peaks`.
    pub(crate) fn wrote(&mut self, counts: Counts, peaks: &Counts) {
        let before = std::mem::replace(&mut self.now, counts);
        for (name, count) in &before {
            let now = self.now.get(name).copied();
            let peak = peaks.get(name).copied();
            if now != Some(*count) || peak.is_some() {
                self.saw(name, [Some(*count), now, peak.or(now)]);
            }
        }
        let made = self
            .now
            .iter()
            .filter(|(name, _)| !before.contains_key(name));
        let made: Vec<_> = made.map(|(name, count)| (name.clone(), *count)).collect();
        for (name, count) in made {
            // Made first, and filled then.
            self.saw(&name, [None, Some(0), Some(count)]);
        }
    }

    fn saw(&mut self, name: &SetName, states: [Option<usize>; 3]) {
        let was_absent = states.contains(&None);
        for count in states.into_iter().flatten() {
            let span = self.since.entry(name.clone()).or_insert(Span {
                members: count..=count,
                was_absent,
            });
            let (least, most) = (*span.members.start(), *span.members.end());
            span.members = least.min(count)..=most.max(count);
            span.was_absent |= was_absent;
        }
    }

    /// A look begins: what was before counts no longer.
    pub(crate) fn begin(&mut self) {
        self.since.clear();
    }

    /// Whether each set was seen as it is, or as it was at some moment since. Without any write nothing is known of them.
    pub(crate) fn agree(&self, seen: &BTreeMap<String, SetHeader>) -> bool {
        let is_as_now = |(name, count): (&SetName, &usize)| {
            self.since.contains_key(name) || entries(seen, name) == Some(*count)
        };
        let was = |(name, span): (&SetName, &Span)| match entries(seen, name) {
            None => span.was_absent,
            Some(entries) => span.members.contains(&entries),
        };
        self.now.iter().all(is_as_now) && self.since.iter().all(was)
    }

    /// What was seen is told as damage once; from now on the sets are measured by it.
    pub(crate) fn accept(&mut self, seen: &BTreeMap<String, SetHeader>) {
        self.since.clear();
        self.now.retain(|name, count| {
            let entries = entries(seen, name);
            *count = entries.unwrap_or_default();
            entries.is_some()
        });
    }
}

fn entries(seen: &BTreeMap<String, SetHeader>, name: &SetName) -> Option<usize> {
    let header = seen.get(name.as_str())?;
    usize::try_from(header.entries).ok()
}

#[cfg(test)]
mod tests {
    use netfilter::Family;

    use super::*;

    fn name(text: &'static str) -> SetName {
        SetName::fixed(Family::V4, text)
    }

    fn counts(sizes: &[(&'static str, usize)]) -> Counts {
        let sizes = sizes.iter();
        sizes.map(|(text, size)| (name(text), *size)).collect()
    }

    fn seen(sizes: &[(&'static str, u32)]) -> BTreeMap<String, SetHeader> {
        let header = |entries| SetHeader {
            kind: "hash:ip".to_owned(),
            entries,
            references: 1,
        };
        let sizes = sizes.iter();
        sizes
            .map(|(text, size)| (name(text).to_string(), header(*size)))
            .collect()
    }

    #[test]
    fn a_set_that_another_emptied_or_destroyed_right_after_our_write_shows() {
        let mut books = SetCounts::default();
        assert!(books.agree(&seen(&[("one", 7)])), "nothing was written yet");
        books.wrote(counts(&[("one", 3), ("two", 0)]), &counts(&[]));
        books.begin();
        assert!(books.agree(&seen(&[("one", 3), ("two", 0), ("more", 9)])));
        assert!(!books.agree(&seen(&[("one", 0), ("two", 0)])), "emptied");
        assert!(!books.agree(&seen(&[("one", 3)])), "destroyed");
        books.accept(&seen(&[("one", 0)]));
        assert!(books.agree(&seen(&[("one", 0)])), "told once");
        assert!(!books.agree(&seen(&[("one", 1)])));
    }

    #[test]
    fn what_we_write_while_we_look_is_no_damage() {
        let mut books = SetCounts::default();
        books.wrote(counts(&[("one", 1)]), &counts(&[]));
        books.wrote(counts(&[("one", 3)]), &counts(&[]));
        books.begin();
        books.wrote(counts(&[("one", 6), ("new", 1)]), &counts(&[("one", 8)]));
        books.wrote(counts(&[("new", 1)]), &counts(&[]));
        for as_it_was in [
            &[("one", 3)][..],
            &[("one", 4)],
            &[("one", 8), ("new", 0)],
            &[("one", 6), ("new", 1)],
            &[("new", 1)],
        ] {
            assert!(books.agree(&seen(as_it_was)), "{as_it_was:?}");
        }
        assert!(!books.agree(&seen(&[("one", 1)])), "before the look");
        assert!(!books.agree(&seen(&[("one", 9), ("new", 1)])), "never");
        assert!(!books.agree(&seen(&[("one", 4), ("new", 2)])), "never");
        books.begin();
        assert!(books.agree(&seen(&[("new", 1)])));
        assert!(!books.agree(&seen(&[("new", 0)])), "before the last look");
    }

    #[test]
    fn a_set_whose_members_are_replaced_has_more_for_a_moment() {
        let mut books = SetCounts::default();
        books.wrote(counts(&[("one", 2)]), &counts(&[]));
        books.begin();
        books.wrote(counts(&[("one", 2)]), &counts(&[("one", 4)]));
        for entries in 2..=4 {
            assert!(books.agree(&seen(&[("one", entries)])), "{entries}");
        }
        assert!(!books.agree(&seen(&[("one", 1)])));
        assert!(!books.agree(&seen(&[("one", 5)])));
    }
}
