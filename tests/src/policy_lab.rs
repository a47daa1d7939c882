//! A node's network stack with two pods and a host outside, and as many pods of paper as wanted: what policy costs there.
//!
//! No agent runs: the rules are those that `policy` compiles, written by iptables' own programs.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Seek as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::Stdio;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use api::labels::Requirement;
use api::resources::{
    IpBlock, Namespace, NetworkPolicy, Peer, Pod, PolicyRule, Port, PortMatch, Protocol,
};
use api::{Change, Key, LabelSelector, Labels, NamespacedName, Resource};
use netfilter::{Actual, ActualSets, Effort, Family, IpSet, SetName, plan, plan_sets};
use policy::{Compiled, Endpoint, Index};

use crate::netns::{self, Netns};

/// The ports that the pods' policies allow, of TCP and UDP.
pub const PORTS: [u16; 2] = [5_000, 6_000];

/// The namespaces over which the pods are spread.
const NAMESPACES: usize = 20;
/// So many policies isolate each pod, in both directions.
const POLICIES: usize = 3;
const HOST_END: &str = "02:00:00:00:00:01";

/// Which programs write the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackEnd {
    /// `iptables-nft`.
    Nft,
    /// `iptables-legacy`.
    Legacy,
}

impl BackEnd {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Nft, Self::Legacy];

    /// As the programs are named.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Nft => "nft",
            Self::Legacy => "legacy",
        }
    }

    /// `ip6tables-nft-save` and so on.
    #[must_use]
    pub fn program(self, family: Family, verb: &str) -> String {
        let tables = match family {
            Family::V4 => "iptables",
            Family::V6 => "ip6tables",
        };
        format!("{tables}-{}-{verb}", self.name())
    }
}

/// The host end's name of a local pod, by number.
#[must_use]
pub fn interface_of(pod: usize) -> String {
    format!("ptl{}", netfilter::short_hash(&[pod.to_string()], 11))
}

/// A local pod's address, by number.
#[must_use]
pub fn address_of(pod: usize, family: Family) -> IpAddr {
    let number = u16::try_from(pod + 1).unwrap_or(u16::MAX);
    match family {
        Family::V4 => {
            let [high, low] = number.to_be_bytes();
            Ipv4Addr::new(10, 244, high, low).into()
        }
        Family::V6 => Ipv6Addr::new(0xfd00, 0x244, 0, 0, 0, 0, 0, number).into(),
    }
}

/// The address of the host outside.
#[must_use]
pub fn outside(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(192, 0, 2, 10).into(),
        Family::V6 => Ipv6Addr::new(0xfd00, 0x192, 0, 0, 0, 0, 0, 0x10).into(),
    }
}

/// A cluster whose pods are all on this node and isolated in both directions; each may talk to the others and to the
/// host outside on [`PORTS`], by the last of its rules. `pods` are the numbers of those that are here.
#[must_use]
pub fn isolated(pods: impl IntoIterator<Item = usize>) -> Index {
    let mut index = Index::new();
    for number in 0..NAMESPACES {
        let name = format!("ns{number:02}");
        let value = Resource::Namespace(Namespace {
            name: name.clone(),
            labels: labels("team", &name),
        });
        handle(&mut index, Key::Namespace(name.clone()), value);
        for policy in (0..POLICIES).map(|policy| policy_of(&name, policy)) {
            let key = Key::NetworkPolicy(policy.name.clone());
            handle(&mut index, key, Resource::NetworkPolicy(policy));
        }
    }
    let mut endpoints = BTreeMap::new();
    for number in pods {
        let pod = pod(number);
        let endpoint = Endpoint {
            pod: pod.name.clone(),
            uid: String::new(),
            addresses: pod.pod_ips.clone(),
        };
        endpoints.insert(interface_of(number), endpoint);
        handle(&mut index, Key::Pod(pod.name.clone()), Resource::Pod(pod));
    }
    index.set_endpoints(endpoints);
    index
}

fn handle(index: &mut Index, key: Key, value: Resource) {
    let value = Some(value);
    index.handle(&Change { key, value });
}

fn labels(key: &str, value: &str) -> Labels {
    std::iter::once((key.to_owned(), value.to_owned())).collect()
}

fn pod(number: usize) -> Pod {
    let namespace = format!("ns{:02}", number % NAMESPACES);
    Pod {
        name: NamespacedName::new(namespace, format!("pod{number}")),
        uid: String::new(),
        labels: labels("app", "web"),
        node_name: None,
        host_network: false,
        finished: false,
        pod_ips: vec![
            address_of(number, Family::V4),
            address_of(number, Family::V6),
        ],
        fixed_ips: Vec::new(),
        named_ports: Vec::new(),
    }
}

/// The first ones allow what nobody sends; only the last one's last rules allow [`PORTS`].
fn policy_of(namespace: &str, number: usize) -> NetworkPolicy {
    let web = LabelSelector {
        requirements: BTreeSet::from([Requirement::In(
            "app".to_owned(),
            BTreeSet::from(["web".to_owned()]),
        )]),
    };
    let block = |text: &str| {
        let cidr = text.parse().expect("a constant network is valid");
        let except = Vec::new();
        Peer::IpBlock(IpBlock { cidr, except })
    };
    let [first, last] = PORTS;
    let ports = |protocol, number: u16| Port {
        protocol,
        port: PortMatch::Range(first + number * 2_000, last + number * 2_000),
    };
    let is_last = number + 1 == POLICIES;
    let shift = u16::try_from(POLICIES - 1 - number).unwrap_or(1);
    let rule = |peer| PolicyRule {
        peers: Some(vec![peer]),
        ports: Some(vec![
            ports(Protocol::Udp, shift),
            ports(Protocol::Tcp, shift),
        ]),
    };
    let mut rules = vec![rule(Peer::Pods {
        namespaces: is_last.then(LabelSelector::default),
        pods: web,
    })];
    if is_last {
        rules.push(rule(block("192.0.2.0/24")));
        rules.push(rule(block("fd00:192::/64")));
    }
    NetworkPolicy {
        name: NamespacedName::new(namespace, format!("policy{number}")),
        pod_selector: LabelSelector::default(),
        ingress: Some(rules.clone()),
        egress: Some(rules),
    }
}

