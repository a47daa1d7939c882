//! Plans of addresses: what a node gives, has and takes next, whatever came first.

use api::crd::{AllowedUse, Encapsulation};
use api::{Labels, Selector};
use proptest::prelude::*;

use super::*;

fn cidr(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn pool(name: &str, of: &str, block_size: u8) -> IpPool {
    IpPool {
        name: name.to_owned(),
        cidr: cidr(of),
        block_size,
        encapsulation: Encapsulation::None,
        nat_outgoing: false,
        non_masquerade_cidrs: BTreeSet::new(),
        node_selector: Selector::all(),
        allowed_uses: [AllowedUse::Workload].into(),
        layer2: None,
        disabled: false,
    }
}

fn node(name: &str, pod_cidrs: &[&str]) -> Node {
    Node {
        name: name.to_owned(),
        labels: Labels::from([("name".to_owned(), name.to_owned())]),
        internal_ips: vec!["192.0.2.1".parse().unwrap()],
        addresses: Vec::new(),
        pod_cidrs: pod_cidrs.iter().map(|text| cidr(text)).collect(),
        as_number: None,
        router_id: None,
        cluster_id: None,
        bgp_drain: false,
        leaving: None,
    }
}

fn block(of: &str, node: &str) -> IpamBlock {
    IpamBlock {
        cidr: cidr(of),
        node: node.to_owned(),
    }
}

/// Everything that a plan hangs on.
#[derive(Clone, Debug, Default)]
struct Cluster {
    nodes: Vec<Node>,
    pools: Vec<IpPool>,
    blocks: Vec<IpamBlock>,
    reserved: Vec<IpNet>,
}

impl Cluster {
    /// Two nodes with Pod CIDRs of both families.
    fn of(pools: Vec<IpPool>, blocks: Vec<IpamBlock>) -> Self {
        Self {
            nodes: vec![
                node("n1", &["10.244.1.0/24", "fd00:244:1::/64"]),
                node("n2", &["10.244.2.0/24", "fd00:244:2::/64"]),
            ],
            pools,
            blocks,
            reserved: Vec::new(),
        }
    }

    fn plan(&self, own: usize) -> Plan {
        plan(&View {
            node: &self.nodes[own],
            nodes: self.nodes.iter().collect(),
            pools: self.pools.iter().collect(),
            blocks: self.blocks.iter().collect(),
            reserved: self.reserved.clone(),
        })
    }
}

fn texts<'a>(cidrs: impl IntoIterator<Item = &'a IpNet>) -> Vec<String> {
    cidrs.into_iter().map(ToString::to_string).collect()
}

fn next(plan: &Plan) -> Option<String> {
    let found = plan.next_block(Family::V4, &BTreeSet::new());
    found.map(|block| block.to_string())
}

#[test]
fn without_pools_addresses_come_from_the_pod_cidrs() {
    let plan = Cluster::of(Vec::new(), Vec::new()).plan(0);
    assert_eq!(texts(&plan.give), ["10.244.1.0/24", "fd00:244:1::/64"]);
    assert_eq!(texts(&plan.own), ["10.244.1.0/24", "fd00:244:1::/64"]);
    assert!(plan.pooled.is_empty() && plan.sources.is_empty());
    assert_eq!(next(&plan), None);
    let elsewhere = texts(&plan.elsewhere);
    assert!(
        elsewhere.contains(&"10.244.2.0/24".to_owned()),
        "{elsewhere:?}"
    );
}

#[test]
fn a_family_with_a_pool_comes_from_this_nodes_blocks_alone_and_the_other_from_its_pod_cidr() {
    let blocks = vec![
        block("10.48.1.0/26", "n1"),
        block("10.48.0.0/26", "n2"),
        block("10.48.0.64/26", "n1"),
    ];
    let cluster = Cluster::of(vec![pool("pods", "10.48.0.0/16", 26)], blocks);
    let plan = cluster.plan(0);
    let own = ["10.48.0.64/26", "10.48.1.0/26", "fd00:244:1::/64"];
    assert_eq!(texts(&plan.give), own);
    assert_eq!(texts(&plan.own), own);
    assert_eq!(texts(&plan.blocks), ["10.48.0.64/26", "10.48.1.0/26"]);
    assert_eq!(plan.pooled, [Family::V4].into());
    assert_eq!(plan.problems, [""; 0]);
    let none = Cluster::of(cluster.pools, Vec::new()).plan(0);
    assert_eq!(
        texts(&none.give),
        ["fd00:244:1::/64"],
        "the Pod CIDR is no way out"
    );
}

