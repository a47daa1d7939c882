//! What a node says of itself: into `.status` of a directory, where a kubelet would have told part of it, or into the cluster.

mod addresses;
mod directory;
mod events;
mod file;
mod said;
mod writer;

pub use addresses::{AddressVerdict, AllocatedAddresses, ServiceAddresses, print_of};
pub(crate) use directory::DirectoryWriter;
pub(crate) use events::bounded_events;
pub use events::{EventRecord, EventType, Regarding};
pub use file::PodStatus;
pub(crate) use file::StatusContents;
pub use said::{NodeHealth, ObjectCondition};
pub use writer::StatusWriter;
