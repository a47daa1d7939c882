//! Who has which address at present, and who may have one beside another.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use api::NamespacedName;
use api::resources::{Service, TrafficPolicy};

use super::{Problem, Unshared};
use crate::range::{Range, Span};
use crate::runs::Runs;

/// Holders by address. What somebody gives up within one allocation stays his in the book, so that nobody else gets it yet.
pub(super) struct Book<'a> {
    holders: BTreeMap<IpAddr, Vec<&'a Service>>,
    /// Whose status says an address that is another's: until it does not any more, nobody else gets that.
    losers: BTreeMap<IpAddr, Vec<&'a Service>>,
    /// By namespace and sharing key.
    shared: BTreeMap<(&'a str, &'a str), BTreeSet<IpAddr>>,
    busy: Runs,
}

impl<'a> Book<'a> {
    /// With what nobody is given who does not ask for it.
    pub(super) fn new(reserved: impl Iterator<Item = Span>) -> Self {
        Self {
            holders: BTreeMap::new(),
            losers: BTreeMap::new(),
            shared: BTreeMap::new(),
            busy: reserved.collect(),
        }
    }

    /// Enters what a Service has by its status, the first address of each family that it needs; or who has it already.
    pub(super) fn enter(&mut self, service: &'a Service) -> Vec<Result<IpAddr, Problem>> {
        let mut entered = Vec::new();
        for cluster_ip in &service.cluster_ips {
            let held = service.load_balancer_ips.iter().copied();
            let mut held = held.filter(|held| held.is_ipv4() == cluster_ip.is_ipv4());
            let Some(address) = held.next() else { continue };
            let holders = self.holders.get(&address);
            entered.push(match refusal(service, address, holders) {
                None => {
                    self.give(service, address);
                    Ok(address)
                }
                Some(problem) => Err(problem),
            });
        }
        let kept = entered.iter().filter_map(|one| one.as_ref().ok().copied());
        let kept: Vec<IpAddr> = kept.collect();
        self.leave(service, &kept);
        entered
    }

    /// What else a status says: nobody's until it does not any more.
    pub(super) fn leave(&mut self, service: &'a Service, kept: &[IpAddr]) {
        let held = service.load_balancer_ips.iter();
        for address in held.filter(|address| !kept.contains(address)) {
            self.busy.insert(*address);
            self.losers.entry(*address).or_default().push(service);
        }
    }

    /// Gives a Service an address, alone or beside others; or says who has it.
    pub(super) fn take(&mut self, service: &'a Service, address: IpAddr) -> Result<(), Problem> {
        let holders = self.holders.get(&address);
        let is_its = |holder: &&Service| holder.name == service.name;
        if holders.is_some_and(|holders| holders.iter().any(is_its)) {
            return Ok(());
        }
        for held in [holders, self.losers.get(&address)] {
            if let Some(problem) = refusal(service, address, held) {
                return Err(problem);
            }
        }
        self.give(service, address);
        Ok(())
    }

    /// Notes that a Service has an address.
    pub(super) fn give(&mut self, service: &'a Service, address: IpAddr) {
        self.busy.insert(address);
        self.holders.entry(address).or_default().push(service);
        if let Some(key) = sharing_key(service) {
            let place = (service.name.namespace.as_str(), key);
            self.shared.entry(place).or_default().insert(address);
        }
    }

    /// What those have that would share with a Service of this name.
    pub(super) fn shared_by(&self, name: &NamespacedName, key: &str) -> Vec<IpAddr> {
        let addresses = self.shared.get(&(name.namespace.as_str(), key));
        addresses.into_iter().flatten().copied().collect()
    }

    /// The free address of a range that is the next from where the Service's name points to.
    pub(super) fn free_in(&self, service: &Service, range: &Range) -> Option<IpAddr> {
        let (span, family) = (range.span(), range.family());
        let start = span.first() + u128::from(mark(&service.name)) % span.len();
        let next = |from: u128| self.busy.outside(family, from);
        let found = next(start).filter(|found| *found <= span.last());
        let found = found.or_else(|| next(span.first()).filter(|found| *found < start));
        found.map(|found| span.address(found))
    }
}

/// Why a Service cannot have an address beside those that have it.
fn refusal(service: &Service, address: IpAddr, holders: Option<&Vec<&Service>>) -> Option<Problem> {
    // A Service may have what its own status says.
    let mut others = holders
        .into_iter()
        .flatten()
        .filter(|holder| holder.name != service.name);
    others.find_map(|holder| {
        let by = holder.name.clone();
        unshared(holder, service).map(|why| Problem::Taken { address, by, why })
    })
}

fn sharing_key(service: &Service) -> Option<&str> {
    let request = service.address_request.as_ref().ok()?;
    request.sharing_key.as_deref()
}

/// Why two Services cannot have one address.
pub(super) fn unshared(one: &Service, other: &Service) -> Option<Unshared> {
    let keys = (sharing_key(one), sharing_key(other));
    if keys.0.is_none() || keys.0 != keys.1 || one.name.namespace != other.name.namespace {
        return Some(Unshared::Key);
    }
    let ports = |service: &Service| {
        let ports = service.ports.iter();
        ports
            .map(|port| (port.protocol, port.port))
            .collect::<BTreeSet<_>>()
    };
    if let Some((_, port)) = ports(one).intersection(&ports(other)).next() {
        return Some(Unshared::Port { port: *port });
    }
    let policy = one.external_traffic_policy;
    let is_one_policy = policy == other.external_traffic_policy;
    // The address is announced by the nodes that have endpoints: the same ones for both, or one of them goes unanswered.
    let is_one_place = policy == TrafficPolicy::Cluster || one.selector == other.selector;
    (!is_one_policy || !is_one_place).then_some(Unshared::TrafficPolicy)
}

/// A number of a name that is the same on every node and in every release (FNV-1a).
fn mark(name: &NamespacedName) -> u64 {
    let octets = name
        .namespace
        .bytes()
        .chain([b'/'])
        .chain(name.name.bytes());
    octets.fold(0xcbf2_9ce4_8422_2325, |mark, octet| {
        (mark ^ u64::from(octet)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
