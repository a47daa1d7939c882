//! What is to be, whatever way led there; and that no connection is cut on the way from what there is to it.

use std::collections::BTreeSet;

use netfilter::InterfaceName;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::proxy::tests::*;

fn options() -> Options {
    let mut options = Options::new(InterfaceName::new("ptl").unwrap());
    options.leads = super::super::iptables::Leads::Ipvs;
    options.node_addresses = place().addresses;
    options
}

fn all(world: &World) -> Touched {
    let names = world.model.services().map(|(name, _)| name.clone());
    names.collect()
}

fn desired(world: &World) -> Desired {
    let mut compiler = Compiler::new(Scheduler::Rr, options());
    compiler.update(&world.model, &all(world));
    compiler.desired().clone()
}

fn tcp(address: &str) -> Door {
    Door {
        protocol: Protocol::Tcp,
        address: address.parse().unwrap(),
    }
}

fn udp(address: &str) -> Door {
    Door {
        protocol: Protocol::Udp,
        ..tcp(address)
    }
}

fn addresses_of(found: &Virtual) -> Vec<String> {
    found.destinations.iter().map(ToString::to_string).collect()
}

#[test]
fn every_frontend_is_a_door_and_node_ports_are_at_the_nodes_addresses() {
    let mut world = World::new();
    let spec = json!({
        "type": "LoadBalancer", "externalIPs": ["198.51.100.1"], "externalTrafficPolicy": "Local",
        "sessionAffinity": "ClientIP",
        "ports": [{"name": "http", "port": 80, "nodePort": 30_080}],
    });
    let status = json!({"loadBalancer": {"ingress": [{"ip": "203.0.113.1"}]}});
    world.service("web", json!({"spec": spec, "status": status}));
    let here = endpoint("10.1.0.1", HERE, Is::Ready);
    let there = endpoint("10.1.0.2", "n2", Is::Ready);
    world.endpoints("web", &[here, there]);
    let found = desired(&world);
    let doors: Vec<_> = found
        .virtuals
        .keys()
        .map(|door| door.address.to_string())
        .collect();
    let expected = [
        "10.96.0.1:80",
        "192.0.2.1:30080",
        "198.51.100.1:80",
        "203.0.113.1:80",
    ];
    assert_eq!(doors, expected);
    // What `portolan service show` counts.
    let served = world.model.services().next().unwrap().1;
    let counted = super::doors(served, &place().addresses);
    let counted: BTreeSet<Door> = counted.into_iter().map(|(.., door)| door).collect();
    assert!(counted.iter().eq(found.virtuals.keys()), "{counted:?}");
    // Rules 130, 131: the outside asks this node's alone, and the cluster all.
    let inside = &found.virtuals[&tcp("10.96.0.1:80")];
    assert_eq!(addresses_of(inside), ["10.1.0.1:8080", "10.1.0.2:8080"]);
    let outside = &found.virtuals[&tcp("203.0.113.1:80")];
    assert_eq!(addresses_of(outside), ["10.1.0.1:8080"]);
    assert_eq!(
        inside.settings.persistence,
        Some(Duration::from_secs(10_800))
    );
    let taken: Vec<_> = found.addresses.keys().map(ToString::to_string).collect();
    assert_eq!(
        taken,
        ["10.96.0.1", "198.51.100.1", "203.0.113.1"],
        "none of the node's"
    );
    // Rule 125: where nobody is, nobody leads, and the rules refuse.
    world.endpoints("web", &[]);
    let found = desired(&world);
    assert!(found.virtuals.is_empty());
    assert_eq!(found.addresses.len(), 3, "the rules refuse there");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_order_of_changes_gives_the_virtual_services_of_what_is(
        steps in prop::collection::vec((0u8..3, 0u8..3, any::<bool>(), 0u8..3), 0..20)
    ) {
        let mut world = World::new();
        let mut compiler = Compiler::new(Scheduler::Rr, options());
        for (number, address, is_there, endpoints) in steps {
            let name = format!("s{number}");
            let changed = if is_there {
                let spec = json!({"clusterIPs": [format!("10.96.0.{}", number + 1)], "externalIPs": [format!("198.51.100.{address}")]});
                let mut changed = world.service(&name, json!({"spec": spec}));
                let endpoints: Vec<_> = (0..endpoints).map(|n| endpoint(&format!("10.1.0.{}", n + 1), HERE, Is::Ready)).collect();
                changed.extend(world.endpoints(&name, &endpoints));
                changed
            } else {
                world.remove(&name)
            };
            compiler.update(&world.model, &changed);
            prop_assert_eq!(compiler.desired(), &desired(&world));
        }
    }

    /// From any state to any other: after enough time what is there is what is to be; no address goes before its services, and
    /// no destination that has connections goes before their time.
    #[test]
    fn plans_end_in_what_is_to_be_and_cut_no_connection_before_its_time(
        steps in prop::collection::vec((prop::collection::vec((0u16..4, any::<bool>(), 1u8..8), 0..4), any::<u64>()), 1..6)
    ) {
        let mut kernel = Actual::default();
        let mut draining = Draining::default();
        let mut now = Duration::ZERO;
        let (mut last, mut checked) = (Desired::default(), 0);
        for (doors, seed) in steps {
            last = wanted(&doors);
            for look in 0..40_u64 {
                now += Duration::from_secs(30);
                let plan = draining.plan(&kernel, &last, now);
                check_order(&plan, &kernel, &last);
                checked += carry_out(&mut kernel, &plan.steps, now);
                churn(&mut kernel, seed.wrapping_add(look));
            }
        }
        for virtuals in kernel.virtuals.values_mut() {
            virtuals.destinations.values_mut().for_each(|one| one.connections = 0);
        }
        for _ in 0..3 {
            let plan = draining.plan(&kernel, &last, now);
            checked += carry_out(&mut kernel, &plan.steps, now);
        }
        let plan = draining.plan(&kernel, &last, now);
        prop_assert_eq!(plan, Plan::default());
        let found: Vec<_> = kernel.virtuals.iter().map(|(door, found)| (*door, found.destinations.keys().copied().collect::<Vec<_>>())).collect();
        let wanted: Vec<_> = last.virtuals.iter().map(|(door, wanted)| (*door, wanted.destinations.clone())).collect();
        prop_assert_eq!(found, wanted);
        prop_assert_eq!(kernel.addresses, last.addresses.keys().copied().collect::<BTreeSet<_>>());
        prop_assert!(checked > 0 || last.virtuals.is_empty());
    }
}

