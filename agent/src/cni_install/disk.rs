//! Changes to folders that a runtime watches: whole files appear by one rename, on disk before anything that needs them.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

/// The ending of half-written files: no runtime reads `.portolan-new` as a configuration.
const HALF: &str = "portolan-new";
/// For how long another install may hold the folder; it holds it for some milliseconds.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);
const LOCK_RETRY: Duration = Duration::from_millis(50);

/// The steps an installation is made of; a crash falls between two of them, or into `write`.
pub(super) trait Disk {
    /// Makes a folder and those above it.
    fn make_folder(&mut self, path: &Path) -> io::Result<()>;
    /// Writes a new file and syncs it.
    fn write(&mut self, path: &Path, bytes: &[u8], mode: u32) -> io::Result<()>;
    /// Gives a file another mode.
    fn set_mode(&mut self, path: &Path, mode: u32) -> io::Result<()>;
    /// Puts one file in another's place.
    fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file; whether it was there.
    fn remove(&mut self, path: &Path) -> io::Result<bool>;
    /// Makes what was renamed and removed in a folder last.
    fn sync_folder(&mut self, path: &Path) -> io::Result<()>;
}

/// The disk itself.
#[derive(Debug)]
pub(super) struct RealDisk;

impl Disk for RealDisk {
    fn make_folder(&mut self, path: &Path) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o755).create(path)
    }

    fn write(&mut self, path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(mode).open(path)?;
        file.write_all(bytes)?;
        // The umask must not take the runtime's right to read or run it.
        file.set_permissions(Permissions::from_mode(mode))?;
        file.sync_all()
    }

    fn set_mode(&mut self, path: &Path, mode: u32) -> io::Result<()> {
        fs::set_permissions(path, Permissions::from_mode(mode))
    }

    fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&mut self, path: &Path) -> io::Result<bool> {
        match fs::remove_file(path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn sync_folder(&mut self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }
}

/// Changes nothing, and says what it would.
#[derive(Debug)]
pub(super) struct Rehearsal;

impl Disk for Rehearsal {
    fn make_folder(&mut self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn write(&mut self, _: &Path, _: &[u8], _: u32) -> io::Result<()> {
        Ok(())
    }

    fn set_mode(&mut self, _: &Path, _: u32) -> io::Result<()> {
        Ok(())
    }

    fn rename(&mut self, _: &Path, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn remove(&mut self, path: &Path) -> io::Result<bool> {
        Ok(path.exists())
    }

    fn sync_folder(&mut self, _: &Path) -> io::Result<()> {
        Ok(())
    }
}

/// Puts a file in its place: whoever opens `path` at any instant, even after a crash, finds the old bytes or the new.
/// `check` sees the new file before it is in place.
///
/// The half-written file is in the same folder: containerd reloads when a file of the folder is renamed away or
/// written, not when one appears (semantics 112).
///
/// # Errors
/// If a step fails, or `check` does; the old file is then still there.
pub(super) fn put(
    disk: &mut impl Disk,
    path: &Path,
    (bytes, mode): (&[u8], u32),
    check: impl FnOnce(&Path) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let half = half_written(path);
    let cannot = |what: &str| format!("cannot {what} {}", half.display());
    // A killed install may have left one; it may even be running, so it is not opened again.
    disk.remove(&half).with_context(|| cannot("remove"))?;
    disk.write(&half, bytes, mode)
        .with_context(|| cannot("write"))?;
    if let Err(error) = check(&half) {
        disk.remove(&half).with_context(|| cannot("remove"))?;
        return Err(error);
    }
    let failed = || format!("cannot put {} in place", path.display());
    disk.rename(&half, path).with_context(failed)?;
    disk.sync_folder(folder_of(path)).with_context(failed)
}

/// The name a file has while it is written.
pub(super) fn half_written(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{HALF}"))
}

/// Whether a name is that of a file which an install was killed over.
pub(super) fn is_half_written(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending == HALF)
}

fn folder_of(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("/"))
}

/// Keeps other installs and uninstalls off a folder until it is dropped.
///
/// # Errors
/// If it cannot be opened, or another holds it for ten seconds.
pub(super) fn lock(folder: &Path) -> anyhow::Result<Flock<File>> {
    let open = || File::open(folder).with_context(|| format!("cannot open {}", folder.display()));
    let deadline = Instant::now() + LOCK_PATIENCE;
    let mut file = open()?;
    loop {
        file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(locked) => return Ok(locked),
            Err((file, Errno::EWOULDBLOCK | Errno::EINTR)) if Instant::now() < deadline => file,
            Err((_, error)) => {
                let busy = "is another `portolan cni` at work there?";
                anyhow::bail!("cannot lock {}: {error}; {busy}", folder.display());
            }
        };
        std::thread::sleep(LOCK_RETRY);
    }
}
