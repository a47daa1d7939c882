//! A directory of manifests, reread when something in it changes.
//!
//! `*.yaml`, `*.yml` and `*.json`; kinds that mean nothing here are passed over. A file that cannot be read keeps what it said
//! before. Secrets are taken from files alone that nobody but their owner can read.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use serde_json::Value;
use tokio::sync::mpsc;

use super::Event;
use crate::objects::{Change, Key, Object, parse};

/// After a notice, others are waited for: an editor's write is several.
const SETTLE: Duration = Duration::from_millis(20);
/// The directory is looked at this often without a notice: a mount over it gives none.
const LOOK: Duration = Duration::from_secs(5);
/// Larger files are refused.
const MAX_FILE_SIZE: u64 = 4 * 1024 * 1024;

/// A directory that is watched.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    /// What each file said when it could last be read.
    files: BTreeMap<String, File>,
    told: BTreeMap<Key, Object>,
    faults: BTreeSet<String>,
}

#[derive(Debug, Default)]
struct File {
    text: String,
    mode: u32,
    objects: Vec<Object>,
    faults: Vec<String>,
}

impl Directory {
    /// Looks at nothing yet.
    #[must_use]
    pub const fn new(path: PathBuf) -> Self {
        Self {
            path,
            files: BTreeMap::new(),
            told: BTreeMap::new(),
            faults: BTreeSet::new(),
        }
    }

    /// Tells what is there and what changes, until nobody listens.
    ///
    /// # Errors
    /// The directory cannot be listed or watched at the start.
    pub async fn run(mut self, events: mpsc::Sender<Event>) -> anyhow::Result<()> {
        let (notices, mut noticed) = mpsc::channel::<()>(1);
        let mut watcher: RecommendedWatcher = notify::recommended_watcher(move |notice| {
            if is_of_interest(&notice) {
                // One that waits stands for all that come meanwhile.
                let _ = notices.try_send(());
            }
        })?;
        let name = self.path.display().to_string();
        watcher
            .watch(&self.path, RecursiveMode::NonRecursive)
            .with_context(|| format!("cannot watch {name}"))?;
        let first = self.read().with_context(|| format!("cannot list {name}"))?;
        for event in first.into_iter().chain([Event::InSync]) {
            if events.send(event).await.is_err() {
                return Ok(());
            }
        }
        loop {
            let notice = tokio::time::timeout(LOOK, noticed.recv()).await;
            if notice.is_ok() {
                tokio::time::sleep(SETTLE).await;
                let _ = noticed.try_recv();
            } else {
                // Another directory may be there under the name.
                let _ = watcher.unwatch(&self.path);
                if let Err(error) = watcher.watch(&self.path, RecursiveMode::NonRecursive) {
                    tracing::warn!(%error, "cannot watch {name}");
                }
            }
            let changes = match self.read() {
                Ok(changes) => changes,
                Err(error) => vec![Event::Fault(format!("cannot list {name}: {error}"))],
            };
            for event in changes {
                if events.send(event).await.is_err() {
                    return Ok(());
                }
            }
        }
    }

