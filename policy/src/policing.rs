//! Which policies are asked about an endpoint, for one direction.

use std::collections::{BTreeMap, BTreeSet};

use api::resources::{ClusterNetworkPolicy, NetworkPolicy, Tier};
use api::{Key, Labels, NamespacedName};
use netfilter::InterfaceName;

use crate::Direction;
use crate::part::Part;

/// The policies of one endpoint and direction, in the order in which they are asked. Endpoints that have the same
/// share a chain.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Policing {
    /// The admin tier, by priority and name.
    pub(crate) admin: BTreeSet<(u16, String)>,
    /// NetworkPolicies: if there is one, the pod is isolated, and the baseline tier is not asked.
    pub(crate) isolating: BTreeSet<NamespacedName>,
    /// The baseline tier, by priority and name.
    pub(crate) baseline: BTreeSet<(u16, String)>,
}

/// The endpoints that some policy is asked about.
pub(crate) type Policed = BTreeMap<InterfaceName, Policing>;

impl Policing {
    /// Whether nobody is asked.
    pub(crate) fn is_empty(&self) -> bool {
        self.admin.is_empty() && self.isolating.is_empty() && self.baseline.is_empty()
    }

    /// Whether some ClusterNetworkPolicy is asked.
    pub(crate) fn has_cluster_policies(&self) -> bool {
        !self.admin.is_empty() || !self.baseline.is_empty()
    }

    /// All its policies, in their order.
    pub(crate) fn keys(&self) -> Vec<Key> {
        let mut keys = self.admin_keys();
        keys.extend(self.isolating.iter().cloned().map(Key::NetworkPolicy));
        keys.extend(self.baseline_keys());
        keys
    }

    pub(crate) fn admin_keys(&self) -> Vec<Key> {
        cluster_keys(&self.admin)
    }

    pub(crate) fn baseline_keys(&self) -> Vec<Key> {
        cluster_keys(&self.baseline)
    }

    /// Asks a NetworkPolicy if it selects the pod.
    pub(crate) fn ask(&mut self, policy: &NetworkPolicy, direction: Direction, who: &Subject<'_>) {
        let isolates = match direction {
            Direction::Ingress => policy.ingress.is_some(),
            Direction::Egress => policy.egress.is_some(),
        };
        if isolates
            && policy.name.namespace == who.namespace
            && policy.pod_selector.matches(who.labels)
        {
            self.isolating.insert(policy.name.clone());
        }
    }

    /// Asks a ClusterNetworkPolicy's part if it selects the pod.
    pub(crate) fn ask_cluster(
        &mut self,
        policy: &ClusterNetworkPolicy,
        part: &Part,
        who: &Subject<'_>,
    ) {
        let chooses = part
            .subject
            .as_ref()
            .is_some_and(|choice| choice.chooses(who.namespace, who.of_namespace, who.labels));
        if !chooses {
            return;
        }
        let tier = match policy.tier {
            Tier::Admin => &mut self.admin,
            Tier::Baseline => &mut self.baseline,
        };
        tier.insert((policy.priority, policy.name.clone()));
    }

    /// An isolated pod's baseline tier is not asked (semantics 63).
    pub(crate) fn settle(&mut self) {
        if !self.isolating.is_empty() {
            self.baseline.clear();
        }
    }
}

/// An endpoint's pod as policies choose it.
#[derive(Clone, Copy)]
pub(crate) struct Subject<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) of_namespace: Option<&'a Labels>,
    pub(crate) labels: &'a Labels,
}

fn cluster_keys(tier: &BTreeSet<(u16, String)>) -> Vec<Key> {
    let names = tier.iter().map(|(_, name)| name.clone());
    names.map(Key::ClusterNetworkPolicy).collect()
}
