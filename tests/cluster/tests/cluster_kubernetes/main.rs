//! A running cluster, shown in order: each function is a test, and all share the one cluster.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test"
)]

mod bgp;
mod lifecycle;
mod policies;
mod readiness;
mod traffic;
mod workloads;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Instant;

use cluster::cluster::Cluster;
use cluster::portolan;

type Test = (&'static str, fn(&mut Cluster));

/// A test by the name of its function.
macro_rules! tests {
    ($($module:ident::$name:ident,)*) => { &[$((stringify!($name), $module::$name)),*] };
}

/// In order: what a later one needs, an earlier one has made.
const TESTS: &[Test] = tests![
    readiness::nodes_without_a_cni_configuration_are_not_ready,
    readiness::nodes_become_ready_by_our_configuration,
    workloads::deployments_run_on_both_nodes_and_their_pods_reach_each_other,
    workloads::kubectl_exec_and_logs_reach_pods_of_both_nodes,
    workloads::names_lead_to_services_and_pods,
    workloads::services_are_reached_by_cluster_ip_and_node_port,
    policies::probes_of_the_kubelet_pass_under_deny_all,
    policies::policies_by_kubectl_deny_and_allow,
    bgp::the_tor_learns_the_pod_cidrs_of_both_families,
    bgp::a_password_from_a_secret_is_rotated_live,
    lifecycle::a_rolling_update_of_the_agent_loses_nothing,
    lifecycle::an_api_server_that_is_away_for_a_minute_breaks_nothing,
    lifecycle::a_node_is_drained_and_deleted_and_comes_back,
];

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
        cluster = Some(Cluster::start(&[portolan::image().unwrap()]).unwrap());
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
        let hierarchies = std::fs::read_dir("/sys/fs/cgroup")
            .into_iter()
            .flatten()
            .flatten();
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
            cgroups: hierarchies
                .flat_map(|hierarchy| listed(&hierarchy.path().to_string_lossy(), "ptl-cluster-"))
                .collect(),
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
