//! `tidy`: the rules of ARCHITECTURE.md that no lint knows.

mod arrows;
mod conformance;
mod files;

use anyhow::Context;
use cargo_metadata::MetadataCommand;

/// What was looked at, and what is wrong.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Source files read.
    pub(crate) files: usize,
    /// Crates of the workspace.
    pub(crate) crates: usize,
    /// One line each: where, what, and what to do.
    pub(crate) problems: Vec<String>,
}

/// Checks the workspace that this folder is in.
///
/// # Errors
/// If the workspace cannot be read at all.
pub(crate) fn run() -> anyhow::Result<Tally> {
    let metadata = MetadataCommand::new()
        .exec()
        .context("cannot read the workspace")?;
    let mut tally = Tally::default();
    arrows::check(&metadata, &mut tally);
    let root = metadata.workspace_root.as_std_path();
    files::check(root, &mut tally)?;
    conformance::check(root, &mut tally)?;
    if tally.files == 0 || tally.crates == 0 {
        anyhow::bail!("nothing was read: tidy is broken");
    }
    Ok(tally)
}