/// Doors by few numbers: which, TCP or UDP, and which destinations as bits.
fn wanted(doors: &[(u16, bool, u8)]) -> Desired {
    let mut desired = Desired::default();
    for (number, is_tcp, bits) in doors {
        let address = format!("10.96.0.{}:80", number + 1);
        let door = if *is_tcp {
            tcp(&address)
        } else {
            udp(&address)
        };
        let of_bit = |bit: &u8| bits >> bit & 1 == 1;
        let to = (0..3)
            .filter(of_bit)
            .map(|bit| format!("10.1.0.{bit}:8080").parse().unwrap());
        let settings = Settings {
            scheduler: Scheduler::Rr,
            persistence: None,
        };
        desired.virtuals.insert(
            door,
            Virtual {
                settings,
                destinations: to.collect(),
            },
        );
    }
    for door in desired.virtuals.keys() {
        *desired.addresses.entry(door.address.ip()).or_default() += 1;
    }
    desired
}

/// What leads comes before its address, and what is to be asked is never deleted.
fn check_order(plan: &Plan, kernel: &Actual, desired: &Desired) {
    let place = |wanted: &dyn Fn(&Step) -> bool| plan.steps.iter().position(wanted);
    for (at, step) in plan.steps.iter().enumerate() {
        match step {
            Step::Take(address) => {
                let later = |one: &Step| matches!(one, Step::Make(door, _) | Step::Add(door, _) if door.address.ip() == *address);
                assert!(place(&later).is_none_or(|made| made < at), "{plan:?}");
            }
            Step::Remove(door, to) | Step::Weigh(door, to, 0) => {
                let wanted = desired.virtuals.get(door);
                assert!(
                    wanted.is_none_or(|one| !one.destinations.contains(to)),
                    "{plan:?}"
                );
            }
            Step::Delete(door) => assert!(!desired.virtuals.contains_key(door), "{plan:?}"),
            Step::Leave(address) => {
                let draining = kernel.virtuals.iter().any(|(door, found)| {
                    let is_used = found.destinations.values().any(|one| one.connections > 0);
                    door.address.ip() == *address && door.protocol != Protocol::Udp && is_used
                });
                let is_over = plan
                    .steps
                    .iter()
                    .any(|one| matches!(one, Step::Delete(door) if door.address.ip() == *address));
                assert!(!draining || is_over, "{plan:?}");
            }
            _ => {}
        }
    }
}

