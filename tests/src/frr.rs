//! FRR's zebra and bgpd in a namespace, with sockets and files of their own.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::netns::{Netns, run};
use crate::process::Process;
use crate::wait::eventually;

/// How long a daemon may take until it answers on its socket.
const START: Duration = Duration::from_secs(20);

/// A zebra and a bgpd.
#[derive(Debug)]
pub struct Frr {
    zebra: Process,
    bgpd: Process,
    bfdd: Option<Process>,
    dir: tempfile::TempDir,
    netns: String,
}

impl Frr {
    /// Starts both in `netns`; `bgpd` is bgpd's configuration. Returns when both answer.
    ///
    /// # Errors
    /// When FRR isn't installed or a daemon doesn't come up.
    pub fn start(netns: &Netns, bgpd: &str) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("ptl-frr-").tempdir()?;
        std::fs::write(dir.path().join("zebra.conf"), "hostname tor\n")?;
        std::fs::write(dir.path().join("bgpd.conf"), bgpd)?;
        // The daemons run as Debian's user frr, who must own what they write into.
        run("chown", &["-R", "frr:frr", &dir.path().to_string_lossy()])?;
        let zebra = start_daemon(netns, "zebra", dir.path())?;
        wait_for_socket(dir.path(), "zebra")?;
        let bgpd = start_daemon(netns, "bgpd", dir.path())?;
        wait_for_socket(dir.path(), "bgpd")?;
        Ok(Self {
            zebra,
            bgpd,
            bfdd: None,
            dir,
            netns: netns.name().to_owned(),
        })
    }

    /// Starts bfdd beside them with this configuration. Returns when it answers.
    ///
    /// # Errors
    /// When it doesn't come up.
    pub fn start_bfdd(&mut self, netns: &Netns, config: &str) -> Result<()> {
        let file = self.dir.path().join("bfdd.conf");
        std::fs::write(&file, config)?;
        run("chown", &["frr:frr", &file.to_string_lossy()])?;
        let mut command = daemon_command(netns, "bfdd", self.dir.path());
        command
            .arg("--bfdctl")
            .arg(self.dir.path().join("bfdd.sock"));
        let log = self.dir.path().join("bfdd.log");
        self.bfdd = Some(Process::start("bfdd", command, &log)?);
        wait_for_socket(self.dir.path(), "bfdd")
    }

    /// Kills bfdd as `kill -9` does.
    ///
    /// # Errors
    /// When it isn't running.
    pub fn kill_bfdd(&mut self) -> Result<()> {
        self.bfdd.take().context("no bfdd")?.kill()
    }

    /// The folder of its vty sockets, as `vtysh --vty_socket` takes it.
    #[must_use]
    pub fn vty_dir(&self) -> &Path {
        self.dir.path()
    }

    /// Runs vtysh commands, each in its turn, and gives their output.
    ///
    /// # Errors
    /// When vtysh fails or the daemon doesn't know a command.
    pub fn vtysh(&self, commands: &[&str]) -> Result<String> {
        let dir = self.dir.path().to_string_lossy().into_owned();
        let mut args = vec!["--vty_socket", dir.as_str()];
        args.extend(commands.iter().flat_map(|command| ["-c", command]));
        let text = run("vtysh", &args)?;
        ensure!(
            !text.contains("% Unknown command"),
            "vtysh {commands:?}: {text}"
        );
        Ok(text)
    }

    /// Runs a `show ... json` command and parses its answer.
    ///
    /// # Errors
    /// When vtysh fails or doesn't answer in JSON.
    pub fn json(&self, command: &str) -> Result<Value> {
        let text = self.vtysh(&[command])?;
        serde_json::from_str(&text).with_context(|| format!("{command}: {text}"))
    }

    /// The state of the session with `neighbor` as FRR spells it (`Established`, `Idle (Admin)`, ...).
    ///
    /// # Errors
    /// When vtysh fails.
    pub fn session_state(&self, neighbor: &str) -> Result<String> {
        let summary = self.json("show bgp ipv4 unicast summary json")?;
        let state = summary
            .pointer(&format!("/peers/{neighbor}/state"))
            .and_then(Value::as_str);
        Ok(state.unwrap_or("absent").to_owned())
    }

    /// The IPv4 prefixes in the BGP table and, of each, the next hops.
    ///
    /// # Errors
    /// When vtysh fails.
    pub fn bgp_routes(&self) -> Result<Vec<(String, Vec<String>)>> {
        let table = self.json("show bgp ipv4 unicast json")?;
        let Some(routes) = table.get("routes").and_then(Value::as_object) else {
            return Ok(Vec::new());
        };
        Ok(routes
            .iter()
            .map(|(prefix, paths)| (prefix.clone(), next_hops(paths)))
            .collect())
    }

    /// Kills bgpd as `kill -9` does.
    ///
    /// # Errors
    /// When it can't be waited for.
    pub fn kill_bgpd(&mut self) -> Result<()> {
        self.bgpd.kill()
    }

    /// Starts bgpd again after [`Self::kill_bgpd`].
    ///
    /// # Errors
    /// When it doesn't come up.
    pub fn restart_bgpd(&mut self, netns: &Netns) -> Result<()> {
        let _ = std::fs::remove_file(self.dir.path().join("bgpd.vty"));
        self.bgpd = start_daemon(netns, "bgpd", self.dir.path())?;
        wait_for_socket(self.dir.path(), "bgpd")
    }

    /// Leaves the daemons and their folder in place when dropped; gives the folder.
    #[must_use]
    pub fn keep(mut self) -> PathBuf {
        self.zebra.keep();
        self.bgpd.keep();
        if let Some(bfdd) = &self.bfdd {
            bfdd.keep();
        }
        self.dir.disable_cleanup(true);
        self.dir.path().to_owned()
    }

    /// The end of both logs, for an error's text.
    #[must_use]
    pub fn log_end(&self) -> String {
        format!(
            "{}:\n{}\n{}\n{}",
            self.netns,
            self.zebra.log_end(),
            self.bgpd.log_end(),
            self.bfdd.as_ref().map(Process::log_end).unwrap_or_default()
        )
    }
}

fn next_hops(paths: &Value) -> Vec<String> {
    let hops = paths.as_array().into_iter().flatten();
    hops.filter_map(|path| path.pointer("/nexthops/0/ip")?.as_str().map(str::to_owned))
        .collect()
}

fn start_daemon(netns: &Netns, daemon: &str, dir: &Path) -> Result<Process> {
    let command = daemon_command(netns, daemon, dir);
    Process::start(daemon, command, &dir.join(format!("{daemon}.log")))
}

fn daemon_command(netns: &Netns, daemon: &str, dir: &Path) -> Command {
    let file = |name: &str| dir.join(name).into_os_string();
    let mut command = netns.command(format!("/usr/lib/frr/{daemon}"));
    command.arg("-f").arg(file(&format!("{daemon}.conf")));
    command.arg("-z").arg(file("zserv.api"));
    command.arg("-i").arg(file(&format!("{daemon}.pid")));
    command
        .arg("--vty_socket")
        .arg(dir)
        .args(["--log", "stdout", "-A", "127.0.0.1"]);
    command
}

fn wait_for_socket(dir: &Path, daemon: &str) -> Result<()> {
    let dir = dir.to_string_lossy().into_owned();
    eventually(START, &format!("{daemon} to answer"), || {
        run(
            "vtysh",
            &["--vty_socket", &dir, "-d", daemon, "-c", "show version"],
        )
    })?;
    Ok(())
}
