//! Two nodes, each with a link to each of two ToRs of real FRR, a spine behind both, and a host outside behind the spine.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Map, Value};
use tests::cni::Sandbox;
use tests::fabric::pools;
use tests::flow::{Flow, Kind};
use tests::frr::Frr;
use tests::netns::{Netns, join};
use tests::rack::Rack;
use tests::reach::{Server, server_at};
use tests::station::{Pod, Station};
use tests::wait::eventually;

use crate::underlay;

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// The host outside.
pub(crate) const OUTSIDE: [&str; 2] = ["192.0.2.10", "2001:db8:2::10"];
/// What of it BGP carries.
const BEYOND: [&str; 2] = ["192.0.2.0/24", "2001:db8:2::/64"];

/// How often BFD sends, in milliseconds; three that are missing are a loss.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bfd(pub(crate) u32);

impl Bfd {
    /// For a lab that measures how fast a loss is found.
    pub(crate) const FAST: Self = Self(100);
    /// For one that does not: a busy machine must not look like a dead one.
    pub(crate) const PATIENT: Self = Self(1000);

    pub(crate) fn frr(self) -> String {
        let Self(every) = self;
        format!(
            "bfd\n profile lab\n  receive-interval {every}\n  transmit-interval {every}\n  detect-multiplier 3\n !\n!\n"
        )
    }
}

/// By what pods of two nodes reach each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// The nodes tell the ToRs of their Pod CIDRs.
    Bgp,
    /// The fabric knows nodes only.
    Vxlan,
}

const CONFIGURATION: &str = "
apiVersion: portolan.io/v1alpha1
kind: BGPConfiguration
metadata: {name: default}
spec: {nodeToNodeMeshEnabled: false, multipath: true, multipathRelax: true}
---
apiVersion: v1
kind: Namespace
metadata: {name: shop}
";

/// A router of FRR.
#[derive(Debug)]
pub(crate) struct Router {
    pub(crate) frr: Frr,
    pub(crate) netns: Netns,
}

/// All of it. Dropping it ends every process and removes every namespace.
#[derive(Debug)]
pub(crate) struct Lab {
    // In the order of their ends: servers and agents before routers, namespaces last.
    pub(crate) pods: Vec<Pod>,
    _server: Server,
    pub(crate) nodes: Vec<Station>,
    /// Of each node, where pods go by VXLAN; else nothing.
    pub(crate) underlay: Vec<Frr>,
    pub(crate) tors: Vec<Router>,
    pub(crate) spine: Router,
    pub(crate) outside: Netns,
    pub(crate) rack: Rack,
    tag: String,
}

impl Lab {
    /// Everything started, a pod on each node, and every way there.
    pub(crate) fn start(tag: &str, bfd: Bfd, mode: Mode) -> Result<Self> {
        let rack = Rack::new(tag)?;
        let (spine, outside) = (rack.machine("spine")?, rack.empty("outside")?);
        join((&spine, "outside"), (&outside, "eth0"))?;
        for (netns, link, host) in [(&spine, "outside", 1), (&outside, "eth0", 10)] {
            netns.ip(&format!("addr add 192.0.2.{host}/24 dev {link}"))?;
            netns.ip(&format!("addr add 2001:db8:2::{host}/64 dev {link} nodad"))?;
        }
        outside.ip("route add default via 192.0.2.1")?;
        outside.ip("route add default via 2001:db8:2::1")?;
        let machines = [rack.machine("n1")?, rack.machine("n2")?];
        let mut tors = Vec::new();
        for number in 1..=2 {
            tors.push(tor(&rack, (&machines, &spine), number, bfd)?);
        }
        let frr = Frr::start(&spine, &spine_config())?;
        rack.manifest("all.yaml", &manifests(bfd, mode).join("\n---\n"))?;
        let (mut nodes, mut underlay) = (Vec::new(), Vec::new());
        for (number, netns) in (1..).zip(machines) {
            let mut node = Station::new(&format!("n{number}"), netns, &rack)?;
            if mode == Mode::Vxlan {
                underlay.push(underlay::start(&node.netns, number, bfd)?);
                // The port of BGP is the host's FRR's.
                node.agent = node.agent.with_features("policy,cni");
            }
            node.start()?;
            nodes.push(node);
        }
        let mut lab = Self {
            pods: Vec::new(),
            _server: Server::start(&outside)?,
            nodes,
            underlay,
            tors,
            spine: Router { frr, netns: spine },
            outside,
            rack,
            tag: tag.to_owned(),
        };
        for node in &mut lab.nodes {
            node.agent.wait_synced()?;
        }
        lab.attach(0, "pod1")?;
        lab.attach(1, "pod2")?;
        lab.wait_for_all_ways()?;
        Ok(lab)
    }

