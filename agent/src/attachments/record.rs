//! What stands in the two files: the snapshot's form, and the records of the journal.

use std::collections::BTreeMap;

use ipam::{Change, Holder, Snapshot};
use serde::{Deserialize, Serialize};

use super::Settings;

/// One record of the journal.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Record {
    /// From here on the journal continues the snapshot of this epoch, written since this start of the machine.
    Start {
        /// Of the snapshot that it continues.
        epoch: u64,
        /// The machine's start, as the kernel names it; empty where it does not.
        boot: String,
    },
    /// Addresses were given or given back.
    Changed {
        /// Which.
        change: Change,
        /// What the attachment has besides, if that is anything.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        settings: Option<Settings>,
    },
    /// An attachment that there is has other settings now.
    Set {
        /// Which attachment.
        holder: Holder,
        /// All its settings.
        settings: Settings,
    },
}

/// The snapshot. What an earlier release wrote has neither epoch nor settings.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Whole {
    #[serde(flatten)]
    pub(super) ipam: Snapshot,
    #[serde(default)]
    pub(super) epoch: u64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    settings: Vec<Set>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Set {
    #[serde(flatten)]
    holder: Holder,
    #[serde(flatten)]
    settings: Settings,
}

impl Whole {
    /// All that is to be kept, as the snapshot of an epoch.
    pub(super) fn new(ipam: Snapshot, epoch: u64, settings: &BTreeMap<Holder, Settings>) -> Self {
        let settings = settings.iter().map(|(holder, settings)| Set {
            holder: holder.clone(),
            settings: settings.clone(),
        });
        Self {
            ipam,
            epoch,
            settings: settings.collect(),
        }
    }

    /// The allocator's part and the settings.
    pub(super) fn into_parts(self) -> (Snapshot, BTreeMap<Holder, Settings>) {
        let settings = self.settings.into_iter();
        let settings = settings.map(|set| (set.holder, set.settings)).collect();
        (self.ipam, settings)
    }
}
