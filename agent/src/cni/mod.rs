//! The CNI socket: gives an attachment its addresses, has its chains and routes in force, makes its link; and takes it back.

mod add;
mod check;
mod collect;
mod delete;
mod identity;
mod in_flight;
mod link;
mod pod;
mod result;
mod server;
mod socket;
mod status;

pub(crate) use pod::Pods;
pub(crate) use server::Server;

/// The socket's name in the run folder.
pub(crate) const SOCKET: &str = "cni.sock";
