//! A rack made to measure: machines on segments that can lose a port without a word, and hosts behind the machines.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};

use crate::agent::{Agent, binaries};
use crate::flow::{Flow, Kind, Outcome};
use crate::lab::copy_manifests;
use crate::netns::{Netns, join};
use crate::nic::Nic;
use crate::reach::{Server, server_at};

/// Segments, one folder of manifests, and the names of all that is made. Machines are the test's own.
#[derive(Debug)]
pub struct Rack {
    switch: Netns,
    dir: tempfile::TempDir,
    tag: String,
}

/// A host behind a machine: its only way is through it.
#[derive(Debug)]
pub struct Host {
    _server: Server,
    /// Its namespace.
    pub netns: Netns,
    /// Its address.
    pub address: IpAddr,
}

impl Host {
    /// A host of a namespace that has its address and routes already.
    ///
    /// # Errors
    /// When the server's port is taken.
    pub fn in_place(netns: Netns, address: &str) -> Result<Self> {
        Ok(Self {
            _server: Server::start(&netns)?,
            netns,
            address: address.parse()?,
        })
    }
}

impl Rack {
    /// An empty rack; `tag` is part of the names of its namespaces.
    ///
    /// # Errors
    /// When the switch or the folder can't be made.
    pub fn new(tag: &str) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("ptl-rack-").tempdir()?;
        std::fs::create_dir(dir.path().join("manifests"))?;
        Ok(Self {
            switch: Netns::new(tag, "switch")?,
            dir,
            tag: tag.to_owned(),
        })
    }

    /// A machine that forwards, both families, and takes packets from whatever link they come by.
    ///
    /// # Errors
    /// When the namespace can't be made.
    pub fn machine(&self, role: &str) -> Result<Netns> {
        let netns = Netns::new(&self.tag, role)?;
        for (name, value) in [
            ("net.ipv4.ip_forward", "1"),
            ("net.ipv6.conf.all.forwarding", "1"),
            ("net.ipv4.conf.all.rp_filter", "0"),
            ("net.ipv4.conf.default.rp_filter", "0"),
            // By ports too: probes of one pair of hosts take all of several ways.
            ("net.ipv4.fib_multipath_hash_policy", "1"),
        ] {
            netns.sysctl(name, value)?;
        }
        Ok(netns)
    }

    /// Joins a machine's `interface` to a segment, made when first named; `port` is the switch's name of it.
    ///
    /// # Errors
    /// When a link can't be made.
    pub fn plug(
        &self,
        (netns, interface): (&Netns, &str),
        (segment, port): (&str, &str),
        address: Option<&str>,
    ) -> Result<()> {
        if self.switch.ip(&format!("link show dev {segment}")).is_err() {
            self.switch.ip(&format!("link add {segment} type bridge"))?;
            self.switch.ip(&format!("link set {segment} up"))?;
        }
        join((netns, interface), (&self.switch, port))?;
        self.heal(segment, port)?;
        if let Some(address) = address {
            netns.ip(&format!("addr add {address} dev {interface}"))?;
        }
        Ok(())
    }

    /// The switch: every packet between machines passes here.
    #[must_use]
    pub fn wires(&self) -> &Netns {
        &self.switch
    }

    /// Loses all that passes a port from now on; nobody's carrier goes.
    ///
    /// # Errors
    /// When there is no such port.
    pub fn cut(&self, port: &str) -> Result<()> {
        self.switch
            .ip(&format!("link set {port} nomaster"))
            .map(drop)
    }

    /// Passes everything again.
    ///
    /// # Errors
    /// When there is no such port or segment.
    pub fn heal(&self, segment: &str, port: &str) -> Result<()> {
        self.switch
            .ip(&format!("link set {port} master {segment}"))
            .map(drop)
    }

    /// Gives a port an MTU.
    ///
    /// # Errors
    /// When there is no such port.
    pub fn widen(&self, port: &str, mtu: u32) -> Result<()> {
        self.switch
            .ip(&format!("link set {port} mtu {mtu}"))
            .map(drop)
    }

    /// Puts a NIC that forgets checksums between a port's machine and its segment.
    ///
    /// # Errors
    /// When there is no such port or segment.
    pub fn careless_nic(&self, segment: &str, port: &str) -> Result<Nic> {
        let (inside, outside) = (format!("{port}-nic"), format!("{port}-wire"));
        self.cut(port)?;
        self.switch
            .ip(&format!("link add {inside} type veth peer name {outside}"))?;
        for link in [&inside, &outside] {
            self.switch.ip(&format!("link set {link} up"))?;
        }
        self.heal(segment, &outside)?;
        Nic::start(&self.switch, port, &inside)
    }

    /// Takes the cable out of a port: the machine behind it loses its carrier.
    ///
    /// # Errors
    /// When there is no such port.
    pub fn unplug(&self, port: &str) -> Result<()> {
        self.switch.ip(&format!("link set {port} down")).map(drop)
    }

    /// Puts the cable in again.
    ///
    /// # Errors
    /// When there is no such port.
    pub fn plug_in(&self, port: &str) -> Result<()> {
        self.switch.ip(&format!("link set {port} up")).map(drop)
    }

    /// A host with an echo server behind `machine`, reached by a route of that one address.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn host(&self, role: &str, machine: &Netns, address: &str, gateway: &str) -> Result<Host> {
        let netns = Netns::new(&self.tag, role)?;
        let link = format!("to-{role}");
        join((machine, &link), (&netns, "eth0"))?;
        machine.ip(&format!("addr add {gateway}/32 dev {link}"))?;
        machine.ip(&format!("route add {address}/32 dev {link}"))?;
        netns.ip(&format!("addr add {address}/32 dev eth0"))?;
        netns.ip(&format!("route add {gateway}/32 dev eth0"))?;
        netns.ip(&format!("route add default via {gateway}"))?;
        Host::in_place(netns, address)
    }

    /// An empty namespace of this rack.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn empty(&self, role: &str) -> Result<Netns> {
        Netns::new(&self.tag, role)
    }

    /// An agent that speaks BGP and does nothing else, not yet started.
    ///
    /// # Errors
    /// When there is no binary or its folders can't be made.
    pub fn speaker(&self, node: &str, netns: &Netns) -> Result<Agent> {
        self.speaker_of(node, netns, &self.manifests())
    }

    /// The same with a folder of manifests of its own, a copy of `examples/<example>`.
    ///
    /// # Errors
    /// When there is no binary or no such example.
    pub fn speaker_of_example(&self, node: &str, netns: &Netns, example: &str) -> Result<Agent> {
        let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
        let manifests = self.dir.path().join(example);
        copy_manifests(&examples.join(example), &manifests)?;
        self.speaker_of(node, netns, &manifests)
    }

    fn speaker_of(&self, node: &str, netns: &Netns, manifests: &Path) -> Result<Agent> {
        let program = binaries()?.join("portolan");
        let agent = Agent::new(node, &program, netns, self.dir.path(), manifests)?;
        Ok(agent.with_features("bgp"))
    }

    /// Puts a manifest into the folder, whole: written aside and renamed.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn manifest(&self, name: &str, text: &str) -> Result<()> {
        let aside = self.manifests().join(format!(".{name}.new"));
        std::fs::write(&aside, text)?;
        Ok(std::fs::rename(aside, self.manifests().join(name))?)
    }

    /// The folder of the manifests.
    #[must_use]
    pub fn manifests(&self) -> PathBuf {
        self.dir.path().join("manifests")
    }
}

