//! Which policies are about a pod, for people who ask.

use std::net::IpAddr;

use api::Key;
use api::resources::Tier;

use super::{Evaluator, PolicyTier, rules};
use crate::Direction;

impl Evaluator<'_> {
    /// The policies with something to say of a direction that select the pod with this address, in the order in which
    /// they are asked (semantics 63). Those of the baseline tier too, even where a NetworkPolicy keeps them from being
    /// asked.
    pub fn policies_about(&self, way: Direction, address: IpAddr) -> Vec<(PolicyTier, Key)> {
        let Some(pod) = self.holder(address) else {
            return Vec::new();
        };
        let of_tier = |tier, asked| {
            let policies = self.cluster_policies(tier, pod).into_iter();
            let speaking = policies.filter(|policy| !rules::of_cluster(policy, way).is_empty());
            let key = |name: &String| (asked, Key::ClusterNetworkPolicy(name.clone()));
            speaking.map(|policy| key(&policy.name)).collect::<Vec<_>>()
        };
        let mut policies = of_tier(Tier::Admin, PolicyTier::Admin);
        let isolating = self.isolating(way, pod).into_iter();
        policies.extend(isolating.map(|policy| {
            let key = Key::NetworkPolicy(policy.name.clone());
            (PolicyTier::NetworkPolicy, key)
        }));
        policies.extend(of_tier(Tier::Baseline, PolicyTier::Baseline));
        policies
    }
}