    /// Attaches a pod to a node and starts its server.
    pub(crate) fn attach(&mut self, node: usize, name: &str) -> Result<()> {
        let sandbox = Sandbox::new(&self.tag, "shop", name)?;
        self.pods
            .push(self.nodes[node].attach(sandbox, Map::new())?);
        Ok(())
    }

    /// Two ways from each node to the other and to the outside, two from the spine to each, in both families; BFD up on all sessions.
    pub(crate) fn wait_for_all_ways(&self) -> Result<()> {
        eventually(PATIENCE, "every way in every kernel", || {
            if !self.underlay.is_empty() {
                return underlay::has_all_ways(self);
            }
            for (node, other) in [(0, 2), (1, 1)] {
                for prefix in BEYOND
                    .iter()
                    .map(|to| (*to).to_owned())
                    .chain(pod_cidrs(other))
                {
                    let gateways = self.gateways(node, &prefix)?;
                    ensure!(
                        gateways.len() == 2,
                        "n{}: {prefix} by {gateways:?}",
                        node + 1
                    );
                }
                let peers = self.nodes[node].agent.bgp(&["peers"])?;
                let all = peers.as_array().context("no peers")?;
                let up = |peer: &&Value| peer["bfd"] == "Up";
                ensure!(all.iter().filter(up).count() == 4, "{peers}");
            }
            for prefix in (1..=2).flat_map(pod_cidrs) {
                let ways = gateways(&self.spine.netns, &prefix, "proto bgp")?;
                ensure!(ways.len() == 2, "the spine: {prefix} by {ways:?}");
            }
            Ok(())
        })
        .with_context(|| {
            let tors = self.tors.iter().map(|tor| tor.frr.log_end());
            let nodes = self.nodes.iter().map(|node| node.agent.log_end());
            tors.chain(nodes).collect::<Vec<_>>().join("\n")
        })
    }

    /// The gateways by which a node's kernel sends to a prefix.
    pub(crate) fn gateways(&self, node: usize, prefix: &str) -> Result<Vec<String>> {
        gateways(&self.nodes[node].netns, prefix, "proto 179")
    }

    /// The gateways by which the spine sends to a node's IPv4 pods.
    pub(crate) fn back_to(&self, node: u8) -> Result<Vec<String>> {
        let [v4, _] = pod_cidrs(node);
        gateways(&self.spine.netns, &v4, "proto bgp")
    }

    /// A way of that ToR alone is left to the outside, both families, on the first node.
    pub(crate) fn wait_for_way_by(&self, tor: u8) -> Result<()> {
        eventually(PATIENCE, &format!("the way by tor{tor} alone"), || {
            if !self.underlay.is_empty() {
                return underlay::has_way_by(self, tor);
            }
            for (prefix, gateway) in BEYOND
                .iter()
                .zip([format!("10.6{tor}.1.1"), format!("fd6{tor}:1::1")])
            {
                let gateways = self.gateways(0, prefix)?;
                ensure!(gateways == [gateway], "{prefix} by {gateways:?}");
            }
            Ok(())
        })
    }

