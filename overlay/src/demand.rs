//! What each kind of tunnel is asked for: which prefixes of which node, and whether nodes of one subnet are to do without.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};

use api::resources::{IpPool, IpamBlock, Node, WireGuardKeys};
use ipnet::IpNet;

use crate::kind::{Kind, Near};
use crate::mac::{Mac, macs, of_name};

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
    /// What nodes have published of their WireGuard keys, by their names.
    pub keys: BTreeMap<&'a str, WireGuardKeys>,
}

/// What is asked of one kind of tunnel. Equal demands mean that nothing is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Demand {
    /// Which kind.
    pub kind: Kind,
    /// This node's address that outer packets bear; its family is the tunnels'.
    pub local: IpAddr,
    /// The link-layer address of this node's end, if the kind has such.
    pub mac: Mac,
    /// Addresses of this node's own that come back by the tunnel: the first of each of its prefixes, which no pod has.
    pub addresses: BTreeSet<IpAddr>,
    /// The ranges whose routes are the overlay's and nobody else's.
    pub ranges: BTreeSet<IpNet>,
    /// Inside of the ranges, but of nodes that this kind can't reach: theirs travel as they would without it.
    pub left: BTreeSet<IpNet>,
    /// What nodes have published of their WireGuard keys, this one too; only where packets travel so.
    pub keys: BTreeMap<String, WireGuardKeys>,
    /// The other nodes that can be reached, by name.
    pub peers: BTreeMap<String, Peer>,
}

/// Another node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The link-layer address of its end, if the kind has such.
    pub mac: Mac,
    /// Its address that outer packets go to.
    pub underlay: IpAddr,
    /// All its InternalIPs.
    pub addresses: BTreeSet<IpAddr>,
    /// Its prefixes, and for each whether a node in the same subnet is reached without the tunnel.
    pub prefixes: BTreeMap<IpNet, Near>,
}

impl Demand {
    /// Of a node that has no end for tunnels: what is to be encrypted, in pools of WireGuard, goes nowhere then, not in
    /// the clear. Nothing, if none of the pools has it.
    pub fn closed(pools: &[&IpPool]) -> Option<Self> {
        let pools = pools.iter().filter(|pool| is_of(pool, Kind::WireGuard));
        let ranges: BTreeSet<IpNet> = pools.map(|pool| pool.cidr).collect();
        (!ranges.is_empty()).then(|| Self {
            kind: Kind::WireGuard,
            // The family whose outer headers are longer: pods' packets are small enough for either.
            local: Ipv6Addr::UNSPECIFIED.into(),
            mac: Mac::default(),
            addresses: BTreeSet::new(),
            ranges,
            left: BTreeSet::new(),
            keys: BTreeMap::new(),
            peers: BTreeMap::new(),
        })
    }

    /// Whether this node has no end, and nothing is to go out ([`Self::closed`]).
    pub fn is_closed(&self) -> bool {
        self.local.is_unspecified()
    }

    /// What a tunnel takes of each packet in bytes.
    pub fn overhead(&self) -> u32 {
        self.kind.overhead(self.local)
    }

    /// What of it is inside of these ranges; nothing, if it has none of them.
    pub fn within(&self, ranges: &BTreeSet<IpNet>) -> Option<Self> {
        let kept: BTreeSet<IpNet> = self.ranges.intersection(ranges).copied().collect();
        if kept.is_empty() {
            return None;
        }
        let inside = |prefix: &IpNet| kept.iter().any(|range| range.contains(prefix));
        let mut part = self.clone();
        part.addresses.retain(|ip| inside(&IpNet::from(*ip)));
        part.left.retain(|prefix| inside(prefix));
        for peer in part.peers.values_mut() {
            peer.prefixes.retain(|prefix, _| inside(prefix));
        }
        part.peers.retain(|_, peer| !peer.prefixes.is_empty());
        part.ranges = kept;
        Some(part)
    }

