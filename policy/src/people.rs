//! Who is a pod to others, and with which addresses: where objects and endpoints contradict, endpoints are right.

use std::net::IpAddr;

use api::Labels;
use api::resources::{ContainerPort, Pod};

use crate::{Endpoint, Objects};

static NO_LABELS: Labels = Labels::new();

/// A pod that peers may mean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Person {
    pub(crate) namespace: String,
    pub(crate) labels: Labels,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) ports: Vec<ContainerPort>,
}

impl Person {
    /// What a Pod object is to others; `None` if it is no peer (host network, finished: semantics 39, 45).
    ///
    /// `own` are the endpoints of its name; `held` says whether an address is an endpoint's, and so no longer what another
    /// object says.
    pub(crate) fn of_pod(
        pod: &Pod,
        own: &[&Endpoint],
        held: impl Fn(IpAddr) -> bool,
    ) -> Option<Self> {
        if pod.host_network || pod.finished {
            return None;
        }
        let very: Vec<&&Endpoint> = own.iter().filter(|one| is_of(one, pod)).collect();
        let addresses = if very.is_empty() {
            let current = pod.pod_ips.iter().copied();
            current.filter(|address| !held(*address)).collect()
        } else {
            let addresses = very.iter().flat_map(|endpoint| &endpoint.addresses);
            addresses.copied().collect()
        };
        Some(Self {
            namespace: pod.name.namespace.clone(),
            labels: pod.labels.clone(),
            addresses,
            ports: pod.named_ports.clone(),
        })
    }

    /// What an endpoint is to others by itself: a pod without labels, unless the Pod object speaks for it.
    pub(crate) fn of_endpoint(endpoint: &Endpoint, pod: Option<&Pod>) -> Option<Self> {
        if pod.is_some_and(|pod| is_of(endpoint, pod)) {
            return None;
        }
        Some(Self {
            namespace: endpoint.pod.namespace.clone(),
            labels: Labels::new(),
            addresses: endpoint.addresses.clone(),
            ports: Vec::new(),
        })
    }
}

/// The labels by which policies choose an endpoint; `None` if none may (host network, finished).
///
/// A pod made anew under its name (another uid) is the best that is known of the one before: its labels count, its
/// phase doesn't.
pub(crate) fn subject_labels<'a>(objects: &'a Objects, endpoint: &Endpoint) -> Option<&'a Labels> {
    match objects.pod(&endpoint.pod) {
        None => Some(&NO_LABELS),
        Some(pod) if is_of(endpoint, pod) && (pod.host_network || pod.finished) => None,
        Some(pod) => Some(&pod.labels),
    }
}

/// Whether a Pod object is the very pod of an endpoint: no other uid where both are known.
fn is_of(endpoint: &Endpoint, pod: &Pod) -> bool {
    endpoint.uid.is_empty() || pod.uid.is_empty() || endpoint.uid == pod.uid
}
