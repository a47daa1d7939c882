//! What the cluster says against what one node's speaker is to be.

use std::time::Duration;

use api::resources::{
    FilterRule, Hops, PasswordRef, PeerAs, PeerTarget, PrefixAdvertisement, RuleAction,
    ServiceRange,
};
use api::{Labels, Selector};
use bgp_proto::session;
use bgp_speaker::socket::Ttl;

use super::*;

fn node(name: &str, number: u8, asn: Option<u32>) -> Node {
    Node {
        name: name.to_owned(),
        labels: Labels::from([("kubernetes.io/hostname".to_owned(), name.to_owned())]),
        internal_ips: vec![IpAddr::V4(Ipv4Addr::new(10, 10, number, 2))],
        addresses: Vec::new(),
        pod_cidrs: vec![format!("10.244.{number}.0/24").parse().unwrap()],
        as_number: asn,
        router_id: None,
        cluster_id: None,
        bgp_drain: false,
        leaving: None,
    }
}

fn tor(target: PeerTarget, selector: &str) -> BgpPeer {
    BgpPeer {
        node_selector: Selector::parse(selector).unwrap(),
        ..BgpPeer::new("tor", target, PeerAs::Number(65000))
    }
}

fn at_tor() -> PeerTarget {
    PeerTarget::Address("10.10.1.1:179".parse().unwrap())
}

#[derive(Default)]
struct Cluster {
    nodes: Vec<Node>,
    peers: Vec<BgpPeer>,
    filters: Vec<BgpFilter>,
    secrets: Vec<Secret>,
    elsewhere: BTreeSet<IpNet>,
    services: BTreeSet<IpNet>,
    configuration: BgpConfiguration,
}

impl Cluster {
    fn seen_from(&self, own: usize) -> Compiled {
        let nodes: Vec<&Node> = self.nodes.iter().collect();
        let peers: Vec<&BgpPeer> = self.peers.iter().collect();
        let filters = self.filters.iter().map(|one| (one.name.as_str(), one));
        let secrets = self.secrets.iter().map(|one| (one.name.name.as_str(), one));
        compile(&View {
            node: nodes[own],
            nodes: &nodes,
            peers: &peers,
            filters: &filters.collect(),
            secrets: &secrets.collect(),
            own: &nodes[own].pod_cidrs.iter().copied().collect(),
            strays: &BTreeSet::new(),
            services: &self.services,
            elsewhere: &self.elsewhere,
            configuration: &self.configuration,
        })
        .unwrap()
    }

    fn without_mesh(nodes: Vec<Node>, peers: Vec<BgpPeer>) -> Self {
        Self {
            nodes,
            peers,
            configuration: BgpConfiguration {
                node_to_node_mesh_enabled: false,
                ..BgpConfiguration::default()
            },
            ..Self::default()
        }
    }
}

#[test]
fn a_tor_peer_is_made_where_its_selector_matches() {
    let nodes = vec![node("n1", 1, Some(64513)), node("n2", 2, None)];
    let peer = tor(at_tor(), "kubernetes.io/hostname == 'n1'");
    let cluster = Cluster::without_mesh(nodes, vec![peer]);
    let first = cluster.seen_from(0).config;
    assert_eq!(first.speaker.asn, Asn(64513));
    let peer = &first.peers["tor"];
    assert_eq!(peer.session.asn, session::PeerAs::Number(Asn(65000)));
    assert_eq!(peer.socket.source, Some("10.10.1.2".parse().unwrap()));
    assert_eq!(peer.socket.ttl, Ttl::of_peer(true, None, None));
    let own = cluster.nodes[0].pod_cidrs[0];
    assert!(peer.session.import_reject.contains(&own));
    let second = cluster.seen_from(1).config;
    assert_eq!(second.speaker.asn, Asn(64512));
    assert!(second.peers.is_empty());
}

