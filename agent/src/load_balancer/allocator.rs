//! All that addresses depend on, and what follows. No await in here.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use api::resources::{IpPool, IpReservation, Service, ServiceType};
use api::{Change, Key, NamespacedName, Resource};
use datastore::{AddressVerdict, AllocatedAddresses, ServiceAddresses, print_of};
use ipam::load_balancer::{self, Allocation, PoolUsage, Problem, View};

/// A change of something that addresses depend on.
#[derive(Clone, Debug)]
pub(crate) enum Note {
    /// A Service that has to do with load balancers, or has no more.
    Service(NamespacedName, Option<Arc<Service>>),
    /// An IPPool.
    Pool(String, Option<Box<IpPool>>),
    /// An IPReservation.
    Reservation(String, Option<IpReservation>),
    /// The addresses of a Node.
    Node(String, Vec<IpAddr>),
    /// The sources have said all they hold.
    InSync,
}

impl Note {
    /// What of a change counts here.
    pub(crate) fn of(change: &Change) -> Option<Self> {
        Some(match (&change.key, &change.value) {
            (Key::Service(name), Some(Resource::Service(service))) if is_concerned(service) => {
                Self::Service(name.clone(), Some(Arc::new((**service).clone())))
            }
            (Key::Service(name), _) => Self::Service(name.clone(), None),
            (Key::IpPool(name), Some(Resource::IpPool(pool))) => {
                Self::Pool(name.clone(), Some(Box::new(pool.clone())))
            }
            (Key::IpPool(name), _) => Self::Pool(name.clone(), None),
            (Key::IpReservation(name), Some(Resource::IpReservation(reservation))) => {
                Self::Reservation(name.clone(), Some(reservation.clone()))
            }
            (Key::IpReservation(name), _) => Self::Reservation(name.clone(), None),
            (Key::Node(name), Some(Resource::Node(node))) => {
                Self::Node(name.clone(), node.addresses.clone())
            }
            (Key::Node(name), _) => Self::Node(name.clone(), Vec::new()),
            _ => return None,
        })
    }
}

/// Whether it should have an address of a load balancer, or has one.
fn is_concerned(service: &Service) -> bool {
    service.service_type == ServiceType::LoadBalancer
        || service.is_allocated_here
        || service.is_balanced_elsewhere
        || !service.load_balancer_ips.is_empty()
}

/// What is known.
#[derive(Debug, Default)]
pub(crate) struct Allocator {
    /// Each with its print.
    services: BTreeMap<NamespacedName, (Arc<Service>, u64)>,
    pools: BTreeMap<String, IpPool>,
    reservations: BTreeMap<String, IpReservation>,
    nodes: BTreeMap<String, Vec<IpAddr>>,
}

/// What follows: who is to have what, and how full pools are then.
#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    /// By Service; those of others are not here.
    pub(crate) allocated: BTreeMap<NamespacedName, Allocation>,
    /// The pools for load balancers, by name.
    pub(crate) pools: Vec<PoolUsage>,
}

/// A Service without all the addresses that it should have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unserved {
    pub(crate) name: NamespacedName,
    /// In one word for programs.
    pub(crate) reason: &'static str,
    /// For people.
    pub(crate) message: String,
}

impl Allocator {
    /// Takes a change; whether anything may follow from it.
    pub(crate) fn note(&mut self, note: Note) -> bool {
        match note {
            Note::Service(name, Some(service)) => {
                let print = print_of(&service);
                let before = self.services.insert(name, (service, print));
                before.is_none_or(|(_, before)| before != print)
            }
            Note::Service(name, None) => self.services.remove(&name).is_some(),
            Note::Pool(name, Some(pool)) => {
                let is_new = self.pools.get(&name) != Some(&*pool);
                self.pools.insert(name, *pool);
                is_new
            }
            Note::Pool(name, None) => self.pools.remove(&name).is_some(),
            Note::Reservation(name, Some(reservation)) => {
                let is_new = self.reservations.get(&name) != Some(&reservation);
                self.reservations.insert(name, reservation);
                is_new
            }
            Note::Reservation(name, None) => self.reservations.remove(&name).is_some(),
            Note::Node(name, addresses) if addresses.is_empty() => {
                self.nodes.remove(&name).is_some()
            }
            Note::Node(name, addresses) => {
                let is_new = self.nodes.get(&name) != Some(&addresses);
                self.nodes.insert(name, addresses);
                is_new
            }
            Note::InSync => true,
        }
    }

