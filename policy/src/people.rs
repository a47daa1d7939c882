//! Who is a pod to others, and with which addresses: where objects and endpoints contradict, endpoints are right.

use std::net::IpAddr;
use std::sync::Arc;

use api::Labels;
use api::resources::{ContainerPort, Pod};

use crate::{Endpoint, Objects};

static NO_LABELS: Labels = Labels::new();

/// A pod that peers may mean. Equal are those that are the same to others.
#[derive(Clone, Debug)]
pub(crate) enum Person {
    /// What its object says, which nearly all are: a cluster has many.
    AsTold(Arc<Pod>),
    /// What endpoints say better.
    Corrected(Box<Corrected>),
}

/// What a pod is to others where that is not what its object says.
#[derive(Clone, Debug)]
pub(crate) struct Corrected {
    namespace: String,
    labels: Labels,
    addresses: Vec<IpAddr>,
    ports: Vec<ContainerPort>,
}

impl PartialEq for Person {
    fn eq(&self, other: &Self) -> bool {
        self.namespace() == other.namespace()
            && self.labels() == other.labels()
            && self.addresses() == other.addresses()
            && self.ports() == other.ports()
    }
}

impl Eq for Person {}

impl Person {
    /// Its namespace.
    pub(crate) fn namespace(&self) -> &str {
        match self {
            Self::AsTold(pod) => &pod.name.namespace,
            Self::Corrected(person) => &person.namespace,
        }
    }

    /// Its labels.
    pub(crate) fn labels(&self) -> &Labels {
        match self {
            Self::AsTold(pod) => &pod.labels,
            Self::Corrected(person) => &person.labels,
        }
    }

    /// Where it is found.
    pub(crate) fn addresses(&self) -> &[IpAddr] {
        match self {
            Self::AsTold(pod) => &pod.pod_ips,
            Self::Corrected(person) => &person.addresses,
        }
    }

    /// Its ports that have a name.
    pub(crate) fn ports(&self) -> &[ContainerPort] {
        match self {
            Self::AsTold(pod) => &pod.named_ports,
            Self::Corrected(person) => &person.ports,
        }
    }

    /// What a Pod object is to others; `None` if it is no peer (host network, finished: semantics 39, 45).
    ///
    /// `own` are the endpoints of its name; `held` says whether an address is an endpoint's, and so no longer what another
    /// object says.
    pub(crate) fn of_pod(
        pod: &Arc<Pod>,
        own: &[&Endpoint],
        held: impl Fn(IpAddr) -> bool,
    ) -> Option<Self> {
        if pod.host_network || pod.finished {
            return None;
        }
        let very: Vec<&&Endpoint> = own.iter().filter(|one| is_of(one, pod)).collect();
        let addresses: Vec<IpAddr> = if very.is_empty() {
            let current = pod.pod_ips.iter().copied();
            current.filter(|address| !held(*address)).collect()
        } else {
            let addresses = very.iter().flat_map(|endpoint| &endpoint.addresses);
            addresses.copied().collect()
        };
        if addresses == pod.pod_ips {
            return Some(Self::AsTold(Arc::clone(pod)));
        }
        Some(Self::Corrected(Box::new(Corrected {
            namespace: pod.name.namespace.clone(),
            labels: pod.labels.clone(),
            addresses,
            ports: pod.named_ports.clone(),
        })))
    }

    /// What an endpoint is to others by itself: a pod without labels, unless the Pod object speaks for it.
    pub(crate) fn of_endpoint(endpoint: &Endpoint, pod: Option<&Pod>) -> Option<Self> {
        if pod.is_some_and(|pod| is_of(endpoint, pod)) {
            return None;
        }
        Some(Self::Corrected(Box::new(Corrected {
            namespace: endpoint.pod.namespace.clone(),
            labels: Labels::new(),
            addresses: endpoint.addresses.clone(),
            ports: Vec::new(),
        })))
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
