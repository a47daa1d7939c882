//! Nodes on one segment with one folder of manifests, an agent each, and pods whose addresses come from pools.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ipnet::IpNet;
use serde_json::Value;
use tests::agent::{Agent, binaries};
use tests::cni::{Answer, Plugin, Sandbox, addresses};
use tests::netns::Netns;
use tests::rack::Rack;
use tests::reach::{Server, Transport, Verdict, attempt, server_at};
use tests::wait::eventually;

pub(crate) const PATIENCE: Duration = Duration::from_secs(40);

/// A node.
#[derive(Debug)]
pub(crate) struct Station {
    pub(crate) agent: Agent,
    pub(crate) netns: Netns,
}

/// An attached pod with a server in it.
#[derive(Debug)]
pub(crate) struct Pod {
    _server: Server,
    pub(crate) sandbox: Sandbox,
    pub(crate) addresses: Vec<IpAddr>,
}

/// All of it.
#[derive(Debug)]
pub(crate) struct Lab {
    // In the order of their ends: pods before nodes, namespaces last.
    pub(crate) pods: Vec<Pod>,
    pub(crate) stations: Vec<Station>,
    rack: Rack,
    tag: String,
}

/// A pool's manifest.
pub(crate) fn pool(name: &str, cidr: &str, block_size: u8) -> String {
    format!(
        "apiVersion: portolan.io/v1alpha1\nkind: IPPool\nmetadata: {{name: {name}}}\nspec: {{cidr: \"{cidr}\", blockSize: {block_size}}}\n"
    )
}

/// A pod's manifest, with one fixed address or none.
pub(crate) fn pod(name: &str, node: &str, fixed: Option<&str>) -> String {
    let fixed = fixed.map(|ip| format!("'[\"{ip}\"]'"));
    let annotation = fixed.map_or_else(String::new, |text| {
        format!(", annotations: {{portolan.io/ip-addresses: {text}}}")
    });
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{namespace: shop, name: {name}{annotation}}}\nspec: {{nodeName: {node}, containers: []}}\n"
    )
}

impl Lab {
    /// So many nodes without Pod CIDRs, their agents not yet started.
    pub(crate) fn new(tag: &str, nodes: u8, manifests: &[String]) -> Result<Self> {
        let rack = Rack::new(tag)?;
        let mut text = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n".to_owned();
        let mut stations = Vec::new();
        for number in 1..=nodes {
            let name = format!("node{number}");
            let netns = rack.machine(&name)?;
            rack.plug((&netns, "eth0"), ("lan", &format!("p{number}")), None)?;
            netns.ip(&format!("addr add 10.66.0.{number}/24 dev eth0"))?;
            netns.ip(&format!("addr add fd66::{number}/64 dev eth0 nodad"))?;
            text.push_str(&format!(
                "---\napiVersion: v1\nkind: Node\nmetadata: {{name: {name}, labels: {{name: {name}}}}}\nstatus:\n  addresses:\n    - {{type: InternalIP, address: 10.66.0.{number}}}\n    - {{type: InternalIP, address: \"fd66::{number}\"}}\n"
            ));
            let folder = rack.manifests();
            let dir = folder.parent().context("the rack's folder")?;
            let program = binaries()?.join("portolan");
            let agent = Agent::new(&name, &program, &netns, dir, &folder)?;
            stations.push(Station { agent, netns });
        }
        for manifest in manifests {
            text.push_str("---\n");
            text.push_str(manifest);
        }
        rack.manifest("all.yaml", &text)?;
        Ok(Self {
            pods: Vec::new(),
            stations,
            rack,
            tag: tag.to_owned(),
        })
    }

    /// The nodes of `examples/ip-pools`, with its manifests.
    pub(crate) fn of_the_example(tag: &str) -> Result<Self> {
        let lab = Self::new(tag, 2, &[])?;
        std::fs::remove_file(lab.rack.manifests().join("all.yaml"))?;
        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/ip-pools");
        for entry in std::fs::read_dir(&example)? {
            let entry = entry?;
            let text = std::fs::read_to_string(entry.path())?;
            lab.manifest(&entry.file_name().to_string_lossy(), &text)?;
        }
        Ok(lab)
    }

