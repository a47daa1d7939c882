//! What looks as if it had been left behind: leases held against the links and pods that are there.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use api::NamespacedName;

use crate::{Holder, Ipam, Lease};

/// What is there besides the leases, as the caller has seen it.
pub struct Scene<'a> {
    /// The names of all host ends of ours that are there.
    pub links: &'a BTreeSet<String>,
    /// What a holder's host end is called.
    pub link_of: &'a dyn Fn(&Holder) -> String,
    /// For how long the caller has seen a holder without its host end; who is not named has been so for no time.
    pub absent: &'a BTreeMap<Holder, Duration>,
    /// The pods that the source has for this node, with their UIDs; `None` while that is not known.
    pub pods: Option<&'a BTreeMap<NamespacedName, String>>,
    /// Holders whose addresses another plugin gave: they may be outside all CIDRs.
    pub delegated: &'a BTreeSet<Holder>,
}

/// One thing that nobody explains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// A lease whose host end is not there: its pod is gone, or its ADD is under way.
    LinkGone {
        /// Whose lease.
        holder: Holder,
        /// For how long the host end has been seen missing.
        absent: Duration,
    },
    /// A host end of ours that belongs to no lease.
    LinkUnknown {
        /// Its name.
        link: String,
    },
    /// A lease for a pod that the source does not have.
    PodUnknown {
        /// Whose lease.
        holder: Holder,
        /// The pod it names.
        pod: NamespacedName,
    },
    /// A lease of an earlier pod of the same name.
    HolderOfOtherUid {
        /// Whose lease.
        holder: Holder,
        /// The pod it names.
        pod: NamespacedName,
        /// The UID that the lease has.
        held: String,
        /// The UID of the pod there is now.
        present: String,
    },
    /// Several leases for one interface of one pod: only one sandbox of a pod runs at a time.
    PodHeldTwice {
        /// The pod.
        pod: NamespacedName,
        /// Who holds leases for it, the latest given first.
        holders: Vec<Holder>,
    },
    /// An address that is neither in this node's CIDRs nor where addresses may be asked for by name.
    AddressOutside {
        /// Whose it is.
        holder: Holder,
        /// The address.
        address: IpAddr,
    },
}

impl Ipam {
    /// Says what does not fit together, lease by lease in the holders' order.
    pub fn findings(&self, scene: &Scene<'_>) -> Vec<Finding> {
        let mut findings = Vec::new();
        let mut explained = BTreeSet::new();
        for lease in self.leases.values() {
            let holder = || lease.holder.clone();
            let link = (scene.link_of)(&lease.holder);
            if !scene.links.contains(&link) {
                let absent = scene.absent.get(&lease.holder).copied();
                findings.push(Finding::LinkGone {
                    holder: holder(),
                    absent: absent.unwrap_or_default(),
                });
            }
            explained.insert(link);
            findings.extend(pod_finding(lease, scene.pods));
            if !scene.delegated.contains(&lease.holder) {
                let outside = lease.addresses.iter().filter(|ip| !self.is_allowed(**ip));
                findings.extend(outside.map(|address| Finding::AddressOutside {
                    holder: holder(),
                    address: *address,
                }));
            }
        }
        findings.extend(self.pods_held_twice());
        let unknown = scene.links.difference(&explained).cloned();
        findings.extend(unknown.map(|link| Finding::LinkUnknown { link }));
        findings
    }

    fn pods_held_twice(&self) -> Vec<Finding> {
        let mut of_pod: BTreeMap<_, Vec<(u64, &Holder)>> = BTreeMap::new();
        for lease in self.leases.values() {
            if let Some(pod) = &lease.pod {
                let key = (pod, &lease.uid, &lease.holder.interface);
                let held = of_pod.entry(key).or_default();
                held.push((lease.since, &lease.holder));
            }
        }
        let twice = of_pod.into_iter().filter(|(_, held)| held.len() > 1);
        let finding = |(pod, mut held): (&NamespacedName, Vec<(u64, &Holder)>)| {
            held.sort_by(|one, other| other.cmp(one));
            Finding::PodHeldTwice {
                pod: pod.clone(),
                holders: held.into_iter().map(|(_, holder)| holder.clone()).collect(),
            }
        };
        twice
            .map(|((pod, _, _), held)| finding((pod, held)))
            .collect()
    }
}

fn pod_finding(lease: &Lease, pods: Option<&BTreeMap<NamespacedName, String>>) -> Option<Finding> {
    let (pod, pods) = (lease.pod.as_ref()?, pods?);
    let Some(present) = pods.get(pod) else {
        return Some(Finding::PodUnknown {
            holder: lease.holder.clone(),
            pod: pod.clone(),
        });
    };
    // One of the two is not known: that is no difference.
    let differs = !lease.uid.is_empty() && !present.is_empty() && lease.uid != *present;
    differs.then(|| Finding::HolderOfOtherUid {
        holder: lease.holder.clone(),
        pod: pod.clone(),
        held: lease.uid.clone(),
        present: present.clone(),
    })
}
