//! Who holds an address: pods of all nodes, by their endpoints here and by what their objects say elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use api::resources::{ContainerPort, Pod};
use api::{Labels, NamespacedName};

use crate::{Endpoint, Objects, Pods};

static NO_LABELS: Labels = Labels::new();

/// A pod that holds an address and counts for policies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder<'a> {
    /// Which pod.
    pub pod: &'a NamespacedName,
    /// The node that it runs on, if it is known.
    pub node: Option<&'a str>,
    /// Its object, if it is known.
    manifest: Option<&'a Pod>,
    /// The object is of a later pod of the same name (semantics 47).
    renewed: bool,
}

/// Someone whom no policy is about, and no pod peer either.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stranger {
    /// The node of this name (its host-network pods have its addresses too).
    Node(String),
    /// A pod in its node's network (semantics 39), of a node whose object does not name the address.
    HostNetwork(NamespacedName),
    /// A pod that has finished (semantics 45).
    Finished(NamespacedName),
    /// Nobody of the cluster as far as is known.
    Unknown,
}

impl<'a> Holder<'a> {
    /// The labels by which policies select it. A pod without an object has none; one that was made anew under its name is
    /// isolated by what the new object says, so that it is never left open.
    pub(crate) fn subject_labels(&self) -> &'a Labels {
        self.manifest.map_or(&NO_LABELS, |pod| &pod.labels)
    }

    /// The labels by which it is a peer: never those of a later pod of its name (semantics 47).
    pub(crate) fn peer_labels(&self) -> &'a Labels {
        match self.manifest {
            Some(pod) if !self.renewed => &pod.labels,
            _ => &NO_LABELS,
        }
    }

    /// Its containers' ports that have a name.
    pub(crate) fn named_ports(&self) -> &'a [ContainerPort] {
        match self.manifest {
            Some(pod) if !self.renewed => &pod.named_ports,
            _ => &[],
        }
    }
}

impl Objects {
    /// The pod that holds an address, if one does that counts for policies. For many addresses use
    /// [`crate::Evaluator`], which works this out once.
    pub fn holder(&self, address: IpAddr) -> Option<Holder<'_>> {
        Holders::new(self).of(address).first().cloned()
    }
}

/// Who holds which address.
#[derive(Debug)]
pub(crate) struct Holders<'a> {
    pods: BTreeMap<IpAddr, Vec<Holder<'a>>>,
    /// By node: its own addresses.
    nodes: BTreeMap<&'a str, BTreeSet<IpAddr>>,
    strangers: BTreeMap<IpAddr, Stranger>,
}

impl<'a> Holders<'a> {
    pub(crate) fn new(objects: &'a Objects) -> Self {
        let mut holders = Self {
            pods: BTreeMap::new(),
            nodes: BTreeMap::new(),
            strangers: BTreeMap::new(),
        };
        let here = local_node(objects);
        let mut attached = BTreeSet::new();
        for endpoint in objects.endpoints.values() {
            attached.extend(endpoint.addresses.iter().copied());
            holders.take_endpoint(objects, endpoint, here);
        }
        let pods = || objects.pods.values().flat_map(Pods::iter);
        for pod in pods().filter(|pod| !has_own_endpoint(objects, pod)) {
            holders.take_pod(pod, &attached);
        }
        for node in objects.nodes.values() {
            let addresses = node.addresses.iter().chain(&node.internal_ips);
            for address in addresses {
                let of_node = holders.nodes.entry(&node.name).or_default();
                of_node.insert(*address);
                let stranger = Stranger::Node(node.name.clone());
                holders.strangers.insert(*address, stranger);
            }
        }
        holders
    }

    /// The pods that hold an address; several only where objects contradict each other.
    pub(crate) fn of(&self, address: IpAddr) -> &[Holder<'a>] {
        self.pods.get(&address).map_or(&[], Vec::as_slice)
    }

