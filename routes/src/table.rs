//! Desired routes against the kernel's: who is where, what is to be written, what failed; one task owns it.

mod plan;
mod read;
mod repoint;
mod write;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use hashbrown::HashMap;
use ipnet::IpNet;

use crate::conn::Conn;
use crate::failures::Failures;
use crate::intern::{Id, Interner};
use crate::links::blocking;
use crate::nexthops::{Hop, NextHops};
use crate::wire::{Encoded, Shape};
use crate::{Error, Target};

use plan::TargetState;
pub(crate) use read::read_routes;
pub use repoint::Repointed;

/// Which adopted routes may now be deleted if nobody desires them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sweep {
    /// Routes by gateways: when every peer has told its routes again, or was waited for long enough.
    Learned,
    /// Interface and blackhole routes: when the pods and Pod CIDRs are known.
    Local,
}

/// A key where another's route stands; ours is not written as long as it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Clash {
    /// The destination.
    pub prefix: IpNet,
    /// The other's protocol number.
    pub protocol: u8,
}

/// What one apply did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Routes added or changed.
    pub written: usize,
    /// Routes deleted.
    pub deleted: usize,
    /// Routes that could not be written or deleted now, and why, by prefix; they are tried again.
    pub failed: Vec<(IpNet, Arc<str>)>,
    /// Routes not written because another's has that key, by prefix.
    pub clashes: Vec<Clash>,
}

/// Counts for people and metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Status {
    /// Routes somebody desires.
    pub desired: usize,
    /// Routes of ours in the kernel.
    pub in_kernel: usize,
    /// Of those, adopted ones nobody has desired yet.
    pub adopted: usize,
    /// Desired, but refused by the kernel at the last try.
    pub failed: usize,
    /// Desired, but another's route has the key.
    pub clashes: usize,
    /// Waiting for the next apply.
    pub dirty: usize,
    /// Next-hop objects of ours in the kernel, groups included.
    pub nexthops: usize,
}

/// One route, for display.
#[derive(Debug, Clone, Copy)]
pub struct RouteView<'a> {
    /// The destination.
    pub prefix: IpNet,
    /// Where it should go; `None` for an adopted route nobody desires yet.
    pub desired: Option<&'a Target>,
    /// Whether the kernel has a route of ours there.
    pub in_kernel: bool,
    /// Why it is not as desired.
    pub problem: Option<&'a str>,
}

/// How routes are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Write routes of several gateways by next-hop groups, so that a lost gateway is taken out of
    /// all of them at once. Without, or where the kernel has none (before 5.3), each route holds
    /// its gateways itself. Switch it off where another program deletes foreign next-hop objects.
    pub next_hop_objects: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            next_hop_objects: true,
        }
    }
}

#[derive(Debug, Default)]
struct Entry {
    desired: Option<Id>,
    kernel: Option<Id>,
    /// Someone has said what should be here, if only that nothing should.
    claimed: bool,
    dirty: bool,
}

/// Desired routes and what of them the kernel holds.
///
/// A desired target is kept once for all its routes, and so is what it means in the kernel's terms.
#[derive(Debug)]
pub struct RouteTable {
    conn: Arc<Mutex<Conn>>,
    port: u32,
    options: Options,
    /// The kernel knows next-hop objects.
    objects: bool,
    entries: HashMap<IpNet, Entry>,
    targets: Interner<Target, TargetState>,
    shapes: Interner<Shape, Encoded>,
    nexthops: NextHops,
    dirty: Vec<IpNet>,
    failures: Failures,
    /// Others' routes that have our metric, with their protocol.
    foreign: BTreeMap<IpNet, u8>,
    /// As the last reading found them, see [`Self::subnets`].
    subnets: BTreeSet<IpNet>,
    permitted: BTreeSet<Sweep>,
    /// Gateways that do not answer, each behind one link or all.
    down: BTreeSet<(IpAddr, Option<u32>)>,
    /// Behind which link a gateway is, or why none; asked for once per reading of the kernel.
    located: BTreeMap<IpAddr, Result<u32, Arc<str>>>,
    /// Gateways for which the kernel refuses a next-hop object, and why.
    refused: BTreeMap<Hop, Arc<str>>,
    counts: Counts,
    /// A request's outcome is unknown (answer lost, apply dropped half-way): read before writing.
    uncertain: bool,
    /// Something in the apply under way went otherwise than it should: read again before the next round.
    doubt: bool,
}

