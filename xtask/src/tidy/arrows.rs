//! Which crate may depend on which, and what pure crates may not reach at all.

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::{DependencyKind, Metadata, Package, PackageId};

use super::Tally;

/// Every crate and what of ours it may depend on; nothing points up.
const ARROWS: &[(&str, &[&str])] = &[
    ("api", &[]),
    ("reconcile", &[]),
    ("bgp-proto", &[]),
    ("bgp-speaker", &["bgp-proto"]),
    ("routes", &["reconcile"]),
    ("netfilter", &["reconcile"]),
    ("policy", &["api", "netfilter"]),
    ("services", &["api", "netfilter"]),
    ("ipam", &["api"]),
    ("overlay", &["api"]),
    ("ingress", &["api"]),
    ("datastore", &["api"]),
    ("cni-spec", &[]),
    ("cni-plugin", &["cni-spec"]),
    (
        "agent",
        &[
            "api",
            "bgp-proto",
            "bgp-speaker",
            "cni-spec",
            "datastore",
            "ipam",
            "netfilter",
            "overlay",
            "policy",
            "reconcile",
            "routes",
            "services",
        ],
    ),
    ("tests", &["api", "netfilter", "policy"]),
    ("cluster", &["api", "datastore", "tests"]),
    ("vm", &["tests"]),
    (
        "bench",
        &[
            "api",
            "bgp-speaker",
            "bgp-proto",
            "cluster",
            "datastore",
            "netfilter",
            "policy",
            "tests",
        ],
    ),
    ("xtask", &[]),
];

const PURE: &[&str] = &[
    "api",
    "reconcile",
    "bgp-proto",
    "netfilter",
    "policy",
    "services",
    "ipam",
    "overlay",
    "cni-spec",
];

/// What a pure crate must not have anywhere in its tree.
const IMPURE: &[&str] = &[
    "tokio",
    "kube-client",
    "rtnetlink",
    "netlink-sys",
    "hyper",
    "socket2",
    "nix",
];

/// Outside systems, and the one crate that speaks to each (invariant 7). The ingress controller stands alone: it reads
/// manifests itself.
const OWNERS: &[(&str, &[&str])] = &[
    ("netlink-sys", &["routes"]),
    ("netlink-packet-core", &["routes"]),
    ("netlink-packet-route", &["routes"]),
    ("notify", &["datastore", "ingress"]),
    ("serde-saphyr", &["datastore", "ingress"]),
    ("axum", &["agent"]),
];

/// Adds what breaks the rules.
pub(crate) fn check(metadata: &Metadata, tally: &mut Tally) {
    let packages: BTreeMap<&PackageId, &Package> = metadata
        .packages
        .iter()
        .map(|package| (&package.id, package))
        .collect();
    let ours: BTreeSet<&str> = metadata
        .workspace_packages()
        .iter()
        .map(|package| package.name.as_str())
        .collect();
    for package in metadata.workspace_packages() {
        tally.crates += 1;
        let name = package.name.as_str();
        let Some((_, allowed)) = ARROWS.iter().find(|(known, _)| *known == name) else {
            tally
                .problems
                .push(format!("crate {name} has no row in xtask's ARROWS: add it"));
            continue;
        };
        for dependency in &package.dependencies {
            let target = dependency.name.as_str();
            let product = dependency.kind == DependencyKind::Normal;
            let owner = OWNERS.iter().find(|(known, _)| *known == target);
            let foreign = owner.filter(|(_, owners)| product && !owners.contains(&name));
            if let Some((_, owners)) = foreign {
                tally.problems.push(format!(
                    "{name} depends on {target}, which is {}'s alone",
                    owners.join(" and ")
                ));
            }
            if product && ours.contains(target) && !allowed.contains(&target) {
                tally.problems.push(format!(
                    "{name} depends on {target}: that arrow points up or sideways (ARCHITECTURE.md)"
                ));
            }
        }
        if PURE.contains(&name) {
            purity(metadata, &packages, package, tally);
        }
    }
}

fn purity(
    metadata: &Metadata,
    packages: &BTreeMap<&PackageId, &Package>,
    package: &Package,
    tally: &mut Tally,
) {
    let Some(resolve) = &metadata.resolve else {
        tally
            .problems
            .push("cargo gave no dependency graph".to_owned());
        return;
    };
    let nodes: BTreeMap<_, _> = resolve.nodes.iter().map(|node| (&node.id, node)).collect();
    let mut seen = BTreeSet::new();
    let mut waiting = vec![&package.id];
    while let Some(id) = waiting.pop() {
        if !seen.insert(id) {
            continue;
        }
        if let Some(found) = packages
            .get(id)
            .filter(|found| IMPURE.contains(&found.name.as_str()))
        {
            tally.problems.push(format!(
                "pure crate {} reaches {}",
                package.name, found.name
            ));
        }
        for dependency in nodes.get(id).iter().flat_map(|node| &node.deps) {
            let normal = |kind: &cargo_metadata::DepKindInfo| kind.kind == DependencyKind::Normal;
            if dependency.dep_kinds.iter().any(normal) {
                waiting.push(&dependency.pkg);
            }
        }
    }
}
