//! Two nodes behind a ToR that knows their pods by BGP and is the gateway to a world that knows neither pods nor nodes.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Map, Value, json};
use tests::agent::{Agent, binaries};
use tests::cni::{Plugin, Sandbox, addresses};
use tests::flow::{Flow, Kind};
use tests::frr::Frr;
use tests::netns::Netns;
use tests::rack::Rack;
use tests::reach::{Server, Transport, server_at};
use tests::seen::{Teller, ask};
use tests::wait::eventually;

pub(crate) const PATIENCE: Duration = Duration::from_secs(40);
/// For an answer that is to come.
const ANSWER: Duration = Duration::from_secs(5);
/// Where everyone tells whom he sees.
pub(crate) const TELLS: u16 = 7070;
/// The first node's port that leads to the pod `web`.
pub(crate) const HOST_PORT: u16 = 9090;

/// A family, with the addresses of the lab in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Family {
    pub(crate) name: &'static str,
    pub(crate) iptables: &'static str,
    nodes: [&'static str; 2],
    tor: &'static str,
    /// Beyond the ToR, by the way that knows nodes and pods.
    pub(crate) near: &'static str,
    pub(crate) partner: &'static str,
    gateway: &'static str,
    exceptions: &'static str,
    /// Beyond the second NAT.
    pub(crate) world: &'static str,
    pub(crate) wan: &'static str,
    length: u8,
    pods: (&'static str, u8),
    plain: (&'static str, &'static str),
    all_pods: &'static str,
}

pub(crate) const V4: Family = Family {
    name: "v4",
    iptables: "iptables",
    nodes: ["10.72.0.1", "10.72.0.2"],
    tor: "10.72.0.254",
    near: "198.51.100.200",
    partner: "198.51.100.9",
    gateway: "198.51.100.254",
    exceptions: "198.51.100.8/29",
    world: "203.0.113.9",
    wan: "203.0.113.1",
    length: 24,
    pods: ("10.48.0.0/16", 28),
    plain: ("10.49.0.0/16", "10.49.0.7"),
    all_pods: "10.48.0.0/15",
};

pub(crate) const V6: Family = Family {
    name: "v6",
    iptables: "ip6tables",
    nodes: ["fd72::1", "fd72::2"],
    tor: "fd72::fe",
    near: "2001:db8:51::200",
    partner: "2001:db8:51::9",
    gateway: "2001:db8:51::fe",
    exceptions: "2001:db8:51::8/125",
    world: "2001:db8:113::9",
    wan: "2001:db8:113::1",
    length: 64,
    pods: ("fd48::/112", 124),
    plain: ("fd49::/112", "fd49::7"),
    all_pods: "fd48::/15",
};

impl Family {
    pub(crate) fn node(&self, number: usize) -> IpAddr {
        at(self.nodes[number])
    }

    fn holds(&self, address: &IpAddr) -> bool {
        address.is_ipv4() == (self.length == V4.length)
    }
}

pub(crate) fn at(address: &str) -> IpAddr {
    address.parse().unwrap()
}

#[derive(Debug)]
pub(crate) struct Pod {
    _servers: (Server, Teller),
    sandbox: Sandbox,
    addresses: Vec<IpAddr>,
}

impl Pod {
    pub(crate) fn netns(&self) -> &Netns {
        &self.sandbox.netns
    }

    pub(crate) fn address(&self, family: Family) -> IpAddr {
        let mut addresses = self.addresses.iter();
        *addresses.find(|address| family.holds(address)).unwrap()
    }
}

#[derive(Debug)]
pub(crate) struct Station {
    pub(crate) agent: Agent,
    pub(crate) netns: Netns,
    _teller: Teller,
}

/// A host that tells and echoes.
#[derive(Debug)]
pub(crate) struct Outsider {
    _servers: (Server, Teller),
    pub(crate) netns: Netns,
}

#[derive(Debug)]
pub(crate) struct Lab {
    // In the order of their ends: pods before nodes, namespaces last.
    pub(crate) pods: Vec<Pod>,
    pub(crate) stations: Vec<Station>,
    frr: Option<Frr>,
    pub(crate) near: Outsider,
    _partner: Outsider,
    _world: Outsider,
    tor: Netns,
    rack: Rack,
    pub(crate) families: Vec<Family>,
    encapsulation: &'static str,
    tag: String,
}

impl Lab {
    /// All in place, agents in sync; no pod yet.
    pub(crate) fn start(tag: &str, families: &[Family], flags: &[&str]) -> Result<Self> {
        Self::start_with(tag, families, ("bgp,policy,cni", "None"), flags)
    }

    pub(crate) fn start_with(
        tag: &str,
        families: &[Family],
        (features, encapsulation): (&str, &'static str),
        flags: &[&str],
    ) -> Result<Self> {
        let rack = Rack::new(tag)?;
        let tor = rack.machine("tor")?;
        for (link, segment) in [("eth0", "rack"), ("near", "near"), ("wan", "wan")] {
            rack.plug((&tor, link), (segment, &format!("t-{link}")), None)?;
        }
        for family in families {
            add(&tor, "eth0", family.tor, family)?;
            add(&tor, "near", family.gateway, family)?;
            add(&tor, "wan", family.wan, family)?;
            second_nat(&tor, family)?;
        }
        let outsider = |name: &str, segment: &str, of: fn(&Family) -> &'static str, knows| {
            outsider(&rack, (name, segment), families, of, knows)
        };
        let mut lab = Self {
            pods: Vec::new(),
            stations: Vec::new(),
            frr: None,
            near: outsider("near", "near", |family| family.near, true)?,
            _partner: outsider("partner", "near", |family| family.partner, true)?,
            _world: outsider("world", "wan", |family| family.world, false)?,
            tor,
            families: families.to_vec(),
            encapsulation,
            rack,
            tag: tag.to_owned(),
        };
        lab.write_manifests()?;
        for number in 0..2 {
            lab.add_node(number, features, flags)?;
        }
        lab.frr = Some(Frr::start(&lab.tor, &bgpd(families))?);
        lab.start_agents()?;
        Ok(lab)
    }

    fn write_manifests(&self) -> Result<()> {
        let bgp = self.families.iter().take(1).map(|family| {
            format!(
                "apiVersion: portolan.io/v1alpha1\nkind: BGPPeer\nmetadata: {{name: tor}}\nspec: {{peerAddress: \"{}\", asNumber: 65001}}\n",
                family.tor
            )
        });
        let namespace = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n".to_owned();
        let texts: Vec<String> = [namespace].into_iter().chain(bgp).collect();
        self.rack.manifest("all.yaml", &texts.join("---\n"))?;
        self.pools(true)
    }

    /// Writes the pools: the first with or without `natOutgoing`; the second without, for pods that ask for its addresses.
    pub(crate) fn pools(&self, nat: bool) -> Result<()> {
        let of = |family: &Family| {
            let (cidr, size) = family.pods;
            format!(
                "apiVersion: portolan.io/v1alpha1\nkind: IPPool\nmetadata: {{name: pods-{name}}}\nspec: {{cidr: \"{cidr}\", blockSize: {size}, natOutgoing: {nat}, encapsulation: {}, nonMasqueradeCIDRs: [\"{}\"]}}\n---\napiVersion: portolan.io/v1alpha1\nkind: IPPool\nmetadata: {{name: zz-plain-{name}}}\nspec: {{cidr: \"{}\", disabled: true, nodeSelector: \"!all()\"}}\n",
                self.encapsulation,
                family.exceptions,
                family.plain.0,
                name = family.name,
            )
        };
        let texts: Vec<String> = self.families.iter().map(of).collect();
        self.rack.manifest("pools.yaml", &texts.join("---\n"))
    }

    fn add_node(&mut self, number: usize, features: &str, flags: &[&str]) -> Result<()> {
        let name = format!("node{}", number + 1);
        let netns = self.rack.machine(&name)?;
        self.rack
            .plug((&netns, "eth0"), ("rack", &format!("p{number}")), None)?;
        let mut listed = String::new();
        for family in &self.families {
            let address = family.nodes[number];
            add(&netns, "eth0", address, family)?;
            netns.ip(&format!("route add default via {}", family.tor))?;
            listed.push_str(&format!(
                "    - {{type: InternalIP, address: \"{address}\"}}\n"
            ));
        }
        self.rack.manifest(
            &format!("{name}.yaml"),
            &format!(
                "apiVersion: v1\nkind: Node\nmetadata:\n  name: {name}\n  annotations: {{portolan.io/router-id: 10.0.0.{}}}\nstatus:\n  addresses:\n{listed}",
                number + 1
            ),
        )?;
        let folder = self.rack.manifests();
        let dir = folder.parent().context("the rack's folder")?;
        let program = binaries()?.join("portolan");
        let agent = Agent::new(&name, &program, &netns, dir, &folder)?;
        let mut agent = agent.with_features(features);
        agent.set_arguments(flags);
        let station = Station {
            agent,
            _teller: Teller::start(&netns, TELLS)?,
            netns,
        };
        self.stations.push(station);
        Ok(())
    }

    fn start_agents(&mut self) -> Result<()> {
        for station in &mut self.stations {
            station.agent.start(&station.netns)?;
        }
        self.wait_synced()
    }

    /// Takes the folder of manifests away, as an API server is lost.
    pub(crate) fn source_goes(&self) -> Result<()> {
        let folder = self.rack.manifests();
        Ok(std::fs::rename(&folder, folder.with_extension("away"))?)
    }

    /// Puts it back.
    pub(crate) fn source_comes(&self) -> Result<()> {
        let folder = self.rack.manifests();
        Ok(std::fs::rename(folder.with_extension("away"), folder)?)
    }

    pub(crate) fn wait_synced(&mut self) -> Result<()> {
        let mut stations = self.stations.iter_mut();
        stations.try_for_each(|station| station.agent.wait_synced())
    }

    /// The pods: `web` with a host port and `other` on the first node, `far` on the second, and `plain`, whose addresses
    /// are of the pool without `natOutgoing`, on the first. Returns when the ToR knows the way to each.
    pub(crate) fn attach_all(&mut self) -> Result<()> {
        let port = |protocol: &str| json!({"protocol": protocol, "hostPort": HOST_PORT, "containerPort": TELLS});
        let ports = json!({"portMappings": [port("tcp"), port("udp")]});
        let plain: Vec<&str> = self.families.iter().map(|family| family.plain.1).collect();
        let asks = json!({ "ips": plain });
        for (name, node, runtime) in [
            ("web", 0, ports),
            ("other", 0, json!({})),
            ("far", 1, json!({})),
            ("plain", 0, asks),
        ] {
            let fields = Map::from_iter([("runtimeConfig".to_owned(), runtime)]);
            self.attach(name, node, fields)?;
        }
        eventually(PATIENCE, "the ToR to know every pod", || {
            for pod in &self.pods {
                for family in &self.families {
                    let address = pod.address(*family);
                    let seen = self.seen(&self.near.netns, address, TELLS, Transport::Udp)?;
                    ensure!(seen == Some(at(family.near)), "{address}: {seen:?}");
                }
            }
            Ok(())
        })
        .with_context(|| self.stations[0].agent.log_end())
    }

    fn attach(&mut self, name: &str, node: usize, fields: Map<String, Value>) -> Result<()> {
        let station = &self.stations[node];
        let plugin = Plugin {
            program: binaries()?.join("portolan-cni"),
            socket: station.agent.cni_socket(),
            version: "1.0.0".to_owned(),
        };
        let sandbox = Sandbox::new(&self.tag, "shop", name)?;
        let answer = plugin
            .call_with("ADD", &station.netns, &sandbox, fields)?
            .success();
        let addresses = addresses(&answer.with_context(|| station.agent.log_end())?);
        ensure!(addresses.len() == self.families.len(), "{addresses:?}");
        self.pods.push(Pod {
            _servers: (
                Server::start(&sandbox.netns)?,
                Teller::start(&sandbox.netns, TELLS)?,
            ),
            sandbox,
            addresses,
        });
        Ok(())
    }

    pub(crate) fn pod(&self, name: &str) -> &Pod {
        let mut pods = self.pods.iter();
        pods.find(|pod| pod.sandbox.name == name).unwrap()
    }

    /// Whom the host at an address sees.
    pub(crate) fn seen(
        &self,
        from: &Netns,
        to: IpAddr,
        port: u16,
        transport: Transport,
    ) -> Result<Option<IpAddr>> {
        ask(from, SocketAddr::new(to, port), transport, ANSWER)
    }

    /// Whom pods of the other node, or its own, see of the first node: through a tunnel its own end, the first address of its
    /// block. Its own pods see that as well in IPv6, where the kernel takes what is nearest to the destination (RFC 6724).
    pub(crate) fn seen_of_node(&self, family: Family, by: &str) -> IpAddr {
        if self.encapsulation == "None" || (by == "own" && family == V4) {
            return family.node(0);
        }
        let net = ipnet::IpNet::new(self.pod("web").address(family), family.pods.1);
        net.unwrap().network()
    }

    /// Packets with pods' addresses that the ToR has forwarded to the world, before it changed them.
    pub(crate) fn pods_on_wan(&self, family: Family) -> Result<u64> {
        let words = ["-t", "mangle", "-nvxL", "FORWARD"];
        let text = self.tor.run(family.iptables, &words)?;
        let rule = text.lines().find(|line| line.contains("wan"));
        let count = rule.and_then(|line| line.split_whitespace().next());
        Ok(count.with_context(|| text.clone())?.parse()?)
    }

    /// Flows from a pod of the first node to the host outside that sees the node: of each kind and family one.
    pub(crate) fn flows(&self, rate: u32) -> Vec<(&Netns, Flow)> {
        let from = self.pod("other").netns();
        let of = |family: &Family, kind: Kind| Flow {
            name: format!("a pod to {}", family.near),
            kind,
            is_allowed: true,
            to: server_at(at(family.near)),
            server: self.near.netns.name().to_owned(),
            rate,
        };
        let kinds = [Kind::NewTcp, Kind::EstablishedTcp, Kind::Udp];
        let families = self.families.iter();
        families
            .flat_map(|family| kinds.map(|kind| (from, of(family, kind))))
            .collect()
    }

    /// What conntrack dropped on the way outside, and why, if a probe was lost: two flows that took one port at once are an
    /// `insert_failed`.
    pub(crate) fn conntrack_counts(&self) -> String {
        let mut text = String::new();
        for netns in [&self.stations[0].netns, &self.tor] {
            let counts = netns.run("conntrack", &["-S"]);
            text.push_str(&format!("{}:\n{counts:?}\n", netns.name()));
        }
        text
    }

    /// Chains, rules and sets of egress on a node.
    pub(crate) fn ours(&self, node: usize, backend: &str) -> Vec<String> {
        ours(&self.stations[node].netns, backend)
    }
}

/// Chains, rules and sets of egress.
pub(crate) fn ours(netns: &Netns, backend: &str) -> Vec<String> {
    let mut text = String::new();
    for program in ["iptables", "ip6tables"] {
        let save = format!("{program}-{backend}-save");
        // It fails where a set that it read of goes meanwhile: then once more.
        let read = || netns.run(&save, &["-t", "nat"]);
        text.push_str(&eventually(PATIENCE, &save, read).unwrap());
    }
    text.push_str(&netns.run("ipset", &["list", "-n"]).unwrap());
    let is_ours = |line: &&str| {
        let names = ["PTL-EGRESS", "-egress", "-inside", "-egr-"];
        names.iter().any(|name| line.contains(name))
    };
    text.lines().filter(is_ours).map(str::to_owned).collect()
}

fn add(netns: &Netns, link: &str, address: &str, family: &Family) -> Result<()> {
    let nodad = if *family == V6 { "nodad" } else { "" };
    let length = family.length;
    netns
        .ip(&format!("addr add {address}/{length} dev {link} {nodad}"))
        .map(drop)
}

/// The ToR is the gateway to the world; before, it counts what comes with a pod's address.
fn second_nat(tor: &Netns, family: &Family) -> Result<()> {
    let count = [
        "-t",
        "mangle",
        "-A",
        "FORWARD",
        "-o",
        "wan",
        "-s",
        family.all_pods,
    ];
    tor.run(family.iptables, &count)?;
    let nat = [
        "-t",
        "nat",
        "-A",
        "POSTROUTING",
        "-o",
        "wan",
        "-j",
        "MASQUERADE",
    ];
    tor.run(family.iptables, &nat).map(drop)
}

fn outsider(
    rack: &Rack,
    (name, segment): (&str, &str),
    families: &[Family],
    of: fn(&Family) -> &'static str,
    knows_the_way: bool,
) -> Result<Outsider> {
    let netns = rack.empty(name)?;
    rack.plug((&netns, "eth0"), (segment, &format!("o-{name}")), None)?;
    for family in families {
        add(&netns, "eth0", of(family), family)?;
        if knows_the_way {
            netns.ip(&format!("route add default via {}", family.gateway))?;
        }
    }
    Ok(Outsider {
        _servers: (Server::start(&netns)?, Teller::start(&netns, TELLS)?),
        netns,
    })
}

/// Both nodes are neighbours by the first family, and tell both.
fn bgpd(families: &[Family]) -> String {
    let neighbors = families.iter().take(1).flat_map(|family| family.nodes);
    let neighbors: Vec<&str> = neighbors.collect();
    let each = |words: &str| -> String {
        let lines = neighbors.iter().map(|node| words.replace("NODE", node));
        lines.collect()
    };
    format!(
        "router bgp 65001\n bgp router-id 10.72.0.254\n no bgp ebgp-requires-policy\n no bgp default ipv4-unicast\n timers bgp 1 3\n{} address-family ipv4 unicast\n{} exit-address-family\n address-family ipv6 unicast\n{} exit-address-family\n",
        each(" neighbor NODE remote-as 64512\n neighbor NODE timers connect 1\n"),
        each("  neighbor NODE activate\n"),
        each("  neighbor NODE activate\n"),
    )
}
