//! Short ways to say what a cluster holds.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use api::labels::Requirement;
use api::resources::*;
use api::{Change, Key, LabelSelector, Labels, NamespacedName, Resource};

use crate::{Compiled, Endpoint, Index, Settings};

pub(super) fn labels(text: &str) -> Labels {
    let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
    pairs
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

/// `a=b,!c,d,e!=f` as a selector; empty selects all.
pub(super) fn selector(text: &str) -> LabelSelector {
    let one = |value: &str| BTreeSet::from([value.to_owned()]);
    let requirement = |word: &str| match (
        word.split_once("!="),
        word.split_once('='),
        word.strip_prefix('!'),
    ) {
        (Some((key, value)), ..) => Requirement::NotIn(key.to_owned(), one(value)),
        (_, Some((key, value)), _) => Requirement::In(key.to_owned(), one(value)),
        (_, _, Some(key)) => Requirement::DoesNotExist(key.to_owned()),
        _ => Requirement::Exists(word.to_owned()),
    };
    let words = text.split(',').filter(|word| !word.is_empty());
    LabelSelector {
        requirements: words.map(requirement).collect(),
    }
}

pub(super) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(super) fn named(text: &str) -> NamespacedName {
    let (namespace, name) = text.split_once('/').unwrap();
    NamespacedName::new(namespace, name)
}

pub(super) fn pod(name: &str, of: &str, addresses: &[&str]) -> Pod {
    Pod {
        name: named(name),
        uid: String::new(),
        labels: labels(of),
        node_name: None,
        host_network: false,
        finished: false,
        pod_ips: addresses.iter().map(|text| ip(text)).collect(),
        fixed_ips: Vec::new(),
        named_ports: Vec::new(),
    }
}

pub(super) fn policy(name: &str, pods: &str) -> NetworkPolicy {
    NetworkPolicy {
        name: named(name),
        pod_selector: selector(pods),
        ingress: None,
        egress: None,
    }
}

pub(super) fn pods(namespaces: Option<&str>, pods: &str) -> Peer {
    Peer::Pods {
        namespaces: namespaces.map(selector),
        pods: selector(pods),
    }
}

pub(super) fn block(cidr: &str, except: &[&str]) -> Peer {
    let except = except.iter().map(|text| text.parse().unwrap()).collect();
    Peer::IpBlock(IpBlock {
        cidr: cidr.parse().unwrap(),
        except,
    })
}

pub(super) fn port(protocol: Protocol, first: u16, last: u16) -> Port {
    Port {
        protocol,
        port: PortMatch::Range(first, last),
    }
}

/// A ClusterNetworkPolicy of a tier about pods with such labels in any namespace.
pub(super) fn cluster_policy(
    name: &str,
    tier: Tier,
    priority: u16,
    of: &str,
) -> ClusterNetworkPolicy {
    ClusterNetworkPolicy {
        name: name.to_owned(),
        tier,
        priority,
        subject: ClusterSubject::Pods(namespaced("", of)),
        ingress: Vec::new(),
        egress: Vec::new(),
    }
}

pub(super) fn namespaced(namespaces: &str, pods: &str) -> NamespacedPods {
    NamespacedPods {
        namespaces: selector(namespaces),
        pods: selector(pods),
    }
}

pub(super) fn cluster_rule(
    action: ClusterAction,
    peers: Vec<ClusterPeer>,
    protocols: Option<Vec<ClusterPort>>,
) -> ClusterRule {
    ClusterRule {
        name: String::new(),
        action,
        peers,
        protocols,
    }
}

pub(super) fn rule(peers: Option<Vec<Peer>>, ports: Option<Vec<Port>>) -> PolicyRule {
    PolicyRule { peers, ports }
}

/// A cluster as lists; `compile` feeds them in their order.
#[derive(Clone, Debug, Default)]
pub(super) struct Cluster {
    pub(super) namespaces: Vec<Namespace>,
    pub(super) pods: Vec<Pod>,
    pub(super) policies: Vec<NetworkPolicy>,
    pub(super) cluster_policies: Vec<ClusterNetworkPolicy>,
    pub(super) nodes: Vec<Node>,
    pub(super) domains: BTreeMap<DomainName, BTreeSet<IpAddr>>,
    pub(super) settings: Settings,
    pub(super) endpoints: BTreeMap<String, Endpoint>,
}

impl Cluster {
    /// Two namespaces; `a/x` and `a/y` are local, `a/z` and `b/x` on another node.
    pub(super) fn small() -> Self {
        let mut cluster = Self::default();
        cluster.namespace("a", "kubernetes.io/metadata.name=a,team=one");
        cluster.namespace("b", "kubernetes.io/metadata.name=b,team=two");
        cluster.local(
            "ptl00000000001",
            pod("a/x", "app=x", &["10.0.0.1", "fd00::1"]),
        );
        cluster.local(
            "ptl00000000002",
            pod("a/y", "app=y", &["10.0.0.2", "fd00::2"]),
        );
        cluster
            .pods
            .push(pod("a/z", "app=z", &["10.0.1.3", "fd00:1::3"]));
        cluster
            .pods
            .push(pod("b/x", "app=x", &["10.0.1.4", "fd00:1::4"]));
        cluster
    }

    pub(super) fn namespace(&mut self, name: &str, of: &str) {
        self.namespaces.push(Namespace {
            name: name.to_owned(),
            labels: labels(of),
        });
    }

    pub(super) fn local(&mut self, interface: &str, pod: Pod) {
        let endpoint = Endpoint {
            pod: pod.name.clone(),
            uid: pod.uid.clone(),
            addresses: pod.pod_ips.clone(),
        };
        self.endpoints.insert(interface.to_owned(), endpoint);
        self.pods.push(pod);
    }

    pub(super) fn interface_of(&self, address: IpAddr) -> Option<&str> {
        let holds = |endpoint: &&Endpoint| endpoint.addresses.contains(&address);
        let mut found = self
            .endpoints
            .iter()
            .filter(|(_, endpoint)| holds(endpoint));
        found.next().map(|(interface, _)| interface.as_str())
    }

    pub(super) fn changes(&self) -> Vec<Change> {
        let namespace = |one: &Namespace| Change {
            key: Key::Namespace(one.name.clone()),
            value: Some(Resource::Namespace(one.clone())),
        };
        let pod = |one: &Pod| Change {
            key: Key::Pod(one.name.clone()),
            value: Some(Resource::Pod(one.clone())),
        };
        let policy = |one: &NetworkPolicy| Change {
            key: Key::NetworkPolicy(one.name.clone()),
            value: Some(Resource::NetworkPolicy(one.clone())),
        };
        let changes = self
            .namespaces
            .iter()
            .map(namespace)
            .chain(self.pods.iter().map(pod));
        let cluster = |one: &ClusterNetworkPolicy| Change {
            key: Key::ClusterNetworkPolicy(one.name.clone()),
            value: Some(Resource::ClusterNetworkPolicy(one.clone())),
        };
        let node = |one: &Node| Change {
            key: Key::Node(one.name.clone()),
            value: Some(Resource::Node(one.clone())),
        };
        let changes = changes.chain(self.policies.iter().map(policy));
        let changes = changes.chain(self.cluster_policies.iter().map(cluster));
        changes.chain(self.nodes.iter().map(node)).collect()
    }

    pub(super) fn index(&self) -> Index {
        let mut index = Index::with_settings(self.settings.clone());
        self.changes()
            .iter()
            .for_each(|change| index.handle(change));
        index.set_endpoints(self.endpoints.clone());
        index.set_domain_addresses(self.domains.clone());
        index
    }

    pub(super) fn compile(&self) -> Compiled {
        (*self.index().compile()).clone()
    }
}
