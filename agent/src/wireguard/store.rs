//! Private keys on disk: a file for each slot, read by root alone, there before its key is used or published.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ::overlay::keys::{OwnKey, Time};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use routes::{PrivateKey, PublicKey};
use serde::{Deserialize, Serialize};
use x25519_dalek::StaticSecret;
use zeroize::{Zeroize as _, Zeroizing};

/// The folder in the state folder.
const FOLDER: &str = "wireguard";
/// The longest file that is read, in octets.
const LONGEST: u64 = 4096;

/// A key with what is known of it.
#[derive(Clone, Debug)]
pub(crate) struct StoredKey {
    /// The private key.
    pub(crate) private: PrivateKey,
    /// What is told of it.
    pub(crate) own: OwnKey,
}

/// A file's contents. Not `Debug`: it holds the key.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct KeyFile {
    private_key: String,
    /// Seconds since 1970-01-01 00:00 UTC.
    made: u64,
    published: Option<u64>,
}

impl Drop for KeyFile {
    fn drop(&mut self) {
        self.private_key.zeroize();
    }
}

/// The folder of keys.
#[derive(Clone, Debug)]
pub(crate) struct KeyStore {
    folder: PathBuf,
}

impl KeyStore {
    pub(crate) fn new(state_dir: &Path) -> Self {
        Self {
            folder: state_dir.join(FOLDER),
        }
    }

    /// The slot's key as an earlier run left it, or a new one; beside it why what was there is of no use.
    ///
    /// # Errors
    /// A new one can't be made, or not be kept.
    pub(crate) fn open(&self, slot: usize, now: Time) -> io::Result<(StoredKey, Option<String>)> {
        let path = self.path(slot);
        let lost = match read(&path) {
            Ok(Some(key)) => return Ok((key, None)),
            Ok(None) => None,
            Err(why) => Some(format!(
                "the WireGuard key in {} can't be used ({why}): a new one is made, and other nodes send by it once they have heard of it",
                path.display()
            )),
        };
        Ok((self.make(slot, now)?, lost))
    }

    /// Makes a new key for a slot and keeps it in place of the old one.
    ///
    /// # Errors
    /// It can't be kept: the old one is still there.
    pub(crate) fn make(&self, slot: usize, now: Time) -> io::Result<StoredKey> {
        let mut bytes = Zeroizing::new([0; 32]);
        getrandom::fill(&mut *bytes).map_err(io::Error::other)?;
        let key = stored(PrivateKey::new(*bytes), now, None);
        self.keep(slot, &key)?;
        Ok(key)
    }

    /// Notes on disk when a key was published.
    ///
    /// # Errors
    /// It can't be written: after a restart the key counts as one that others may not know.
    pub(crate) fn keep(&self, slot: usize, key: &StoredKey) -> io::Result<()> {
        let file = KeyFile {
            private_key: STANDARD.encode(key.private.bytes()),
            made: key.own.made.as_secs(),
            published: key.own.published.as_ref().map(Duration::as_secs),
        };
        let text = Zeroizing::new(serde_json::to_vec(&file)?);
        let folder = DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.folder);
        folder?;
        let path = self.path(slot);
        let draft = path.with_extension("draft");
        match fs::remove_file(&draft) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut options = File::options();
        let mut file = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&draft)?;
        file.write_all(&text)?;
        file.sync_all()?;
        fs::rename(&draft, &path)?;
        File::open(&self.folder)?.sync_all()
    }

    fn path(&self, slot: usize) -> PathBuf {
        self.folder.join(format!("key-{slot}.json"))
    }
}

/// Nothing if there is no file; else why it is of no use, without a word of what is in it.
fn read(path: &Path) -> Result<Option<StoredKey>, String> {
    let size = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
        Ok(about) if !about.is_file() => return Err("it is no file".to_owned()),
        Ok(about) => about.len(),
    };
    if size > LONGEST {
        return Err("it is too long".to_owned());
    }
    let text = Zeroizing::new(fs::read(path).map_err(|error| error.to_string())?);
    let file: KeyFile = serde_json::from_slice(&text).map_err(|_| "it is not whole".to_owned())?;
    let bytes = STANDARD
        .decode(file.private_key.as_bytes())
        .map(Zeroizing::new);
    let bytes = bytes
        .ok()
        .and_then(|bytes| <[u8; 32]>::try_from(bytes.as_slice()).ok());
    let bytes = Zeroizing::new(bytes.ok_or("it holds no key")?);
    let published = file.published.map(Duration::from_secs);
    let made = Duration::from_secs(file.made);
    Ok(Some(stored(PrivateKey::new(*bytes), made, published)))
}

