//! Peers by interface (BGP unnumbered): who is at the other end of a link, by router advertisements (RFC 4861).
//!
//! On each configured interface router advertisements go out with router lifetime 0 (nobody takes us for a default
//! router), so that the other end finds our link-local address, and its advertisements show us its own. Needs
//! CAP_NET_RAW. The link should have two ends: of several neighbours the first heard is kept until it falls silent.
//! Whether this node's kernel itself heeds what the neighbour advertises is its own setting (`accept_ra`).

mod link;
mod links;
mod message;
mod socket;
mod task;

pub use links::UnnumberedEvent;
pub use task::spawn;