#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    desired: usize,
    in_kernel: usize,
    adopted: usize,
}

impl Counts {
    fn add(&mut self, entry: &Entry) {
        self.desired += usize::from(entry.desired.is_some());
        self.in_kernel += usize::from(entry.kernel.is_some());
        self.adopted += usize::from(entry.kernel.is_some() && !entry.claimed);
    }

    fn subtract(&mut self, entry: &Entry) {
        self.desired -= usize::from(entry.desired.is_some());
        self.in_kernel -= usize::from(entry.kernel.is_some());
        self.adopted -= usize::from(entry.kernel.is_some() && !entry.claimed);
    }
}

impl RouteTable {
    /// Opens a socket in the calling thread's network namespace and adopts what an earlier run left.
    ///
    /// # Errors
    /// When the kernel can't be asked for its routes.
    pub async fn open() -> Result<Self, Error> {
        Self::open_with(Options::default()).await
    }

    /// Like [`Self::open`], with other options.
    ///
    /// # Errors
    /// When the kernel can't be asked for its routes.
    pub async fn open_with(options: Options) -> Result<Self, Error> {
        let conn = Conn::open()?;
        let mut table = Self {
            port: conn.port(),
            conn: Arc::new(Mutex::new(conn)),
            options,
            objects: options.next_hop_objects,
            entries: HashMap::new(),
            targets: Interner::default(),
            shapes: Interner::default(),
            nexthops: NextHops::default(),
            dirty: Vec::new(),
            failures: Failures::new(),
            foreign: BTreeMap::new(),
            subnets: BTreeSet::new(),
            permitted: BTreeSet::new(),
            down: BTreeSet::new(),
            located: BTreeMap::new(),
            refused: BTreeMap::new(),
            counts: Counts::default(),
            uncertain: false,
            doubt: false,
        };
        table.reread().await?;
        Ok(table)
    }

    /// Says where packets to a prefix should go; `None`: nowhere by us. The last word counts.
    ///
    /// Writes nothing. `None` deletes at the next apply even what was only adopted.
    pub fn set(&mut self, prefix: IpNet, target: Option<Target>) {
        let prefix = prefix.trunc();
        let desired =
            target.map(|target| self.targets.acquire(target.canonical(), TargetState::new));
        let entry = self.entries.entry(prefix).or_default();
        let news = entry.desired != desired || !entry.claimed;
        self.counts.subtract(entry);
        let before = std::mem::replace(&mut entry.desired, desired);
        entry.claimed = true;
        self.counts.add(entry);
        if news && !std::mem::replace(&mut entry.dirty, true) {
            self.dirty.push(prefix);
        }
        if news {
            self.failures.clear(&prefix);
        }
        if let Some(before) = before {
            self.release_target(before);
        }
    }

    /// Lets the next apply delete adopted routes of a class that nobody has desired since the start.
    pub fn permit_sweep(&mut self, class: Sweep) {
        self.permitted.insert(class);
        self.mark_unwanted();
    }

    /// Reads the kernel's routes again and marks what differs from the desired for the next apply.
    ///
    /// For notices of a [`crate::Monitor`]; refused routes are due at once afterwards.
    pub async fn resync(&mut self) {
        if let Err(error) = self.reread().await {
            tracing::warn!(%error, "routes can't be read back");
            self.uncertain = true;
        }
    }

    /// When the earliest refused route is due again; apply then.
    #[must_use]
    pub fn next_retry(&self) -> Option<Instant> {
        self.failures.next()
    }

