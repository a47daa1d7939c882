//! `.status/<node>.json`: what a kubelet would have told, written by that node's agent alone.

mod file;
mod writer;

pub use file::PodStatus;
pub(crate) use file::StatusContents;
pub use writer::StatusWriter;
