//! The lab with its ways, and what is asked of the verb in it.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tests::agent::binaries;
use tests::lab::{Lab, Options};
use tests::netns::Netns;
use tests::wait::eventually;

/// How long a change may take until it is in force.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

const JSON: [&str; 2] = ["-o", "json"];

/// The lab, and what was tried.
pub(crate) struct Path {
    pub(crate) lab: Lab,
    program: PathBuf,
    /// Breaks that were told.
    pub(crate) named: BTreeSet<String>,
    pub(crate) provoked: usize,
    /// Of those, how many went away by the command that was printed.
    pub(crate) mended: usize,
    pub(crate) slowest: Duration,
}

impl Path {
    pub(crate) fn open() -> Self {
        let options = Options::for_test("trc", env!("CARGO_BIN_EXE_portolan-demo")).unwrap();
        let mut lab = Lab::new(options).unwrap();
        lab.start_agents().unwrap();
        lab.attach_all().unwrap();
        let path = Self {
            lab,
            program: binaries().unwrap().join("portolan"),
            named: BTreeSet::new(),
            provoked: 0,
            mended: 0,
            slowest: Duration::ZERO,
        };
        path.add_v6();
        path
    }

    /// The lab's sessions carry IPv4: IPv6 has routes by hand.
    fn add_v6(&self) {
        let tor = &self.lab.tor;
        tor.sysctl("net.ipv6.conf.all.forwarding", "1").unwrap();
        for (place, link) in [(0, "node1"), (1, "node2")] {
            let (here, other) = (place + 1, 2 - place);
            let node = &self.lab.nodes[place].netns;
            tor.ip(&format!("addr add fd00:10:{here}::1/64 dev {link} nodad"))
                .unwrap();
            node.ip(&format!("addr add fd00:10:{here}::2/64 dev uplink nodad"))
                .unwrap();
            tor.ip(&format!(
                "-6 route add fd00:244:{here}::/64 via fd00:10:{here}::2"
            ))
            .unwrap();
            node.ip(&format!(
                "-6 route add fd00:244:{other}::/64 via fd00:10:{here}::1"
            ))
            .unwrap();
        }
    }

    pub(crate) fn node(&self) -> &Netns {
        &self.lab.nodes[0].netns
    }

    pub(crate) fn pod(&self, name: &str) -> &Netns {
        self.lab.place(name, false).unwrap().0
    }

    pub(crate) fn address(&self, name: &str) -> String {
        self.lab.place(name, false).unwrap().1.to_string()
    }

    /// The host end of a pod of the first node.
    pub(crate) fn host_end(&self, name: &str) -> String {
        let route = self
            .node()
            .ip(&format!("route show {}", self.address(name)))
            .unwrap();
        let mut words = route.split_whitespace();
        words
            .find(|word| *word == "dev")
            .and_then(|_| words.next())
            .unwrap()
            .to_owned()
    }

    /// Runs a command that was printed, on the first node.
    pub(crate) fn run(&self, command: &str) -> Result<String> {
        let bin = self.program.parent().unwrap().display();
        let script = format!("PATH={bin}:$PATH; {command}");
        self.node().run("bash", &["-ec", &script])
    }

    fn command(&self, words: &str) -> Command {
        let agent = &self.lab.nodes[0].agent;
        let mut command = self.node().command(&self.program);
        command.arg("trace").args(words.split_whitespace());
        command.arg("--run-dir").arg(agent.run_dir());
        command.arg("--state-dir").arg(agent.state_dir());
        command
    }

    /// One trace and its exit status.
    pub(crate) fn trace(&mut self, words: &str) -> (Value, i32) {
        let started = Instant::now();
        let output = self.command(words).args(JSON).output().unwrap();
        self.slowest = self.slowest.max(started.elapsed());
        let answer = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
            panic!(
                "{words}: {error}: {}",
                String::from_utf8_lossy(&output.stderr)
            )
        });
        (answer, output.status.code().unwrap())
    }

    /// What eyes see of a trace, and its exit status.
    pub(crate) fn shown(&self, words: &str) -> (String, i32) {
        let output = self.command(words).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        (text, output.status.code().unwrap())
    }

    /// What it says when it cannot try.
    pub(crate) fn refused(&mut self, words: &str) -> (i32, String) {
        let output = self.command(words).output().unwrap();
        assert!(output.stdout.is_empty(), "{output:?}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code().unwrap(), said)
    }

    /// Waits until the target is reached.
    pub(crate) fn reached(&mut self, words: &str) -> Value {
        let reached = eventually(PATIENCE, &format!("{words} is reached"), || {
            let (trace, code) = self.trace(words);
            ensure!(
                trace["outcome"] == "reached" && code == 0,
                "{code}: {trace:#}"
            );
            ensure!(trace["break"].is_null(), "{trace:#}");
            Ok(trace)
        });
        reached.unwrap()
    }

    /// Waits until it ends there for that reason; gives the command that it comes with.
    pub(crate) fn ends(&mut self, words: &str, name: &str, hop: &str, what: &str) -> String {
        let remedy = eventually(PATIENCE, &format!("{words} ends at {hop}: {name}"), || {
            let (trace, code) = self.trace(words);
            ensure!(
                trace["outcome"] == "dropped" && code == 1,
                "{code}: {trace:#}"
            );
            let broken = &trace["break"];
            ensure!(broken["name"] == name && broken["hop"] == hop, "{trace:#}");
            let said = broken["what"].as_str().unwrap_or_default();
            ensure!(said.contains(what), "{trace:#}");
            let last = trace["hops"].as_array().and_then(|hops| hops.last());
            let last = last.context("no hops")?;
            ensure!(
                last["verdict"] == "drops" && last["hop"] == hop,
                "{trace:#}"
            );
            let remedy = broken["remedy"].as_str().unwrap_or_default();
            let cause = broken["cause"].as_str().unwrap_or_default();
            ensure!(!cause.is_empty() && !remedy.is_empty(), "{broken}");
            Ok(remedy.to_owned())
        });
        let remedy = remedy.unwrap();
        println!("{name} at {hop} ({words}), mended by: {remedy}");
        self.named.insert(name.to_owned());
        self.provoked += 1;
        remedy
    }

    /// The same, then the command is run, and the target is reached again.
    pub(crate) fn ends_and_mends(&mut self, words: &str, name: &str, hop: &str, what: &str) {
        let remedy = self.ends(words, name, hop, what);
        self.run(&remedy).unwrap();
        self.reached(words);
        self.mended += 1;
    }

    pub(crate) fn ip(&self, words: &str) {
        self.node().ip(words).unwrap();
    }

    /// Puts a manifest there and waits until both agents have it in force.
    pub(crate) fn apply(&mut self, name: &str, text: &str) {
        self.lab.drop_manifest(name, text).unwrap();
        self.lab.wait_synced().unwrap();
    }

    pub(crate) fn take_back(&mut self, name: &str) {
        std::fs::remove_file(self.lab.manifests().join(name)).unwrap();
        self.lab.wait_synced().unwrap();
    }
}
