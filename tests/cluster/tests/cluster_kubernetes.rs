//! A running cluster, shown in order: each function is a test, and all share the one cluster.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test"
)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use cluster::cluster::Cluster;
use tests::wait::eventually;

type Test = (&'static str, fn(&mut Cluster));

/// In order: what a later one needs, an earlier one has made.
const TESTS: &[Test] = &[(
    "nodes_without_a_cni_configuration_are_not_ready",
    nodes_without_a_cni_configuration_are_not_ready,
)];

/// Speaks as the usual test harness does, because its summary is what is added up. Starting the cluster is a test, too,
/// and so is that nothing of it is left.
fn main() -> ExitCode {
    let filter: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with('-'))
        .collect();
    if std::env::args().any(|word| word == "--list") {
        return ExitCode::SUCCESS;
    }
    if !tests::root::is_granted("cluster_kubernetes") {
        return ExitCode::SUCCESS;
    }
    let mut tally = Tally::default();
    let is_chosen =
        |name: &str| filter.is_empty() || filter.iter().any(|word| name.contains(word.as_str()));
    let chosen: Vec<&Test> = TESTS.iter().filter(|(name, _)| is_chosen(name)).collect();
    if chosen.is_empty() {
        return tally.finish();
    }
    let before = Traces::now();
    let mut cluster = None;
    tally.run("a_cluster_of_two_nodes_starts", || {
        cluster = Some(Cluster::start(&[]).unwrap());
    });
    if let Some(mut cluster) = cluster {
        for (name, test) in chosen {
            tally.run(name, || test(&mut cluster));
        }
        tally.run("nothing_is_left_of_a_cluster", || {
            drop(cluster);
            assert_eq!(Traces::now(), before);
        });
    }
    tally.finish()
}

fn nodes_without_a_cni_configuration_are_not_ready(cluster: &mut Cluster) {
    for node in ["n1", "n2"] {
        let what = format!("a kubelet that says why {node} is not ready");
        eventually(Duration::from_secs(60), &what, || -> Result<()> {
            ensure!(cluster.readiness(node)? == "False");
            let node = cluster.get(&["node", node])?;
            ensure!(
                node.to_string().contains("cni plugin not initialized"),
                "{node}"
            );
            Ok(())
        })
        .unwrap();
    }
    cluster.tell("both nodes NotReady for want of a CNI configuration");
}

/// What a cluster could leave behind on the machine.
#[derive(Debug, PartialEq, Eq)]
struct Traces {
    mounts: Vec<String>,
    namespaces: Vec<String>,
    cgroups: Vec<String>,
    folders: Vec<String>,
    sysctls: Vec<String>,
}

impl Traces {
    /// Of this process alone where others could be at work, too.
    fn now() -> Self {
        let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
        let own = format!("-{}-", std::process::id());
        let sysctls = [
            "fs/inotify/max_user_instances",
            "vm/overcommit_memory",
            "vm/panic_on_oom",
            "kernel/panic",
            "kernel/panic_on_oops",
            "kernel/keys/root_maxkeys",
            "kernel/keys/root_maxbytes",
            "net/ipv4/ip_forward",
        ];
        let read =
            |name: &str| std::fs::read_to_string(format!("/proc/sys/{name}")).unwrap_or_default();
        Self {
            mounts: lines(&mounts, "ptl-cluster-"),
            namespaces: listed("/run/netns", &own),
            cgroups: listed("/sys/fs/cgroup/pids", "ptl-cluster-"),
            folders: listed("/tmp", "ptl-cluster-"),
            sysctls: sysctls
                .map(|name| format!("{name} {}", read(name).trim()))
                .into(),
        }
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

#[derive(Default)]
struct Tally {
    passed: usize,
    failed: Vec<&'static str>,
}

impl Tally {
    fn run(&mut self, name: &'static str, test: impl FnOnce()) {
        let start = Instant::now();
        // The cluster stays usable for the next one, whatever state this one left it in.
        let result = catch_unwind(AssertUnwindSafe(test));
        let seconds = start.elapsed().as_secs_f32();
        match result {
            Ok(()) => {
                self.passed += 1;
                println!("test {name} ... ok ({seconds:.1} s)");
            }
            Err(_) => {
                self.failed.push(name);
                println!("test {name} ... FAILED ({seconds:.1} s)");
            }
        }
    }

    fn finish(self) -> ExitCode {
        let is_ok = self.failed.is_empty();
        if !is_ok {
            println!("\nfailures:\n    {}", self.failed.join("\n    "));
        }
        let word = if is_ok { "ok" } else { "FAILED" };
        println!(
            "\ntest result: {word}. {} passed; {} failed; 0 ignored; 0 measured; 0 filtered out",
            self.passed,
            self.failed.len()
        );
        if is_ok {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }
}
