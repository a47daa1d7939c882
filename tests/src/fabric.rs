//! Two nodes in one subnet and a third in another, and between them a router that knows no pods and counts those it sees: a
//! fabric for tunnels of every kind.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::missing_errors_doc,
    clippy::missing_panics_doc,
    reason = "a lab: what goes wrong fails the test"
)]

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::Path;
use std::time::Duration;

use crate::cni::Sandbox;
use crate::flow::{Flow, Kind};
use crate::forge;
use crate::netns::Netns;
use crate::nic::Nic;
use crate::rack::Rack;
use crate::reach::{Transport, Verdict, attempt, server_at};
use crate::station::{Pod, Station};
use crate::wait::eventually;
use anyhow::{Context as _, Result, ensure};
use serde_json::Map;

/// How long is waited for what must come.
pub const PATIENCE: Duration = Duration::from_secs(40);

/// What the nodes have for addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Underlay {
    /// IPv4 alone.
    V4,
    /// IPv6 alone.
    V6,
}

/// The nodes, their pods and the router.
#[derive(Debug)]
pub struct Fabric {
    // In the order of their ends: pods before nodes, namespaces last.
    /// One of each node.
    pub pods: Vec<Pod>,
    /// The nodes: two in one subnet, the third in another.
    pub stations: Vec<Station>,
    /// Between the subnets.
    pub router: Netns,
    rack: Rack,
    device: &'static str,
    underlay: Underlay,
    tag: String,
}

/// What is counted of VXLAN.
pub const VXLAN_PACKETS: &str = "-p udp --dport 4789";

/// The manifests of both pools.
pub fn pools(encapsulation: &str) -> String {
    let pool = |name: &str, cidr: &str, size: u8| {
        format!(
            "apiVersion: portolan.io/v1alpha1\nkind: IPPool\nmetadata: {{name: {name}}}\nspec: {{cidr: \"{cidr}\", blockSize: {size}, encapsulation: {encapsulation}}}\n"
        )
    };
    let v6 = pool("pods6", "fd48::/112", 122);
    format!("{}---\n{v6}", pool("pods", "10.48.0.0/16", 26))
}

/// The pools that docs/overlay.md shows.
pub fn pools_of_the_docs() -> Result<String> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/overlay.md");
    let text = std::fs::read_to_string(page)?;
    let block = text.split("```yaml\n").nth(1).context("an example")?;
    Ok(block.split("```").next().context("its end")?.to_owned())
}

impl Fabric {
    /// Agents started, one pod a node attached. `device` is what the kind of tunnel that is looked at is made of.
    pub fn start(tag: &str, underlay: Underlay, device: &'static str, pools: &str) -> Result<Self> {
        let rack = Rack::new(tag)?;
        let router = rack.machine("router")?;
        for segment in [1, 2] {
            let (link, port) = (format!("eth{segment}"), format!("r{segment}"));
            rack.plug((&router, &link), (&format!("s{segment}"), &port), None)?;
            router.ip(&format!("addr add 10.71.{segment}.254/24 dev {link}"))?;
            router.ip(&format!("addr add fd71:{segment}::fe/64 dev {link} nodad"))?;
        }
        let mut lab = Self {
            pods: Vec::new(),
            stations: Vec::new(),
            router,
            rack,
            device,
            underlay,
            tag: tag.to_owned(),
        };
        lab.guard_router()?;
        lab.rack.manifest(
            "namespace.yaml",
            "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n",
        )?;
        lab.rack.manifest("pools.yaml", pools)?;
        for number in 1..=3 {
            lab.add_node(number)?;
        }
        for station in &mut lab.stations {
            station.start()?;
        }
        for station in &mut lab.stations {
            station.agent.wait_synced()?;
        }
        for node in 0..3 {
            lab.attach(node)?;
        }
        lab.wait_synced()?;
        Ok(lab)
    }