    /// A Service as the source has it.
    pub(crate) fn service(&self, name: &NamespacedName) -> Option<&Arc<Service>> {
        self.services.get(name).map(|(service, _)| service)
    }

    /// Works out what everybody is to have.
    pub(crate) fn allocate(&self) -> State {
        let reserved = self.reservations.values();
        let view = View {
            pools: self.pools.values().collect(),
            reserved: reserved.flat_map(|one| one.cidrs.clone()).collect(),
            excluded: self.nodes.values().flatten().copied().collect(),
            services: self.services.values().map(|(one, _)| &**one).collect(),
        };
        let allocated = load_balancer::allocate(&view);
        let pools = load_balancer::usage(&view, &allocated);
        State { allocated, pools }
    }

    /// What is to be written of it.
    pub(crate) fn verdicts(&self, state: &State) -> AllocatedAddresses {
        let verdict = |(name, allocation): (&NamespacedName, &Allocation)| {
            let (service, print) = self.services.get(name)?;
            let (print, verdict) = (*print, verdict(service, allocation, state)?);
            Some((name.clone(), ServiceAddresses { print, verdict }))
        };
        state.allocated.iter().filter_map(verdict).collect()
    }
}

/// What a Service's status is to say; nothing of one whose status is not ours.
fn verdict(service: &Service, allocation: &Allocation, state: &State) -> Option<AddressVerdict> {
    if !load_balancer::is_ours(service) {
        return Some(AddressVerdict::Nothing);
    }
    let Allocation {
        addresses,
        problems,
    } = allocation;
    let is_silent = addresses.is_empty() && problems.is_empty();
    if is_left_alone(allocation) || service.is_being_deleted || is_silent {
        return None;
    }
    let reason = problems.first().map_or("Allocated", Problem::reason);
    let given = addresses.iter().map(|ip| state.origin(*ip));
    let problems = problems.iter().map(ToString::to_string);
    Some(AddressVerdict::Has {
        addresses: addresses.clone(),
        is_whole: reason == "Allocated",
        reason,
        message: given.chain(problems).collect::<Vec<_>>().join("; "),
    })
}

fn is_left_alone(allocation: &Allocation) -> bool {
    allocation.problems.contains(&Problem::BalancedElsewhere)
}

impl State {
    /// An address, and of which pool it is.
    pub(crate) fn origin(&self, address: IpAddr) -> String {
        let mut pools = self.pools.iter();
        match pools.find(|pool| pool.cidr.contains(&address)) {
            Some(pool) => format!("{address} of IPPool {}", pool.name),
            None => format!("{address} of no IPPool any more"),
        }
    }

    /// What of a Service's addresses should be known: of which pools they are, and why it lacks one.
    pub(crate) fn notes(&self, service: &Service) -> Vec<String> {
        let Some(allocation) = self.allocated.get(&service.name) else {
            return Vec::new();
        };
        let addresses = service.load_balancer_ips.iter();
        let given = addresses.map(|address| self.origin(*address));
        let problems = allocation.problems.iter().map(ToString::to_string);
        given.chain(problems).collect()
    }

    /// Who lacks what, for people. `left_alone`: only those whose statuses are not written, as nothing else would say it.
    pub(crate) fn unserved(&self, left_alone: bool) -> Vec<Unserved> {
        let allocated = self.allocated.iter();
        let asked = allocated.filter(|(_, one)| !left_alone || is_left_alone(one));
        let unserved = asked.filter_map(|(name, one)| {
            let problems = one.problems.iter().map(ToString::to_string);
            Some(Unserved {
                name: name.clone(),
                reason: one.problems.first()?.reason(),
                message: problems.collect::<Vec<_>>().join("; "),
            })
        });
        unserved.collect()
    }
}

#[cfg(test)]
mod tests;
