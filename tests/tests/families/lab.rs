//! Two nodes, a ToR of real FRR and a host outside, which have IPv4 alone, IPv6 alone, or both.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Map, Value};
use tests::cni::Sandbox;
use tests::frr::Frr;
use tests::netns::{Netns, join};
use tests::rack::Rack;
use tests::reach::Server;
use tests::station::{Pod, Station};
use tests::wait::eventually;

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A family of addresses, and what the lab has of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    pub(crate) fn of(address: IpAddr) -> Self {
        if address.is_ipv4() {
            Self::V4
        } else {
            Self::V6
        }
    }

    /// `-4` or `-6`, as `ip` takes it.
    pub(crate) fn flag(self) -> &'static str {
        match self {
            Self::V4 => "-4",
            Self::V6 => "-6",
        }
    }

    pub(crate) fn outside(self) -> IpAddr {
        self.text("192.0.2.10", "2001:db8:2::10").parse().unwrap()
    }

    pub(crate) fn beyond(self) -> &'static str {
        self.text("192.0.2.0/24", "2001:db8:2::/64")
    }

    pub(crate) fn pod_cidr(self, node: usize) -> String {
        match self {
            Self::V4 => format!("10.244.{node}.0/24"),
            Self::V6 => format!("fd00:244:{node}::/64"),
        }
    }

    pub(crate) fn node(self, node: usize) -> String {
        match self {
            Self::V4 => format!("10.10.{node}.2"),
            Self::V6 => format!("fd10:{node}::2"),
        }
    }

    pub(crate) fn tor(self, node: usize) -> String {
        match self {
            Self::V4 => format!("10.10.{node}.1"),
            Self::V6 => format!("fd10:{node}::1"),
        }
    }

    fn text(self, v4: &'static str, v6: &'static str) -> &'static str {
        match self {
            Self::V4 => v4,
            Self::V6 => v6,
        }
    }

    fn length(self) -> u8 {
        match self {
            Self::V4 => 24,
            Self::V6 => 64,
        }
    }
}

/// All of it. Dropping it ends every process and removes every namespace.
#[derive(Debug)]
pub(crate) struct Lab {
    // In the order of their ends: servers and agents before the ToR, namespaces last.
    pub(crate) pods: Vec<Pod>,
    _server: Server,
    pub(crate) nodes: Vec<Station>,
    pub(crate) frr: Frr,
    pub(crate) outside: Netns,
    _tor: Netns,
    pub(crate) rack: Rack,
    tag: String,
}

impl Lab {
    /// Agents in sync; no pod yet.
    pub(crate) fn start(tag: &str, families: &[Family]) -> Result<Self> {
        let rack = Rack::new(tag)?;
        let (tor, outside) = (rack.machine("tor")?, rack.empty("outside")?);
        only(families, &[&tor, &outside])?;
        join((&tor, "outside"), (&outside, "eth0"))?;
        for family in families {
            let to = family.outside();
            let gateway = family.text("192.0.2.1", "2001:db8:2::1");
            add(&outside, "eth0", (*family, &to.to_string()))?;
            add(&tor, "outside", (*family, gateway))?;
            outside.ip(&format!("route add default via {gateway}"))?;
        }
        rack.manifest(
            "all.yaml",
            "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n---\napiVersion: portolan.io/v1alpha1\nkind: BGPConfiguration\nmetadata: {name: default}\nspec: {nodeToNodeMeshEnabled: false}\n",
        )?;
        let mut machines = Vec::new();
        for number in 1..=2 {
            let netns = rack.machine(&format!("n{number}"))?;
            only(families, &[&netns])?;
            let link = format!("n{number}");
            join((&tor, &link), (&netns, "uplink"))?;
            for family in families {
                add(&tor, &link, (*family, &family.tor(number)))?;
                add(&netns, "uplink", (*family, &family.node(number)))?;
            }
            rack.manifest(&format!("n{number}.yaml"), &manifests(number, families))?;
            machines.push(netns);
        }
        let frr = Frr::start(&tor, &tor_config(families))?;
        let mut nodes = Vec::new();
        for (number, netns) in (1..).zip(machines) {
            let mut node = Station::new(&format!("n{number}"), netns, &rack)?;
            node.start()?;
            nodes.push(node);
        }
        let mut lab = Self {
            pods: Vec::new(),
            _server: Server::start(&outside)?,
            nodes,
            frr,
            outside,
            _tor: tor,
            rack,
            tag: tag.to_owned(),
        };
        lab.wait_synced()?;
        Ok(lab)
    }

    pub(crate) fn wait_synced(&mut self) -> Result<()> {
        self.nodes
            .iter_mut()
            .try_for_each(|node| node.agent.wait_synced())
    }

