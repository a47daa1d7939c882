//! The journal behind its snapshot: what is read at a start, and how a record is added so that it is there whole or not
//! at all.

use anyhow::{Context, bail};

use super::disk::{Disk, JOURNAL, SNAPSHOT};
use super::frame::{self, End};
use super::record::{Record, Whole};

/// Snapshot and journal of one folder.
///
/// Each snapshot has an epoch, one more than the one before, and the journal says which one it continues: one that a
/// crash left beside its successor's snapshot is not carried out a second time.
#[derive(Debug)]
pub(super) struct Log<D> {
    disk: D,
    boot: String,
    epoch: u64,
    /// A snapshot of this epoch is in its place, and on the disk.
    is_based: bool,
    /// Where the journal's last whole record ends.
    good: u64,
    behind: Behind,
    /// This epoch and this start of the machine stand in the journal.
    is_announced: bool,
    bound: u64,
    /// At this length the journal is to give way to a new snapshot.
    full: u64,
}

/// What is in the journal behind the last record that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Behind {
    Nothing,
    /// A piece of a record.
    Torn,
    /// All of it is in the snapshot.
    Stale,
}

/// What is there at a start.
pub(super) struct Loaded<D> {
    pub(super) log: Log<D>,
    pub(super) whole: Option<Whole>,
    /// What has been written since that snapshot.
    pub(super) records: Vec<Record>,
}

impl<D: Disk> Log<D> {
    /// Reads snapshot and journal, and changes nothing. `bound` is the length in bytes at which a journal is full,
    /// unless twice its snapshot is longer.
    ///
    /// # Errors
    /// If they cannot be read, or are damaged in a way that no crash explains.
    pub(super) fn load(disk: D, bound: u64) -> anyhow::Result<Loaded<D>> {
        let boot = disk.boot();
        let bytes = read(&disk, SNAPSHOT)?;
        let size = bytes.as_ref().map_or(0, Vec::len);
        let whole: Option<Whole> = bytes
            .map(|bytes| serde_json::from_slice(&bytes))
            .transpose()
            .with_context(|| way_out(&disk, SNAPSHOT, "damaged"))?;
        let epoch = whole.as_ref().map_or(0, |whole| whole.epoch);
        let is_older = |whole: &Whole| whole.ipam.is_of_older_release();
        let journal = read(&disk, JOURNAL)?.unwrap_or_default();
        let found = find(&disk, &journal, epoch, &boot)?;
        let mut log = Self {
            disk,
            is_announced: found.boot.is_some_and(|written| written == boot),
            boot,
            epoch,
            is_based: epoch > 0 && !whole.as_ref().is_none_or(is_older),
            good: found.good,
            behind: found.behind,
            bound,
            full: 0,
        };
        log.full = log.full_beside(size);
        Ok(Loaded {
            log,
            whole,
            records: found.records,
        })
    }

    /// Whether a snapshot is due. A record can only be added where [`Log::is_based`].
    pub(super) fn wants_snapshot(&self) -> bool {
        !self.is_based || self.good >= self.full
    }

    /// Whether there is a snapshot that the journal can continue.
    pub(super) fn is_based(&self) -> bool {
        self.is_based
    }

    /// Whether the journal has nothing that the snapshot does not have.
    pub(super) fn is_empty(&self) -> bool {
        self.good == 0 && self.behind == Behind::Nothing
    }

    /// The epoch that the next snapshot is to have.
    pub(super) fn next_epoch(&self) -> u64 {
        self.epoch + 1
    }

    /// Puts a snapshot of the next epoch in place and empties the journal.
    ///
    /// # Errors
    /// If that fails; the journal goes on where it can, see [`Log::is_based`].
    pub(super) fn replace(&mut self, whole: &Whole) -> anyhow::Result<()> {
        // When it fails, it is not tried again at every record.
        self.full = self.good.saturating_add(self.bound / 4);
        let bytes = serde_json::to_vec(whole).context("cannot encode the leases")?;
        let context = cannot_write(&self.disk.place(), SNAPSHOT);
        self.disk
            .write_new(&bytes)
            .and_then(|()| self.disk.sync_new())
            .and_then(|()| self.disk.rename_new())
            .context(context.clone())?;
        // From here on the journal that is there counts no more, whatever fails.
        (self.epoch, self.is_based) = (whole.epoch, false);
        self.behind = Behind::Stale;
        // Were the journal emptied before the rename is on the disk, a power cut could leave an old snapshot alone.
        self.disk.sync_folder().context(context)?;
        self.is_based = true;
        self.full = self.full_beside(bytes.len());
        self.mend()
    }