#[test]
fn pools_are_used_in_the_order_of_their_names_and_the_nodes_first_family_comes_first() {
    let pools = vec![
        pool("a-six", "fd00:48::/64", 122),
        pool("b-four", "10.50.0.0/16", 26),
        pool("c-four", "10.48.0.0/16", 26),
    ];
    let blocks = vec![
        block("10.48.0.0/26", "n1"),
        block("10.50.0.0/26", "n1"),
        block("fd00:48::/122", "n1"),
    ];
    let plan = Cluster::of(pools, blocks).plan(0);
    assert_eq!(
        texts(&plan.give),
        ["10.50.0.0/26", "10.48.0.0/26", "fd00:48::/122"]
    );
    assert!(
        next(&plan).unwrap().starts_with("10.50."),
        "the first pool first"
    );
}

#[test]
fn a_pool_that_does_not_select_the_node_or_is_not_for_pods_leaves_it_its_pod_cidrs() {
    let mut other = pool("other", "10.48.0.0/16", 26);
    other.node_selector = Selector::parse("name == 'n2'").unwrap();
    let mut services = pool("services", "10.49.0.0/16", 26);
    services.allowed_uses = [AllowedUse::LoadBalancer].into();
    let cluster = Cluster::of(vec![other, services], vec![block("10.48.0.0/26", "n1")]);
    let plan = cluster.plan(0);
    assert_eq!(texts(&plan.give), ["10.244.1.0/24", "fd00:244:1::/64"]);
    assert_eq!(
        texts(&plan.own),
        ["10.48.0.0/26", "10.244.1.0/24", "fd00:244:1::/64"],
        "a block that it has yet is its own"
    );
    assert_eq!(next(&plan), None);
    assert!(next(&cluster.plan(1)).is_some());
}

#[test]
fn a_disabled_pool_gives_nothing_and_keeps_what_is_held_and_is_not_replaced_by_pod_cidrs() {
    let mut disabled = pool("pods", "10.48.0.0/16", 26);
    disabled.disabled = true;
    let plan = Cluster::of(vec![disabled], vec![block("10.48.0.0/26", "n1")]).plan(0);
    assert_eq!(texts(&plan.give), ["fd00:244:1::/64"]);
    assert_eq!(texts(&plan.own), ["10.48.0.0/26", "fd00:244:1::/64"]);
    assert_eq!(next(&plan), None);
}

#[test]
fn of_pools_that_overlap_the_first_by_name_counts_and_the_other_is_named() {
    let pools = vec![
        pool("a", "10.48.0.0/16", 26),
        pool("b", "10.48.128.0/17", 26),
        pool("c", "10.49.0.0/16", 26),
    ];
    let plan = Cluster::of(pools, vec![block("10.48.200.0/26", "n1")]).plan(0);
    let names: Vec<_> = plan.sources.iter().map(|pool| pool.name.as_str()).collect();
    assert_eq!(names, ["a", "c"]);
    assert_eq!(
        plan.problems,
        [
            "IPPool b: its cidr 10.48.128.0/17 overlaps 10.48.0.0/16 of IPPool a: nodes take no blocks of it; give it another cidr, or remove one of the two"
        ]
    );
    assert!(
        plan.give.contains(&cidr("10.48.200.0/26")),
        "what is held stays in use"
    );
}

#[test]
fn a_changed_block_size_is_refused_by_name_and_the_blocks_stay_in_use() {
    let changed = pool("pods", "10.48.0.0/16", 27);
    let plan = Cluster::of(
        vec![changed],
        vec![block("10.48.0.0/26", "n2"), block("10.48.0.64/26", "n1")],
    )
    .plan(0);
    assert!(plan.sources.is_empty());
    assert!(plan.give.contains(&cidr("10.48.0.64/26")));
    let [problem] = plan.problems.as_slice() else {
        panic!("{:?}", plan.problems)
    };
    assert!(
        problem.starts_with(
            "IPPool pods: nodes hold blocks of it of another size (10.48.0.0/26 of node n2)"
        ) && problem.contains("put it back"),
        "{problem}"
    );
}

#[test]
fn a_node_takes_every_free_block_in_the_end_and_then_none() {
    let mut cluster = Cluster::of(
        vec![pool("pods", "10.48.0.0/24", 28)],
        vec![block("10.48.0.32/28", "n2")],
    );
    let mut taken = BTreeSet::new();
    while let Some(next) = cluster.plan(0).next_block(Family::V4, &BTreeSet::new()) {
        assert!(taken.insert(next), "{next} twice");
        cluster.blocks.push(IpamBlock {
            cidr: next,
            node: "n1".to_owned(),
        });
    }
    assert_eq!(taken.len(), 15);
    assert!(!taken.contains(&cidr("10.48.0.32/28")));
}

