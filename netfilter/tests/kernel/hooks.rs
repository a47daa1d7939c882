//! Our rules in chains that are not ours.

use netfilter::*;

use crate::examples::*;
use crate::programs::*;

#[test]
fn hooks_move_back_past_others_rules_which_stay_as_they_are() {
    with_each_program(|program, family| {
        let desired = example(family);
        iptables(program, "-N OTHERS");
        iptables(program, "-A FORWARD -j OTHERS");
        apply(program, &desired);
        let others = |program: &str| -> Vec<String> {
            let text = run(&format!("{program}-save"), &["-t", "filter"], "");
            let lines = text
                .lines()
                .filter(|line| line.starts_with("-A") && !line.contains("PTL-"));
            lines
                .filter(|line| !line.contains("ptl:"))
                .map(str::to_owned)
                .collect()
        };
        iptables(
            program,
            "-I FORWARD 1 -p tcp -m comment --comment above -j OTHERS",
        );
        iptables(program, "-A FORWARD -p udp -j DROP");
        iptables(program, "-I FORWARD 3 -p udp -j OTHERS");
        let before = others(program);
        assert_eq!(before.len(), 4);
        assert_eq!(
            apply(program, &desired),
            4,
            "each hook is taken out and put in again"
        );
        assert_eq!(others(program), before);
        let text = run(&format!("{program}-save"), &["-t", "filter"], "");
        let forward: Vec<&str> = text
            .lines()
            .filter(|line| line.starts_with("-A FORWARD "))
            .collect();
        assert!(forward.first().unwrap().ends_with("-j PTL-FORWARD"));
        assert!(forward.last().unwrap().contains("--mark 0x10000/0x10000") && forward.len() == 6);
        iptables(program, "-I FORWARD 1 -j PTL-FORWARD");
        assert_eq!(
            apply(program, &desired),
            3,
            "the stray jump goes, the hook moves up"
        );
    });
}

/// Where policy hooks in besides FORWARD and raw PREROUTING.
const PLACES: [(Table, &str); 3] = [
    (Table::Filter, "INPUT"),
    (Table::Filter, "OUTPUT"),
    (Table::Mangle, "POSTROUTING"),
];

/// A hook first and last in each built-in chain that policy uses.
fn every_hook(family: Family) -> Ruleset {
    let mut ruleset = example(family);
    let places = [
        (Table::Filter, Builtin::Input),
        (Table::Filter, Builtin::Output),
        (Table::Mangle, Builtin::Postrouting),
    ];
    let guard = ChainName::fixed("GUARD");
    for (table, chain) in places {
        let rules = ruleset.tables.entry(table).or_default();
        let hook = |position, action| Hook {
            chain,
            position,
            rule: Rule::new([], action),
        };
        let jump = Action::Jump(guard.clone());
        rules.hooks.push(hook(HookPosition::First, jump));
        rules.hooks.push(hook(HookPosition::Last, Action::Return));
        let drop = Rule::new([Match::SourceLocal], Action::Drop);
        let chain = [drop, Rule::new([], Action::Return)];
        rules.chains.insert(guard.clone(), chain.into());
    }
    ruleset
}

#[test]
fn hooks_stand_first_and_last_in_input_output_and_mangle_too() {
    with_each_program(|program, family| {
        let desired = every_hook(family);
        for place in PLACES {
            iptables(
                program,
                &format!("-t {} -A {} -j ACCEPT", place.0.name(), place.1),
            );
        }
        apply(program, &desired);
        let shown = |program: &str| {
            let text = run(&format!("{program}-save"), &["-c"], "");
            let saved = Saved::parse(&text).unwrap();
            let place = |hook: &SavedHook| (hook.table, hook.chain.clone(), hook.number, hook.of);
            saved.hooks.iter().map(place).collect::<Vec<_>>()
        };
        let before = shown(program);
        for (table, chain) in PLACES {
            for number in [1, 3] {
                assert!(
                    before.contains(&(table, chain.to_owned(), number, 3)),
                    "{before:?}"
                );
            }
            let table = table.name();
            iptables(program, &format!("-t {table} -I {chain} 1 -j DROP"));
            iptables(program, &format!("-t {table} -A {chain} -j DROP"));
        }
        assert_eq!(
            apply(program, &desired),
            3 * 4,
            "each is taken out and put in again"
        );
        for (table, chain, number, of) in shown(program) {
            let ends = number == 1 || number == of;
            assert!(ends, "{} {chain} {number} of {of}", table.name());
        }
        apply(program, &Ruleset::default());
        assert_eq!(shown(program), []);
        let text = run(&format!("{program}-save"), &[], "");
        assert_eq!(text.matches("-j ACCEPT").count(), 3);
        assert_eq!(text.matches("-j DROP").count(), 6);
    });
}
