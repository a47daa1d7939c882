//! What runs of the test cluster that were killed have left on the machine, and its removal. Only what bears the mark of a
//! process that is gone is touched.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tests::wait::eventually;

use crate::cgroups;

/// Of folders and cgroups; behind it comes the mark.
const PREFIX: &str = "ptl-cluster-";

/// Of the network namespaces of nodes, the ToR and the network outside; behind it comes the process.
const NAMESPACES: &str = "ptl-k8s-";

/// How long killed processes may take to be gone.
const END: Duration = Duration::from_secs(30);

/// A process and when it started, in the kernel's ticks since boot: no other one has both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark {
    pid: i32,
    started: u64,
}

impl Mark {
    /// Of a name as [`prefix`] begins it.
    fn of(name: &str) -> Option<Self> {
        let mut parts = name.strip_prefix(PREFIX)?.splitn(3, '-');
        let pid = parts.next()?.parse().ok()?;
        let started = parts.next()?.parse().ok()?;
        parts.next().map(|_| Self { pid, started })
    }

    fn is_alive(self) -> bool {
        started(self.pid).is_some_and(|started| started == self.started)
    }
}

/// When a process started; none if there is no such process.
fn started(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name is in brackets and may hold anything.
    let (_, behind) = stat.rsplit_once(')')?;
    let mut words = behind.split_whitespace();
    // A process that only waits to be looked at is gone.
    if words.next() == Some("Z") {
        return None;
    }
    words.nth(18)?.parse().ok()
}

/// What names of this process's folders and cgroups begin with.
///
/// # Errors
/// When /proc is not to be read.
pub fn prefix() -> Result<String> {
    let pid = std::process::id();
    let started = started(pid.try_into()?).context("this process is not in /proc")?;
    Ok(format!("{PREFIX}{pid}-{started}-"))
}

/// Ends and removes what runs that are gone have left, and names it.
///
/// # Errors
/// When something of it cannot be removed.
pub fn sweep() -> Result<Vec<String>> {
    let mut swept = Vec::new();
    for hierarchy in cgroups::mounted()? {
        for group in of_the_dead(&hierarchy)? {
            end_all_of(&group)?;
            swept.push(group);
        }
    }
    for folder in of_the_dead(&std::env::temp_dir())? {
        remove_folder(&folder)?;
        swept.push(folder);
    }
    for name in names_in(Path::new("/run/netns"))? {
        let pid = name
            .strip_prefix(NAMESPACES)
            .and_then(|rest| rest.split('-').next()?.parse().ok());
        // When that process started is not known: where there is one of this number, it stays.
        if pid.is_some_and(|pid| started(pid).is_none()) {
            tests::netns::remove(&name)?;
            swept.push(Path::new("/run/netns").join(name));
        }
    }
    Ok(swept
        .iter()
        .map(|path| path.display().to_string())
        .collect())
}

fn names_in(folder: &Path) -> Result<Vec<String>> {
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let entries = std::fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let names = entries.flatten();
    let mut names: Vec<String> = names
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    Ok(names)
}

fn of_the_dead(folder: &Path) -> Result<Vec<PathBuf>> {
    let names = names_in(folder)?.into_iter();
    let dead = names.filter(|name| Mark::of(name).is_some_and(|mark| !mark.is_alive()));
    Ok(dead.map(|name| folder.join(name)).collect())
}

/// Kills every process of a group and of those below it, and removes them.
fn end_all_of(group: &Path) -> Result<()> {
    eventually(END, &format!("the end of {}", group.display()), || {
        for pid in processes_of(group) {
            // It may have ended meanwhile.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        cgroups::remove_tree(group)
    })
}

fn processes_of(group: &Path) -> Vec<i32> {
    let own = std::fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    let mut processes: Vec<i32> = own.lines().filter_map(|line| line.parse().ok()).collect();
    for entry in std::fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            processes.extend(processes_of(&entry.path()));
        }
    }
    // 0 is a process of another PID namespace: killing that would kill this process's group.
    processes.retain(|pid| *pid > 0);
    processes
}

/// Removes a folder, once nothing is mounted in it: what is mounted there may be the machine's own.
fn remove_folder(folder: &Path) -> Result<()> {
    for point in mounts_in(folder)?.iter().rev() {
        Command::new("umount")
            .args(["--lazy", "--"])
            .arg(point)
            .status()?;
    }
    let left = mounts_in(folder)?;
    ensure!(left.is_empty(), "{left:?} cannot be unmounted");
    // A shell that waited for that run's end may remove it, too.
    eventually(
        END,
        &format!("the end of {}", folder.display()),
        || match std::fs::remove_dir_all(folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        },
    )
}

/// In the order in which they were mounted.
fn mounts_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let mounts = std::fs::read_to_string("/proc/self/mounts")?;
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(1));
    Ok(points
        .map(PathBuf::from)
        .filter(|point| point.starts_with(folder))
        .collect())
}

#[cfg(test)]
mod tests_of_marks {
    use super::*;

    #[test]
    fn a_name_of_this_process_is_alive_and_one_of_an_earlier_process_of_its_number_is_not() {
        let name = format!("{}AbCdEf", prefix().unwrap());
        let mark = Mark::of(&name).unwrap();
        assert!(mark.is_alive());
        let earlier = Mark {
            started: mark.started - 1,
            ..mark
        };
        assert!(!earlier.is_alive());
    }

    #[test]
    fn names_without_a_mark_are_nobody_s() {
        for name in [
            "ptl-cluster-4KndDE",
            "ptl-cluster-12-",
            "ptl-cluster-12-abc",
            "ptl-control-1-2-x",
            "ptl-cluster-1-2",
        ] {
            assert_eq!(Mark::of(name), None, "{name}");
        }
    }
}
