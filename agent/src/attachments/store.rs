//! Which attachment holds which addresses and settings, kept on disk so that neither a crash nor a reboot loses or
//! doubles one.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context;
use ipam::{Change, Choice, Holder, Ipam, Lease, Request, Usage};
use ipnet::IpNet;
use tracing::warn;

use super::Settings;
use super::disk::{Disk, Folder};
use super::log::{Loaded, Log};
use super::record::{Record, Whole};

/// A journal of this length gives way to a snapshot: some three thousand attachments, read in milliseconds.
const BOUND: u64 = 1 << 20;

/// The allocator, the settings, and their files.
#[derive(Debug)]
pub(crate) struct Leases<D = Folder> {
    ipam: Ipam,
    /// Those of attachments that have any.
    settings: BTreeMap<Holder, Settings>,
    log: Log<D>,
}

/// Seconds since 1970, as leases have them; a clock before that counts as 1970.
pub(crate) fn now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

impl Leases {
    /// Reads what an earlier run wrote.
    ///
    /// # Errors
    /// If the folder cannot be used or the files are not ours to understand: to guess would give addresses twice.
    pub(crate) fn open(state_dir: &Path) -> anyhow::Result<Self> {
        Self::open_on(Folder::open(state_dir)?, BOUND)
    }
}

impl<D: Disk> Leases<D> {
    /// Reads what is on a disk; `bound` is the length in bytes at which the journal gives way to a snapshot.
    pub(super) fn open_on(disk: D, bound: u64) -> anyhow::Result<Self> {
        let place = disk.place();
        let Loaded {
            log,
            whole,
            records,
        } = Log::load(disk, bound)?;
        let mut leases = Self {
            ipam: Ipam::default(),
            settings: BTreeMap::new(),
            log,
        };
        if let Some(whole) = whole {
            let (ipam, settings) = whole.into_parts();
            leases.ipam.restore(ipam);
            leases.settings = settings;
        }
        for record in records {
            leases.replay(record).with_context(|| {
                format!("{place}: the journal does not fit its snapshot: put back copies of one time, or remove both once no pod runs on this node")
            })?;
        }
        if (leases.log.wants_snapshot() || !leases.log.is_empty())
            && let Err(error) = leases.write_snapshot()
        {
            // What runs goes on running; whatever is to be written comes back to it.
            warn!("{error:#}");
        }
        Ok(leases)
    }

    /// Says which CIDRs addresses come from; leases outside them are kept.
    pub(crate) fn set_cidrs(&mut self, cidrs: Vec<IpNet>) {
        self.ipam.set_cidrs(cidrs);
    }

    /// Says of which further CIDRs (IPPools, other nodes' Pod CIDRs) an address may be asked for by name.
    pub(crate) fn set_elsewhere(&mut self, cidrs: Vec<IpNet>) {
        self.ipam.set_elsewhere(cidrs);
    }

    /// Says which addresses are given to nobody who does not ask for them by name.
    pub(crate) fn set_reserved(&mut self, cidrs: Vec<IpNet>) {
        self.ipam.set_reserved(cidrs);
    }

    /// Says for how many seconds an address rests that was given back.
    pub(crate) fn set_cool_down(&mut self, seconds: u64) {
        self.ipam.set_cool_down(seconds);
    }

    /// Gives addresses, written down before they are known to anyone. The same holder gets the same ones again, and
    /// the settings it asks for now.
    ///
    /// # Errors
    /// If what is asked for cannot be had ([`ipam::Error`]), or cannot be written: then nothing is given.
    pub(crate) fn allocate(
        &mut self,
        request: &Request,
        settings: Settings,
    ) -> anyhow::Result<Lease> {
        let holder = &request.holder;
        let settings = Some(settings).filter(|settings| *settings != Settings::default());
        let lease = match self.ipam.choose(request)? {
            Choice::Held(lease) => {
                if self.settings.get(holder) != settings.as_ref() {
                    self.write(&Record::Set {
                        holder: holder.clone(),
                        settings: settings.clone().unwrap_or_default(),
                    })?;
                }
                lease
            }
            Choice::New(change) => {
                self.write(&Record::Changed {
                    change: change.clone(),
                    settings: settings.clone(),
                })?;
                self.ipam
                    .apply(change)
                    .expect("a choice fits the state it was made of")
            }
        };
        self.keep(holder.clone(), settings);
        Ok(lease)
    }

