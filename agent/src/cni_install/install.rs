//! The order of an installation: the binary, then a healthy agent, and the configuration last.
//!
//! A runtime starts pods as soon as it has read the configuration (semantics 111, 166): by then all it names must be there.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use super::conflist::{Owner, PLUGIN, Version, Wanted, plugin_type};
use super::disk::{Disk, lock, put};
use super::folder::{Folder, has_ending};
use super::report::{Change, Report};
use super::{check, protocol};

const BINARY_MODE: u32 = 0o755;
const CONFIG_MODE: u32 = 0o644;

/// What to install, and where.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) bin_dir: PathBuf,
    pub(super) conf_dir: PathBuf,
    pub(super) conf_name: String,
    /// The plugin's binary to copy.
    pub(super) plugin: PathBuf,
    pub(super) version: Version,
    pub(super) socket: String,
    pub(super) state_dir: String,
    pub(super) wait: Duration,
    pub(super) chain: Vec<Value>,
    /// `rt_protos.d`; none to leave it alone.
    pub(super) protocol_names: Option<PathBuf>,
    pub(super) dry_run: bool,
}

impl Settings {
    fn config(&self) -> PathBuf {
        self.conf_dir.join(&self.conf_name)
    }

    fn text(&self) -> anyhow::Result<String> {
        let wanted = Wanted {
            version: self.version,
            socket: &self.socket,
            state_dir: &self.state_dir,
            chain: &self.chain,
        };
        wanted.text()
    }
}

/// Installs, or says what would be done.
///
/// # Errors
/// If a step fails, or the agent is not ready in time. Done again, it goes on from whatever is there.
pub(super) fn install(disk: &mut impl Disk, settings: &Settings) -> anyhow::Result<Report> {
    let mut report = Report {
        dry_run: settings.dry_run,
        ..Report::default()
    };
    check_name(&settings.conf_name)?;
    let text = settings.text()?;
    // Before anything is changed; the folder may be another one by the time the agent is ready.
    check_target(settings)?;
    let binary = put_binary(disk, settings, &mut report)?;
    check_chain(settings)?;
    if let Some(folder) = &settings.protocol_names {
        protocol::install(disk, folder, &mut report);
    }
    if !settings.dry_run && !settings.wait.is_zero() {
        check::wait_for_agent(&binary, &settings.socket, settings.wait)?;
    }
    put_config(disk, settings, &text, &mut report)?;
    report.configuration = settings.dry_run.then_some(text);
    Ok(report)
}

/// A name that runtimes read as a list, and no path.
fn check_name(name: &str) -> anyhow::Result<()> {
    let is_list = name.ends_with(".conflist") && has_ending(Path::new(name));
    ensure!(
        is_list && !name.contains(['/', '\0']) && !name.starts_with('.'),
        "--conf-name {name:?} should be a file name that ends with .conflist"
    );
    Ok(())
}

/// Another's file is not overwritten. One that no runtime can read is no one's.
fn check_target(settings: &Settings) -> anyhow::Result<()> {
    let path = settings.config();
    let folder = Folder::read(&settings.conf_dir)?;
    let there = folder.entries.into_iter().find(|entry| entry.path == path);
    match there.map(|entry| entry.owner) {
        Some(Owner::Other(name)) => bail!(
            "{} is network {name:?} of another: remove it, or give ours another name by --conf-name",
            path.display()
        ),
        Some(Owner::Ours | Owner::Invalid(_)) | None => Ok(()),
    }
}

/// CRI-O ignores a network of which a plugin is missing, and containerd fails every pod.
fn check_chain(settings: &Settings) -> anyhow::Result<()> {
    for name in settings.chain.iter().filter_map(plugin_type) {
        let path = settings.bin_dir.join(name);
        ensure!(
            path.is_file(),
            "{} of --chain is not there: install it first",
            path.display()
        );
    }
    Ok(())
}

/// Puts the plugin in place unless it is there already; where it is then.
fn put_binary(
    disk: &mut impl Disk,
    settings: &Settings,
    report: &mut Report,
) -> anyhow::Result<PathBuf> {
    let source = &settings.plugin;
    let bytes = fs::read(source).with_context(|| {
        format!(
            "cannot read the plugin {}: --plugin says where it is",
            source.display()
        )
    })?;
    make_folder(disk, &settings.conf_dir)?;
    make_folder(disk, &settings.bin_dir)?;
    let _lock = (!settings.dry_run)
        .then(|| lock(&settings.conf_dir))
        .transpose()?;
    let path = settings.bin_dir.join(PLUGIN);
    let speaks = |file: &Path| {
        let file = if settings.dry_run { source } else { file };
        check::speaks(file, settings.version)
    };
    match state(&path, &bytes, BINARY_MODE)? {
        State::Same => {
            speaks(&path)?;
            report.note(&path, Change::Unchanged);
        }
        State::OtherMode => {
            let failed = || format!("cannot make {} executable", path.display());
            disk.set_mode(&path, BINARY_MODE).with_context(failed)?;
            speaks(&path)?;
            report.note(&path, Change::Written);
        }
        State::Other => {
            put(disk, &path, (&bytes, BINARY_MODE), speaks)?;
            report.note(&path, Change::Written);
        }
    }
    Ok(path)
}

/// Puts the configuration in place, and takes away those of ours under other names.
fn put_config(
    disk: &mut impl Disk,
    settings: &Settings,
    text: &str,
    report: &mut Report,
) -> anyhow::Result<()> {
    let _lock = (!settings.dry_run)
        .then(|| lock(&settings.conf_dir))
        .transpose()?;
    check_target(settings)?;
    let path = settings.config();
    let change = match state(&path, text.as_bytes(), CONFIG_MODE)? {
        // Its mode is the owner's affair.
        State::Same | State::OtherMode => Change::Unchanged,
        State::Other => {
            put(disk, &path, (text.as_bytes(), CONFIG_MODE), |_| Ok(()))?;
            Change::Written
        }
    };
    report.note(&path, change);
    let folder = Folder::read(&settings.conf_dir)?;
    // Ours is there whole by now: at no time is there none.
    let old = folder.ours().filter(|other| *other != path);
    let old: Vec<&Path> = old
        .chain(folder.half_written.iter().map(PathBuf::as_path))
        .collect();
    for file in &old {
        let failed = || format!("cannot remove {}, an old one of ours", file.display());
        disk.remove(file).with_context(failed)?;
        report.note(file, Change::Removed);
    }
    if !old.is_empty() {
        disk.sync_folder(&settings.conf_dir)?;
    }
    let folder = Folder::read(&settings.conf_dir)?;
    if folder
        .entries
        .first()
        .is_some_and(|first| first.path < path)
    {
        report.warnings.extend(folder.warnings());
    }
    Ok(())
}

fn make_folder(disk: &mut impl Disk, path: &Path) -> anyhow::Result<()> {
    disk.make_folder(path)
        .with_context(|| format!("cannot make {}", path.display()))
}

enum State {
    Same,
    OtherMode,
    Other,
}

/// What is at `path`, compared with what should be.
fn state(path: &Path, bytes: &[u8], mode: u32) -> anyhow::Result<State> {
    let cannot = || format!("cannot read {}", path.display());
    let found = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(State::Other),
        found => found.with_context(cannot)?,
    };
    ensure!(!found.is_dir(), "{} is a folder", path.display());
    // A link is replaced by a file: what it names is another's.
    if found.is_symlink() || fs::read(path).with_context(cannot)? != bytes {
        return Ok(State::Other);
    }
    Ok(match found.permissions().mode() & 0o777 == mode {
        true => State::Same,
        false => State::OtherMode,
    })
}
