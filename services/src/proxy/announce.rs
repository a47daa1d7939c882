//! Which addresses of Services this node announces by BGP, and for each other one why not: pure.
//!
//! Ranges are those of BGPConfiguration. A range that is aggregated is announced as it is by every node that may, whatever
//! Services there are; within it an address is announced by itself only where its traffic policy is Local, so that packets come
//! to nodes that have endpoints. In a range that is not aggregated each address is announced by itself.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use api::NamespacedName;
use api::resources::{Leaving, Node, Service};
use ipnet::IpNet;

use super::index::{Index, Place, Touched};
use super::model::{Answer, FrontendKind, Model, Scope, Served, ServicePort};

/// The label by which a node takes no part in external load balancing.
pub const EXCLUDED: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

/// A range of addresses to announce.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Range {
    /// The addresses.
    pub cidr: IpNet,
    /// Whether it is announced as a whole.
    pub is_aggregated: bool,
}

/// What is announced at all, by kinds of addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges {
    /// `serviceClusterIPs`.
    pub cluster: Vec<Range>,
    /// `serviceExternalIPs`.
    pub external: Vec<Range>,
    /// `serviceLoadBalancerIPs`.
    pub load_balancer: Vec<Range>,
}

impl Ranges {
    fn of(&self, kind: FrontendKind) -> &[Range] {
        match kind {
            FrontendKind::ClusterIp => &self.cluster,
            FrontendKind::ExternalIp => &self.external,
            FrontendKind::LoadBalancer => &self.load_balancer,
            FrontendKind::NodePort => &[],
        }
    }

    /// Of those that hold an address the longest: who writes a part of a range by itself means that part.
    fn range_of(&self, kind: FrontendKind, address: IpAddr) -> Option<Range> {
        let ranges = self.of(kind).iter().copied();
        let holding = ranges.filter(|range| range.cidr.contains(&address));
        holding.max_by_key(|range| (range.cidr.prefix_len(), range.is_aggregated))
    }

    /// All ranges, of all kinds: what no Service holds of them goes nowhere.
    pub fn all(&self) -> BTreeSet<IpNet> {
        let all = [&self.cluster, &self.external, &self.load_balancer];
        all.into_iter().flatten().map(|range| range.cidr).collect()
    }
}

/// Why a node announces no external and no load balancer's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unfit {
    /// Its label [`EXCLUDED`].
    Excluded,
    /// It is about to go: it is being deleted, or scaled down.
    Leaving,
}

impl Unfit {
    /// Why this node is none for load balancers, if it isn't.
    pub fn of(node: &Node) -> Option<Self> {
        // Its value means nothing, as for the cloud controllers.
        if node.labels.contains_key(EXCLUDED) {
            return Some(Self::Excluded);
        }
        node.leaving.map(|why| match why {
            Leaving::Deleted | Leaving::ScaledDown => Self::Leaving,
        })
    }
}

/// By which prefix packets to an address come here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// By its range's.
    Aggregate(IpNet),
    /// By its own.
    Itself,
}

/// Why an address is not announced by this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Silence {
    /// No range of its kind holds it.
    NoRange,
    /// Its node takes no part.
    Unfit(Unfit),
    /// Another Service has it.
    OfAnother,
    /// The Service has no cluster IP of its family, and serves nothing in it.
    NotOfItsFamilies,
    /// Nobody in the cluster can be asked.
    NoEndpoint,
    /// Its traffic policy is Local, and nobody here is ready.
    NoEndpointHere,
}

/// An address of a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    /// What it is of the Service.
    pub kind: FrontendKind,
    /// Itself.
    pub address: IpAddr,
    /// How it is announced, or why not.
    pub way: Result<Way, Silence>,
}

/// Where this node's announcements hang on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// What is announced.
    pub ranges: Ranges,
    /// Why this node takes no part in load balancing, if it doesn't.
    pub unfit: Option<Unfit>,
}

/// All announcements of this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Announcements {
    /// None before they are known: nothing has been decided then.
    settings: Option<Settings>,
    services: BTreeMap<NamespacedName, Vec<Address>>,
    /// How many Services each address is announced for by itself: two may share one.
    alone: BTreeMap<IpNet, usize>,
}

