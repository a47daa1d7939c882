//! Compiling what changed gives what compiling everything gives, touches nothing else, and leaves no chain behind.

use std::collections::BTreeSet;

use netfilter::{Action, Effort, Family, Table, plan};
use proptest::prelude::*;
use serde_json::json;

use super::worlds::{Spec, spec};
use super::*;
use crate::proxy::tests::*;

#[derive(Clone, Debug)]
pub(crate) enum Step {
    Put(Spec),
    Remove(u8),
    NoSlices(u8),
}

pub(crate) fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => spec().prop_map(Step::Put),
        1 => (0u8..6).prop_map(Step::Remove),
        1 => (0u8..6).prop_map(Step::NoSlices),
    ]
}

pub(crate) fn take(world: &mut World, step: &Step) -> Touched {
    match step {
        Step::Put(spec) => spec.put(world),
        Step::Remove(number) => world.remove(&format!("s{number}")),
        Step::NoSlices(number) => {
            let touched = world.index.remove_slice(&name(&format!("s{number}-1")));
            world.model.refresh(&world.index, &touched)
        }
    }
}

/// Chains that somebody jumps to, and those that there are.
fn check_links(rules: &Ruleset) {
    for (table, of_table) in &rules.tables {
        let hooks = of_table.hooks.iter().map(|hook| &hook.rule);
        let all = hooks.chain(of_table.chains.values().flat_map(|rules| rules.iter()));
        let asked: BTreeSet<&ChainName> = all
            .filter_map(|rule| match rule.action() {
                Action::Jump(name) | Action::Goto(name) => Some(name),
                _ => None,
            })
            .collect();
        // The mark's chain stays, asked for or not.
        let is_mark = |name: &&ChainName| name.as_str() == "KUBE-MARK-MASQ";
        let asked: BTreeSet<&ChainName> = asked.into_iter().filter(|name| !is_mark(name)).collect();
        let there = of_table.chains.keys().filter(|name| !is_mark(name));
        let there: BTreeSet<&ChainName> = there.collect();
        assert_eq!(asked, there, "{table:?}");
        assert!(of_table.chains.values().all(|rules| !rules.is_empty()));
    }
}

/// The same world, made at once and in another order.
pub(crate) fn fresh(world: &World) -> World {
    let mut fresh = World::new();
    let all: Vec<_> = world.index.services().cloned().collect();
    for service in all.iter().rev() {
        let mut touched = fresh.index.set_service(service.clone());
        for slice in world.index.slices(&service.name) {
            touched.extend(fresh.index.set_slice(Arc::new(slice.clone())));
        }
        fresh.model.refresh(&fresh.index, &touched);
    }
    fresh
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_order_of_changes_gives_the_model_and_the_rules_of_what_is(
        steps in prop::collection::vec(step(), 0..25), by_ipvs: bool, most_chains in 0_usize..20
    ) {
        let mut world = World::new();
        let mut options = options();
        options.endpoint_chains = EndpointChains::AllUpTo(most_chains);
        if by_ipvs {
            options.leads = Leads::Ipvs;
            options.node_addresses = place().addresses;
        }
        let mut compiler = Compiler::new(options.clone());
        for step in &steps {
            let changed = take(&mut world, step);
            compiler.update(&world.model, &changed);
            check_links(compiler.rules(Family::V4));
            check_links(compiler.rules(Family::V6));
        }
        let fresh = fresh(&world);
        prop_assert_eq!(&world.model, &fresh.model);
        prop_assert_eq!(&compiler, &compiled_with(&fresh, options));
    }
}

/// `s0` … with five endpoints each.
pub(crate) fn many(services: usize) -> World {
    let mut world = World::new();
    for number in 0..services {
        let (high, low) = (number / 200, number % 200 + 1);
        let address = json!({"spec": {"clusterIPs": [format!("10.96.{high}.{low}")]}});
        world.service(&format!("s{number}"), address);
        let endpoints: Vec<_> = (0..5)
            .map(|of| endpoint(&format!("10.{}.{high}.{low}", of + 1), "n2", Is::Ready))
            .collect();
        world.endpoints(&format!("s{number}"), &endpoints);
    }
    world
}

#[test]
fn rule_147_where_there_are_many_endpoints_chains_are_few_and_where_they_are_few_again_all_are_there()
 {
    let own = |compiler: &Compiler| {
        let nat = &compiler.rules(Family::V4).tables[&Table::Nat].chains;
        let names = nat.keys();
        names
            .filter(|name| name.as_str().starts_with("KUBE-SEP-"))
            .count()
    };
    let mut world = many(200);
    let mut compiler = compiled(&world);
    assert_eq!(own(&compiler), 1000);
    let more = world.service("more", json!({"spec": {"clusterIPs": ["10.97.0.1"]}}));
    compiler.update(&world.model, &more);
    let one = [endpoint("10.9.0.1", "n2", Is::Ready)];
    let more = world.endpoints("more", &one);
    compiler.update(&world.model, &more);
    assert_eq!(own(&compiler), 0, "all are on another node");
    let less = world.remove("more");
    compiler.update(&world.model, &less);
    assert_eq!(own(&compiler), 1000);
}

#[test]
fn rule_147_one_endpoint_more_writes_its_chain_and_its_services_and_nothing_else() {
    let mut world = many(150);
    let mut compiler = compiled(&world);
    let before = compiler.rules(Family::V4).clone();
    let known = plan(&Default::default(), &before, Effort::Exact).after;
    assert_eq!(plan(&known, &before, Effort::Exact).restore, None);
    let endpoints: Vec<_> = (0..6)
        .map(|of| endpoint(&format!("10.{}.0.8", of + 1), "n2", Is::Ready))
        .collect();
    let changed = world.endpoints("s7", &endpoints);
    assert_eq!(changed, [name("s7")].into());
    compiler.update(&world.model, &changed);
    let made = plan(&known, compiler.rules(Family::V4), Effort::Exact);
    let text = made.restore.unwrap();
    let chains: BTreeSet<&str> = text
        .lines()
        .filter(|line| line.starts_with('-'))
        .filter_map(|line| line.split(' ').nth(1))
        .collect();
    assert_eq!(chains.len(), 2, "its Service's chain and a new one: {text}");
    assert!(!text.contains("*filter"), "{text}");
    let shared = |rules: &Ruleset| {
        let nat = &rules.tables[&Table::Nat].chains;
        nat.values().map(Arc::as_ptr).collect::<BTreeSet<_>>()
    };
    let kept = shared(&before)
        .intersection(&shared(compiler.rules(Family::V4)))
        .count();
    assert_eq!(kept, before.tables[&Table::Nat].chains.len() - 1);
}

#[test]
fn rule_147_a_packet_meets_few_rules_however_many_services_there_are() {
    let compiler = compiled(&many(2_000));
    let nat = &compiler.rules(Family::V4).tables[&Table::Nat].chains;
    let shared = |name: &ChainName| {
        name.as_str().starts_with("PTL-SVC-") || name.as_str() == "KUBE-SERVICES"
    };
    let longest = nat
        .iter()
        .filter(|(name, _)| shared(name))
        .map(|(_, rules)| rules.len())
        .max();
    assert!(longest.unwrap() <= 19, "{longest:?}");
    let names = nat.keys().filter(|name| shared(name)).count();
    assert!(
        (100..1_000).contains(&names),
        "{names} chains lead to 2,000 Services"
    );
}
