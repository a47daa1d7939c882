//! `portolan policy show`: which policies select a pod, by which rules, and what the kernel counted.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ::policy::{Direction, Evaluator, Origin, PolicyTier};
use api::{Key, NamespacedName};
use netfilter::{Action, ChainName, Family, InterfaceName, Table};

use super::counts::{Count, PolicyCounts, count, counts_of, end_of, filter_chains, of_family};
use super::list::{key_name, tier_name};
use super::near::Names;
use super::place::Place;
use super::state::Known;
use super::view::{DirectionView, NamedPort, PolicyShown, RuleShown, ShowView};
use super::words;

type Counts = BTreeMap<(Key, Direction), PolicyCounts>;

/// Shows one pod.
///
/// # Errors
/// If there is none; the text names others.
pub(super) fn show(known: &Known, place: &Place) -> Result<ShowView, String> {
    let names = Names::new(&known.objects);
    let pod = match place {
        Place::Pod(name) => name.clone(),
        Place::Address(address) => names.holder(*address)?,
    };
    let addresses = names.addresses(&pod)?;
    let evaluator = Evaluator::new(&known.objects, &known.settings);
    let first = addresses.first().copied();
    let interface = addresses
        .iter()
        .find_map(|address| known.endpoint(*address))
        .map(|(interface, _)| interface);
    let held = known.held.as_ref().ok();
    let counts = held.map(|held| count(&known.compiled, held));
    let holder = first.and_then(|address| evaluator.holder(address));
    let object = known.objects.pod(&pod);
    let directions = Direction::ALL.map(|way| {
        let about = first.map_or(Vec::new(), |address| evaluator.policies_about(way, address));
        direction(known, counts.as_ref(), interface, way, about)
    });
    Ok(ShowView {
        node: known.node.clone(),
        pod: pod.to_string(),
        runs_on: holder
            .and_then(|holder| holder.node)
            .or(object.and_then(|pod| pod.node_name.as_deref()))
            .map(str::to_owned),
        interface: interface.map(ToString::to_string),
        addresses: addresses.iter().map(IpAddr::to_string).collect(),
        named_ports: named_ports(known, &pod),
        directions: directions.into(),
        kernel_error: known.held.as_ref().err().cloned(),
    })
}

fn named_ports(known: &Known, pod: &NamespacedName) -> Vec<NamedPort> {
    let ports = known
        .objects
        .pod(pod)
        .into_iter()
        .flat_map(|pod| &pod.named_ports);
    ports
        .map(|port| NamedPort {
            name: port.name.clone(),
            protocol: words::protocol(port.protocol).to_owned(),
            port: port.port,
        })
        .collect()
}

fn direction(
    known: &Known,
    counts: Option<&Counts>,
    interface: Option<&InterfaceName>,
    way: Direction,
    about: Vec<(PolicyTier, Key)>,
) -> DirectionView {
    let isolates = |(tier, _): &(PolicyTier, Key)| *tier == PolicyTier::NetworkPolicy;
    let isolated = about.iter().any(isolates);
    let mut view = DirectionView {
        direction: way.to_string(),
        isolated,
        ..DirectionView::default()
    };
    for (tier, key) in about {
        let counted = counts.map(|counts| counts.get(&(key.clone(), way)));
        view.policies.push(PolicyShown {
            tier: tier_name(tier).to_owned(),
            priority: priority(known, &key),
            name: key_name(&key),
            asked: !(isolated && tier == PolicyTier::Baseline),
            rules: rules(known, &key, way, counted),
            problems: known.problems_of(&key),
        });
    }
    if let Some(interface) = interface {
        chains(known, interface, way, &mut view);
    }
    view
}

fn priority(known: &Known, key: &Key) -> Option<u16> {
    match key {
        Key::ClusterNetworkPolicy(name) => {
            let policy = known.objects.cluster_policies.get(name)?;
            Some(policy.priority)
        }
        _ => None,
    }
}

/// Its rules of a direction. A rule without a chain of its own here has counted nothing.
fn rules(
    known: &Known,
    key: &Key,
    way: Direction,
    counted: Option<Option<&PolicyCounts>>,
) -> Vec<RuleShown> {
    let texts: Vec<(String, &str, String)> = match key {
        Key::NetworkPolicy(name) => {
            let policy = known.objects.policies.get(name);
            let list = policy.and_then(|policy| match way {
                Direction::Ingress => policy.ingress.as_ref(),
                Direction::Egress => policy.egress.as_ref(),
            });
            let rules = list.into_iter().flatten();
            rules
                .map(|rule| (String::new(), "Allow", words::network_rule(rule)))
                .collect()
        }
        Key::ClusterNetworkPolicy(name) => {
            let policy = known.objects.cluster_policies.get(name);
            let list = policy.map(|policy| match way {
                Direction::Ingress => &policy.ingress,
                Direction::Egress => &policy.egress,
            });
            let rules = list.into_iter().flatten();
            rules
                .map(|rule| {
                    let text = words::cluster_rule(rule);
                    (rule.name.clone(), words::action(rule.action), text)
                })
                .collect()
        }
        _ => Vec::new(),
    };
    let count_of = |index: usize| -> Option<Count> {
        let of_policy = counted?;
        let of_rule = of_policy.and_then(|counts| counts.rules.get(&index));
        Some(of_rule.copied().unwrap_or_default())
    };
    let texts = texts.into_iter().enumerate();
    texts
        .map(|(index, (name, action, text))| RuleShown {
            number: index + 1,
            name,
            action: action.to_owned(),
            text,
            packets: count_of(index).map(|count| count.packets),
            bytes: count_of(index).map(|count| count.bytes),
        })
        .collect()
}

/// The pod's own chain, whom it goes to, and what both counted.
fn chains(known: &Known, interface: &InterfaceName, way: Direction, view: &mut DirectionView) {
    let held = known.held.as_ref().ok();
    let own = known.compiled.origins.iter().find(|(_, origin)| {
        matches!(&***origin, Origin::Endpoint { interface: of, direction } if of == interface && *direction == way)
    });
    let Some((own, _)) = own else { return };
    view.endpoint_chain = Some(own.to_string());
    let (mut asked, mut isolated) = (0, 0);
    for family in Family::ALL {
        let compiled: BTreeMap<&ChainName, _> =
            filter_chains(of_family(&known.compiled, family)).collect();
        let Some(rules) = compiled.get(own) else {
            continue;
        };
        let in_kernel = |name: &ChainName| {
            let chains = held.map(|held| &held.rules(family).chains)?;
            chains.get(&(Table::Filter, name.clone()))
        };
        let counted = in_kernel(own).map(|chain| counts_of(rules, chain));
        for (place, rule) in rules.iter().enumerate() {
            let Action::Goto(group) = rule.action() else {
                continue;
            };
            if !view.group_chains.contains(&group.to_string()) {
                view.group_chains.push(group.to_string());
            }
            let count = counted.as_ref().and_then(|counts| *counts.get(place)?);
            asked += count.unwrap_or_default().packets;
            if let (Some(rules), Some(chain)) = (compiled.get(group), in_kernel(group)) {
                isolated += end_of(rules, chain).packets;
            }
        }
    }
    let is_asked = !view.group_chains.is_empty();
    view.packets_asked = held.filter(|_| is_asked).map(|_| asked);
    view.packets_isolated = held.filter(|_| view.isolated).map(|_| isolated);
}
