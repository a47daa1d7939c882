//! Desired routes against the kernel's: who is where, what to write, what failed; one task owns it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use netlink_packet_route::AddressFamily;
use nix::errno::Errno;
use reconcile::{Backoff, RetrySet};

use crate::conn::{Batch, Conn, Refusal};
use crate::links::{self, blocking};
use crate::message::{self, Dumped, Installed};
use crate::{Error, Target};

/// First and greatest delay before a refused route is tried again; a notice of change tries at once.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));
/// Times an apply goes round for keys that turned out to be ours after all.
const ROUNDS: u32 = 2;

/// Which adopted routes may now be deleted if nobody desires them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sweep {
    /// Routes by gateways: when every peer has told its routes again, or was waited for long enough.
    Learned,
    /// Interface and blackhole routes: when the pods and Pod CIDRs are known.
    Local,
}

/// A key where another's route stands; ours is not written as long as it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
    /// Routes that could not be written or deleted now, and why; they are tried again.
    pub failed: Vec<(IpNet, String)>,
    /// Routes not written because another's has that key.
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

#[derive(Debug, Default)]
struct Entry {
    desired: Option<Target>,
    kernel: Option<Installed>,
    /// Someone has said what should be here, if only that nothing should.
    claimed: bool,
}

/// Desired routes and what of them the kernel holds.
#[derive(Debug)]
pub struct RouteTable {
    conn: Arc<Mutex<Conn>>,
    port: u32,
    entries: BTreeMap<IpNet, Entry>,
    dirty: BTreeSet<IpNet>,
    retries: RetrySet<IpNet>,
    problems: BTreeMap<IpNet, String>,
    clashes: BTreeMap<IpNet, u8>,
    permitted: BTreeSet<Sweep>,
    /// A request's outcome is unknown (answer lost, apply dropped half-way): read before writing.
    uncertain: bool,
}

#[derive(Debug)]
enum Step {
    Write(Installed, bool),
    Delete,
}

impl RouteTable {
    /// Opens a socket in the calling thread's network namespace and adopts what an earlier run left.
    ///
    /// # Errors
    /// When the kernel can't be asked for its routes.
    pub async fn open() -> Result<Self, Error> {
        let conn = Conn::open()?;
        let mut table = Self {
            port: conn.port(),
            conn: Arc::new(Mutex::new(conn)),
            entries: BTreeMap::new(),
            dirty: BTreeSet::new(),
            retries: RetrySet::new(Backoff::new(RETRY.0, RETRY.1)),
            problems: BTreeMap::new(),
            clashes: BTreeMap::new(),
            permitted: BTreeSet::new(),
            uncertain: false,
        };
        table.reread().await?;
        Ok(table)
    }

    /// Says where packets to a prefix should go; `None`: nowhere by us. The last word counts.
    ///
    /// Writes nothing. `None` deletes at the next apply even what was only adopted.
    pub fn set(&mut self, prefix: IpNet, target: Option<Target>) {
        let prefix = prefix.trunc();
        let entry = self.entries.entry(prefix).or_default();
        let news = entry.desired != target || !entry.claimed;
        entry.desired = target;
        entry.claimed = true;
        if news {
            self.retries.handle_success(&prefix);
            self.dirty.insert(prefix);
        }
    }

    /// Lets the next apply delete adopted routes of a class that nobody has desired since the start.
    pub fn permit_sweep(&mut self, class: Sweep) {
        self.permitted.insert(class);
        self.mark_unwanted();
    }

    /// Brings the kernel to what is desired: only differences are written, additions and changes
    /// before deletions. What fails stays due, see [`Self::next_retry`].
    pub async fn apply(&mut self) -> Report {
        let mut report = Report::default();
        if self.uncertain
            && let Err(error) = self.reread().await
        {
            tracing::warn!(%error, "routes can't be read back; nothing is written");
            let text = error.to_string();
            report.failed = self
                .dirty
                .iter()
                .map(|prefix| (*prefix, text.clone()))
                .collect();
            return report;
        }
        for _ in 0..ROUNDS {
            let contested = self.round(&mut report).await;
            if contested.is_empty() {
                break;
            }
            if let Err(error) = self.settle(contested, &mut report).await {
                tracing::warn!(%error, "the owners of contested routes can't be read");
                break;
            }
        }
        report
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
        self.retries.poll_timeout()
    }

