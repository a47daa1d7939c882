//! Random clusters: what objects there are, who sits where, and single changes of them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use api::resources::*;
use api::{Change, Key, NamespacedName, Resource};
use netfilter::InterfaceName;
use policy::{Endpoint, Objects, Pods};

use crate::lab::{Place, REMOTES, SLOTS, interface_of, remote_address, slot_address};
use crate::random_number::Random;
use crate::random_policy::{cluster_policy, labels, policy};

pub(crate) const NAMESPACES: [&str; 3] = ["a", "b", "c"];
const TEAMS: [&str; 3] = ["team=one", "team=two", ""];
const POD_LABELS: [&str; 7] = [
    "",
    "app=x",
    "app=y",
    "app=",
    "app=x,tier=db",
    "tier=db",
    "app=y,tier=web",
];
const NODE: &str = "node1";
const OTHER_NODE: &str = "node2";

/// A Service of the node's: what is sent to its address and port goes to a pod's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Service {
    pub(crate) address: IpAddr,
    pub(crate) transport: Protocol,
    pub(crate) port: u16,
    pub(crate) to: Place,
    pub(crate) target: (IpAddr, u16),
}

/// A cluster.
#[derive(Clone, Debug, Default)]
pub(crate) struct World {
    pub(crate) objects: Objects,
    pub(crate) services: Vec<Service>,
}

impl World {
    /// A new cluster.
    pub(crate) fn random(random: &mut Random) -> Self {
        let mut world = Self::default();
        for name in [NODE, OTHER_NODE] {
            let node = node(name, random);
            world.objects.nodes.insert(name.to_owned(), node);
        }
        for name in NAMESPACES {
            // A namespace that was not seen yet has no labels, and no selector chooses it (semantics 18).
            if random.chance(90) {
                world.set_namespace(name, random);
            }
        }
        for slot in 0..SLOTS {
            if slot == 0 || random.chance(88) {
                world.add_local(slot, random);
            }
        }
        for number in 0..REMOTES {
            world.add_remote(number, random);
        }
        for number in 0..random.below(7) {
            let policy = policy(number, random);
            world.objects.policies.insert(policy.name.clone(), policy);
        }
        if random.chance(80) {
            for number in 0..random.below(6) {
                let policy = cluster_policy(number, random);
                world
                    .objects
                    .cluster_policies
                    .insert(policy.name.clone(), policy);
            }
        }
        world.services = services(random);
        world
    }

    /// One change such as users and kubelets make; what it was, for people.
    pub(crate) fn change(&mut self, random: &mut Random) -> String {
        match random.below(10) {
            0 => {
                let name = random.pick(&NAMESPACES);
                self.set_namespace(name, random);
                format!("namespace {name} has other labels")
            }
            1 | 2 => self.relabel(random),
            3 => {
                let slot = 1 + random.below(SLOTS - 1);
                self.remove_local(slot);
                format!("the pod of slot {slot} goes")
            }
            4 => {
                let slot = 1 + random.below(SLOTS - 1);
                self.remove_local(slot);
                self.add_local(slot, random);
                format!("slot {slot} gets a new pod")
            }
            5 => match random.pick_key(&self.objects.policies) {
                Some(name) => {
                    self.objects.policies.remove(&name);
                    format!("NetworkPolicy {name} goes")
                }
                None => self.set_policy(random),
            },
            6 => match random.pick_key(&self.objects.cluster_policies) {
                Some(name) => {
                    self.objects.cluster_policies.remove(&name);
                    format!("ClusterNetworkPolicy {name} goes")
                }
                None => self.set_cluster_policy(random),
            },
            7 => self.set_cluster_policy(random),
            _ => self.set_policy(random),
        }
    }

    fn set_policy(&mut self, random: &mut Random) -> String {
        let policy = policy(random.below(6), random);
        let name = policy.name.clone();
        self.objects.policies.insert(name.clone(), policy);
        format!("NetworkPolicy {name} is set")
    }

    fn set_cluster_policy(&mut self, random: &mut Random) -> String {
        let policy = cluster_policy(random.below(6), random);
        let name = policy.name.clone();
        self.objects.cluster_policies.insert(name.clone(), policy);
        format!("ClusterNetworkPolicy {name} is set")
    }

    fn relabel(&mut self, random: &mut Random) -> String {
        let pods: Vec<NamespacedName> = self.pods().map(|pod| pod.name.clone()).collect();
        let name = pods[random.below(pods.len())].clone();
        let of = random.pick(&POD_LABELS);
        if let Some(pod) = self.objects.pod(&name).cloned() {
            self.insert_pod(Pod {
                labels: labels(of),
                ..pod
            });
        }
        format!("pod {name} is labelled {of:?}")
    }