fn stored(private: PrivateKey, made: Time, published: Option<Time>) -> StoredKey {
    let public_key = public_of(&private);
    StoredKey {
        private,
        own: OwnKey {
            public_key,
            made,
            published,
        },
    }
}

/// RFC 7748 §6.1.
fn public_of(private: &PrivateKey) -> PublicKey {
    x25519_dalek::PublicKey::from(&StaticSecret::from(*private.bytes())).to_bytes()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const NOW: Time = Duration::from_secs(1_700_000_000);

    fn store() -> (tempfile::TempDir, KeyStore) {
        let folder = tempfile::tempdir().unwrap();
        let store = KeyStore::new(folder.path());
        (folder, store)
    }

    #[test]
    fn the_public_key_is_that_of_rfc_7748() {
        let bytes = |text: &str| -> [u8; 32] {
            let octet = |at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap();
            std::array::from_fn(octet)
        };
        // §5.2, after one iteration: the scalar 9 and the base point.
        let mut private = [0; 32];
        private[0] = 9;
        let public = bytes("422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079");
        assert_eq!(public_of(&PrivateKey::new(private)), public);
    }

    #[test]
    fn a_key_stays_over_a_restart_and_each_slot_has_its_own() {
        let (_folder, store) = store();
        let (first, lost) = store.open(0, NOW).unwrap();
        assert_eq!((lost, first.own.published), (None, None));
        let (other, _) = store.open(1, NOW).unwrap();
        assert_ne!(first.own.public_key, other.own.public_key);
        let mut published = first.clone();
        published.own.published = Some(NOW + Duration::from_secs(9));
        store.keep(0, &published).unwrap();
        let (again, lost) = store.open(0, NOW * 2).unwrap();
        assert_eq!((again.own, lost), (published.own, None));
        assert!(again.private == first.private);
        let made = store.make(0, NOW * 2).unwrap();
        assert_ne!(made.own.public_key, first.own.public_key);
        assert_eq!(store.open(0, NOW).unwrap().0.own, made.own);
    }

    #[test]
    fn nobody_else_can_read_it_and_nothing_prints_it() {
        let (folder, store) = store();
        let key = store.make(0, NOW).unwrap();
        let file = folder.path().join("wireguard/key-0.json");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&file), 0o600);
        assert_eq!(mode(file.parent().unwrap()), 0o700);
        assert_eq!(fs::read_dir(file.parent().unwrap()).unwrap().count(), 1);
        let secret = STANDARD.encode(key.private.bytes());
        assert!(fs::read_to_string(&file).unwrap().contains(&secret));
        let printed = format!("{key:?} {store:?}");
        assert!(
            !printed.contains(&secret) && printed.contains("PrivateKey"),
            "{printed}"
        );
        let first = key.private.bytes()[..4].iter().map(ToString::to_string);
        assert!(!printed.contains(&first.collect::<Vec<_>>().join(", ")));
    }

    #[test]
    fn a_file_that_is_of_no_use_gives_a_new_key_and_a_word_about_it() {
        let (folder, store) = store();
        let before = store.make(0, NOW).unwrap();
        let file = folder.path().join("wireguard/key-0.json");
        let good = fs::read_to_string(&file).unwrap();
        let secret = STANDARD.encode(before.private.bytes());
        let mut tried = 0;
        for bad in [
            "",
            "{}",
            &good[..good.len() - 4],
            &good.replace(&secret, "abcd"),
        ] {
            fs::write(&file, bad).unwrap();
            let (key, lost) = store.open(0, NOW).unwrap();
            assert_ne!(key.own.public_key, before.own.public_key);
            let lost = lost.unwrap();
            assert!(
                lost.contains("key-0.json") && !lost.contains(&secret),
                "{lost}"
            );
            assert_eq!(
                store.open(0, NOW).unwrap().0.own,
                key.own,
                "the new one stays"
            );
            tried += 1;
        }
        assert_eq!(tried, 4);
        // A draft of a killed agent is in nobody's way.
        fs::write(file.with_extension("draft"), "x").unwrap();
        store.make(0, NOW).unwrap();
    }
}
