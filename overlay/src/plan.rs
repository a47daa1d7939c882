//! From what is asked for, and this node's own subnets, to the tunnel's entries and the routes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use crate::demand::{Demand, Peer};
use crate::mac::{Mac, link_local_of};

/// What follows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// This node's own addresses on the tunnel.
    pub addresses: BTreeSet<IpAddr>,
    /// The other ends that routes lead to, by their link-layer addresses (which follow from the nodes' names).
    pub peers: BTreeMap<Mac, PlannedPeer>,
    /// Where each prefix goes.
    pub routes: BTreeMap<IpNet, Route>,
}

/// Another node's end of the tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedPeer {
    /// Where outer packets to it go.
    pub underlay: IpAddr,
    /// The gateways that routes name it by.
    pub neighbours: BTreeSet<IpAddr>,
}

/// Where a prefix goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// To a node in one of this node's own subnets, by that address of it.
    Direct(IpAddr),
    /// Through the tunnel, by this gateway behind it.
    Tunnel(IpAddr),
}

impl Demand {
    /// Makes the plan; `subnets` are those of this node's own interfaces.
    pub fn plan(&self, subnets: &[IpNet]) -> Plan {
        let mut plan = Plan {
            addresses: self.addresses.clone(),
            ..Plan::default()
        };
        if self.kind.is_ethernet() {
            plan.addresses.insert(link_local_of(self.mac).into());
        }
        for peer in self.peers.values() {
            for (prefix, may_be_direct) in &peer.prefixes {
                let is_v4 = prefix.network().is_ipv4();
                let direct = peer.in_subnet(is_v4, subnets).filter(|_| *may_be_direct);
                let route = match direct {
                    Some(address) => Route::Direct(address),
                    None if self.kind.is_ethernet() => Route::Tunnel(peer.gateway(is_v4)),
                    None => Route::Tunnel(peer.underlay),
                };
                if let Route::Tunnel(gateway) = route {
                    let entry = plan.peers.entry(peer.mac).or_insert_with(|| PlannedPeer {
                        underlay: peer.underlay,
                        neighbours: BTreeSet::new(),
                    });
                    entry.neighbours.insert(gateway);
                }
                plan.routes.insert(*prefix, route);
            }
        }
        plan
    }
}

impl Peer {
    /// An address of it in one of the subnets: of the prefix's family, or IPv6 for an IPv4 prefix (RFC 8950).
    fn in_subnet(&self, is_v4: bool, subnets: &[IpNet]) -> Option<IpAddr> {
        let near = |ip: &&IpAddr| subnets.iter().any(|subnet| subnet.contains(*ip));
        let mut near = self.addresses.iter().filter(near);
        let same = near.clone().find(|ip| ip.is_ipv4() == is_v4);
        same.or_else(|| near.find(|ip| is_v4 && ip.is_ipv6()))
            .copied()
    }

    /// On a tunnel with link-layer addresses: its own IPv4 address for IPv4, so that the node needs no IPv6; else its end's link-local address.
    fn gateway(&self, is_v4: bool) -> IpAddr {
        let own = self.addresses.iter().find(|ip| ip.is_ipv4());
        let own = own.filter(|_| is_v4).copied();
        own.unwrap_or_else(|| link_local_of(self.mac).into())
    }
}
