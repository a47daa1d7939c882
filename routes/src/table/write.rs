//! Applying: what is dirty or due becomes requests in batches, new routes before deletions, refusals told by key.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use ipnet::IpNet;
use nix::errno::Errno;

use super::plan::Plan;
use super::{Clash, Report, RouteTable};
use crate::batch::Batch;
use crate::conn::Refusal;
use crate::intern::Id;
use crate::wire::{self, Shape};
use crate::{Error, METRIC, Target};

/// Times an apply goes round: once as a rule, again after a look at what the kernel really holds.
const ROUNDS: u32 = 4;

/// What one apply has done so far.
#[derive(Debug, Default)]
struct Tally {
    written: usize,
    deleted: usize,
    failed: BTreeMap<IpNet, Arc<str>>,
    clashes: BTreeMap<IpNet, u8>,
    /// The kernel said that someone holds the key; the table has been read since.
    contested: BTreeSet<IpNet>,
    /// Their group was not there when a route was to use it.
    groupless: BTreeSet<Id>,
}

impl Tally {
    fn settle(&mut self, prefix: &IpNet) {
        self.failed.remove(prefix);
        self.clashes.remove(prefix);
    }
}

/// A route to be written.
#[derive(Debug, Clone, Copy)]
struct Install {
    prefix: IpNet,
    shape: Id,
    fresh: bool,
}

impl RouteTable {
    /// Brings the kernel to what is desired: only differences are written, additions and changes
    /// before deletions. What fails stays due, see [`Self::next_retry`].
    ///
    /// May be dropped half-way: the next apply reads first.
    pub async fn apply(&mut self) -> Report {
        let mut tally = Tally::default();
        for _ in 0..ROUNDS {
            if self.uncertain
                && let Err(error) = self.reread().await
            {
                tracing::warn!(%error, "routes can't be read back; nothing is written");
                let why: Arc<str> = error.to_string().into();
                let waiting = self.dirty.iter().map(|prefix| (*prefix, Arc::clone(&why)));
                tally.failed.extend(waiting);
                break;
            }
            // Should this future be dropped at an await, the truth is in the kernel only.
            self.uncertain = true;
            self.doubt = false;
            if let Err(error) = self.round(&mut tally).await {
                self.fail_waiting(&error, &mut tally);
                break;
            }
            self.uncertain = self.doubt;
            if !self.uncertain && self.dirty.is_empty() {
                self.tidy().await;
                break;
            }
        }
        let clash = |(prefix, protocol)| Clash { prefix, protocol };
        Report {
            written: tally.written,
            deleted: tally.deleted,
            failed: tally.failed.into_iter().collect(),
            clashes: tally.clashes.into_iter().map(clash).collect(),
        }
    }

    /// Takes every route and next-hop object of ours out of the kernel: an uninstall. Nothing is
    /// desired afterwards.
    pub async fn remove_all(&mut self) -> Report {
        self.resync().await;
        let all: Vec<IpNet> = self.entries.keys().copied().collect();
        for prefix in all {
            self.set(prefix, None);
        }
        let mut report = self.apply().await;
        // A route that stayed would go with the object it uses, but untold.
        if self.counts.in_kernel == 0 {
            let left = self.nexthops.all();
            let writes = left.into_iter().map(crate::nexthops::Write::Delete);
            match self.write_nexthops(writes.collect()).await {
                Ok(_) => self.resync().await,
                Err(error) => tracing::warn!(%error, "next-hop objects can't be deleted"),
            }
            report
                .failed
                .retain(|(prefix, _)| self.entries.contains_key(prefix));
        }
        report
    }

    /// Works off what is dirty or due.
    async fn round(&mut self, tally: &mut Tally) -> Result<(), Error> {
        let keys = self.take_due();
        let (mut unplanned, mut seen) = (BTreeSet::new(), None);
        for key in &keys {
            let Some(entry) = self.entries.get_mut(key) else {
                continue;
            };
            entry.dirty = false;
            // Neighbours often go the same way.
            if let Some(target) = entry.desired
                && seen.replace(target) != Some(target)
                && self.needs_plan(target)
            {
                unplanned.insert(target);
            }
        }
        self.plan_targets(&unplanned).await;
        let (mut installs, mut deletions) = (Vec::with_capacity(keys.len()), Vec::new());
        for prefix in keys {
            self.step(prefix, &mut installs, &mut deletions, tally);
        }
        // New routes first: a flow that moves from one prefix to another finds no gap.
        self.install(&installs, tally).await?;
        self.delete(&deletions, tally).await
    }

