//! Pods of a running cluster: found, entered, probed from, and waited for.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use serde_json::Value;
use tests::netns::Netns;
use tests::wait::eventually;

use crate::cluster::Cluster;

/// How long a rollout may take, on a machine that does much else.
const ROLLOUT: &str = "--timeout=180s";

/// A pod that runs.
#[derive(Clone, Debug)]
pub struct Pod {
    /// Its Namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The node it is on.
    pub node: String,
    /// Its uid.
    pub uid: String,
    /// Its addresses, the first family's first.
    pub ips: Vec<IpAddr>,
}

impl Pod {
    /// Its address of a family.
    ///
    /// # Errors
    /// When it has none.
    pub fn ip(&self, is_v6: bool) -> Result<IpAddr> {
        let found = self.ips.iter().find(|ip| ip.is_ipv6() == is_v6);
        found
            .copied()
            .with_context(|| format!("{} has {:?} only", self.name, self.ips))
    }
}

impl Cluster {
    /// The pods of a Namespace that a selector (`app=web`) chooses and that are not on their way out.
    ///
    /// # Errors
    /// When kubectl fails.
    pub fn pods(&self, namespace: &str, selector: &str) -> Result<Vec<Pod>> {
        let list = self.get(&["-n", namespace, "pods", "-l", selector])?;
        let items = list
            .get("items")
            .and_then(Value::as_array)
            .into_iter()
            .flatten();
        let living = items.filter(|pod| pod.pointer("/metadata/deletionTimestamp").is_none());
        Ok(living.map(pod).collect())
    }

    /// The one pod that a selector chooses on a node.
    ///
    /// # Errors
    /// When there is none, or several.
    pub fn pod_on(&self, node: &str, namespace: &str, selector: &str) -> Result<Pod> {
        let mut pods = self.pods(namespace, selector)?;
        pods.retain(|pod| pod.node == node);
        ensure!(pods.len() == 1, "{selector} on {node}: {pods:?}");
        pods.pop().context("one")
    }

    /// Waits until `deployment/web` or the like is rolled out.
    ///
    /// # Panics
    /// When it is not in time: says what its pods are about.
    pub fn wait_rollout(&self, namespace: &str, what: &str) {
        let waited = self
            .plane()
            .try_kubectl(&["-n", namespace, "rollout", "status", what, ROLLOUT]);
        if let Err(error) = waited {
            panic!("{error:#}\n{}", self.describe(namespace));
        }
    }

    /// What a person would look at first when a Namespace's pods don't become ready.
    #[must_use]
    pub fn describe(&self, namespace: &str) -> String {
        let ask = |args: &[&str]| {
            let answer = self
                .plane()
                .try_kubectl(&[&["-n", namespace][..], args].concat());
            answer.unwrap_or_else(|error| error.to_string())
        };
        let mut told = ask(&["get", "pods", "-o", "wide"]);
        told += &ask(&["get", "events", "--sort-by=.lastTimestamp"]);
        for pod in self.pods(namespace, "").unwrap_or_default() {
            let name = format!("pod/{}", pod.name);
            told += &format!("== {name}\n");
            told += &ask(&["logs", &name, "--all-containers", "--prefix", "--tail=25"]);
        }
        told
    }

    /// Runs a shell's words in a pod's first container.
    ///
    /// # Errors
    /// When kubectl or the words fail.
    pub fn exec(&self, pod: &Pod, script: &str) -> Result<String> {
        let words = [
            "-n",
            &pod.namespace,
            "exec",
            &pod.name,
            "--",
            "sh",
            "-c",
            script,
        ];
        self.plane().try_kubectl(&words)
    }

    /// Runs a command in a pod `count` times at once and gives how many of them succeeded.
    ///
    /// # Errors
    /// When kubectl fails, or not all were started.
    pub fn count(&self, pod: &Pod, command: &str, count: usize) -> Result<usize> {
        let counts = self.count_each(pod, &[command.to_owned()], count)?;
        counts.first().copied().context("one command")
    }