    /// Starts all agents at once, with these further flags, and waits until they are in sync.
    pub(crate) fn start(&mut self, flags: &[&str]) -> Result<()> {
        for station in &mut self.stations {
            station.agent.set_arguments(flags);
            station.agent.start(&station.netns)?;
        }
        let mut stations = self.stations.iter_mut();
        stations.try_for_each(|station| station.agent.wait_synced())
    }

    pub(crate) fn manifest(&self, name: &str, text: &str) -> Result<()> {
        self.rack.manifest(name, text)
    }

    pub(crate) fn blocks_folder(&self) -> PathBuf {
        self.rack.manifests().join(".status/blocks")
    }

    fn station(&self, node: usize) -> Result<&Station> {
        self.stations.get(node).context("a node of the lab")
    }

    fn plugin(&self, node: usize) -> Result<Plugin> {
        Ok(Plugin {
            program: binaries()?.join("portolan-cni"),
            socket: self.station(node)?.agent.cni_socket(),
            version: "1.0.0".to_owned(),
        })
    }

    /// One ADD.
    pub(crate) fn add(&self, node: usize, sandbox: &Sandbox) -> Result<Answer> {
        let netns = &self.station(node)?.netns;
        self.plugin(node)?.call("ADD", netns, sandbox, None)
    }

    /// A pod that is no one's yet.
    pub(crate) fn sandbox(&self, name: &str) -> Result<Sandbox> {
        Sandbox::new(&self.tag, "shop", name)
    }

    /// Attaches a pod; its addresses are IPv4, then IPv6.
    pub(crate) fn attach(&mut self, node: usize, name: &str) -> Result<Vec<IpAddr>> {
        let sandbox = self.sandbox(name)?;
        let answer = self.add(node, &sandbox)?.success();
        let agent = &self.station(node)?.agent;
        let mut addresses = addresses(&answer.with_context(|| agent.log_end())?);
        addresses.sort_by_key(IpAddr::is_ipv6);
        self.pods.push(Pod {
            _server: Server::start(&sandbox.netns)?,
            sandbox,
            addresses: addresses.clone(),
        });
        Ok(addresses)
    }

    /// Takes the last pod away that was attached to that node.
    pub(crate) fn detach_last(&mut self, node: usize) -> Result<()> {
        let pod = self.pods.pop().context("no pod is left")?;
        let netns = &self.station(node)?.netns;
        let answer = self.plugin(node)?.call("DEL", netns, &pod.sandbox, None)?;
        answer.success().map(drop)
    }

    /// Whose each block is, as the files say.
    pub(crate) fn blocks(&self) -> Result<BTreeMap<IpNet, String>> {
        let mut blocks = BTreeMap::new();
        let Ok(entries) = std::fs::read_dir(self.blocks_folder()) else {
            return Ok(blocks);
        };
        for entry in entries {
            let path = entry?.path();
            if path.extension().is_none_or(|end| end != "json") {
                continue;
            }
            let Ok(text) = std::fs::read(&path) else {
                // Released since the folder was listed.
                continue;
            };
            let object: Value = serde_json::from_slice(&text)?;
            let field = |name: &str| object.pointer(name).and_then(Value::as_str);
            let cidr = field("/spec/cidr").context("no cidr")?.parse()?;
            let node = field("/spec/node").context("no node")?.to_owned();
            ensure!(blocks.insert(cidr, node).is_none(), "{cidr} twice");
        }
        Ok(blocks)
    }

    /// The blocks of one node.
    pub(crate) fn blocks_of(&self, node: &str) -> Result<Vec<IpNet>> {
        let blocks = self.blocks()?.into_iter();
        Ok(blocks
            .filter(|(_, holder)| holder == node)
            .map(|(cidr, _)| cidr)
            .collect())
    }

    /// Waits until a connection from one pod to an address succeeds.
    pub(crate) fn reaches(&self, from: &Netns, to: IpAddr) -> Result<()> {
        eventually(PATIENCE, &format!("{} to reach {to}", from.name()), || {
            let verdict = attempt(from, server_at(to), Transport::Tcp, Duration::from_secs(1))?;
            ensure!(verdict == Verdict::Answered, "{verdict:?}");
            Ok(())
        })
    }
}
