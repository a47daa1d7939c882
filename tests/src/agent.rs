//! A `portolan agent` in a node's namespace, driven as its user does: by its command line.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::netns::{Netns, here};
use crate::process::Process;
use crate::wait::eventually;

/// How long an agent may take until it answers.
const START: Duration = Duration::from_secs(30);

/// Where the binaries under test are: `PORTOLAN_BIN_DIR`, which `scripts/test` sets.
///
/// # Errors
/// When it is not set or holds no binaries.
pub fn binaries() -> Result<PathBuf> {
    let Some(dir) = std::env::var_os("PORTOLAN_BIN_DIR") else {
        bail!("PORTOLAN_BIN_DIR is not set: run `make test`, which builds the binaries it names");
    };
    let dir = PathBuf::from(dir);
    for name in ["portolan", "portolan-cni"] {
        ensure!(
            dir.join(name).is_file(),
            "{} holds no {name}",
            dir.display()
        );
    }
    Ok(dir)
}

/// An agent and the folders it lives in; they outlast its process.
#[derive(Debug)]
pub struct Agent {
    node: String,
    program: PathBuf,
    netns: String,
    dir: PathBuf,
    /// The flag that names its source, and what it names.
    source: (&'static str, PathBuf),
    metrics: String,
    features: Option<String>,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    process: Option<Process>,
}

impl Agent {
    /// An agent of node `node`, not yet started, with its folders in `dir`.
    ///
    /// # Errors
    /// When the folders can't be made.
    pub fn new(
        node: &str,
        program: &Path,
        netns: &Netns,
        dir: &Path,
        manifests: &Path,
    ) -> Result<Self> {
        let dir = dir.join(node);
        for name in ["state", "run"] {
            std::fs::create_dir_all(dir.join(name))?;
        }
        Ok(Self {
            node: node.to_owned(),
            program: program.to_owned(),
            netns: netns.name().to_owned(),
            dir,
            source: ("--manifests", manifests.to_owned()),
            metrics: "127.0.0.1:9179".to_owned(),
            features: None,
            arguments: Vec::new(),
            environment: Vec::new(),
            process: None,
        })
    }

    /// The same agent with these parts only, as `--features` takes them.
    #[must_use]
    pub fn with_features(mut self, features: &str) -> Self {
        self.features = Some(features.to_owned());
        self
    }

    /// The same agent with a cluster's API server as its source.
    #[must_use]
    pub fn with_kubeconfig(mut self, kubeconfig: &Path) -> Self {
        self.source = ("--kubeconfig", kubeconfig.to_owned());
        self
    }

    /// From the next start on, it gets these arguments too.
    pub fn set_arguments(&mut self, arguments: &[&str]) {
        self.arguments = arguments.iter().map(|word| (*word).to_owned()).collect();
    }

    /// From the next start on, its environment has these variables too.
    pub fn set_environment(&mut self, variables: &[(&str, &str)]) {
        let owned = |&(name, value): &(&str, &str)| (name.to_owned(), value.to_owned());
        self.environment = variables.iter().map(owned).collect();
    }

    /// Starts it; it may take until [`Self::wait_synced`] returns.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn start(&mut self, netns: &Netns) -> Result<()> {
        let mut command = netns.command(&self.program);
        command.args(["agent", "--node", &self.node, "--metrics", &self.metrics]);
        command.arg(self.source.0).arg(&self.source.1);
        command.arg("--state-dir").arg(self.state_dir());
        command.arg("--run-dir").arg(self.run_dir());
        if let Some(features) = &self.features {
            command.args(["--features", features]);
        }
        command.args(&self.arguments);
        for (name, value) in &self.environment {
            command.env(name, value);
        }
        self.process = Some(Process::start(&self.node, command, &self.dir.join("log"))?);
        Ok(())
    }

    /// Waits until `portolan sync` says that all the manifests hold is in the kernel.
    ///
    /// # Errors
    /// When it isn't in time, or the agent has ended; with the end of its log.
    pub fn wait_synced(&mut self) -> Result<()> {
        let synced = eventually(START, &format!("{} in sync", self.node), || {
            // An agent that has ended will not answer any more: that error is the result, at once.
            if let Err(ended) = self.check_running() {
                return Ok(Err(ended));
            }
            self.verb(&["sync", "--timeout", "10s"]).map(Ok)
        });
        synced
            .and_then(|answer| answer)
            .map(drop)
            .with_context(|| self.log_end())
    }

    /// Waits until nothing of policy is left in the kernel that is not needed any more: what follows changes nothing.
    ///
    /// # Errors
    /// When not in time.
    pub fn wait_settled(&self) -> Result<()> {
        eventually(START, &format!("{} settled", self.node), || {
            let status = self.status()?;
            let left = status.pointer("/policy/hasLeftover");
            ensure!(left == Some(&Value::Bool(false)), "{status}");
            Ok(())
        })
    }

    /// Kills it as `kill -9` does.
    ///
    /// # Errors
    /// When it can't be waited for.
    pub fn kill(&mut self) -> Result<()> {
        self.process
            .take()
            .map_or(Ok(()), |mut process| process.kill())
    }

