//! Which Pod address is held by which attachment: a pure allocator over the node's Pod CIDRs.
//!
//! Addresses are given round-robin, so one that comes back rests until the range has gone round. Keeping the
//! [`Snapshot`] on disk, and doing so before an address is told to anyone, is the caller's part.

mod error;
mod range;
mod snapshot;

use std::collections::BTreeMap;
use std::net::IpAddr;

use api::NamespacedName;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

pub use error::Error;
pub use snapshot::{Damaged, Snapshot};

use range::{Family, Range};

/// What holds addresses: one interface of one container, the key the CNI specification gives an attachment.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Holder {
    /// The runtime's container (sandbox) ID.
    pub container_id: String,
    /// The interface's name inside the container.
    pub interface: String,
}

/// The addresses one holder has, and for which pod.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Lease {
    /// Whose they are.
    pub holder: Holder,
    /// The pod, when the runtime named one.
    pub pod: Option<NamespacedName>,
    /// The pod's UID; empty when the runtime did not say it.
    pub uid: String,
    /// One address of each family the node had a CIDR of, in the order of those CIDRs.
    pub addresses: Vec<IpAddr>,
}

/// How full one CIDR is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// The Pod CIDR.
    pub cidr: IpNet,
    /// Addresses of it that are held.
    pub held: u128,
    /// Addresses of it that pods can have.
    pub usable: u128,
}

/// The allocator: CIDRs, leases, and the last address given of each family.
#[derive(Clone, Debug, Default)]
pub struct Ipam {
    ranges: Vec<Range>,
    leases: BTreeMap<Holder, Lease>,
    held: BTreeMap<IpAddr, Holder>,
    last: BTreeMap<Family, IpAddr>,
}

impl Ipam {
    /// An allocator with no leases.
    pub fn new(cidrs: Vec<IpNet>) -> Self {
        let mut ipam = Self::default();
        ipam.set_cidrs(cidrs);
        ipam
    }

    /// Takes the leases of a snapshot in place of the present ones; the CIDRs stay.
    pub fn restore(&mut self, snapshot: Snapshot) {
        let (leases, last) = snapshot.into_parts();
        self.held = leases
            .iter()
            .flat_map(|lease| lease.addresses.iter().map(|ip| (*ip, lease.holder.clone())))
            .collect();
        self.leases = leases
            .into_iter()
            .map(|lease| (lease.holder.clone(), lease))
            .collect();
        self.last = last.into_iter().map(|ip| (Family::of(ip), ip)).collect();
    }

