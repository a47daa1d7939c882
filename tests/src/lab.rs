//! The lab: two nodes with an agent each, a ToR of real FRR, a host outside, and pods.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::agent::Agent;
use crate::cni::{Plugin, Sandbox, addresses};
use crate::frr::Frr;
use crate::netns::{self, Netns};
use crate::process::Process;
use crate::wait::eventually;

/// The host outside, behind the ToR.
pub const OUTSIDE: &str = "192.0.2.10";

/// How long sessions may take.
const PATIENCE: Duration = Duration::from_secs(60);

const TOR: &str = "\
router bgp 65000
 bgp router-id 10.10.1.1
 no bgp ebgp-requires-policy
 timers bgp connect 1
 neighbor 10.10.1.2 remote-as 64513
 neighbor 10.10.2.2 remote-as 64514
 address-family ipv4 unicast
  network 192.0.2.0/24
";

/// What a lab is made of.
#[derive(Clone, Debug)]
pub struct Options {
    /// Part of the names of its namespaces.
    pub tag: String,
    /// The folder of `portolan` and `portolan-cni`.
    pub binaries: PathBuf,
    /// `portolan-demo`, whose `serve` is the server in every pod.
    pub server: PathBuf,
    /// The manifests; the lab works on a copy.
    pub manifests: PathBuf,
}

impl Options {
    /// For a test: the binaries of `PORTOLAN_BIN_DIR` and the manifests of `examples/demo`. `server` is
    /// `env!("CARGO_BIN_EXE_portolan-demo")`.
    ///
    /// # Errors
    /// When the binaries are not there.
    pub fn for_test(tag: &str, server: &str) -> Result<Self> {
        Ok(Self {
            tag: tag.to_owned(),
            binaries: crate::agent::binaries()?,
            server: PathBuf::from(server),
            manifests: Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/demo"),
        })
    }
}

/// A node: a namespace and an agent.
#[derive(Debug)]
pub struct Node {
    /// The agent.
    pub agent: Agent,
    /// The namespace.
    pub netns: Netns,
    /// The node's address on the ToR's link.
    pub address: &'static str,
    /// The ToR's address there.
    pub tor: &'static str,
    /// Its Pod CIDR, IPv4.
    pub pod_cidr: &'static str,
}

/// An attached pod and the server in it.
#[derive(Debug)]
pub struct Pod {
    server: Process,
    /// As the runtime knows it.
    pub sandbox: Sandbox,
    /// Index of its node.
    pub node: usize,
    /// What ADD answered.
    pub result: Value,
}

/// All of it. Dropping it ends every process and removes every namespace.
#[derive(Debug)]
pub struct Lab {
    // In the order of their ends: servers and agents before the ToR, namespaces last.
    /// The pods, once attached.
    pub pods: Vec<Pod>,
    outside_server: Process,
    /// `node1` and `node2`.
    pub nodes: Vec<Node>,
    /// The ToR's daemons.
    pub frr: Frr,
    /// The host outside.
    pub outside: Netns,
    /// The ToR.
    pub tor: Netns,
    options: Options,
    dir: tempfile::TempDir,
}

impl Lab {
    /// Lays out namespaces and links, starts the ToR and the host outside. Agents are not yet started.
    ///
    /// # Errors
    /// When a part can't be made.
    pub fn new(options: Options) -> Result<Self> {
        let tag = options.tag.as_str();
        let dir = tempfile::Builder::new().prefix("ptl-lab-").tempdir()?;
        copy_manifests(&options.manifests, &dir.path().join("manifests"))?;
        let tor = Netns::new(tag, "tor")?;
        tor.sysctl("net.ipv4.ip_forward", "1")?;
        let outside = Netns::new(tag, "outside")?;
        netns::join((&tor, "outside"), (&outside, "eth0"))?;
        tor.ip("addr add 192.0.2.1/24 dev outside")?;
        outside.ip(&format!("addr add {OUTSIDE}/24 dev eth0"))?;
        outside.ip("route add default via 192.0.2.1")?;
        let nodes = vec![
            node(
                &options,
                &dir,
                &tor,
                ["node1", "10.10.1.2", "10.10.1.1", "10.244.1.0/24"],
            )?,
            node(
                &options,
                &dir,
                &tor,
                ["node2", "10.10.2.2", "10.10.2.1", "10.244.2.0/24"],
            )?,
        ];
        let frr = Frr::start(&tor, TOR)?;
        let outside_server = serve(&options, &outside, dir.path(), "outside")?;
        Ok(Self {
            pods: Vec::new(),
            outside_server,
            nodes,
            frr,
            outside,
            tor,
            options,
            dir,
        })
    }