    /// Adds a record: it is in the file, and survives this process, when this returns.
    ///
    /// # Errors
    /// If it cannot be written: then it is not in the journal, and never will be.
    pub(super) fn append(&mut self, record: &Record) -> anyhow::Result<()> {
        if !self.is_based {
            bail!("{} is not written yet", self.disk.place());
        }
        self.mend()?;
        let mut bytes = Vec::with_capacity(512);
        if !self.is_announced {
            let start = Record::Start {
                epoch: self.epoch,
                boot: self.boot.clone(),
            };
            put(&mut bytes, &start)?;
        }
        put(&mut bytes, record)?;
        if let Err(error) = self.disk.append(self.good, &bytes) {
            self.behind = Behind::Torn;
            // If this fails as well, the next record tries it again before it is written.
            let _ = self.mend();
            return Err(error).context(cannot_write(&self.disk.place(), JOURNAL));
        }
        self.good += bytes.len() as u64;
        self.is_announced = true;
        self.disk.sync_journal_soon();
        Ok(())
    }

    /// Why the journal cannot be brought to the disk.
    pub(super) fn sync_problem(&self) -> Option<String> {
        self.disk.sync_problem()
    }

    /// Cuts off what does not count.
    fn mend(&mut self) -> anyhow::Result<()> {
        let length = match self.behind {
            Behind::Nothing => return Ok(()),
            Behind::Torn => self.good,
            Behind::Stale => 0,
        };
        self.disk
            .cut(length)
            .with_context(|| cannot_write(&self.disk.place(), JOURNAL))?;
        if length == 0 {
            self.is_announced = false;
        }
        (self.good, self.behind) = (length, Behind::Nothing);
        Ok(())
    }

    fn full_beside(&self, snapshot: usize) -> u64 {
        self.bound.max(2 * snapshot as u64)
    }
}

/// What of a journal counts.
struct Found {
    records: Vec<Record>,
    good: u64,
    behind: Behind,
    /// The machine's start under which the last records were written.
    boot: Option<String>,
}

fn find<D: Disk>(disk: &D, journal: &[u8], epoch: u64, boot: &str) -> anyhow::Result<Found> {
    let scan = frame::scan(journal);
    let damaged = || way_out(disk, JOURNAL, &format!("damaged at byte {}", scan.good));
    let mut records = Vec::with_capacity(scan.records.len());
    let mut written = None;
    for bytes in &scan.records {
        let record = serde_json::from_slice(bytes).with_context(damaged)?;
        match record {
            Record::Start { epoch: of, .. } if of < epoch && records.is_empty() => {
                return Ok(Found {
                    records,
                    good: scan.good as u64,
                    behind: Behind::Stale,
                    boot: None,
                });
            }
            Record::Start { epoch: of, .. } if of != epoch => {
                let what = format!("of epoch {of}, and {SNAPSHOT} is of epoch {epoch}");
                bail!(way_out(disk, JOURNAL, &what));
            }
            Record::Start { boot, .. } => written = Some(boot),
            Record::Changed { .. } | Record::Set { .. } if written.is_none() => bail!(damaged()),
            Record::Changed { .. } | Record::Set { .. } => records.push(record),
        }
    }
    // When the machine itself has started anew since, every holder is gone: what the disk lost of the end harms nobody.
    let is_other_boot = written.as_ref().is_some_and(|written| written != boot);
    match scan.end {
        End::Damaged if !is_other_boot => bail!(damaged()),
        End::Damaged => tracing::warn!(
            "{}: the end, from byte {} on, was lost when the machine stopped; no pod has outlived that",
            disk.place(),
            scan.good
        ),
        End::Whole | End::Torn => {}
    }
    Ok(Found {
        records,
        good: scan.good as u64,
        behind: if scan.good == journal.len() {
            Behind::Nothing
        } else {
            Behind::Torn
        },
        boot: written,
    })
}

fn put(bytes: &mut Vec<u8>, record: &Record) -> anyhow::Result<()> {
    let record = serde_json::to_vec(record).context("cannot encode a lease")?;
    frame::put(bytes, &record).context("the lease is too long to be written")
}

fn read<D: Disk>(disk: &D, file: &str) -> anyhow::Result<Option<Vec<u8>>> {
    let read = disk.read(file);
    read.with_context(|| format!("cannot read {}/{file}", disk.place()))
}

fn way_out<D: Disk>(disk: &D, file: &str, what: &str) -> String {
    format!(
        "{}/{file} is {what}: put back a copy of {SNAPSHOT} and {JOURNAL} of one time, or remove both once no pod runs on this node",
        disk.place()
    )
}

fn cannot_write(place: &str, file: &str) -> String {
    format!("cannot write {place}/{file}: no address is given or taken back without it")
}
