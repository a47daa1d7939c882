//! Which pods' verdicts changes of objects may turn.

use std::collections::BTreeSet;

use api::resources::{ClusterNetworkPolicy, ClusterSubject, NetworkPolicy};
use api::{Change, Key, NamespacedName};

use super::Compared;
use crate::{Direction, Objects};

/// Pods by the direction in which other rules may be asked for them now.
#[derive(Default)]
pub(super) struct Touched<'a> {
    ingress: BTreeSet<&'a NamespacedName>,
    egress: BTreeSet<&'a NamespacedName>,
}

impl<'a> Touched<'a> {
    /// A policy touches those whom it selects, before or after; a pod or a namespace itself, as a subject and as a peer.
    pub(super) fn by(
        compared: &Compared<'a>,
        before: &Objects,
        after: &Objects,
        changes: &[Change],
    ) -> Self {
        let mut touched = Self::default();
        for change in changes {
            match &change.key {
                Key::NetworkPolicy(name) => {
                    let versions = [before.policies.get(name), after.policies.get(name)];
                    if versions[0] != versions[1] {
                        versions
                            .into_iter()
                            .flatten()
                            .for_each(|policy| touched.take_network(compared, policy));
                    }
                }
                Key::ClusterNetworkPolicy(name) => {
                    let of = [&before.cluster_policies, &after.cluster_policies];
                    let versions = of.map(|policies| policies.get(name));
                    if versions[0] != versions[1] {
                        versions
                            .into_iter()
                            .flatten()
                            .for_each(|policy| touched.take_cluster(compared, policy));
                    }
                }
                Key::Pod(name) if before.pod(name) != after.pod(name) => {
                    touched.take_both(compared, |pod| pod == name);
                }
                Key::Namespace(name)
                    if before.namespaces.get(name) != after.namespaces.get(name) =>
                {
                    touched.take_both(compared, |pod| pod.namespace == *name);
                }
                Key::Pod(_)
                | Key::Namespace(_)
                | Key::Node(_)
                | Key::BgpConfiguration(_)
                | Key::BgpFilter(_)
                | Key::BgpNodeStatus(_)
                | Key::BgpPeer(_)
                | Key::IpamBlock(_)
                | Key::IpPool(_)
                | Key::IpReservation(_)
                | Key::Secret(_)
                | Key::Service(_)
                | Key::EndpointSlice(_) => {}
            }
        }
        touched
    }

    pub(super) fn in_direction(&self, direction: Direction) -> &BTreeSet<&'a NamespacedName> {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }

    /// Every pod of the policy's namespace that it selects in one of the states.
    fn take_network(&mut self, compared: &Compared<'a>, policy: &NetworkPolicy) {
        let selected = compared.pods.iter().filter(|(pod, addresses)| {
            let states = [&compared.before, &compared.after];
            pod.namespace == policy.name.namespace
                && states.into_iter().any(|state| {
                    let holder = addresses.first().and_then(|one| state.holder(*one));
                    holder.is_some_and(|pod| policy.pod_selector.matches(pod.subject_labels()))
                })
        });
        for (pod, _) in selected {
            if policy.ingress.is_some() {
                self.ingress.insert(pod);
            }
            if policy.egress.is_some() {
                self.egress.insert(pod);
            }
        }
    }

    /// Every pod whose labels its subject means in one of the states.
    fn take_cluster(&mut self, compared: &Compared<'a>, policy: &ClusterNetworkPolicy) {
        let ClusterSubject::Pods(wanted) = &policy.subject else {
            return;
        };
        let selected = compared.pods.iter().filter(|(_, addresses)| {
            let states = [&compared.before, &compared.after];
            states.into_iter().any(|state| {
                let holder = addresses.first().and_then(|one| state.holder(*one));
                holder.is_some_and(|pod| {
                    wanted.pods.matches(pod.subject_labels())
                        && state.selects_namespace(&wanted.namespaces, pod)
                })
            })
        });
        for (pod, _) in selected {
            if !policy.ingress.is_empty() {
                self.ingress.insert(pod);
            }
            if !policy.egress.is_empty() {
                self.egress.insert(pod);
            }
        }
    }

    fn take_both(&mut self, compared: &Compared<'a>, is: impl Fn(&NamespacedName) -> bool) {
        let pods = compared.pods.keys().copied().filter(|pod| is(pod));
        for pod in pods {
            self.ingress.insert(pod);
            self.egress.insert(pod);
        }
    }
}