impl Announcements {
    /// Takes other ranges or another fitness; if they differ, all Services are decided anew.
    pub fn set(&mut self, settings: Settings, index: &Index, model: &Model) {
        if self.settings.as_ref() == Some(&settings) {
            return;
        }
        self.settings = Some(settings);
        let all = index.all().map(|service| service.name.clone()).collect();
        self.update(index, model, &all);
    }

    /// Decides anew what a change concerns: all that the [`Index`] named, for readiness is more than the model shows, and all that
    /// [`Model::refresh`] did, for a Service may lose an address to another.
    pub fn update(&mut self, index: &Index, model: &Model, concerned: &Touched) {
        let Some(settings) = self.settings.clone() else {
            return;
        };
        for name in concerned {
            let service = index.service(name);
            let served = model.service(name).map(AsRef::as_ref);
            let addresses = match (service, served) {
                (Some(service), Some(served)) => decide(service, served, &settings),
                _ => Vec::new(),
            };
            self.replace(name, addresses);
        }
    }

    fn replace(&mut self, name: &NamespacedName, addresses: Vec<Address>) {
        for prefix in alone(&addresses) {
            *self.alone.entry(prefix).or_default() += 1;
        }
        let old = match addresses.is_empty() {
            true => self.services.remove(name),
            false => self.services.insert(name.clone(), addresses),
        };
        for prefix in alone(&old.unwrap_or_default()) {
            if let Entry::Occupied(mut held) = self.alone.entry(prefix) {
                *held.get_mut() -= 1;
                if *held.get() == 0 {
                    held.remove();
                }
            }
        }
    }

    /// What is to be announced.
    pub fn prefixes(&self) -> BTreeSet<IpNet> {
        let Some(Settings { ranges, unfit }) = &self.settings else {
            return BTreeSet::new();
        };
        let lists = [&ranges.cluster, &ranges.external, &ranges.load_balancer];
        let kinds = if unfit.is_some() { 1 } else { lists.len() };
        let ranges = lists.into_iter().take(kinds).flatten();
        let aggregates = ranges.filter(|range| range.is_aggregated);
        let aggregates = aggregates.map(|range| range.cidr);
        aggregates.chain(self.alone.keys().copied()).collect()
    }

    /// Whether there is a range to announce.
    pub fn announces(&self) -> bool {
        let settings = self.settings.as_ref();
        settings.is_some_and(|settings| !settings.ranges.all().is_empty())
    }

    /// What must not be forwarded as it came: ranges that are announced as a whole, by whichever node, and addresses of Services
    /// in the others. A packet to one of them that meets no port of a Service would go back to where it was announced, and come
    /// again. `nodes` have addresses that are reached whatever Services say.
    pub fn guarded(&self, nodes: &BTreeSet<IpAddr>) -> BTreeSet<IpNet> {
        let Some(settings) = &self.settings else {
            return BTreeSet::new();
        };
        let Ranges {
            cluster,
            external,
            load_balancer,
        } = &settings.ranges;
        let is_free = |net: &IpNet| !nodes.iter().any(|node| net.contains(node));
        let ranges = [cluster, external, load_balancer].into_iter().flatten();
        let aggregates = ranges.filter(|range| range.is_aggregated);
        let aggregates: BTreeSet<IpNet> =
            aggregates.map(|range| range.cidr).filter(is_free).collect();
        let addresses = self.services.values().flatten();
        let addresses = addresses.filter(|one| one.way != Err(Silence::NoRange));
        let alone = addresses.map(|one| one.address).filter(|address| {
            let is_in = |range: &IpNet| range.contains(address);
            !aggregates.iter().any(is_in)
        });
        let alone = alone.map(IpNet::from).filter(is_free);
        alone.chain(aggregates.iter().copied()).collect()
    }

    /// What is needed to tell of one Service what every node announces of it; none before anything is known.
    pub fn elsewhere(&self, name: &NamespacedName, index: &Index) -> Option<Elsewhere> {
        Some(Elsewhere {
            ranges: self.settings.as_ref()?.ranges.clone(),
            here: self.of(name).to_vec(),
            index: index.of_one(name),
            name: name.clone(),
        })
    }

    /// The addresses of a Service, with what becomes of each.
    pub fn of(&self, name: &NamespacedName) -> &[Address] {
        self.services.get(name).map_or(&[], Vec::as_slice)
    }
}

/// One Service, as nodes see it.
#[derive(Clone, Debug)]
pub struct Elsewhere {
    name: NamespacedName,
    index: Index,
    ranges: Ranges,
    here: Vec<Address>,
}

