//! What an attachment asks for when it is made.

use std::net::IpAddr;

use api::NamespacedName;

use crate::{Holder, Span};

/// What an attachment asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Who asks.
    pub holder: Holder,
    /// For which pod, when the runtime named one.
    pub pod: Option<NamespacedName>,
    /// The pod's UID; empty when the runtime did not say it.
    pub uid: String,
    /// Addresses that are asked for by name, at most one a family. The other family's is given as usual.
    pub fixed: Vec<IpAddr>,
    /// Sets of ranges (the capability `ipRanges`): one address of each set, all ranges of a set being of one family.
    /// A family that no set is of is given as usual.
    pub ranges: Vec<Vec<Span>>,
    /// Addresses that another plugin chose (delegated IPAM): they are only written down, and need not be in any CIDR.
    /// Nothing is chosen, and `fixed` and `ranges` are the other plugin's business.
    pub given: Vec<IpAddr>,
    /// The time, in seconds since 1970.
    pub now: u64,
}

impl Request {
    /// A request of a plain container, for an address of each family.
    pub fn new(holder: Holder, now: u64) -> Self {
        Self {
            holder,
            pod: None,
            uid: String::new(),
            fixed: Vec::new(),
            ranges: Vec::new(),
            given: Vec::new(),
            now,
        }
    }
}
