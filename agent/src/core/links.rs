//! Which host ends are there: by what ADD and DEL say, and by looks at all of them, which hold up nobody.

use std::collections::{BTreeMap, BTreeSet};

/// What a look found: every host end, and whether it is up.
pub(crate) type Seen = BTreeMap<String, bool>;

/// The host ends that are there.
#[derive(Clone, Debug, Default)]
pub(super) struct Links {
    there: BTreeSet<String>,
    look: Look,
}

#[derive(Clone, Debug, Default)]
enum Look {
    #[default]
    None,
    /// One is under way. It may not have seen what was said since it began.
    UnderWay {
        said: BTreeMap<String, bool>,
        again: bool,
    },
}

impl Links {
    pub(super) fn all(&self) -> &BTreeSet<String> {
        &self.there
    }

    /// Whether a look is to be started now; one that is under way is followed by another.
    pub(super) fn begin_look(&mut self) -> bool {
        match &mut self.look {
            Look::UnderWay { again, .. } => {
                *again = true;
                false
            }
            Look::None => {
                self.look = Look::UnderWay {
                    said: BTreeMap::new(),
                    again: false,
                };
                true
            }
        }
    }

    /// Takes what a look found, if it could look; whether that changes anything, and whether to look once more.
    ///
    /// A host end that is down and was never up is one that an ADD is making: it counts once that ADD says so.
    pub(super) fn end_look(&mut self, seen: Option<Seen>) -> (bool, bool) {
        let Look::UnderWay { said, again } = std::mem::take(&mut self.look) else {
            return (false, false);
        };
        let Some(seen) = seen else {
            return (false, again);
        };
        let counts = |(name, is_up): &(String, bool)| *is_up || self.there.contains(name);
        let now = seen.into_iter().filter(counts).map(|(name, _)| name);
        let before = self.there.clone();
        self.there = now.collect();
        for (name, there) in said {
            self.put(name, there);
        }
        (self.there != before, again)
    }

    pub(super) fn set(&mut self, interface: &str, there: bool) {
        if let Look::UnderWay { said, .. } = &mut self.look {
            said.insert(interface.to_owned(), there);
        }
        self.put(interface.to_owned(), there);
    }

    fn put(&mut self, interface: String, there: bool) {
        if there {
            self.there.insert(interface);
        } else {
            self.there.remove(&interface);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(links: &[(&str, bool)]) -> Seen {
        let links = links
            .iter()
            .map(|(name, is_up)| ((*name).to_owned(), *is_up));
        links.collect()
    }

    fn names(links: &Links) -> Vec<&str> {
        links.all().iter().map(String::as_str).collect()
    }

    #[test]
    fn what_is_said_while_a_look_is_under_way_is_newer_than_what_it_finds() {
        let mut links = Links::default();
        links.set("gone", true);
        assert!(links.begin_look());
        links.set("new", true);
        links.set("gone", false);
        let found = seen(&[("gone", true), ("old", true)]);
        assert_eq!(links.end_look(Some(found)), (true, false));
        assert_eq!(names(&links), ["new", "old"]);
    }

    #[test]
    fn a_host_end_that_an_add_is_making_counts_once_it_is_up() {
        let mut links = Links::default();
        links.set("known", true);
        assert!(links.begin_look());
        let found = || seen(&[("known", false), ("making", false)]);
        assert_eq!(links.end_look(Some(found())), (false, false));
        assert_eq!(names(&links), ["known"]);
        links.set("making", true);
        assert!(links.begin_look());
        assert_eq!(links.end_look(Some(found())), (false, false));
        assert_eq!(names(&links), ["known", "making"]);
    }

    #[test]
    fn a_look_asked_for_during_another_follows_it_and_a_failed_one_changes_nothing() {
        let mut links = Links::default();
        links.set("known", true);
        assert!(links.begin_look());
        assert!(!links.begin_look());
        assert_eq!(links.end_look(None), (false, true));
        assert!(links.begin_look());
        assert_eq!(links.end_look(Some(seen(&[]))), (true, false));
        assert!(names(&links).is_empty());
    }
}
