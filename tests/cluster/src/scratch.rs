//! A folder that goes with the test process, whatever ends that.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result};

/// Removes the folder once nothing holds its input open. What still writes there is being killed: it tries again.
const REAPER: &str = r#"
cat >/dev/null
for attempt in 1 2 3 4 5 6 7 8 9 10; do
    rm -rf -- "$1" && exit 0
    sleep 1
done
"#;

/// A new folder below the system's folder for temporary files; dropping it removes it. Values in a static are never dropped
/// and killed processes drop nothing, so a shell waits for the end of this process to do it.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    reaper: Child,
}

impl Scratch {
    /// Makes `<prefix>XXXXXX`.
    ///
    /// # Errors
    /// When it can't be made, or there is no shell.
    pub fn new(prefix: &str) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix(prefix).tempdir()?;
        let reaper = Command::new("sh")
            .args(["-c", REAPER, "sh"])
            .arg(dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("sh")?;
        Ok(Self {
            path: dir.keep(),
            reaper,
        })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(self.reaper.stdin.take());
        // It has nothing to say; what it can't remove is left to the system.
        let _ = self.reaper.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_goes_with_its_handle() {
        let scratch = Scratch::new("ptl-scratch-").unwrap();
        let path = scratch.path().to_owned();
        std::fs::write(path.join("file"), "text").unwrap();
        drop(scratch);
        assert!(!path.exists());
    }
}