impl Elsewhere {
    /// What a node at `place` announces of it, as far as it depends on what all nodes know alike: not on how its agent was
    /// started, nor on whether that runs.
    pub fn on(&mut self, place: Place, unfit: Option<Unfit>) -> Vec<Address> {
        self.index.set_place(place);
        let mut model = Model::default();
        model.refresh(&self.index, &Touched::from([self.name.clone()]));
        let service = self.index.service(&self.name);
        let served = model.service(&self.name);
        let (Some(service), Some(served)) = (service, served) else {
            return Vec::new();
        };
        let ranges = self.ranges.clone();
        let mut addresses = decide(service, served, &Settings { ranges, unfit });
        // Whose an address is that several claim is everywhere the same, and cannot be seen of one Service alone.
        let lost = self.here.iter();
        let lost = lost.filter(|one| one.way == Err(Silence::OfAnother));
        let lost: BTreeSet<IpAddr> = lost.map(|one| one.address).collect();
        for one in addresses
            .iter_mut()
            .filter(|one| lost.contains(&one.address))
        {
            one.way = Err(Silence::OfAnother);
        }
        addresses
    }
}

fn alone(addresses: &[Address]) -> BTreeSet<IpNet> {
    let alone = addresses.iter().filter(|one| one.way == Ok(Way::Itself));
    alone.map(|one| IpNet::from(one.address)).collect()
}

fn decide(service: &Service, served: &Served, settings: &Settings) -> Vec<Address> {
    let lists = [
        (FrontendKind::ClusterIp, &service.cluster_ips),
        (FrontendKind::LoadBalancer, &service.load_balancer_ips),
        (FrontendKind::ExternalIp, &service.external_ips),
    ];
    let mut decided = BTreeMap::new();
    for (kind, addresses) in lists {
        for address in addresses {
            // An address that a Service has twice is what comes first of it, as in the model.
            let way = way(served, kind, *address, settings);
            decided.entry(*address).or_insert(Address {
                kind,
                address: *address,
                way,
            });
        }
    }
    decided.into_values().collect()
}

fn way(
    served: &Served,
    kind: FrontendKind,
    address: IpAddr,
    settings: &Settings,
) -> Result<Way, Silence> {
    let range = settings.ranges.range_of(kind, address);
    let range = range.ok_or(Silence::NoRange)?;
    if let Some(unfit) = settings.unfit
        && kind != FrontendKind::ClusterIp
    {
        return Err(Silence::Unfit(unfit));
    }
    let has = |port: &&ServicePort| {
        let mut frontends = port.frontends.iter();
        frontends.any(|one| one.address == Some(address))
    };
    let ports = served.ports.iter().filter(has);
    // One port that is answered is enough: the others are refused where the packets arrive.
    let mut lost = served.ports.iter().flat_map(|port| &port.lost);
    let mut heard = Err(match lost.any(|(one, _)| one.address == Some(address)) {
        true => Silence::OfAnother,
        false => Silence::NotOfItsFamilies,
    });
    for port in ports {
        heard = match (heard, hearing(port, kind)) {
            (Ok(scope), _) | (Err(_), Ok(scope)) => Ok(scope),
            (Err(one), Err(other)) => Err(one.max(other)),
        };
    }
    match (heard?, range.is_aggregated) {
        (Scope::Cluster, true) => Ok(Way::Aggregate(range.cidr)),
        (Scope::Cluster, false) | (Scope::Local, _) => Ok(Way::Itself),
    }
}

/// Whom packets from elsewhere reach, or why nobody. With policy Local a node is withdrawn as soon as its last endpoint is not
/// ready any more: those who end answer still while the fabric learns of it.
fn hearing(port: &ServicePort, kind: FrontendKind) -> Result<Scope, Silence> {
    match port.answers(kind).other {
        Answer::Reject => Err(Silence::NoEndpoint),
        Answer::Drop => Err(Silence::NoEndpointHere),
        Answer::Forward { to, .. } => {
            let is_any_ready = port.endpoints(to).iter().any(|one| one.is_ready);
            match to {
                Scope::Local if !is_any_ready => Err(Silence::NoEndpointHere),
                Scope::Local | Scope::Cluster => Ok(to),
            }
        }
    }
}

#[cfg(test)]
mod tests;
