//! How the API server is reached, and as whom.

mod access;
mod identity;
mod line;
mod stack;

use kube::Client;

use crate::{ClusterSettings, Error};
use access::Place;
use stack::Stacks;

pub(super) use identity::Disbelieved;

/// The API server as this node speaks to it; cheap to clone.
#[derive(Clone)]
pub(crate) struct Connection {
    /// Asks once and tells what came of it: who waits, and how long, is the caller's to say.
    pub(crate) client: Client,
    /// This node.
    pub(crate) node: String,
    /// The agent's namespace.
    pub(crate) namespace: String,
}

impl Connection {
    /// Reads how to get there. Nothing is sent yet, so a server that is away is no error.
    pub(crate) async fn open(settings: &ClusterSettings) -> Result<Self, Error> {
        let place = match &settings.kubeconfig {
            Some(path) => Place::Kubeconfig(path.clone()),
            None => Place::Pod,
        };
        let stacks = Stacks::open(place).await.map_err(Error::NoCluster)?;
        let service = tower::service_fn(move |request| stacks.clone().send(request));
        Ok(Self {
            client: Client::new(service, &settings.namespace),
            node: settings.node.clone(),
            namespace: settings.namespace.clone(),
        })
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection")
            .field("node", &self.node)
            .field("namespace", &self.namespace)
            .finish_non_exhaustive()
    }
}
