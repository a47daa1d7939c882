//! What this node writes into the cluster: few things, and each only when it changes.

mod addresses;
mod bgp_status;
mod blocks;
mod calls;
mod conditions;
mod duties;
mod events;
#[cfg(test)]
mod fake;
mod layer2;
mod lease;
mod node;
mod orphans;
mod paced;
mod text;
mod writer;

pub use layer2::{AddressLease, AddressLeaseEvent, AddressLeases, LeaseNotWritten};
pub use node::NodeWrites;
pub(crate) use writer::Writer;
