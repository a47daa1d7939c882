//! A whole cluster on one machine: control plane, two nodes with real kubelets, kube-proxy, CoreDNS, and a ToR.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use serde_json::Value;
use tests::rack::say;
use tests::wait::eventually;

use crate::fabric::{Fabric, Link};
use crate::host::Host;
use crate::kubelet::{Addresses, ProxyMode};
use crate::node::Node;
use crate::{
    ControlPlane, Options as PlaneOptions, Place, Programs, Scratch, containerd, dns, image,
    kubelet, leftovers, programs,
};

/// Of both families.
pub const POD_CIDRS: &str = "10.244.0.0/16,fd00:10:244::/56";
/// Of both families.
pub const SERVICE_CIDRS: &str = "10.96.0.0/16,fd00:10:96::/112";
/// Where CoreDNS answers.
pub const DNS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(10, 96, 0, 10)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 10)),
];

/// The AS number of node n1 is the next one, and so on.
pub const FIRST_AS: u32 = 64512;

/// How long a node may take until it is known to the API server, on a machine that does much else.
const REGISTRATION: Duration = Duration::from_secs(120);

/// How a node comes up.
#[derive(Clone, Copy, Debug)]
pub struct Boot<'a> {
    /// What its Node is registered with, if it is not there yet: `key=value:effect`, by commas.
    pub taints: &'a str,
    /// Its kube-proxy; without one nothing serves Services there.
    pub proxy: Option<ProxyMode>,
}

impl Default for Boot<'_> {
    fn default() -> Self {
        Self {
            taints: "",
            proxy: Some(ProxyMode::Iptables),
        }
    }
}

/// A running cluster; dropping it ends everything.
#[derive(Debug)]
pub struct Cluster {
    // In the order in which they are dropped: nodes first, what they stand on last.
    nodes: Vec<Node>,
    plane: ControlPlane,
    programs: Programs,
    fabric: Fabric,
    scratch: Scratch,
    started: Instant,
    proxy: Option<ProxyMode>,
    _host: Host,
}

impl Cluster {
    /// Starts one whose nodes have no CNI configuration: they are registered and not Ready. `images` are tars that the
    /// nodes get besides pause, CoreDNS and the tools.
    ///
    /// # Errors
    /// When a program is missing or doesn't come up.
    pub fn start(images: &[PathBuf]) -> Result<Self> {
        Self::start_with(images, Boot::default().proxy)
    }