    /// Sends SIGTERM and waits for its end, which must be a good one.
    ///
    /// # Errors
    /// When it doesn't end in time or exits with an error.
    pub fn terminate(&mut self) -> Result<()> {
        let Some(mut process) = self.process.take() else {
            return Ok(());
        };
        let status = process.terminate(Duration::from_secs(20))?;
        ensure!(
            status.success(),
            "{} after SIGTERM: {status}\n{}",
            self.node,
            process.log_end()
        );
        Ok(())
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// When it is not running.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.process.as_ref().context("not started")?.signal(signal)
    }

    /// `portolan status -o json`, parsed.
    ///
    /// # Errors
    /// When the agent doesn't answer.
    pub fn status(&self) -> Result<Value> {
        Ok(serde_json::from_str(
            &self.verb(&["status", "-o", "json"])?,
        )?)
    }

    /// `portolan status`, as a person sees it.
    ///
    /// # Errors
    /// When the agent doesn't answer.
    pub fn status_table(&self) -> Result<String> {
        self.verb(&["status"])
    }

    /// Runs a verb of `portolan` against this agent.
    ///
    /// # Errors
    /// When the verb fails; the error holds what it said.
    pub fn verb(&self, words: &[&str]) -> Result<String> {
        let program = self.program.to_string_lossy();
        let run_dir = self.run_dir().to_string_lossy().into_owned();
        let mut args = vec!["netns", "exec", self.netns.as_str(), &*program];
        args.extend(words);
        args.extend(["--run-dir", &run_dir]);
        crate::netns::run("ip", &args)
    }

    /// `portolan bgp <words> -o json`, parsed.
    ///
    /// # Errors
    /// When the verb fails; the error holds what it said.
    pub fn bgp(&self, words: &[&str]) -> Result<Value> {
        let words = [&["bgp"], words, &["-o", "json"]].concat();
        Ok(serde_json::from_str(&self.verb(&words)?)?)
    }

    /// What `portolan doctor` finds, with further words, whatever its exit status.
    ///
    /// # Errors
    /// When it finds nothing at all; the error holds what it said.
    pub fn findings(&self, words: &[&str]) -> Result<Vec<Value>> {
        let mut said = self.judged(&[&["doctor"], words].concat())?;
        let findings = said.get_mut("findings").map(Value::take);
        findings
            .and_then(|findings| findings.as_array().cloned())
            .with_context(|| format!("no findings: {said}"))
    }

    /// What `portolan trace` comes to, whatever its exit status.
    ///
    /// # Errors
    /// When it could not be tried; the error holds what it said.
    pub fn trace(&self, words: &[&str]) -> Result<Value> {
        self.judged(&[&["trace"], words].concat())
    }

    /// A verb whose exit status is a judgement, in JSON.
    fn judged(&self, words: &[&str]) -> Result<Value> {
        let output = here("ip")
            .args(["netns", "exec", self.netns.as_str()])
            .arg(&self.program)
            .args(words)
            .args(["-o", "json", "--run-dir"])
            .arg(self.run_dir())
            .arg("--state-dir")
            .arg(self.state_dir())
            .output()?;
        serde_json::from_slice(&output.stdout)
            .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// Whether a session with `address` is established.
    ///
    /// # Errors
    /// When the agent doesn't answer or the session is in another state.
    pub fn ensure_established(&self, address: &str) -> Result<()> {
        let status = self.status()?;
        let sessions = status
            .get("sessions")
            .and_then(Value::as_array)
            .into_iter()
            .flatten();
        let mut states = Vec::new();
        for session in sessions {
            let at = session
                .get("address")
                .and_then(Value::as_str)
                .unwrap_or_default();
            let state = session
                .get("state")
                .and_then(Value::as_str)
                .unwrap_or_default();
            if at.split(':').next() == Some(address) && state.eq_ignore_ascii_case("established") {
                return Ok(());
            }
            states.push(format!("{at}: {state}"));
        }
        bail!(
            "{}: no established session with {address}: {states:?}",
            self.node
        )
    }

    /// Its CNI socket.
    #[must_use]
    pub fn cni_socket(&self) -> PathBuf {
        self.run_dir().join("cni.sock")
    }

    /// Its `--run-dir`.
    #[must_use]
    pub fn run_dir(&self) -> PathBuf {
        self.dir.join("run")
    }

    /// Its `--state-dir`.
    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        self.dir.join("state")
    }

    /// Its process id, while it was started and not ended by us.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        self.process.as_ref().map(Process::id)
    }

    /// The name of its node.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.node
    }

    /// Leaves it running when dropped.
    pub fn keep(&self) {
        self.process.iter().for_each(Process::keep);
    }

    /// All it has said since it was started first.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.as_ref().map_or_else(String::new, Process::log)
    }

    /// The end of its log, for an error's text.
    #[must_use]
    pub fn log_end(&self) -> String {
        self.process
            .as_ref()
            .map_or_else(String::new, Process::log_end)
    }

    /// An error with the end of its log if it is not running.
    ///
    /// # Errors
    /// When it has ended, or was never started.
    pub fn check_running(&mut self) -> Result<()> {
        self.process
            .as_mut()
            .context("not started")?
            .check_running()
    }
}
