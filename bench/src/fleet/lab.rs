//! The fleet on a real API server, and our node beside it: its agent with the rights that we deploy, its pods attached by the plugin.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ::tests::agent::Agent;
use ::tests::cni::{Sandbox, addresses};
use ::tests::netns::{Netns, join};
use ::tests::policy_lab::BackEnd;
use ::tests::wait::eventually;
use anyhow::{Context as _, Result, ensure};
use cluster::{ControlPlane, Options, Place};
use serde_json::{Value, json};

use super::etcd::Etcd;
use super::objects::{self, PodNumber, Size};
use crate::daemon::beside;
use crate::policy::agent::{Node, get};
use crate::usage::{Watch, with_programs};

/// The API server's address, on the link to our node; others have a route to it.
const SERVER: Ipv4Addr = Ipv4Addr::new(172, 20, 255, 254);
/// How long a start may take before the row fails.
const PATIENCE: Duration = Duration::from_secs(120);

/// All of it; dropping it ends and removes everything.
pub(super) struct Lab {
    pub(super) node: Node,
    pub(super) plane: ControlPlane,
    /// Where etcd and the API server are.
    pub(super) outside: Netns,
    pub(super) size: Size,
    /// What making the fleet's objects took, seconds.
    pub(super) making: f64,
    /// Octets of a pod as the API server sends it, on average.
    pub(super) pod_octets: usize,
}

/// What came of a start.
#[derive(Clone, Copy, Debug)]
pub(super) struct Start {
    /// From the process's start until it said that it was ready, seconds.
    pub(super) seconds: f64,
    /// Its processor time and that of the programs it ran, seconds.
    pub(super) processor: f64,
    /// Processor time of the API server meanwhile, seconds.
    pub(super) server: f64,
    /// Octets that came to the node.
    pub(super) octets: u64,
    /// Memory as [`Memory::of`] has it.
    pub(super) memory: Memory,
}

/// A process that reads, in a namespace of its own.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'a> {
    pub(super) netns: &'a Netns,
    pub(super) process: i32,
}

/// A process's memory, in octets.
#[derive(Clone, Copy, Debug)]
pub(super) struct Memory {
    /// The most ever resident.
    pub(super) peak: u64,
    /// Resident now.
    pub(super) resident: u64,
    /// Of that, its own alone.
    pub(super) anonymous: u64,
}

impl Memory {
    pub(super) fn of(process: i32) -> Result<Self> {
        let watch = Watch::of(vec![process])?;
        Ok(Self {
            peak: watch.peak_memory()? << 10,
            resident: watch.memory_now()? << 10,
            anonymous: watch.anonymous_memory()? << 10,
        })
    }
}