/// As the kernel would; returns how many deletions were looked at.
fn carry_out(kernel: &mut Actual, steps: &[Step], now: Duration) -> usize {
    let mut checked = 0;
    for step in steps {
        match step.clone() {
            Step::Make(door, settings) => {
                let made = ActualVirtual {
                    scheduler: settings.scheduler.name().to_owned(),
                    persistence: settings.persistence,
                    destinations: BTreeMap::new(),
                };
                assert!(kernel.virtuals.insert(door, made).is_none());
                checked += 1;
            }
            Step::Change(door, settings) => {
                let found = kernel.virtuals.get_mut(&door).unwrap();
                found.persistence = settings.persistence;
                settings.scheduler.name().clone_into(&mut found.scheduler);
            }
            Step::Add(door, to) => {
                let new = ActualDestination {
                    weight: 1,
                    connections: 0,
                };
                let there = &mut kernel.virtuals.get_mut(&door).unwrap().destinations;
                assert!(there.insert(to, new).is_none());
            }
            Step::Weigh(door, to, weight) => {
                let there = &mut kernel.virtuals.get_mut(&door).unwrap().destinations;
                there.get_mut(&to).unwrap().weight = weight;
            }
            Step::Remove(door, to) => {
                let there = &mut kernel.virtuals.get_mut(&door).unwrap().destinations;
                let gone = there.remove(&to).unwrap();
                let is_free = gone.weight == 0 && gone.connections == 0;
                let is_late = now >= Draining::LONGEST;
                assert!(
                    is_free || is_late || door.protocol == Protocol::Udp,
                    "{steps:?}"
                );
                checked += 1;
            }
            Step::Delete(door) => drop(kernel.virtuals.remove(&door).unwrap()),
            Step::Take(address) => assert!(kernel.addresses.insert(address)),
            Step::Leave(address) => assert!(kernel.addresses.remove(&address)),
        }
    }
    checked
}

/// Connections come where there is a weight, and end.
fn churn(kernel: &mut Actual, mut seed: u64) {
    for one in kernel
        .virtuals
        .values_mut()
        .flat_map(|one| one.destinations.values_mut())
    {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        match seed >> 60 {
            0..=4 if one.weight > 0 => one.connections += 1,
            5..=8 => one.connections = one.connections.saturating_sub(1),
            _ => {}
        }
    }
}

#[test]
fn a_destination_that_goes_keeps_its_connections_for_their_time_and_udps_goes_at_once() {
    let before = wanted(&[(0, true, 0b11), (1, false, 0b11)]);
    let after = wanted(&[(0, true, 0b01), (1, false, 0b01)]);
    let mut kernel = Actual::default();
    let mut draining = Draining::default();
    let plan = draining.plan(&kernel, &before, Duration::ZERO);
    carry_out(&mut kernel, &plan.steps, Duration::ZERO);
    let (tcp, udp) = (tcp("10.96.0.1:80"), udp("10.96.0.2:80"));
    let to: SocketAddr = "10.1.0.1:8080".parse().unwrap();
    for door in [tcp, udp] {
        let found = kernel.virtuals.get_mut(&door).unwrap();
        found.destinations.get_mut(&to).unwrap().connections = 2;
    }
    let start = Duration::from_secs(10);
    let plan = draining.plan(&kernel, &after, start);
    assert_eq!(plan.steps, [Step::Weigh(tcp, to, 0), Step::Remove(udp, to)]);
    assert_eq!(plan.draining, 1);
    carry_out(&mut kernel, &plan.steps, start);
    let plan = draining.plan(
        &kernel,
        &after,
        start + Draining::LONGEST - Duration::from_secs(1),
    );
    assert_eq!((plan.steps, plan.draining), (vec![], 1));
    // It is asked again before it went.
    let again = draining.clone().plan(&kernel, &before, start);
    assert!(again.steps.contains(&Step::Weigh(tcp, to, 1)), "{again:?}");
    let plan = draining.plan(&kernel, &after, start + Draining::LONGEST);
    assert_eq!(
        (plan.steps, plan.draining),
        (vec![Step::Remove(tcp, to)], 0)
    );
}

#[test]
fn a_service_that_goes_keeps_its_address_while_it_is_used_and_anothers_is_left_alone() {
    let mut kernel = Actual::default();
    let mut draining = Draining::default();
    let before = wanted(&[(0, true, 1)]);
    let plan = draining.plan(&kernel, &before, Duration::ZERO);
    carry_out(&mut kernel, &plan.steps, Duration::ZERO);
    let door = tcp("10.96.0.1:80");
    let to: SocketAddr = "10.1.0.0:8080".parse().unwrap();
    let found = kernel.virtuals.get_mut(&door).unwrap();
    found.destinations.get_mut(&to).unwrap().connections = 1;
    let none = Desired::default();
    let plan = draining.plan(&kernel, &none, Duration::ZERO);
    assert_eq!(plan.steps, [Step::Weigh(door, to, 0)]);
    carry_out(&mut kernel, &plan.steps, Duration::ZERO);
    let found = kernel.virtuals.get_mut(&door).unwrap();
    found.destinations.get_mut(&to).unwrap().connections = 0;
    let plan = draining.plan(&kernel, &none, Duration::ZERO);
    let leave = Step::Leave(door.address.ip());
    assert_eq!(
        plan.steps,
        [Step::Remove(door, to), leave, Step::Delete(door)]
    );
    kernel = Actual {
        foreign: [door].into(),
        ..Actual::default()
    };
    let plan = draining.plan(&kernel, &before, Duration::ZERO);
    assert_eq!(plan.foreign, [door]);
    assert_eq!(plan.steps, [Step::Take(door.address.ip())]);
}
