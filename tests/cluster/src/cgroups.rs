//! A node's own group in every hierarchy of cgroups, and its removal with all that was made below it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use tests::wait::eventually;

/// How long the kernel may take to let go of groups whose processes have been killed.
const REMOVAL: Duration = Duration::from_secs(20);

/// One group of the same name in every hierarchy; dropping it removes it.
#[derive(Debug)]
pub struct CgroupRoot {
    name: String,
    hierarchies: Vec<PathBuf>,
}

impl CgroupRoot {
    /// Makes the group `name`, a path without a leading `/`.
    ///
    /// # Errors
    /// When the machine has no cgroup v1 hierarchies, or a group can't be made.
    pub fn new(name: &str) -> Result<Self> {
        let root = Self {
            name: name.to_owned(),
            hierarchies: mounted()?,
        };
        root.make()?;
        Ok(root)
    }

    /// Makes it again after [`Self::remove`].
    ///
    /// # Errors
    /// When a group can't be made.
    pub fn make(&self) -> Result<()> {
        for hierarchy in &self.hierarchies {
            let mut group = hierarchy.clone();
            for part in Path::new(&self.name) {
                let parent = group.clone();
                group.push(part);
                std::fs::create_dir_all(&group)
                    .with_context(|| format!("can't make {}", group.display()))?;
                inherit_cpuset(&parent, &group)?;
            }
        }
        Ok(())
    }

    /// Its name as the kubelet's `cgroupRoot` has it.
    #[must_use]
    pub fn name(&self) -> String {
        format!("/{}", self.name)
    }

    /// The groups that there are, of every hierarchy.
    #[must_use]
    pub fn groups(&self) -> Vec<PathBuf> {
        let paths = self
            .hierarchies
            .iter()
            .map(|hierarchy| hierarchy.join(&self.name));
        paths.filter(|path| path.exists()).collect()
    }

    /// Removes it everywhere; no process may be left in it.
    ///
    /// # Errors
    /// When a process stays in it.
    pub fn remove(&self) -> Result<()> {
        eventually(REMOVAL, "the removal of the node's cgroups", || {
            for group in self.groups() {
                remove_tree(&group)?;
            }
            Ok::<_, anyhow::Error>(())
        })?;
        // The lab's own group goes with its last node.
        if let Some(parent) = Path::new(&self.name)
            .parent()
            .filter(|parent| parent.parent().is_some())
        {
            for hierarchy in &self.hierarchies {
                let _ = std::fs::remove_dir(hierarchy.join(parent));
            }
        }
        Ok(())
    }
}

impl Drop for CgroupRoot {
    fn drop(&mut self) {
        // Nothing can be done about a failure here; the next run's name differs.
        let _ = self.remove();
    }
}

/// The hierarchies of this machine.
///
/// # Errors
/// When it has none of version 1.
pub fn mounted() -> Result<Vec<PathBuf>> {
    hierarchies(&std::fs::read_to_string("/proc/mounts")?)
}

/// A new cpuset is empty, and nothing can be put into it, until it is told what it has.
fn inherit_cpuset(parent: &Path, group: &Path) -> Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if let Ok(value) = std::fs::read_to_string(parent.join(file)) {
            std::fs::write(group.join(file), value.trim())
                .with_context(|| format!("{}/{file}", group.display()))?;
        }
    }
    Ok(())
}

/// Groups are folders whose files can't be deleted: children first, then the folder itself.
pub(crate) fn remove_tree(group: &Path) -> Result<()> {
    for entry in std::fs::read_dir(group)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    std::fs::remove_dir(group).map_err(|error| anyhow!("{}: {error}", group.display()))
}

/// The mount points of cgroup v1, each once, and of version 2 beside them, in which runc makes groups of the same name.
fn hierarchies(mounts: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut is_hybrid = false;
    for line in mounts.lines() {
        let mut words = line.split(' ');
        let (_, point, kind) = (words.next(), words.next(), words.next());
        if let (Some(point), Some("cgroup" | "cgroup2")) = (point, kind) {
            found.push(PathBuf::from(point));
            is_hybrid |= kind == Some("cgroup");
        }
    }
    ensure!(
        is_hybrid,
        "this machine has cgroup version 2 alone, and the nodes of the test cluster want the hierarchies of version 1: boot it \
         with systemd.unified_cgroup_hierarchy=0 SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1, or mount them"
    );
    found.sort();
    found.dedup();
    Ok(found)
}

#[cfg(test)]
mod tests_of_mounts {
    use super::*;

    #[test]
    fn hierarchies_of_both_versions_are_found_and_no_other_mount() {
        let found = hierarchies(
            "tmpfs /sys/fs/cgroup tmpfs rw 0 0
cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,cpu,cpuacct 0 0
cgroup /sys/fs/cgroup/pids cgroup rw,pids 0 0
cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0
",
        )
        .unwrap();
        let expected = [
            "/sys/fs/cgroup/cpu,cpuacct",
            "/sys/fs/cgroup/pids",
            "/sys/fs/cgroup/unified",
        ];
        assert_eq!(found, expected.map(PathBuf::from));
    }

    #[test]
    fn a_machine_of_version_2_alone_is_told_what_to_do() {
        let mounts = "cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\nproc /proc proc rw 0 0\n";
        let said = hierarchies(mounts).unwrap_err().to_string();
        assert!(
            said.contains("systemd.unified_cgroup_hierarchy=0"),
            "{said}"
        );
    }
}
