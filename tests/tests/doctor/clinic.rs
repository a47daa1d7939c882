//! The lab's first node as a patient: what is broken there, what the doctor finds, and whether its command mends it.

use std::collections::BTreeSet;
use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tests::agent::binaries;
use tests::lab::{Lab, OUTSIDE, Options};
use tests::netns::Netns;
use tests::wait::eventually;

/// How long a finding may take to come or go: sessions take the longest.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A lab, its first node's runtime folders, and what was tried.
pub(crate) struct Clinic {
    pub(crate) lab: Lab,
    dir: tempfile::TempDir,
    pub(crate) program: PathBuf,
    pub(crate) dns: Dns,
    /// Checks of which a finding was provoked.
    pub(crate) tried: BTreeSet<String>,
    /// Of those, how many went away by the command that was printed.
    pub(crate) mended: usize,
    pub(crate) slowest: Duration,
}

/// A server of names outside; its answers' code can be changed, 255 is silence.
pub(crate) struct Dns {
    pub(crate) address: SocketAddr,
    pub(crate) code: Arc<AtomicU8>,
}

pub(crate) const SILENT: u8 = 255;

impl Dns {
    pub(crate) fn start(netns: &Netns) -> Self {
        let address: SocketAddr = format!("{OUTSIDE}:53").parse().unwrap();
        let socket = netns.inside(|| UdpSocket::bind(address)).unwrap().unwrap();
        let code = Arc::new(AtomicU8::new(0));
        let said = Arc::clone(&code);
        std::thread::spawn(move || {
            let mut buffer = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                let code = said.load(Ordering::Relaxed);
                if code != SILENT {
                    buffer[2] |= 0x80;
                    buffer[3] = code;
                    let _ = socket.send_to(&buffer[..length], from);
                }
            }
        });
        Self { address, code }
    }

    pub(crate) fn say(&self, code: u8) {
        self.code.store(code, Ordering::Relaxed);
    }
}

