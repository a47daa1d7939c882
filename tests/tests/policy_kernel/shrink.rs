//! The least cluster about which kernel and evaluator still differ, found by leaving things out one by one.

use anyhow::Result;
use api::NamespacedName;
use api::resources::PolicyRule;
use netfilter::Effort;

use crate::prober::Probe;
use crate::questions::{expected_alone, flow_of};
use crate::trial::Trial;
use crate::world::World;

/// Describes the least cluster that still answers a probe wrongly.
pub(crate) fn least(trial: &mut Trial, probe: Probe) -> Result<String> {
    let whole = trial.world.clone();
    if !differs(trial, whole.clone(), probe)? {
        return Ok(format!(
            "{probe:?}\nIt is not so once everything was written anew: the transition is to blame"
        ));
    }
    let mut least = whole;
    loop {
        let mut smaller = None;
        for candidate in without_one_thing(&least) {
            if differs(trial, candidate.clone(), probe)? {
                smaller = Some(candidate);
                break;
            }
        }
        match smaller {
            Some(candidate) => least = candidate,
            None => break,
        }
    }
    let arrives = expected_alone(&least, &trial.settings, &probe);
    let flow = flow_of(&probe);
    let explanation = policy::evaluate(&least.objects, &trial.settings, &flow);
    Ok(format!(
        "{probe:?}\nexpected {arrives:?}\n{explanation:#?}\npolicies {:#?}\ncluster policies {:#?}\npods {:#?}\nnamespaces {:#?}",
        least.objects.policies,
        least.objects.cluster_policies,
        least.objects.pods,
        least.objects.namespaces
    ))
}

/// Installs it, and the way back to nothing before, and asks.
fn differs(trial: &mut Trial, world: World, probe: Probe) -> Result<bool> {
    let nothing = World {
        services: world.services.clone(),
        ..World::default()
    };
    trial.replace(nothing, Effort::Exact, Vec::new(), "shrinking")?;
    trial.replace(world, Effort::Exact, Vec::new(), "shrinking")?;
    let wanted = expected_alone(&trial.world, &trial.settings, &probe).arrives();
    Ok(trial.ask(&[probe])? != [wanted])
}

fn without_one_thing(world: &World) -> Vec<World> {
    let mut all = Vec::new();
    without_objects(world, &mut all);
    for name in world.objects.policies.keys() {
        without_parts(world, name, &mut all);
    }
    for (name, policy) in &world.objects.cluster_policies {
        for (egress, rules) in [(false, &policy.ingress), (true, &policy.egress)] {
            all.extend((0..rules.len()).map(|number| {
                edited(world, |world| {
                    if let Some(policy) = world.objects.cluster_policies.get_mut(name) {
                        let rules = if egress {
                            &mut policy.egress
                        } else {
                            &mut policy.ingress
                        };
                        rules.remove(number);
                    }
                })
            }));
        }
    }
    all
}

fn edited(world: &World, edit: impl FnOnce(&mut World)) -> World {
    let mut smaller = world.clone();
    edit(&mut smaller);
    smaller
}

fn without_objects(world: &World, all: &mut Vec<World>) {
    let objects = &world.objects;
    all.extend(
        objects
            .policies
            .keys()
            .map(|name| edited(world, |world| drop(world.objects.policies.remove(name)))),
    );
    all.extend(objects.cluster_policies.keys().map(|name| {
        edited(world, |world| {
            drop(world.objects.cluster_policies.remove(name))
        })
    }));
    // The pod of slot 0 says which node this is.
    let first = crate::lab::interface_of(0);
    let endpoints = objects
        .endpoints
        .keys()
        .filter(|name| name.as_str() != first);
    all.extend(
        endpoints.map(|name| edited(world, |world| drop(world.objects.endpoints.remove(name)))),
    );
    for pod in world.pods().filter(|pod| pod.name.name != "l0") {
        all.push(edited(world, |world| {
            let pods = world
                .objects
                .pods
                .entry(pod.name.namespace.clone())
                .or_default();
            pods.remove(&pod.name.name);
            world.objects.pods.retain(|_, pods| !pods.is_empty());
        }));
    }
}

/// Leaves out a direction, a rule, a peer or a port of a NetworkPolicy.
fn without_parts(world: &World, name: &NamespacedName, all: &mut Vec<World>) {
    let policy = &world.objects.policies[name];
    for (egress, rules) in [(false, &policy.ingress), (true, &policy.egress)] {
        let mut without = |edit: &dyn Fn(&mut Option<Vec<PolicyRule>>)| {
            all.push(edited(world, |world| {
                if let Some(policy) = world.objects.policies.get_mut(name) {
                    edit(if egress {
                        &mut policy.egress
                    } else {
                        &mut policy.ingress
                    });
                }
            }));
        };
        let Some(rules) = rules else { continue };
        without(&|rules| *rules = None);
        for (number, rule) in rules.iter().enumerate() {
            without(&|rules| drop(rules.as_mut().map(|rules| rules.remove(number))));
            for peer in 0..rule.peers.as_ref().map_or(0, Vec::len) {
                without(&|rules| {
                    let peers = rules
                        .as_mut()
                        .and_then(|rules| rules[number].peers.as_mut());
                    drop(peers.map(|peers| peers.remove(peer)));
                });
            }
            for port in 0..rule.ports.as_ref().map_or(0, Vec::len) {
                without(&|rules| {
                    let ports = rules
                        .as_mut()
                        .and_then(|rules| rules[number].ports.as_mut());
                    drop(ports.map(|ports| ports.remove(port)));
                });
            }
        }
    }
}