    /// Takes addresses back; the lease that was, if there was one, and its settings. `now` is in seconds since 1970.
    ///
    /// # Errors
    /// If it cannot be written: the addresses are then still held, and the caller must try again.
    pub(crate) fn release(
        &mut self,
        holder: &Holder,
        now: u64,
    ) -> anyhow::Result<Option<(Lease, Settings)>> {
        if self.ipam.lease(holder).is_none() {
            return Ok(None);
        }
        let change = Change::Released {
            holder: holder.clone(),
            at: now,
        };
        self.write(&Record::Changed {
            change: change.clone(),
            settings: None,
        })?;
        let lease = self.ipam.apply(change).expect("it is held");
        let settings = self.settings.remove(holder);
        Ok(Some((lease, settings.unwrap_or_default())))
    }

    /// How full each CIDR is, in their order.
    pub(crate) fn usage(&self) -> impl Iterator<Item = Usage> {
        self.ipam.usage(now())
    }

    /// Whether one more holder would be given addresses.
    ///
    /// # Errors
    /// As [`Ipam::choose`] says.
    pub(crate) fn room(&mut self) -> Result<(), ipam::Error> {
        // No runtime has a container of this name.
        let nobody = Holder {
            container_id: String::new(),
            interface: String::new(),
        };
        let request = Request::new(nobody, now());
        self.ipam.choose(&request).map(drop)
    }

    /// Every lease, in the holders' order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Lease> {
        self.ipam.leases()
    }

    /// One holder's lease.
    pub(crate) fn lease(&self, holder: &Holder) -> Option<&Lease> {
        self.ipam.lease(holder)
    }

    /// What a holder has besides its addresses.
    pub(crate) fn settings(&self, holder: &Holder) -> Settings {
        self.settings.get(holder).cloned().unwrap_or_default()
    }

    /// The allocator, to be asked how full it is, what rests, and what does not fit together.
    pub(crate) fn ipam(&self) -> &Ipam {
        &self.ipam
    }

    /// Why the journal cannot be brought to the disk: what is written now would not outlive a power cut.
    pub(crate) fn sync_problem(&self) -> Option<String> {
        self.log.sync_problem()
    }

    fn write(&mut self, record: &Record) -> anyhow::Result<()> {
        if self.log.wants_snapshot()
            && let Err(error) = self.write_snapshot()
        {
            if !self.log.is_based() {
                return Err(error);
            }
            warn!("{error:#}; the journal grows on");
        }
        self.log.append(record)
    }

    fn write_snapshot(&mut self) -> anyhow::Result<()> {
        let epoch = self.log.next_epoch();
        let whole = Whole::new(self.ipam.snapshot(), epoch, &self.settings);
        self.log.replace(&whole)
    }

    fn replay(&mut self, record: Record) -> anyhow::Result<()> {
        match record {
            Record::Start { .. } => {}
            Record::Changed { change, settings } => {
                let lease = self.ipam.apply(change)?;
                self.keep(lease.holder, settings);
            }
            Record::Set { holder, settings } => self.keep(holder, Some(settings)),
        }
        Ok(())
    }

    fn keep(&mut self, holder: Holder, settings: Option<Settings>) {
        match settings.filter(|settings| *settings != Settings::default()) {
            Some(settings) => self.settings.insert(holder, settings),
            None => self.settings.remove(&holder),
        };
    }
}

#[cfg(test)]
mod tests;