impl Clinic {
    pub(crate) fn open() -> Self {
        let options = Options::for_test("doc", env!("CARGO_BIN_EXE_portolan-demo")).unwrap();
        let mut lab = Lab::new(options).unwrap();
        lab.node_mut(0)
            .unwrap()
            .agent
            .set_arguments(&["--drop-log", "7"]);
        lab.start_agents().unwrap();
        for (namespace, name) in [("shop", "web"), ("shop", "cache"), ("team", "tester")] {
            lab.attach(0, namespace, name).unwrap();
        }
        lab.wait_synced().unwrap();
        let dns = Dns::start(&lab.outside);
        let clinic = Self {
            dns,
            lab,
            dir: tempfile::Builder::new()
                .prefix("ptl-doc-")
                .tempdir()
                .unwrap(),
            program: binaries().unwrap().join("portolan"),
            tried: BTreeSet::new(),
            mended: 0,
            slowest: Duration::ZERO,
        };
        for name in ["bin", "net.d"] {
            fs::create_dir(clinic.path(name)).unwrap();
        }
        let install = format!(
            "portolan cni install --bin-dir {} --conf-dir {} --run-dir {} --state-dir {}",
            clinic.path("bin").display(),
            clinic.path("net.d").display(),
            clinic.lab.nodes[0].agent.run_dir().display(),
            clinic.lab.nodes[0].agent.state_dir().display()
        );
        clinic.run(&install).unwrap();
        clinic
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn node(&self) -> &Netns {
        &self.lab.nodes[0].netns
    }

    /// Runs a command that was printed, on the node.
    pub(crate) fn run(&self, command: &str) -> Result<String> {
        // The names of protocol numbers are this machine's: left alone.
        let install = "portolan cni install";
        let command = command.replace(install, &format!("{install} --skip-protocol-name"));
        let bin = self.program.parent().unwrap().display();
        let script = format!("PATH={bin}:$PATH; {command}");
        self.node().run("bash", &["-ec", &script])
    }

    /// The doctor's words, with another run folder than the agent's, too.
    pub(crate) fn words(&self, run_dir: &Path) -> Vec<String> {
        let state_dir = self.lab.nodes[0].agent.state_dir();
        let folders = [
            ("--run-dir", run_dir.to_owned()),
            ("--state-dir", state_dir),
            ("--cni-bin-dir", self.path("bin")),
            ("--cni-conf-dir", self.path("net.d")),
            ("--kubelet-config", self.path("kubelet.yaml")),
        ];
        let mut words = vec!["doctor".to_owned()];
        for (flag, path) in folders {
            words.extend([flag.to_owned(), path.display().to_string()]);
        }
        words.extend(["--dns".to_owned(), self.dns.address.to_string()]);
        words.extend(["-o".to_owned(), "json".to_owned()]);
        words
    }

    /// The findings and the exit status.
    pub(crate) fn look(&mut self) -> (Vec<Value>, i32) {
        let run_dir = self.lab.nodes[0].agent.run_dir();
        let words = self.words(&run_dir);
        let started = Instant::now();
        let answer = look(self.lab.nodes[0].netns.command(&self.program), &words);
        self.slowest = self.slowest.max(started.elapsed());
        answer
    }

    /// Waits for a finding, and gives the command that it comes with.
    pub(crate) fn finds(&mut self, check: &str, verdict: &str, words: &str) -> String {
        let remedy = eventually(PATIENCE, &format!("{check}: {words}"), || {
            let (findings, code) = self.look();
            let found = of(&findings, check).into_iter().find(|finding| {
                let what = finding["what"].as_str().unwrap_or_default();
                finding["verdict"] == verdict && what.contains(words)
            });
            let found = found.with_context(|| format!("{:#?}", of(&findings, check)))?;
            ensure!(code == 1, "exit status {code}");
            let cause = found["cause"].as_str().unwrap_or_default();
            let remedy = found["remedy"].as_str().unwrap_or_default();
            ensure!(!cause.is_empty() && !remedy.is_empty(), "{found}");
            Ok(remedy.to_owned())
        });
        let remedy = remedy.unwrap();
        println!("{check}: found ({words}), mended by: {remedy}");
        self.tried.insert(check.to_owned());
        remedy
    }

    /// Waits until a check finds nothing any more.
    pub(crate) fn is_well(&mut self, check: &str) {
        eventually(PATIENCE, &format!("{check} is well again"), || {
            let (findings, _) = self.look();
            let of_check = of(&findings, check);
            ensure!(
                !of_check.is_empty() && !of_check.iter().any(is_bad),
                "{of_check:#?}"
            );
            Ok(())
        })
        .unwrap();
    }

    /// Waits until a check is well with these words.
    pub(crate) fn says(&mut self, check: &str, words: &str) {
        let said = eventually(PATIENCE, &format!("{check} says {words}"), || {
            let (findings, _) = self.look();
            let of_check = of(&findings, check);
            let what = of_check[0]["what"].as_str().unwrap_or_default();
            ensure!(what.contains(words), "{of_check:#?}");
            Ok(())
        });
        said.unwrap();
    }

    /// The finding comes, the command that it prints is run, and the finding is gone.
    pub(crate) fn found_and_mended(&mut self, check: &str, verdict: &str, words: &str) {
        let remedy = self.finds(check, verdict, words);
        self.run(&remedy).unwrap();
        self.is_well(check);
        self.mended += 1;
    }

    pub(crate) fn ip(&self, words: &str) {
        self.node().ip(words).unwrap();
    }

    pub(crate) fn sysctl(&self, name: &str, value: &str) {
        self.node().sysctl(name, value).unwrap();
    }

    /// The host end of a pod, by its place in the lab.
    pub(crate) fn host_end(&self, pod: usize) -> String {
        let (_, address) = self
            .lab
            .place(&self.lab.pods[pod].sandbox.full_name(), false)
            .unwrap();
        let route = self.node().ip(&format!("route show {address}")).unwrap();
        let mut words = route.split_whitespace();
        words
            .find(|word| *word == "dev")
            .and_then(|_| words.next())
            .unwrap()
            .to_owned()
    }

    pub(crate) fn kill_agent(&mut self) {
        self.lab.nodes[0].agent.kill().unwrap();
    }

    /// With other flags.
    pub(crate) fn restart_agent(&mut self, words: &[&str]) {
        let node = self.lab.node_mut(0).unwrap();
        node.agent.terminate().unwrap();
        node.agent.set_arguments(words);
        self.start_agent();
    }

    pub(crate) fn start_agent(&mut self) {
        let node = self.lab.node_mut(0).unwrap();
        node.agent.start(&node.netns).unwrap();
        node.agent.wait_synced().unwrap();
        self.lab.wait_established().unwrap();
    }
}

/// Runs the doctor; it ends with 1 where something is wrong.
pub(crate) fn look(mut command: std::process::Command, words: &[String]) -> (Vec<Value>, i32) {
    let output = command.args(words).output().unwrap();
    let answer: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    let findings = answer["findings"].as_array().cloned().unwrap();
    (findings, output.status.code().unwrap())
}

pub(crate) fn of(findings: &[Value], check: &str) -> Vec<Value> {
    let of_check = findings.iter().filter(|finding| finding["check"] == check);
    of_check.cloned().collect()
}

pub(crate) fn is_bad(finding: &Value) -> bool {
    finding["verdict"] == "warning" || finding["verdict"] == "failure"
}
