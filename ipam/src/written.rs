//! The form in which leases and resting addresses stand in the snapshot and in changes: flat, without what is empty.

use std::net::IpAddr;

use api::NamespacedName;
use serde::{Deserialize, Serialize};

use crate::{Cooling, Holder, Lease};

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct WrittenLease {
    #[serde(flatten)]
    holder: Holder,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pod: Option<WrittenPod>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    uid: String,
    addresses: Vec<IpAddr>,
    /// Form 1 did not have it.
    #[serde(default, skip_serializing_if = "is_zero")]
    since: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct WrittenCooling {
    address: IpAddr,
    since: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pod: Option<WrittenPod>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    uid: String,
}

#[derive(Serialize, Deserialize)]
struct WrittenPod {
    namespace: String,
    name: String,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl From<NamespacedName> for WrittenPod {
    fn from(pod: NamespacedName) -> Self {
        Self {
            namespace: pod.namespace,
            name: pod.name,
        }
    }
}

impl From<WrittenPod> for NamespacedName {
    fn from(written: WrittenPod) -> Self {
        Self::new(written.namespace, written.name)
    }
}

impl From<Lease> for WrittenLease {
    fn from(lease: Lease) -> Self {
        Self {
            holder: lease.holder,
            pod: lease.pod.map(WrittenPod::from),
            uid: lease.uid,
            addresses: lease.addresses,
            since: lease.since,
        }
    }
}

impl From<WrittenLease> for Lease {
    fn from(written: WrittenLease) -> Self {
        Self {
            holder: written.holder,
            pod: written.pod.map(NamespacedName::from),
            uid: written.uid,
            addresses: written.addresses,
            since: written.since,
        }
    }
}

impl From<Cooling> for WrittenCooling {
    fn from(cooling: Cooling) -> Self {
        Self {
            address: cooling.address,
            since: cooling.since,
            pod: cooling.pod.map(WrittenPod::from),
            uid: cooling.uid,
        }
    }
}

impl From<WrittenCooling> for Cooling {
    fn from(written: WrittenCooling) -> Self {
        Self {
            address: written.address,
            since: written.since,
            pod: written.pod.map(NamespacedName::from),
            uid: written.uid,
        }
    }
}