    fn add_node(&mut self, number: u8) -> Result<()> {
        let segment = if number < 3 { 1 } else { 2 };
        let name = format!("node{number}");
        let netns = self.rack.machine(&name)?;
        let (of, port) = (format!("s{segment}"), format!("p{number}"));
        self.rack.plug((&netns, "eth0"), (&of, &port), None)?;
        let router = match self.underlay {
            Underlay::V4 => {
                netns.ip(&format!("addr add 10.71.{segment}.{number}/24 dev eth0"))?;
                format!("10.71.{segment}.254")
            }
            Underlay::V6 => {
                netns.ip(&format!(
                    "addr add fd71:{segment}::{number}/64 dev eth0 nodad"
                ))?;
                format!("fd71:{segment}::fe")
            }
        };
        netns.ip(&format!("route add default via {router}"))?;
        let address = self.address(usize::from(number) - 1);
        self.rack.manifest(
            &format!("{name}.yaml"),
            &format!(
                "apiVersion: v1\nkind: Node\nmetadata:\n  name: {name}\n  annotations: {{portolan.io/router-id: 10.0.0.{number}}}\nstatus:\n  addresses: [{{type: InternalIP, address: \"{address}\"}}]\n"
            ),
        )?;
        self.stations.push(Station::new(&name, netns, &self.rack)?);
        Ok(())
    }

    /// What bears a pod's address is counted and dropped.
    fn guard_router(&self) -> Result<()> {
        for (program, range) in [("iptables", "10.48.0.0/16"), ("ip6tables", "fd48::/112")] {
            for end in ["-s", "-d"] {
                self.router.run(
                    program,
                    &["-t", "raw", "-A", "PREROUTING", end, range, "-j", "DROP"],
                )?;
            }
        }
        Ok(())
    }

    /// Packets with pods' addresses that the router saw.
    pub fn seen_by_router(&self) -> Result<u64> {
        let v4 = counted(&self.router, "iptables")?;
        Ok(v4 + counted(&self.router, "ip6tables")?)
    }

    /// A node's own address.
    pub fn address(&self, node: usize) -> IpAddr {
        let (number, segment) = (node + 1, if node < 2 { 1 } else { 2 });
        let text = match self.underlay {
            Underlay::V4 => format!("10.71.{segment}.{number}"),
            Underlay::V6 => format!("fd71:{segment}::{number}"),
        };
        text.parse().unwrap()
    }

    /// Counts what the first node sends to another in tunnels, from now on: what `packets` names, as iptables has it.
    pub fn count_tunnelled(&self, to: usize, packets: &str) -> Result<()> {
        let to = self.address(to).to_string();
        let mut rule = vec!["-t", "mangle", "-A", "OUTPUT", "-d", &to];
        rule.extend(packets.split_whitespace());
        self.stations[0].netns.run(self.iptables(), &rule).map(drop)
    }

    /// What was counted to that node.
    pub fn sent_tunnelled(&self, to: usize) -> Result<u64> {
        let text = self.stations[0]
            .netns
            .run(self.iptables(), &["-t", "mangle", "-nvxL", "OUTPUT"])?;
        let to = self.address(to).to_string();
        let line = text.lines().find(|line| line.contains(&to));
        let line = line.with_context(|| format!("no rule for {to}: {text}"))?;
        let count = line.split_whitespace().next().context("a count")?;
        Ok(count.parse()?)
    }

