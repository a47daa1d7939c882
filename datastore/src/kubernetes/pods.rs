//! One pod, read now: for an ADD whose pod the watch has not shown yet.

use api::metadata::{is_dns_label, is_dns_subdomain};
use api::resources::Pod;
use api::{NamespacedName, Resource};

use super::Connection;
use super::failure::Failure;
use super::request::Answer;
use crate::Error;

/// Reads single pods; cheap to clone.
#[derive(Clone, Debug)]
pub struct PodReader(Connection);

impl PodReader {
    pub(super) fn new(connection: Connection) -> Self {
        Self(connection)
    }

    /// The pod as the API server has it now; none where it has none. One request; its time is the caller's to limit.
    ///
    /// # Errors
    /// The server cannot be reached, refuses, or has a pod that cannot be understood.
    pub async fn get(&self, name: &NamespacedName) -> Result<Option<Pod>, Error> {
        let failed = |why: String| Error::Cluster {
            what: format!("get Pod {name}"),
            why,
        };
        if !is_dns_label(&name.namespace) || !is_dns_subdomain(&name.name) {
            return Err(failed("this is no pod's name".to_owned()));
        }
        let path = format!("/api/v1/namespaces/{}/pods/{}", name.namespace, name.name);
        let text = match self.text(&path).await {
            Ok(text) => text,
            Err(failure) if failure.is_not_found() => return Ok(None),
            Err(failure) => return Err(failed(failure.to_string())),
        };
        match api::parse_json("Pod", "v1", &text) {
            Ok(Some((_, Resource::Pod(pod)))) if pod.name == *name => Ok(Some(pod)),
            Ok(_) => Err(failed("the server has sent something else".to_owned())),
            Err(error) => Err(failed(error.to_string())),
        }
    }

    async fn text(&self, path: &str) -> Result<Vec<u8>, Failure> {
        let mut answer = Answer::to(&self.0.client, path).await?;
        let mut text = Vec::new();
        while let Some(more) = answer.chunk().await? {
            text.extend_from_slice(&more);
        }
        Ok(text)
    }
}
