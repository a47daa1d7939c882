//! What the sources ask of tunnels between nodes; found once for many publications.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use api::crd::Encapsulation;
use api::resources::{IpPool, Pod};
use api::{Change, Key, Resource};
use ipnet::IpNet;
use netfilter::{ChainName, Family};
use overlay::{Demand, Kind, View, demands};

use services::tunnel_guard::{self, End};

use super::{Core, pools};
use crate::routing::Standing;

/// What is asked for, and of what it was found.
#[derive(Debug, Default)]
pub(super) struct Overlays {
    known: Option<Known>,
    /// Chains that the kernel refuses.
    broken: BTreeSet<ChainName>,
    /// Devices that stand, asked for or not.
    standing: Standing,
    /// How often it was worked out: that passes over all pods.
    pub(super) reckoned: u64,
}

#[derive(Debug)]
struct Known {
    asked: OfTunnels,
    /// This node's own CIDRs and blocks.
    own: BTreeSet<IpNet>,
    /// The ranges of the pools.
    ranges: Vec<IpNet>,
    /// Each node's CIDRs and blocks.
    held: BTreeMap<String, Vec<IpNet>>,
}

/// What is asked of each kind, and what is wrong, in words for people.
#[derive(Clone, Debug, Default)]
pub(super) struct OfTunnels {
    pub(super) demands: Arc<BTreeMap<Kind, Demand>>,
    /// What keeps out who is no node.
    pub(super) guard: Arc<tunnel_guard::Compiled>,
    pub(super) problems: Vec<String>,
}

impl OfTunnels {
    /// There is no Node of this name: nothing says where its tunnels would end.
    fn of_no_node(name: &str, pools: &[&IpPool]) -> Self {
        let Some(closed) = Demand::closed(pools) else {
            return Self::default();
        };
        Self {
            demands: Arc::new([(closed.kind, closed)].into()),
            problems: vec![format!(
                "there is no Node {name}, and pools have encapsulation WireGuard: nothing is sent to the pods of other nodes"
            )],
            ..Self::default()
        }
    }
}

impl Overlays {
    fn forget(&mut self) {
        self.known = None;
    }

    pub(super) fn set_broken(&mut self, broken: BTreeSet<ChainName>) {
        if broken != self.broken {
            self.broken = broken;
            self.forget();
        }
    }
}

impl Known {
    /// The addresses by which a pod has routes of its own: in a pool, outside of all that its node has.
    fn strays<'a>(&'a self, pod: Option<&'a Pod>, here: &str) -> Vec<(IpAddr, &'a str)> {
        let Some(pod) = pod.filter(|pod| !pod.finished) else {
            return Vec::new();
        };
        let Some(node) = pod.node_name.as_deref().filter(|node| *node != here) else {
            return Vec::new();
        };
        let of_node = self.held.get(node).map(Vec::as_slice).unwrap_or_default();
        let inside = |all: &[IpNet], ip: &IpAddr| all.iter().any(|prefix| prefix.contains(ip));
        let ips = pod.pod_ips.iter();
        let strays = ips.filter(|ip| inside(&self.ranges, ip) && !inside(of_node, ip));
        strays.map(|ip| (*ip, node)).collect()
    }
}

impl Core {
    /// Something changes, and with it maybe what is asked for. Most changes of pods, which are the most changes, do not
    /// matter: a pod is in a block of its node.
    pub(super) fn note_overlays(&mut self, change: &Change) {
        let Some(known) = &self.overlays.known else {
            return;
        };
        let matters = match &change.key {
            Key::Pod(name) => {
                let after = match &change.value {
                    Some(Resource::Pod(pod)) => Some(pod),
                    _ => None,
                };
                known.strays(self.pod(name), &self.node) != known.strays(after, &self.node)
            }
            Key::Node(_) | Key::IpPool(_) | Key::IpamBlock(_) | Key::BgpNodeStatus(_) => {
                self.store.get(&change.key) != change.value.as_ref()
            }
            _ => false,
        };
        if matters {
            self.overlays.forget();
        }
    }

    /// Says which devices stand; whether what is published must follow. One that nothing asks for any more is guarded
    /// until it is gone: it still takes what comes.
    pub(crate) fn set_standing(&mut self, standing: &Standing) -> bool {
        if *standing == self.overlays.standing {
            return false;
        }
        self.overlays.standing.clone_from(standing);
        let Some(known) = self.overlays.known.take() else {
            return false;
        };
        self.overlays().guard != known.asked.guard
    }

