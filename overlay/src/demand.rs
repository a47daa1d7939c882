//! What tunnels are asked for: which prefixes of which node, and whether nodes of one subnet are to do without.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use api::crd::Encapsulation;
use api::resources::{IpPool, IpamBlock, Node};
use ipnet::IpNet;

use crate::mac::{Mac, macs, of_name};
use crate::{OVERHEAD_V4, OVERHEAD_V6};

/// What the sources say, seen from one node.
#[derive(Clone, Debug)]
pub struct View<'a> {
    /// This node.
    pub node: &'a Node,
    /// All nodes, this one too.
    pub nodes: Vec<&'a Node>,
    /// The pools that count: none overlaps another.
    pub pools: Vec<&'a IpPool>,
    /// All blocks that are claimed.
    pub blocks: Vec<&'a IpamBlock>,
    /// This node's own CIDRs and blocks.
    pub own: &'a BTreeSet<IpNet>,
    /// Addresses of pods, with the names of their nodes: those outside their nodes' blocks get routes of their own.
    pub pods: Vec<(IpAddr, &'a str)>,
}

/// What is asked for. Equal demands mean that nothing is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Demand {
    /// This node's address that outer packets bear; its family is the tunnels'.
    pub local: IpAddr,
    /// The link-layer address of this node's end.
    pub mac: Mac,
    /// Addresses of this node's own that come back by the tunnel: the first of each of its prefixes, which no pod has.
    pub addresses: BTreeSet<IpAddr>,
    /// The ranges whose routes are the overlay's and nobody else's.
    pub ranges: BTreeSet<IpNet>,
    /// The other nodes that can be reached, by name.
    pub peers: BTreeMap<String, Peer>,
}

/// Another node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The link-layer address of its end.
    pub mac: Mac,
    /// Its address that outer packets go to.
    pub underlay: IpAddr,
    /// All its InternalIPs.
    pub addresses: BTreeSet<IpAddr>,
    /// Its prefixes, and for each whether a node in the same subnet is reached without the tunnel.
    pub prefixes: BTreeMap<IpNet, bool>,
}

impl Demand {
    /// What a tunnel takes of each packet in bytes.
    pub fn overhead(&self) -> u32 {
        match self.local {
            IpAddr::V4(_) => OVERHEAD_V4,
            IpAddr::V6(_) => OVERHEAD_V6,
        }
    }

    /// Whether a prefix is the overlay's: nothing that BGP learns inside is installed.
    pub fn covers(&self, prefix: &IpNet) -> bool {
        self.ranges.iter().any(|range| range.contains(prefix))
    }
}

/// Whether what a pool asks for is carried out.
pub fn is_built(encapsulation: Encapsulation) -> bool {
    matches!(
        encapsulation,
        Encapsulation::None | Encapsulation::Vxlan | Encapsulation::VxlanCrossSubnet
    )
}

