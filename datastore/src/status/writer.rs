//! Publishes this node's pods in its status file, whole or not at all.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::file::{PodStatus, StatusFile};
use crate::Error;
use crate::directory::{MAX_FILE_SIZE, STATUS_FOLDER};

/// Writes one node's status file. Clones take turns.
#[derive(Clone, Debug)]
pub struct StatusWriter {
    turn: Arc<Mutex<Turn>>,
}

#[derive(Debug)]
struct Turn {
    folder: PathBuf,
    node: String,
}

impl StatusWriter {
    /// The node's name has been checked.
    pub(crate) fn new(directory: &Path, node: &str) -> Self {
        let folder = directory.join(STATUS_FOLDER);
        Self {
            turn: Arc::new(Mutex::new(Turn {
                folder,
                node: node.to_owned(),
            })),
        }
    }

    /// Says that these are the node's pods now. What the file says already is not written again.
    ///
    /// # Errors
    /// The file cannot be written; the old one is still whole.
    pub async fn publish(&self, mut pods: Vec<PodStatus>) -> Result<(), Error> {
        pods.sort();
        let turn = Arc::clone(&self.turn);
        let written = tokio::task::spawn_blocking(move || {
            let turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
            turn.publish(pods).map_err(|source| Error::Status {
                path: turn.path(),
                source,
            })
        });
        match written.await {
            Ok(result) => result,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
}

impl Turn {
    fn path(&self) -> PathBuf {
        self.folder.join(format!("{}.json", self.node))
    }

    fn publish(&self, pods: Vec<PodStatus>) -> io::Result<()> {
        let path = self.path();
        let present = read_present(&path);
        if present
            .as_ref()
            .is_some_and(|file| file.node == self.node && file.pods == pods)
        {
            return Ok(());
        }
        let generation = present.map_or(1, |file| file.generation.saturating_add(1));
        let file = StatusFile {
            node: self.node.clone(),
            generation,
            pods,
        };
        let mut text = serde_json::to_vec_pretty(&file)?;
        text.push(b'\n');
        fs::create_dir_all(&self.folder)?;
        let draft = self.folder.join(format!(".{}.json", self.node));
        replace(&draft, &path, &text)?;
        File::open(&self.folder)?.sync_all()
    }
}

fn replace(draft: &Path, path: &Path, text: &[u8]) -> io::Result<()> {
    // A draft of a killed agent may be there, or a link that someone put in its place.
    match fs::remove_file(draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = File::options().write(true).create_new(true).open(draft)?;
    file.write_all(text)?;
    file.sync_all()?;
    fs::rename(draft, path)
}

/// The file as an earlier run left it; one that cannot be read counts as none.
fn read_present(path: &Path) -> Option<StatusFile> {
    let size = fs::symlink_metadata(path)
        .ok()
        .filter(fs::Metadata::is_file)?
        .len();
    if size > MAX_FILE_SIZE {
        return None;
    }
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}
