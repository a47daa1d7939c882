//! The Kubernetes API as a source, and as the place where status goes.

mod backoff;
mod balanced;
mod connection;
mod decode;
mod facts;
mod failure;
mod items;
mod kind;
mod pods;
mod query;
mod reflect;
mod request;
mod source;
mod told;
mod world;
mod write;

pub(crate) use balanced::Balanced;
pub(crate) use connection::Connection;
pub(crate) use facts::{Facts, ObjectFacts, Rest};
pub use pods::PodReader;
pub use source::watch_kubernetes;
pub(crate) use write::Writer;
pub use write::{AddressLease, AddressLeaseEvent, AddressLeases, LeaseNotWritten, NodeWrites};
