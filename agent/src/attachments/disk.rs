//! The few things the store does to its files, so that tests can stand in for the disk; and the folder they are in.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::syncer::Syncer;

/// The snapshot's name in the state folder.
pub(super) const SNAPSHOT: &str = "ipam.json";
/// The journal's.
pub(super) const JOURNAL: &str = "ipam.journal";
const NEW: &str = "ipam.json.new";
/// For so long the lock may outlive the agent that had it: one killed while it starts a program leaves a child behind,
/// which holds all that it held until it is that program.
pub(crate) const LAST_BREATH: Duration = Duration::from_secs(2);
/// They say which pods run here: not for everybody.
const MODE: u32 = 0o600;

/// What the store does to its files. A process that dies between two of these, or in one that writes, leaves what the
/// store must be able to read.
pub(crate) trait Disk {
    /// Where the files are, in words.
    fn place(&self) -> String;
    /// The machine's start, as the kernel names it; empty where it does not.
    fn boot(&self) -> String;
    /// A file as it is; `None` if it is not there.
    fn read(&self, file: &str) -> io::Result<Option<Vec<u8>>>;
    /// Writes to the journal from an offset on, which is its end.
    fn append(&mut self, at: u64, bytes: &[u8]) -> io::Result<()>;
    /// Cuts the journal to a length.
    fn cut(&mut self, length: u64) -> io::Result<()>;
    /// Has the journal brought to the disk soon, without waiting.
    fn sync_journal_soon(&self);
    /// Writes the file that is to become the snapshot.
    fn write_new(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Brings that file to the disk.
    fn sync_new(&mut self) -> io::Result<()>;
    /// Puts it in the snapshot's place.
    fn rename_new(&mut self) -> io::Result<()>;
    /// Brings the folder to the disk: a rename is durable only then.
    fn sync_folder(&mut self) -> io::Result<()>;
    /// Why the journal cannot be brought to the disk.
    fn sync_problem(&self) -> Option<String>;
}

/// A folder of the machine.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    /// Locked, so that no other agent writes here; the kernel takes the lock back from whoever dies.
    lock: File,
    new: Option<File>,
    journal: Option<(File, Syncer)>,
}

impl Folder {
    /// Uses a folder; makes it where it is not there.
    ///
    /// # Errors
    /// If it cannot be made, or another agent uses it.
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        let cannot = || format!("cannot use the state folder {}", path.display());
        fs::create_dir_all(path).with_context(cannot)?;
        let lock = File::open(path).with_context(cannot)?;
        let deadline = Instant::now() + LAST_BREATH;
        loop {
            match lock.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                    std::thread::sleep(LAST_BREATH / 40);
                }
                Err(TryLockError::WouldBlock) => bail!(
                    "another agent keeps its leases in {}: stop it, or give this one its own --state-dir",
                    path.display()
                ),
                Err(TryLockError::Error(error)) => return Err(error).with_context(cannot),
            }
        }
        Ok(Self {
            path: path.to_owned(),
            lock,
            new: None,
            journal: None,
        })
    }

    fn journal(&mut self) -> io::Result<&File> {
        if self.journal.is_none() {
            let mut options = OpenOptions::new();
            let options = options.write(true).create(true).truncate(false).mode(MODE);
            let file = options.open(self.path.join(JOURNAL))?;
            let syncer = Syncer::start(file.try_clone()?)?;
            self.journal = Some((file, syncer));
        }
        let (file, _) = self.journal.as_ref().expect("it has just been opened");
        Ok(file)
    }
}

impl Disk for Folder {
    fn place(&self) -> String {
        self.path.display().to_string()
    }

    fn boot(&self) -> String {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id");
        boot.unwrap_or_default().trim().to_owned()
    }

    fn read(&self, file: &str) -> io::Result<Option<Vec<u8>>> {
        match fs::read(self.path.join(file)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn append(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.journal()?.write_all_at(bytes, at)
    }

    fn cut(&mut self, length: u64) -> io::Result<()> {
        self.journal()?.set_len(length)
    }

    fn sync_journal_soon(&self) {
        if let Some((_, syncer)) = &self.journal {
            syncer.soon();
        }
    }

    fn write_new(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut options = OpenOptions::new();
        let options = options.write(true).create(true).truncate(true).mode(MODE);
        let mut file = options.open(self.path.join(NEW))?;
        file.write_all(bytes)?;
        self.new = Some(file);
        Ok(())
    }

    fn sync_new(&mut self) -> io::Result<()> {
        self.new.take().map_or(Ok(()), |file| file.sync_all())
    }

    fn rename_new(&mut self) -> io::Result<()> {
        fs::rename(self.path.join(NEW), self.path.join(SNAPSHOT))
    }

    fn sync_folder(&mut self) -> io::Result<()> {
        self.lock.sync_all()
    }

    fn sync_problem(&self) -> Option<String> {
        self.journal
            .as_ref()
            .and_then(|(_, syncer)| syncer.problem())
    }
}
