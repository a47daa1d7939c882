//! How many members our sets should have while they are looked at: writes of ours go on meanwhile, and are no damage.

use std::collections::{BTreeMap, BTreeSet};

use netfilter::SetName;
use routes::rule_notices::SetHeader;

/// So many writes during one look are remembered.
const VERSIONS: usize = 64;

/// The members of each set, by our own books.
pub(crate) type Counts = BTreeMap<SetName, usize>;

/// What the sets were, write by write, since the look began.
#[derive(Clone, Debug, Default)]
pub(crate) struct SetCounts {
    versions: Vec<Counts>,
}

impl SetCounts {
    /// After a write of ours the sets have so many members.
    pub(crate) fn wrote(&mut self, counts: Counts) {
        if self.versions.len() >= VERSIONS {
            self.versions.remove(0);
        }
        self.versions.push(counts);
    }

    /// A look begins: what was before the last write counts no longer.
    pub(crate) fn begin(&mut self) {
        let before_the_last = self.versions.len().saturating_sub(1);
        self.versions.drain(..before_the_last);
    }

    /// Whether each set was seen as it was at some moment since. Without any write nothing is known of them.
    pub(crate) fn agree(&self, seen: &BTreeMap<String, SetHeader>) -> bool {
        let names: BTreeSet<&SetName> = self.versions.iter().flat_map(BTreeMap::keys).collect();
        names.into_iter().all(|name| {
            let header = seen.get(name.as_str());
            let entries = header.and_then(|header| usize::try_from(header.entries).ok());
            let mut versions = self.versions.iter();
            versions.any(|counts| counts.get(name).copied() == entries)
        })
    }

    /// What was seen is told as damage once; from now on the sets are measured by it.
    pub(crate) fn accept(&mut self, seen: &BTreeMap<String, SetHeader>) {
        let Some(mut counts) = self.versions.pop() else {
            return;
        };
        counts.retain(|name, count| {
            let header = seen.get(name.as_str());
            let entries = header.and_then(|header| usize::try_from(header.entries).ok());
            *count = entries.unwrap_or_default();
            entries.is_some()
        });
        self.versions = vec![counts];
    }
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
        books.wrote(counts(&[("one", 3), ("two", 0)]));
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
        books.wrote(counts(&[("one", 1)]));
        books.wrote(counts(&[("one", 3)]));
        books.begin();
        books.wrote(counts(&[("one", 4), ("new", 1)]));
        books.wrote(counts(&[("new", 1)]));
        for as_it_was in [&[("one", 3)][..], &[("one", 4), ("new", 1)], &[("new", 1)]] {
            assert!(books.agree(&seen(as_it_was)), "{as_it_was:?}");
        }
        assert!(!books.agree(&seen(&[("one", 1)])), "before the look");
        assert!(!books.agree(&seen(&[("one", 4), ("new", 0)])));
        books.begin();
        assert!(!books.agree(&seen(&[("one", 3)])), "before the last look");
    }
}