    /// Whether an apply has something to do now.
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        self.uncertain || !self.dirty.is_empty()
    }

    /// Counts; walks all routes.
    #[must_use]
    pub fn status(&self) -> Status {
        let mut status = Status {
            failed: self.problems.len().saturating_sub(self.clashes.len()),
            clashes: self.clashes.len(),
            dirty: self.dirty.len(),
            ..Status::default()
        };
        for entry in self.entries.values() {
            status.desired += usize::from(entry.desired.is_some());
            status.in_kernel += usize::from(entry.kernel.is_some());
            status.adopted += usize::from(entry.kernel.is_some() && !entry.claimed);
        }
        status
    }

    /// Every route desired or in the kernel, by prefix.
    pub fn routes(&self) -> impl Iterator<Item = RouteView<'_>> {
        self.entries.iter().map(|(prefix, entry)| RouteView {
            prefix: *prefix,
            desired: entry.desired.as_ref(),
            in_kernel: entry.kernel.is_some(),
            problem: self.problems.get(prefix).map(String::as_str),
        })
    }

    pub(crate) fn port(&self) -> u32 {
        self.port
    }

    fn mark_unwanted(&mut self) {
        for (prefix, entry) in &self.entries {
            let unwanted = entry
                .kernel
                .as_ref()
                .is_some_and(|k| self.permitted.contains(&class(k)));
            if entry.desired.is_none() && unwanted {
                self.dirty.insert(*prefix);
            }
        }
    }

    /// Works off what is dirty or due; returns the keys the kernel says someone already holds.
    async fn round(&mut self, report: &mut Report) -> BTreeSet<IpNet> {
        let mut keys = std::mem::take(&mut self.dirty);
        keys.extend(self.retries.due(Instant::now()));
        let mut steps = Vec::new();
        let indexes = self.indexes(&keys).await;
        for prefix in keys {
            self.plan(prefix, &indexes, &mut steps, report);
        }
        // New routes first: a flow that moves from one prefix to another finds no gap.
        steps.sort_by_key(|(_, step)| matches!(step, Step::Delete));
        let mut contested = BTreeSet::new();
        let mut steps = steps.into_iter().peekable();
        while steps.peek().is_some() {
            let mut batch = Batch::default();
            let mut sent = Vec::new();
            while let Some((prefix, step)) = steps.next_if(|_| !batch.is_full()) {
                match &step {
                    Step::Write(to, fresh) => {
                        let (message, flags) = message::install(prefix, to, *fresh);
                        batch.push(message, flags);
                    }
                    Step::Delete => batch.push(message::remove(prefix), 0),
                }
                sent.push((prefix, step));
            }
            // Should this future be dropped at the await, the truth is in the kernel only.
            self.uncertain = true;
            self.dirty.extend(sent.iter().map(|(prefix, _)| *prefix));
            let outcome = self.with_conn(move |conn| conn.transact(&batch)).await;
            match outcome {
                Ok(mut refusals) => {
                    self.uncertain = false;
                    for (place, (prefix, step)) in sent.into_iter().enumerate() {
                        self.dirty.remove(&prefix);
                        let refusal = refusals.remove(&place);
                        self.record(prefix, step, refusal, report, &mut contested);
                    }
                }
                Err(error) => {
                    let text = error.to_string();
                    for (prefix, _) in sent.into_iter().chain(steps) {
                        self.fail(prefix, text.clone(), report);
                        self.dirty.insert(prefix);
                    }
                    return contested;
                }
            }
        }
        contested
    }

    fn plan(
        &mut self,
        prefix: IpNet,
        indexes: &BTreeMap<String, u32>,
        steps: &mut Vec<(IpNet, Step)>,
        report: &mut Report,
    ) {
        let Some(entry) = self.entries.get(&prefix) else {
            self.clear(&prefix);
            return;
        };
        let Some(target) = &entry.desired else {
            match &entry.kernel {
                Some(_) => steps.push((prefix, Step::Delete)),
                None => self.forget(prefix),
            }
            return;
        };
        match wanted(prefix, target, indexes) {
            Err(why) => self.fail(prefix, why, report),
            Ok(to) if entry.kernel.as_ref().is_some_and(|k| k.satisfies(&to)) => {
                self.clear(&prefix)
            }
            Ok(to) => {
                let fresh = entry.kernel.is_none();
                steps.push((prefix, Step::Write(to, fresh)));
            }
        }
    }

    fn record(
        &mut self,
        prefix: IpNet,
        step: Step,
        refusal: Option<Refusal>,
        report: &mut Report,
        contested: &mut BTreeSet<IpNet>,
    ) {
        match (step, refusal) {
            (Step::Write(to, _), None) => {
                report.written += 1;
                if let Some(entry) = self.entries.get_mut(&prefix) {
                    entry.kernel = Some(to);
                }
                self.clear(&prefix);
            }
            (Step::Write(_, true), Some(refusal)) if refusal.is(Errno::EEXIST) => {
                contested.insert(prefix);
            }
            (Step::Delete, None) => {
                report.deleted += 1;
                self.forget(prefix);
            }
            // Gone already, with its link perhaps.
            (Step::Delete, Some(refusal)) if refusal.is(Errno::ESRCH) => self.forget(prefix),
            (_, Some(refusal)) => self.fail(prefix, refusal.to_string(), report),
        }
    }

    /// Finds out who holds contested keys: another (a clash) or we ourselves (to be replaced).
    async fn settle(&mut self, keys: BTreeSet<IpNet>, report: &mut Report) -> Result<(), Error> {
        self.dirty.extend(&keys);
        let v4 = keys.iter().any(|key| matches!(key, IpNet::V4(_)));
        let v6 = keys.iter().any(|key| matches!(key, IpNet::V6(_)));
        let asked = keys.clone();
        let found = self
            .with_conn(move |conn| {
                let mut found = Vec::new();
                let families = [(v4, AddressFamily::Inet), (v6, AddressFamily::Inet6)];
                for (_, family) in families.into_iter().filter(|(asked, _)| *asked) {
                    found.extend(read_routes(conn, family, false, |route| {
                        route.metric == crate::METRIC && asked.contains(&route.prefix)
                    })?);
                }
                Ok(found)
            })
            .await?;
        for route in found {
            if route.is_ours() {
                if let Some(entry) = self.entries.get_mut(&route.prefix) {
                    entry.kernel = Some(route.installed);
                }
                continue;
            }
            let (prefix, protocol) = (route.prefix, route.protocol);
            self.dirty.remove(&prefix);
            self.retries.handle_failure(prefix, Instant::now());
            self.clashes.insert(prefix, protocol);
            let text = format!(
                "another's route (protocol {protocol}) has metric {}",
                crate::METRIC
            );
            self.problems.insert(prefix, text);
            report.clashes.push(Clash { prefix, protocol });
        }
        Ok(())
    }

    fn fail(&mut self, prefix: IpNet, why: String, report: &mut Report) {
        self.retries.handle_failure(prefix, Instant::now());
        self.clashes.remove(&prefix);
        self.problems.insert(prefix, why.clone());
        report.failed.push((prefix, why));
    }

    fn clear(&mut self, prefix: &IpNet) {
        self.retries.handle_success(prefix);
        self.clashes.remove(prefix);
        self.problems.remove(prefix);
    }

    fn forget(&mut self, prefix: IpNet) {
        self.entries.remove(&prefix);
        self.clear(&prefix);
    }

    /// Looks up the interfaces that dirty routes name; always anew, since a name may have come back with another index.
    async fn indexes(&self, keys: &BTreeSet<IpNet>) -> BTreeMap<String, u32> {
        let mut names = BTreeSet::new();
        for entry in keys.iter().filter_map(|key| self.entries.get(key)) {
            if let Some(Target::Interface(name)) = &entry.desired {
                names.insert(name.clone());
            }
        }
        if names.is_empty() {
            return BTreeMap::new();
        }
        let lookup = move |conn: &mut Conn| {
            let mut indexes = BTreeMap::new();
            for name in names {
                // A name that is none is found nowhere; a length beyond the kernel's would be an error for all.
                if links::check_name(&name).is_ok()
                    && let Some(link) = links::find(conn, &name)?
                {
                    indexes.insert(name, link.index);
                }
            }
            Ok(indexes)
        };
        self.with_conn(lookup).await.unwrap_or_else(|error| {
            tracing::warn!(%error, "interfaces can't be looked up");
            BTreeMap::new()
        })
    }

    async fn reread(&mut self) -> Result<(), Error> {
        let (routes, indexes) = self
            .with_conn(|conn| {
                let mut routes = Vec::new();
                for family in [AddressFamily::Inet, AddressFamily::Inet6] {
                    routes.extend(read_routes(conn, family, true, Dumped::is_ours)?);
                }
                let indexes = links::dump(conn)?
                    .into_iter()
                    .map(|link| (link.name, link.index));
                Ok((routes, indexes.collect::<BTreeMap<_, _>>()))
            })
            .await?;
        self.uncertain = false;
        for entry in self.entries.values_mut() {
            entry.kernel = None;
        }
        for route in routes {
            self.entries.entry(route.prefix).or_default().kernel = Some(route.installed);
        }
        self.entries
            .retain(|_, entry| entry.desired.is_some() || entry.kernel.is_some());
        self.mark_unwanted();
        for (prefix, entry) in &self.entries {
            match &entry.desired {
                // An explicit `None` outlives a re-read: the route came back or its deletion failed.
                None if entry.claimed => {
                    self.dirty.insert(*prefix);
                }
                Some(target) => {
                    let wanted = wanted(*prefix, target, &indexes).ok();
                    let right = wanted
                        .zip(entry.kernel.as_ref())
                        .is_some_and(|(wanted, kernel)| kernel.satisfies(&wanted));
                    if !right {
                        self.dirty.insert(*prefix);
                    }
                }
                None => {}
            }
        }
        Ok(())
    }

    async fn with_conn<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Conn) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let conn = Arc::clone(&self.conn);
        blocking(move || work(&mut conn.lock().unwrap_or_else(PoisonError::into_inner))).await
    }
}