    /// How often BFD of the second ToR, which nobody touches, has lost a session.
    pub(crate) fn bfd_lost_by_the_other(&self) -> Result<u64> {
        let counters = self.tors[1].frr.json("show bfd peers counters json")?;
        let all = counters.as_array().context("no BFD peers")?;
        let down = |peer: &Value| peer["session-down"].as_u64();
        let lost = all.iter().map(|peer| down(peer).context("no count"));
        lost.sum()
    }

    /// Flows of every kind and family from the first node's pod to the other node's pod, and to the outside where that knows pods.
    pub(crate) fn flows(&self, rate: u32) -> Vec<(&Netns, Flow)> {
        let knows_pods = self.underlay.is_empty();
        let outside = OUTSIDE.iter().filter(|_| knows_pods);
        let outside = outside.filter_map(|address| address.parse().ok());
        let outside = outside.map(|address: IpAddr| ("outside", address, &self.outside));
        let other = self.pods[1].addresses.iter();
        let other = other.map(|address| ("n2's pod", *address, self.pods[1].netns()));
        let mut flows = Vec::new();
        for (name, address, server) in outside.chain(other) {
            for kind in [Kind::NewTcp, Kind::EstablishedTcp, Kind::Udp] {
                let flow = Flow {
                    name: format!("to {name}, {}", family(address)),
                    kind,
                    is_allowed: true,
                    to: server_at(address),
                    server: server.name().to_owned(),
                    rate,
                };
                flows.push((self.pods[0].netns(), flow));
            }
        }
        flows
    }
}

pub(crate) fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

pub(crate) fn gateways(netns: &Netns, prefix: &str, of: &str) -> Result<Vec<String>> {
    let family = if prefix.contains(':') { "-6" } else { "-4" };
    let routes = netns.ip_json(&format!("-d {family} route show {prefix} {of}"))?;
    let mut found = Vec::new();
    for route in routes.as_array().into_iter().flatten() {
        let hops = route["nexthops"].as_array();
        let hops = hops.into_iter().flatten().chain([route]);
        let gateway = hops.filter_map(|hop| Some(hop.get("gateway")?.as_str()?.to_owned()));
        found.extend(gateway);
    }
    Ok(found)
}

/// Both Pod CIDRs of a node, by its number.
pub(crate) fn pod_cidrs(node: u8) -> [String; 2] {
    [format!("10.250.{node}.0/24"), format!("fd25:{node}::/64")]
}

fn manifests(bfd: Bfd, mode: Mode) -> Vec<String> {
    let mut manifests = vec![CONFIGURATION.to_owned()];
    match mode {
        Mode::Bgp => manifests.extend((1..=2).flat_map(|node| node_manifests(node, bfd))),
        Mode::Vxlan => {
            manifests.push(pools("VXLAN"));
            manifests.extend((1..=2).map(underlay::node_manifest));
        }
    }
    manifests
}

