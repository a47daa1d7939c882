//! One test for each numbered rule that is about verdicts, written from the text; and that no objects make it panic.

mod network;
mod ports;
mod random;
mod tiers;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use api::labels::Requirement;
use api::resources::*;
use api::{LabelSelector, Labels, NamespacedName};
use netfilter::InterfaceName;

use super::*;
use crate::{Endpoint, Pods};

fn labels(text: &str) -> Labels {
    let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
    pairs
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

/// A pod that is put in its place when this is dropped.
struct Edited<'a> {
    pods: &'a mut Pods,
    pod: Pod,
}

impl Deref for Edited<'_> {
    type Target = Pod;

    fn deref(&self) -> &Pod {
        &self.pod
    }
}

impl DerefMut for Edited<'_> {
    fn deref_mut(&mut self) -> &mut Pod {
        &mut self.pod
    }
}

impl Drop for Edited<'_> {
    fn drop(&mut self) {
        self.pods.insert(Arc::new(self.pod.clone()));
    }
}

/// All of `key=value` or `key`.
fn selector(text: &str) -> LabelSelector {
    let words = text.split(',').filter(|word| !word.is_empty());
    let requirement = |word: &str| match word.split_once('=') {
        Some((key, value)) => Requirement::In(key.to_owned(), BTreeSet::from([value.to_owned()])),
        None => Requirement::Exists(word.to_owned()),
    };
    LabelSelector {
        requirements: words.map(requirement).collect(),
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn named(text: &str) -> NamespacedName {
    let (namespace, name) = text.split_once('/').unwrap();
    NamespacedName::new(namespace, name)
}

fn pods(namespaces: Option<&str>, of: &str) -> Peer {
    Peer::Pods {
        namespaces: namespaces.map(selector),
        pods: selector(of),
    }
}

fn block(cidr: &str, except: &[&str]) -> Peer {
    let except = except.iter().map(|text| text.parse().unwrap()).collect();
    Peer::IpBlock(IpBlock {
        cidr: cidr.parse().unwrap(),
        except,
    })
}

fn port(protocol: Protocol, port: PortMatch) -> Port {
    Port { protocol, port }
}

fn tcp(number: u16) -> Port {
    port(Protocol::Tcp, PortMatch::Range(number, number))
}

fn rule(peers: Option<Vec<Peer>>, ports: Option<Vec<Port>>) -> PolicyRule {
    PolicyRule { peers, ports }
}

/// Namespaces `a` (team=one) and `b` (team=two). Node `n1` (this one, 192.0.2.1) runs `a/x` and `a/y`,
/// `n2` (192.0.2.2) runs `a/z` and `b/x`.
#[derive(Default)]
struct World {
    objects: Objects,
    settings: Settings,
}

impl World {
    fn new() -> Self {
        let mut world = Self::default();
        for (name, of) in [("a", "team=one"), ("b", "team=two")] {
            let mut labels = labels(of);
            labels.insert("kubernetes.io/metadata.name".to_owned(), name.to_owned());
            let namespace = Namespace {
                name: name.to_owned(),
                labels,
            };
            world.objects.namespaces.insert(name.to_owned(), namespace);
        }
        world.node("n1", "zone=1", &["192.0.2.1", "2001:db8::1"]);
        world.node("n2", "zone=2", &["192.0.2.2", "2001:db8::2"]);
        world.pod("a/x", "app=x", "n1", &["10.0.0.1", "fd00::1"]);
        world.pod("a/y", "app=y", "n1", &["10.0.0.2", "fd00::2"]);
        world.pod("a/z", "app=z", "n2", &["10.0.1.3", "fd00:1::3"]);
        world.pod("b/x", "app=x", "n2", &["10.0.1.4", "fd00:1::4"]);
        world.attach("ptl1", "a/x", "", &["10.0.0.1", "fd00::1"]);
        world.attach("ptl2", "a/y", "", &["10.0.0.2", "fd00::2"]);
        world
    }

    fn node(&mut self, name: &str, of: &str, addresses: &[&str]) {
        let addresses: Vec<IpAddr> = addresses.iter().map(|text| ip(text)).collect();
        let node = Node {
            name: name.to_owned(),
            labels: labels(of),
            internal_ips: addresses.clone(),
            addresses,
            pod_cidrs: Vec::new(),
            as_number: None,
            router_id: None,
            cluster_id: None,
            bgp_drain: false,
            leaving: None,
        };
        self.objects.nodes.insert(name.to_owned(), node);
    }

    fn pod(&mut self, name: &str, of: &str, node: &str, addresses: &[&str]) -> Edited<'_> {
        let name = named(name);
        let pod = Pod {
            name: name.clone(),
            uid: String::new(),
            labels: labels(of),
            node_name: Some(node.to_owned()),
            host_network: false,
            finished: false,
            pod_ips: addresses.iter().map(|text| ip(text)).collect(),
            fixed_ips: Vec::new(),
            named_ports: Vec::new(),
        };
        let pods = self.objects.pods.entry(name.namespace).or_default();
        Edited { pods, pod }
    }

    fn attach(&mut self, interface: &str, pod: &str, uid: &str, addresses: &[&str]) {
        let endpoint = Endpoint {
            pod: named(pod),
            uid: uid.to_owned(),
            addresses: addresses.iter().map(|text| ip(text)).collect(),
        };
        let interface = InterfaceName::new(interface).unwrap();
        self.objects.endpoints.insert(interface, endpoint);
    }

    fn edit(&mut self, pod: &str) -> Edited<'_> {
        let name = named(pod);
        let pods = self.objects.pods.get_mut(&name.namespace).unwrap();
        let pod = Pod::clone(pods.get(&name.name).unwrap());
        Edited { pods, pod }
    }

    fn named_port(&mut self, pod: &str, name: &str, protocol: Protocol, port: u16) {
        let port = ContainerPort {
            name: name.to_owned(),
            protocol,
            port,
        };
        self.edit(pod).named_ports.push(port);
    }

    fn policy(
        &mut self,
        name: &str,
        of: &str,
        ingress: Option<Vec<PolicyRule>>,
        egress: Option<Vec<PolicyRule>>,
    ) {
        let policy = NetworkPolicy {
            name: named(name),
            pod_selector: selector(of),
            ingress,
            egress,
        };
        self.objects.policies.insert(policy.name.clone(), policy);
    }

    fn explain(&self, from: &str, to: &str, protocol: u8, port: Option<u16>) -> Explanation {
        let flow = Flow {
            source: ip(from),
            destination: ip(to),
            protocol,
            port,
        };
        evaluate(&self.objects, &self.settings, &flow)
    }

    fn tcp(&self, from: &str, to: &str, port: u16) -> bool {
        self.explain(from, to, 6, Some(port)).allowed
    }

    fn udp(&self, from: &str, to: &str, port: u16) -> bool {
        self.explain(from, to, 17, Some(port)).allowed
    }

    fn ping(&self, from: &str, to: &str) -> bool {
        self.explain(from, to, 1, None).allowed
    }
}

const X: &str = "10.0.0.1";
const Y: &str = "10.0.0.2";
const Z: &str = "10.0.1.3";
const BX: &str = "10.0.1.4";
const OUTSIDE: &str = "198.51.100.9";
const NODE1: &str = "192.0.2.1";
const NODE2: &str = "192.0.2.2";

fn ingress_from(world: &mut World, peer: Peer) {
    world.policy(
        "a/p",
        "app=x",
        Some(vec![rule(Some(vec![peer]), None)]),
        None,
    );
}

fn ingress_ports(world: &mut World, ports: Vec<Port>) {
    world.policy("a/p", "app=x", Some(vec![rule(None, Some(ports))]), None);
}
