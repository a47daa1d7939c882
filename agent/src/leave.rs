//! `portolan cleanup`: takes everything of ours out of the kernel and, if asked, off the disk.

use std::fs;
use std::io;
use std::path::Path;

use anyhow::Context;

use crate::cli::CleanupArgs;
use crate::run;
use crate::stay::until_told;

/// Cleans up, and stays afterwards if asked to.
///
/// # Errors
/// If an agent still runs, or the kernel or the disk refuses.
pub(crate) fn leave(args: &CleanupArgs) -> anyhow::Result<()> {
    run::cleanup(&args.run_dir)?;
    if let Some(state) = &args.state_dir {
        for folder in [state, &args.run_dir] {
            empty(folder).with_context(|| format!("cannot empty {}", folder.display()))?;
        }
    }
    if args.stay {
        return until_told(|| ());
    }
    Ok(())
}

/// Removes what is in a folder; the folder itself may be a mount.
fn empty(folder: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => fs::remove_dir_all(entry.path())?,
            false => fs::remove_file(entry.path())?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_folder_is_emptied_and_what_a_link_in_it_names_stays() {
        let dir = tempfile::tempdir().unwrap();
        let (state, other) = (dir.path().join("state"), dir.path().join("other"));
        fs::create_dir_all(state.join("deeper/still")).unwrap();
        fs::create_dir(&other).unwrap();
        fs::write(state.join("ipam.json"), "{}").unwrap();
        fs::write(other.join("kept"), "").unwrap();
        symlink(&other, state.join("link")).unwrap();
        empty(&state).unwrap();
        assert_eq!(fs::read_dir(&state).unwrap().count(), 0);
        assert!(other.join("kept").is_file());
        empty(&dir.path().join("nothing")).unwrap();
    }
}