    /// This one, and beside it what another of the kind asks for. Where both speak of a node, this one is right.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.addresses.extend(other.addresses);
        self.ranges.extend(other.ranges);
        self.left.extend(other.left);
        for (name, theirs) in other.peers {
            match self.peers.entry(name) {
                Entry::Occupied(ours) => ours.into_mut().prefixes.extend(theirs.prefixes),
                Entry::Vacant(place) => drop(place.insert(theirs)),
            }
        }
        self
    }
}

/// Finds what is asked for of each kind of tunnel that a pool has. Beside it: what is wrong, in words for people.
///
/// A tunnel is over IPv4 wherever this node has an IPv4 InternalIP: all nodes that have one agree on that.
pub fn demands(view: &View<'_>) -> (BTreeMap<Kind, Demand>, Vec<String>) {
    let (mut demands, mut problems) = (BTreeMap::new(), Vec::new());
    let wanted: Vec<(Kind, Vec<&IpPool>)> = Kind::ALL
        .into_iter()
        .map(|kind| (kind, pools_of(view, kind)))
        .filter(|(_, pools)| !pools.is_empty())
        .collect();
    if wanted.is_empty() {
        return (demands, problems);
    }
    let all = All::of(view, &mut problems);
    for (kind, pools) in wanted {
        if let Some(demand) = all.demand(kind, pools, &mut problems) {
            demands.insert(kind, demand);
        }
    }
    let mut said = BTreeSet::new();
    problems.retain(|problem| said.insert(problem.clone()));
    (demands, problems)
}

/// What every kind needs of the view.
struct All<'a> {
    view: &'a View<'a>,
    /// Whether tunnels are over IPv4.
    v4: bool,
    macs: BTreeMap<&'a str, Mac>,
    held: (Held<'a>, Held<'a>),
}

impl<'a> All<'a> {
    fn of(view: &'a View<'a>, problems: &mut Vec<String>) -> Self {
        let (macs, moved) = macs(view.nodes.iter().map(|node| node.name.as_str()), of_name);
        for name in moved {
            problems.push(format!(
                "Node {name}: the link-layer address of its tunnel would be another node's too, so it has the next one: give the newer of the two another name"
            ));
        }
        Self {
            view,
            v4: view.node.internal_ips.iter().any(IpAddr::is_ipv4),
            macs,
            held: (blocks_of(view), pods_of(view)),
        }
    }

    /// The node's address of the tunnels' family.
    fn underlay(&self, node: &Node) -> Option<IpAddr> {
        let mut all = node.internal_ips.iter().copied();
        all.find(|ip| ip.is_ipv4() == self.v4)
    }

    fn demand(
        &self,
        kind: Kind,
        mut pools: Vec<&IpPool>,
        problems: &mut Vec<String>,
    ) -> Option<Demand> {
        let (node, name) = (self.view.node, self.view.node.name.as_str());
        let (Some(local), Some(mac)) = (self.underlay(node), self.macs.get(name)) else {
            problems.push(format!(
                "Node {name} has no InternalIP: there is no tunnel to the pods of other nodes{}; add one to status.addresses",
                if kind == Kind::WireGuard { ", and nothing is sent to them in the clear" } else { "" }
            ));
            return Demand::closed(&pools);
        };
        pools.retain(|pool| {
            let carried = kind.carries(&pool.cidr, local);
            if !carried {
                problems.push(not_carried(pool, name, local));
            }
            carried
        });
        if pools.is_empty() {
            return None;
        }
        let mut demand = Demand {
            kind,
            local,
            mac: *mac,
            addresses: own_addresses(self.view.own, &pools),
            ranges: pools.iter().map(|pool| pool.cidr).collect(),
            left: BTreeSet::new(),
            keys: self.keys(kind),
            peers: BTreeMap::new(),
        };
        for other in self.view.nodes.iter().filter(|other| other.name != name) {
            self.add_peer(&mut demand, other, &pools, problems);
        }
        Some(demand)
    }