fn class(installed: &Installed) -> Sweep {
    match installed {
        Installed::Gateways(_) | Installed::Strange => Sweep::Learned,
        Installed::Device(_) | Installed::Blackhole => Sweep::Local,
    }
}

/// Puts a target in the kernel's terms, or says why it can't be written.
fn wanted(
    prefix: IpNet,
    target: &Target,
    indexes: &BTreeMap<String, u32>,
) -> Result<Installed, String> {
    match target {
        Target::Blackhole => Ok(Installed::Blackhole),
        Target::Interface(name) => match indexes.get(name) {
            Some(index) => Ok(Installed::Device(*index)),
            None => Err(format!("no interface {name:?}")),
        },
        Target::Gateways(gateways) => {
            let mut gateways = gateways.clone();
            gateways.sort_unstable();
            gateways.dedup_by_key(|g| (g.address, g.link));
            if gateways.is_empty() {
                return Err("no next hop".to_owned());
            }
            if matches!(prefix, IpNet::V6(_)) && gateways.iter().any(|g| g.address.is_ipv4()) {
                return Err("an IPv6 route can't go by an IPv4 next hop".to_owned());
            }
            Ok(Installed::Gateways(gateways))
        }
    }
}

fn read_routes(
    conn: &mut Conn,
    family: AddressFamily,
    ours: bool,
    keep: impl Fn(&Dumped) -> bool,
) -> Result<Vec<Dumped>, Error> {
    let what = "listing routes";
    let each = |message| message::read(&message).filter(&keep);
    match conn.dump(&message::dump(family, ours), what, each) {
        // A namespace where no route was ever made has no table main yet.
        Err(Error::Refused { source, .. }) if is_absence(&source) => Ok(Vec::new()),
        other => other,
    }
}

fn is_absence(error: &std::io::Error) -> bool {
    let absent = [Errno::ENOENT, Errno::EAFNOSUPPORT, Errno::EOPNOTSUPP];
    error
        .raw_os_error()
        .is_some_and(|errno| absent.contains(&Errno::from_raw(errno)))
}