    /// All of them, with their addresses.
    pub(crate) fn pods(&self) -> BTreeMap<&'a NamespacedName, Vec<IpAddr>> {
        let mut pods: BTreeMap<&'a NamespacedName, Vec<IpAddr>> = BTreeMap::new();
        for (address, holders) in &self.pods {
            if let Some(first) = holders.first() {
                pods.entry(first.pod).or_default().push(*address);
            }
        }
        pods
    }

    /// Who has an address that no pod holds.
    pub(crate) fn stranger(&self, address: IpAddr) -> Stranger {
        let known = self.strangers.get(&address);
        known.cloned().unwrap_or(Stranger::Unknown)
    }

    /// Whether an address is of the node that a pod runs on (semantics 36).
    pub(crate) fn is_node_of(&self, address: IpAddr, pod: &Holder<'_>) -> bool {
        let node = pod.node.and_then(|node| self.nodes.get(node));
        node.is_some_and(|addresses| addresses.contains(&address))
    }

    /// What is attached here holds its addresses whatever its object says of them.
    fn take_endpoint(
        &mut self,
        objects: &'a Objects,
        endpoint: &'a Endpoint,
        here: Option<&'a str>,
    ) {
        let manifest = objects.pod(&endpoint.pod);
        let renewed = manifest.is_some_and(|pod| is_renewed(endpoint, pod));
        let absent = manifest.filter(|_| !renewed).and_then(why_no_subject);
        for address in &endpoint.addresses {
            if let Some(stranger) = &absent {
                self.strangers.insert(*address, stranger.clone());
                continue;
            }
            let own = manifest.filter(|_| !renewed);
            self.pods.entry(*address).or_default().push(Holder {
                pod: &endpoint.pod,
                node: own.and_then(|pod| pod.node_name.as_deref()).or(here),
                manifest,
                renewed,
            });
        }
    }

    /// What its object says of a pod elsewhere; an address that is attached here is another's by now.
    fn take_pod(&mut self, pod: &'a Pod, attached: &BTreeSet<IpAddr>) {
        let stranger = why_no_subject(pod);
        for address in pod.pod_ips.iter().filter(|one| !attached.contains(one)) {
            match &stranger {
                Some(stranger) => {
                    let node = pod.node_name.as_deref().filter(|_| pod.host_network);
                    if let Some(node) = node {
                        self.nodes.entry(node).or_default().insert(*address);
                    }
                    self.strangers.insert(*address, stranger.clone());
                }
                None => self.pods.entry(*address).or_default().push(Holder {
                    pod: &pod.name,
                    node: pod.node_name.as_deref(),
                    manifest: Some(pod),
                    renewed: false,
                }),
            }
        }
    }
}

/// Host-network and finished pods are neither subjects nor peers (semantics 39, 45). Terminating ones still are (46).
fn why_no_subject(pod: &Pod) -> Option<Stranger> {
    if pod.host_network {
        return Some(Stranger::HostNetwork(pod.name.clone()));
    }
    pod.finished.then(|| Stranger::Finished(pod.name.clone()))
}

/// Whether the object is of a later pod of the same name. A side that gives no uid is believed.
fn is_renewed(endpoint: &Endpoint, pod: &Pod) -> bool {
    !endpoint.uid.is_empty() && !pod.uid.is_empty() && endpoint.uid != pod.uid
}

/// Whether this very pod is attached here, so that what its object says of addresses may be late.
fn has_own_endpoint(objects: &Objects, pod: &Pod) -> bool {
    let mut endpoints = objects.endpoints.values();
    endpoints.any(|endpoint| endpoint.pod == pod.name && !is_renewed(endpoint, pod))
}

/// This node's name: that of any pod attached here whose object tells it.
fn local_node(objects: &Objects) -> Option<&str> {
    objects.endpoints.values().find_map(|endpoint| {
        let pod = objects.pod(&endpoint.pod)?;
        let own = (!is_renewed(endpoint, pod)).then_some(pod)?;
        own.node_name.as_deref()
    })
}
