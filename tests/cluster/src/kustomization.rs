//! The folders of deploy/, and kustomizations of a user's own that take them.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// The path of a folder or file of deploy/, by its name there.
#[must_use]
pub fn deploy(name: &str) -> String {
    let folder = root().join("deploy").join(name);
    folder.to_string_lossy().into_owned()
}

/// A kustomization that stands in no folder of the project; dropping it removes it.
#[derive(Debug)]
pub struct Kustomization {
    dir: tempfile::TempDir,
}

impl Kustomization {
    /// Writes it; what begins with `deploy/` in it is the project's.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn new(text: &str) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let folder = dir.path().canonicalize()?;
        // Kustomize takes no absolute path.
        let up = "../".repeat(folder.components().count().saturating_sub(1));
        let root = root().canonicalize()?;
        let root = root.to_str().context("a path that is no text")?;
        let there = format!("{up}{}/deploy/", root.trim_start_matches('/'));
        let text = text.replace("deploy/", &there);
        std::fs::write(folder.join("kustomization.yaml"), text)?;
        Ok(Self { dir })
    }

    /// Its folder, as `kubectl apply -k` takes it.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.dir.path()
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}