#[test]
fn two_nodes_begin_at_different_places_and_a_block_that_cannot_be_had_is_passed_over() {
    let cluster = Cluster::of(vec![pool("pods", "10.48.0.0/16", 26)], Vec::new());
    let (one, two) = (cluster.plan(0), cluster.plan(1));
    assert_ne!(next(&one), next(&two));
    let first = one.next_block(Family::V4, &BTreeSet::new()).unwrap();
    let second = one.next_block(Family::V4, &[first].into()).unwrap();
    assert_ne!(first, second);
}

#[test]
fn no_block_lies_in_a_pod_cidr_that_is_given_out_nor_is_wholly_reserved() {
    // A pool as large as the cluster's CIDR, where n2 has no pool: three quarters are its Pod CIDR or reserved.
    let mut only_n1 = pool("pods", "10.244.0.0/22", 26);
    only_n1.node_selector = Selector::parse("name == 'n1'").unwrap();
    let mut cluster = Cluster::of(vec![only_n1], Vec::new());
    cluster.reserved = vec![cidr("10.244.0.0/24"), cidr("10.244.3.0/28")];
    let mut taken = BTreeSet::new();
    while let Some(next) = cluster.plan(0).next_block(Family::V4, &BTreeSet::new()) {
        taken.insert(next);
        cluster.blocks.push(IpamBlock {
            cidr: next,
            node: "n1".to_owned(),
        });
    }
    assert_eq!(taken.len(), 8, "{taken:?}");
    let in_them = |block: &IpNet| {
        ["10.244.1.0/24", "10.244.3.0/24"]
            .iter()
            .any(|net| cidr(net).contains(block))
    };
    assert!(taken.iter().all(in_them), "{taken:?}");
}

#[test]
fn pod_cidrs_of_nodes_that_have_pools_too_are_taken_last() {
    let mut cluster = Cluster::of(vec![pool("pods", "10.244.0.0/22", 26)], Vec::new());
    for number in 0..16 {
        let next = cluster
            .plan(0)
            .next_block(Family::V4, &BTreeSet::new())
            .unwrap();
        assert_eq!(
            cidr("10.244.2.0/24").contains(&next),
            number >= 12,
            "{number}: {next}"
        );
        cluster.blocks.push(IpamBlock {
            cidr: next,
            node: "n1".to_owned(),
        });
    }
}

#[test]
fn a_pod_cidr_as_large_as_many_blocks_is_stepped_over_at_once() {
    let mut cluster = Cluster::of(vec![pool("six", "fd00:244::/48", 122)], Vec::new());
    cluster.nodes[1].pod_cidrs = vec![cidr("fd00:244:0:8000::/49")];
    cluster.nodes.push(node("n3", &["fd00:244:0:4000::/50"]));
    let mut only = cluster.pools[0].clone();
    only.node_selector = Selector::parse("name == 'n1'").unwrap();
    cluster.pools = vec![only];
    let found = cluster
        .plan(0)
        .next_block(Family::V6, &BTreeSet::new())
        .unwrap();
    assert!(cidr("fd00:244::/50").contains(&found), "{found}");
}

/// Some of these, in some order.
fn clusters() -> impl Strategy<Value = Cluster> {
    let pools = vec![
        pool("a", "10.48.0.0/16", 26),
        pool("b", "10.48.128.0/17", 27),
        pool("c", "10.49.0.0/24", 28),
        pool("d", "fd00:48::/64", 122),
    ];
    let blocks = vec![
        block("10.48.0.0/26", "n1"),
        block("10.48.0.64/26", "n2"),
        block("10.48.200.0/27", "n1"),
        block("10.49.0.0/28", "n1"),
        block("fd00:48::40/122", "n2"),
    ];
    let pools = proptest::sample::subsequence(pools, 0..=4);
    let blocks = proptest::sample::subsequence(blocks, 0..=5);
    (pools, blocks).prop_map(|(pools, blocks)| Cluster::of(pools, blocks))
}

proptest! {
    #[test]
    fn two_nodes_own_nothing_in_common_and_take_nothing_that_is_claimed(cluster in clusters()) {
        let (one, two) = (cluster.plan(0), cluster.plan(1));
        for own in &one.own {
            for other in &two.own {
                prop_assert!(!own.contains(other) && !other.contains(own), "{own} {other}");
            }
        }
        for plan in [&one, &two] {
            prop_assert!(plan.give.iter().all(|cidr| plan.own.contains(cidr)));
            for family in [Family::V4, Family::V6] {
                let next = plan.next_block(family, &BTreeSet::new());
                if let Some(block) = next {
                    let claimed = cluster.blocks.iter().map(|block| block.cidr);
                    let barred = one.own.iter().chain(&two.own).copied();
                    for other in claimed.chain(barred) {
                        prop_assert!(!other.contains(&block) && !block.contains(&other), "{block} {other}");
                    }
                    prop_assert!(plan.sources.iter().any(|pool| pool.has_block(&block)));
                }
            }
        }
    }
}