    /// Starts both agents and waits until they are in sync and their sessions with the ToR stand.
    ///
    /// # Errors
    /// When they don't in time.
    pub fn start_agents(&mut self) -> Result<()> {
        for node in &mut self.nodes {
            node.agent.start(&node.netns)?;
        }
        for node in &mut self.nodes {
            node.agent.wait_synced()?;
        }
        self.wait_established()
    }

    /// Waits until every agent has its session, the ToR every Pod CIDR, and every kernel the routes to the
    /// other node and outside.
    ///
    /// # Errors
    /// When not in time.
    pub fn wait_established(&self) -> Result<()> {
        for node in &self.nodes {
            let what = format!(
                "{}'s session and its routes on both sides",
                node.agent.node()
            );
            let up = eventually(PATIENCE, &what, || {
                node.agent.ensure_established(node.tor)?;
                let routes = self.frr.bgp_routes()?;
                let held = routes.iter().any(|(prefix, _)| prefix == node.pod_cidr);
                anyhow::ensure!(held, "the ToR has {routes:?}");
                let kernel = node.netns.ip("route show proto 179")?;
                let others = self.nodes.iter().map(|other| other.pod_cidr);
                for prefix in others.chain(["192.0.2.0/24"]) {
                    anyhow::ensure!(
                        kernel.contains(prefix),
                        "the kernel misses {prefix}:\n{kernel}"
                    );
                }
                Ok(())
            });
            up.with_context(|| format!("{}\n{}", self.frr.log_end(), node.agent.log_end()))?;
        }
        Ok(())
    }

    /// Attaches a pod of the manifests to a node (by index) and starts its server.
    ///
    /// # Errors
    /// When the plugin refuses.
    pub fn attach(&mut self, node: usize, namespace: &str, name: &str) -> Result<&Pod> {
        let sandbox = Sandbox::new(&self.options.tag, namespace, name)?;
        let plugin = self.plugin(node)?;
        let at = self.node(node)?;
        let answer = plugin.call("ADD", &at.netns, &sandbox, None)?;
        let result = answer.success().with_context(|| at.agent.log_end())?;
        let server = serve(&self.options, &sandbox.netns, self.dir.path(), name)?;
        self.pods.push(Pod {
            server,
            sandbox,
            node,
            result,
        });
        self.pods.last().context("the pod just attached")
    }

    /// Attaches the five pods of `examples/demo`, and waits until each address works.
    ///
    /// # Errors
    /// When the plugin refuses one.
    pub fn attach_all(&mut self) -> Result<()> {
        let pods = [(0, "shop", "web"), (0, "shop", "cache"), (1, "shop", "db")];
        for (node, namespace, name) in pods
            .into_iter()
            .chain([(1, "team", "client"), (0, "team", "tester")])
        {
            self.attach(node, namespace, name)?;
        }
        self.wait_synced()
    }

    /// Waits until every agent says that what the manifests hold now is in the kernel.
    ///
    /// # Errors
    /// When not in time.
    pub fn wait_synced(&mut self) -> Result<()> {
        self.nodes
            .iter_mut()
            .try_for_each(|node| node.agent.wait_synced())
    }

    /// Detaches every pod by DEL, the way a runtime does.
    ///
    /// # Errors
    /// When the plugin refuses one.
    pub fn detach_all(&mut self) -> Result<()> {
        while let Some(pod) = self.pods.pop() {
            let (plugin, node) = (self.plugin(pod.node)?, self.node(pod.node)?);
            plugin
                .call("DEL", &node.netns, &pod.sandbox, Some(&pod.result))?
                .success()?;
        }
        Ok(())
    }

