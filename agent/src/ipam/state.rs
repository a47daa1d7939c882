//! What `portolan ipam` is answered from: the core's copies, and what is in the kernel and on disk.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ::ipam::{Holder, Ipam};
use api::NamespacedName;
use ipnet::IpNet;

use crate::load_balancer::PoolReport;

/// Copies of what the core knows.
#[derive(Clone, Debug)]
pub(crate) struct IpamState {
    pub(crate) node: String,
    pub(crate) in_sync: bool,
    pub(crate) ipam: Ipam,
    /// Holders whose addresses another plugin gave.
    pub(crate) delegated: BTreeSet<Holder>,
    /// The source's pods of this node, with their UIDs.
    pub(crate) pods: BTreeMap<NamespacedName, String>,
    /// What pods of other nodes hold: whose it is, and on which node.
    pub(crate) elsewhere: BTreeMap<IpAddr, (NamespacedName, String)>,
    /// This node's own CIDRs and blocks.
    pub(crate) own: BTreeSet<IpNet>,
    /// Pools for Services of type LoadBalancer.
    pub(crate) balancer_pools: Vec<PoolReport>,
}

/// What is there besides: links, routes and files.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// Host ends of pods.
    pub(crate) host_ends: BTreeSet<String>,
    /// Devices that shape what pods send.
    pub(crate) shapers: BTreeSet<String>,
    /// Routes of ours to one address each.
    pub(crate) routes: BTreeSet<IpAddr>,
    /// The containers of which deletions wait on disk.
    pub(crate) pending: Vec<String>,
    /// Since when attachments have been without their host end.
    pub(crate) absent: BTreeMap<Holder, Instant>,
    /// Attachments that a request is about now.
    pub(crate) busy: BTreeSet<Holder>,
}

impl Seen {
    /// For how long an attachment's host end has been gone.
    pub(crate) fn absent_for(&self, now: Instant) -> BTreeMap<Holder, Duration> {
        let absent = self.absent.iter();
        absent
            .map(|(holder, since)| (holder.clone(), now.saturating_duration_since(*since)))
            .collect()
    }
}
