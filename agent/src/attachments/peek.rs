//! The attachments that are on disk, read beside the agent or without one: no lock is taken and nothing is written.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::ensure;
use ipam::Lease;

use super::disk::{Disk, SNAPSHOT};
use super::store::Leases;

/// Reads who holds which addresses.
///
/// # Errors
/// If there are no files of ours, they cannot be read, or are damaged.
pub(crate) fn peek(state_dir: &Path) -> anyhow::Result<Vec<Lease>> {
    let folder = Shown(state_dir.to_owned());
    let is_there = folder.read(SNAPSHOT)?.is_some();
    ensure!(is_there, "{} holds no {SNAPSHOT}", state_dir.display());
    let leases = Leases::open_on(folder, u64::MAX)?;
    Ok(leases.iter().cloned().collect())
}

/// A folder that refuses whatever would change it.
#[derive(Debug)]
struct Shown(PathBuf);

fn refused() -> io::Result<()> {
    Err(io::ErrorKind::ReadOnlyFilesystem.into())
}

impl Disk for Shown {
    fn place(&self) -> String {
        self.0.display().to_string()
    }

    fn boot(&self) -> String {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id");
        boot.unwrap_or_default().trim().to_owned()
    }

    fn read(&self, file: &str) -> io::Result<Option<Vec<u8>>> {
        match fs::read(self.0.join(file)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn append(&mut self, _: u64, _: &[u8]) -> io::Result<()> {
        refused()
    }

    fn cut(&mut self, _: u64) -> io::Result<()> {
        refused()
    }

    fn sync_journal_soon(&self) {}

    fn write_new(&mut self, _: &[u8]) -> io::Result<()> {
        refused()
    }

    fn sync_new(&mut self) -> io::Result<()> {
        refused()
    }

    fn rename_new(&mut self) -> io::Result<()> {
        refused()
    }

    fn sync_folder(&mut self) -> io::Result<()> {
        refused()
    }

    fn sync_problem(&self) -> Option<String> {
        None
    }
}

#[cfg(test)]
mod tests {
    use ipam::{Holder, Request};

    use super::super::Settings;
    use super::*;

    #[test]
    fn what_an_agent_holds_is_read_beside_it_and_nothing_is_changed() {
        let dir = tempfile::tempdir().unwrap();
        assert!(peek(dir.path()).is_err());
        let mut leases = Leases::open(dir.path()).unwrap();
        leases.set_cidrs(vec!["10.244.1.0/24".parse().unwrap()]);
        for id in ["c1", "c2"] {
            let holder = Holder {
                container_id: id.to_owned(),
                interface: "eth0".to_owned(),
            };
            let request = Request::new(holder, 7);
            leases.allocate(&request, Settings::default()).unwrap();
        }
        let bytes = |name: &str| fs::read(dir.path().join(name)).unwrap_or_default();
        let files = || [bytes("ipam.json"), bytes("ipam.journal")];
        let before = files();
        let seen = peek(dir.path()).unwrap();
        assert_eq!(seen, leases.iter().cloned().collect::<Vec<_>>());
        assert_eq!(seen.len(), 2);
        assert_eq!(files(), before);
    }
}
