//! Where this node's addresses come from: the sources' pools, blocks and Pod CIDRs, brought to the allocator.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use api::resources::Pod;
use api::{Change, Key, NamespacedName, Resource};
use ipnet::IpNet;

use super::Core;
use super::blocks::{Blocks, Fill, NoBlock};
use super::host_ports::HostPortHeld;
use super::known::PodUnknown;
use super::nodes::NodeMissing;
use super::pools::{self, Plan, View};
use crate::ipam::IpamState;
use crate::message::When;

/// Whether a plan of addresses hangs on it.
pub(super) fn is_of_plan(key: &Key) -> bool {
    matches!(
        key,
        Key::Node(_) | Key::IpPool(_) | Key::IpReservation(_) | Key::IpamBlock(_)
    )
}

impl Core {
    /// Has addresses come from blocks of IPPools where there are any: this agent attaches pods. A block that has been
    /// empty for `quiet` is given back.
    pub(crate) fn use_pools(&mut self, quiet: Duration) {
        self.uses_pools = true;
        self.blocks = Blocks::new(quiet);
    }

    /// The blocks of this node.
    pub(crate) fn blocks(&self) -> &Blocks {
        &self.blocks
    }

    /// Another node has this block, or something is in its place.
    pub(crate) fn handle_taken(&mut self, block: IpNet) {
        self.blocks.handle_taken(block);
    }

    /// What is wrong with pools, or not built yet.
    pub(crate) fn pool_problems(&self) -> &[String] {
        &self.blocks.plan().problems
    }

    /// Brings what the sources say to the allocator. Done before anything is given or published.
    pub(super) fn follow_sources(&mut self, now: Instant) {
        if std::mem::take(&mut self.is_plan_stale) {
            let plan = self.plan();
            self.leases.set_elsewhere(plan.elsewhere.clone());
            self.blocks.set_plan(plan);
        }
        let elsewhere = self.elsewhere();
        let reserved = self.reserved().chain(elsewhere).collect();
        self.leases.set_reserved(reserved);
        self.leases.set_cidrs(self.blocks.give());
        self.look_at_blocks(now);
        self.leases.set_cidrs(self.blocks.give());
    }

    fn look_at_blocks(&mut self, now: Instant) -> Vec<Fill> {
        let fills = self.leases.usage();
        let fills: Vec<Fill> = fills
            .map(|usage| Fill {
                cidr: usage.cidr,
                // What rests is given when nothing else is left; and it comes back without an event.
                free: usage.free() + usage.cooling,
            })
            .collect();
        let held = self.leases.iter().flat_map(|lease| lease.addresses.clone());
        self.blocks.update(now, &fills, &held.collect());
        fills
    }

    fn plan(&self) -> Plan {
        let Some(node) = self.own_node() else {
            return Plan::default();
        };
        let mut view = View {
            node,
            nodes: Vec::new(),
            pools: Vec::new(),
            blocks: Vec::new(),
            reserved: self.reserved().collect(),
        };
        for resource in self.store.values() {
            match resource {
                Resource::Node(node) => view.nodes.push(node),
                Resource::IpPool(pool) if self.uses_pools => view.pools.push(pool),
                Resource::IpamBlock(block) if self.uses_pools => view.blocks.push(block),
                _ => {}
            }
        }
        pools::plan(&view)
    }

    fn reserved(&self) -> impl Iterator<Item = IpNet> {
        // By the order of kinds: those that are many come later.
        let few = self.store.range(..Key::Namespace(String::new()));
        let reservations = few.filter_map(|(_, resource)| match resource {
            Resource::IpReservation(reservation) => Some(reservation.cidrs.iter().copied()),
            _ => None,
        });
        reservations.flatten()
    }

    pub(super) fn other_pods(&self) -> impl Iterator<Item = &Pod> {
        self.pods()
            .filter(|pod| pod.node_name.as_deref() != Some(self.node.as_str()))
    }

    fn pods(&self) -> impl Iterator<Item = &Pod> {
        let of_namespaces = self.objects().pods.values();
        of_namespaces
            .flat_map(policy::Pods::iter)
            .map(AsRef::as_ref)
    }

    /// A pod changes, and with it maybe what others hold of this node's addresses. Most pods of a cluster hold none.
    pub(super) fn note_elsewhere(&mut self, change: &Change) {
        let Some((own, _)) = &self.elsewhere else {
            return;
        };
        let before = match &change.key {
            Key::Pod(name) => self.pod(name),
            _ => None,
        };
        let after = match &change.value {
            Some(Resource::Pod(pod)) => Some(pod),
            _ => None,
        };
        let here = Some(self.node.as_str());
        let mut others = before
            .into_iter()
            .chain(after)
            .filter(|pod| pod.node_name.as_deref() != here)
            .flat_map(|pod| &pod.pod_ips);
        if others.any(|ip| own.iter().any(|cidr| cidr.contains(ip))) {
            self.elsewhere = None;
        }
    }

