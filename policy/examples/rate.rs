//! What a compilation costs: a seeded cluster of 1,000 policies and 10,000 pods, 110 of them local; first, then changed.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a measurement, which reads the clock and prints"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use api::labels::Requirement;
use api::resources::{
    IpBlock, Namespace, NetworkPolicy, Peer, Pod, PolicyRule, Port, PortMatch, Protocol,
};
use api::{Change, Key, LabelSelector, Labels, NamespacedName, Resource};
use policy::{Endpoint, Index};

const NAMESPACES: usize = 2_000;
const PODS: usize = 10_000;
const POLICIES: usize = 1_000;
const LOCAL: usize = 110;
const ROUNDS: usize = 1_001;

/// A small generator of its own, so that every run has the same cluster.
struct Seed(u64);

impl Seed {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }
}

fn labels(pairs: &[(&str, String)]) -> Labels {
    let pairs = pairs.iter();
    pairs
        .map(|(key, value)| ((*key).to_owned(), value.clone()))
        .collect()
}

fn selector(key: &str, value: String) -> LabelSelector {
    let one = Requirement::In(key.to_owned(), BTreeSet::from([value]));
    LabelSelector {
        requirements: BTreeSet::from([one]),
    }
}

fn namespace(number: usize, seed: &mut Seed) -> Change {
    let name = format!("ns{number}");
    let value = Namespace {
        name: name.clone(),
        labels: labels(&[("team", format!("t{}", seed.below(50)))]),
    };
    Change {
        key: Key::Namespace(name),
        value: Some(Resource::Namespace(value)),
    }
}

fn pod(number: usize, seed: &mut Seed) -> Pod {
    let address = |text: String| -> IpAddr { text.parse().unwrap() };
    let (high, low) = (number >> 8, number & 255);
    Pod {
        name: NamespacedName::new(format!("ns{}", number % NAMESPACES), format!("pod{number}")),
        uid: String::new(),
        labels: labels(&[
            ("app", format!("a{}", seed.below(20))),
            ("tier", format!("r{}", seed.below(5))),
        ]),
        node_name: None,
        host_network: false,
        finished: false,
        pod_ips: vec![
            address(format!("10.{}.{high}.{low}", 100 + (number >> 16))),
            address(format!("fd00::{number:x}")),
        ],
        fixed_ips: Vec::new(),
        named_ports: Vec::new(),
    }
}

fn pod_change(pod: &Pod) -> Change {
    Change {
        key: Key::Pod(pod.name.clone()),
        value: Some(Resource::Pod(pod.clone())),
    }
}

/// Half of them on namespaces that have local pods, so that several hundred are in force here.
fn policy(number: usize, seed: &mut Seed) -> NetworkPolicy {
    let own = if number.is_multiple_of(2) {
        seed.below(LOCAL)
    } else {
        seed.below(NAMESPACES)
    };
    let rules = |seed: &mut Seed| {
        let peers = vec![
            Peer::Pods {
                namespaces: None,
                pods: selector("app", format!("a{}", seed.below(20))),
            },
            Peer::Pods {
                namespaces: Some(selector("team", format!("t{}", seed.below(50)))),
                pods: selector("tier", format!("r{}", seed.below(5))),
            },
            Peer::IpBlock(IpBlock {
                cidr: format!("172.16.{}.0/24", seed.below(256)).parse().unwrap(),
                except: Vec::new(),
            }),
        ];
        let port = Port {
            protocol: Protocol::Tcp,
            port: PortMatch::Range(8_000, 8_000 + seed.below(100) as u16),
        };
        vec![PolicyRule {
            peers: Some(peers),
            ports: Some(vec![port]),
        }]
    };
    NetworkPolicy {
        name: NamespacedName::new(format!("ns{own}"), format!("policy{number}")),
        pod_selector: LabelSelector::default(),
        ingress: Some(rules(seed)),
        egress: (number.is_multiple_of(4)).then(|| rules(seed)),
    }
}

fn policy_change(policy: &NetworkPolicy) -> Change {
    Change {
        key: Key::NetworkPolicy(policy.name.clone()),
        value: Some(Resource::NetworkPolicy(policy.clone())),
    }
}

