//! An API server that holds the Services, and a node for each proxy in turn, with a pod that asks and all endpoints behind a link.

use std::net::Ipv4Addr;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use ::tests::agent::Agent;
use ::tests::netns::{Netns, join};
use ::tests::policy_lab::BackEnd;
use ::tests::process::Process;
use anyhow::{Context as _, Result, ensure};
use cluster::{ControlPlane, Options, Place, Programs};
use serde_json::json;
use tempfile::TempDir;

use super::client::{self, Endpoints};
use super::objects::{self, ENDPOINTS, MARKER, SERVICE_CIDR};
use crate::daemon::beside;
use crate::fleet::Etcd;
use crate::usage::{Watch, with_programs};

const NODE: &str = "bench-node";
/// The API server's address, on the link to the node.
const SERVER: Ipv4Addr = Ipv4Addr::new(172, 20, 255, 254);
const NODE_ADDRESS: Ipv4Addr = Ipv4Addr::new(172, 20, 0, 1);

/// Whose proxy, and how it serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Proxy {
    pub(super) is_ours: bool,
    /// As `--proxy-mode` of both takes it.
    pub(super) mode: &'static str,
    /// The iptables that it finds.
    pub(super) back_end: BackEnd,
}

impl Proxy {
    /// For people.
    pub(super) fn title(self) -> String {
        let whose = if self.is_ours {
            "Portolan"
        } else {
            "kube-proxy"
        };
        format!("{whose}, {}", self.way())
    }

    /// How it serves, whosever it is.
    pub(super) fn way(self) -> String {
        match self.mode {
            "iptables" => format!("iptables ({})", self.back_end.name()),
            mode => mode.to_owned(),
        }
    }
}

/// etcd and the API server, with the objects.
pub(super) struct Lab {
    plane: ControlPlane,
    outside: Netns,
    etcd: Etcd,
    dir: TempDir,
    /// How many Services there are.
    pub(super) services: usize,
    starts: usize,
}

impl Lab {
    pub(super) fn start(services: usize) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("ptl-services-").tempdir()?;
        let outside = Netns::new("bench", "plane")?;
        outside.ip(&format!("addr add {SERVER}/32 dev lo"))?;
        let plane = ControlPlane::start(Options {
            place: Place::Namespace {
                name: outside.name().to_owned(),
                address: SERVER.into(),
            },
            service_cidrs: SERVICE_CIDR.to_owned(),
            ..Options::default()
        });
        plane.install_crds();
        ask_for_our_kinds(&plane)?;
        let address = plane.etcd();
        let mut etcd = outside.inside(|| Etcd::connect(address))??;
        etcd.put(objects::all(services))?;
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE, "labels": {"kubernetes.io/hostname": NODE}}});
        plane.try_apply(&node.to_string())?;
        let address =
            json!({"status": {"addresses": [{"type": "InternalIP", "address": NODE_ADDRESS}]}});
        let patch = [
            "patch",
            "node",
            NODE,
            "--subresource=status",
            "-p",
            &address.to_string(),
        ];
        plane.try_kubectl(&patch)?;
        for back_end in BackEnd::ALL {
            link_programs(&dir.path().join(back_end.name()), back_end)?;
        }
        Ok(Self {
            plane,
            outside,
            etcd,
            dir,
            services,
            starts: 0,
        })
    }

    /// Has another endpoint of the marker be the one that is ready, in place of the one before; from when on.
    pub(super) fn set_ready(&mut self, of: usize) -> Result<Instant> {
        let begin = Instant::now();
        self.etcd.put([objects::slice(MARKER, of)])?;
        Ok(begin)
    }

    /// Starts a proxy on a node that has seen none. Also tells when that was.
    pub(super) fn start_proxy(&mut self, proxy: Proxy) -> Result<(Running, Instant)> {
        self.set_ready(0)?;
        if self.starts > 0 {
            // The kernel takes the last node's namespace away when it likes; it may have done so already.
            let _ = self.outside.ip("link del node");
        }
        let world = World::start(&self.outside)?;
        self.starts += 1;
        let dir = self.dir.path().join(format!("run{}", self.starts));
        std::fs::create_dir_all(&dir)?;
        let begin = Instant::now();
        let process = match proxy.is_ours {
            true => Program::Ours(Box::new(self.start_agent(proxy, &world, &dir)?)),
            false => Program::Kube(self.start_kube_proxy(proxy, &world, &dir)?),
        };
        Ok((Running { process, world }, begin))
    }

    fn start_agent(&self, proxy: Proxy, world: &World, dir: &std::path::Path) -> Result<Agent> {
        let program = beside("portolan")?;
        let agent = Agent::new(NODE, &program, &world.node, dir, dir)?;
        let agent = agent.with_kubeconfig(self.plane.admin_kubeconfig());
        let mut agent = agent.with_features("services");
        agent.set_arguments(&[
            "--iptables",
            proxy.back_end.name(),
            "--proxy-mode",
            proxy.mode,
        ]);
        agent.start(&world.node)?;
        Ok(agent)
    }

    fn start_kube_proxy(
        &self,
        proxy: Proxy,
        world: &World,
        dir: &std::path::Path,
    ) -> Result<Process> {
        let kubeconfig = self.plane.kubeconfig_for("system:kube-proxy", &[]);
        let mut command = world.node.command(Programs::find().path("kube-proxy"));
        command.arg(format!("--kubeconfig={}", kubeconfig.display()));
        command.arg(format!("--proxy-mode={}", proxy.mode));
        command.arg(format!("--hostname-override={NODE}"));
        command.args([
            "--detect-local-mode=InterfaceNamePrefix",
            "--pod-interface-name-prefix=ptl",
            // Those sysctls can be written in the first network namespace alone.
            "--conntrack-max-per-core=0",
            "--conntrack-min=0",
        ]);
        let programs: PathBuf = self.dir.path().join(proxy.back_end.name());
        let path = std::env::var("PATH").context("PATH")?;
        command.env("PATH", format!("{}:{path}", programs.display()));
        Process::start("kube-proxy", command, &dir.join("log"))
    }
}