    /// Attaches a pod to a node and starts its server.
    pub(crate) fn attach(
        &mut self,
        node: usize,
        name: &str,
        fields: Map<String, Value>,
    ) -> Result<()> {
        let sandbox = Sandbox::new(&self.tag, "shop", name)?;
        self.pods.push(self.nodes[node].attach(sandbox, fields)?);
        Ok(())
    }

    /// Each node has the routes of a family to the other and the outside, the ToR those to both.
    pub(crate) fn wait_for_routes(&self, family: Family) -> Result<()> {
        eventually(PATIENCE, &format!("routes of {family:?}"), || {
            for (index, node) in self.nodes.iter().enumerate() {
                let routes = node
                    .netns
                    .ip(&format!("{} route show proto 179", family.flag()))?;
                for prefix in [family.pod_cidr(2 - index), family.beyond().to_owned()] {
                    let via = format!("{prefix} via {} ", family.tor(index + 1));
                    let by_group = format!("{prefix} nhid");
                    ensure!(
                        routes.contains(&via) || routes.contains(&by_group),
                        "{prefix} is missing on n{}: {routes}",
                        index + 1
                    );
                }
            }
            let words = format!("{} route show proto bgp", family.flag());
            let held = self._tor.ip(&words)?;
            for number in 1..=2 {
                let prefix = family.pod_cidr(number);
                ensure!(held.contains(&prefix), "the ToR lacks {prefix}: {held}");
            }
            Ok(())
        })
        .with_context(|| format!("{}\n{}", self.frr.log_end(), self.nodes[0].agent.log_end()))
    }
}

/// Machines of one family have nothing of the other: no IPv6 at all, or no IPv4 address.
fn only(families: &[Family], machines: &[&Netns]) -> Result<()> {
    if families.contains(&Family::V6) {
        return Ok(());
    }
    for netns in machines {
        for scope in ["all", "default"] {
            netns.sysctl(&format!("net.ipv6.conf.{scope}.disable_ipv6"), "1")?;
        }
    }
    Ok(())
}

/// A pod's address of a family.
pub(crate) fn address_of(pod: &Pod, family: Family) -> IpAddr {
    let mut all = pod.addresses.iter();
    *all.find(|address| Family::of(**address) == family).unwrap()
}

fn add(netns: &Netns, link: &str, (family, address): (Family, &str)) -> Result<()> {
    let more = family.text("", " nodad");
    let length = family.length();
    netns
        .ip(&format!("addr add {address}/{length} dev {link}{more}"))
        .map(drop)
}

/// The Node, and its session of each family. Without IPv4 nothing says what the router ID is, so it is said.
fn manifests(number: usize, families: &[Family]) -> String {
    let quoted = |words: Vec<String>| {
        let words = words.into_iter().map(|word| format!("\"{word}\""));
        words.collect::<Vec<_>>().join(", ")
    };
    let cidrs = families.iter().map(|family| family.pod_cidr(number));
    let mut text = format!(
        "apiVersion: v1
kind: Node
metadata:
  name: n{number}
  labels: {{kubernetes.io/hostname: n{number}}}
  annotations: {{portolan.io/as-number: \"6451{number}\", portolan.io/router-id: 10.10.{number}.2}}
spec: {{podCIDRs: [{}]}}
status:
  addresses:
",
        quoted(cidrs.collect())
    );
    for family in families {
        let address = family.node(number);
        text.push_str(&format!(
            "    - {{type: InternalIP, address: \"{address}\"}}\n"
        ));
    }
    for family in families {
        text.push_str(&format!(
            "---
apiVersion: portolan.io/v1alpha1
kind: BGPPeer
metadata: {{name: n{number}-{}}}
spec: {{nodeSelector: \"kubernetes.io/hostname == 'n{number}'\", peerAddress: \"{}\", asNumber: 65000}}
",
            family.text("v4", "v6"),
            family.tor(number)
        ));
    }
    text
}

fn tor_config(families: &[Family]) -> String {
    let mut text = "router bgp 65000\n bgp router-id 10.10.0.1\n no bgp ebgp-requires-policy\n no bgp default ipv4-unicast\n".to_owned();
    for family in families {
        for number in 1..=2 {
            let peer = family.node(number);
            text.push_str(&format!(
                " neighbor {peer} remote-as 6451{number}\n neighbor {peer} timers connect 1\n"
            ));
        }
    }
    for family in families {
        text.push_str(&format!(
            " address-family {} unicast\n  redistribute connected\n  network {}\n",
            family.text("ipv4", "ipv6"),
            family.beyond()
        ));
        for number in 1..=2 {
            text.push_str(&format!("  neighbor {} activate\n", family.node(number)));
        }
        text.push_str(" exit-address-family\n");
    }
    text
}