    /// The dirty keys and those whose next try is due, in order.
    fn take_due(&mut self) -> Vec<IpNet> {
        let due: Vec<IpNet> = self.failures.due(Instant::now()).collect();
        if !due.is_empty() {
            // What was not reachable may be now.
            self.located.retain(|_, found| found.is_ok());
            self.refused.clear();
        }
        for prefix in due {
            match self.entries.get(&prefix).map(|entry| entry.desired) {
                Some(Some(target)) => self.forget_plan(target),
                Some(None) => {}
                None => self.failures.clear(&prefix),
            }
            self.mark_dirty(prefix);
        }
        let mut keys = std::mem::take(&mut self.dirty);
        keys.sort_unstable();
        keys
    }

    /// Whether a target must be looked at; interfaces always, since a name may have come back with another index.
    fn needs_plan(&self, target: Id) -> bool {
        let plan = self.targets.extra(target).map(|state| &state.plan);
        matches!(plan, Some(Plan::Unknown))
            || matches!(
                self.targets.value(target),
                Some(Target::Interface(_) | Target::Onlink { .. })
            )
    }

    fn step(
        &mut self,
        prefix: IpNet,
        installs: &mut Vec<Install>,
        deletions: &mut Vec<IpNet>,
        tally: &mut Tally,
    ) {
        let Some(entry) = self.entries.get(&prefix) else {
            return self.failures.clear(&prefix);
        };
        let Some(target) = entry.desired else {
            match entry.kernel {
                Some(_) => deletions.push(prefix),
                None => self.forget(prefix),
            }
            return;
        };
        let Some(state) = self.targets.extra(target) else {
            return;
        };
        let wrong_family = state.has_v4 && matches!(prefix, IpNet::V6(_));
        let there = entry.kernel;
        let shape = match &state.plan {
            _ if wrong_family => Err("an IPv6 route can't go by an IPv4 next hop".into()),
            Plan::Shape(shape) => Ok(*shape),
            Plan::Impossible(why) => Err(Arc::clone(why)),
            Plan::Unknown => Err("its next hop could not be looked up".into()),
        };
        match (shape, there, self.foreign.get(&prefix)) {
            (Err(why), _, _) => self.fail(prefix, why, tally),
            (Ok(_), Some(there), _) if self.is_right(target, there) => {
                self.failures.clear(&prefix);
                tally.settle(&prefix);
            }
            (Ok(_), _, Some(protocol)) => self.clash(prefix, *protocol, tally),
            (Ok(shape), there, None) => installs.push(Install {
                prefix,
                shape,
                fresh: there.is_none(),
            }),
        }
    }

    async fn install(&mut self, installs: &[Install], tally: &mut Tally) -> Result<(), Error> {
        let mut rest = installs;
        let mut batch = Batch::default();
        while !rest.is_empty() {
            batch.clear();
            let mut count = 0;
            for install in rest {
                if batch.is_full() {
                    break;
                }
                if let Some(encoded) = self.shapes.extra(install.shape) {
                    wire::install(&mut batch, install.prefix, encoded, install.fresh);
                }
                count += 1;
            }
            let (sent, left) = rest.split_at(count);
            rest = left;
            let refusals = self
                .send(&mut batch, sent.iter().chain(left).map(|i| i.prefix))
                .await?;
            for (place, install) in sent.iter().enumerate() {
                match refusals.get(&place) {
                    None => self.record_install(install, tally),
                    Some(refusal) => self.record_refusal(install, refusal, tally),
                }
            }
        }
        Ok(())
    }

    async fn delete(&mut self, deletions: &[IpNet], tally: &mut Tally) -> Result<(), Error> {
        let mut rest = deletions;
        let mut batch = Batch::default();
        while !rest.is_empty() {
            batch.clear();
            let mut count = 0;
            for prefix in rest {
                if batch.is_full() {
                    break;
                }
                wire::remove(&mut batch, *prefix);
                count += 1;
            }
            let (sent, left) = rest.split_at(count);
            rest = left;
            let refusals = self
                .send(&mut batch, sent.iter().chain(left).copied())
                .await?;
            for (place, prefix) in sent.iter().enumerate() {
                match refusals.get(&place) {
                    None => {
                        tally.deleted += 1;
                        self.forget(*prefix);
                    }
                    // Gone already, with its link perhaps.
                    Some(refusal) if refusal.is(Errno::ESRCH) => self.forget(*prefix),
                    Some(refusal) => self.fail(*prefix, refusal.to_string().into(), tally),
                }
                tally.settle_if_gone(prefix, self.entries.contains_key(prefix));
            }
        }
        Ok(())
    }

