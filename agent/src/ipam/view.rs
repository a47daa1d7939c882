//! What `portolan ipam` asks, and the answers as programs read them.

use std::net::IpAddr;

use ::ipam::Holder;
use serde::{Deserialize, Serialize};

use crate::load_balancer::PoolReport;

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "camelCase")]
pub(crate) enum IpamQuestion {
    /// CIDRs and addresses; only this address, only this pod (`NAMESPACE/NAME`).
    Show {
        address: Option<IpAddr>,
        pod: Option<String>,
    },
    /// What does not fit together.
    Check,
    /// Take an attachment back.
    Release { what: Attachment, force: bool },
}

/// An attachment, by what is known of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "camelCase")]
pub(crate) enum Attachment {
    /// By an address that it holds.
    Address { address: IpAddr },
    /// By its container's ID and the interface's name in it.
    Holder { holder: Holder },
}

/// The answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum IpamAnswer {
    Show(ShowView),
    Check(CheckView),
    Released(ReleasedView),
}

/// Where addresses come from, and who has them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ShowView {
    pub(crate) node: String,
    pub(crate) cidrs: Vec<CidrView>,
    /// IPPools for Services of type LoadBalancer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) load_balancer_pools: Vec<PoolReport>,
    pub(crate) addresses: Vec<AddressView>,
    /// Deletions that the plugin wrote down and the agent has not carried out yet.
    pub(crate) pending_deletions: usize,
}

/// How full a Pod CIDR or a block is. Numbers above 2^64 - 1 are told as that.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CidrView {
    pub(crate) cidr: String,
    pub(crate) held: u64,
    /// Given back lately: not given again yet.
    pub(crate) resting: u64,
    pub(crate) reserved: u64,
    pub(crate) free: u64,
}

/// One address that is held or rests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct AddressView {
    pub(crate) address: IpAddr,
    pub(crate) state: AddressState,
    /// `NAMESPACE/NAME`, where the runtime named a pod.
    pub(crate) pod: Option<String>,
    /// Empty where the runtime gave none.
    pub(crate) uid: String,
    pub(crate) container_id: Option<String>,
    /// The interface's name in the container.
    pub(crate) interface: Option<String>,
    /// The name of the host end, and whether it is there.
    pub(crate) host_end: Option<String>,
    pub(crate) host_end_there: Option<bool>,
    /// Seconds since it was given, or given back; absent where an earlier release gave it.
    pub(crate) seconds: Option<u64>,
}

/// What becomes of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum AddressState {
    Held,
    Resting,
}

/// What was found, and how much was looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CheckView {
    pub(crate) attachments: usize,
    pub(crate) host_ends: usize,
    pub(crate) findings: Vec<FindingView>,
}

impl CheckView {
    /// Whether something is there that nobody explains.
    pub(crate) fn has_leaks(&self) -> bool {
        self.findings.iter().any(|finding| finding.is_leak)
    }
}

/// One thing that does not fit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct FindingView {
    /// For programs: `hostEndGone`, `hostEndUnknown`, `podUnknown`, `otherUid`, `podTwice`, `outside`,
    /// `heldElsewhere`, `pendingDeletion`, `shaperUnknown` or `routeUnknown`.
    pub(crate) kind: String,
    /// Whether it is left behind; else it may be meant so.
    pub(crate) is_leak: bool,
    /// What it is.
    pub(crate) text: String,
    /// What to do.
    pub(crate) advice: String,
}

/// What was released.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ReleasedView {
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) pod: Option<String>,
    pub(crate) container_id: String,
    pub(crate) interface: String,
}