    pub(crate) fn pods(&self) -> impl Iterator<Item = &Pod> {
        let of_namespaces = self.objects.pods.values();
        of_namespaces.flat_map(Pods::iter).map(AsRef::as_ref)
    }

    /// Whether a local pod that is there holds an address at its place.
    pub(crate) fn holds(&self, slot: usize, address: IpAddr) -> bool {
        let endpoint = InterfaceName::new(&interface_of(slot)).ok();
        let endpoint = endpoint.and_then(|name| self.objects.endpoints.get(&name));
        endpoint.is_some_and(|endpoint| endpoint.addresses.contains(&address))
    }

    /// What leads from another cluster to this one, object by object.
    pub(crate) fn changes_from(&self, before: &Objects) -> Vec<Change> {
        let now = &self.objects;
        let mut changes = Vec::new();
        difference(
            &before.namespaces,
            &now.namespaces,
            &mut changes,
            |name, one| Change {
                key: Key::Namespace(name.clone()),
                value: one.cloned().map(Resource::Namespace),
            },
        );
        difference(&before.nodes, &now.nodes, &mut changes, |name, one| {
            Change {
                key: Key::Node(name.clone()),
                value: one.cloned().map(Resource::Node),
            }
        });
        difference(
            &before.policies,
            &now.policies,
            &mut changes,
            |name, one| Change {
                key: Key::NetworkPolicy(name.clone()),
                value: one.cloned().map(Resource::NetworkPolicy),
            },
        );
        difference(
            &before.cluster_policies,
            &now.cluster_policies,
            &mut changes,
            |name, one| Change {
                key: Key::ClusterNetworkPolicy(name.clone()),
                value: one.cloned().map(Resource::ClusterNetworkPolicy),
            },
        );
        difference(&flat(before), &flat(now), &mut changes, |name, one| {
            Change {
                key: Key::Pod(name.clone()),
                value: one.cloned().map(Resource::Pod),
            }
        });
        changes
    }

    fn set_namespace(&mut self, name: &str, random: &mut Random) {
        let mut labels = labels(random.pick(&TEAMS));
        labels.insert("kubernetes.io/metadata.name".to_owned(), name.to_owned());
        let namespace = Namespace {
            name: name.to_owned(),
            labels,
        };
        self.objects.namespaces.insert(name.to_owned(), namespace);
    }

    fn add_local(&mut self, slot: usize, random: &mut Random) {
        // Slot 0 is an ordinary pod, so that the node's name is always known.
        let plain = slot == 0;
        let mut pod = pod(&format!("l{slot}"), NODE, random);
        pod.uid = format!("uid-{}", random.below(1000));
        let families: &[bool] = match random.below(12) {
            0 => &[true],
            1 => &[false],
            _ => &[true, false],
        };
        let addresses: Vec<IpAddr> = families.iter().map(|v4| slot_address(slot, *v4)).collect();
        let endpoint = Endpoint {
            pod: pod.name.clone(),
            uid: pod.uid.clone(),
            addresses: addresses.clone(),
        };
        let interface = InterfaceName::new(&interface_of(slot)).expect("ptl and hex digits");
        self.objects.endpoints.insert(interface, endpoint);
        if !plain {
            pod.finished = random.chance(6);
            // What the object says of a local pod's addresses may be late; it must not matter.
            if random.chance(80) {
                pod.pod_ips = addresses;
            }
            // Made anew under its name, and not yet attached (semantics 47).
            if random.chance(5) {
                pod.uid = "another".to_owned();
            }
            if random.chance(8) {
                return;
            }
        }
        self.insert_pod(pod);
    }

    fn add_remote(&mut self, number: usize, random: &mut Random) {
        let mut pod = pod(&format!("r{number}"), OTHER_NODE, random);
        pod.pod_ips = vec![remote_address(number, true), remote_address(number, false)];
        match random.below(12) {
            0 => pod.finished = true,
            1 => {
                pod.host_network = true;
                pod.pod_ips = vec![
                    Place::Remote.addresses(true)[REMOTES],
                    Place::Remote.addresses(false)[REMOTES],
                ];
            }
            2 => {
                // A finished one whose address is another's by now (semantics 45).
                let other = (number + 1) % REMOTES;
                pod.finished = true;
                pod.pod_ips = vec![remote_address(other, true), remote_address(other, false)];
            }
            3 => return,
            4 => drop(pod.pod_ips.pop()),
            _ => {}
        }
        self.insert_pod(pod);
    }