/// Two pods with real links, a host outside and the node between them; every neighbour is known, so that nothing but what
/// is sent by the test passes the rules.
#[derive(Debug)]
pub struct Wires {
    /// The two pods.
    pub pods: [Netns; 2],
    /// The host outside.
    pub outside: Netns,
    /// The node.
    pub node: Netns,
}

impl Wires {
    /// Lays it out for two pods, by number.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn new(tag: &str, pods: [usize; 2]) -> Result<Self> {
        let node = Netns::new(tag, "node")?;
        for (name, value) in [
            ("net.ipv4.ip_forward", "1"),
            ("net.ipv6.conf.all.forwarding", "1"),
            ("net.ipv4.conf.all.rp_filter", "0"),
            ("net.ipv4.conf.default.rp_filter", "0"),
            ("net.ipv4.conf.all.send_redirects", "0"),
            ("net.ipv4.conf.default.send_redirects", "0"),
            ("net.ipv6.conf.default.addr_gen_mode", "1"),
        ] {
            node.sysctl(name, value)?;
        }
        let both = |pod| [address_of(pod, Family::V4), address_of(pod, Family::V6)];
        let beside = [outside(Family::V4), outside(Family::V6)];
        let [first, second] = pods;
        let pods = [
            link(tag, &node, &interface_of(first), both(first), 2)?,
            link(tag, &node, &interface_of(second), both(second), 3)?,
        ];
        Ok(Self {
            pods,
            outside: link(tag, &node, "out0", beside, 4)?,
            node,
        })
    }

    /// Writes what is compiled into the node's kernel, where nothing of it is yet.
    ///
    /// # Errors
    /// When a program refuses.
    pub fn install(&self, back_end: BackEnd, compiled: &Compiled) -> Result<()> {
        let mut wanted: BTreeMap<SetName, Arc<IpSet>> = compiled.v4.sets.clone();
        wanted.extend(compiled.v6.sets.clone());
        let sets = plan_sets(&ActualSets::default(), &wanted);
        let text = sets.before.unwrap_or_default();
        self.feed("ipset", &["restore"], &text)?;
        for (family, rules) in [(Family::V4, &compiled.v4), (Family::V6, &compiled.v6)] {
            let made = plan(&Actual::default(), &rules.rules, Effort::Exact);
            let text = made.restore.unwrap_or_default();
            self.restore(back_end, family, &["--noflush"], &text)?;
        }
        Ok(())
    }

    /// Runs `iptables-restore` in the node.
    ///
    /// # Errors
    /// When it refuses.
    pub fn restore(
        &self,
        back_end: BackEnd,
        family: Family,
        arguments: &[&str],
        text: &str,
    ) -> Result<()> {
        self.feed(&back_end.program(family, "restore"), arguments, text)
    }

    /// Runs `iptables-save` in the node.
    ///
    /// # Errors
    /// When it fails.
    pub fn save(&self, back_end: BackEnd, family: Family, arguments: &[&str]) -> Result<String> {
        self.node.run(&back_end.program(family, "save"), arguments)
    }

    fn feed(&self, program: &str, arguments: &[&str], text: &str) -> Result<()> {
        let mut file = tempfile::tempfile()?;
        file.write_all(text.as_bytes())?;
        file.rewind()?;
        let output = self
            .node
            .command(program)
            .args(arguments)
            // The lock of the old tables is the host's; nobody else writes to this namespace.
            .env("XTABLES_LOCKFILE", "/dev/null")
            .stdin(file)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .output()
            .with_context(|| program.to_owned())?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{program} {arguments:?}: {said}");
        Ok(())
    }
}

/// A namespace whose `eth0` leads to the node's `interface`.
fn link(
    tag: &str,
    node: &Netns,
    interface: &str,
    addresses: [IpAddr; 2],
    number: u8,
) -> Result<Netns> {
    let space = Netns::new(tag, interface)?;
    space.sysctl("net.ipv6.conf.default.addr_gen_mode", "1")?;
    let far = format!("02:00:00:00:00:{number:02x}");
    let words = format!(
        "link add {interface} address {HOST_END} netns {} type veth peer name eth0 address {far} netns {}",
        node.name(),
        space.name()
    );
    netns::run("ip", &words.split(' ').collect::<Vec<_>>())?;
    node.ip(&format!("link set {interface} up"))?;
    space.ip("link set eth0 up")?;
    let [gateway, gateway6] = ["169.254.1.1", "fe80::1"];
    for (address, gateway, option) in [
        (addresses[0], gateway, "-4"),
        (addresses[1], gateway6, "-6"),
    ] {
        let nodad = if address.is_ipv6() { " nodad" } else { "" };
        space.ip(&format!("addr add {address} dev eth0{nodad}"))?;
        space.ip(&format!(
            "neigh replace {gateway} lladdr {HOST_END} dev eth0 nud permanent"
        ))?;
        space.ip(&format!(
            "{option} route replace default via {gateway} dev eth0 onlink"
        ))?;
        node.ip(&format!("{option} route replace {address} dev {interface}"))?;
        node.ip(&format!(
            "neigh replace {address} lladdr {far} dev {interface} nud permanent"
        ))?;
    }
    Ok(space)
}
