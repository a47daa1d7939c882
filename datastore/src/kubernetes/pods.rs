//! One pod, read now: for an ADD whose pod the watch has not shown yet.

use api::resources::Pod;
use api::{NamespacedName, Resource};
use kube::api::{Api, DynamicObject, GroupVersionKind};
use kube::core::ApiResource;

use super::Connection;
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
        let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("", "v1", "Pod"));
        let pods: Api<DynamicObject> =
            Api::namespaced_with(self.0.client.clone(), &name.namespace, &kind);
        let found = pods.get_opt(&name.name).await;
        let Some(object) = found.map_err(|error| failed(error.to_string()))? else {
            return Ok(None);
        };
        let value = serde_json::to_value(object).map_err(|error| failed(error.to_string()))?;
        match api::parse("Pod", "v1", value) {
            Ok(Some((_, Resource::Pod(pod)))) => Ok(Some(pod)),
            Ok(_) => Err(failed("it is no Pod".to_owned())),
            Err(error) => Err(failed(error.to_string())),
        }
    }
}