    pub(crate) fn insert_pod(&mut self, pod: Pod) {
        let name = pod.name.clone();
        self.objects
            .pods
            .entry(name.namespace)
            .or_default()
            .insert(Arc::new(pod));
    }

    fn remove_local(&mut self, slot: usize) {
        let name = InterfaceName::new(&interface_of(slot)).expect("ptl and hex digits");
        self.objects.endpoints.remove(&name);
        for pods in self.objects.pods.values_mut() {
            pods.remove(&format!("l{slot}"));
        }
        self.objects.pods.retain(|_, pods| !pods.is_empty());
    }
}

impl Random {
    fn pick_key<K: Clone, V>(&mut self, of: &BTreeMap<K, V>) -> Option<K> {
        if of.is_empty() {
            return None;
        }
        of.keys().nth(self.below(of.len())).cloned()
    }
}

fn pod(name: &str, node: &str, random: &mut Random) -> Pod {
    let namespace = random.pick(&NAMESPACES);
    Pod {
        name: NamespacedName::new(namespace, name),
        uid: String::new(),
        labels: labels(random.pick(&POD_LABELS)),
        node_name: Some(node.to_owned()),
        host_network: false,
        finished: false,
        pod_ips: Vec::new(),
        fixed_ips: Vec::new(),
        named_ports: named_ports(random),
    }
}

/// The same names stand for other numbers in other pods, and for two protocols in one.
fn named_ports(random: &mut Random) -> Vec<ContainerPort> {
    let mut ports = Vec::new();
    let protocols = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
    for (name, numbers) in [("http", [80, 2, 8080]), ("dns", [53, 3, 80])] {
        for protocol in protocols {
            if random.chance(if protocol == Protocol::Sctp { 10 } else { 40 }) {
                ports.push(ContainerPort {
                    name: name.to_owned(),
                    protocol,
                    port: numbers[random.below(3)],
                });
            }
        }
    }
    ports.sort();
    ports
}

fn node(name: &str, random: &mut Random) -> Node {
    let place = if name == NODE {
        Place::Node
    } else {
        Place::Remote
    };
    let own = |is_ipv4| place.addresses(is_ipv4).pop().expect("its own is the last");
    let internal_ips = vec![own(true), own(false)];
    let mut addresses = internal_ips.clone();
    if name == NODE {
        addresses.extend([true, false].iter().flat_map(|v4| place.addresses(*v4)));
    }
    addresses.sort();
    addresses.dedup();
    Node {
        name: name.to_owned(),
        labels: labels(random.pick(&["role=edge", "role=core", ""])),
        internal_ips,
        addresses,
        pod_cidrs: Vec::new(),
        as_number: None,
        router_id: None,
        cluster_id: None,
        bgp_drain: false,
        leaving: None,
    }
}

fn services(random: &mut Random) -> Vec<Service> {
    let mut services = Vec::new();
    for number in 1..4_u8 {
        for is_ipv4 in [true, false] {
            let (to, target) = match random.below(SLOTS + 2) {
                slot if slot < SLOTS => (Place::Slot(slot), slot_address(slot, is_ipv4)),
                _ => (
                    Place::Remote,
                    remote_address(random.below(REMOTES), is_ipv4),
                ),
            };
            let address = if is_ipv4 {
                IpAddr::from([10, 96, 0, number])
            } else {
                IpAddr::from([0xfd00, 0x96, 0, 0, 0, 0, 0, u16::from(number)])
            };
            let transport = [Protocol::Tcp, Protocol::Udp][random.below(2)];
            // The Service's own port is one that policies name, so that mixing it up with the pod's shows.
            let ports = [1, 2, 3, 5, 53, 80, 8080];
            services.push(Service {
                address,
                transport,
                port: ports[random.below(ports.len())],
                to,
                target: (target, ports[random.below(ports.len())]),
            });
        }
    }
    services
}

fn flat(objects: &Objects) -> BTreeMap<NamespacedName, Pod> {
    let pods = objects.pods.values().flat_map(Pods::iter);
    pods.map(|pod| (pod.name.clone(), (**pod).clone()))
        .collect()
}

fn difference<K: Ord, V: PartialEq>(
    before: &BTreeMap<K, V>,
    now: &BTreeMap<K, V>,
    changes: &mut Vec<Change>,
    change: impl Fn(&K, Option<&V>) -> Change,
) {
    changes.extend(
        before
            .keys()
            .filter(|name| !now.contains_key(name))
            .map(|name| change(name, None)),
    );
    let new = now
        .iter()
        .filter(|(name, value)| before.get(name) != Some(value));
    changes.extend(new.map(|(name, value)| change(name, Some(value))));
}