    fn keys(&self, kind: Kind) -> BTreeMap<String, WireGuardKeys> {
        if kind != Kind::WireGuard {
            return BTreeMap::new();
        }
        let nodes = self.view.nodes.iter();
        let keys = nodes.filter_map(|node| {
            let keys = self.view.keys.get(node.name.as_str())?;
            Some((node.name.clone(), *keys))
        });
        keys.collect()
    }

    fn add_peer(
        &self,
        demand: &mut Demand,
        node: &Node,
        pools: &[&IpPool],
        problems: &mut Vec<String>,
    ) {
        let prefixes = prefixes_of(node, self.view.own, pools, &self.held);
        let mac = self.macs.get(node.name.as_str());
        let Some(mac) = mac.filter(|_| !prefixes.is_empty()) else {
            return;
        };
        let Some(underlay) = self.underlay(node) else {
            let family = if self.v4 { "IPv4" } else { "IPv6" };
            let name = &node.name;
            problems.push(if demand.kind == Kind::Ipip {
                let pools = names_of(pools);
                demand.left.extend(prefixes.keys());
                format!(
                    "Node {name} has no IPv4 InternalIP, and {pools} has encapsulation IPIP, which goes from IPv4 address to IPv4 address: packets to its pods travel as without encapsulation; add one to status.addresses, or set encapsulation VXLAN or WireGuard"
                )
            } else {
                format!(
                    "Node {name} has no {family} InternalIP: its pods can't be reached by this node's tunnels; add one to status.addresses"
                )
            });
            return;
        };
        let peer = Peer {
            mac: *mac,
            underlay,
            addresses: node.internal_ips.iter().copied().collect(),
            prefixes,
        };
        demand.peers.insert(node.name.clone(), peer);
    }
}

fn names_of(pools: &[&IpPool]) -> String {
    let names: Vec<String> = pools
        .iter()
        .map(|pool| format!("IPPool {}", pool.name))
        .collect();
    names.join(", ")
}

/// Why packets of a pool's pods are not sent in IPIP.
fn not_carried(pool: &IpPool, node: &str, local: IpAddr) -> String {
    let IpPool { name, cidr, .. } = pool;
    if local.is_ipv4() {
        format!(
            "IPPool {name}: encapsulation IPIP carries IPv4 only, not {cidr}: its packets travel as without encapsulation; set encapsulation VXLAN or WireGuard"
        )
    } else {
        format!(
            "IPPool {name}: encapsulation IPIP goes from IPv4 address to IPv4 address, and Node {node} has no IPv4 InternalIP: packets travel as without encapsulation; add one to status.addresses, or set encapsulation VXLAN or WireGuard"
        )
    }
}

/// The pools that ask for a kind.
fn pools_of<'a>(view: &View<'a>, kind: Kind) -> Vec<&'a IpPool> {
    let pools = view.pools.iter().copied();
    pools.filter(|pool| is_of(pool, kind)).collect()
}

fn is_of(pool: &IpPool, kind: Kind) -> bool {
    let asked = Kind::of(pool.encapsulation).map(|(asked, _)| asked);
    pool.is_for_pods() && asked == Some(kind)
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
    (blocks, pods): &(Held<'_>, Held<'_>),
) -> BTreeMap<IpNet, Near> {
    let name = node.name.as_str();
    let mut all: Vec<IpNet> = node.pod_cidrs.iter().map(IpNet::trunc).collect();
    all.extend(blocks.get(name).into_iter().flatten());
    let pods = pods.get(name).into_iter().flatten();
    let strays = pods.filter(|ip| !all.iter().any(|prefix| prefix.contains(*ip)));
    let strays: Vec<IpNet> = strays.copied().collect();
    let mut prefixes = BTreeMap::new();
    for prefix in all.into_iter().chain(strays) {
        if let Some(pool) = pool_of(&prefix, pools)
            && let Some((_, near)) = Kind::of(pool.encapsulation)
            && !own.contains(&prefix)
        {
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
