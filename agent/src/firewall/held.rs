//! What the kernel really holds of ours, with its counters, for people who ask. Nothing is made or changed here.

use netfilter::{ActualSets, Family, Saved};

use super::kernel::{ApplyError, not_understood, save_sets};
use super::programs::{Programs, counted_listings};

/// Rules of both families and all sets, read back.
#[derive(Clone, Debug, Default)]
pub(crate) struct Held {
    pub(crate) v4: Saved,
    pub(crate) v6: Saved,
    pub(crate) sets: ActualSets,
}

impl Held {
    /// The rules of a family.
    pub(crate) fn rules(&self, family: Family) -> &Saved {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }
}

/// Reads it from the back end of this name.
///
/// # Errors
/// If a program fails or is not understood.
pub(crate) async fn read_held(backend: &str) -> Result<Held, ApplyError> {
    let programs = Programs::named(backend).await?;
    let (sets, [v4, v6]) = tokio::try_join!(save_sets(), counted_listings(&programs))?;
    Ok(Held {
        v4: Saved::parse(&v4).map_err(not_understood(programs.save(Family::V4)))?,
        v6: Saved::parse(&v6).map_err(not_understood(programs.save(Family::V6)))?,
        sets: netfilter::parse_sets(&sets).map_err(not_understood("ipset save"))?,
    })
}