    /// Reads everything; gives what is other than what was told.
    fn read(&mut self) -> std::io::Result<Vec<Event>> {
        let mut seen = BTreeSet::new();
        for entry in fs::read_dir(&self.path)? {
            let path = entry?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
                continue;
            };
            let extension = path.extension().and_then(|text| text.to_str());
            if name.starts_with('.') || !matches!(extension, Some("yaml" | "yml" | "json")) {
                continue;
            }
            let file = self.files.entry(name.to_owned()).or_default();
            match text_of(&path) {
                Ok(None) => continue,
                Ok(Some((text, mode))) => file.take(name, text, mode),
                Err(why) => file.faults = vec![format!("{name}: {why}; what it said before holds")],
            }
            seen.insert(name.to_owned());
        }
        self.files.retain(|name, _| seen.contains(name));
        Ok(self.changes())
    }

    fn changes(&mut self) -> Vec<Event> {
        let mut now: BTreeMap<Key, Object> = BTreeMap::new();
        let mut faults = BTreeSet::new();
        for (name, file) in &self.files {
            faults.extend(file.faults.iter().cloned());
            for object in &file.objects {
                let key = object.key();
                match now.entry(key) {
                    Entry::Vacant(place) => {
                        place.insert(object.clone());
                    }
                    Entry::Occupied(place) => {
                        let key = place.key();
                        faults.insert(format!(
                            "{name}: {key} stands in an earlier file, too: that one holds"
                        ));
                    }
                }
            }
        }
        let mut events: Vec<Event> = Vec::new();
        events.extend(faults.difference(&self.faults).cloned().map(Event::Fault));
        let gone = self.told.keys().filter(|key| !now.contains_key(*key));
        events.extend(gone.cloned().map(|key| Event::Change(Change::Gone(key))));
        let other = now
            .iter()
            .filter(|(key, object)| self.told.get(*key) != Some(*object));
        events.extend(other.map(|(_, object)| Event::Change(Change::Is(object.clone()))));
        self.told = now;
        self.faults = faults;
        events
    }
}

impl File {
    fn take(&mut self, name: &str, text: String, mode: u32) {
        if self.text == text && self.mode == mode {
            return;
        }
        match documents(name, &text) {
            Ok(values) => {
                self.objects.clear();
                self.faults.clear();
                for value in values {
                    self.object(name, value, mode);
                }
            }
            Err(why) => self.faults = vec![format!("{name}: {why}; what it said before holds")],
        }
        self.text = text;
        self.mode = mode;
    }

    fn object(&mut self, name: &str, value: Value, mode: u32) {
        let field = |field: &str| value.get(field).and_then(Value::as_str).map(str::to_owned);
        let (Some(kind), Some(version)) = (field("kind"), field("apiVersion")) else {
            return self
                .faults
                .push(format!("{name}: a document has no kind or no apiVersion"));
        };
        if kind == "List"
            && let Value::Object(mut fields) = value
        {
            if let Some(Value::Array(items)) = fields.remove("items") {
                for item in items {
                    self.object(name, item, mode);
                }
            }
            return;
        }
        match parse(&kind, &version, value) {
            Ok(Some(Object::Secret(secret))) if mode & 0o077 != 0 => self.faults.push(format!(
                "{name}: Secret {}: the file is open to others than its owner (mode {mode:04o}), a Secret's must not be: chmod 600 it",
                secret.name
            )),
            Ok(Some(object)) => self.objects.push(object),
            Ok(None) => {}
            Err(error) => self.faults.push(format!("{name}: {error}")),
        }
    }
}

/// Reading a file gives notices, too: whoever minded those would read for ever.
fn is_of_interest(notice: &notify::Result<notify::Event>) -> bool {
    let Ok(event) = notice else { return true };
    let written = EventKind::Access(AccessKind::Close(AccessMode::Write));
    !event.kind.is_access() || event.kind == written
}

/// None of what is no file, or is gone.
fn text_of(path: &Path) -> Result<Option<(String, u32)>, String> {
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    if !metadata.is_file() {
        return Ok(None);
    }
    let file = fs::File::open(path).map_err(|error| error.to_string())?;
    let mut bytes = Vec::new();
    let mut limited = file.take(MAX_FILE_SIZE + 1);
    limited
        .read_to_end(&mut bytes)
        .map_err(|error| error.to_string())?;
    if bytes.len() as u64 > MAX_FILE_SIZE {
        return Err("is larger than 4 MiB".to_owned());
    }
    let text = String::from_utf8(bytes).map_err(|_| "is not UTF-8".to_owned())?;
    Ok(Some((text, metadata.mode() & 0o7777)))
}

