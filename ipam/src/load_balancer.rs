//! Which Service of type LoadBalancer has which address of which IPPool: a pure function of what is there.
//!
//! What a Service has stands in its own status and nowhere else. It keeps that as long as it may, and loses none before there
//! is another one: a pool that is made anew, a request that cannot be met or an annotation with a mistake in it takes nothing
//! away from who is served. Who has none is given one by a hash of its name, so that who comes back gets the same one again,
//! and an address that was given back is not the next one to be given.

mod book;
mod problem;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use api::NamespacedName;
use api::resources::{AddressRequest, IpPool, Service, ServiceType};
use ipnet::IpNet;

use crate::range::{Range, Span};
use crate::runs::Runs;
use book::Book;
pub use problem::{Problem, Unshared};

/// `spec.loadBalancerClass` of the Services that are ours, besides those without a class.
pub const CLASS: &str = "portolan.io/load-balancer";

/// All that an allocation depends on.
#[derive(Clone, Debug, Default)]
pub struct View<'a> {
    /// The IPPools; those that are for something else are passed over.
    pub pools: Vec<&'a IpPool>,
    /// What is given to nobody who does not ask for it by name: IPReservations.
    pub reserved: Vec<IpNet>,
    /// What is given to nobody: addresses of Nodes.
    pub excluded: Vec<IpAddr>,
    /// The Services; those that are not ours are passed over.
    pub services: Vec<&'a Service>,
}

/// What a Service is to have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allocation {
    /// Its addresses, at most one a family, in the order of its cluster IPs.
    pub addresses: Vec<IpAddr>,
    /// Why it has not all that it should have, or not what it asks for.
    pub problems: Vec<Problem>,
}

/// Whether its addresses are ours to give: it is of type LoadBalancer, and of our class or of none.
pub fn is_ours(service: &Service) -> bool {
    let class = service.load_balancer_class.as_deref();
    service.service_type == ServiceType::LoadBalancer && class.is_none_or(|class| class == CLASS)
}

/// What each Service that is ours, or was, is to have. Who is not named is another's.
///
/// An address that somebody has now is nobody else's before that one's status says so, which takes another call: two may
/// never have it at once, whichever status is written first.
pub fn allocate(view: &View<'_>) -> BTreeMap<NamespacedName, Allocation> {
    let mut told = BTreeMap::new();
    let (mut ours, mut others): (Vec<&Service>, Vec<&Service>) = Default::default();
    let pools = Pools::new(view);
    for service in &view.services {
        if pools.has_nothing_for(service) {
            others.push(service);
        } else if !is_ours(service) {
            others.push(service);
            if service.is_allocated_here {
                told.insert(service.name.clone(), Allocation::default());
            }
        } else if pools.is_balanced_elsewhere(service) {
            let allocation = Allocation {
                addresses: service.load_balancer_ips.clone(),
                problems: vec![Problem::BalancedElsewhere],
            };
            told.insert(service.name.clone(), allocation);
            others.push(service);
        } else {
            ours.push(service);
        }
    }
    // Who was there first keeps what two have; in a directory, where nobody says when, it is the order of names.
    let age = |service: &&Service| (service.created.is_none(), service.created.clone());
    ours.sort_by_cached_key(|service| (age(service), service.name.clone()));
    let reserved = view.reserved.iter().map(|cidr| Span::whole(*cidr));
    let excluded = view.excluded.iter().map(|address| Span::one(*address));
    let mut book = Book::new(reserved.chain(excluded));
    let held: Vec<Vec<Result<IpAddr, Problem>>> =
        ours.iter().map(|service| book.enter(service)).collect();
    for service in others {
        book.leave(service, &[]);
    }
    for (service, held) in ours.into_iter().zip(held) {
        told.insert(service.name.clone(), pools.decide(&mut book, service, held));
    }
    told
}

/// How full a pool is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolUsage {
    /// Its name.
    pub name: String,
    /// Its CIDR.
    pub cidr: IpNet,
    /// Addresses of it that somebody has, or is to have.
    pub held: u128,
    /// Addresses that the next Service could be given; none of a disabled pool.
    pub free: u128,
}

