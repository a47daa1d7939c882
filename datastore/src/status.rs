//! `.status/<node>.json`: what a kubelet would have told, written by that node's agent alone; beside it what it tells people.

mod events;
mod file;
mod writer;

pub use events::{EventRecord, EventType, Regarding};
pub use file::PodStatus;
pub(crate) use file::StatusContents;
pub use writer::StatusWriter;
