//! kube-router: the flags of its DaemonSet and the annotations of its nodes.

mod daemon_set;
mod filter;
mod flags;
mod groups;
mod node;
mod peers;
mod settings;

pub(super) use daemon_set::{convert as daemon_set, is_daemon_set};
pub(super) use groups::write as groups;
pub(super) use node::annotations as node_annotations;

/// What its annotations begin with.
const PREFIX: &str = "kube-router.io/";
