//! What every source of configuration gives, whether it is a directory or the Kubernetes API.

use std::path::PathBuf;
use std::time::Instant;

use api::Event;
use tokio::sync::{mpsc, watch};

use crate::kubernetes::{AddressLeases, NodeWrites, PodReader};
use crate::{Problem, Refresher, StatusWriter};

/// A source that is watched until `events` is dropped.
#[derive(Debug)]
pub struct Source {
    /// Everything that the source holds, [`Event::InSync`], then every difference.
    pub events: mpsc::Receiver<Event>,
    /// Says what this node has to say.
    pub status: StatusWriter,
    /// Asks for a read now.
    pub refresh: Refresher,
    /// What is wrong in the source at present.
    pub problems: watch::Receiver<Vec<Problem>>,
    /// Since when the API server has not answered; what it said last is in force. A directory is never away.
    pub away: watch::Receiver<Option<Instant>>,
    /// Reads one pod now; a directory has nobody to ask.
    pub pods: Option<PodReader>,
    /// Who answers for which address; in a directory there is nobody to ask.
    pub address_leases: Option<AddressLeases>,
}

/// Which cluster, and as whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterSettings {
    /// How to reach the API server; without it by the service account of the pod that this process runs in.
    pub kubeconfig: Option<PathBuf>,
    /// This node's name.
    pub node: String,
    /// The agent's namespace: where its Secrets and Leases are.
    pub namespace: String,
    /// Whether Services and EndpointSlices are read, too. They are many, and change often: only for who serves them.
    pub services: bool,
    /// What is written to this node's Node.
    pub node_writes: NodeWrites,
}