/// How full each pool for load balancers is, by name, once everybody has what was worked out of the same view.
pub fn usage(view: &View<'_>, told: &BTreeMap<NamespacedName, Allocation>) -> Vec<PoolUsage> {
    let mut held: BTreeSet<IpAddr> = told
        .values()
        .flat_map(|allocation| allocation.addresses.iter().copied())
        .collect();
    let services = view.services.iter();
    held.extend(services.flat_map(|service| service.load_balancer_ips.iter().copied()));
    let reserved = view.reserved.iter().map(|cidr| Span::whole(*cidr));
    let excluded = view.excluded.iter().map(|address| Span::one(*address));
    let mut busy: Runs = reserved.chain(excluded).collect();
    for address in &held {
        busy.insert(*address);
    }
    let usage = |pool: &Pool<'_>| {
        let span = pool.range.span();
        let free = span.len().saturating_sub(busy.count_in(span));
        let held = held.iter().filter(|ip| pool.pool.cidr.contains(*ip));
        PoolUsage {
            name: pool.pool.name.clone(),
            cidr: pool.pool.cidr,
            // A set has at most `usize::MAX` entries, which fit.
            held: held.count() as u128,
            free: if pool.pool.disabled { 0 } else { free },
        }
    };
    Pools::new(view).pools.iter().map(usage).collect()
}

/// One pool, and its addresses that can be given.
struct Pool<'a> {
    pool: &'a IpPool,
    range: Range,
}

/// The pools for load balancers, by name.
struct Pools<'a> {
    pools: Vec<Pool<'a>>,
    excluded: BTreeSet<IpAddr>,
}

impl<'a> Pools<'a> {
    fn new(view: &'a View<'a>) -> Self {
        let pools = view
            .pools
            .iter()
            .filter(|pool| pool.is_for_load_balancers());
        let mut pools: Vec<Pool<'_>> = pools
            .map(|pool| Pool {
                pool,
                range: Range::new(pool.cidr),
            })
            .collect();
        pools.sort_by(|one, other| one.pool.name.cmp(&other.pool.name));
        Self {
            pools,
            excluded: view.excluded.iter().copied().collect(),
        }
    }

    /// Whether nothing is said of it: it names no class, and there is nothing to give. Somebody else may be about to.
    fn has_nothing_for(&self, service: &Service) -> bool {
        let is_spoken_of = service.is_allocated_here || service.load_balancer_class.is_some();
        self.pools.is_empty() && !is_spoken_of
    }

    /// Whether another has written its status, although it names no class.
    fn is_balanced_elsewhere(&self, service: &Service) -> bool {
        let held = &service.load_balancer_ips;
        let is_of_no_pool = !held.is_empty() && !held.iter().any(|ip| self.holds(*ip));
        let is_written = service.is_balanced_elsewhere || is_of_no_pool;
        service.load_balancer_class.is_none() && !service.is_allocated_here && is_written
    }

    fn holds(&self, address: IpAddr) -> bool {
        self.pools
            .iter()
            .any(|pool| pool.pool.cidr.contains(&address))
    }

    fn decide(
        &self,
        book: &mut Book<'a>,
        service: &'a Service,
        held: Vec<Result<IpAddr, Problem>>,
    ) -> Allocation {
        let mut allocation = Allocation::default();
        let nothing = AddressRequest::default();
        let request = match &service.address_request {
            Ok(request) => Some(request),
            Err(why) => {
                allocation.problems.push(Problem::Unreadable(why.clone()));
                None
            }
        };
        let mut kept = Vec::new();
        for outcome in held {
            match outcome {
                Ok(address) => kept.push(address),
                Err(problem) => allocation.problems.push(problem),
            }
        }
        for address in &request.unwrap_or(&nothing).addresses {
            let is_of_them = |ip: &IpAddr| ip.is_ipv4() == address.is_ipv4();
            if !service.cluster_ips.iter().any(is_of_them) {
                let problem = Problem::NotOfItsFamilies(*address);
                allocation.problems.push(problem);
            }
        }
        for cluster_ip in &service.cluster_ips {
            let is_ipv4 = cluster_ip.is_ipv4();
            let held = kept.iter().copied().find(|ip| ip.is_ipv4() == is_ipv4);
            let wanted = match request {
                // Who is about to go, or asks for what nobody understands, keeps what it has.
                Some(request) if !service.is_being_deleted => {
                    self.wanted(book, service, request, is_ipv4, held)
                }
                _ => Ok(held),
            };
            let address = match wanted {
                Ok(address) => address,
                Err(problem) => {
                    allocation.problems.push(problem);
                    held
                }
            };
            allocation.addresses.extend(address);
        }
        allocation
    }