    /// Whether an apply has something to do now.
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        self.uncertain || !self.dirty.is_empty()
    }

    /// Counts.
    #[must_use]
    pub fn status(&self) -> Status {
        Status {
            desired: self.counts.desired,
            in_kernel: self.counts.in_kernel,
            adopted: self.counts.adopted,
            failed: self.failures.count() - self.failures.clashes(),
            clashes: self.failures.clashes(),
            dirty: self.dirty.len(),
            nexthops: self.nexthops.count(),
        }
    }

    /// Subnets of this host's own interfaces whose routes would give way to one of ours, as the last reading found them:
    /// those of IPv6, which the kernel writes with metric 256 (those of IPv4 have 0).
    #[must_use]
    pub fn subnets(&self) -> &BTreeSet<IpNet> {
        &self.subnets
    }

    /// Every route desired or in the kernel, by prefix.
    pub fn routes(&self) -> impl Iterator<Item = RouteView<'_>> {
        let mut prefixes: Vec<_> = self.entries.keys().copied().collect();
        prefixes.sort_unstable();
        prefixes.into_iter().filter_map(|prefix| {
            let entry = self.entries.get(&prefix)?;
            Some(RouteView {
                prefix,
                desired: entry.desired.and_then(|id| self.targets.value(id)),
                in_kernel: entry.kernel.is_some(),
                problem: self.failures.why(&prefix),
            })
        })
    }

    /// Every route that is not as desired and why, by prefix; also those whose next try is not due yet.
    #[must_use]
    pub fn problems(&self) -> Vec<(IpNet, Arc<str>)> {
        self.failures.all()
    }

    pub(crate) fn port(&self) -> u32 {
        self.port
    }

    fn mark_unwanted(&mut self) {
        for (prefix, entry) in &mut self.entries {
            let shape = entry.kernel.and_then(|id| self.shapes.value(id));
            let unwanted = shape.is_some_and(|shape| self.permitted.contains(&class(shape)));
            if entry.desired.is_none() && unwanted && !std::mem::replace(&mut entry.dirty, true) {
                self.dirty.push(*prefix);
            }
        }
    }

    fn mark_dirty(&mut self, prefix: IpNet) {
        if let Some(entry) = self.entries.get_mut(&prefix)
            && !std::mem::replace(&mut entry.dirty, true)
        {
            self.dirty.push(prefix);
        }
    }

    /// Notes what the kernel holds at a prefix; takes over the caller's use of the shape.
    fn set_kernel(&mut self, prefix: IpNet, shape: Option<Id>) {
        let entry = self.entries.entry(prefix).or_default();
        self.counts.subtract(entry);
        let before = std::mem::replace(&mut entry.kernel, shape);
        self.counts.add(entry);
        if let Some(before) = before {
            self.shapes.release(before);
        }
    }

    /// Nobody wants it and the kernel has it not.
    fn forget(&mut self, prefix: IpNet) {
        if let Some(entry) = self.entries.remove(&prefix) {
            self.counts.subtract(&entry);
            if let Some(shape) = entry.kernel {
                self.shapes.release(shape);
            }
        }
        self.failures.clear(&prefix);
    }

    fn release_target(&mut self, target: Id) {
        let Some(state) = self.targets.release(target) else {
            return;
        };
        if let Some(shape) = state.shape() {
            self.shapes.release(shape);
        }
        if let Some(group) = state.group {
            self.nexthops.release(group);
        }
    }

    async fn with_conn<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Conn) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let conn = Arc::clone(&self.conn);
        blocking(move || work(&mut conn.lock().unwrap_or_else(PoisonError::into_inner))).await
    }
}

fn class(shape: &Shape) -> Sweep {
    match shape {
        Shape::Gateways(_) | Shape::Group(_) | Shape::Strange => Sweep::Learned,
        Shape::Onlink(..) | Shape::Device(_) | Shape::Blackhole => Sweep::Local,
    }
}
