//! Debian's containerd with folders of its own, and what its CRI service says of the network.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::netns::Netns;
use crate::process::Process;
use crate::wait::eventually;

/// A StatusRequest (CRI v1) with `verbose` set, in gRPC's framing.
const STATUS_REQUEST: [u8; 7] = [0, 0, 0, 0, 2, 0x08, 1];

/// A running containerd.
#[derive(Debug)]
pub struct Containerd {
    process: Process,
    socket: PathBuf,
}

/// What it says of the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkStatus {
    /// Whether pods with a network can be started.
    pub is_ready: bool,
    /// How its last look at the folder went: `OK`, or why it did not.
    pub last_load: String,
    /// The network that pods get: null if there is none.
    pub network: Value,
}

impl Containerd {
    /// Starts it in `netns`, its state in `dir`. Returns when its CRI service answers.
    ///
    /// # Errors
    /// When `scripts/fetch-containerd` has not run, or it does not start.
    pub fn start(netns: &Netns, dir: &Path, bin_dir: &Path, conf_dir: &Path) -> Result<Self> {
        let program = program()?;
        let socket = dir.join("containerd.sock");
        let (root, state) = (dir.join("root"), dir.join("state"));
        let config = format!(
            "version = 2
root = {root:?}
state = {state:?}
[grpc]
  address = {socket:?}
[debug]
  level = \"debug\"
[plugins.\"io.containerd.grpc.v1.cri\".containerd]
  snapshotter = \"native\"
[plugins.\"io.containerd.grpc.v1.cri\".cni]
  bin_dir = {bin_dir:?}
  conf_dir = {conf_dir:?}
"
        );
        let file = dir.join("containerd.toml");
        std::fs::write(&file, config)?;
        let mut command = netns.command(program);
        command.arg("--config").arg(&file);
        let process = Process::start("containerd", command, &dir.join("containerd.log"))?;
        let mut daemon = Self { process, socket };
        eventually(Duration::from_secs(30), "containerd to answer", || {
            daemon.process.check_running()?;
            daemon.network()
        })?;
        Ok(daemon)
    }

    /// Asks it.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn network(&self) -> Result<NetworkStatus> {
        let answer = self.status()?;
        let text = |key: &str| find(&answer, key).map(|bytes| String::from_utf8_lossy(bytes));
        let last_load = text("lastCNILoadStatus").context("no lastCNILoadStatus")?;
        let config = text("cniconfig").context("no cniconfig")?;
        let config: Value = serde_json::from_str(&config)?;
        // The first one is containerd's own for the loopback device.
        let network = config.pointer("/Networks/1/Config").cloned();
        Ok(NetworkStatus {
            is_ready: !contains(&answer, b"NetworkPluginNotReady"),
            last_load: last_load.trim_matches('"').to_owned(),
            network: network.unwrap_or_default(),
        })
    }

    /// What it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.log()
    }

    fn status(&self) -> Result<Vec<u8>> {
        let mut child = Command::new("curl")
            .args(["-s", "-S", "--max-time", "10", "--http2-prior-knowledge"])
            .arg("--unix-socket")
            .arg(&self.socket)
            .args(["-H", "content-type: application/grpc", "-H", "te: trailers"])
            .args(["--data-binary", "@-", "-o", "-"])
            .arg("http://localhost/runtime.v1.RuntimeService/Status")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("curl")?;
        let mut stdin = child.stdin.take().context("stdin")?;
        stdin.write_all(&STATUS_REQUEST)?;
        drop(stdin);
        let output = child.wait_with_output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success() && !output.stdout.is_empty(),
            "curl: {said}"
        );
        Ok(output.stdout)
    }
}

fn program() -> Result<PathBuf> {
    let home = std::env::var_os("HOME").context("HOME")?;
    let cache = std::env::var_os("XDG_CACHE_HOME");
    let cache = cache.map_or_else(|| Path::new(&home).join(".cache"), PathBuf::from);
    let program = cache.join("portolan/bin/containerd");
    ensure!(
        program.is_file(),
        "no {}: run scripts/fetch-containerd",
        program.display()
    );
    Ok(program)
}

/// The value of a key of a protobuf map<string, string>: both are fields 1 and 2 with their lengths before them.
fn find<'a>(message: &'a [u8], key: &str) -> Option<&'a [u8]> {
    let mut entry = vec![0x0a, u8::try_from(key.len()).ok()?];
    entry.extend(key.as_bytes());
    entry.push(0x12);
    let start = message
        .windows(entry.len())
        .position(|part| part == entry)?;
    let (length, rest) = varint(message.get(start + entry.len()..)?)?;
    rest.get(..length)
}

fn varint(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let mut value = 0;
    for (index, byte) in bytes.iter().enumerate().take(5) {
        value |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((value, bytes.get(index + 1..)?));
        }
    }
    None
}

fn contains(message: &[u8], word: &[u8]) -> bool {
    message.windows(word.len()).any(|part| part == word)
}