    fn iptables(&self) -> &'static str {
        match self.underlay {
            Underlay::V4 => "iptables",
            Underlay::V6 => "ip6tables",
        }
    }

    /// From now on a node's NIC forgets checksums of what is in tunnels.
    pub fn careless_nic(&self, node: usize) -> Result<Nic> {
        let segment = if node < 2 { 1 } else { 2 };
        let port = format!("p{}", node + 1);
        self.rack.careless_nic(&format!("s{segment}"), &port)
    }

    /// Writes a manifest.
    pub fn manifest(&self, name: &str, text: &str) -> Result<()> {
        self.rack.manifest(name, text)
    }

    /// Reads a manifest.
    pub fn read_manifest(&self, name: &str) -> Result<String> {
        Ok(std::fs::read_to_string(self.rack.manifests().join(name))?)
    }

    /// Takes a manifest away.
    pub fn remove_manifest(&self, name: &str) -> Result<()> {
        Ok(std::fs::remove_file(self.rack.manifests().join(name))?)
    }

    /// Gives all that is between the nodes an MTU, so that theirs alone matter.
    pub fn widen(&self, mtu: u32) -> Result<()> {
        for link in ["eth1", "eth2"] {
            self.router.ip(&format!("link set {link} mtu {mtu}"))?;
        }
        let ports = ["p1", "p2", "p3", "r1", "r2"];
        ports.iter().try_for_each(|port| self.rack.widen(port, mtu))
    }

    /// Waits until every agent has carried out what the manifests say.
    pub fn wait_synced(&mut self) -> Result<()> {
        let mut stations = self.stations.iter_mut();
        stations.try_for_each(|station| station.agent.wait_synced())
    }

    fn attach(&mut self, node: usize) -> Result<()> {
        let sandbox = Sandbox::new(&self.tag, "shop", &format!("pod{}", node + 1))?;
        self.pods
            .push(self.stations[node].attach(sandbox, Map::new())?);
        Ok(())
    }

    /// Waits until every pod reaches every other by both families.
    pub fn all_reach_all(&self) -> Result<()> {
        for from in 0..3 {
            for to in (0..3).filter(|to| *to != from) {
                for address in &self.pods[to].addresses {
                    self.reaches(self.pods[from].netns(), *address)?;
                }
            }
        }
        Ok(())
    }

    /// Waits until a server answers.
    pub fn reaches(&self, from: &Netns, to: IpAddr) -> Result<()> {
        eventually(PATIENCE, &format!("{} to reach {to}", from.name()), || {
            let verdict = attempt(from, server_at(to), Transport::Tcp, Duration::from_secs(1))?;
            ensure!(verdict == Verdict::Answered, "{verdict:?}");
            Ok(())
        })
    }

    /// Flows between the pods of two nodes: of each kind and family one.
    pub fn flows(&self, from: usize, to: usize, rate: u32) -> Vec<(&Netns, Flow)> {
        let (from, to) = (&self.pods[from], &self.pods[to]);
        let mut flows = Vec::new();
        for address in &to.addresses {
            for kind in [Kind::Udp, Kind::NewTcp, Kind::EstablishedTcp] {
                let flow = Flow {
                    name: format!("to {address}"),
                    kind,
                    is_allowed: true,
                    to: server_at(*address),
                    server: to.netns().name().to_owned(),
                    rate,
                };
                flows.push((from.netns(), flow));
            }
        }
        flows
    }

    /// Two pods and their addresses of a family (0 is IPv4): the ends of [`crate::datagrams::count_while`].
    pub fn ends(&self, one: usize, other: usize, family: usize) -> [(&Netns, IpAddr); 2] {
        [one, other].map(|pod| (self.pods[pod].netns(), self.pods[pod].addresses[family]))
    }

    /// What carries the nodes' packets to each other: no interface of a pod is in there.
    pub fn wires(&self) -> &Netns {
        self.rack.wires()
    }

    /// The MTU of a pod.
    pub fn pod_mtu(&self, pod: usize) -> Result<u32> {
        let links = self.pods[pod].netns().ip_json("link show dev eth0")?;
        let mtu = links.pointer("/0/mtu").and_then(serde_json::Value::as_u64);
        Ok(u32::try_from(mtu.context("no MTU")?)?)
    }

    /// Sends a datagram of the pod's MTU, which the kernel gives DF, and returns who sent it as the other pod sees it.
    pub fn sends_whole(&self, from: usize, to: IpAddr, receiver: usize) -> Result<IpAddr> {
        let headers = if to.is_ipv4() { 28 } else { 48 };
        let size = usize::try_from(self.pod_mtu(from)?)? - headers;
        let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let server = self.pods[receiver]
            .netns()
            .inside(|| -> Result<UdpSocket> {
                let socket = UdpSocket::bind(SocketAddr::new(to, 0))?;
                socket.set_read_timeout(Some(Duration::from_secs(5)))?;
                Ok(socket)
            })??;
        let at = server.local_addr()?;
        self.pods[from].netns().inside(|| -> Result<()> {
            let socket = UdpSocket::bind(any)?;
            socket.send_to(&vec![7; size], at)?;
            Ok(())
        })??;
        let mut buffer = vec![0; 65_536];
        let (length, sender) = server.recv_from(&mut buffer)?;
        ensure!(length == size, "{length} instead of {size}");
        Ok(sender.ip())
    }

    /// Has the router, which is no node, send datagrams that seem to come from the third node's pod to the first one's;
    /// `send` puts each into a tunnel to the first node. Returns how many of `count` came to the pod.
    pub fn forged_arrive(
        &self,
        count: usize,
        send: impl Fn(&[u8]) -> Result<()> + Send + Sync,
    ) -> Result<usize> {
        let v4 = |pod: &Pod| match pod.addresses.first() {
            Some(IpAddr::V4(address)) => Ok(*address),
            other => anyhow::bail!("no IPv4 address: {other:?}"),
        };
        let (victim, claimed) = (v4(&self.pods[0])?, v4(&self.pods[2])?);
        let socket = self.pods[0].netns().inside(|| -> Result<UdpSocket> {
            let socket = UdpSocket::bind((victim, 0))?;
            socket.set_read_timeout(Some(Duration::from_secs(2)))?;
            Ok(socket)
        })??;
        let port = socket.local_addr()?.port();
        self.router.inside(|| -> Result<()> {
            for number in 0..count {
                let payload = format!("forged {number}");
                send(&forge::datagram(claimed, victim, port, payload.as_bytes()))?;
            }
            Ok(())
        })??;
        let (mut arrived, mut buffer) = (0, [0; 64]);
        while arrived < count
            && let Ok(length) = socket.recv(&mut buffer)
        {
            ensure!(buffer[..length].starts_with(b"forged"), "another's packet");
            arrived += 1;
        }
        Ok(arrived)
    }

    /// Packets of strangers that the first node dropped.
    pub fn strangers_dropped(&self) -> Result<u64> {
        let text = self.stations[0]
            .netns
            .run(self.iptables(), &["-nvxL", "PTL-TUNNELS"])?;
        let line = text.lines().find(|line| line.contains(" DROP "));
        let line = line.with_context(|| format!("no such rule: {text}"))?;
        let count = line.split_whitespace().next().context("a count")?;
        Ok(count.parse()?)
    }

    /// Packets that a node cut into pieces.
    pub fn fragments(&self, node: usize) -> Result<u64> {
        let text = self.stations[node]
            .netns
            .run("cat", &["/proc/net/snmp", "/proc/net/snmp6"])?;
        let mut ip = text.lines().filter_map(|line| line.strip_prefix("Ip: "));
        let (names, values) = (ip.next().context("Ip:")?, ip.next().context("Ip:")?);
        let mut both = names.split_whitespace().zip(values.split_whitespace());
        let v4 = both
            .find(|(name, _)| *name == "FragCreates")
            .context("FragCreates")?;
        let v6 = text.lines().find(|line| line.starts_with("Ip6FragCreates"));
        let v6 = v6
            .and_then(|line| line.split_whitespace().nth(1))
            .context("Ip6FragCreates")?;
        Ok(v4.1.parse::<u64>()? + v6.parse::<u64>()?)
    }

    /// Runs `bridge` on the first node.
    pub fn bridge(&self, words: &str) -> String {
        let words: Vec<&str> = words.split_whitespace().collect();
        self.stations[0].netns.run("bridge", &words).unwrap()
    }

    /// Forwarding and permanent neighbour entries of a node's tunnel.
    pub fn entries(&self, node: usize) -> Result<String> {
        let (netns, device) = (&self.stations[node].netns, self.device);
        let mut text = netns.run("bridge", &["fdb", "show", "dev", self.device])?;
        text.push_str(&netns.ip(&format!("-4 neigh show dev {device} nud permanent"))?);
        text.push_str(&netns.ip(&format!("-6 neigh show dev {device} nud permanent"))?);
        let mut lines: Vec<&str> = text.lines().map(str::trim).collect();
        lines.sort_unstable();
        Ok(lines.join("\n"))
    }

    /// Routes by a node's tunnel.
    pub fn tunnelled(&self, node: usize) -> Result<Vec<String>> {
        let (netns, device) = (&self.stations[node].netns, self.device);
        let mut text = netns.ip(&format!("-4 route show dev {device} proto 179"))?;
        text.push_str(&netns.ip(&format!("-6 route show dev {device} proto 179"))?);
        Ok(text.lines().map(|line| line.trim().to_owned()).collect())
    }

    /// Whether a node has the device.
    pub fn has_tunnel(&self, node: usize) -> bool {
        let (netns, device) = (&self.stations[node].netns, self.device);
        netns.ip(&format!("link show dev {device}")).is_ok()
    }
}

/// What the rules counted; they stand before routing, which drops what it knows no way for.
fn counted(netns: &Netns, program: &str) -> Result<u64> {
    let text = netns.run(program, &["-t", "raw", "-nvxL", "PREROUTING"])?;
    let (mut rules, mut sum) = (0, 0);
    for line in text.lines().filter(|line| line.contains(" DROP ")) {
        let count = line.split_whitespace().next().context("a count")?;
        sum += count.parse::<u64>()?;
        rules += 1;
    }
    ensure!(rules == 2, "{text}");
    Ok(sum)
}