    /// Puts a manifest into the lab's directory, whole: written aside and renamed.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn drop_manifest(&self, name: &str, text: &str) -> Result<()> {
        let aside = self.manifests().join(format!(".{name}.new"));
        std::fs::write(&aside, text)?;
        Ok(std::fs::rename(aside, self.manifests().join(name))?)
    }

    /// The lab's own copy of the manifests.
    #[must_use]
    pub fn manifests(&self) -> PathBuf {
        self.dir.path().join("manifests")
    }

    /// The plugin as configured on a node (by index).
    ///
    /// # Errors
    /// When there is no such node.
    pub fn plugin(&self, node: usize) -> Result<Plugin> {
        Ok(Plugin {
            program: self.options.binaries.join("portolan-cni"),
            socket: self.node(node)?.agent.cni_socket(),
            version: "1.0.0".to_owned(),
        })
    }

    /// A node by index.
    ///
    /// # Errors
    /// When there is none.
    pub fn node(&self, index: usize) -> Result<&Node> {
        self.nodes
            .get(index)
            .with_context(|| format!("no node {index}"))
    }

    /// A node by index, to be changed.
    ///
    /// # Errors
    /// When there is none.
    pub fn node_mut(&mut self, index: usize) -> Result<&mut Node> {
        self.nodes
            .get_mut(index)
            .with_context(|| format!("no node {index}"))
    }

    /// Namespace and address of `outside` or a pod (`namespace/name`), of the family asked for.
    ///
    /// # Errors
    /// When there is none.
    pub fn place(&self, name: &str, is_ipv6: bool) -> Result<(&Netns, IpAddr)> {
        if name == "outside" && !is_ipv6 {
            return Ok((&self.outside, OUTSIDE.parse()?));
        }
        let pod = self.pods.iter().find(|pod| pod.sandbox.full_name() == name);
        let pod = pod.with_context(|| format!("no pod {name}"))?;
        let address = addresses(&pod.result)
            .into_iter()
            .find(|ip| ip.is_ipv6() == is_ipv6);
        let address =
            address.with_context(|| format!("{name} has no such address: {}", pod.result))?;
        Ok((&pod.sandbox.netns, address))
    }

    /// Leaves everything up; gives the names of the namespaces and the folders to be removed later.
    #[must_use]
    pub fn keep(mut self) -> (Vec<String>, Vec<PathBuf>) {
        let mut spaces = vec![&self.tor, &self.outside];
        spaces.extend(self.nodes.iter().map(|node| &node.netns));
        spaces.extend(self.pods.iter().map(|pod| &pod.sandbox.netns));
        spaces.iter().for_each(|netns| netns.keep());
        let names = spaces.iter().map(|netns| netns.name().to_owned()).collect();
        self.nodes.iter().for_each(|node| node.agent.keep());
        self.pods.iter().for_each(|pod| pod.server.keep());
        self.outside_server.keep();
        self.dir.disable_cleanup(true);
        (names, vec![self.dir.path().to_owned(), self.frr.keep()])
    }
}

fn node(
    options: &Options,
    dir: &tempfile::TempDir,
    tor: &Netns,
    [name, address, gateway, pod_cidr]: [&'static str; 4],
) -> Result<Node> {
    let netns = Netns::new(&options.tag, name)?;
    netns::join((tor, name), (&netns, "uplink"))?;
    tor.ip(&format!("addr add {gateway}/24 dev {name}"))?;
    netns.ip(&format!("addr add {address}/24 dev uplink"))?;
    let program = options.binaries.join("portolan");
    let manifests = dir.path().join("manifests");
    let agent = Agent::new(name, &program, &netns, dir.path(), &manifests)?;
    Ok(Node {
        agent,
        netns,
        address,
        tor: gateway,
        pod_cidr,
    })
}

fn serve(options: &Options, netns: &Netns, dir: &Path, name: &str) -> Result<Process> {
    let mut command = netns.command(&options.server);
    command.arg("serve");
    let mut server = Process::start(name, command, &dir.join(format!("server-{name}.log")))?;
    eventually(PATIENCE, &format!("the server of {name}"), || {
        server.check_running()?;
        let listening = netns.run("ss", &["-Htln", "sport = :8080"])?;
        anyhow::ensure!(!listening.trim().is_empty(), "it does not listen");
        Ok(())
    })?;
    Ok(server)
}

/// Copies the files of a folder of manifests into a new one.
pub(crate) fn copy_manifests(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir(to)?;
    let entries = std::fs::read_dir(from).with_context(|| from.display().to_string())?;
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            std::fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    Ok(())
}
