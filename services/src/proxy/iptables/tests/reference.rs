//! Every sender to every address, against an evaluator that says the rules' words one after the other (125–136).

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use netfilter::{Family, Protocol};
use proptest::prelude::*;

use super::interpreter::{Interpreter, Outcome, Packet, is_local};
use super::worlds::{Spec, spec};
use super::{compiled, compiled_with, options};
use crate::proxy::iptables::{ChainName, EndpointChains, Leads};
use crate::proxy::ipvs;
use crate::proxy::tests::{Is, World, place};

/// Sources and the interfaces that they come by: pods of this node, another node's, the node, and others.
pub(crate) const SENDERS: [(&str, Option<&str>); 8] = [
    ("10.1.0.1", Some("ptl1")),
    ("10.1.0.9", Some("ptl9")),
    ("10.1.1.1", Some("eth0")),
    ("192.0.2.1", None),
    ("203.0.113.1", None),
    ("192.0.2.7", Some("eth0")),
    ("198.18.0.1", Some("eth0")),
    ("8.8.8.8", Some("eth0")),
];

/// What leads packets: where the modes differ on purpose.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum By {
    Chains,
    Ipvs,
    Maps,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Door {
    Cluster,
    External,
    Balanced,
    Node,
}

/// Who holds an address among these Services: by kind, then by name (none of them is dated).
fn door<'a>(specs: &'a [Spec], packet: &Packet) -> Option<(&'a Spec, Door)> {
    let of_kind = |kind: Door| {
        let is_asked = move |spec: &&Spec| {
            let address = match kind {
                Door::Cluster => Some(spec.cluster_ip()),
                Door::Balanced => spec.balanced.then(|| spec.balanced_ip()),
                Door::External => spec.external_ip.map(|n| format!("198.51.100.{n}")),
                Door::Node => spec
                    .node_port
                    .filter(|_| is_local(packet.to) && !packet.to.is_loopback())
                    .map(|_| packet.to.to_string()),
            };
            let port = match kind {
                Door::Node => spec.node_port.map(|n| 30_000 + u16::from(n)),
                _ => Some(80),
            };
            address == Some(packet.to.to_string())
                && port == Some(packet.port)
                && protocol(spec) == packet.protocol
        };
        let mut found: Vec<&Spec> = specs.iter().filter(is_asked).collect();
        found.sort_by_key(|spec| spec.name());
        found.first().map(|spec| (*spec, kind))
    };
    [Door::Cluster, Door::Balanced, Door::External, Door::Node]
        .into_iter()
        .find_map(of_kind)
}

pub(crate) fn protocol(spec: &Spec) -> Protocol {
    match spec.protocol {
        "TCP" => Protocol::Tcp,
        "UDP" => Protocol::Udp,
        _ => Protocol::Sctp,
    }
}

/// Rule 123.
pub(crate) fn usable(spec: &Spec, only_here: bool) -> Vec<SocketAddr> {
    let all = spec.distinct();
    let is = |wanted: Is| -> Vec<SocketAddr> {
        let these = all
            .iter()
            .filter(|one| one.2 == wanted && (one.0 || !only_here));
        these
            .map(|one| {
                format!("{}:8080", Spec::endpoint_address(*one))
                    .parse()
                    .unwrap()
            })
            .collect()
    };
    let ready = is(Is::Ready);
    if ready.is_empty() {
        is(Is::Draining)
    } else {
        ready
    }
}

/// Whether an address is a Service's, and not the node's: with IPVS what nobody serves there is refused.
fn is_taken(specs: &[Spec], address: IpAddr) -> bool {
    let all = specs.iter().flat_map(|spec| {
        let external = spec.external_ip.map(|n| format!("198.51.100.{n}"));
        let balanced = spec.balanced.then(|| spec.balanced_ip());
        external
            .into_iter()
            .chain(balanced)
            .chain([spec.cluster_ip()])
    });
    let text = address.to_string();
    all.into_iter().any(|one| one == text)
}

pub(crate) fn expected(specs: &[Spec], packet: &Packet, by: By) -> Outcome {
    let Some((spec, door)) = door(specs, packet) else {
        // Rule 127.
        let is_cluster_ip = |spec: &Spec| spec.cluster_ip() == packet.to.to_string();
        return match by {
            By::Ipvs if is_taken(specs, packet.to) => Outcome::Rejected,
            By::Maps if specs.iter().any(is_cluster_ip) => Outcome::Rejected,
            _ => Outcome::Untouched,
        };
    };
    let is_pod = packet.input.is_some_and(|name| name.starts_with("ptl"));
    let is_node = packet.input.is_none();
    let (all, here) = (usable(spec, false), usable(spec, true));
    let to = |endpoints: &[SocketAddr], masquerade: bool| {
        let share = 1.0 / endpoints.len() as f64;
        let hairpin = |one: &SocketAddr| one.ip() == packet.source;
        let led = endpoints
            .iter()
            .map(|one| (*one, (share, masquerade || hairpin(one))));
        Outcome::To(led.collect::<BTreeMap<_, _>>())
    };
    // Rule 136. Who may ask is asked first where IPVS leads, and else after it is known that somebody can be asked.
    let source: IpAddr = packet.source;
    let is_within = |net: &str| net.parse::<ipnet::IpNet>().unwrap().contains(&source);
    let is_node_at_balanced = spec.ranges == 2 && source.to_string() == spec.balanced_ip();
    let may_ask = match spec.ranges {
        0 => true,
        1 => is_within("198.18.0.0/15"),
        _ => is_within("198.18.0.0/15") || is_within("192.0.2.0/24") || is_node_at_balanced,
    };
    // Rule 125. A node's own packet to an address that is no node's leaves it: others may know better. With IPVS it is the
    // node's, and the maps refuse it as kube-proxy's do.
    if all.is_empty() {
        return match door {
            Door::Balanced | Door::External
                if by == By::Chains && is_node && !is_local(packet.to) =>
            {
                Outcome::Untouched
            }
            _ => Outcome::Rejected,
        };
    }
    if door == Door::Cluster {
        return match spec.internal_is_local {
            true if here.is_empty() => Outcome::Dropped,
            true => to(&here, !is_pod),
            // Rule 128.
            false => to(&all, !is_pod),
        };
    }
    if door == Door::Balanced && !may_ask {
        return Outcome::Dropped;
    }
    // Rule 130.
    match spec.external_is_local {
        false => to(&all, true),
        true if is_pod => to(&all, false),
        true if is_local(source) => to(&all, true),
        true if here.is_empty() && is_node && !is_local(packet.to) => Outcome::Untouched,
        true if here.is_empty() => Outcome::Dropped,
        true => to(&here, false),
    }
}

