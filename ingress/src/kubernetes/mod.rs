//! The Kubernetes API: as the source of objects, and as the place where addresses and Events are written.
//!
//! Every replica watches; the one that holds the Lease writes. What is known keeps serving while the API server is away.

mod election;
mod events;
mod lease;
mod ledger;
mod publish;
mod seen;
mod watch;
mod writer;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use api::NamespacedName;
use kube_client::config::KubeConfigOptions;
use kube_client::{Client, Config};
use thiserror::Error;
use tokio::sync::{mpsc, watch as channel};

use crate::objects::Change;
pub use publish::Publish;
pub use writer::Verdict;

/// Batches of changes that may wait for the table's owner.
const CHANGES: usize = 64;
/// Notes that may wait for who writes statuses.
const NOTES: usize = 1024;
/// How long a connection to the API server may take to come up.
const CONNECT: Duration = Duration::from_secs(10);

/// How the API server is reached, and what is written there.
#[derive(Clone, Debug)]
pub struct Settings {
    /// A kubeconfig; in a pod none: its service account is used.
    pub kubeconfig: Option<PathBuf>,
    /// Where the Lease is: the namespace of the controller's own pod.
    pub namespace: String,
    /// The Lease's name; controllers with different `--controller-name`s have different ones.
    pub lease: String,
    /// This replica, as the Lease and Events name it: the pod's name.
    pub identity: String,
    /// The controller's name in `spec.controller` of an IngressClass: who reports an Event.
    pub controller: String,
    /// Which addresses are written into the statuses of Ingresses.
    pub publish: Publish,
}

/// What the watches tell the table's owner.
#[derive(Debug)]
pub enum Told {
    /// Objects are so now, or gone; together, where the server listed them together.
    Changes(Vec<Change>),
    /// All kinds have been read whole once. Said once.
    InSync,
}

/// Why nothing can be asked at all.
#[derive(Debug, Error)]
pub enum Error {
    /// There is no such file, or it cannot be understood.
    #[error("the kubeconfig {0} cannot be used")]
    Kubeconfig(String, #[source] kube_client::config::KubeconfigError),
    /// This is no pod.
    #[error("this is no pod with a service account: give --kubeconfig FILE, or --manifests DIR")]
    NoPod(#[source] kube_client::config::InClusterError),
    /// The client cannot be made.
    #[error("the API server cannot be asked")]
    Client(#[source] kube_client::Error),
}

/// Objects as the API server has them. Dropping it ends the watches.
#[derive(Debug)]
pub struct Watches {
    told: mpsc::Receiver<Told>,
    _tasks: tokio::task::JoinSet<()>,
}

impl Watches {
    /// The next thing that the watches tell; `None` when they have ended.
    pub async fn next(&mut self) -> Option<Told> {
        self.told.recv().await
    }
}

/// What is written there, when it is this replica's turn.
#[derive(Debug)]
pub struct Duties {
    verdicts: channel::Sender<Option<Arc<Verdict>>>,
    stop: channel::Sender<bool>,
    writer: tokio::task::JoinHandle<()>,
}

impl Duties {
    /// Where verdicts go: whose addresses are to be written, and what is wrong with whom. Before the first one nothing is
    /// written.
    #[must_use]
    pub fn verdicts(&self) -> channel::Sender<Option<Arc<Verdict>>> {
        self.verdicts.clone()
    }

    /// Writes no more, and gives the Lease back, so that another replica need not wait for its end.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        // It has a limit of its own, and says what fails.
        let _ = self.writer.await;
    }
}

/// Starts to watch and, when it is this replica's turn, to write. A server that is away is no error: it is asked until it
/// answers.
///
/// # Errors
/// When it is not known how to reach a server.
pub async fn start(settings: &Settings) -> Result<(Watches, Duties), Error> {
    let client = client(settings).await?;
    let (told_to, told) = mpsc::channel(CHANGES);
    let (notes_to, notes) = mpsc::channel(NOTES);
    let (verdicts, verdict) = channel::channel(None);
    let (stop, stopped) = channel::channel(false);
    let watches = Watches {
        told,
        _tasks: watch::start(&client, settings, &told_to, &notes_to),
    };
    let writer = writer::Writer::new(client, settings, notes, verdict);
    let duties = Duties {
        verdicts,
        stop,
        writer: tokio::spawn(writer.run(stopped)),
    };
    Ok((watches, duties))
}

async fn client(settings: &Settings) -> Result<Client, Error> {
    let mut config = match &settings.kubeconfig {
        Some(path) => {
            let failed = |error| Error::Kubeconfig(path.display().to_string(), error);
            let file = kube_client::config::Kubeconfig::read_from(path).map_err(failed)?;
            Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
                .await
                .map_err(failed)?
        }
        // By the address in the environment, for which no DNS need answer.
        None => Config::incluster_env().map_err(Error::NoPod)?,
    };
    config.connect_timeout = Some(CONNECT);
    Client::try_from(config).map_err(Error::Client)
}

/// The Service by which the controller is reached is one of those that are watched anyway.
fn is(name: &NamespacedName, namespace: Option<&str>, other: Option<&str>) -> bool {
    namespace == Some(&name.namespace) && other == Some(&name.name)
}
