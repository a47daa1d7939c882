//! A run that is killed leaves things on the machine; the next one takes them away and touches nothing of who lives.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Result, ensure};
use cluster::cgroups::CgroupRoot;
use cluster::leftovers;
use tests::require_root;
use tests::wait::eventually;

const SOON: Duration = Duration::from_secs(60);
const INOTIFY: &str = "/proc/sys/fs/inotify/max_user_instances";

/// A node in a process of its own.
fn run() -> (Child, PathBuf) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_portolan-node"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    output.read_line(&mut line).unwrap();
    assert!(!line.is_empty(), "{:?}", child.wait());
    (child, PathBuf::from(line.trim()))
}

fn names_in(folder: &Path, word: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.retain(|path| path.to_string_lossy().contains(word));
    paths
}

/// All that a process's run has made.
fn traces(pid: u32) -> Vec<PathBuf> {
    let mut found = names_in(Path::new("/run/netns"), &format!("ptl-k8s-{pid}-"));
    let mark = format!("ptl-cluster-{pid}-");
    found.extend(names_in(&std::env::temp_dir(), &mark));
    for hierarchy in cluster::cgroups::mounted().unwrap() {
        found.extend(names_in(&hierarchy, &mark));
    }
    found
}

fn instances() -> String {
    std::fs::read_to_string(INOTIFY).unwrap().trim().to_owned()
}

/// Waits for the end of a process of ours that has no parent left to look at it, and of one whose parent doesn't look.
fn ensure_ended(pid: u32) -> Result<()> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").map_or("", |(_, state)| state);
    ensure!(state.is_empty() || state.starts_with('Z'), "{stat}");
    Ok(())
}

#[test]
fn the_next_run_takes_away_what_a_killed_one_left() {
    require_root!();
    // That one's life is this process's.
    let name = format!("{}live", leftovers::prefix().unwrap());
    let live = CgroupRoot::new(&name).unwrap();
    let (mut killed, dir) = run();
    let lab = dir.parent().unwrap().file_name().unwrap();
    let before = traces(killed.id());
    assert!(before.len() >= 3 + 1 + 2, "{before:?}");
    // As a container's shim that has lost its parent.
    let mut orphan = Command::new("setsid")
        .args(["sleep", "600"])
        .spawn()
        .unwrap();
    let hierarchies = cluster::cgroups::mounted().unwrap();
    let group = hierarchies[0].join(lab).join("n1");
    std::fs::create_dir(group.join("pod")).unwrap();
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if let Ok(value) = std::fs::read_to_string(group.join(file)) {
            std::fs::write(group.join("pod").join(file), value.trim()).unwrap();
        }
    }
    std::fs::write(group.join("pod/cgroup.procs"), orphan.id().to_string()).unwrap();
    killed.kill().unwrap();
    killed.wait().unwrap();
    let left = traces(killed.id());
    assert!(left.len() > 3, "nothing is left to be taken away: {left:?}");
    assert!(orphan.try_wait().unwrap().is_none());

    let (mut next, _) = run();
    assert_eq!(traces(killed.id()), Vec::<PathBuf>::new());
    eventually(SOON, "the end of the orphan", || ensure_ended(orphan.id())).unwrap();
    orphan.wait().unwrap();
    assert_eq!(live.groups().len(), hierarchies.len());
    assert!(instances().parse::<u32>().unwrap() >= 4096);
    let record = std::env::temp_dir().join("portolan-cluster.inotify");
    let before = std::fs::read_to_string(&record).ok();
    drop(next.stdin.take());
    assert!(next.wait().unwrap().success());
    // Unless the next one, of another test, has it again.
    let is_back = before.is_none_or(|before| instances() == before.trim());
    assert!(is_back || record.exists(), "{}", instances());
    assert_eq!(traces(next.id()), Vec::<PathBuf>::new());
}
