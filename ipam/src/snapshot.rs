//! The leases as they are written to disk: a versioned form that is checked whole when it is read.

use std::collections::BTreeSet;
use std::net::IpAddr;

use api::NamespacedName;
use serde::{Deserialize, Serialize};

use crate::{Holder, Lease};

/// The only form so far. A reader refuses any other: to guess would give an address twice.
const VERSION: u32 = 1;

/// Leases and round-robin positions, free of doubles.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "Written", try_from = "Written")]
pub struct Snapshot {
    leases: Vec<Lease>,
    last: Vec<IpAddr>,
}

/// Why a snapshot cannot be believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damaged {
    /// Written by a later release.
    #[error(
        "the leases are in form {0}, and this release reads form {VERSION}: run the release that wrote them"
    )]
    Version(u32),
    /// A holder is there twice.
    #[error("interface {} of container {} is there twice", .0.interface, .0.container_id)]
    Holder(Holder),
    /// An address is there twice.
    #[error("the address {0} is there twice")]
    Address(IpAddr),
}

impl Snapshot {
    pub(crate) fn new(leases: Vec<Lease>, last: Vec<IpAddr>) -> Self {
        Self { leases, last }
    }

    pub(crate) fn into_parts(self) -> (Vec<Lease>, Vec<IpAddr>) {
        (self.leases, self.last)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    version: u32,
    leases: Vec<WrittenLease>,
    #[serde(default)]
    last_given: Vec<IpAddr>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WrittenLease {
    #[serde(flatten)]
    holder: Holder,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pod: Option<WrittenPod>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    uid: String,
    addresses: Vec<IpAddr>,
}

#[derive(Serialize, Deserialize)]
struct WrittenPod {
    namespace: String,
    name: String,
}

impl From<Snapshot> for Written {
    fn from(snapshot: Snapshot) -> Self {
        let leases = snapshot.leases.into_iter().map(|lease| WrittenLease {
            holder: lease.holder,
            pod: lease.pod.map(|pod| WrittenPod {
                namespace: pod.namespace,
                name: pod.name,
            }),
            uid: lease.uid,
            addresses: lease.addresses,
        });
        Self {
            version: VERSION,
            leases: leases.collect(),
            last_given: snapshot.last,
        }
    }
}

impl TryFrom<Written> for Snapshot {
    type Error = Damaged;

    fn try_from(written: Written) -> Result<Self, Damaged> {
        if written.version != VERSION {
            return Err(Damaged::Version(written.version));
        }
        let (mut holders, mut addresses) = (BTreeSet::new(), BTreeSet::new());
        let mut leases = Vec::with_capacity(written.leases.len());
        for lease in written.leases {
            if !holders.insert(lease.holder.clone()) {
                return Err(Damaged::Holder(lease.holder));
            }
            if let Some(twice) = lease.addresses.iter().find(|ip| !addresses.insert(**ip)) {
                return Err(Damaged::Address(*twice));
            }
            leases.push(Lease {
                holder: lease.holder,
                pod: lease
                    .pod
                    .map(|pod| NamespacedName::new(pod.namespace, pod.name)),
                uid: lease.uid,
                addresses: lease.addresses,
            });
        }
        Ok(Self {
            leases,
            last: written.last_given,
        })
    }
}