/// The Node, and its session of each family with each ToR.
fn node_manifests(node: u8, Bfd(every): Bfd) -> Vec<String> {
    let [v4, v6] = pod_cidrs(node);
    let mut manifests = vec![format!(
        "apiVersion: v1
kind: Node
metadata:
  name: n{node}
  labels: {{kubernetes.io/hostname: n{node}}}
  annotations: {{portolan.io/as-number: \"6451{node}\"}}
spec: {{podCIDRs: [{v4}, \"{v6}\"]}}
status:
  addresses:
    - {{type: InternalIP, address: 10.61.{node}.2}}
    - {{type: InternalIP, address: \"fd61:{node}::2\"}}
"
    )];
    for tor in 1..=2 {
        for (family, network) in [
            ("v4", format!("10.6{tor}.{node}.")),
            ("v6", format!("fd6{tor}:{node}::")),
        ] {
            manifests.push(format!(
                "apiVersion: portolan.io/v1alpha1
kind: BGPPeer
metadata: {{name: n{node}-tor{tor}-{family}}}
spec:
  nodeSelector: kubernetes.io/hostname == 'n{node}'
  peerAddress: \"{network}1\"
  sourceAddress: \"{network}2\"
  asNumber: 6500{tor}
  bfd: {{minTx: {every}ms, minRx: {every}ms, multiplier: 3}}
"
            ));
        }
    }
    manifests
}

/// The ToR of a number, with a segment to each node, so that either end of a link can be lost without a word.
fn tor(rack: &Rack, (nodes, spine): (&[Netns; 2], &Netns), number: u8, bfd: Bfd) -> Result<Router> {
    let netns = rack.machine(&format!("tor{number}"))?;
    for (node, machine) in (1..).zip(nodes) {
        let segment = format!("s{number}{node}");
        let (at_tor, at_node) = (format!("n{node}"), format!("tor{number}"));
        let ends = [
            (&netns, &at_tor, format!("t{number}{node}"), 1),
            (machine, &at_node, format!("n{number}{node}"), 2),
        ];
        for (end, link, port, host) in ends {
            rack.plug((end, link), (&segment, &port), None)?;
            end.ip(&format!(
                "addr add 10.6{number}.{node}.{host}/24 dev {link}"
            ))?;
            end.ip(&format!(
                "addr add fd6{number}:{node}::{host}/64 dev {link} nodad"
            ))?;
        }
    }
    let at_spine = format!("tor{number}");
    join((&netns, "spine"), (spine, &at_spine))?;
    for (end, link, host) in [(&netns, "spine", 2), (spine, at_spine.as_str(), 1)] {
        end.ip(&format!("addr add 10.8{number}.0.{host}/24 dev {link}"))?;
        end.ip(&format!("addr add fd8{number}::{host}/64 dev {link} nodad"))?;
    }
    let mut frr = Frr::start(&netns, &tor_config(number))?;
    frr.start_bfdd(&netns, &bfd.frr())?;
    Ok(Router { frr, netns })
}

fn tor_config(number: u8) -> String {
    let mut peers = String::new();
    let mut families = [String::new(), String::new()];
    for node in 1..=2 {
        for (family, address) in families.iter_mut().zip([
            format!("10.6{number}.{node}.2"),
            format!("fd6{number}:{node}::2"),
        ]) {
            peers.push_str(&format!(
                " neighbor {address} remote-as 6451{node}\n neighbor {address} timers connect 1\n neighbor {address} bfd profile lab\n"
            ));
            family.push_str(&format!("  neighbor {address} activate\n"));
        }
    }
    for (family, address) in families
        .iter_mut()
        .zip([format!("10.8{number}.0.1"), format!("fd8{number}::1")])
    {
        peers.push_str(&format!(
            " neighbor {address} remote-as 65000\n neighbor {address} timers connect 1\n"
        ));
        family.push_str(&format!("  neighbor {address} activate\n"));
    }
    router_config(
        &format!("6500{number}"),
        &format!("10.8{number}.0.2"),
        &peers,
        &families,
    )
}

fn spine_config() -> String {
    let mut peers = String::new();
    let mut families = [String::new(), String::new()];
    for tor in 1..=2 {
        for (family, address) in families
            .iter_mut()
            .zip([format!("10.8{tor}.0.2"), format!("fd8{tor}::2")])
        {
            peers.push_str(&format!(
                " neighbor {address} remote-as 6500{tor}\n neighbor {address} timers connect 1\n"
            ));
            family.push_str(&format!("  neighbor {address} activate\n"));
        }
    }
    for (family, network) in families.iter_mut().zip(BEYOND) {
        family.push_str(&format!("  network {network}\n"));
    }
    router_config("65000", "192.0.2.1", &peers, &families)
}

pub(crate) fn router_config(asn: &str, id: &str, peers: &str, [v4, v6]: &[String; 2]) -> String {
    format!(
        "router bgp {asn}
 bgp router-id {id}
 no bgp ebgp-requires-policy
 no bgp default ipv4-unicast
 bgp bestpath as-path multipath-relax
 timers bgp 1 3
{peers} address-family ipv4 unicast
  maximum-paths 8
{v4} exit-address-family
 address-family ipv6 unicast
  maximum-paths 8
{v6} exit-address-family
"
    )
}