fn main() {
    let mut seed = Seed(4_179);
    let mut index = Index::new();
    for number in 0..NAMESPACES {
        index.handle(&namespace(number, &mut seed));
    }
    let mut pods: Vec<Pod> = (0..PODS).map(|number| pod(number, &mut seed)).collect();
    pods.iter().for_each(|pod| index.handle(&pod_change(pod)));
    let mut policies: Vec<NetworkPolicy> = (0..POLICIES)
        .map(|number| policy(number, &mut seed))
        .collect();
    policies
        .iter()
        .for_each(|one| index.handle(&policy_change(one)));
    let endpoint = |pod: &Pod| Endpoint {
        pod: pod.name.clone(),
        uid: String::new(),
        addresses: pod.pod_ips.clone(),
    };
    let endpoints: BTreeMap<String, Endpoint> = (0..LOCAL)
        .map(|number| (format!("ptl{number:011x}"), endpoint(&pods[number])))
        .collect();
    index.set_endpoints(endpoints.clone());
    let start = Instant::now();
    let compiled = index.compile();
    println!(
        "first compilation            {:>9.3} ms",
        milliseconds(start.elapsed())
    );
    let chains = |family: &policy::FamilyRules| -> usize {
        family
            .rules
            .tables
            .values()
            .map(|table| table.chains.len())
            .sum()
    };
    println!(
        "  {} sets, {} chains",
        compiled.v4.sets.len() + compiled.v6.sets.len(),
        chains(&compiled.v4) + chains(&compiled.v6)
    );
    drop(compiled);
    change_pods(&mut index, &mut pods);
    change_policies(&mut index, &mut policies);
    measure(
        "an endpoint comes or goes   ",
        &mut index,
        |index, round| {
            let mut changed = endpoints.clone();
            if round.is_multiple_of(2) {
                changed.remove(&format!("ptl{:011x}", round / 2 % LOCAL));
            }
            index.set_endpoints(changed);
        },
    );
}

fn change_pods(index: &mut Index, pods: &mut [Pod]) {
    measure("a pod changes its labels    ", index, |index, round| {
        let one = &mut pods[(round * 7_919) % PODS];
        one.labels = labels(&[
            ("app", format!("a{}", round % 20)),
            ("tier", format!("r{}", round % 5)),
        ]);
        index.handle(&pod_change(one));
    });
    measure("a local pod changes its own ", index, |index, round| {
        let one = &mut pods[round % LOCAL];
        one.labels
            .insert("app".to_owned(), format!("a{}", round % 20));
        index.handle(&pod_change(one));
    });
}

fn change_policies(index: &mut Index, policies: &mut [NetworkPolicy]) {
    measure("a policy changes its ports  ", index, |index, round| {
        let one = &mut policies[(round * 2) % POLICIES];
        let port = Port {
            protocol: Protocol::Udp,
            port: PortMatch::Range(round as u16, round as u16),
        };
        one.ingress.as_mut().unwrap()[0]
            .ports
            .as_mut()
            .unwrap()
            .push(port);
        index.handle(&policy_change(one));
    });
    measure("a policy comes or goes      ", index, |index, round| {
        let mut change = policy_change(&policies[(round / 2 * 2) % POLICIES]);
        if round.is_multiple_of(2) {
            change.value = None;
        }
        index.handle(&change);
    });
}

/// Changes and compiles, with the last result held as the firewall task holds it; prints median, 99th and worst.
fn measure(what: &str, index: &mut Index, mut change: impl FnMut(&mut Index, usize)) {
    let mut held = index.compile();
    let mut times: Vec<Duration> = (0..ROUNDS)
        .map(|round| {
            let start = Instant::now();
            change(index, round);
            let compiled = index.compile();
            let took = start.elapsed();
            held = compiled;
            took
        })
        .collect();
    drop(held);
    times.sort();
    println!(
        "{what} p50 {:>7.3} ms  p99 {:>7.3} ms  worst {:>7.3} ms",
        milliseconds(times[ROUNDS / 2]),
        milliseconds(times[ROUNDS * 99 / 100]),
        milliseconds(times[ROUNDS - 1])
    );
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}