/// Finds what is asked for; nothing, where no pool has VXLAN. Beside it: what is wrong, in words for people.
///
/// The tunnel is over IPv4 wherever this node has an IPv4 InternalIP: all nodes that have one agree on that.
pub fn demand(view: &View<'_>) -> (Option<Demand>, Vec<String>) {
    let pools = encapsulated(view);
    if pools.is_empty() {
        return (None, Vec::new());
    }
    let mut problems = Vec::new();
    let v4 = view.node.internal_ips.iter().any(IpAddr::is_ipv4);
    let of_family = |node: &Node| {
        node.internal_ips
            .iter()
            .copied()
            .find(|ip| ip.is_ipv4() == v4)
    };
    let (macs, moved) = macs(view.nodes.iter().map(|node| node.name.as_str()), of_name);
    for name in moved {
        problems.push(format!(
            "Node {name}: the link-layer address of its tunnel would be another node's too, so it has the next one: give the newer of the two another name"
        ));
    }
    let name = view.node.name.as_str();
    let (Some(local), Some(mac)) = (of_family(view.node), macs.get(name)) else {
        problems.push(format!(
            "Node {name} has no InternalIP: there is no tunnel to the pods of other nodes; add one to status.addresses"
        ));
        return (None, problems);
    };
    let (blocks, pods) = (blocks_of(view), pods_of(view));
    let mut peers = BTreeMap::new();
    for node in view.nodes.iter().filter(|other| other.name != name) {
        let prefixes = prefixes_of(node, view.own, &pools, (&blocks, &pods));
        let Some(mac) = macs
            .get(node.name.as_str())
            .filter(|_| !prefixes.is_empty())
        else {
            continue;
        };
        let Some(underlay) = of_family(node) else {
            let family = if v4 { "IPv4" } else { "IPv6" };
            problems.push(format!(
                "Node {} has no {family} InternalIP: its pods can't be reached by this node's tunnels; add one to status.addresses",
                node.name
            ));
            continue;
        };
        let peer = Peer {
            mac: *mac,
            underlay,
            addresses: node.internal_ips.iter().copied().collect(),
            prefixes,
        };
        peers.insert(node.name.clone(), peer);
    }
    let demand = Demand {
        local,
        mac: *mac,
        addresses: own_addresses(view.own, &pools),
        ranges: pools.iter().map(|pool| pool.cidr).collect(),
        peers,
    };
    (Some(demand), problems)
}

fn encapsulated<'a>(view: &View<'a>) -> Vec<&'a IpPool> {
    let tunnels = [Encapsulation::Vxlan, Encapsulation::VxlanCrossSubnet];
    let wanted = |pool: &&IpPool| pool.is_for_pods() && tunnels.contains(&pool.encapsulation);
    view.pools.iter().copied().filter(wanted).collect()
}

/// The pool that a prefix is in.
fn pool_of<'a>(prefix: &IpNet, pools: &[&'a IpPool]) -> Option<&'a IpPool> {
    pools
        .iter()
        .copied()
        .find(|pool| pool.cidr.contains(prefix))
}

/// What each node has, by its name.
type Held<'a> = BTreeMap<&'a str, Vec<IpNet>>;

fn blocks_of<'a>(view: &View<'a>) -> Held<'a> {
    let mut held = Held::new();
    for block in &view.blocks {
        held.entry(&block.node).or_default().push(block.cidr);
    }
    held
}

fn pods_of<'a>(view: &View<'a>) -> Held<'a> {
    let mut held = Held::new();
    for (address, node) in &view.pods {
        held.entry(node).or_default().push(IpNet::from(*address));
    }
    held
}

/// A node's prefixes in encapsulated pools, and the addresses of its pods that are outside of all its prefixes.
fn prefixes_of(
    node: &Node,
    own: &BTreeSet<IpNet>,
    pools: &[&IpPool],
    (blocks, pods): (&Held<'_>, &Held<'_>),
) -> BTreeMap<IpNet, bool> {
    let name = node.name.as_str();
    let mut all: Vec<IpNet> = node.pod_cidrs.iter().map(IpNet::trunc).collect();
    all.extend(blocks.get(name).into_iter().flatten());
    let pods = pods.get(name).into_iter().flatten();
    let strays = pods.filter(|ip| !all.iter().any(|prefix| prefix.contains(*ip)));
    let strays: Vec<IpNet> = strays.copied().collect();
    let mut prefixes = BTreeMap::new();
    for prefix in all.into_iter().chain(strays) {
        if let Some(pool) = pool_of(&prefix, pools)
            && !own.contains(&prefix)
        {
            let near = pool.encapsulation == Encapsulation::VxlanCrossSubnet;
            prefixes.insert(prefix, near);
        }
    }
    prefixes
}

/// No pod is ever given the first address of a prefix (for IPv6 the subnet-router anycast address), unless there are
/// only one or two.
fn own_addresses(own: &BTreeSet<IpNet>, pools: &[&IpPool]) -> BTreeSet<IpAddr> {
    let own = own.iter().filter(|prefix| {
        pool_of(prefix, pools).is_some() && prefix.max_prefix_len() - prefix.prefix_len() >= 2
    });
    own.map(IpNet::network).collect()
}
