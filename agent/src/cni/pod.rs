//! A pod that the watch has not told yet: read from the API server, so that policy knows its labels before it runs.

use std::time::Duration;

use cni_spec::{CniError, ErrorCode};
use datastore::PodReader;
use tokio::time::Instant;
use tracing::debug;

use super::server::Server;
use crate::core::{Asked, belongs_here};
use crate::message::Message;

/// How long before a read that failed is tried again.
const RETRY: Duration = Duration::from_millis(250);

/// Reads pods, for a node.
#[derive(Clone)]
pub(crate) struct Pods {
    /// Who asks the API server.
    pub(crate) reader: PodReader,
    /// This node.
    pub(crate) node: String,
}

impl Server {
    /// Has the core know the pod that is asked for.
    ///
    /// # Errors
    /// It is not there, not this node's, or the API server did not answer in time.
    pub(super) async fn read_pod(&self, asked: &Asked, deadline: Instant) -> Result<(), CniError> {
        let later = |why: String| {
            CniError::new(ErrorCode::TryAgainLater, "the pod is not known yet").details(why)
        };
        let (Some(pods), Some(name)) = (&self.pods, &asked.pod) else {
            return Err(later(String::new()));
        };
        let mut why = "the API server did not answer".to_owned();
        let found = loop {
            match tokio::time::timeout_at(deadline, pods.reader.get(name)).await {
                Ok(Ok(found)) => break found,
                Ok(Err(error)) => why = error.to_string(),
                Err(_) => return Err(later(why)),
            }
            if Instant::now() + RETRY >= deadline {
                return Err(later(why));
            }
            tokio::time::sleep(RETRY).await;
        };
        let Some(pod) = found else {
            return Err(later(format!(
                "the API server has no Pod {name}: it was deleted, or it is a static pod that its kubelet has not told yet"
            )));
        };
        belongs_here(&pod, &asked.uid, &pods.node).map_err(|why| {
            CniError::new(ErrorCode::Failed, "this pod is not to run here").details(why.to_string())
        })?;
        debug!(pod = %name, "read, as the watch had not told it");
        let stopping = |_| CniError::new(ErrorCode::TryAgainLater, "the agent is stopping");
        let message = Message::PodRead(Box::new(pod));
        self.core.send(message).await.map_err(stopping)
    }
}
