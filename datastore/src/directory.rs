//! One read of the directory: the bytes of every manifest and status file, nothing understood yet.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::blocks::BLOCKS_FOLDER;

/// The folder in the directory where agents publish.
pub(crate) const STATUS_FOLDER: &str = ".status";

/// How the name of the file ends in which an agent tells people of its sessions.
pub(crate) const BGP_STATUS_ENDING: &str = ".bgpnodestatus.json";

/// How the name of the file ends in which an agent tells people what is wrong with objects.
pub(crate) const EVENTS_ENDING: &str = ".events.json";

/// Whether a file of the status folder, by its name, is for people: nobody reads configuration there.
pub(crate) fn is_for_people(file_name: &str) -> bool {
    [BGP_STATUS_ENDING, EVENTS_ENDING]
        .iter()
        .any(|ending| file_name.ends_with(ending))
}

/// Larger files are refused: a manifest is written by people.
pub(crate) const MAX_FILE_SIZE: u64 = 4 * 1024 * 1024;

/// What the directory held at one moment.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Snapshot {
    /// `*.yaml`, `*.yml` and `*.json`, by name.
    pub(crate) manifests: BTreeMap<String, FileRead>,
    /// `.status/*.json`, by name.
    pub(crate) statuses: BTreeMap<String, FileRead>,
    /// `.status/blocks/*.json`, by name.
    pub(crate) blocks: BTreeMap<String, FileRead>,
}

/// One file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FileRead {
    /// Its text, or why there is none.
    pub(crate) text: Result<String, String>,
    /// Device and inode: another file under the same name was renamed there and is whole.
    pub(crate) identity: (u64, u64),
    /// Its permission bits: who else than its owner can read it.
    pub(crate) mode: u32,
}

/// Reads everything.
///
/// # Errors
/// The directory itself cannot be listed. An absent status folder is an empty one.
pub(crate) fn read(directory: &Path) -> io::Result<Snapshot> {
    let status_folder = directory.join(STATUS_FOLDER);
    let follow = |path: &Path| fs::metadata(path);
    let manifests = read_folder(directory, &["yaml", "yml", "json"], |_| false, follow)?;
    let no_links = |path: &Path| fs::symlink_metadata(path);
    // Whoever wants to write there is told of a file in a folder's place.
    let is_absent = |error: &io::Error| {
        matches!(
            error.kind(),
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
        )
    };
    let or_none = |read: io::Result<_>| match read {
        Err(error) if is_absent(&error) => Ok(BTreeMap::new()),
        other => other,
    };
    let statuses = or_none(read_folder(
        &status_folder,
        &["json"],
        is_for_people,
        no_links,
    ))?;
    let blocks_folder = status_folder.join(BLOCKS_FOLDER);
    let blocks = or_none(read_folder(&blocks_folder, &["json"], |_| false, no_links))?;
    Ok(Snapshot {
        manifests,
        statuses,
        blocks,
    })
}

/// Reads one regular file that is no link.
pub(crate) fn read_link_free(path: &Path) -> Result<String, String> {
    let metadata = fs::symlink_metadata(path).map_err(|error| error.to_string())?;
    read_file(path, &metadata)
}

/// Which directory a path leads to now; another answer means that watches must be set anew.
pub(crate) fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::metadata(path)
        .ok()
        .map(|metadata| identity_of(&metadata))
}

fn identity_of(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

fn read_folder(
    folder: &Path,
    extensions: &[&str],
    is_passed_over: impl Fn(&str) -> bool,
    look: impl Fn(&Path) -> io::Result<Metadata>,
) -> io::Result<BTreeMap<String, FileRead>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        let Some(name) = name.to_str() else { continue };
        let extension = Path::new(name).extension().and_then(|text| text.to_str());
        if name.starts_with('.') || !extension.is_some_and(|text| extensions.contains(&text)) {
            continue;
        }
        if is_passed_over(name) {
            continue;
        }
        let path = folder.join(name);
        let found = look(&path);
        if matches!(&found, Err(error) if error.kind() == io::ErrorKind::NotFound) {
            continue;
        }
        if matches!(&found, Ok(metadata) if metadata.is_dir()) {
            continue;
        }
        let identity = found.as_ref().map(identity_of).unwrap_or_default();
        let mode = found
            .as_ref()
            .map_or(0, |metadata| metadata.mode() & 0o7777);
        let text = found.map_err(|error| error.to_string());
        let text = text.and_then(|metadata| read_file(&path, &metadata));
        let file = FileRead {
            text,
            identity,
            mode,
        };
        files.insert(name.to_owned(), file);
    }
    Ok(files)
}

fn read_file(path: &Path, metadata: &Metadata) -> Result<String, String> {
    // A pipe would block the reader, a device might never end.
    if !metadata.is_file() {
        return Err("is not a regular file".to_owned());
    }
    let file = File::open(path).map_err(|error| error.to_string())?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE_SIZE + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| error.to_string())?;
    if bytes.len() as u64 > MAX_FILE_SIZE {
        return Err("is larger than 4 MiB".to_owned());
    }
    String::from_utf8(bytes).map_err(|_| "is not UTF-8".to_owned())
}
