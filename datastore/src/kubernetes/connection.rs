//! How the API server is reached, and as whom.

use std::path::Path;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use crate::{ClusterSettings, Error};

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
        let mut config = match &settings.kubeconfig {
            Some(path) => from_file(path).await?,
            None => Config::incluster().map_err(|error| {
                Error::NoCluster(format!(
                    "this process does not run in a pod of a cluster ({error}): name a --kubeconfig, or a directory with --manifests"
                ))
            })?,
        };
        // Whoever asks knows how long to wait, and that others ask, too.
        config.default_retry = false;
        let client = Client::try_from(config)
            .map_err(|error| Error::NoCluster(format!("cannot speak to the cluster: {error}")))?;
        Ok(Self {
            client,
            node: settings.node.clone(),
            namespace: settings.namespace.clone(),
        })
    }
}

async fn from_file(path: &Path) -> Result<Config, Error> {
    let wrong = |error: &dyn std::error::Error| {
        Error::NoCluster(format!("{} is no kubeconfig: {error}", path.display()))
    };
    let file = Kubeconfig::read_from(path).map_err(|error| wrong(&error))?;
    Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
        .await
        .map_err(|error| wrong(&error))
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection")
            .field("node", &self.node)
            .field("namespace", &self.namespace)
            .finish_non_exhaustive()
    }
}
