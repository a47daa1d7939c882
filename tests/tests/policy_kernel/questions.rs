//! Which probes a cluster calls for, and what the reference evaluator says must become of each.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use api::resources::{ClusterPort, Port, PortMatch, Protocol};
use policy::{Evaluator, Flow, Settings, Verdict};

use crate::lab::{Place, SLOTS};
use crate::packet::Transport;
use crate::prober::Probe;
use crate::random_number::Random;
use crate::world::World;

/// VXLAN's: no pod may send to it (semantics 44).
const VXLAN_PORT: u16 = 4789;
/// One that no policy and no container names.
const OTHER_PORT: u16 = 9;

/// What each side that this node enforces says; `true` lets the packet pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Expected {
    /// The sender's side, with what guards against forged sources.
    pub(crate) leaves: bool,
    /// The receiver's.
    pub(crate) enters: bool,
}

impl Expected {
    pub(crate) fn arrives(self) -> bool {
        self.leaves && self.enters
    }
}

/// Everything that is asked of a cluster.
pub(crate) fn questions(world: &World, random: &mut Random) -> Vec<Probe> {
    let ports = ports_that_matter(world);
    let mut probes = Vec::new();
    for is_ipv4 in [true, false] {
        for (from, source) in all_addresses(is_ipv4) {
            for (to, destination) in all_addresses(is_ipv4) {
                let is_pod = |place| matches!(place, Place::Slot(_));
                if from == to || !(is_pod(from) || is_pod(to)) {
                    continue;
                }
                for (transport, ports) in &ports {
                    probes.extend(ports.iter().map(|port| Probe {
                        from,
                        source,
                        sent_to: (destination, *port),
                        transport: *transport,
                        to,
                        destination: (destination, *port),
                    }));
                }
            }
        }
    }
    services(world, &mut probes);
    forged(random, &mut probes);
    probes
}

/// What the evaluator expects of a probe.
pub(crate) fn expected(world: &World, evaluator: &Evaluator<'_>, probe: &Probe) -> Expected {
    let explanation = evaluator.evaluate(&flow_of(probe));
    let (mut leaves, mut enters) = (true, true);
    if let Place::Slot(slot) = probe.from {
        let vxlan = probe.transport == Transport::Udp && probe.sent_to.1 == VXLAN_PORT;
        leaves = world.holds(slot, probe.source)
            && !vxlan
            && explanation.egress.verdict == Verdict::Allowed;
    }
    if let Place::Slot(slot) = probe.to {
        // What the node itself sends passes no chain of ours, whoever is there.
        let known = probe.from == Place::Node || world.holds(slot, probe.destination.0);
        enters = known && explanation.ingress.verdict == Verdict::Allowed;
    }
    Expected { leaves, enters }
}

/// The connection as policies see it: after the Service's address became the pod's.
pub(crate) fn flow_of(probe: &Probe) -> Flow {
    let is_ipv4 = probe.source.is_ipv4();
    Flow {
        source: probe.source,
        destination: probe.destination.0,
        protocol: probe.transport.number(is_ipv4),
        port: (probe.transport != Transport::Icmp).then_some(probe.destination.1),
    }
}

/// As [`expected`], for one probe.
pub(crate) fn expected_alone(world: &World, settings: &Settings, probe: &Probe) -> Expected {
    expected(world, &Evaluator::new(&world.objects, settings), probe)
}

fn all_addresses(is_ipv4: bool) -> Vec<(Place, IpAddr)> {
    let places = (0..SLOTS).map(Place::Slot);
    let places = places.chain([Place::Remote, Place::Outside, Place::Node]);
    let of = |place: Place| {
        place
            .addresses(is_ipv4)
            .into_iter()
            .map(move |one| (place, one))
    };
    places.flat_map(of).collect()
}

/// The ports that policies name and those around them, those of containers, and one more.
fn ports_that_matter(world: &World) -> BTreeMap<Transport, BTreeSet<u16>> {
    let mut ports: BTreeMap<Transport, BTreeSet<u16>> = BTreeMap::new();
    for transport in [Transport::Tcp, Transport::Udp, Transport::Sctp] {
        ports.entry(transport).or_default().insert(OTHER_PORT);
    }
    ports.insert(Transport::Icmp, BTreeSet::from([0]));
    for pod in world.pods() {
        for port in &pod.named_ports {
            ports
                .entry(transport_of(port.protocol))
                .or_default()
                .insert(port.port);
        }
    }
    let objects = &world.objects;
    let of_policies = objects.policies.values().flat_map(|policy| {
        let rules = policy.ingress.iter().chain(&policy.egress).flatten();
        rules.flat_map(|rule| rule.ports.iter().flatten())
    });
    let of_cluster_policies = objects.cluster_policies.values().flat_map(|policy| {
        let rules = policy.ingress.iter().chain(&policy.egress);
        rules
            .flat_map(|rule| rule.protocols.iter().flatten())
            .filter_map(|port| match port {
                ClusterPort::Port(port) => Some(port),
                ClusterPort::Named(_) | ClusterPort::Unsupported(_) => None,
            })
    });
    for Port { protocol, port } in of_policies.chain(of_cluster_policies) {
        if let PortMatch::Range(first, last) = *port {
            let around = [first.saturating_sub(1), first, last, last.saturating_add(1)];
            let around = around.into_iter().filter(|port| *port > 0);
            ports
                .entry(transport_of(*protocol))
                .or_default()
                .extend(around);
        }
    }
    ports
}

pub(crate) fn transport_of(protocol: Protocol) -> Transport {
    match protocol {
        Protocol::Tcp => Transport::Tcp,
        Protocol::Udp => Transport::Udp,
        Protocol::Sctp => Transport::Sctp,
    }
}

/// From everyone to every Service, the Service's own pods included (semantics 21, 40).
fn services(world: &World, probes: &mut Vec<Probe>) {
    for service in &world.services {
        for (from, source) in all_addresses(service.address.is_ipv4()) {
            let through =
                from != Place::Node && !(from == Place::Remote && service.to == Place::Remote);
            if through && (from, service.to) != (Place::Outside, Place::Remote) {
                probes.push(Probe {
                    from,
                    source,
                    sent_to: (service.address, service.port),
                    transport: transport_of(service.transport),
                    to: service.to,
                    destination: service.target,
                });
            }
        }
    }
}

/// Pods with others' addresses, and pods that send VXLAN (semantics 44).
fn forged(random: &mut Random, probes: &mut Vec<Probe>) {
    for is_ipv4 in [true, false] {
        let all = all_addresses(is_ipv4);
        for slot in 0..SLOTS {
            let others: Vec<_> = all
                .iter()
                .filter(|(place, _)| *place != Place::Slot(slot))
                .collect();
            let (mut to, mut destination) = *others[random.below(others.len())];
            let (owner, mut source) = *others[random.below(others.len())];
            let mut port = OTHER_PORT;
            // The node drops what claims to be its own before any rule; what comes back to its owner proves nothing.
            if owner == Place::Node || owner == to {
                (to, destination) = (Place::Outside, Place::Outside.addresses(is_ipv4)[0]);
                source = Place::Slot(slot).addresses(is_ipv4)[0];
                port = VXLAN_PORT;
            }
            probes.push(Probe {
                from: Place::Slot(slot),
                source,
                sent_to: (destination, port),
                transport: Transport::Udp,
                to,
                destination: (destination, port),
            });
        }
    }
}
