//! The last good state of every file, and when a change of it is believed.
//!
//! A file that is broken keeps what it held. A file that loses objects while it is still the same
//! file (same inode) may be half-written: the loss is believed once the text has stayed for
//! [`SETTLE`]. A file that was renamed into place is whole, and one that is gone is gone.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::directory::FileRead;

/// How long a text that takes something away must stay unchanged in a file written in place.
pub(crate) const SETTLE: Duration = Duration::from_secs(1);

/// Something a file can hold, and what is compared to see whether it has lost any of it.
pub(crate) trait Held: Default {
    /// Understands a file.
    fn read(file_name: &str, file: &FileRead) -> Self;

    /// Whether the file could not be read whole.
    fn is_broken(&self) -> bool;

    /// Whether something that `self` holds is not in `newer`.
    fn loses(&self, newer: &Self) -> bool;

    /// The state of a file that became broken: what `self` holds, with the complaints about `broken`.
    fn with_complaints_of(self, broken: Self) -> Self;
}

/// Every file of one folder, by name.
#[derive(Debug, Default)]
pub(crate) struct HeldFiles<T> {
    files: BTreeMap<String, HeldFile<T>>,
}

#[derive(Debug)]
struct HeldFile<T> {
    /// What was read last.
    seen: FileRead,
    seen_at: Instant,
    /// What is in force.
    held: T,
    /// Whether `held` was once read without a complaint.
    was_good: bool,
    /// Whether `seen` is not believed yet.
    waits: bool,
}

impl<T: Held> HeldFiles<T> {
    /// Takes what was read now. Returns when to read again at the latest, if something has to settle.
    pub(crate) fn update(
        &mut self,
        read: BTreeMap<String, FileRead>,
        now: Instant,
    ) -> Option<Instant> {
        self.files.retain(|name, _| read.contains_key(name));
        for (name, seen) in read {
            match self.files.remove(&name) {
                None => {
                    let held = T::read(&name, &seen);
                    let was_good = !held.is_broken();
                    let file = HeldFile {
                        seen,
                        seen_at: now,
                        held,
                        was_good,
                        waits: false,
                    };
                    self.files.insert(name, file);
                }
                Some(file) => {
                    let file = file.update(&name, seen, now);
                    self.files.insert(name, file);
                }
            }
        }
        self.files
            .values()
            .filter(|file| file.waits)
            .map(|file| file.seen_at + SETTLE)
            .min()
    }

    /// What is in force, by file name.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &T)> {
        self.files
            .iter()
            .map(|(name, file)| (name.as_str(), &file.held))
    }
}

impl<T: Held> HeldFile<T> {
    fn update(mut self, name: &str, seen: FileRead, now: Instant) -> Self {
        if seen == self.seen && !self.waits {
            return self;
        }
        let same_file = seen.identity == self.seen.identity;
        if seen != self.seen {
            // What was renamed into place has nothing left to settle.
            self.waits = same_file;
            self.seen_at = now;
        }
        let newer = T::read(name, &seen);
        self.seen = seen;
        if newer.is_broken() && self.was_good {
            self.waits = false;
            self.held = self.held.with_complaints_of(newer);
        } else if self.waits && self.held.loses(&newer) && now < self.seen_at + SETTLE {
            // Nothing to do until it has settled.
        } else {
            self.waits = false;
            self.was_good = !newer.is_broken();
            self.held = newer;
        }
        self
    }
}

impl FileRead {
    /// Its text, or why there is none.
    pub(crate) fn text_or_reason(&self) -> Result<&str, &str> {
        self.text.as_deref().map_err(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Words of a text; `!` makes it broken.
    #[derive(Debug, Default, PartialEq)]
    struct Words(Vec<String>, bool);

    impl Held for Words {
        fn read(_: &str, file: &FileRead) -> Self {
            let text = file.text_or_reason().unwrap_or("!");
            let words = text.split_whitespace().filter(|word| *word != "!");
            Self(words.map(str::to_owned).collect(), text.contains('!'))
        }

        fn is_broken(&self) -> bool {
            self.1
        }

        fn loses(&self, newer: &Self) -> bool {
            self.0.iter().any(|word| !newer.0.contains(word))
        }

        fn with_complaints_of(self, _: Self) -> Self {
            Self(self.0, true)
        }
    }

    struct Folder {
        files: HeldFiles<Words>,
        now: Instant,
    }

    impl Folder {
        fn new() -> Self {
            Self {
                files: HeldFiles::default(),
                now: Instant::now(),
            }
        }

        fn read_after(&mut self, milliseconds: u64, inode: u64, text: &str) -> String {
            self.now += Duration::from_millis(milliseconds);
            let read = FileRead {
                text: Ok(text.to_owned()),
                identity: (1, inode),
                mode: 0o644,
            };
            self.files
                .update(BTreeMap::from([("a".to_owned(), read)]), self.now);
            self.files
                .iter()
                .flat_map(|(_, words)| words.0.clone())
                .collect::<Vec<_>>()
                .join(" ")
        }
    }

    #[test]
    fn an_emptied_file_loses_its_objects_only_after_it_has_settled() {
        let mut folder = Folder::new();
        assert_eq!(folder.read_after(0, 7, "x y"), "x y");
        assert_eq!(folder.read_after(50, 7, ""), "x y");
        assert_eq!(folder.read_after(900, 7, ""), "x y");
        assert_eq!(folder.read_after(200, 7, ""), "");
    }

    #[test]
    fn a_file_written_in_place_piece_by_piece_never_loses_an_object() {
        let mut folder = Folder::new();
        folder.read_after(0, 7, "x y z");
        for text in ["", "x", "x y", "x y z w"] {
            let held = folder.read_after(900, 7, text);
            assert!(held.starts_with("x y z"), "{text:?}: {held}");
        }
        assert_eq!(folder.read_after(0, 7, "x y z w"), "x y z w");
    }

    #[test]
    fn a_file_renamed_into_place_is_believed_at_once() {
        let mut folder = Folder::new();
        folder.read_after(0, 7, "x y");
        assert_eq!(folder.read_after(10, 8, "x"), "x");
        assert_eq!(folder.read_after(10, 9, ""), "");
    }

    #[test]
    fn a_broken_file_keeps_its_last_good_state_until_it_is_whole() {
        let mut folder = Folder::new();
        folder.read_after(0, 7, "x y");
        assert_eq!(folder.read_after(10, 8, "z !"), "x y");
        assert_eq!(folder.read_after(5_000, 8, "z !"), "x y");
        assert_eq!(folder.read_after(10, 9, "z"), "z");
    }

    #[test]
    fn a_file_broken_from_the_start_gives_what_can_be_read() {
        let mut folder = Folder::new();
        assert_eq!(folder.read_after(0, 7, "x !"), "x");
        assert_eq!(folder.read_after(10, 8, "x y !"), "x y");
    }

    #[test]
    fn a_file_that_is_gone_holds_nothing() {
        let mut folder = Folder::new();
        folder.read_after(0, 7, "x");
        assert_eq!(folder.files.update(BTreeMap::new(), folder.now), None);
        assert_eq!(folder.files.iter().count(), 0);
    }

    #[test]
    fn the_time_to_read_again_is_when_the_loss_settles() {
        let mut folder = Folder::new();
        folder.read_after(0, 7, "x");
        let read = FileRead {
            text: Ok(String::new()),
            identity: (1, 7),
            mode: 0o644,
        };
        let again = folder
            .files
            .update(BTreeMap::from([("a".to_owned(), read)]), folder.now);
        assert_eq!(again, Some(folder.now + SETTLE));
    }
}
