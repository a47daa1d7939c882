//! What a change of rules touches: enough, and not everything.

use proptest::prelude::*;

use super::*;

fn chain(name: &'static str) -> ChainName {
    ChainName::fixed(name)
}

fn jump(conditions: Vec<Match>, to: &'static str) -> Rule {
    Rule::new(conditions, Action::Jump(chain(to)))
}

fn verdict(conditions: Vec<Match>, action: Action) -> Rule {
    Rule::new(conditions, action)
}

/// FORWARD jumps to TREE, which leads the packets of ptl1 to ONE and those of ptl2 to TWO.
fn tree() -> FamilyRules {
    let mut rules = FamilyRules::default();
    let table = rules.rules.tables.entry(Table::Filter).or_default();
    table.hooks.push(Hook {
        chain: Builtin::Forward,
        position: HookPosition::First,
        rule: jump(vec![], "TREE"),
    });
    let leaves = vec![
        jump(vec![out("ptl1")], "ONE"),
        jump(vec![out("ptl2")], "TWO"),
        verdict(vec![], Action::Return),
    ];
    table.chains.insert(chain("TREE"), leaves.into());
    for name in ["ONE", "TWO"] {
        table
            .chains
            .insert(chain(name), vec![jump(vec![], "POLICY")].into());
    }
    let policy = vec![verdict(vec![], Action::Return)];
    table.chains.insert(chain("POLICY"), policy.into());
    rules
}

fn set(members: &[&str]) -> (SetName, Arc<IpSet>) {
    let name = SetName::fixed(Family::V4, "s");
    let mut set = IpSet::new(name.clone(), Family::V4, SetKind::HashIp);
    members.iter().for_each(|text| set.insert_ip(ip(text)));
    (name, Arc::new(set))
}

fn edit(rules: &mut FamilyRules, name: &'static str, list: Vec<Rule>) {
    let table = rules.rules.tables.get_mut(&Table::Filter).unwrap();
    table.chains.insert(chain(name), list.into());
}

fn between(old: FamilyRules, new: FamilyRules) -> Dirty {
    let compiled = |v4| Compiled {
        v4,
        ..Compiled::default()
    };
    Dirty::between(&compiled(old), &compiled(new))
}

#[test]
fn nothing_changed_is_clean() {
    assert!(between(tree(), tree()).is_clean());
    let rules = tree();
    assert!(between(rules.clone(), rules).is_clean());
}

#[test]
fn members_that_came_or_went_are_touched() {
    let (mut old, mut new) = (tree(), tree());
    old.sets.extend([set(&[X, Y])]);
    new.sets.extend([set(&[Y, REMOTE])]);
    let dirty = between(old, new);
    assert_eq!(dirty.addresses, BTreeSet::from([ip(X), ip(REMOTE)]));
    assert!(!dirty.everything && dirty.interfaces.is_empty());
}

#[test]
fn an_endpoints_chain_touches_its_interface_only() {
    let mut new = tree();
    edit(&mut new, "ONE", vec![verdict(vec![], Action::Drop)]);
    let dirty = between(tree(), new);
    assert_eq!(
        (dirty.everything, dirty.interfaces),
        (false, BTreeSet::from([iface("ptl1")]))
    );
}

#[test]
fn a_shared_chain_touches_all_who_come_to_it() {
    let mut new = tree();
    edit(&mut new, "POLICY", vec![verdict(vec![], Action::Drop)]);
    let dirty = between(tree(), new);
    let both = BTreeSet::from([iface("ptl1"), iface("ptl2")]);
    assert_eq!((dirty.everything, dirty.interfaces), (false, both));
}

#[test]
fn a_further_leaf_of_the_tree_touches_its_interface_only() {
    let mut new = tree();
    let mut leaves: Vec<Rule> = new.rules.tables[&Table::Filter].chains[&chain("TREE")].to_vec();
    leaves.insert(1, jump(vec![out("ptl3")], "ONE"));
    edit(&mut new, "TREE", leaves);
    let dirty = between(tree(), new);
    assert_eq!(
        (dirty.everything, dirty.interfaces),
        (false, BTreeSet::from([iface("ptl3")]))
    );
}

#[test]
fn a_rule_that_every_packet_meets_touches_everything() {
    let mut new = tree();
    edit(&mut new, "TREE", vec![verdict(vec![], Action::Drop)]);
    assert!(between(tree(), new).everything);
    let mut new = tree();
    new.rules
        .tables
        .get_mut(&Table::Filter)
        .unwrap()
        .hooks
        .clear();
    assert!(between(tree(), new).everything);
}

/// Rules of one chain, out of a few that differ in who meets them and what they do.
fn any_chain() -> impl Strategy<Value = Vec<Rule>> {
    let condition = prop_oneof![
        Just(vec![]),
        Just(vec![out("ptl1")]),
        Just(vec![out("ptl2")]),
        Just(vec![Match::Set {
            name: SetName::fixed(Family::V4, "s"),
            direction: SetDirection::Source,
            negated: false,
        }]),
    ];
    let action = prop_oneof![
        Just(Action::Drop),
        Just(Action::Return),
        Just(Action::Accept),
        Just(Action::Goto(chain("POLICY"))),
    ];
    let rule = (condition, action).prop_map(|(condition, action)| verdict(condition, action));
    prop::collection::vec(rule, 0..4)
}

fn any_rules() -> impl Strategy<Value = FamilyRules> {
    let members = prop::sample::subsequence(vec![REMOTE, CLIENT, X], 0..=3);
    let chains = (
        any::<[bool; 4]>(),
        any_chain(),
        any_chain(),
        any_chain(),
        any_chain(),
    );
    (members, chains).prop_map(|(members, (changed, top, one, two, policy))| {
        let mut rules = tree();
        rules.sets.extend([set(&members)]);
        let flat = |list: Vec<Rule>| {
            let leads_on = |rule: &Rule| matches!(rule.action(), Action::Goto(_));
            list.into_iter().filter(|rule| !leads_on(rule)).collect()
        };
        let mut leaves = top;
        leaves.push(jump(vec![out("ptl1")], "ONE"));
        leaves.push(jump(vec![out("ptl2")], "TWO"));
        let lists = [
            ("TREE", leaves),
            ("ONE", one),
            ("TWO", two),
            ("POLICY", flat(policy)),
        ];
        for ((name, list), changed) in lists.into_iter().zip(changed) {
            if changed {
                edit(&mut rules, name, list);
            }
        }
        rules
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]
    #[test]
    fn whatever_changed_no_newly_denied_flow_is_missed(old in any_rules(), new in any_rules()) {
        let entries: Vec<Entry> = [REMOTE, CLIENT, X, Y]
            .iter()
            .flat_map(|from| [X, Y, CLIENT].map(|to| plain(6, from, to, 80)))
            .collect();
        let node = |v4: &FamilyRules| {
            let mut node = Node::new();
            node.compiled.v4 = v4.clone();
            node
        };
        let dirty = Dirty::between(&node(&old).compiled, &node(&new).compiled);
        let before = node(&old).cuts(&entries);
        let mut wanted = node(&new).cuts(&entries);
        wanted.retain(|cut| !before.contains(cut));
        let found = node(&new).cuts_within(&entries, Some(&dirty));
        for cut in wanted {
            prop_assert!(found.contains(&cut), "{:?} {:?}", entries[cut.0], dirty);
        }
    }
}