impl Lab {
    pub(super) fn start(size: Size) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("ptl-fleet-").tempdir()?;
        let outside = Netns::new("bench", "plane")?;
        let netns = Netns::new("bench", "node")?;
        join((&netns, "eth0"), (&outside, "node"))?;
        netns.ip(&format!(
            "addr add {}/16 dev eth0",
            objects::node_address(1)
        ))?;
        outside.ip(&format!("addr add {SERVER}/16 dev node"))?;
        let plane = ControlPlane::start(Options {
            place: Place::Namespace {
                name: outside.name().to_owned(),
                address: SERVER.into(),
            },
            // The maker and the readers are not to wait for each other.
            api_server_flags: [
                "--max-requests-inflight=2000",
                "--max-mutating-requests-inflight=1000",
            ]
            .map(str::to_owned)
            .into(),
            ..Options::default()
        });
        plane.install_crds();
        plane.install_cluster_network_policy();
        let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/kubernetes");
        for name in ["namespace.yaml", "rbac.yaml"] {
            plane.try_apply(&std::fs::read_to_string(deploy.join(name))?)?;
        }
        let begin = Instant::now();
        let pod_octets = make(&plane, &outside, size)?;
        let making = begin.elapsed().as_secs_f64();
        let list = json!({"apiVersion": "v1", "kind": "List", "items": objects::rest()});
        plane.try_apply(&list.to_string())?;
        let program = beside("portolan")?;
        let agent = Agent::new(objects::OURS, &program, &netns, dir.path(), dir.path())?;
        let kubeconfig = plane.service_account_kubeconfig("portolan", "portolan-agent");
        let mut agent = agent.with_kubeconfig(&kubeconfig);
        agent.set_arguments(&["--iptables", BackEnd::Nft.name()]);
        Ok(Self {
            node: Node::with(agent, netns, BackEnd::Nft, dir),
            plane,
            outside,
            size,
            making,
            pod_octets,
        })
    }

    /// Starts the agent and waits until it says that it is ready.
    pub(super) fn start_agent(&mut self) -> Result<Start> {
        let octets = received(&self.node.netns)?;
        let server = self.server()?;
        let begin = Instant::now();
        self.node.agent.start(&self.node.netns)?;
        let agent = &self.node.agent;
        self.node
            .netns
            .inside(|| {
                eventually(PATIENCE, "an agent that is ready", || {
                    let page = get("/readyz")?;
                    ensure!(page.starts_with("HTTP/1.1 200"), "{page}");
                    Ok(())
                })
            })?
            .with_context(|| agent.log_end())?;
        let seconds = begin.elapsed().as_secs_f64();
        let agent = self.agent()?;
        Ok(Start {
            seconds,
            processor: with_programs(agent.process)?.as_secs_f64(),
            server: server.usage()?.daemon.as_secs_f64(),
            octets: received(&self.node.netns)? - octets,
            memory: Memory::of(agent.process)?,
        })
    }

    /// Attaches our pods as a runtime does, and says their addresses as a kubelet does.
    pub(super) fn attach(&mut self) -> Result<()> {
        let socket = self.node.agent.cni_socket();
        let config = json!({
            "type": "portolan-cni", "name": "portolan", "cniVersion": "1.0.0", "socket": socket, "stateDir": self.node.agent.state_dir(),
        })
        .to_string();
        let plugin = beside("portolan-cni")?;
        for number in (0..objects::LOCAL).map(PodNumber) {
            let sandbox = Sandbox::new("bench", &number.namespace(), &format!("p{}", number.0))?;
            let (namespace, name) = (number.namespace(), number.name());
            let arguments = format!(
                "IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name};K8S_POD_UID={}",
                number.uid()
            );
            let netns = sandbox.netns.path();
            let netns = netns.to_str().context("a path")?;
            let variables = [
                ("CNI_COMMAND", "ADD"),
                ("CNI_CONTAINERID", &sandbox.container_id),
                ("CNI_NETNS", netns),
                ("CNI_IFNAME", "eth0"),
                ("CNI_PATH", "/opt/cni/bin"),
                ("CNI_ARGS", &arguments),
            ];
            let answer = ::tests::cni::run(&plugin, &self.node.netns, &variables, &config)?;
            let result = answer
                .success()
                .with_context(|| self.node.agent.log_end())?;
            let ips: Vec<String> = addresses(&result).iter().map(ToString::to_string).collect();
            ensure!(ips.len() == 2, "{namespace}/{name} has {ips:?}");
            let node = objects::node_address(1).to_string();
            let status = json!({"status": objects::pod_status(&name, &node, &ips)}).to_string();
            let patch = [
                "-n",
                &namespace,
                "patch",
                "pod",
                &name,
                "--subresource=status",
                "-p",
                &status,
            ];
            self.plane.try_kubectl(&patch)?;
            self.node.hold(sandbox);
        }
        self.sync()
    }

    /// Waits until all that the API server holds now is in the kernel.
    pub(super) fn sync(&mut self) -> Result<()> {
        self.node.agent.wait_synced()
    }

    /// How many of our pods policies isolate, as `portolan status` counts them.
    pub(super) fn counts(&self) -> Result<Value> {
        let status = self.node.agent.status()?;
        Ok(status.get("policy").cloned().unwrap_or_default())
    }

    /// Our agent, as one that reads.
    pub(super) fn agent(&self) -> Result<Reader<'_>> {
        let process = self.node.agent.id().context("the agent doesn't run")?;
        Ok(Reader {
            netns: &self.node.netns,
            process: i32::try_from(process)?,
        })
    }

    /// Watches the API server's process.
    pub(super) fn server(&self) -> Result<Watch> {
        for process in self.outside.processes()? {
            let name = std::fs::read_to_string(format!("/proc/{process}/comm"))?;
            if name.trim() == "kube-apiserver" {
                return Watch::of(vec![process]);
            }
        }
        anyhow::bail!("no kube-apiserver")
    }

    /// A network namespace from which the API server can be reached; `number` differs for each.
    pub(super) fn beside(&self, number: u8) -> Result<Netns> {
        let netns = Netns::new("bench", "reader")?;
        let there = format!("reader{number}");
        join((&netns, "eth0"), (&self.outside, &there))?;
        self.outside
            .ip(&format!("addr add 172.21.{number}.1/30 dev {there}"))?;
        netns.ip(&format!("addr add 172.21.{number}.2/30 dev eth0"))?;
        netns.ip(&format!("route add {SERVER} via 172.21.{number}.1"))?;
        Ok(netns)
    }

    /// Another kubeconfig with the agent's rights.
    pub(super) fn kubeconfig(&self) -> PathBuf {
        self.plane
            .service_account_kubeconfig("portolan", "portolan-agent")
    }
}

/// Octets that have come into a namespace by its `eth0`.
pub(super) fn received(netns: &Netns) -> Result<u64> {
    let links = netns.ip_json("-s link show dev eth0")?;
    let octets = links.pointer("/0/stats64/rx/bytes").and_then(Value::as_u64);
    octets.context("eth0 has no counters")
}

/// Puts the fleet into etcd; the octets of a pod on average.
fn make(plane: &ControlPlane, outside: &Netns, size: Size) -> Result<usize> {
    let address = plane.etcd();
    outside.inside(|| {
        let mut etcd = Etcd::connect(address)?;
        etcd.put(objects::namespaces())?;
        etcd.put(objects::service_accounts())?;
        etcd.put((1..=size.nodes).map(objects::node))?;
        etcd.put((0..size.policies).map(objects::policy))?;
        let mut octets = 0;
        etcd.put((0..size.pods).map(|number| {
            let stored = objects::pod(PodNumber(number), size);
            octets += stored.1.to_string().len();
            stored
        }))?;
        Ok(octets / size.pods)
    })?
}
