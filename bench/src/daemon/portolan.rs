//! Portolan as a daemon under test: its speaker alone where the kernel is not touched, else the whole agent.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use ipnet::IpNet;
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};
use tests::agent::Agent;
use tests::process::{Process, said_by};

use super::{Kernel, Running, Setup};
use crate::peer::Identity;
use crate::rig::{DAEMON_AS, DAEMON_ID};

/// What `portolan-speaker` is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpeakerFile {
    /// Its AS.
    pub asn: u32,
    /// Its BGP Identifier.
    pub router_id: Ipv4Addr,
    /// Where it listens.
    pub listen: Vec<SocketAddr>,
    /// Its peers, to whom everything is passed on.
    pub peers: Vec<Identity>,
    /// What it does not take from them: these and longer.
    pub reject: Vec<IpNet>,
    /// What it announces itself.
    pub originate: Vec<IpNet>,
}

/// A running `portolan-speaker`.
#[derive(Debug)]
pub struct Speaker {
    process: Process,
    file: PathBuf,
    _dir: tempfile::TempDir,
}

impl Speaker {
    /// Starts it.
    ///
    /// # Errors
    /// When it isn't beside this program.
    pub fn start(setup: &Setup<'_>) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("ptl-speaker-").tempdir()?;
        let file = dir.path().join("speaker.json");
        write(&file, &said(setup))?;
        let mut command = setup.netns.command(beside("portolan-speaker")?);
        command.arg(&file);
        let process = Process::start("portolan-speaker", command, &dir.path().join("log"))?;
        Ok(Self {
            process,
            file,
            _dir: dir,
        })
    }

    /// Changes what it is told.
    ///
    /// # Errors
    /// When it has ended.
    pub fn configure(&self, said: &SpeakerFile) -> Result<()> {
        write(&self.file, said)?;
        self.process.signal(Signal::SIGHUP)
    }
}

impl Running for Speaker {
    fn log_end(&self) -> String {
        self.process.log_end()
    }
}

/// The agent, and the folder of its manifests and state.
struct Whole {
    agent: Agent,
    _dir: tempfile::TempDir,
}

impl Running for Whole {
    fn log_end(&self) -> String {
        self.agent.log_end()
    }
}

/// What the speaker of this setup is told.
#[must_use]
pub fn said(setup: &Setup<'_>) -> SpeakerFile {
    SpeakerFile {
        asn: DAEMON_AS,
        router_id: DAEMON_ID,
        listen: listening(setup)
            .map(|address| (address, 179).into())
            .collect(),
        peers: setup.peers.to_vec(),
        reject: Vec::new(),
        originate: Vec::new(),
    }
}

pub(super) fn start(setup: &Setup<'_>) -> Result<Box<dyn Running>> {
    if setup.kernel == Kernel::Untouched {
        return Ok(Box::new(Speaker::start(setup)?));
    }
    let dir = tempfile::Builder::new().prefix("ptl-agent-").tempdir()?;
    let manifests = dir.path().join("manifests");
    std::fs::create_dir(&manifests)?;
    std::fs::write(manifests.join("bench.yaml"), yaml(setup))?;
    let program = beside("portolan")?;
    let mut agent = Agent::new("bench", &program, setup.netns, dir.path(), &manifests)?;
    agent.start(setup.netns)?;
    agent.wait_synced()?;
    Ok(Box::new(Whole { agent, _dir: dir }))
}

pub(super) fn version() -> Result<String> {
    let commit = said_by("git", &["rev-parse", "--short", "HEAD"])?;
    Ok(format!("Portolan {commit}"))
}

fn write(file: &Path, said: &SpeakerFile) -> Result<()> {
    std::fs::write(file, serde_json::to_string(said)?).with_context(|| file.display().to_string())
}

/// A program of this project, built beside this one.
///
/// # Errors
/// When it isn't.
pub(crate) fn beside(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let program = own.with_file_name(name);
    ensure!(program.is_file(), "{} is not built", program.display());
    Ok(program)
}

/// The daemon's addresses, each once.
fn listening<'a>(setup: &'a Setup<'_>) -> impl Iterator<Item = Ipv4Addr> + 'a {
    let mut seen = std::collections::BTreeSet::new();
    let addresses = setup.peers.iter().map(|peer| peer.daemon);
    addresses.filter(move |address| seen.insert(*address))
}

fn yaml(setup: &Setup<'_>) -> String {
    let addresses: Vec<String> = listening(setup)
        .map(|address| format!("{{type: InternalIP, address: {address}}}"))
        .collect();
    let several = setup.kernel == Kernel::Multipath;
    let mut text = format!(
        "apiVersion: v1\nkind: Node\nmetadata:\n  name: bench\n  annotations:\n    \
         portolan.io/as-number: \"{DAEMON_AS}\"\n    portolan.io/router-id: {DAEMON_ID}\n\
         spec:\n  podCIDRs: [10.244.1.0/24]\nstatus:\n  addresses: [{}]\n---\n\
         apiVersion: portolan.io/v1alpha1\nkind: BGPConfiguration\nmetadata:\n  name: default\n\
         spec:\n  nodeToNodeMeshEnabled: false\n  multipath: {several}\n  multipathRelax: {several}\n---\n\
         apiVersion: portolan.io/v1alpha1\nkind: BGPFilter\nmetadata:\n  name: everything\n\
         spec:\n  exportV4:\n    - {{source: RemotePeers, action: Accept}}\n",
        addresses.join(", ")
    );
    for peer in setup.peers {
        let _ = write!(
            text,
            "---\napiVersion: portolan.io/v1alpha1\nkind: BGPPeer\nmetadata:\n  name: as{}\n\
             spec:\n  peerAddress: {}\n  asNumber: {}\n  passive: true\n  filters: [everything]\n  \
             maxPrefixes: {{limit: 2000000}}\n",
            peer.asn, peer.address, peer.asn
        );
    }
    text
}
