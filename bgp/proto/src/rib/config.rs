//! Who we are, and what there is to say of the RIBs as a whole.

use std::net::Ipv4Addr;

use ipnet::IpNet;

use super::next_hops::NextHops;
use super::peers::PeerId;
use crate::wire::{Asn, Family, LargeCommunity};

/// Who we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RibConfig {
    /// Our AS.
    pub asn: Asn,
    /// Our BGP Identifier.
    pub router_id: Ipv4Addr,
    /// Our cluster's (RFC 4456 §7); the BGP Identifier unless there are several reflectors to a cluster.
    pub cluster_id: Ipv4Addr,
    /// Whether traffic is spread.
    pub multipath: Multipath,
}

/// Which paths are used beside the best one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Multipath {
    /// How many at most; 1 is off.
    pub max_paths: u8,
    /// Paths of other neighbour ASes too, as long as AS_PATH is equally long.
    pub as_path_relax: bool,
    /// Weights by the link bandwidth extended community.
    pub link_bandwidth: bool,
}

impl Default for Multipath {
    fn default() -> Self {
        Self {
            max_paths: 1,
            as_path_relax: false,
            link_bandwidth: false,
        }
    }
}

/// How a prefix is originated.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Originated {
    /// COMMUNITIES.
    pub communities: Vec<u32>,
    /// LARGE_COMMUNITIES.
    pub large: Vec<LargeCommunity>,
    /// LOCAL_PREF towards internal peers.
    pub local_pref: Option<u32>,
    /// MULTI_EXIT_DISC.
    pub med: Option<u32>,
}

/// A change of where packets for a prefix go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BestChange {
    /// The prefix.
    pub prefix: IpNet,
    /// Next hops of the best learned paths; empty: there is none, or the prefix is our own.
    pub next_hops: NextHops,
}

/// A peer holds as many prefixes as it is to be warned of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrefixWarning {
    /// The peer.
    pub peer: PeerId,
    /// Of which family.
    pub family: Family,
    /// How many it announced.
    pub held: u32,
    /// How many end the session.
    pub limit: u32,
}
