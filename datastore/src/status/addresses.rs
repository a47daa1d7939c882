//! What an agent finds of load balancers' addresses, for the one of all agents that writes it into Services.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::IpAddr;

use api::NamespacedName;
use api::resources::Service;

/// Of every Service whose status is this project's to write, or was: what it is to have. Who is not named is another's.
pub type AllocatedAddresses = BTreeMap<NamespacedName, ServiceAddresses>;

/// What one Service is to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceAddresses {
    /// The [`print_of`] the Service for which it was worked out: for another state of it, it does not hold.
    pub print: u64,
    /// What it is to have.
    pub verdict: AddressVerdict,
}

/// What becomes of a Service's addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AddressVerdict {
    /// It is to have these, and to say so.
    Has {
        /// At most one a family, in the order of its cluster IPs.
        addresses: Vec<IpAddr>,
        /// Whether that is all that it should have.
        is_whole: bool,
        /// Why, in one word for programs (CamelCase).
        reason: &'static str,
        /// Why, for people.
        message: String,
    },
    /// Addresses and condition are taken away: it is of a kind that has none of ours.
    Nothing,
}

/// A number by which two states of a Service are told from one another, in one process.
pub fn print_of(service: &Service) -> u64 {
    // Its keys are the same everywhere in a process, which is all that is needed.
    let mut hasher = DefaultHasher::new();
    service.hash(&mut hasher);
    hasher.finish()
}
