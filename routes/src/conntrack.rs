//! Flows that the kernel tracks (conntrack): listed, and single ones deleted so that their next packet is judged anew.

mod entry;
mod wire;

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;

use nix::errno::Errno;

pub use entry::{ConntrackEntry, Family, Ports, Status, TcpState, Tuple};

use crate::Error;
use crate::batch::Batch;
use crate::conn::{Conn, Refusal};
use crate::links::blocking;

/// How often a conversation whose answers were lost is begun again.
const TRIES: u32 = 4;

/// Which entries to list; all by default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only those of this family.
    pub family: Option<Family>,
    /// Only those with this address at this place. Of IPv4 the kernel picks them itself (since Linux 5.8).
    pub address: Option<(Place, IpAddr)>,
}

/// Where an address may stand in an entry. DNAT shows as a reply source that isn't the original destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Who sent the first packet.
    OriginalSource,
    /// To where the first packet went, before any DNAT.
    OriginalDestination,
    /// Who answers: the server itself.
    ReplySource,
    /// To whom answers go, before SNAT is undone.
    ReplyDestination,
}

impl Place {
    /// Every place.
    pub const ALL: [Self; 4] = [
        Self::OriginalSource,
        Self::OriginalDestination,
        Self::ReplySource,
        Self::ReplyDestination,
    ];
}

impl Filter {
    /// Whether this filter lets an entry through.
    #[must_use]
    pub fn matches(&self, entry: &ConntrackEntry) -> bool {
        let family = self.family.is_none_or(|family| family == entry.family());
        let address = self
            .address
            .is_none_or(|(place, address)| entry.address(place) == address);
        family && address
    }
}

/// What came of a deletion.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Deleted {
    /// Entries that were there and are gone.
    pub deleted: u64,
    /// Entries that had gone by themselves, or in whose place was a newer one, which stays.
    pub gone: u64,
}

/// Lists the entries of the calling thread's network namespace that pass the filter.
///
/// # Errors
/// When the kernel can't be asked.
pub async fn list(filter: Filter) -> Result<Vec<ConntrackEntry>, Error> {
    let mut tries = 1;
    loop {
        let mut conn = Conn::open_netfilter()?;
        match blocking(move || dump(&mut conn, filter)).await {
            Err(error) if tries < TRIES && is_loss(&error) => tries += 1,
            outcome => return outcome,
        }
    }
}

/// Deletes entries, by tuple and id: a newer entry with the same tuple stays. One that is no longer there is no
/// error. The rest are deleted even if the kernel refuses some.
///
/// The kernel makes the id from the entry's place in memory: one that came anew to the very same place has the same.
///
/// # Errors
/// When the kernel can't be asked, or the first refusal.
pub async fn delete(entries: Vec<ConntrackEntry>) -> Result<Deleted, Error> {
    let mut outcome = Deleted::default();
    let mut first = None;
    let mut rest = entries.as_slice();
    let mut tries = 1;
    let mut conn = Conn::open_netfilter()?;
    while !rest.is_empty() {
        let (mut batch, count) = deletions(rest);
        let answered = blocking(move || {
            let refused = conn.transact(&mut batch)?;
            Ok((conn, refused))
        });
        let refused: BTreeMap<usize, Refusal> = match answered.await {
            Ok((same, refused)) => {
                conn = same;
                refused
            }
            // What this batch did is unknown; doing it again does no harm.
            Err(error) if tries < TRIES && is_loss(&error) => {
                tries += 1;
                conn = Conn::open_netfilter()?;
                continue;
            }
            Err(error) => return Err(error),
        };
        let failed = refused.len() as u64;
        outcome.deleted += count as u64 - failed;
        for (place, refusal) in refused {
            if refusal.is(Errno::ENOENT) {
                outcome.gone += 1;
            } else if first.is_none() {
                let what = rest.get(place).map(ToString::to_string);
                first = Some(
                    refusal.into_error(format!("delete the flow {}", what.unwrap_or_default())),
                );
            }
        }
        rest = rest.get(count..).unwrap_or_default();
    }
    first.map_or(Ok(outcome), Err)
}

/// As many deletions as go into one send, and how many those are.
fn deletions(entries: &[ConntrackEntry]) -> (Batch, usize) {
    let mut batch = Batch::default();
    let mut count = 0;
    for entry in entries {
        if batch.is_full() {
            break;
        }
        wire::delete(&mut batch, entry);
        count += 1;
    }
    (batch, count)
}

fn dump(conn: &mut Conn, filter: Filter) -> Result<Vec<ConntrackEntry>, Error> {
    const WHAT: &str = "list the tracked flows";
    let mut unread = 0_usize;
    // Kernels before 5.8 take no notice of the address and tell everything.
    let mut read = |payload: &[u8]| {
        let entry = ConntrackEntry::read(payload);
        unread += usize::from(entry.is_none());
        entry.filter(|entry| filter.matches(entry))
    };
    let wanted = wire::question(&filter);
    let mut outcome = conn.dump_raw(wire::GET, &wanted, WHAT, |_, payload| read(payload));
    if filter.address.is_some() && outcome.as_ref().is_err_and(is_unsupported) {
        let all = wire::question(&Filter {
            address: None,
            ..filter
        });
        outcome = conn.dump_raw(wire::GET, &all, WHAT, |_, payload| read(payload));
    }
    if unread > 0 {
        tracing::warn!(unread, "tracked flows that cannot be read are left alone");
    }
    outcome
}

/// Whether answers were lost: then the same question to a fresh socket helps.
fn is_loss(error: &Error) -> bool {
    matches!(error, Error::Socket(_, source) if source.raw_os_error() == Some(Errno::ENOBUFS as i32))
}

fn is_unsupported(error: &Error) -> bool {
    let unsupported = |source: &io::Error| {
        let number = source.raw_os_error();
        number == Some(Errno::EOPNOTSUPP as i32) || number == Some(Errno::EINVAL as i32)
    };
    matches!(error, Error::Refused { source, .. } if unsupported(source))
}
