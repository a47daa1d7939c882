//! The attachments of this node: who holds which addresses and settings, on disk, and the names of their interfaces.

mod disk;
mod frame;
mod interface;
mod log;
mod peek;
mod record;
mod settings;
mod store;
mod syncer;

#[cfg(test)]
mod tests;

pub(crate) use disk::LAST_BREATH;
pub(crate) use interface::host_interface;
pub(crate) use peek::peek;
pub(crate) use settings::Settings;
pub(crate) use store::{Leases, now};
