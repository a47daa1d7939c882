//! Addresses that one node answers for by ARP and neighbour discovery, where no router learns of them by BGP; pure.
//!
//! [`Wants`] says for which addresses and which nodes may; [`Election`] which of these does, and what to do when; [`frame`]
//! what goes over the link. `docs/design/load-balancer.md` tells why so.

mod election;
pub mod frame;
mod order;
mod seat;
mod wanted;

pub use election::{Action, Election, LeaseState, Path, Rule, Standing, Written};
pub use order::order;
pub use seat::{DURATION, RENEW};
pub use wanted::{Wanted, Wants};