    /// Addresses out of this node's CIDRs and blocks that pods of other nodes hold (fixed by their annotations).
    pub(super) fn elsewhere(&mut self) -> BTreeSet<IpNet> {
        let own = self.blocks.own();
        // Found once for many publications: there may be thousands of pods, and most changes of them change nothing here.
        if let Some((of, found)) = &self.elsewhere
            && *of == own
        {
            return found.clone();
        }
        let addresses = self.other_pods().flat_map(|pod| &pod.pod_ips);
        let held = addresses.filter(|ip| own.iter().any(|cidr| cidr.contains(*ip)));
        let found: BTreeSet<IpNet> = held.map(|ip| IpNet::from(*ip)).collect();
        self.elsewhere = Some((own, found.clone()));
        found
    }

    /// Addresses of pods here that are not out of this node's CIDRs and blocks: others learn of each by itself.
    pub(super) fn strays(&self) -> BTreeSet<IpNet> {
        let own = self.blocks.own();
        let endpoints = self.endpoints().into_iter();
        let attached = endpoints.filter(|endpoint| self.links.all().contains(&endpoint.interface));
        let addresses = attached.flat_map(|endpoint| endpoint.addresses);
        let stray = addresses.filter(|ip| !own.iter().any(|cidr| cidr.contains(ip)));
        stray.map(IpNet::from).collect()
    }

    /// Refuses an address that is asked for by name while a pod of another node has it.
    pub(super) fn check_fixed(
        &self,
        fixed: &[IpAddr],
        pod: Option<&NamespacedName>,
    ) -> anyhow::Result<()> {
        if fixed.is_empty() {
            return Ok(());
        }
        // A pod that has moved here is known with its last address for a moment.
        let mut others = self
            .other_pods()
            .filter(|other| Some(&other.name) != pod && !other.finished);
        let found = others.find_map(|other| {
            let ip = other.pod_ips.iter().find(|ip| fixed.contains(ip))?;
            Some((ip, other))
        });
        match found {
            None => Ok(()),
            Some((ip, other)) => anyhow::bail!(
                "the fixed address {ip} is held by Pod {} of node {}: delete that pod first",
                other.name,
                other.node_name.as_deref().unwrap_or("(none)")
            ),
        }
    }

    /// Refuses while a family's first block is still to come.
    pub(super) fn check_blocks(&self, fixed: &[IpAddr]) -> anyhow::Result<()> {
        match self.blocks.lacks(fixed) {
            Some(no_block) => Err(no_block.into()),
            None => Ok(()),
        }
    }

    /// Copies for `portolan ipam`.
    pub(crate) fn ipam_state(&self) -> IpamState {
        let endpoints = self.endpoints().into_iter();
        let delegated = endpoints.filter(|endpoint| endpoint.settings.delegated);
        let here = self
            .pods()
            .filter(|pod| pod.node_name.as_deref() == Some(self.node.as_str()));
        let elsewhere = self.other_pods().filter(|pod| !pod.finished);
        let elsewhere = elsewhere.flat_map(|pod| {
            let node = pod.node_name.clone().unwrap_or_default();
            let whose = (pod.name.clone(), node);
            pod.pod_ips.iter().map(move |ip| (*ip, whose.clone()))
        });
        IpamState {
            node: self.node.clone(),
            in_sync: self.in_sync,
            ipam: self.leases.ipam().clone(),
            delegated: delegated.map(|endpoint| endpoint.holder).collect(),
            pods: here
                .map(|pod| (pod.name.clone(), pod.uid.clone()))
                .collect(),
            elsewhere: elsewhere.collect(),
            own: self.blocks.own(),
            balancer_pools: Vec::new(),
        }
    }

    /// Whether one more attachment would get its addresses.
    ///
    /// # Errors
    /// Why not, in words.
    pub(crate) fn room(&mut self) -> Result<(), String> {
        if self.own_node().is_none() {
            return Err(self.node_missing().to_string());
        }
        if self.is_plan_stale {
            self.follow_sources(Instant::now());
        }
        let block = self.check_blocks(&[]);
        let room = block.and_then(|()| {
            let room = self.leases.room();
            room.map_err(|error| self.explain(error.into()))
        });
        match room {
            // An ADD waits for it.
            Err(error) if when(&error) == When::Soon => Ok(()),
            room => room.map_err(|error| format!("{error:#}")),
        }
    }

    /// What is told of a refusal of the allocator: where blocks are full, whether a further one is coming.
    pub(super) fn explain(&mut self, error: anyhow::Error) -> anyhow::Error {
        if !matches!(
            error.downcast_ref::<ipam::Error>(),
            Some(ipam::Error::Exhausted { .. } | ipam::Error::NoCidr)
        ) {
            return error;
        }
        let fills = self.look_at_blocks(Instant::now());
        match self.blocks.exhausted(&fills) {
            Some(no_block) => error.context(no_block),
            None => error,
        }
    }
}

/// When an attachment that was refused so may go well.
pub(crate) fn when(error: &anyhow::Error) -> When {
    if error.is::<PodUnknown>() {
        return When::PodUnknown;
    }
    // A Node's Pod CIDRs may come late, and the Node itself.
    let has_no_cidr = matches!(error.downcast_ref(), Some(ipam::Error::NoCidr));
    if error.is::<HostPortHeld>() || error.is::<NodeMissing>() || has_no_cidr {
        return When::Later;
    }
    match error.downcast_ref::<NoBlock>() {
        Some(no_block) if no_block.is_coming => When::Soon,
        _ => When::Unknown,
    }
}
