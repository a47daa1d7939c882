//! The attachments of this node: who holds which addresses and settings, on disk, and the names of their interfaces.

mod interface;
mod settings;
mod store;

pub(crate) use interface::host_interface;
pub(crate) use settings::Settings;
pub(crate) use store::Leases;
