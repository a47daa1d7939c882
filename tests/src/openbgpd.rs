//! OpenBGPD in a namespace, with a control socket and files of its own.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::netns::Netns;
use crate::process::{Process, said_by};
use crate::wait::eventually;

/// Where its processes chroot to, as Debian's user `_openbgpd` has it; empty, so that instances share it.
const CHROOT: &str = "/run/openbgpd";

/// A running OpenBGPD: a parent and the three processes it starts.
#[derive(Debug)]
pub struct OpenBgpd {
    process: Process,
    dir: tempfile::TempDir,
}

impl OpenBgpd {
    /// Starts it in `netns` with this configuration, to which the control socket is added. Returns when it answers.
    ///
    /// # Errors
    /// When OpenBGPD isn't installed or refuses the configuration.
    pub fn start(netns: &Netns, config: &str) -> Result<Self> {
        std::fs::create_dir_all(CHROOT).context(CHROOT)?;
        let dir = tempfile::Builder::new().prefix("ptl-openbgpd-").tempdir()?;
        let file = dir.path().join("bgpd.conf");
        let socket = dir.path().join("bgpd.sock");
        std::fs::write(&file, format!("socket \"{}\"\n{config}", socket.display()))?;
        // It refuses a file that others can read.
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600))?;
        let mut command = netns.command("bgpd");
        command.arg("-d").arg("-f").arg(&file);
        let process = Process::start("openbgpd", command, &dir.path().join("bgpd.log"))?;
        let mut daemon = Self { process, dir };
        eventually(Duration::from_secs(20), "openbgpd to answer", || {
            daemon.process.check_running()?;
            daemon.bgpctl(&["show", "summary"])
        })?;
        Ok(daemon)
    }

    /// What `bgpd -V` says.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn version() -> Result<String> {
        said_by("bgpd", &["-V"])
    }

    /// The folder of its files.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Runs one bgpctl command.
    ///
    /// # Errors
    /// When bgpctl fails.
    pub fn bgpctl(&self, words: &[&str]) -> Result<String> {
        let output = Command::new("bgpctl")
            .arg("-s")
            .arg(self.dir.path().join("bgpd.sock"))
            .args(words)
            .output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(
            output.status.success(),
            "bgpctl {words:?}: {text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(text)
    }

    /// Runs one bgpctl command with `-j` and parses its answer.
    ///
    /// # Errors
    /// When bgpctl fails or doesn't answer in JSON.
    pub fn json(&self, words: &[&str]) -> Result<Value> {
        let text = self.bgpctl(&[&["-j"], words].concat())?;
        serde_json::from_str(&text).with_context(|| format!("bgpctl {words:?}: {text}"))
    }

    /// The state of the session with `neighbor` as OpenBGPD spells it (`Established`, `Active`, ...).
    ///
    /// # Errors
    /// When bgpctl fails.
    pub fn session_state(&self, neighbor: &str) -> Result<String> {
        let shown = self.json(&["show", "neighbor", neighbor])?;
        let state = shown.pointer("/neighbors/0/state").and_then(Value::as_str);
        Ok(state.unwrap_or("absent").to_owned())
    }

    /// The prefixes that came from a neighbor.
    ///
    /// # Errors
    /// When bgpctl fails.
    pub fn routes_from(&self, neighbor: &str) -> Result<Vec<String>> {
        let shown = self.json(&["show", "rib", "in", "neighbor", neighbor])?;
        let rib = shown.get("rib").and_then(Value::as_array);
        Ok(rib
            .into_iter()
            .flatten()
            .filter_map(|route| route.get("prefix")?.as_str().map(str::to_owned))
            .collect())
    }

    /// Kills its parent as `kill -9` does; the others end when they notice.
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