#[test]
fn services_are_announced_with_their_communities_and_learned_from_nodes_alone() {
    let range: IpNet = "10.96.0.0/12".parse().unwrap();
    let address: IpNet = "198.51.100.7/32".parse().unwrap();
    let reflector = BgpPeer {
        node_selector: Selector::parse("all()").unwrap(),
        ..BgpPeer::new(
            "reflector",
            PeerTarget::Address("10.10.9.1:179".parse().unwrap()),
            PeerAs::Number(64512),
        )
    };
    let mut cluster = Cluster {
        nodes: vec![node("n1", 1, None), node("n2", 2, Some(64600))],
        peers: vec![tor(at_tor(), "all()"), reflector],
        services: [range, address].into(),
        ..Cluster::default()
    };
    let ranges = [("10.96.0.0/12", true), ("198.51.100.0/24", false)];
    let ranges = ranges.map(|(cidr, is_aggregated)| ServiceRange {
        cidr: cidr.parse().unwrap(),
        is_aggregated,
    });
    cluster.configuration.service_cluster_ips = vec![ranges[0]];
    cluster.configuration.service_load_balancer_ips = vec![ranges[1]];
    cluster.configuration.prefix_advertisements = vec![PrefixAdvertisement {
        cidr: ranges[1].cidr,
        communities: [Community::Standard(65000 << 16 | 7)].into(),
    }];
    let config = cluster.seen_from(0).config;
    assert_eq!(config.originate[&address].communities, [65000 << 16 | 7]);
    assert!(config.originate[&range].communities.is_empty());
    let refuses = |peer: &str| {
        let refused = &config.peers[peer].session.import_reject;
        ranges.iter().all(|range| refused.contains(&range.cidr))
    };
    assert!(refuses("tor"));
    // A node of another AS, and who reflects routes of nodes: they carry other nodes' addresses on.
    assert!(!refuses("mesh/n2") && !refuses("reflector"));
}

#[test]
fn the_mesh_joins_every_other_node_once() {
    let nodes = vec![
        node("n1", 1, None),
        node("n2", 2, None),
        node("n3", 3, Some(65003)),
    ];
    let reflector = tor(
        PeerTarget::Nodes(Selector::parse("kubernetes.io/hostname == 'n2'").unwrap()),
        "all()",
    );
    let cluster = Cluster {
        nodes,
        peers: vec![reflector],
        ..Cluster::default()
    };
    let config = cluster.seen_from(0).config;
    let names: Vec<_> = config.peers.keys().map(String::as_str).collect();
    assert_eq!(names, ["mesh/n3", "tor/n2"]);
    let asn = config.peers["mesh/n3"].session.asn;
    assert_eq!(asn, session::PeerAs::Number(Asn(65003)));
}

#[test]
fn an_address_is_a_peer_once_and_the_later_name_says_why_not() {
    let label = |name: &str| Selector::parse(&format!("kubernetes.io/hostname == '{name}'"));
    let between = |name: &str, from: &str, to: &str| BgpPeer {
        node_selector: label(from).unwrap(),
        route_reflector_client: name == "clients",
        ..BgpPeer::new(
            name,
            PeerTarget::Nodes(label(to).unwrap()),
            PeerAs::Internal,
        )
    };
    // Either would do alone, since both sides of a pair make its session.
    let cluster = Cluster::without_mesh(
        vec![node("n1", 1, None), node("n2", 2, None)],
        vec![
            between("clients", "n1", "n2"),
            between("reflectors", "n2", "n1"),
        ],
    );
    for (own, other) in [(0, "n2"), (1, "n1")] {
        let seen = cluster.seen_from(own);
        let names: Vec<_> = seen.config.peers.keys().cloned().collect();
        assert_eq!(names, [format!("clients/{other}")]);
        let why = &seen.refused["reflectors"];
        assert!(why.contains(&format!("by clients/{other}")), "{why}");
    }
    let twice = |name: &str, address: &str| {
        BgpPeer::new(
            name,
            PeerTarget::Address(address.parse().unwrap()),
            PeerAs::Number(65000),
        )
    };
    let peers = vec![
        twice("a", "10.10.1.1:179"),
        twice("b", "10.10.1.1:179"),
        twice("c", "10.10.1.1:1179"),
    ];
    let seen = Cluster::without_mesh(vec![node("n1", 1, None)], peers).seen_from(0);
    let names: Vec<_> = seen.config.peers.keys().cloned().collect();
    assert_eq!(names, ["a", "c"]);
    assert!(
        seen.refused["b"].contains("10.10.1.1"),
        "{:?}",
        seen.refused
    );
}