    /// All that must outlive the process.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot::new(
            self.leases.values().cloned().collect(),
            self.last.values().copied().collect(),
        )
    }

    /// Says which CIDRs addresses come from. Leases outside them are kept until they are released.
    pub fn set_cidrs(&mut self, cidrs: Vec<IpNet>) {
        self.ranges.clear();
        for range in cidrs.into_iter().map(Range::new) {
            if !self.ranges.contains(&range) {
                self.ranges.push(range);
            }
        }
    }

    /// Gives the holder one address of each family there is a CIDR of; all of them or none.
    ///
    /// A holder that has a lease gets that one, whatever the CIDRs are by now, so that a runtime may try again
    /// after a crash. `fixed` names at most one address a family; the other family's is given as usual.
    ///
    /// # Errors
    /// If there is no CIDR, none is left, or a fixed address cannot be had: nothing has changed then.
    pub fn allocate(
        &mut self,
        holder: Holder,
        pod: Option<NamespacedName>,
        uid: &str,
        fixed: &[IpAddr],
    ) -> Result<&Lease, Error> {
        if let Some(lease) = self.leases.get(&holder) {
            if let Some(address) = fixed.iter().find(|ip| !lease.addresses.contains(ip)) {
                return Err(Error::HoldsOthers {
                    holder,
                    address: *address,
                });
            }
        } else {
            let addresses = self.choose(fixed)?;
            for address in &addresses {
                self.held.insert(*address, holder.clone());
                if !fixed.contains(address) {
                    self.last.insert(Family::of(*address), *address);
                }
            }
            let lease = Lease {
                holder: holder.clone(),
                pod,
                uid: uid.to_owned(),
                addresses,
            };
            self.leases.insert(holder.clone(), lease);
        }
        Ok(self
            .leases
            .get(&holder)
            .expect("it was there or has just been put there"))
    }

    /// Takes the holder's addresses back; the lease that was, if there was one.
    pub fn release(&mut self, holder: &Holder) -> Option<Lease> {
        let lease = self.leases.remove(holder)?;
        for address in &lease.addresses {
            self.held.remove(address);
        }
        Some(lease)
    }

    /// Every lease, in the holders' order.
    pub fn leases(&self) -> impl Iterator<Item = &Lease> {
        self.leases.values()
    }

    /// One holder's lease.
    pub fn lease(&self, holder: &Holder) -> Option<&Lease> {
        self.leases.get(holder)
    }

    /// Who holds an address.
    pub fn holder_of(&self, address: IpAddr) -> Option<&Holder> {
        self.held.get(&address)
    }

    /// How full each CIDR is, in their order.
    pub fn usage(&self) -> impl Iterator<Item = Usage> {
        self.ranges.iter().map(|range| Usage {
            cidr: range.cidr(),
            held: self.held_in(range),
            usable: range.usable(),
        })
    }

    /// The addresses a new lease would have: the fixed ones, and the next of each family they leave out.
    fn choose(&self, fixed: &[IpAddr]) -> Result<Vec<IpAddr>, Error> {
        if self.ranges.is_empty() {
            return Err(Error::NoCidr);
        }
        let mut wanted = BTreeMap::new();
        for address in fixed {
            self.check_fixed(*address)?;
            if let Some(first) = wanted.insert(Family::of(*address), *address) {
                return Err(Error::TwoOfAFamily {
                    first,
                    second: *address,
                });
            }
        }
        let mut families: Vec<Family> = Vec::new();
        for range in &self.ranges {
            if !families.contains(&range.family()) {
                families.push(range.family());
            }
        }
        families
            .into_iter()
            .map(|family| {
                wanted
                    .get(&family)
                    .map_or_else(|| self.next(family), |ip| Ok(*ip))
            })
            .collect()
    }

    fn check_fixed(&self, address: IpAddr) -> Result<(), Error> {
        if !self.ranges.iter().any(|range| range.contains(address)) {
            let cidrs = self.ranges.iter().map(Range::cidr).collect();
            return Err(Error::FixedOutside { address, cidrs });
        }
        match self.held.get(&address) {
            Some(holder) => Err(Error::FixedHeld {
                address,
                holder: holder.clone(),
            }),
            None => Ok(()),
        }
    }

    /// The first free address after the last one given, through the family's CIDRs in turn and round again.
    fn next(&self, family: Family) -> Result<IpAddr, Error> {
        let mut ranges: Vec<&Range> = self
            .ranges
            .iter()
            .filter(|range| range.family() == family)
            .collect();
        if let Some(last) = self.last.get(&family)
            && let Some(at) = ranges.iter().position(|range| range.contains(*last))
        {
            ranges.rotate_left(at);
            let free = ranges
                .first()
                .and_then(|range| range.free_after(*last, &self.held));
            if let Some(free) = free {
                return Ok(free);
            }
            ranges.rotate_left(1);
        }
        let free = ranges.iter().find_map(|range| range.first_free(&self.held));
        free.ok_or_else(|| self.exhausted(&ranges))
    }

    fn exhausted(&self, ranges: &[&Range]) -> Error {
        Error::Exhausted {
            cidrs: ranges.iter().map(|range| range.cidr()).collect(),
            held: ranges.iter().map(|range| self.held_in(range)).sum(),
        }
    }

    fn held_in(&self, range: &Range) -> u128 {
        let (first, last) = range.bounds();
        // A map holds at most usize::MAX entries, which fit.
        self.held.range(first..=last).count() as u128
    }
}
