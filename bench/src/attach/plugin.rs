//! The plugins side by side: what each is configured with, and one call of it as a runtime would make it.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use ::tests::cni::Sandbox;
use ::tests::netns::here;
use ::tests::process::MARK;
use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::daemon::beside;

/// Where Debian's containernetworking-plugins are.
const REFERENCE_PLUGINS: &str = "/usr/lib/cni";

/// A plugin that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Subject {
    /// Ours, with its agent.
    Portolan,
    /// The reference's routed pods.
    Ptp,
    /// The same without IPv6, for which it sleeps 50 ms when an address is not ready at once.
    PtpV4,
    /// The reference's bridged pods.
    Bridge,
}

/// What is measured of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    Add,
    Del,
}

/// A plugin ready to be called.
#[derive(Debug)]
pub(super) struct Plugin {
    program: PathBuf,
    config: String,
    addresses: usize,
}

impl Subject {
    pub(super) const ALL: [Self; 4] = [Self::Portolan, Self::Ptp, Self::PtpV4, Self::Bridge];

    /// Those that can attach 50 at once: ptp asks for a route from its IPv6 address, which the kernel refuses (EINVAL) where that one is not ready.
    pub(super) const AT_ONCE: [Self; 3] = [Self::Portolan, Self::PtpV4, Self::Bridge];

    /// Each time another one first.
    pub(super) fn in_turn<const N: usize>(mut all: [Self; N], turn: usize) -> [Self; N] {
        all.rotate_left(turn % N);
        all
    }

    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Portolan => "Portolan",
            Self::Ptp => "ptp + host-local",
            Self::PtpV4 => "ptp + host-local, IPv4 alone",
            Self::Bridge => "bridge + host-local",
        }
    }
}

impl Command {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
        }
    }
}

impl Plugin {
    /// Makes ready what the runtime would read; `folder` is where host-local keeps what it gave.
    pub(super) fn new(subject: Subject, agent: &Path, folder: &Path) -> Result<Self> {
        let addresses = match subject {
            Subject::PtpV4 => 1,
            _ => 2,
        };
        let ipam = |net: u8| {
            let v4 = (format!("10.{net}.0.0/22"), "0.0.0.0/0");
            let v6 = (format!("fd00:{net}::/64"), "::/0");
            let families = [v4, v6].into_iter().take(addresses);
            let (ranges, routes): (Vec<Value>, Vec<Value>) = families
                .map(|(subnet, all)| (json!([{"subnet": subnet}]), json!({"dst": all})))
                .unzip();
            json!({
                "type": "host-local", "dataDir": folder.join(subject.title()), "ranges": ranges, "routes": routes,
            })
        };
        let (program, mut config) = match subject {
            Subject::Portolan => (
                beside("portolan-cni")?,
                json!({"type": "portolan-cni", "name": "portolan", "socket": agent}),
            ),
            Subject::Ptp => (
                reference("ptp")?,
                json!({"type": "ptp", "name": "ptp", "ipam": ipam(251)}),
            ),
            Subject::PtpV4 => (
                reference("ptp")?,
                json!({"type": "ptp", "name": "ptp4", "ipam": ipam(253)}),
            ),
            Subject::Bridge => (
                reference("bridge")?,
                json!({"type": "bridge", "name": "bridge", "bridge": "cnibench", "isGateway": true, "ipam": ipam(252)}),
            ),
        };
        if let Some(fields) = config.as_object_mut() {
            fields.insert("cniVersion".to_owned(), json!("1.0.0"));
        }
        let config = config.to_string();
        Ok(Self {
            program,
            config,
            addresses,
        })
    }

    /// Calls it in the network namespace of the calling thread; how long that took, from its start to its end.
    ///
    /// # Errors
    /// When it can't be started, fails, or ADD gives another number of addresses than two.
    pub(super) fn call(&self, command: Command, pod: &Sandbox) -> Result<Duration> {
        let args = format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={}",
            pod.namespace, pod.name
        );
        let mut program = here(&self.program);
        program
            .env(MARK, std::process::id().to_string())
            .env("CNI_COMMAND", command.name())
            .env("CNI_CONTAINERID", &pod.container_id)
            .env("CNI_NETNS", pod.netns.path())
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", REFERENCE_PLUGINS)
            .env("CNI_ARGS", args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let start = Instant::now();
        let mut child = program.spawn().with_context(|| self.name())?;
        // A plugin that refuses before it reads closes the pipe; what it says tells more.
        let _ = child
            .stdin
            .take()
            .context("stdin")?
            .write_all(self.config.as_bytes());
        let output = child.wait_with_output()?;
        let took = start.elapsed();
        let said = String::from_utf8_lossy(&output.stdout);
        ensure!(
            output.status.success(),
            "{} of {}: {said} {}",
            command.name(),
            self.name(),
            String::from_utf8_lossy(&output.stderr)
        );
        if command == Command::Add {
            let result: Value = serde_json::from_str(&said).with_context(|| said.to_string())?;
            let addresses = result
                .get("ips")
                .and_then(Value::as_array)
                .map_or(0, Vec::len);
            ensure!(
                addresses == self.addresses,
                "{} gave {addresses} addresses: {said}",
                self.name()
            );
        }
        Ok(took)
    }

    fn name(&self) -> String {
        self.program.display().to_string()
    }
}

fn reference(name: &str) -> Result<PathBuf> {
    let program = Path::new(REFERENCE_PLUGINS).join(name);
    ensure!(
        program.is_file(),
        "{} is missing: run scripts/install-deps (containernetworking-plugins)",
        program.display()
    );
    Ok(program)
}