    /// Sends a batch; when its fate is unknown, all that was waiting for it is dirty again.
    async fn send(
        &mut self,
        batch: &mut Batch,
        waiting: impl Iterator<Item = IpNet>,
    ) -> Result<BTreeMap<usize, Refusal>, Error> {
        let mut moved = std::mem::take(batch);
        let work = move |conn: &mut crate::conn::Conn| {
            let refusals = conn.transact(&mut moved)?;
            Ok((moved, refusals))
        };
        match self.with_conn(work).await {
            Ok((moved, refusals)) => {
                *batch = moved;
                Ok(refusals)
            }
            Err(error) => {
                for prefix in waiting {
                    self.mark_dirty(prefix);
                }
                Err(error)
            }
        }
    }

    fn record_install(&mut self, install: &Install, tally: &mut Tally) {
        tally.written += 1;
        tally.settle(&install.prefix);
        self.shapes.retain(install.shape);
        self.set_kernel(install.prefix, Some(install.shape));
        self.failures.clear(&install.prefix);
    }

    fn record_refusal(&mut self, install: &Install, refusal: &Refusal, tally: &mut Tally) {
        let prefix = install.prefix;
        // Someone holds the key: another, or we ourselves after all. The kernel will say.
        if install.fresh && refusal.is(Errno::EEXIST) && tally.contested.insert(prefix) {
            self.doubt = true;
            return self.mark_dirty(prefix);
        }
        let group = self.shapes.value(install.shape).and_then(Shape::group);
        let target = self.entries.get(&prefix).and_then(|entry| entry.desired);
        if let (Some(_), Some(target), true) = (group, target, is_about_groups(refusal)) {
            self.mark_dirty(prefix);
            if tally.groupless.insert(target) {
                self.doubt = true;
            } else if !self.doubt
                && let Some(state) = self.targets.extra_mut(target)
                && !std::mem::replace(&mut state.fallback, true)
            {
                self.forget_plan(target);
            }
            return;
        }
        self.fail(prefix, refusal.to_string().into(), tally);
    }

    fn fail(&mut self, prefix: IpNet, why: Arc<str>, tally: &mut Tally) {
        tally.clashes.remove(&prefix);
        tally.failed.insert(prefix, Arc::clone(&why));
        self.failures.add(prefix, why, None, Instant::now());
    }

    fn clash(&mut self, prefix: IpNet, protocol: u8, tally: &mut Tally) {
        tally.failed.remove(&prefix);
        tally.clashes.insert(prefix, protocol);
        let why = format!("another's route (protocol {protocol}) has metric {METRIC}");
        self.failures
            .add(prefix, why.into(), Some(protocol), Instant::now());
    }

    fn fail_waiting(&mut self, error: &Error, tally: &mut Tally) {
        let why: Arc<str> = error.to_string().into();
        for prefix in self.dirty.clone() {
            self.fail(prefix, Arc::clone(&why), tally);
        }
    }

    /// Deletes next-hop objects nothing uses, and forgets which gateways were down once nobody names them.
    async fn tidy(&mut self) {
        let shapes = &self.shapes;
        let garbage = self
            .nexthops
            .garbage(|id| shapes.find(&Shape::Group(id)).is_some());
        if !garbage.is_empty()
            && let Err(error) = self.write_nexthops(garbage).await
        {
            tracing::warn!(%error, "unused next-hop objects can't be deleted");
            self.uncertain = true;
        }
        if !self.down.is_empty() {
            let targets = self.targets.iter().map(|(_, target, _)| target);
            let named: BTreeSet<_> = targets
                .flat_map(super::plan::several)
                .map(|gateway| gateway.address)
                .collect();
            self.down.retain(|(address, _)| named.contains(address));
        }
    }
}

impl Tally {
    fn settle_if_gone(&mut self, prefix: &IpNet, stays: bool) {
        if !stays {
            self.settle(prefix);
        }
    }
}

/// Whether a route was refused because its group is not there, or not fit for it.
fn is_about_groups(refusal: &Refusal) -> bool {
    [
        Errno::EINVAL,
        Errno::ENOENT,
        Errno::EOPNOTSUPP,
        Errno::ESRCH,
    ]
    .iter()
    .any(|errno| refusal.is(*errno))
}
