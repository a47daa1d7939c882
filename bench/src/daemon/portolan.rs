//! Portolan as a daemon under test.

use anyhow::{Result, bail};

use super::{Running, Setup};

pub(super) fn start(_setup: &Setup<'_>) -> Result<Box<dyn Running>> {
    bail!("not measured yet: the speaker has no setting for passing routes on")
}

pub(super) fn version() -> Result<String> {
    let commit = tests::process::said_by("git", &["rev-parse", "--short", "HEAD"])?;
    Ok(format!("Portolan {commit}"))
}
