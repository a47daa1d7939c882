//! Where changes come from, a directory of manifests or the Kubernetes API, and where status goes back.

extern crate kube_client as kube; // `kube` itself would bring its client into the pure crates' trees

mod accepted;
mod blocks;
mod directory;
mod document;
mod held;
mod kubernetes;
mod merge;
mod refresh;
mod source;
mod status;
mod text;
mod watch;

use std::path::PathBuf;

use ipnet::IpNet;

pub use blocks::Claim;
pub use kubernetes::{
    AddressLease, AddressLeaseEvent, AddressLeases, LeaseNotWritten, NodeWrites, PodReader,
    watch_kubernetes,
};
pub use refresh::Refresher;
pub use source::{ClusterSettings, Source};
pub use status::{
    AddressVerdict, AllocatedAddresses, EventRecord, EventType, NodeHealth, ObjectCondition,
    PodStatus, Regarding, ServiceAddresses, StatusWriter, print_of,
};
pub use text::{TextDocument, TextError, read_documents, write_document};
pub use watch::watch_manifests;

/// Why a source cannot be used at all, or something cannot be said. What is wrong with one object is a [`Problem`] instead.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The directory cannot be read.
    #[error("cannot read the manifests directory {path}: {source}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Changes cannot be noticed.
    #[error("cannot watch the manifests directory {path}: {source}")]
    Watch {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: notify::Error,
    },
    /// The name is no name of a node, or too long for a file's.
    #[error(
        "{0:?} cannot be a node's name: it is no DNS-1123 subdomain of at most 235 characters, or ends with .bgpnodestatus or .events"
    )]
    NodeName(String),
    /// A block cannot be claimed.
    #[error(
        "cannot claim the block {cidr} as {path}: {source}: the manifests directory must be writable, on a file system with hard links"
    )]
    Claim {
        /// The block.
        cidr: IpNet,
        /// The file that would have said so.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A block that is to be released is not this node's.
    #[error("the block {cidr} is held by {}: only its node releases it", node.as_deref().unwrap_or("nobody that can be read"))]
    NotOurs {
        /// The block.
        cidr: IpNet,
        /// Whose it is.
        node: Option<String>,
    },
    /// The node's status file cannot be written.
    #[error("cannot write {path}: {source}")]
    Status {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// There is no way to a cluster.
    #[error("{0}")]
    NoCluster(String),
    /// The API server refused, or could not be reached.
    #[error("cannot {what}: {why}")]
    Cluster {
        /// What was tried: `get Pod default/web`.
        what: String,
        /// What the server said, or why it cannot be reached.
        why: String,
    },
}

/// Reads a manifest's text as one of the directory is read: the objects in order, and what is wrong.
pub fn read_manifest(file: &str, text: &str) -> (Vec<(api::Key, api::Resource)>, Vec<Problem>) {
    let contents = document::read(file, text);
    let objects = contents.objects.into_iter();
    let faults = contents.faults.into_iter().map(|fault| Problem {
        file: PathBuf::from(file),
        line: fault.line,
        object: fault.object,
        message: fault.message,
    });
    (
        objects
            .map(|object| (object.key, std::sync::Arc::unwrap_or_clone(object.resource)))
            .collect(),
        faults.collect(),
    )
}

/// Something wrong in a source. What else it holds stays in force.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The file; empty for an object of the API server.
    pub file: PathBuf,
    /// The line, counted from 1, where one is to blame.
    pub line: Option<u64>,
    /// The object's kind and name, where they are known.
    pub object: Option<String>,
    /// What is wrong.
    pub message: String,
}

impl std::fmt::Display for Problem {
    /// `file:line: message`; the message names the object, and without a file is all.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.file.as_os_str().is_empty() {
            return f.write_str(&self.message);
        }
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        write!(f, ": {}", self.message)
    }
}
