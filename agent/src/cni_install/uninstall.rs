//! Takes out what `install` put in, in the opposite order, and nothing of others.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::conflist::PLUGIN;
use super::disk::{Disk, half_written, lock};
use super::folder::Folder;
use super::protocol;
use super::report::{Change, Report};

/// What each of our plugins says of itself: a binary without it is another's, whatever its name.
const MARK: &[u8] = b"CNI plugin of the Portolan agent";

/// What to take out, and from where.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) bin_dir: PathBuf,
    pub(super) conf_dir: PathBuf,
    pub(super) conf_name: String,
    pub(super) protocol_names: Option<PathBuf>,
    pub(super) dry_run: bool,
}

/// Uninstalls; what is not there is success.
///
/// # Errors
/// If a file cannot be read or removed. Done again, it goes on.
pub(super) fn uninstall(disk: &mut impl Disk, settings: &Settings) -> anyhow::Result<Report> {
    let mut report = Report {
        dry_run: settings.dry_run,
        ..Report::default()
    };
    if settings.conf_dir.is_dir() {
        let _lock = (!settings.dry_run)
            .then(|| lock(&settings.conf_dir))
            .transpose()?;
        remove_config(disk, settings, &mut report)?;
    }
    remove_binary(disk, settings, &mut report)?;
    if let Some(folder) = &settings.protocol_names {
        protocol::uninstall(disk, folder, &mut report);
    }
    let attached = attached();
    let removed = report
        .files
        .iter()
        .any(|file| file.change == Change::Removed);
    if attached > 0 && removed {
        report.warnings.push(format!(
            "{attached} pods are attached still, and the runtime cannot take them down any more: drain the node first, or \
             install again until they are gone"
        ));
    }
    Ok(report)
}

/// Under whatever name it is.
fn remove_config(
    disk: &mut impl Disk,
    settings: &Settings,
    report: &mut Report,
) -> anyhow::Result<()> {
    let folder = Folder::read(&settings.conf_dir)?;
    let ours = folder
        .ours()
        .chain(folder.half_written.iter().map(PathBuf::as_path));
    for path in ours {
        remove(disk, path)?;
        report.note(path, Change::Removed);
    }
    let named = settings.conf_dir.join(&settings.conf_name);
    if folder.entries.iter().any(|entry| entry.path == named)
        && !folder.ours().any(|path| path == named)
    {
        report.note(&named, Change::Kept);
    }
    let failed = || format!("cannot sync {}", settings.conf_dir.display());
    disk.sync_folder(&settings.conf_dir).with_context(failed)
}

fn remove_binary(
    disk: &mut impl Disk,
    settings: &Settings,
    report: &mut Report,
) -> anyhow::Result<()> {
    let path = settings.bin_dir.join(PLUGIN);
    let half = half_written(&path);
    if half.exists() && remove(disk, &half)? {
        report.note(&half, Change::Removed);
    }
    if !path.exists() {
        return Ok(());
    }
    let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    if bytes.windows(MARK.len()).any(|part| part == MARK) {
        remove(disk, &path)?;
        report.note(&path, Change::Removed);
    } else {
        report.note(&path, Change::Kept);
    }
    Ok(())
}

fn remove(disk: &mut impl Disk, path: &Path) -> anyhow::Result<bool> {
    disk.remove(path)
        .with_context(|| format!("cannot remove {}", path.display()))
}

/// How many host ends of pods there are in this network namespace.
fn attached() -> usize {
    let Ok(links) = fs::read_dir("/sys/class/net") else {
        return 0;
    };
    let names = links.flatten().map(|link| link.file_name());
    names
        .filter(|name| is_host_end(&name.to_string_lossy()))
        .count()
}

/// `ptl` and eleven hexadecimal digits; the VXLAN device is no pod.
fn is_host_end(name: &str) -> bool {
    let digits = name.strip_prefix(routes::LINK_PREFIX);
    digits.is_some_and(|digits| digits.len() == 11 && digits.bytes().all(|b| b.is_ascii_hexdigit()))
}
