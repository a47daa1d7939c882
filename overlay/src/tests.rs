//! Which way each prefix goes, for every mode and family; and that all nodes reckon alike.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use api::crd::{AllowedUse, Encapsulation};
use api::resources::{IpPool, IpamBlock, Node};
use api::{Labels, Selector};
use ipnet::IpNet;

use super::*;

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn node(name: &str, addresses: &[&str]) -> Node {
    Node {
        name: name.to_owned(),
        labels: Labels::new(),
        internal_ips: addresses.iter().map(|text| ip(text)).collect(),
        addresses: Vec::new(),
        pod_cidrs: Vec::new(),
        as_number: None,
        router_id: None,
        cluster_id: None,
        bgp_drain: false,
        leaving: None,
    }
}

fn pool(cidr: &str, encapsulation: Encapsulation) -> IpPool {
    IpPool {
        name: "pods".to_owned(),
        cidr: net(cidr),
        block_size: 26,
        encapsulation,
        nat_outgoing: false,
        non_masquerade_cidrs: BTreeSet::new(),
        node_selector: Selector::all(),
        allowed_uses: [AllowedUse::Workload].into(),
        layer2: None,
        disabled: false,
    }
}

fn block(cidr: &str, node: &str) -> IpamBlock {
    IpamBlock {
        cidr: net(cidr),
        node: node.to_owned(),
    }
}

/// Three nodes in two subnets, a block of each family each.
struct Cluster {
    nodes: Vec<Node>,
    pools: Vec<IpPool>,
    blocks: Vec<IpamBlock>,
    pods: Vec<(IpAddr, &'static str)>,
}

impl Cluster {
    fn new(addresses: [&[&str]; 3], encapsulation: Encapsulation) -> Self {
        let names = ["n1", "n2", "n3"];
        let nodes = names.iter().zip(addresses);
        let v4 = names.iter().enumerate();
        let mut blocks: Vec<IpamBlock> = v4
            .map(|(number, name)| block(&format!("10.48.{number}.0/26"), name))
            .collect();
        let v6 = names.iter().enumerate();
        blocks.extend(v6.map(|(number, name)| block(&format!("fd48:{number}::/122"), name)));
        Self {
            nodes: nodes
                .map(|(name, addresses)| node(name, addresses))
                .collect(),
            pools: vec![
                pool("10.48.0.0/16", encapsulation),
                pool("fd48::/16", encapsulation),
            ],
            blocks,
            pods: Vec::new(),
        }
    }

    fn of_ipv4(encapsulation: Encapsulation) -> Self {
        let addresses: [&[&str]; 3] = [&["10.1.0.1"], &["10.1.0.2"], &["10.2.0.3"]];
        Self::new(addresses, encapsulation)
    }

    /// Of VXLAN.
    fn demand(&self, own: usize) -> (Option<Demand>, Vec<String>) {
        let (mut demands, problems) = self.demands(own);
        (demands.remove(&Kind::Vxlan), problems)
    }

    fn demands(&self, own: usize) -> (BTreeMap<Kind, Demand>, Vec<String>) {
        let node = &self.nodes[own];
        let blocks = self.blocks.iter().filter(|block| block.node == node.name);
        demands(&View {
            node,
            nodes: self.nodes.iter().collect(),
            pools: self.pools.iter().collect(),
            blocks: self.blocks.iter().collect(),
            own: &blocks.map(|block| block.cidr).collect(),
            pods: self.pods.clone(),
            keys: BTreeMap::new(),
        })
    }

    fn plan(&self, own: usize, subnets: &[&str]) -> Plan {
        let (demand, problems) = self.demand(own);
        assert_eq!(problems, Vec::<String>::new());
        let subnets: Vec<IpNet> = subnets.iter().map(|text| net(text)).collect();
        demand.unwrap().plan(&subnets)
    }

