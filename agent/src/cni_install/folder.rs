//! The folder of network configurations as a runtime sees it: which files count, in which order, and whose they are.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::conflist::{Owner, judge};
use super::disk::is_half_written;

/// What names of files end with that runtimes read.
const ENDINGS: [&str; 3] = ["conf", "conflist", "json"];

/// A file that a runtime would read.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) path: PathBuf,
    pub(super) owner: Owner,
}

/// Files that count, in the order in which runtimes take them, and those an install was killed over.
#[derive(Debug, Default)]
pub(super) struct Folder {
    pub(super) entries: Vec<Entry>,
    pub(super) half_written: Vec<PathBuf>,
}

impl Folder {
    /// Reads a folder; one that is not there is empty.
    ///
    /// # Errors
    /// If it cannot be listed.
    pub(super) fn read(path: &Path) -> anyhow::Result<Self> {
        let cannot = || format!("cannot list {}", path.display());
        let listed = match fs::read_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            listed => listed.with_context(cannot)?,
        };
        let mut folder = Self::default();
        for entry in listed {
            let entry = entry.with_context(cannot)?;
            let path = entry.path();
            if entry.file_type().with_context(cannot)?.is_dir() {
                continue;
            }
            if is_half_written(&path) {
                folder.half_written.push(path);
            } else if has_ending(&path) {
                let owner = match fs::read(&path) {
                    Ok(bytes) => judge(&path, &bytes),
                    // It went away since: nobody's any more.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    Err(error) => Owner::Invalid(format!("it cannot be read: {error}")),
                };
                folder.entries.push(Entry { path, owner });
            }
        }
        folder.entries.sort_by(|a, b| a.path.cmp(&b.path));
        folder.half_written.sort();
        Ok(folder)
    }

    /// The files of ours.
    pub(super) fn ours(&self) -> impl Iterator<Item = &Path> {
        let ours = self
            .entries
            .iter()
            .filter(|entry| entry.owner == Owner::Ours);
        ours.map(|entry| entry.path.as_path())
    }

    /// What keeps the runtime from ours, and what to do about it.
    pub(super) fn warnings(&self) -> Vec<String> {
        let Some(first) = self.entries.first() else {
            return Vec::new();
        };
        let path = first.path.display();
        match &first.owner {
            Owner::Ours => Vec::new(),
            Owner::Invalid(why) => vec![format!(
                "{path} sorts before ours and is no network configuration ({why}): containerd loads none while it is \
                 there, and the node is not ready; mend or remove it"
            )],
            Owner::Other(name) => vec![format!(
                "{path} (network {name}) sorts before ours: the runtime takes that one; remove it, or give ours a name \
                 that sorts before it by --conf-name"
            )],
        }
    }
}

/// Whether a runtime would read a file of this name.
pub(super) fn has_ending(path: &Path) -> bool {
    // Go's filepath.Ext of ".conf" is ".conf"; Rust's extension is none.
    let name = path
        .file_name()
        .map(OsStr::to_string_lossy)
        .unwrap_or_default();
    let ending = name.rsplit_once('.').map(|(_, ending)| ending);
    ending.is_some_and(|ending| ENDINGS.contains(&ending))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: &str = r#"{"name":"portolan","plugins":[{"type":"portolan-cni"}]}"#;
    const OTHER: &str = r#"{"name":"lab","plugins":[{"type":"bridge"}]}"#;

    fn folder(files: &[(&str, &str)]) -> (tempfile::TempDir, Folder) {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(dir.path().join(name), text).unwrap();
        }
        let folder = Folder::read(dir.path()).unwrap();
        (dir, folder)
    }

    #[test]
    fn files_count_by_their_ending_and_in_the_order_of_their_names() {
        let (dir, found) = folder(&[
            ("20-b.conf", "{}"),
            ("10-portolan.conflist", OURS),
            ("99-c.json", "{}"),
            ("README", ""),
            ("10-a.conflist.bak", ""),
            (".10-portolan.conflist.portolan-new", "{"),
        ]);
        fs::create_dir(dir.path().join("00-folder.conf")).unwrap();
        let names: Vec<_> = found
            .entries
            .iter()
            .map(|e| e.path.file_name().unwrap())
            .collect();
        assert_eq!(names, ["10-portolan.conflist", "20-b.conf", "99-c.json"]);
        assert_eq!(found.half_written.len(), 1);
        assert_eq!(found.ours().count(), 1);
        assert!(found.warnings().is_empty());
    }

    #[test]
    fn a_file_before_ours_is_warned_about_with_what_to_do() {
        let (_dir, found) = folder(&[("05-lab.conflist", OTHER), ("10-portolan.conflist", OURS)]);
        let warning = found.warnings().pop().unwrap();
        assert!(
            warning.contains("05-lab.conflist") && warning.contains("--conf-name"),
            "{warning}"
        );
        let (_dir, found) = folder(&[("05-lab.conf", OTHER), ("10-portolan.conflist", OURS)]);
        let warning = found.warnings().pop().unwrap();
        assert!(warning.contains("mend or remove it"), "{warning}");
        let (_dir, found) = folder(&[("10-portolan.conflist", OURS), ("20-lab.conf", "{")]);
        assert_eq!(found.warnings(), Vec::<String>::new());
    }

    #[test]
    fn a_folder_that_is_not_there_is_empty() {
        assert!(
            Folder::read(Path::new("/nonexistent/net.d"))
                .unwrap()
                .entries
                .is_empty()
        );
    }
}
