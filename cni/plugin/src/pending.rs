//! Deletions that wait on disk for the agent to be back.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use cni_spec::socket::{PENDING_DELETIONS, Request};
use cni_spec::{CniError, ErrorCode};

/// Writes a DEL down so that neither a crash nor a reboot loses it.
pub(crate) fn record(mut request: Request) -> Result<(), CniError> {
    // The agent knows what it made; the runtime's copy may be large.
    request.config.prev_result = None;
    let folder = Path::new(&request.config.state_dir).join(PENDING_DELETIONS);
    let path = folder.join(request.pending_deletion_name());
    write(&folder, &path, &request).map_err(|error| {
        CniError::new(ErrorCode::TryAgainLater, "try again later").details(format!(
            "the agent is away, and the deletion cannot be written to {}: {error}",
            path.display()
        ))
    })
}

fn write(folder: &Path, path: &Path, request: &Request) -> io::Result<()> {
    make_folder(folder)?;
    let temporary = temporary(path);
    let written = write_whole(&temporary, &serde_json::to_vec(request)?)
        .and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        drop(fs::remove_file(&temporary));
    }
    written?;
    File::open(folder)?.sync_all()
}

/// Makes the folder, and lasting: a new folder is lost in a crash until the one above it is on disk.
fn make_folder(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)?;
    folder
        .parent()
        .map_or(Ok(()), |above| File::open(above)?.sync_all())
}

fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// A dot-file of this process, which the agent does not read.
fn temporary(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{}", std::process::id()))
}
