//! `portolan policy list`: every policy in the order in which they are asked, whom it is about, what it counted.

use std::collections::{BTreeMap, BTreeSet};

use ::policy::{Direction, Evaluator, PolicyTier};
use api::resources::Tier;
use api::{Key, NamespacedName};

use super::counts::{PolicyCounts, count};
use super::state::Known;
use super::view::{ListView, Packets, PolicyRow};

/// Pods of the cluster, and of this node.
#[derive(Default)]
struct Subjects<'a> {
    pods: BTreeSet<&'a NamespacedName>,
    local: BTreeSet<&'a NamespacedName>,
}

/// Lists all.
pub(super) fn list(known: &Known) -> ListView {
    let subjects = subjects(known);
    let counts = known.held.as_ref().ok();
    let counts = counts.map(|held| count(&known.compiled, held));
    let row = |tier, priority, key: Key, directions: Vec<Direction>| {
        let of_policy = subjects.get(&key);
        let mut problems = known.problems_of(&key);
        let packets = counts
            .as_ref()
            .map(|counts| packets(counts, &key, &directions, &mut problems));
        PolicyRow {
            tier: tier_name(tier).to_owned(),
            priority,
            name: key_name(&key),
            directions: directions.iter().map(ToString::to_string).collect(),
            local_pods: of_policy.map_or(0, |of| of.local.len()),
            pods: of_policy.map_or(0, |of| of.pods.len()),
            packets,
            problems,
        }
    };
    let mut policies = Vec::new();
    let cluster = |tier: Tier| {
        let all = known.objects.cluster_policies.values();
        let mut of_tier: Vec<_> = all.filter(|policy| policy.tier == tier).collect();
        of_tier.sort_by_key(|policy| (policy.priority, &policy.name));
        of_tier.into_iter().map(|policy| {
            let lists = [
                (Direction::Ingress, &policy.ingress),
                (Direction::Egress, &policy.egress),
            ];
            let spoken = lists.into_iter().filter(|(_, list)| !list.is_empty());
            let key = Key::ClusterNetworkPolicy(policy.name.clone());
            (
                policy.priority,
                key,
                spoken.map(|(way, _)| way).collect::<Vec<_>>(),
            )
        })
    };
    let admin = cluster(Tier::Admin);
    policies.extend(
        admin.map(|(priority, key, ways)| row(PolicyTier::Admin, Some(priority), key, ways)),
    );
    policies.extend(known.objects.policies.values().map(|policy| {
        let lists = [
            (Direction::Ingress, &policy.ingress),
            (Direction::Egress, &policy.egress),
        ];
        let ways = lists.into_iter().filter(|(_, list)| list.is_some());
        let key = Key::NetworkPolicy(policy.name.clone());
        let ways = ways.map(|(way, _)| way).collect();
        row(PolicyTier::NetworkPolicy, None, key, ways)
    }));
    let baseline = cluster(Tier::Baseline);
    policies.extend(
        baseline.map(|(priority, key, ways)| row(PolicyTier::Baseline, Some(priority), key, ways)),
    );
    ListView {
        node: known.node.clone(),
        policies,
        kernel_error: known.held.as_ref().err().cloned(),
    }
}

fn subjects(known: &Known) -> BTreeMap<Key, Subjects<'_>> {
    let evaluator = Evaluator::new(&known.objects, &known.settings);
    let endpoints = known.objects.endpoints.values();
    let local: BTreeSet<&NamespacedName> = endpoints.map(|endpoint| &endpoint.pod).collect();
    let mut subjects: BTreeMap<Key, Subjects<'_>> = BTreeMap::new();
    for (pod, addresses) in evaluator.pods() {
        let Some(address) = addresses.first() else {
            continue;
        };
        for way in Direction::ALL {
            for (_, key) in evaluator.policies_about(way, *address) {
                let of_policy = subjects.entry(key).or_default();
                of_policy.pods.insert(pod);
                if local.contains(pod) {
                    of_policy.local.insert(pod);
                }
            }
        }
    }
    subjects
}

fn packets(
    counts: &BTreeMap<(Key, Direction), PolicyCounts>,
    key: &Key,
    directions: &[Direction],
    problems: &mut Vec<String>,
) -> Packets {
    let mut packets = Packets::default();
    for direction in directions {
        if let Some(of) = counts.get(&(key.clone(), *direction)) {
            packets.allowed += of.allowed;
            packets.denied += of.denied;
            packets.passed += of.passed;
            problems.extend(of.missing.iter().map(|chain| {
                format!("{direction}: the kernel does not hold its chain {chain} now")
            }));
        }
    }
    packets
}

/// As the API names it.
pub(super) fn tier_name(tier: PolicyTier) -> &'static str {
    match tier {
        PolicyTier::Admin => "Admin",
        PolicyTier::NetworkPolicy => "NetworkPolicy",
        PolicyTier::Baseline => "Baseline",
    }
}

/// An object's name without its kind.
pub(super) fn key_name(key: &Key) -> String {
    let text = key.to_string();
    let name = text.split_once(' ').map(|(_, name)| name.to_owned());
    name.unwrap_or(text)
}