#[test]
fn a_reflector_has_clients_and_its_clients_have_none() {
    let named = |name: &str| Selector::parse(&format!("kubernetes.io/hostname == '{name}'"));
    let peer = BgpPeer {
        node_selector: named("n1").unwrap(),
        route_reflector_client: true,
        ..BgpPeer::new(
            "clients",
            PeerTarget::Nodes(named("n2").unwrap()),
            PeerAs::Internal,
        )
    };
    let nodes = vec![node("n1", 1, None), node("n2", 2, None)];
    let cluster = Cluster::without_mesh(nodes, vec![peer]);
    let of = |own: usize, name: &str| {
        let peers = cluster.seen_from(own).config.peers;
        peers[name].session.route_reflector_client
    };
    assert!(of(0, "clients/n2"));
    assert!(!of(1, "clients/n1"));
}

#[test]
fn a_node_without_an_address_is_told_what_to_do() {
    let mut lonely = node("n1", 1, None);
    lonely.internal_ips.clear();
    let view = View {
        node: &lonely,
        nodes: &[&lonely],
        peers: &[],
        filters: &BTreeMap::new(),
        secrets: &BTreeMap::new(),
        own: &BTreeSet::new(),
        strays: &BTreeSet::new(),
        services: &BTreeSet::new(),
        elsewhere: &BTreeSet::new(),
        configuration: &BgpConfiguration::default(),
    };
    assert!(compile(&view).unwrap_err().contains("status.addresses"));
}

#[test]
fn a_node_with_ipv6_alone_has_a_router_id_from_its_name() {
    let only_v6 = |name: &str| Node {
        internal_ips: vec!["2001:db8::1".parse().unwrap()],
        ..node(name, 1, None)
    };
    let of = |name: &str| {
        let cluster = Cluster::without_mesh(vec![only_v6(name)], vec![]);
        cluster.seen_from(0).config.speaker.router_id
    };
    assert_eq!(of("n1"), of("n1"));
    assert_ne!(of("n1"), of("n2"));
}

#[test]
fn a_password_comes_from_its_secret_and_a_missing_one_leaves_the_peer_out() {
    let mut peer = tor(at_tor(), "all()");
    peer.password = Some(PasswordRef {
        secret: "bgp".to_owned(),
        key: "tor".to_owned(),
    });
    let mut cluster = Cluster::without_mesh(vec![node("n1", 1, None)], vec![peer]);
    let without = cluster.seen_from(0);
    assert!(
        without.config.peers.is_empty(),
        "never a session without the key"
    );
    assert!(without.refused["tor"].contains("Secret bgp"), "{without:?}");
    let written = serde_json::json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": "bgp", "namespace": "portolan"},
        "data": {"tor": "czNjcmV0"},
    });
    let written: k8s_openapi::api::core::v1::Secret = serde_json::from_value(written).unwrap();
    cluster.secrets = vec![written.try_into().unwrap()];
    let with = cluster.seen_from(0);
    assert!(with.config.peers["tor"].socket.password.is_some());
    assert!(!format!("{with:?}").contains("s3cret"), "never shown");
}

#[test]
fn a_filter_that_is_not_there_leaves_the_peer_out() {
    let mut peer = tor(at_tor(), "all()");
    peer.filters = vec!["edge".to_owned()];
    let mut cluster = Cluster::without_mesh(vec![node("n1", 1, None)], vec![peer]);
    let without = cluster.seen_from(0);
    assert!(without.config.peers.is_empty());
    assert!(without.refused["tor"].contains("BGPFilter edge"));
    let reject = FilterRule {
        prefixes: None,
        as_path_prefix: Vec::new(),
        communities: Vec::new(),
        learned_only: false,
        peer_type: None,
        action: RuleAction::Reject,
    };
    cluster.filters = vec![BgpFilter {
        name: "edge".to_owned(),
        import_v4: vec![reject],
        import_v6: Vec::new(),
        export_v4: Vec::new(),
        export_v6: Vec::new(),
    }];
    let with = cluster.seen_from(0).config;
    assert_eq!(with.peers["tor"].session.import.len(), 1);
    assert!(with.peers["tor"].session.export.is_empty());
}