    /// The same with this kube-proxy on its nodes, or none: then nothing serves Services until somebody else does.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_with(images: &[PathBuf], proxy: Option<ProxyMode>) -> Result<Self> {
        let host = Host::take()?;
        let started = Instant::now();
        let programs = Programs::find();
        let scratch = Scratch::new(&leftovers::prefix()?)?;
        let fabric = Fabric::start(2)?;
        let mut all = image::make_all(&programs, scratch.path())?;
        for image in images {
            // A node sees this folder and the cache, and nothing else of /tmp.
            let name = image.file_name().context("an image without a name")?;
            let seen = scratch.path().join(name);
            std::fs::copy(image, &seen)?;
            all.push(seen);
        }
        let plane = ControlPlane::start(PlaneOptions {
            controller_manager: true,
            scheduler: true,
            place: Place::Namespace {
                name: fabric.outside().name().to_owned(),
                address: Link(0).v4().into(),
            },
            pod_cidrs: POD_CIDRS.to_owned(),
            service_cidrs: SERVICE_CIDRS.to_owned(),
            // Nodes' names are in no DNS.
            api_server_flags: vec!["--kubelet-preferred-address-types=InternalIP".to_owned()],
            ..PlaneOptions::default()
        });
        let mut cluster = Self {
            nodes: Vec::new(),
            plane,
            programs,
            fabric,
            scratch,
            started,
            proxy,
            _host: host,
        };
        cluster.tell("control plane ready");
        for link in [Link(1), Link(2)] {
            cluster.start_node(link, &all)?;
        }
        cluster.plane.apply(&dns::manifests(&DNS));
        Ok(cluster)
    }

    /// The control plane.
    #[must_use]
    pub fn plane(&self) -> &ControlPlane {
        &self.plane
    }

    /// The ToR and the network outside.
    #[must_use]
    pub fn fabric(&self) -> &Fabric {
        &self.fabric
    }

    /// The same, to start more of the ToR's daemons.
    #[must_use]
    pub fn fabric_mut(&mut self) -> &mut Fabric {
        &mut self.fabric
    }

    /// A node by its name.
    ///
    /// # Panics
    /// When there is none of that name.
    #[must_use]
    pub fn node(&mut self, name: &str) -> &mut Node {
        let found = self.nodes.iter_mut().find(|node| node.name() == name);
        found.unwrap_or_else(|| panic!("no node {name}"))
    }

    /// A node by its name, to run something on it.
    ///
    /// # Panics
    /// When there is none of that name.
    #[must_use]
    pub fn on(&self, name: &str) -> &Node {
        let found = self.nodes.iter().find(|node| node.name() == name);
        found.unwrap_or_else(|| panic!("no node {name}"))
    }

    /// Runs kubectl and gives its output.
    ///
    /// # Panics
    /// When it fails.
    pub fn kubectl(&self, args: &[&str]) -> String {
        self.plane.kubectl(args)
    }

    /// Asks kubectl for an object or a list as JSON.
    ///
    /// # Errors
    /// When it fails.
    pub fn get(&self, args: &[&str]) -> Result<Value> {
        let text = self
            .plane
            .try_kubectl(&[&["get", "-o", "json"][..], args].concat())?;
        Ok(serde_json::from_str(&text)?)
    }

    /// The status of a Node's condition `Ready`.
    ///
    /// # Errors
    /// When there is no such Node.
    pub fn readiness(&self, node: &str) -> Result<String> {
        Ok(self.node_condition(node, "Ready")?.0)
    }

    /// A line with the time since the start, for who reads the run.
    pub fn tell(&self, what: &str) {
        say(&format!(
            "{:6.1} s: {what}",
            self.started.elapsed().as_secs_f32()
        ));
    }

    /// What the nodes' programs said last, for an error's text.
    #[must_use]
    pub fn logs(&self) -> String {
        let mut told = String::new();
        for node in &self.nodes {
            for name in ["setup", "containerd", "kubelet", "kube-proxy"] {
                let log = node.log(name);
                let lines: Vec<&str> = log.lines().collect();
                let last = lines.len().saturating_sub(25);
                told += &format!("== {} {name}\n", node.name());
                told += &lines.get(last..).unwrap_or_default().join("\n");
                told += "\n";
            }
        }
        told
    }

    /// Takes a node's power away, without a word to anybody.
    ///
    /// # Errors
    /// When a process of it doesn't end.
    pub fn power_off(&mut self, name: &str) -> Result<()> {
        self.node(name).power_off()
    }

    /// Starts a node again after [`Self::power_off`], with what it had on disk, and waits until its Node is there.
    ///
    /// # Errors
    /// When it doesn't come up.
    pub fn boot(&mut self, name: &str) -> Result<()> {
        self.boot_as(name, Boot::default())
    }

    /// The same with a word about how.
    ///
    /// # Errors
    /// When it doesn't come up.
    pub fn boot_as(&mut self, name: &str, boot: Boot<'_>) -> Result<()> {
        let position = self.nodes.iter().position(|node| node.name() == name);
        let mut node = self.nodes.remove(position.context(name.to_owned())?);
        let link = Link(name.trim_start_matches('n').parse()?);
        let booted = node
            .power_on()
            .and_then(|()| self.start_programs(&mut node, link, &[], boot));
        self.nodes.push(node);
        booted
    }

    /// Starts the kube-proxy of a node in this mode, in place of the one that runs, if one does.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn start_proxy(&mut self, name: &str, mode: ProxyMode) -> Result<()> {
        let found = self.nodes.iter_mut().find(|node| node.name() == name);
        let node = found.with_context(|| format!("no node {name}"))?;
        if node.check_running("kube-proxy").is_ok() {
            node.stop_program("kube-proxy")?;
        }
        kubelet::start_proxy(node, &self.plane, &self.programs, POD_CIDRS, mode)
    }

    /// Runs helm with these words, where the control plane is, and gives its output.
    ///
    /// # Errors
    /// When it isn't in the cache, or fails; the error holds what it said.
    pub fn helm(&self, args: &[&str]) -> Result<String> {
        let kubeconfig = self.plane.admin_kubeconfig().to_string_lossy();
        let words = [&["--kubeconfig", &*kubeconfig][..], args].concat();
        let helm = programs::helm()?;
        self.fabric.outside().run(&helm.to_string_lossy(), &words)
    }

    /// One after the other, so that n1 gets the first Pod CIDR.
    fn start_node(&mut self, link: Link, images: &[PathBuf]) -> Result<()> {
        let name = format!("n{}", link.0);
        let netns = self.fabric.plug(&name, link)?;
        let scratch = self.scratch.path();
        let mut node = Node::start(&name, netns, scratch, &[self.cache(), scratch])?;
        let boot = Boot {
            proxy: self.proxy,
            ..Boot::default()
        };
        let started = self.start_programs(&mut node, link, images, boot);
        self.nodes.push(node);
        started.map_err(|error| anyhow!("{error:#}\n{}", self.logs()))?;
        self.tell(&format!("{name}: registered"));
        Ok(())
    }

    /// Each node is in an AS of its own, as its annotation says: a ToR passes on what one says to the other.
    fn start_programs(
        &self,
        node: &mut Node,
        link: Link,
        images: &[PathBuf],
        boot: Boot<'_>,
    ) -> Result<()> {
        let name = node.name().to_owned();
        containerd::start(node, &self.cache().join("bin"), images)?;
        let at = Addresses {
            v4: link.v4(),
            v6: link.v6(),
        };
        let labels = format!("rack=r{}", link.0);
        let words = (labels.as_str(), boot.taints);
        kubelet::start(node, &self.plane, &self.programs, at, words, &DNS)?;
        if let Some(mode) = boot.proxy {
            kubelet::start_proxy(node, &self.plane, &self.programs, POD_CIDRS, mode)?;
        }
        eventually(REGISTRATION, &format!("Node {name}"), || {
            node.check_running("kubelet")?;
            let found = self.get(&["node", &name])?;
            let cidr = found.pointer("/spec/podCIDR");
            ensure!(cidr.is_some(), "{name} has no Pod CIDR");
            Ok::<_, anyhow::Error>(())
        })?;
        let number = format!("portolan.io/as-number={}", FIRST_AS + u32::from(link.0));
        let annotate = ["annotate", "--overwrite", "node", &name, &number];
        self.plane.try_kubectl(&annotate).map(drop)
    }

    /// The project's folder in the user's cache.
    fn cache(&self) -> &Path {
        let dir = self.programs.dir();
        dir.ancestors().nth(2).unwrap_or(dir)
    }
}
