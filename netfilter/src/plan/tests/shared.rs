//! A plan looks at what changed, and shares all else with the one before.

use super::*;

#[test]
fn what_did_not_change_is_shared_and_not_compared_again() {
    let desired = one_chain([1, 2, 3]);
    let known = plan(&Actual::default(), &desired, Effort::Exact).after;
    let is_shared = |one: &Actual, two: &Actual| {
        let [one, two] = [one, two].map(|actual| &actual.tables[&Table::Filter].ours);
        one.differing(two, Arc::ptr_eq).is_empty()
    };
    let again = plan(&known, &desired, Effort::Exact).after;
    assert!(is_shared(&known, &again));
    // The same rules in another allocation are compared once, and are then the ones that are known.
    let other = one_chain([1, 2, 3]);
    let learnt = plan(&known, &other, Effort::Additive).after;
    assert!(!is_shared(&known, &learnt));
    let again = plan(&learnt, &other, Effort::Additive).after;
    assert!(is_shared(&learnt, &again));
}

#[test]
fn of_ten_thousand_chains_a_plan_looks_at_those_that_changed() {
    let chain = |number: u32| ChainName::hashed("X", &[number.to_string()]);
    let to = |mark: u32| -> Arc<[Rule]> {
        let set = Action::SetMark {
            value: mark,
            mask: u32::MAX,
        };
        [Rule::new([], set), Rule::new([], Action::Return)].into()
    };
    let table = TableRules {
        hooks: Vec::new(),
        chains: (0..10_000).map(|number| (chain(number), to(0))).collect(),
    };
    let mut desired = Ruleset {
        tables: BTreeMap::from([(Table::Nat, table)]),
    };
    let mut actual = plan(&Actual::default(), &desired, Effort::Exact).after;
    for number in [17, 5_000, 9_999] {
        // Who compiles changes it while the last plan's is held.
        let held = desired.clone();
        let chains = &mut desired.tables.get_mut(&Table::Nat).unwrap().chains;
        chains.insert(chain(number), to(1));
        chains.remove(&chain(number - 1));
        let wanted = WantedTable::of(&[&desired], Table::Nat).unwrap();
        let mut changed = [chain(number), chain(number - 1)];
        changed.sort();
        let question = wanted.in_question(&actual.tables[&Table::Nat]);
        assert_eq!(question, [&changed[0], &changed[1]]);
        let made = plan(&actual, &desired, Effort::Exact);
        assert_eq!(made.rules_written, 2, "{:?}", made.restore);
        assert_eq!(
            made.restore
                .unwrap()
                .lines()
                .filter(|line| line.starts_with('-'))
                .count(),
            4
        );
        actual = made.after;
        drop(held);
    }
}
