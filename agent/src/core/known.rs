//! Whether the pod that a runtime asks for is known from the cluster, and is to run here.

use std::fmt;

use api::NamespacedName;
use api::resources::Pod;

use super::{Asked, Core};

/// The watch has not told this pod yet, or an earlier one of its name.
#[derive(Debug)]
pub(crate) struct PodUnknown(NamespacedName);

impl fmt::Display for PodUnknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pod {} is not known yet", self.0)
    }
}

impl std::error::Error for PodUnknown {}

impl Core {
    /// Has pods attached only once the cluster has told of them: policy hangs on their labels.
    pub(crate) fn ask_for_pods(&mut self) {
        self.asks_for_pods = true;
    }

    /// Takes a pod that was read because the watch had not told it.
    pub(crate) fn handle_read(&mut self, pod: Pod) {
        let told = self.pod(&pod.name);
        if told.is_some_and(|told| told.uid == pod.uid && told.node_name.is_some()) {
            // The watch was faster, and may know more by now.
            return;
        }
        let told = told.cloned();
        let change = self.early.put(pod, told.as_ref());
        self.apply(change);
    }

    /// Refuses a pod that is not known, or is not to be here.
    pub(super) fn check_known(&self, asked: &Asked) -> anyhow::Result<()> {
        let Some(name) = asked.pod.as_ref().filter(|_| self.asks_for_pods) else {
            return Ok(());
        };
        match self.pod(name) {
            Some(pod) if is_same(pod, &asked.uid) && pod.node_name.is_some() => {
                belongs_here(pod, &asked.uid, &self.node)
            }
            _ => Err(PodUnknown(name.clone()).into()),
        }
    }

    pub(super) fn pod(&self, name: &NamespacedName) -> Option<&Pod> {
        self.objects().pod(name)
    }
}

/// Whether a pod as the API server has it is the one that a runtime asks for, and is to run here.
///
/// # Errors
/// Why not, in words.
pub(crate) fn belongs_here(pod: &Pod, uid: &str, node: &str) -> anyhow::Result<()> {
    let name = &pod.name;
    if !is_same(pod, uid) {
        anyhow::bail!(
            "Pod {name} with UID {uid} is gone: the API server has another of that name (UID {})",
            pod.uid
        );
    }
    match pod.node_name.as_deref() {
        Some(other) if other == node => {}
        Some(other) => anyhow::bail!("Pod {name} is bound to node {other}, not to {node}"),
        None => anyhow::bail!("Pod {name} is bound to no node"),
    }
    anyhow::ensure!(!pod.finished, "Pod {name} has finished");
    Ok(())
}

fn is_same(pod: &Pod, uid: &str) -> bool {
    uid.is_empty() || pod.uid.is_empty() || pod.uid == uid
}