pub(crate) fn same(found: &Outcome, expected: &Outcome) -> bool {
    let (Outcome::To(found), Outcome::To(expected)) = (found, expected) else {
        return found == expected;
    };
    found.len() == expected.len()
        && found.iter().zip(expected).all(|(found, expected)| {
            let near = (found.1.0 - expected.1.0).abs() < 1e-6;
            found.0 == expected.0 && found.1.1 == expected.1.1 && near
        })
}

pub(crate) fn world(specs: &[Spec]) -> World {
    let mut world = World::new();
    for spec in specs {
        spec.put(&mut world);
    }
    world
}

/// Services of different names; the last of one name is taken.
pub(crate) fn different(specs: Vec<Spec>) -> Vec<Spec> {
    let by_name: BTreeMap<u8, Spec> = specs.into_iter().map(|spec| (spec.number, spec)).collect();
    by_name.into_values().collect()
}

pub(crate) fn addresses(specs: &[Spec]) -> Vec<(IpAddr, u16)> {
    let mut to: Vec<(String, u16)> = Vec::new();
    for spec in specs {
        to.extend([
            (spec.cluster_ip(), 80),
            (spec.balanced_ip(), 80),
            (spec.cluster_ip(), 81),
        ]);
        to.extend(spec.external_ip.map(|n| (format!("198.51.100.{n}"), 80)));
        for address in ["192.0.2.1", "127.0.0.1", "192.0.2.77"] {
            to.extend(
                spec.node_port
                    .map(|n| (address.to_owned(), 30_000 + u16::from(n))),
            );
        }
    }
    to.into_iter()
        .map(|(address, port)| (address.parse().unwrap(), port))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn rules_125_to_136_every_sender_at_every_address_gets_what_the_rules_say(
        specs in prop::collection::vec(spec(), 1..5), few_chains: bool, by_ipvs: bool, pods_are_judged: bool, knows_pods: bool
    ) {
        let specs = different(specs);
        let mut options = options();
        if few_chains {
            options.endpoint_chains = EndpointChains::Needed;
        }
        let world = world(&specs);
        let by = if by_ipvs { By::Ipvs } else { By::Chains };
        if by_ipvs {
            options.leads = Leads::Ipvs;
            options.node_addresses = place().addresses;
            options.pods_are_judged = pods_are_judged;
            if knows_pods {
                options.pod_networks = vec!["10.1.0.0/24".parse().unwrap()];
            }
        }
        let compiler = compiled_with(&world, options.clone());
        let mut virtuals = ipvs::Compiler::new(ipvs::Scheduler::Rr, options);
        let all = world.model.services().map(|(name, _)| name.clone()).collect();
        virtuals.update(&world.model, &all);
        let ipvs = by_ipvs.then(|| virtuals.desired());
        let interpreter = Interpreter { rules: &compiler, family: Family::V4, ipvs };
        let mut asked = 0;
        for (to, port) in addresses(&specs) {
            for (source, input) in SENDERS {
                for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Sctp] {
                    let packet = Packet { source: source.parse().unwrap(), input, to, port, protocol, remembered: None };
                    let (found, expected) = (interpreter.judge(&packet), expected(&specs, &packet, by));
                    prop_assert!(same(&found, &expected), "{packet:?}: {found:?}, but the rules say {expected:?}");
                    asked += 1;
                }
            }
        }
        prop_assert!(asked >= 3 * 8 * 3);
    }

    #[test]
    fn rule_137_a_client_keeps_its_endpoint_as_long_as_that_is_asked_and_gets_another_then(
        spec in spec(), remembered in 0usize..4
    ) {
        let spec = Spec { affinity: true, internal_is_local: false, ..spec };
        let compiler = compiled(&world(std::slice::from_ref(&spec)));
        let interpreter = Interpreter { rules: &compiler, family: Family::V4, ipvs: None };
        let asked = usable(&spec, false);
        let gone: SocketAddr = "10.1.9.9:8080".parse().unwrap();
        let kept = asked.get(remembered).copied();
        let text = kept.unwrap_or(gone).to_string();
        let word = spec.protocol.to_ascii_lowercase();
        let port = format!("shop/{}:http", spec.name());
        let chain = ChainName::of_service("KUBE-SEP-", &[&port, &word, &text]);
        let packet = Packet {
            source: "10.1.0.9".parse().unwrap(),
            input: Some("ptl9"),
            to: spec.cluster_ip().parse().unwrap(),
            port: 80,
            protocol: protocol(&spec),
            remembered: Some(chain),
        };
        let found = interpreter.judge(&packet);
        match kept {
            Some(kept) => prop_assert_eq!(found, Outcome::To([(kept, (1.0, false))].into())),
            None => prop_assert!(same(&found, &expected(std::slice::from_ref(&spec), &packet, By::Chains))),
        }
    }
}
