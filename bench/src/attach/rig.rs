//! A node under our agent, a node for the reference plugins, and the pods that all of them attach in turn.

use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use ::tests::cni::Sandbox;
use ::tests::netns::{Netns, run};
use ::tests::policy_lab::BackEnd;
use anyhow::{Context as _, Result, bail};
use netfilter::Family;
use nix::net::if_::if_nametoindex;

use super::plugin::{Command, Plugin, Subject};
use crate::policy::agent::Node;
use crate::policy::cluster;
use crate::policy::quantile;

/// Pods that are attached before anything is measured; the others of the cluster's node are those that come with new policies.
pub(super) const BACKGROUND: usize = cluster::LOCAL - NEW;
const NEW: usize = 25;
const REPLICAS: usize = 25;
/// So many rules has the chain whose writing is "one restore".
const RULES_OF_ONE: usize = 10;
const RESTORES: usize = 9;

/// Of which kind a pod is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// In a namespace whose policies select no other pod here.
    New,
    /// One more pod of a namespace that has one here.
    Replica,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::New => "new policies",
            Self::Replica => "replicas",
        }
    }
}

/// A pod to be attached.
pub(super) struct Pod {
    pub(super) kind: Kind,
    sandbox: Sandbox,
}

/// All of it; dropping it ends and removes everything.
pub(super) struct Rig {
    pods: Vec<Pod>,
    plugins: Vec<(Subject, Plugin)>,
    node: Node,
    /// Where the reference plugins work.
    beside: Netns,
    back_end: BackEnd,
    _folder: tempfile::TempDir,
}

impl Rig {
    pub(super) fn start(back_end: BackEnd) -> Result<Self> {
        let (node, _) = Node::start(back_end, BACKGROUND)?;
        let folder = tempfile::Builder::new().prefix("ptl-attach-").tempdir()?;
        let beside = Netns::new("bench", "beside")?;
        without_detection(&beside)?;
        let socket = node.agent.cni_socket();
        let mut plugins = Vec::new();
        for subject in Subject::ALL {
            plugins.push((subject, Plugin::new(subject, &socket, folder.path())?));
        }
        let new = (BACKGROUND..cluster::LOCAL).map(|number| (Kind::New, cluster::local(number)));
        let replicas = (0..REPLICAS).map(|number| {
            let (namespace, name) = cluster::local(number);
            (Kind::Replica, (namespace, format!("{name}-replica")))
        });
        let mut pods = Vec::new();
        // Alternately, so that a part of them is of both kinds.
        for pair in new.zip(replicas) {
            for (kind, (namespace, name)) in <[_; 2]>::from(pair) {
                let sandbox = Sandbox::new("bench", &namespace, &name)?;
                without_detection(&sandbox.netns)?;
                pods.push(Pod { kind, sandbox });
            }
        }
        Ok(Self {
            pods,
            plugins,
            node,
            beside,
            back_end,
            _folder: folder,
        })
    }

    pub(super) fn pods(&self) -> &[Pod] {
        &self.pods
    }

    pub(super) fn back_end(&self) -> BackEnd {
        self.back_end
    }

    /// The rules of our agent's node, on average of its two families.
    pub(super) fn rules_per_family(&self) -> Result<usize> {
        Ok(self.node.rules()? / 2)
    }

    /// One call for one pod.
    pub(super) fn once(&self, subject: Subject, command: Command, pod: &Pod) -> Result<Duration> {
        let plugin = self.plugin(subject)?;
        let call = || plugin.call(command, &pod.sandbox);
        let took = self
            .netns(subject)
            .inside(call)?
            .with_context(|| self.said(subject))?;
        has_link(pod, command)?;
        Ok(took)
    }