    /// Runs each command in a pod `count` times, all at once, and gives how many of each succeeded.
    ///
    /// # Errors
    /// When kubectl fails, or not all were started.
    pub fn count_each(&self, pod: &Pod, commands: &[String], count: usize) -> Result<Vec<usize>> {
        let mut tries = String::new();
        for (number, command) in commands.iter().enumerate() {
            tries += &format!("({command} >/dev/null 2>&1 && echo answered {number}) & ");
        }
        let script = format!(
            "i=0; while [ $i -lt {count} ]; do i=$((i+1)); {tries} done; wait; echo started $i"
        );
        let said = self.exec(pod, &script)?;
        let started = format!("started {count}");
        ensure!(
            said.lines().any(|line| line == started),
            "{commands:?}: {said}"
        );
        let answers = |number: usize| {
            let line = format!("answered {number}");
            said.lines().filter(|&said| said == line).count()
        };
        Ok((0..commands.len()).map(answers).collect())
    }

    /// The pod's network namespace, under a name that the harness can use.
    ///
    /// # Errors
    /// When the pod doesn't run.
    pub fn netns_of(&mut self, pod: &Pod) -> Result<Netns> {
        let groups = self.node(&pod.node).cgroups().groups();
        let folder = format!("pod{}", pod.uid);
        let group = groups.iter().find_map(|group| find(group, &folder));
        let group = group.with_context(|| format!("no cgroup {folder}"))?;
        let process =
            first_process(&group).with_context(|| format!("no process in {}", group.display()))?;
        Netns::of_process("k8s", &pod.name, process)
    }

    /// Waits until a pod's status says what `wanted` finds in it.
    ///
    /// # Errors
    /// When it doesn't in time.
    pub fn wait_pod(
        &self,
        pod: &Pod,
        what: &str,
        deadline: Duration,
        wanted: impl Fn(&Value) -> bool,
    ) -> Result<()> {
        eventually(deadline, &format!("{}: {what}", pod.name), || {
            let found = self.get(&["-n", &pod.namespace, "pod", &pod.name])?;
            ensure!(wanted(&found), "{found}");
            Ok::<_, anyhow::Error>(())
        })
    }
}

fn pod(value: &Value) -> Pod {
    let word = |pointer: &str| {
        let word = value.pointer(pointer).and_then(Value::as_str);
        word.unwrap_or_default().to_owned()
    };
    let ips = value.pointer("/status/podIPs").and_then(Value::as_array);
    let ips = ips.into_iter().flatten();
    Pod {
        namespace: word("/metadata/namespace"),
        name: word("/metadata/name"),
        node: word("/spec/nodeName"),
        uid: word("/metadata/uid"),
        ips: ips
            .filter_map(|ip| ip.get("ip")?.as_str()?.parse().ok())
            .collect(),
    }
}

/// The folder of this name below another.
fn find(below: &Path, name: &str) -> Option<PathBuf> {
    let entries = std::fs::read_dir(below).ok()?.flatten();
    let folders: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .collect();
    let here = folders
        .iter()
        .find(|path| path.file_name().is_some_and(|found| found == name));
    here.cloned()
        .or_else(|| folders.iter().find_map(|folder| find(folder, name)))
}

/// A process of a group or of one below it, as this machine counts.
fn first_process(group: &Path) -> Result<i32> {
    let entries = std::fs::read_dir(group)?.flatten();
    let processes = std::fs::read_to_string(group.join("cgroup.procs"))?;
    let own = processes.lines().next().and_then(|line| line.parse().ok());
    let below = || {
        entries
            .filter(|entry| entry.path().is_dir())
            .find_map(|entry| first_process(&entry.path()).ok())
    };
    own.or_else(below).ok_or_else(|| anyhow!("empty"))
}