/// The documents of a file. YAML's are cut at `---` lines, which cannot be part of any scalar (YAML 1.2.2 §9.1.2).
fn documents(name: &str, text: &str) -> Result<Vec<Value>, String> {
    if name.ends_with(".json") {
        let value = serde_json::from_str(text).map_err(|error| error.to_string())?;
        return Ok(vec![value]);
    }
    let mut parts = vec![String::new()];
    for line in text.split_inclusive('\n') {
        let after = line.strip_prefix("---");
        if after.is_some_and(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace)) {
            parts.push(String::new());
        } else if let Some(part) = parts.last_mut() {
            part.push_str(line);
        }
    }
    let mut values = Vec::new();
    for part in parts {
        let is_silent = |line: &str| line.trim().is_empty() || line.trim_start().starts_with('#');
        if part.lines().all(is_silent) {
            continue;
        }
        let options = serde_saphyr::options! { with_snippet: false, strict_booleans: true };
        let value: Value = serde_saphyr::from_str_with_options(&part, options)
            .map_err(|error| error.to_string().replace(char::is_control, " "))?;
        if !value.is_null() {
            values.push(value);
        }
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const CLASS: &str = "apiVersion: networking.k8s.io/v1\nkind: IngressClass\nmetadata: {name: a}\nspec: {controller: x/y}\n";
    const SECRET: &str =
        "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {tls.crt: x, tls.key: y}\n";

    fn write(folder: &Path, name: &str, text: &str, mode: u32) {
        fs::write(folder.join(name), text).unwrap();
        fs::set_permissions(folder.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn what_differs_is_told_once_and_a_broken_file_keeps_what_it_said() {
        let folder = tempfile::tempdir().unwrap();
        let mut directory = Directory::new(folder.path().to_owned());
        let both =
            format!("# words\n---\n{CLASS}---\nkind: Pod\napiVersion: v1\nmetadata: {{name: p}}\n");
        write(folder.path(), "a.yaml", &both, 0o644);
        write(folder.path(), "note.txt", "words", 0o644);
        let told = directory.read().unwrap();
        assert!(
            matches!(
                told.as_slice(),
                [Event::Change(Change::Is(Object::IngressClass(_)))]
            ),
            "{told:?}"
        );
        assert_eq!(directory.read().unwrap(), []);
        write(folder.path(), "a.yaml", "kind: [", 0o644);
        let told = directory.read().unwrap();
        assert!(
            matches!(told.as_slice(), [Event::Fault(why)] if why.contains("a.yaml")),
            "{told:?}"
        );
        fs::remove_file(folder.path().join("a.yaml")).unwrap();
        let gone = Event::Change(Change::Gone(Key::IngressClass("a".to_owned())));
        assert_eq!(directory.read().unwrap(), [gone]);
    }

    #[test]
    fn what_a_reader_does_is_no_notice() {
        let is = |kind| is_of_interest(&Ok(notify::Event::new(kind)));
        assert!(!is(EventKind::Access(AccessKind::Open(AccessMode::Any))));
        assert!(!is(EventKind::Access(AccessKind::Close(AccessMode::Read))));
        assert!(is(EventKind::Access(AccessKind::Close(AccessMode::Write))));
        assert!(is(EventKind::Modify(notify::event::ModifyKind::Any)));
        assert!(is_of_interest(&Err(notify::Error::generic("lost"))));
    }

    #[test]
    fn a_secret_that_others_can_read_is_not_taken() {
        let folder = tempfile::tempdir().unwrap();
        let mut directory = Directory::new(folder.path().to_owned());
        write(folder.path(), "s.yaml", SECRET, 0o644);
        let told = directory.read().unwrap();
        assert!(
            matches!(told.as_slice(), [Event::Fault(why)] if why.contains("chmod 600")),
            "{told:?}"
        );
        write(folder.path(), "s.yaml", SECRET, 0o600);
        let told = directory.read().unwrap();
        assert!(
            matches!(
                told.as_slice(),
                [Event::Change(Change::Is(Object::Secret(_)))]
            ),
            "{told:?}"
        );
    }
}