/// The manifest of a node on one segment; `more` are annotations, each `\n    name: value`.
#[must_use]
pub fn node_manifest(name: &str, address: &str, pod_cidr: &str, more: &str) -> String {
    format!(
        "apiVersion: v1
kind: Node
metadata:
  name: {name}
  labels: {{kubernetes.io/hostname: {name}}}
  annotations:
    portolan.io/router-id: {address}{more}
spec:
  podCIDRs: [{pod_cidr}]
status:
  addresses: [{{type: InternalIP, address: {address}}}]
"
    )
}

/// An allowed flow between two hosts.
#[must_use]
pub fn flow(name: &str, kind: Kind, to: &Host, rate: u32) -> Flow {
    Flow {
        name: name.to_owned(),
        kind,
        is_allowed: true,
        to: server(to),
        server: to.netns.name().to_owned(),
        rate,
    }
}

/// What was sent and lost by all the flows, printed with each of them.
///
/// # Errors
/// When a flow sent less than 90 % of its plan: that proves nothing.
pub fn sum(title: &str, flows: &[(&Netns, Flow)], outcomes: &[Outcome]) -> Result<(u64, u64)> {
    let (mut sent, mut lost) = (0, 0);
    let mut told = String::new();
    for ((_, flow), outcome) in flows.iter().zip(outcomes) {
        told.push_str(&format!(
            "\n  {} ({}): planned {}, sent {}, lost {}",
            flow.name,
            flow.kind.name(),
            outcome.planned,
            outcome.sent,
            outcome.lost
        ));
        ensure!(outcome.is_meaningful(), "{title}: too few probes{told}");
        sent += outcome.sent;
        lost += outcome.lost;
    }
    say(&format!("{title}: sent {sent}, lost {lost}{told}"));
    Ok((sent, lost))
}

/// A line for whoever runs the tests with `--nocapture`, or reads why one failed.
#[expect(clippy::print_stderr, reason = "what a scenario counted is its result")]
pub fn say(text: &str) {
    eprintln!("{text}");
}

fn server(host: &Host) -> SocketAddr {
    server_at(host.address)
}