    /// What is asked of each kind.
    pub(super) fn overlays(&mut self) -> OfTunnels {
        let own = self.blocks.own();
        match &self.overlays.known {
            Some(known) if known.own == own => known.asked.clone(),
            _ => {
                let known = self.reckon_overlays(own);
                let asked = known.asked.clone();
                self.overlays.known = Some(known);
                self.overlays.reckoned += 1;
                asked
            }
        }
    }

    fn reckon_overlays(&self, own: BTreeSet<IpNet>) -> Known {
        let (mut all, mut blocks): (Vec<&IpPool>, Vec<_>) = (Vec::new(), Vec::new());
        let mut keys = BTreeMap::new();
        // By the order of kinds: those that are many come later.
        for (_, resource) in self.store.range(..Key::Namespace(String::new())) {
            match resource {
                Resource::IpPool(pool) => all.push(pool),
                Resource::IpamBlock(block) => blocks.push(block),
                Resource::BgpNodeStatus(status) => {
                    keys.insert(status.node.as_str(), status.wire_guard);
                }
                _ => {}
            }
        }
        let mut known = Known {
            asked: OfTunnels::default(),
            own,
            ranges: Vec::new(),
            held: BTreeMap::new(),
        };
        let is_plain = |pool: &&IpPool| pool.encapsulation == Encapsulation::None;
        if all.iter().all(is_plain) {
            known.asked.guard = Arc::new(self.guard_tunnels(&BTreeMap::new()));
            return known;
        }
        let refused = pools::refused(&all, &blocks);
        let overlaps = |pool: &IpPool| {
            let said = refused.get(pool.name.as_str());
            said.is_some_and(|(reason, _)| *reason == pools::CIDR_OVERLAPS)
        };
        all.retain(|pool| !overlaps(pool));
        let Some(node) = self.own_node() else {
            known.asked = OfTunnels::of_no_node(&self.node, &all);
            known.asked.guard = Arc::new(self.guard_tunnels(&BTreeMap::new()));
            return known;
        };
        known.ranges = all.iter().map(|pool| pool.cidr).collect();
        for node in self.nodes() {
            let cidrs = node.pod_cidrs.iter().map(IpNet::trunc);
            known
                .held
                .entry(node.name.clone())
                .or_default()
                .extend(cidrs);
        }
        for block in &blocks {
            let of_node = known.held.entry(block.node.clone()).or_default();
            of_node.push(block.cidr);
        }
        let pods = self.other_pods();
        let strays = pods.flat_map(|pod| known.strays(Some(pod), &self.node));
        let (demands, mut problems) = demands(&View {
            node,
            nodes: self.nodes().collect(),
            pools: all,
            blocks,
            own: &known.own,
            pods: strays.collect(),
            keys,
        });
        let guard = self.guard_tunnels(&demands);
        if guard.is_refused {
            problems.push(
                "the kernel refuses the rules that keep strangers out of the tunnels between nodes: let the network drop UDP 4789 and IP protocol 4 from elsewhere, or give the kernel the ipset match of iptables (xt_set)".to_owned(),
            );
        }
        known.asked = OfTunnels {
            demands: Arc::new(demands),
            guard: Arc::new(guard),
            problems,
        };
        known
    }

    /// Guards the ends that are asked for and those that stand still. WireGuard knows who sends by their keys.
    fn guard_tunnels(&self, demands: &BTreeMap<Kind, Demand>) -> tunnel_guard::Compiled {
        let standing = self.overlays.standing.iter();
        let standing = standing.map(|(kind, local)| (*kind, *local));
        let asked = demands.values().map(|demand| (demand.kind, demand.local));
        let ends = asked
            .chain(standing)
            .filter_map(|(kind, local)| match kind {
                Kind::Vxlan => Some(End::Vxlan(Family::of(local))),
                Kind::Ipip => Some(End::Ipip),
                Kind::WireGuard => None,
            });
        let nodes = self.nodes().flat_map(|node| &node.internal_ips).copied();
        tunnel_guard::compile(&ends.collect(), &nodes.collect(), &self.overlays.broken)
    }
}
