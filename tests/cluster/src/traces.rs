//! What a cluster could leave behind on the machine.

use anyhow::Result;

use crate::leftovers;

/// Of this process alone where others could be at work, or have left something, too.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Traces {
    mounts: Vec<String>,
    namespaces: Vec<String>,
    cgroups: Vec<String>,
    folders: Vec<String>,
    sysctls: Vec<String>,
}

/// Those that a kubelet writes, or the cluster itself.
const SYSCTLS: [&str; 7] = [
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
    "net/ipv4/ip_forward",
];

impl Traces {
    /// What there is now.
    ///
    /// # Errors
    /// When this process has no name for what it makes.
    pub(crate) fn now() -> Result<Self> {
        let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
        let hierarchies = std::fs::read_dir("/sys/fs/cgroup")
            .into_iter()
            .flatten()
            .flatten();
        let own = format!("-{}-", std::process::id());
        let prefix = leftovers::prefix()?;
        let read =
            |name: &str| std::fs::read_to_string(format!("/proc/sys/{name}")).unwrap_or_default();
        Ok(Self {
            mounts: lines(&mounts, &prefix),
            namespaces: listed("/run/netns", &own),
            cgroups: hierarchies
                .flat_map(|hierarchy| listed(&hierarchy.path().to_string_lossy(), &prefix))
                .collect(),
            folders: listed("/tmp", &prefix),
            sysctls: SYSCTLS
                .map(|name| format!("{name} {}", read(name).trim()))
                .into(),
        })
    }
}

fn lines(text: &str, word: &str) -> Vec<String> {
    text.lines()
        .filter(|line| line.contains(word))
        .map(str::to_owned)
        .collect()
}

fn listed(folder: &str, word: &str) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.filter(|name| name.contains(word)).collect();
    names.sort();
    names
}