    fn mac(&self, own: usize) -> Mac {
        self.demand(own).0.unwrap().mac
    }
}

fn routes(plan: &Plan) -> BTreeMap<String, Route> {
    let routes = plan.routes.iter();
    routes
        .map(|(prefix, route)| (prefix.to_string(), *route))
        .collect()
}

#[test]
fn of_each_kind_is_asked_what_pools_have() {
    let all = [
        Encapsulation::None,
        Encapsulation::Vxlan,
        Encapsulation::VxlanCrossSubnet,
        Encapsulation::Ipip,
        Encapsulation::IpipCrossSubnet,
        Encapsulation::WireGuard,
    ];
    for encapsulation in all {
        let kind = Kind::of(encapsulation).map(|(kind, _)| kind);
        let (demands, problems) = Cluster::of_ipv4(encapsulation).demands(0);
        let found: Vec<Kind> = demands.into_keys().collect();
        assert_eq!(found, Vec::from_iter(kind), "{problems:?}");
    }
}

#[test]
fn what_one_kind_keeps_for_another_is_what_is_in_those_ranges() {
    let mut cluster = Cluster::of_ipv4(Encapsulation::Vxlan);
    let before = cluster.demand(0).0.unwrap();
    let (v4, v6) = (net("10.48.0.0/16"), net("fd48::/16"));
    assert_eq!(before.within(&[v4, v6].into()), Some(before.clone()));
    assert_eq!(before.within(&[net("10.0.0.0/8")].into()), None);
    let part = before.within(&[v4].into()).unwrap();
    assert_eq!(part.addresses, [ip("10.48.0.0")].into());
    assert!(part.peers["n2"].prefixes.keys().eq([&net("10.48.1.0/26")]));
    // The one pool is asked of another kind now, and a node is new: both go on, the new node too.
    cluster.pools[0].encapsulation = Encapsulation::None;
    cluster.nodes.push(node("n4", &["10.2.0.4"]));
    cluster.blocks.push(block("fd48:4::/122", "n4"));
    let after = cluster.demand(0).0.unwrap();
    assert_eq!(after.ranges, [v6].into());
    let both = after.clone().and(part);
    assert_eq!(both.ranges, before.ranges);
    assert_eq!(both.addresses, before.addresses);
    assert_eq!(both.peers["n2"], before.peers["n2"]);
    assert_eq!(both.peers["n4"], after.peers["n4"]);
}

#[test]
fn with_vxlan_every_block_of_another_node_goes_by_the_tunnel() {
    let cluster = Cluster::of_ipv4(Encapsulation::Vxlan);
    let plan = cluster.plan(0, &["10.1.0.0/24"]);
    let local = |of: usize| IpAddr::from(link_local_of(cluster.mac(of)));
    assert_eq!(
        routes(&plan),
        BTreeMap::from([
            ("10.48.1.0/26".to_owned(), Route::Tunnel(ip("10.1.0.2"))),
            ("10.48.2.0/26".to_owned(), Route::Tunnel(ip("10.2.0.3"))),
            ("fd48:1::/122".to_owned(), Route::Tunnel(local(1))),
            ("fd48:2::/122".to_owned(), Route::Tunnel(local(2))),
        ])
    );
    let third = &plan.peers[&cluster.mac(2)];
    assert_eq!(third.underlay, ip("10.2.0.3"));
    assert_eq!(third.neighbours, BTreeSet::from([ip("10.2.0.3"), local(2)]));
    // This node's own packets come back by the tunnel: the first address of its blocks, which no pod has.
    let own = [ip("10.48.0.0"), ip("fd48::"), local(0)];
    assert_eq!(plan.addresses, BTreeSet::from(own));
    let demand = cluster.demand(0).0.unwrap();
    assert_eq!(demand.overhead(), 50);
    assert_eq!(
        demand.ranges,
        [net("10.48.0.0/16"), net("fd48::/16")].into()
    );
}

#[test]
fn across_subnets_only_a_node_in_ones_own_subnet_is_reached_directly() {
    let cluster = Cluster::of_ipv4(Encapsulation::VxlanCrossSubnet);
    let plan = cluster.plan(0, &["10.1.0.0/24"]);
    let found = routes(&plan);
    assert_eq!(found["10.48.1.0/26"], Route::Direct(ip("10.1.0.2")));
    assert_eq!(found["10.48.2.0/26"], Route::Tunnel(ip("10.2.0.3")));
    // An IPv6 prefix has no IPv4 next hop: by the tunnel, though the node is near.
    let local = link_local_of(cluster.mac(1));
    assert_eq!(found["fd48:1::/122"], Route::Tunnel(local.into()));
    // With a subnet that holds all of them nothing goes by the tunnel.
    let wide = cluster.plan(2, &["10.0.0.0/8"]);
    assert_eq!(routes(&wide)["10.48.0.0/26"], Route::Direct(ip("10.1.0.1")));
}

#[test]
fn over_ipv6_nodes_pods_of_both_families_go_by_link_local_gateways() {
    let addresses: [&[&str]; 3] = [&["fd01::1"], &["fd01::2"], &["fd02::3"]];
    let cluster = Cluster::new(addresses, Encapsulation::VxlanCrossSubnet);
    let plan = cluster.plan(0, &["fd01::/64"]);
    let far = Route::Tunnel(link_local_of(cluster.mac(2)).into());
    let near = Route::Direct(ip("fd01::2"));
    let found = routes(&plan);
    let all = [
        "10.48.1.0/26",
        "fd48:1::/122",
        "10.48.2.0/26",
        "fd48:2::/122",
    ];
    assert_eq!(all.map(|prefix| found[prefix]), [near, near, far, far]);
    assert_eq!(cluster.demand(0).0.unwrap().overhead(), 70);
}

#[test]
fn pools_of_both_kinds_stand_side_by_side_and_a_stray_pod_has_its_own_route() {
    let mut cluster = Cluster::of_ipv4(Encapsulation::Vxlan);
    cluster.pools[1].encapsulation = Encapsulation::None;
    // One in nobody's block, one of node 3 out of node 2's, one in its own node's.
    cluster.pods = vec![
        (ip("10.48.77.7"), "n2"),
        (ip("10.48.1.7"), "n3"),
        (ip("10.48.2.7"), "n3"),
        (ip("10.99.0.1"), "n3"),
    ];
    cluster.nodes[1].pod_cidrs = vec![net("10.48.200.0/24"), net("10.244.1.0/24")];
    let found = routes(&cluster.plan(0, &[]));
    let second = Route::Tunnel(ip("10.1.0.2"));
    let third = Route::Tunnel(ip("10.2.0.3"));
    assert_eq!(
        found,
        BTreeMap::from([
            ("10.48.1.0/26".to_owned(), second),
            ("10.48.1.7/32".to_owned(), third),
            ("10.48.2.0/26".to_owned(), third),
            ("10.48.77.7/32".to_owned(), second),
            ("10.48.200.0/24".to_owned(), second),
        ])
    );
}

#[test]
fn a_node_without_an_address_of_the_tunnels_family_is_told_of_and_the_rest_goes_on() {
    let addresses: [&[&str]; 3] = [&["10.1.0.1", "fd01::1"], &["fd01::2"], &["10.2.0.3"]];
    let mut cluster = Cluster::new(addresses, Encapsulation::Vxlan);
    let (demand, problems) = cluster.demand(0);
    assert_eq!(demand.unwrap().peers.keys().collect::<Vec<_>>(), ["n3"]);
    assert_eq!(
        problems,
        [
            "Node n2 has no IPv4 InternalIP: its pods can't be reached by this node's tunnels; add one to status.addresses"
        ]
    );
    cluster.nodes[0].internal_ips.clear();
    let (demand, problems) = cluster.demand(0);
    assert!(
        demand.is_none() && problems[0].contains("n1 has no InternalIP"),
        "{problems:?}"
    );
}

#[test]
fn a_node_without_an_end_sends_nothing_of_wireguards_ranges_in_the_clear() {
    let mut cluster = Cluster::of_ipv4(Encapsulation::WireGuard);
    let of = |cluster: &Cluster, own| {
        let (mut demands, problems) = cluster.demands(own);
        (demands.remove(&Kind::WireGuard).unwrap(), problems)
    };
    assert!(!of(&cluster, 0).0.is_closed());
    cluster.nodes[0].internal_ips.clear();
    let (demand, problems) = of(&cluster, 0);
    assert!(demand.is_closed() && demand.peers.is_empty());
    assert_eq!(
        demand.ranges,
        [net("10.48.0.0/16"), net("fd48::/16")].into()
    );
    assert_eq!(
        problems,
        [
            "Node n1 has no InternalIP: there is no tunnel to the pods of other nodes, and nothing is sent to them in the clear; add one to status.addresses"
        ]
    );
    // The others have no way to it, and its prefixes stay inside of what is theirs to close.
    let (other, problems) = of(&cluster, 1);
    assert_eq!(other.peers.keys().collect::<Vec<_>>(), ["n3"]);
    assert!(other.left.is_empty(), "{other:?}");
    assert!(problems[0].contains("Node n1 has no IPv4 InternalIP"));
    // No other kind of pool is closed.
    let pools: Vec<IpPool> = [
        Encapsulation::None,
        Encapsulation::Vxlan,
        Encapsulation::Ipip,
    ]
    .into_iter()
    .map(|encapsulation| pool("10.48.0.0/16", encapsulation))
    .collect();
    assert_eq!(Demand::closed(&pools.iter().collect::<Vec<_>>()), None);
}

#[test]
fn link_layer_addresses_follow_from_names_and_all_nodes_settle_a_collision_alike() {
    let cluster = Cluster::of_ipv4(Encapsulation::Vxlan);
    for own in 0..3 {
        let demand = cluster.demand(own).0.unwrap();
        for (name, peer) in &demand.peers {
            let other = cluster.nodes.iter().position(|node| node.name == *name);
            assert_eq!(peer.mac, cluster.mac(other.unwrap()));
        }
        assert_eq!(demand.mac[0] & 3, 2, "of one station, locally administered");
    }
    // A hash that knows three values only.
    let hash = |name: &str, round: u32| {
        let sum: u32 = name.bytes().map(u32::from).sum();
        [2, 0, 0, 0, 0, u8::try_from((sum + round) % 3).unwrap()]
    };
    let (one, moved) = macs(["ab", "ba", "c"].into_iter(), hash);
    let (other, _) = macs(["c", "ba", "ab"].into_iter(), hash);
    assert_eq!(one, other);
    assert_eq!(one.values().collect::<BTreeSet<_>>().len(), 3);
    assert_eq!(moved, ["ba", "c"]);
}

#[test]
fn a_prefix_too_small_to_spare_an_address_gives_the_tunnel_none() {
    let mut cluster = Cluster::of_ipv4(Encapsulation::Vxlan);
    cluster.blocks = vec![block("10.48.0.0/31", "n1"), block("10.48.0.8/30", "n1")];
    let addresses = cluster.demand(0).0.unwrap().addresses;
    assert_eq!(addresses, BTreeSet::from([ip("10.48.0.8")]));
}

#[test]
fn by_ipip_the_gateway_is_the_other_nodes_own_address_and_ipv6_stays_as_it_is() {
    let mut cluster = Cluster::of_ipv4(Encapsulation::IpipCrossSubnet);
    cluster.pools[1].name = "pods6".to_owned();
    // Not its first: outer packets go to the first InternalIP, and so do routes.
    cluster.nodes[2].internal_ips = vec![ip("10.2.0.3"), ip("10.1.9.3")];
    let (demands, problems) = cluster.demands(0);
    assert_eq!(
        problems,
        [
            "IPPool pods6: encapsulation IPIP carries IPv4 only, not fd48::/16: its packets travel as without encapsulation; set encapsulation VXLAN or WireGuard"
        ]
    );
    let demand = &demands[&Kind::Ipip];
    assert_eq!((demands.len(), demand.overhead()), (1, 20));
    assert_eq!(demand.ranges, [net("10.48.0.0/16")].into());
    let plan = demand.plan(&[net("10.1.0.0/24")]);
    assert_eq!(
        routes(&plan),
        BTreeMap::from([
            ("10.48.1.0/26".to_owned(), Route::Direct(ip("10.1.0.2"))),
            ("10.48.2.0/26".to_owned(), Route::Tunnel(ip("10.2.0.3"))),
        ])
    );
    assert_eq!(plan.addresses, [ip("10.48.0.0")].into());
}

#[test]
fn by_ipip_a_node_without_ipv4_is_told_of_and_its_prefixes_stay_as_without_it() {
    let addresses: [&[&str]; 3] = [&["10.1.0.1", "fd01::1"], &["fd01::2"], &["10.2.0.3"]];
    let mut cluster = Cluster::new(addresses, Encapsulation::Ipip);
    cluster.pools.truncate(1);
    let (demands, problems) = cluster.demands(0);
    let demand = &demands[&Kind::Ipip];
    assert_eq!(demand.left, [net("10.48.1.0/26")].into());
    assert!(demand.peers.keys().eq(["n3"]));
    let [problem] = problems.as_slice() else {
        panic!("{problems:?}")
    };
    assert!(
        problem.starts_with("Node n2 has no IPv4 InternalIP, and IPPool pods has encapsulation")
            && problem.ends_with("or set encapsulation VXLAN or WireGuard"),
        "{problem}"
    );
    // That node itself has no end to send from.
    let (demands, problems) = cluster.demands(1);
    assert!(demands.is_empty(), "{demands:?}");
    assert!(
        problems[0].starts_with("IPPool pods: encapsulation IPIP goes from IPv4")
            && problems[0].contains("Node n2"),
        "{problems:?}"
    );
}

#[test]
fn pools_of_two_kinds_have_a_demand_each_and_no_prefix_is_in_both() {
    let mut cluster = Cluster::of_ipv4(Encapsulation::Ipip);
    cluster.pools[1].encapsulation = Encapsulation::Vxlan;
    let (demands, problems) = cluster.demands(0);
    assert_eq!(problems, Vec::<String>::new());
    let prefixes = |kind: Kind| -> BTreeSet<IpNet> {
        let peers = demands[&kind].peers.values();
        peers
            .flat_map(|peer| peer.prefixes.keys().copied())
            .collect()
    };
    let (ipip, vxlan) = (prefixes(Kind::Ipip), prefixes(Kind::Vxlan));
    assert_eq!((ipip.len(), vxlan.len()), (2, 2));
    assert!(ipip.is_disjoint(&vxlan));
    assert_eq!(demands[&Kind::Ipip].addresses, [ip("10.48.0.0")].into());
    assert_eq!(demands[&Kind::Vxlan].addresses, [ip("fd48::")].into());
}