/// An API server makes what stores a kind of a definition when it is first asked for it, and until then sends who asks away for
/// a second (429). In a cluster that is long past when an agent starts, and the first program of one here would wait for it.
fn ask_for_our_kinds(plane: &ControlPlane) -> Result<()> {
    for crd in api::crd::crds() {
        let kind = format!("{}.{}", crd.spec.names.plural, crd.spec.group);
        plane.try_kubectl(&["get", &kind, "--all-namespaces"])?;
    }
    Ok(())
}

/// `iptables` and its sisters, of one back end.
fn link_programs(dir: &std::path::Path, back_end: BackEnd) -> Result<()> {
    std::fs::create_dir_all(dir)?;
    let program = format!("/usr/sbin/xtables-{}-multi", back_end.name());
    ensure!(std::path::Path::new(&program).exists(), "no {program}");
    for tables in ["iptables", "ip6tables"] {
        for verb in ["", "-save", "-restore"] {
            symlink(&program, dir.join(format!("{tables}{verb}")))?;
        }
    }
    Ok(())
}

/// The node, the pod on it that asks, and where all endpoints are.
#[derive(Debug)]
struct World {
    _endpoints: Endpoints,
    client: Netns,
    node: Netns,
    _others: Netns,
}

impl World {
    fn start(outside: &Netns) -> Result<Self> {
        let (node, client, others) = (
            Netns::new("bench", "node")?,
            Netns::new("bench", "client")?,
            Netns::new("bench", "others")?,
        );
        for netns in [&node, &others] {
            netns.sysctl("net.ipv4.ip_forward", "1")?;
        }
        join((&node, "eth0"), (outside, "node"))?;
        outside.ip("addr add 172.20.255.253/16 dev node")?;
        node.ip(&format!("addr add {NODE_ADDRESS}/16 dev eth0"))?;
        join((&node, "fabric"), (&others, "eth0"))?;
        node.ip("addr add 172.19.0.1/24 dev fabric")?;
        others.ip("addr add 172.19.0.2/24 dev eth0")?;
        node.ip("route add default via 172.19.0.2")?;
        others.ip("route add default via 172.19.0.1")?;
        others.ip(&format!("route add local {ENDPOINTS} dev lo"))?;
        // Until a proxy serves them there is an error at once.
        others.ip(&format!("route add unreachable {SERVICE_CIDR}"))?;
        others.sysctl("net.ipv4.icmp_ratelimit", "0")?;
        join((&node, "ptlclient"), (&client, "eth0"))?;
        node.ip("addr add 172.18.0.1/24 dev ptlclient")?;
        client.ip("addr add 172.18.0.2/24 dev eth0")?;
        client.ip("route add default via 172.18.0.1")?;
        Ok(Self {
            _endpoints: Endpoints::start(&others)?,
            client,
            node,
            _others: others,
        })
    }
}

enum Program {
    Ours(Box<Agent>),
    Kube(Process),
}

/// A proxy that runs on its node; dropping it ends the one and removes the other.
pub(super) struct Running {
    // In the order in which they are dropped.
    process: Program,
    world: World,
}

impl Running {
    fn process(&self) -> Result<i32> {
        let id = match &self.process {
            Program::Ours(agent) => agent.id().context("the agent doesn't run")?,
            Program::Kube(process) => process.id(),
        };
        Ok(i32::try_from(id)?)
    }

    /// The end of its log.
    pub(super) fn log_end(&self) -> String {
        match &self.process {
            Program::Ours(agent) => agent.log_end(),
            Program::Kube(process) => process.log_end(),
        }
    }

    /// Processor time of it and of the programs it has run, seconds.
    pub(super) fn processor(&self) -> Result<f64> {
        Ok(with_programs(self.process()?)?.as_secs_f64())
    }

    /// The most memory it ever had, MiB; not that of the programs it runs.
    pub(super) fn memory(&self) -> Result<f64> {
        let watch = Watch::of(vec![self.process()?])?;
        Ok(watch.peak_memory()? as f64 / 1024.0)
    }

    /// Waits until these Services answer; None after `most`.
    pub(super) fn wait_for(
        &self,
        numbers: &[usize],
        begin: Instant,
        most: Duration,
    ) -> Result<Option<f64>> {
        client::wait_for(&self.world.client, numbers, begin, most)
    }

    /// Milliseconds until this endpoint answers for the marker.
    pub(super) fn wait_for_endpoint(
        &self,
        of: usize,
        begin: Instant,
        most: Duration,
    ) -> Result<f64> {
        client::wait_for_endpoint(&self.world.client, MARKER, of, begin, most)
    }

    /// Microseconds of so many connections.
    pub(super) fn connects(&self, services: usize, count: usize) -> Result<client::Connects> {
        client::connects(&self.world.client, services, count)
    }
}
