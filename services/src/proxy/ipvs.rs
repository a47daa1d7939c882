//! The model as virtual services of IPVS: what leads packets where the chains ([`super::iptables::Leads::Ipvs`]) only say whose
//! they are.
//!
//! ```text
//! Model ─changed names─► Compiler ─► Desired ─┐
//!                                   Actual ───┴─ plan (told the time) ─► steps, and when to look again
//! ```
//! A virtual service does what the model says of all senders but this node and its pods; these are led by chains where that is
//! something else. A destination that goes, and the service it was the last of, stay without new connections until theirs have
//! ended: IPVS alone knows where those lead.

mod plan;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use api::NamespacedName;
use api::resources;
use netfilter::{Family, Protocol};

pub use self::plan::{Draining, Plan, Step};
use super::index::Touched;
use super::iptables::{Options, addresses, virtual_addresses};
use super::model::{Answer, Frontend, Model, Served, ServicePort};

/// Where a virtual service is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Door {
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
    /// Address and port.
    pub address: SocketAddr,
}

/// A virtual service's own properties.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The scheduler's name.
    pub scheduler: Scheduler,
    /// For how long a client keeps its destination, in whole seconds (semantics 137).
    pub persistence: Option<Duration>,
}

/// By what IPVS chooses among destinations, as kube-proxy's `--ipvs-scheduler` names it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scheduler {
    /// One after the other.
    #[default]
    Rr,
    /// The one with the fewest connections.
    Lc,
    /// By the destination address.
    Dh,
    /// By the source address.
    Sh,
    /// The shortest delay that is to be expected.
    Sed,
    /// One that is idle; else the shortest delay.
    Nq,
    /// By the source address, so that few move where a destination goes (Maglev).
    Mh,
}

impl Scheduler {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Rr,
        Self::Lc,
        Self::Dh,
        Self::Sh,
        Self::Sed,
        Self::Nq,
        Self::Mh,
    ];

    /// The kernel's name of it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rr => "rr",
            Self::Lc => "lc",
            Self::Dh => "dh",
            Self::Sh => "sh",
            Self::Sed => "sed",
            Self::Nq => "nq",
            Self::Mh => "mh",
        }
    }
}

/// A virtual service as it is to be. All its destinations have the weight 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Virtual {
    /// Its properties.
    pub settings: Settings,
    /// Its destinations, in order.
    pub destinations: Vec<SocketAddr>,
}

/// What is to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// The virtual services.
    pub virtuals: BTreeMap<Door, Virtual>,
    /// How many Services have an address that this host is to take packets for; never 0.
    pub addresses: BTreeMap<IpAddr, usize>,
}

/// What there is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Actual {
    /// The virtual services that bear our mark.
    pub virtuals: BTreeMap<Door, ActualVirtual>,
    /// Others' virtual services.
    pub foreign: std::collections::BTreeSet<Door>,
    /// The addresses that this host takes packets for by our mark.
    pub addresses: std::collections::BTreeSet<IpAddr>,
}

/// A virtual service that there is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActualVirtual {
    /// The scheduler's name; it may be none that we know.
    pub scheduler: String,
    /// For how long a client keeps its destination.
    pub persistence: Option<Duration>,
    /// Its destinations.
    pub destinations: BTreeMap<SocketAddr, ActualDestination>,
}

/// A destination that there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ActualDestination {
    /// With 0 it gets no new connections.
    pub weight: u32,
    /// Connections that it has.
    pub connections: u32,
}

/// What one Service has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Part {
    virtuals: BTreeMap<Door, Virtual>,
    addresses: Vec<IpAddr>,
}

/// Compiles what changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compiler {
    scheduler: Scheduler,
    options: Options,
    parts: BTreeMap<NamespacedName, Part>,
    desired: Desired,
}

impl Compiler {
    /// Without any Service. The options are those of the chains.
    pub fn new(scheduler: Scheduler, options: Options) -> Self {
        Self {
            scheduler,
            options,
            parts: BTreeMap::new(),
            desired: Desired::default(),
        }
    }

    /// Takes the node's own addresses; all Services are to be compiled anew then.
    pub fn set_node_addresses(&mut self, addresses: &[IpAddr]) {
        self.options.node_addresses = addresses.to_vec();
    }

    /// Compiles anew those Services that changed ([`Model::refresh`] names them).
    pub fn update(&mut self, model: &Model, changed: &Touched) {
        // All old ones first: an address may go from one Service to another.
        for name in changed {
            let old = self.parts.remove(name).unwrap_or_default();
            for door in old.virtuals.keys() {
                self.desired.virtuals.remove(door);
            }
            for address in old.addresses {
                if let Some(count) = self.desired.addresses.get_mut(&address) {
                    *count -= 1;
                    if *count == 0 {
                        self.desired.addresses.remove(&address);
                    }
                }
            }
        }
        for name in changed {
            let Some(served) = model.service(name) else {
                continue;
            };
            let part = self.part(served);
            for (door, service) in &part.virtuals {
                self.desired.virtuals.insert(*door, service.clone());
            }
            for address in &part.addresses {
                *self.desired.addresses.entry(*address).or_default() += 1;
            }
            self.parts.insert(name.clone(), part);
        }
    }

    /// What is to be.
    pub fn desired(&self) -> &Desired {
        &self.desired
    }

    fn part(&self, served: &Served) -> Part {
        let mut part = Part::default();
        for port in &served.ports {
            part.addresses
                .extend(virtual_addresses(port, &self.options));
            self.add(&mut part, port);
        }
        part
    }

    fn add(&self, part: &mut Part, port: &ServicePort) {
        for frontend in &port.frontends {
            let Answer::Forward { to, .. } = port.answers(frontend.kind).other else {
                continue;
            };
            let of_port = Virtual {
                settings: Settings {
                    scheduler: self.scheduler,
                    persistence: port.affinity,
                },
                destinations: port.endpoints(to).iter().map(|one| one.address).collect(),
            };
            for address in addresses(frontend, &self.options) {
                let door = Door {
                    protocol: protocol(port.name.protocol),
                    address: SocketAddr::new(address, frontend.port),
                };
                part.virtuals.insert(door, of_port.clone());
            }
        }
    }
}

/// The virtual services that a Service has at a node of these addresses, each with its port and what it is of that.
pub fn doors<'a>(
    served: &'a Served,
    node_addresses: &[IpAddr],
) -> Vec<(&'a ServicePort, &'a Frontend, Door)> {
    let mut found = Vec::new();
    for port in &served.ports {
        for frontend in &port.frontends {
            if !matches!(port.answers(frontend.kind).other, Answer::Forward { .. }) {
                continue;
            }
            let of_node = node_addresses
                .iter()
                .filter(|one| frontend.address.is_none() && Family::of(**one) == frontend.family);
            for address in frontend.address.iter().chain(of_node) {
                let door = Door {
                    protocol: protocol(port.name.protocol),
                    address: SocketAddr::new(*address, frontend.port),
                };
                found.push((port, frontend, door));
            }
        }
    }
    found
}

fn protocol(of: resources::Protocol) -> Protocol {
    match of {
        resources::Protocol::Tcp => Protocol::Tcp,
        resources::Protocol::Udp => Protocol::Udp,
        resources::Protocol::Sctp => Protocol::Sctp,
    }
}

#[cfg(test)]
mod tests;
