//! What this node writes into the cluster: few things, and each only when it changes.

mod writer;

pub(crate) use writer::Writer;
