//! The directory's side of the status writer: this node's pods, BGP sessions and events in a file each, whole or not at all.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use api::crd::{BGPNodeStatus, BgpNodeStatusSpec, BgpNodeStatusStatus, NodeWireGuard};
use ipnet::IpNet;
use serde::Serialize;

use super::events::{self, EventRecord};
use super::file::{PodStatus, StatusFile};
use crate::Error;
use crate::blocks::{Claim, Claims};
use crate::directory::{BGP_STATUS_ENDING, EVENTS_ENDING, MAX_FILE_SIZE, STATUS_FOLDER};

/// Writes one node's status files. Clones take turns.
#[derive(Clone, Debug)]
pub(crate) struct DirectoryWriter {
    turn: Arc<Mutex<Turn>>,
}

#[derive(Debug)]
struct Turn {
    folder: PathBuf,
    node: String,
    claims: Claims,
}

impl DirectoryWriter {
    /// The node's name has been checked.
    pub(crate) fn new(directory: &Path, node: &str) -> Self {
        let folder = directory.join(STATUS_FOLDER);
        Self {
            turn: Arc::new(Mutex::new(Turn {
                claims: Claims::new(&folder, node),
                folder,
                node: node.to_owned(),
            })),
        }
    }

    /// Says that these are the node's pods now. What the file says already is not written again.
    ///
    /// # Errors
    /// The file cannot be written; the old one is still whole.
    pub(crate) async fn publish(&self, mut pods: Vec<PodStatus>) -> Result<(), Error> {
        pods.sort();
        self.take_turn(move |turn| turn.publish(pods)).await
    }

    /// Says that these are the node's WireGuard keys now. What the file says already is not written again.
    ///
    /// # Errors
    /// The file cannot be written; the old one is still whole.
    pub(crate) async fn publish_keys(&self, keys: NodeWireGuard) -> Result<(), Error> {
        self.take_turn(move |turn| turn.publish_keys(keys)).await
    }

    /// Says what the node's BGP speaker does now, for people: as a whole BGPNodeStatus. Nobody reads it back.
    ///
    /// # Errors
    /// The file cannot be written; the old one is still whole.
    pub(crate) async fn publish_bgp(&self, status: BgpNodeStatusStatus) -> Result<(), Error> {
        self.take_turn(move |turn| turn.publish_bgp(status)).await
    }

    /// Says all that is wrong with objects on this node now, for people: what is not said any more is gone. Nobody reads
    /// it back. At most 1000 are kept, and one that says how many more there are. The same again is not written again.
    ///
    /// # Errors
    /// The file cannot be written; the old one is still whole.
    pub(crate) async fn publish_events(&self, events: Vec<EventRecord>) -> Result<(), Error> {
        self.take_turn(move |turn| turn.publish_events(events))
            .await
    }

    /// Makes a block this node's, unless another node was first. Of all nodes exactly one succeeds. The block comes back
    /// as a change to everybody; it is this node's from the answer on.
    ///
    /// # Errors
    /// The claim cannot be written: nothing is claimed.
    pub(crate) async fn claim_block(&self, cidr: IpNet) -> Result<Claim, Error> {
        self.in_turn(move |turn| turn.claims.claim(&cidr)).await
    }

    /// Gives a block of this node back. One that is nobody's is no error.
    ///
    /// # Errors
    /// It is another node's, or its file cannot be removed.
    pub(crate) async fn release_block(&self, cidr: IpNet) -> Result<(), Error> {
        self.in_turn(move |turn| turn.claims.release(&cidr)).await
    }

    async fn take_turn(
        &self,
        write: impl FnOnce(&Turn) -> Result<(), (PathBuf, io::Error)> + Send + 'static,
    ) -> Result<(), Error> {
        let named = |(path, source)| Error::Status { path, source };
        self.in_turn(move |turn| write(turn).map_err(named)).await
    }

    async fn in_turn<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Turn) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let turn = Arc::clone(&self.turn);
        let written = tokio::task::spawn_blocking(move || {
            work(&turn.lock().unwrap_or_else(PoisonError::into_inner))
        });
        match written.await {
            Ok(result) => result,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
}

impl Turn {
    fn publish(&self, pods: Vec<PodStatus>) -> Result<(), (PathBuf, io::Error)> {
        self.change(|file| file.pods = pods)
    }

    fn publish_keys(&self, keys: NodeWireGuard) -> Result<(), (PathBuf, io::Error)> {
        self.change(|file| file.wire_guard = Some(keys))
    }

    /// Changes part of what the node says of itself; what another part says stays.
    fn change(&self, change: impl FnOnce(&mut StatusFile)) -> Result<(), (PathBuf, io::Error)> {
        let name = format!("{}.json", self.node);
        let present = read_present(&self.folder.join(&name));
        let generation = present.as_ref().map_or(0, |file| file.generation);
        let present = present.filter(|file| file.node == self.node);
        let mut file = present.clone().unwrap_or_else(|| StatusFile {
            node: self.node.clone(),
            generation,
            pods: Vec::new(),
            wire_guard: None,
        });
        change(&mut file);
        if present.as_ref() == Some(&file) {
            return Ok(());
        }
        file.generation = generation.saturating_add(1);
        self.write(&name, &file)
    }

    fn publish_bgp(&self, status: BgpNodeStatusStatus) -> Result<(), (PathBuf, io::Error)> {
        let spec = BgpNodeStatusSpec {
            node: self.node.clone(),
        };
        let mut object = BGPNodeStatus::new(&self.node, spec);
        object.status = Some(status);
        self.write(&format!("{}{BGP_STATUS_ENDING}", self.node), &object)
    }

    fn publish_events(&self, events: Vec<EventRecord>) -> Result<(), (PathBuf, io::Error)> {
        let name = format!("{}{EVENTS_ENDING}", self.node);
        let path = self.folder.join(&name);
        let is_nothing = events.is_empty();
        let file = events::bounded(&self.node, events);
        let present = read_bounded(&path);
        let is_there = present.is_some() && present == text_of(&file).ok();
        if is_there || (is_nothing && fs::symlink_metadata(&path).is_err()) {
            return Ok(());
        }
        self.write(&name, &file)
    }

    /// Beside, then renamed into place.
    fn write(&self, name: &str, value: &impl Serialize) -> Result<(), (PathBuf, io::Error)> {
        let path = self.folder.join(name);
        let draft = self.folder.join(format!(".{name}"));
        let work = || {
            let text = text_of(value)?;
            fs::create_dir_all(&self.folder)?;
            replace(&draft, &path, &text)?;
            File::open(&self.folder)?.sync_all()
        };
        work().map_err(|error| (path.clone(), error))
    }
}

fn text_of(value: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut text = serde_json::to_vec_pretty(value)?;
    text.push(b'\n');
    Ok(text)
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
    serde_json::from_slice(&read_bounded(path)?).ok()
}

/// What a regular file of no more than the usual size holds.
fn read_bounded(path: &Path) -> Option<Vec<u8>> {
    let size = fs::symlink_metadata(path)
        .ok()
        .filter(fs::Metadata::is_file)?
        .len();
    if size > MAX_FILE_SIZE {
        return None;
    }
    fs::read(path).ok()
}
