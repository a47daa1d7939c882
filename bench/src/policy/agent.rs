//! The real agent on a node with attached pods, its directory of manifests and its kernel.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use netfilter::Family;
use tests::agent::Agent;
use tests::cni::{Plugin, Sandbox};
use tests::netns::Netns;
use tests::policy_lab::BackEnd;

use super::cluster;
use crate::daemon::beside;
use crate::usage::with_programs;

const METRICS: &str = "127.0.0.1:9179";

/// All of it; dropping it ends and removes everything.
pub(crate) struct Node {
    pub(crate) agent: Agent,
    pub(crate) netns: Netns,
    back_end: BackEnd,
    dir: tempfile::TempDir,
    pods: Vec<Sandbox>,
}

impl Node {
    /// Writes the manifests, starts the agent and attaches the first `count` of this node's. Gives what each ADD took as well.
    pub(crate) fn start(back_end: BackEnd, count: usize) -> Result<(Self, Vec<Duration>)> {
        let dir = tempfile::Builder::new().prefix("ptl-policy-").tempdir()?;
        let manifests = dir.path().join("manifests");
        std::fs::create_dir(&manifests)?;
        cluster::write(&manifests)?;
        let netns = Netns::new("bench", "node")?;
        let program = beside("portolan")?;
        let agent = Agent::new(cluster::NODE, &program, &netns, dir.path(), &manifests)?;
        let mut agent = agent.with_features("policy,cni");
        agent.set_arguments(&["--iptables", back_end.name()]);
        agent.start(&netns)?;
        agent.wait_synced()?;
        let plugin = Plugin {
            program: beside("portolan-cni")?,
            socket: agent.cni_socket(),
            version: "1.0.0".to_owned(),
        };
        let (mut pods, mut took) = (Vec::new(), Vec::new());
        for number in 0..count {
            let (namespace, name) = cluster::local(number);
            let sandbox = Sandbox::new("bench", &namespace, &name)?;
            let start = Instant::now();
            let answer = plugin.call("ADD", &netns, &sandbox, None)?;
            took.push(start.elapsed());
            answer.success().with_context(|| agent.log_end())?;
            pods.push(sandbox);
        }
        agent.wait_synced()?;
        let node = Self {
            agent,
            netns,
            back_end,
            dir,
            pods,
        };
        Ok((node, took))
    }

    /// A node whose agent has another source and is not started yet.
    pub(crate) fn with(
        agent: Agent,
        netns: Netns,
        back_end: BackEnd,
        dir: tempfile::TempDir,
    ) -> Self {
        Self {
            agent,
            netns,
            back_end,
            dir,
            pods: Vec::new(),
        }
    }

    /// Keeps an attached pod's namespace as long as the node.
    pub(crate) fn hold(&mut self, pod: Sandbox) {
        self.pods.push(pod);
    }

    /// Where the manifests are.
    pub(super) fn manifests(&self) -> PathBuf {
        self.dir.path().join("manifests")
    }

    /// Takes every rule and set out of the kernel: as after a reboot.
    pub(crate) fn empty_kernel(&self) -> Result<()> {
        let text: String = ["raw", "mangle", "filter"]
            .map(|table| format!("*{table}\nCOMMIT\n"))
            .concat();
        let file = self.dir.path().join("empty");
        std::fs::write(&file, text)?;
        let file = file.to_str().context("a folder's name")?;
        for family in [Family::V4, Family::V6] {
            let program = self.back_end.program(family, "restore");
            self.netns.run(&program, &["--wait", "5", file])?;
        }
        self.netns.run("ipset", &["destroy"]).map(drop)
    }

    /// How many rules both families have.
    pub(crate) fn rules(&self) -> Result<usize> {
        let mut rules = 0;
        for family in [Family::V4, Family::V6] {
            let text = self
                .netns
                .run(&self.back_end.program(family, "save"), &[])?;
            rules += text.lines().filter(|line| line.starts_with("-A")).count();
        }
        Ok(rules)
    }

    /// What the agent and the programs that it has run have used, in seconds.
    pub(super) fn processor_time(&self) -> Result<f64> {
        let mut used = Duration::ZERO;
        for process in self.netns.processes()? {
            used += with_programs(process)?;
        }
        Ok(used.as_secs_f64())
    }

    /// The agent's histogram of this name: upper bounds in seconds, and how many are at or below each.
    pub(crate) fn histogram(&self, name: &str) -> Result<Vec<(f64, f64)>> {
        let page = self.netns.inside(|| get("/metrics"))??;
        let start = format!("{name}_bucket{{le=\"");
        let mut buckets = Vec::new();
        for line in page.lines().filter_map(|line| line.strip_prefix(&start)) {
            let (bound, count) = line.split_once("\"} ").context("a bucket")?;
            let bound = if bound == "+Inf" {
                f64::INFINITY
            } else {
                bound.parse()?
            };
            buckets.push((bound, count.trim().parse()?));
        }
        anyhow::ensure!(!buckets.is_empty(), "no {name} in {page}");
        Ok(buckets)
    }
}

/// Has the agent read its directory now, without the wait for a quiet moment; its answer is not waited for.
pub(super) fn nudge(run_dir: &Path) -> Result<UnixStream> {
    let mut stream = UnixStream::connect(run_dir.join("agent.sock"))?;
    stream.write_all(b"{\"verb\":\"sync\",\"timeout_milliseconds\":5000}\n")?;
    Ok(stream)
}

/// A page of the agent of this thread's network namespace, with its head.
pub(crate) fn get(path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(METRICS)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}
