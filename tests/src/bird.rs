//! BIRD 2 in a namespace, with a socket and files of its own.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, anyhow, ensure};

use crate::netns::Netns;
use crate::process::Process;
use crate::wait::eventually;

/// A running BIRD.
#[derive(Debug)]
pub struct Bird {
    process: Process,
    dir: tempfile::TempDir,
}

impl Bird {
    /// Starts BIRD in `netns` with this configuration. Returns when it answers.
    ///
    /// # Errors
    /// When BIRD isn't installed or refuses the configuration.
    pub fn start(netns: &Netns, config: &str) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("ptl-bird-").tempdir()?;
        std::fs::write(dir.path().join("bird.conf"), config)?;
        Self::run(netns, dir, &[])
    }

    /// Starts it again after [`Self::kill`], with the same files and as after a crash: its graceful restart recovers.
    ///
    /// # Errors
    /// When it doesn't come up.
    pub fn recover(&mut self, netns: &Netns) -> Result<()> {
        let dir = std::mem::replace(&mut self.dir, tempfile::tempdir()?);
        *self = Self::run(netns, dir, &["-R"])?;
        Ok(())
    }

    fn run(netns: &Netns, dir: tempfile::TempDir, options: &[&str]) -> Result<Self> {
        let file = |name: &str| dir.path().join(name).into_os_string();
        let mut command = netns.command("bird");
        command.args(options);
        command.arg("-f").arg("-c").arg(file("bird.conf"));
        command
            .arg("-s")
            .arg(file("bird.ctl"))
            .arg("-P")
            .arg(file("bird.pid"));
        let process = Process::start("bird", command, &dir.path().join("bird.log"))?;
        let mut bird = Self { process, dir };
        eventually(Duration::from_secs(20), "bird to answer", || {
            bird.process.check_running()?;
            bird.birdc("show status")
        })?;
        Ok(bird)
    }

    /// The folder of its files.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Runs one birdc command.
    ///
    /// # Errors
    /// When BIRD can't be asked or doesn't know the command.
    pub fn birdc(&self, words: &str) -> Result<String> {
        let output = Command::new("birdc")
            .arg("-s")
            .arg(self.dir.path().join("bird.ctl"))
            .args(words.split_whitespace())
            .output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(output.status.success(), "birdc {words}: {text}");
        ensure!(!text.contains("syntax error"), "birdc {words}: {text}");
        Ok(text)
    }

    /// The state of a BGP protocol as BIRD spells it (`Established`, `Idle`, ...).
    ///
    /// # Errors
    /// When BIRD can't be asked or has no such protocol.
    pub fn session_state(&self, protocol: &str) -> Result<String> {
        let text = self.birdc(&format!("show protocols all {protocol}"))?;
        let state = text
            .lines()
            .find_map(|line| line.trim().strip_prefix("BGP state:"));
        state
            .map(|s| s.trim().to_owned())
            .ok_or_else(|| anyhow!("no BGP state in: {text}"))
    }

    /// The prefixes that came from a protocol.
    ///
    /// # Errors
    /// When BIRD can't be asked.
    pub fn routes_from(&self, protocol: &str) -> Result<Vec<String>> {
        let text = self.birdc(&format!("show route protocol {protocol}"))?;
        let first = text
            .lines()
            .filter_map(|line| line.split_whitespace().next());
        Ok(first
            .filter(|word| word.contains('/'))
            .map(str::to_owned)
            .collect())
    }

    /// Kills it as `kill -9` does.
    ///
    /// # Errors
    /// When it can't be waited for.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill()
    }

    /// The end of its log, for an error's text.
    #[must_use]
    pub fn log_end(&self) -> String {
        self.process.log_end()
    }
}
