//! Which Pod address is held by which attachment: a pure allocator over the node's Pod CIDRs.
//!
//! Addresses are given round-robin, and one that comes back rests for the cool-down at least. Keeping the
//! [`Snapshot`] and the [`Change`]s since on disk, and doing so before an address is told to anyone, is the caller's
//! part: [`Ipam::choose`] says what is to be written, [`Ipam::apply`] carries it out.

mod change;
mod choose;
mod cooling;
mod error;
mod leaks;
pub mod load_balancer;
mod range;
mod request;
mod runs;
mod snapshot;
mod usage;
mod written;

use std::collections::BTreeMap;
use std::net::IpAddr;

use api::NamespacedName;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

pub use change::{Change, Damaged};
pub use choose::Choice;
pub use cooling::Cooling;
pub use error::Error;
pub use leaks::{Finding, Scene};
pub use range::Span;
pub use request::Request;
pub use snapshot::Snapshot;
pub use usage::Usage;

use cooling::Resting;
use range::{Family, Range};
use runs::Runs;

/// For how many seconds an address rests unless [`Ipam::set_cool_down`] says otherwise: longer than the neighbours'
/// caches and most DNS answers that still name the pod that had it.
pub const COOL_DOWN: u64 = 30;

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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "written::WrittenLease", into = "written::WrittenLease")]
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
    /// When they were given, in seconds since 1970; 0 if an earlier release gave them.
    pub since: u64,
}

/// The allocator: CIDRs, leases, what rests, and the last address given of each family.
#[derive(Clone, Debug)]
pub struct Ipam {
    ranges: Vec<Range>,
    elsewhere: Vec<Range>,
    reserved: Runs,
    cool_down: u64,
    leases: BTreeMap<Holder, Lease>,
    held: BTreeMap<IpAddr, Holder>,
    resting: Resting,
    /// What is held or rests: not to be given as the next one.
    busy: Runs,
    last: BTreeMap<Family, IpAddr>,
}

impl Default for Ipam {
    fn default() -> Self {
        Self::new(Vec::new())
    }
}

impl Ipam {
    /// An allocator with no leases.
    pub fn new(cidrs: Vec<IpNet>) -> Self {
        Self {
            ranges: distinct(cidrs),
            elsewhere: Vec::new(),
            reserved: Runs::default(),
            cool_down: COOL_DOWN,
            leases: BTreeMap::new(),
            held: BTreeMap::new(),
            resting: Resting::default(),
            busy: Runs::default(),
            last: BTreeMap::new(),
        }
    }

    /// Takes the leases of a snapshot in place of the present ones; CIDRs, reservations and cool-down stay.
    pub fn restore(&mut self, snapshot: Snapshot) {
        self.resting = Resting::default();
        for entry in snapshot.cooling {
            self.resting.insert(entry);
        }
        let leases = snapshot.leases.into_iter();
        self.leases = leases.map(|lease| (lease.holder.clone(), lease)).collect();
        self.held = self
            .leases
            .values()
            .flat_map(|lease| lease.addresses.iter().map(|ip| (*ip, lease.holder.clone())))
            .collect();
        let resting = self.resting.iter().map(|entry| entry.address);
        let busy = self.held.keys().copied().chain(resting);
        self.busy = busy.map(Span::one).collect();
        let last = snapshot.last.into_iter();
        self.last = last.map(|ip| (Family::of(ip), ip)).collect();
    }

    /// All that must outlive the process.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot::new(
            self.leases.values().cloned().collect(),
            self.last.values().copied().collect(),
            self.resting.iter().cloned().collect(),
        )
    }

    /// Says which CIDRs addresses come from. Leases outside them are kept until they are released.
    pub fn set_cidrs(&mut self, cidrs: Vec<IpNet>) {
        self.ranges = distinct(cidrs);
    }

    /// Says of which further CIDRs (IPPools, other nodes' Pod CIDRs) an address may be asked for by name.
    pub fn set_elsewhere(&mut self, cidrs: Vec<IpNet>) {
        self.elsewhere = distinct(cidrs);
    }

    /// Says which addresses are given to nobody who does not ask for them by name.
    pub fn set_reserved(&mut self, cidrs: Vec<IpNet>) {
        self.reserved = cidrs.into_iter().map(Span::whole).collect();
    }

    /// Says for how many seconds an address rests that was given back.
    pub fn set_cool_down(&mut self, seconds: u64) {
        self.cool_down = seconds;
    }

    /// Gives the holder addresses at once: [`Ipam::choose`] and [`Ipam::apply`] in one.
    ///
    /// # Errors
    /// As [`Ipam::choose`]: nothing has changed then.
    pub fn allocate(&mut self, request: &Request) -> Result<Lease, Error> {
        Ok(match self.choose(request)? {
            Choice::Held(lease) => lease,
            Choice::New(change) => self
                .apply(change)
                .expect("a choice fits the state it was made of"),
        })
    }

    /// Takes the holder's addresses back; the lease that was, if there was one. `now` is in seconds since 1970.
    pub fn release(&mut self, holder: &Holder, now: u64) -> Option<Lease> {
        let holder = holder.clone();
        self.apply(Change::Released { holder, at: now }).ok()
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

    /// What rests at a time (seconds since 1970), in the addresses' order.
    pub fn cooling(&self, now: u64) -> impl Iterator<Item = &Cooling> {
        let resting = self.resting.iter();
        resting.filter(move |entry| entry.rests(now, self.cool_down))
    }

    /// Whether a pod here may have an address at all: as one of this node's own, or asked for by name.
    pub fn is_allowed(&self, address: IpAddr) -> bool {
        let mut own = self.ranges.iter();
        if own.any(|range| range.contains(address)) {
            return true;
        }
        // A pool around it must not lend out a network or broadcast address.
        let mut own = self.ranges.iter();
        let mut elsewhere = self.elsewhere.iter();
        !own.any(|range| range.cidr().contains(&address))
            && elsewhere.any(|range| range.contains(address))
    }

    fn spans_of(&self, family: Family) -> impl Iterator<Item = Span> {
        let spans = self.ranges.iter().map(Range::span);
        spans.filter(move |span| span.family() == family)
    }
}

fn distinct(cidrs: Vec<IpNet>) -> Vec<Range> {
    let mut ranges: Vec<Range> = Vec::with_capacity(cidrs.len());
    for range in cidrs.into_iter().map(Range::new) {
        if !ranges.contains(&range) {
            ranges.push(range);
        }
    }
    ranges
}
