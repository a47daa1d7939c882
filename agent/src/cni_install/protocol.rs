//! The name that `ip route` prints for our routes' protocol number.

use std::fs;
use std::path::Path;

use super::disk::{Disk, put};
use super::report::{Change, Report};

/// The file in `rt_protos.d`.
const FILE: &str = "portolan.conf";

fn text() -> String {
    format!("{}\tportolan\n", routes::PROTOCOL)
}

/// Writes the name if no file is there. A name is no reason to fail: what goes wrong is a warning.
pub(super) fn install(disk: &mut impl Disk, folder: &Path, report: &mut Report) {
    let path = folder.join(FILE);
    if path.exists() {
        report.note(&path, Change::Unchanged);
        return;
    }
    let written = disk.make_folder(folder).map_err(anyhow::Error::from);
    let text = text();
    let written = written.and_then(|()| put(disk, &path, (text.as_bytes(), 0o644), |_| Ok(())));
    match written {
        Ok(()) => report.note(&path, Change::Written),
        Err(error) => report.warnings.push(format!(
            "{error:#}: `ip route` will show protocol {} as a number",
            routes::PROTOCOL
        )),
    }
}

/// Takes the name away if it is as we wrote it.
pub(super) fn uninstall(disk: &mut impl Disk, folder: &Path, report: &mut Report) {
    let path = folder.join(FILE);
    match fs::read(&path) {
        Ok(bytes) if bytes == text().as_bytes() => match disk.remove(&path) {
            Ok(_) => report.note(&path, Change::Removed),
            Err(error) => report
                .warnings
                .push(format!("cannot remove {}: {error}", path.display())),
        },
        Ok(_) => report.note(&path, Change::Kept),
        Err(_) => {}
    }
}
