//! What an install or uninstall did, for eyes and for programs.

use std::fmt::Write;
use std::path::Path;

use serde::Serialize;

/// What became of each file, and what a person should know.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    /// Nothing was changed: this is what would be.
    pub(super) dry_run: bool,
    pub(super) files: Vec<FileReport>,
    pub(super) warnings: Vec<String>,
    /// The configuration, in a dry run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) configuration: Option<String>,
}

/// What became of one file.
#[derive(Debug, Serialize)]
pub(super) struct FileReport {
    pub(super) path: String,
    pub(super) change: Change,
}

/// What is done to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Change {
    /// New, or with other bytes.
    Written,
    /// As it should be already.
    Unchanged,
    /// Taken away.
    Removed,
    /// Left alone: it is not ours.
    Kept,
}

impl Report {
    /// Notes what became of a file.
    pub(super) fn note(&mut self, path: &Path, change: Change) {
        let path = path.display().to_string();
        self.files.push(FileReport { path, change });
    }

    /// One line a file.
    pub(super) fn table(&self) -> String {
        let mut text = String::new();
        for file in &self.files {
            let word = match (file.change, self.dry_run) {
                (Change::Written, false) => "written",
                (Change::Written, true) => "would be written",
                (Change::Removed, false) => "removed",
                (Change::Removed, true) => "would be removed",
                (Change::Unchanged, _) => "unchanged",
                (Change::Kept, _) => "not ours, kept",
            };
            // Writing to a string does not fail.
            let _ = writeln!(text, "{word:<16}  {}", file.path);
        }
        if let Some(configuration) = &self.configuration {
            let _ = write!(text, "\n{configuration}");
        }
        text
    }
}