    /// The address of a family that it should have; an error leaves it the one that it has.
    fn wanted(
        &self,
        book: &mut Book<'a>,
        service: &'a Service,
        request: &AddressRequest,
        is_ipv4: bool,
        held: Option<IpAddr>,
    ) -> Result<Option<IpAddr>, Problem> {
        let mut asked = request.addresses.iter().copied();
        if let Some(asked) = asked.find(|ip| ip.is_ipv4() == is_ipv4) {
            // A Node may have come that has it: an error leaves it what it has, and says so.
            if held != Some(asked) || self.excluded.contains(&asked) {
                self.may_be_asked_for(asked)?;
                book.take(service, asked)?;
            }
            return Ok(Some(asked));
        }
        let named = request.pools(is_ipv4);
        let is_allowed = |pool: &Pool<'_>| named.is_empty() || named.contains(&pool.pool.name);
        let mut pools = self.pools.iter();
        let stays = |address: IpAddr| {
            pools.any(|pool| is_allowed(pool) && pool.pool.cidr.contains(&address))
        };
        let is_free = |held: IpAddr| !self.excluded.contains(&held);
        if held.is_some_and(is_free) && held.is_some_and(stays) {
            return Ok(held);
        }
        let pools = self.pools_for(named, is_ipv4)?;
        self.free(book, service, request, &pools)
            .map(Some)
            .ok_or_else(|| Problem::Exhausted {
                pools: pools.iter().map(|pool| pool.pool.name.clone()).collect(),
            })
    }

    fn may_be_asked_for(&self, address: IpAddr) -> Result<(), Problem> {
        if !self.holds(address) {
            return Err(Problem::InNoPool(address));
        }
        if self.excluded.contains(&address) {
            return Err(Problem::OfNode(address));
        }
        Ok(())
    }

    /// The pools that a new address may be of.
    fn pools_for(&self, named: &[String], is_ipv4: bool) -> Result<Vec<&Pool<'a>>, Problem> {
        let is_of_family = |pool: &&Pool<'_>| pool.pool.cidr.addr().is_ipv4() == is_ipv4;
        let open = self.pools.iter().filter(|pool| !pool.pool.disabled);
        let open: Vec<&Pool<'_>> = open.filter(is_of_family).collect();
        if named.is_empty() {
            return match open.is_empty() {
                true => Err(Problem::NoPool { is_ipv4 }),
                false => Ok(open),
            };
        }
        let find = |name: &String| {
            let found = open.iter().find(|pool| pool.pool.name == *name).copied();
            found.ok_or_else(|| Problem::NoSuchPool(name.clone()))
        };
        let found: Vec<Result<&Pool<'_>, Problem>> = named.iter().map(find).collect();
        match found.iter().any(Result::is_ok) {
            true => Ok(found.into_iter().flatten().collect()),
            false => found.into_iter().collect(),
        }
    }

    /// An address that it may share, or one that nobody has.
    fn free(
        &self,
        book: &mut Book<'a>,
        service: &'a Service,
        request: &AddressRequest,
        pools: &[&Pool<'a>],
    ) -> Option<IpAddr> {
        let is_allowed = |ip: IpAddr| pools.iter().any(|pool| pool.range.contains(ip));
        if let Some(key) = &request.sharing_key {
            for address in book.shared_by(&service.name, key) {
                if is_allowed(address) && book.take(service, address).is_ok() {
                    return Some(address);
                }
            }
        }
        let mut free = pools
            .iter()
            .filter_map(|pool| book.free_in(service, &pool.range));
        let address = free.next()?;
        book.give(service, address);
        Some(address)
    }
}

#[cfg(test)]
mod tests;
