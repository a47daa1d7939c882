//! The Kubernetes API as a source, and as the place where status goes.

mod connection;
mod facts;
mod pods;
mod watch;
mod write;

pub(crate) use connection::Connection;
pub(crate) use facts::{Facts, ObjectFacts, Rest};
pub use pods::PodReader;
pub use watch::watch_kubernetes;
pub use write::NodeWrites;
pub(crate) use write::Writer;
