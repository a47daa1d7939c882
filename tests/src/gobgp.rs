//! GoBGP in a namespace: version 4 from the cache that `scripts/fetch-gobgp` fills, else Debian's.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, anyhow};

use crate::netns::Netns;
use crate::process::{Process, said_by};
use crate::wait::eventually;

/// A running gobgpd.
#[derive(Debug)]
pub struct GoBgp {
    process: Process,
    dir: tempfile::TempDir,
    netns: String,
    client: PathBuf,
}

impl GoBgp {
    /// Starts gobgpd in `netns` with this configuration (TOML). Returns when it answers.
    ///
    /// # Errors
    /// When GoBGP isn't installed or refuses the configuration.
    pub fn start(netns: &Netns, config: &str) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("ptl-gobgp-").tempdir()?;
        let file = dir.path().join("gobgpd.toml");
        std::fs::write(&file, config)?;
        let mut command = netns.command(program("gobgpd"));
        command.args(["-t", "toml", "-f"]).arg(&file);
        // The port is the namespace's own, so that every instance can have the default one.
        command.args(["--api-hosts", "127.0.0.1:50051", "--pprof-disable"]);
        let process = Process::start("gobgpd", command, &dir.path().join("gobgpd.log"))?;
        let mut daemon = Self {
            process,
            dir,
            netns: netns.name().to_owned(),
            client: program("gobgp"),
        };
        eventually(Duration::from_secs(20), "gobgpd to answer", || {
            daemon.process.check_running()?;
            daemon.gobgp(&["global"])
        })?;
        Ok(daemon)
    }

    /// What `gobgpd --version` says of the one that [`Self::start`] starts.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn version() -> Result<String> {
        said_by(program("gobgpd"), &["--version"])
    }

    /// The folder of its files.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Runs one command of the client `gobgp`.
    ///
    /// # Errors
    /// When it fails.
    pub fn gobgp(&self, words: &[&str]) -> Result<String> {
        let client = self.client.to_string_lossy();
        let args = [&["netns", "exec", &self.netns, &*client], words].concat();
        crate::netns::run("ip", &args)
    }

    /// The state of the session with `neighbor` as GoBGP spells it (`ESTABLISHED`, `ACTIVE`, ...).
    ///
    /// # Errors
    /// When gobgpd can't be asked or has no such neighbor.
    pub fn session_state(&self, neighbor: &str) -> Result<String> {
        let text = self.gobgp(&["neighbor", neighbor])?;
        let state = text
            .lines()
            .find_map(|line| line.trim().strip_prefix("BGP state = "));
        // The line goes on with `, up for 00:00:03`.
        state
            .and_then(|rest| rest.split(',').next())
            .map(|word| word.trim().to_owned())
            .ok_or_else(|| anyhow!("no BGP state in: {text}"))
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

/// The cached program if it is there, else the one on the path.
fn program(name: &str) -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")));
    cache
        .map(|cache| cache.join("portolan/bin").join(name))
        .filter(|file| file.is_file())
        .unwrap_or_else(|| PathBuf::from(name))
}
