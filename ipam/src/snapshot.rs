//! All that must outlive the process, in a versioned form that is checked whole when it is read.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::{Cooling, Damaged, Lease};

/// The form that is written. Form 1, which had no resting addresses and no times, is read as well; a reader refuses
/// any other: to guess would give an address twice.
pub(crate) const VERSION: u32 = 2;
const OLDEST_READ: u32 = 1;

/// Leases, resting addresses and round-robin positions, free of doubles.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "Written", try_from = "Written")]
pub struct Snapshot {
    pub(crate) leases: Vec<Lease>,
    pub(crate) last: Vec<IpAddr>,
    pub(crate) cooling: Vec<Cooling>,
    form: u32,
}

impl Snapshot {
    pub(crate) fn new(leases: Vec<Lease>, last: Vec<IpAddr>, cooling: Vec<Cooling>) -> Self {
        Self {
            leases,
            last,
            cooling,
            form: VERSION,
        }
    }

    /// Whether it was read from the form that an earlier release wrote.
    pub fn is_of_older_release(&self) -> bool {
        self.form < VERSION
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    version: u32,
    leases: Vec<Lease>,
    #[serde(default)]
    last_given: Vec<IpAddr>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    cooling: Vec<Cooling>,
}

impl From<Snapshot> for Written {
    fn from(snapshot: Snapshot) -> Self {
        Self {
            version: VERSION,
            leases: snapshot.leases,
            last_given: snapshot.last,
            cooling: snapshot.cooling,
        }
    }
}

impl TryFrom<Written> for Snapshot {
    type Error = Damaged;

    fn try_from(written: Written) -> Result<Self, Damaged> {
        if !(OLDEST_READ..=VERSION).contains(&written.version) {
            return Err(Damaged::Version(written.version));
        }
        let (mut holders, mut addresses) = (BTreeSet::new(), BTreeSet::new());
        for lease in &written.leases {
            if !holders.insert(&lease.holder) {
                return Err(Damaged::Holder(lease.holder.clone()));
            }
            if let Some(twice) = lease.addresses.iter().find(|ip| !addresses.insert(**ip)) {
                return Err(Damaged::Address(*twice));
            }
        }
        let resting = written.cooling.iter().map(|entry| entry.address);
        if let Some(twice) = resting.into_iter().find(|ip| !addresses.insert(*ip)) {
            return Err(Damaged::Address(twice));
        }
        Ok(Self {
            leases: written.leases,
            last: written.last_given,
            cooling: written.cooling,
            form: written.version,
        })
    }
}