#[test]
fn distance_bfd_and_limits_reach_the_session_and_its_sockets() {
    let mut peer = tor(at_tor(), "all()");
    peer.hops = Hops::TtlSecurity(1);
    peer.bfd = Some(api::resources::Bfd {
        min_tx: Duration::from_millis(100),
        min_rx: Duration::from_millis(200),
        multiplier: 5,
        strict: true,
        multihop: false,
    });
    peer.max_prefixes.warn_at = Some(7);
    let cluster = Cluster::without_mesh(vec![node("n1", 1, None)], vec![peer]);
    let config = cluster.seen_from(0).config;
    let peer = &config.peers["tor"];
    let one = std::num::NonZeroU8::new(1);
    assert_eq!(peer.socket.ttl, Ttl::of_peer(true, None, one));
    let bfd = peer.bfd.as_ref().unwrap();
    assert_eq!(bfd.timers.detect_multiplier.get(), 5);
    assert_eq!(bfd.hops, None);
    assert!(peer.session.bfd.unwrap().strict);
    assert_eq!(peer.session.max_prefixes.warn_at, Some(7));
}

#[test]
fn silence_counts_as_a_restart_where_bfd_knows_a_death_or_where_it_is_asked_for() {
    let bfd = api::resources::Bfd {
        min_tx: Duration::from_millis(300),
        min_rx: Duration::from_millis(300),
        multiplier: 3,
        strict: false,
        multihop: false,
    };
    for (bfd, peers, commons, is_restart) in [
        (None, None, None, false),
        (Some(bfd), None, None, true),
        (None, None, Some(true), true),
        (Some(bfd), None, Some(false), false),
        (Some(bfd), Some(true), Some(false), true),
        (None, Some(false), Some(true), false),
    ] {
        let mut peer = tor(at_tor(), "all()");
        peer.bfd = bfd;
        peer.graceful_restart.notifications = peers;
        let mut cluster = Cluster::without_mesh(vec![node("n1", 1, None)], vec![peer]);
        cluster.configuration.restart_notifications = commons;
        let config = cluster.seen_from(0).config;
        let restart = config.peers["tor"].session.graceful_restart.unwrap();
        assert_eq!(
            restart.notification, is_restart,
            "{bfd:?} {peers:?} {commons:?}"
        );
    }
}

#[test]
fn a_range_and_an_interface_are_listened_for_on_every_ipv6_address() {
    let interface = tor(PeerTarget::Interface("eth1".to_owned()), "all()");
    let mut range = tor(PeerTarget::Range("10.0.0.0/8".parse().unwrap()), "all()");
    range.name = "leaves".to_owned();
    let cluster = Cluster::without_mesh(vec![node("n1", 1, None)], vec![interface, range]);
    let config = cluster.seen_from(0).config;
    let listen: Vec<String> = config.listen.iter().map(ToString::to_string).collect();
    assert_eq!(listen, ["10.10.1.2:179", "[::]:179"]);
    assert!(matches!(
        config.peers["leaves"].target,
        Target::Range { .. }
    ));
    assert!(config.peers["leaves"].session.passive);
}

#[test]
fn what_another_node_holds_out_of_our_pod_cidr_is_taken_and_communities_are_given() {
    let mut cluster =
        Cluster::without_mesh(vec![node("n1", 1, None)], vec![tor(at_tor(), "all()")]);
    let moved: IpNet = "10.244.1.9/32".parse().unwrap();
    cluster.elsewhere = [moved].into();
    cluster.configuration.prefix_advertisements = vec![PrefixAdvertisement {
        cidr: "10.244.0.0/16".parse().unwrap(),
        communities: [Community::Standard(7), Community::Large(1, 2, 3)].into(),
    }];
    let config = cluster.seen_from(0).config;
    assert!(
        config.peers["tor"]
            .session
            .import_exceptions
            .contains(&moved)
    );
    let own = &config.originate[&cluster.nodes[0].pod_cidrs[0]];
    assert_eq!((own.communities.as_slice(), own.large.len()), (&[7][..], 1));
}