    /// One call for each pod, all at once: from the first one's start to the last one's end.
    pub(super) fn all_at_once(&self, subject: Subject, command: Command) -> Result<Duration> {
        let plugin = self.plugin(subject)?;
        let ready = Barrier::new(self.pods.len());
        let one = |pod: &Pod| -> Result<(Instant, Instant)> {
            ready.wait();
            let start = Instant::now();
            plugin.call(command, &pod.sandbox)?;
            Ok((start, Instant::now()))
        };
        // Threads are born in the namespace of who starts them.
        let all = || {
            thread::scope(|scope| {
                let started: Vec<_> = self
                    .pods
                    .iter()
                    .map(|pod| scope.spawn(|| one(pod)))
                    .collect();
                let ended = started.into_iter().map(|thread| match thread.join() {
                    Ok(times) => times,
                    Err(panic) => std::panic::resume_unwind(panic),
                });
                ended.collect::<Result<Vec<_>>>()
            })
        };
        let times = self
            .netns(subject)
            .inside(all)?
            .with_context(|| self.said(subject))?;
        for pod in &self.pods {
            has_link(pod, command)?;
        }
        let first = times
            .iter()
            .map(|(start, _)| *start)
            .min()
            .context("no pod")?;
        let last = times.iter().map(|(_, end)| *end).max().context("no pod")?;
        Ok(last - first)
    }

    /// What one write of rules costs here: a chain of ten into the table of each family, side by side as the agent does it.
    pub(super) fn one_restore(&self) -> Result<Duration> {
        let rules = "-A BENCH -j RETURN\n".repeat(RULES_OF_ONE);
        let add = format!("*filter\n:BENCH - [0:0]\n{rules}COMMIT\n");
        let mut times = Vec::new();
        for _ in 0..RESTORES {
            let start = Instant::now();
            self.restore(&add)?;
            times.push(start.elapsed().as_secs_f64());
            self.restore("*filter\n-F BENCH\n-X BENCH\nCOMMIT\n")?;
        }
        Ok(Duration::from_secs_f64(quantile(&times, 0.5)))
    }

    fn restore(&self, text: &str) -> Result<()> {
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(&file, text)?;
        let path = file.path().to_str().context("a file's name")?;
        let of = |family| -> Result<()> {
            let program = self.back_end.program(family, "restore");
            run(&program, &["--noflush", "--wait", "5", path])?;
            Ok(())
        };
        self.node.netns.inside(|| {
            thread::scope(|scope| {
                let v6 = scope.spawn(|| of(Family::V6));
                of(Family::V4)?;
                v6.join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
        })?
    }

    fn netns(&self, subject: Subject) -> &Netns {
        match subject {
            Subject::Portolan => &self.node.netns,
            Subject::Ptp | Subject::PtpV4 | Subject::Bridge => &self.beside,
        }
    }

    fn plugin(&self, subject: Subject) -> Result<&Plugin> {
        let mut all = self.plugins.iter();
        let found = all.find(|(of, _)| *of == subject);
        found.map(|(_, plugin)| plugin).context("no such plugin")
    }

    fn said(&self, subject: Subject) -> String {
        match subject {
            Subject::Portolan => self.node.agent.log_end(),
            Subject::Ptp | Subject::PtpV4 | Subject::Bridge => String::new(),
        }
    }
}

/// The reference plugins wait for duplicate address detection; ours leaves it out by itself.
fn without_detection(netns: &Netns) -> Result<()> {
    for scope in ["all", "default"] {
        netns.sysctl(&format!("net.ipv6.conf.{scope}.accept_dad"), "0")?;
    }
    Ok(())
}

/// Whether the pod's link is there after ADD, and gone after DEL.
fn has_link(pod: &Pod, command: Command) -> Result<()> {
    let is_there = pod
        .sandbox
        .netns
        .inside(|| if_nametoindex("eth0").is_ok())?;
    if is_there != (command == Command::Add) {
        bail!(
            "after {} eth0 of {} is there: {is_there}",
            command.name(),
            pod.sandbox.full_name()
        );
    }
    Ok(())
}
