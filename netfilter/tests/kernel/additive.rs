//! Plans that only add, and what the kernel shows of typed rules.

use netfilter::*;

use crate::examples::*;
use crate::programs::*;

fn forward(ruleset: &Ruleset) -> Vec<Rule> {
    let filter = &ruleset.tables[&Table::Filter];
    filter.chains[&ChainName::fixed("FORWARD")].to_vec()
}

/// The rules that the kernel shows for our chain, as far as a packet may reach them.
fn live(program: &str) -> Vec<Rule> {
    let text = run(&format!("{program}-save"), &["-c"], "");
    let saved = Saved::parse(&text).unwrap();
    let mut rules = Vec::new();
    for rule in &saved.chains[&(Table::Filter, ChainName::fixed("FORWARD"))] {
        let SavedText::Rule(rule) = &rule.rule else {
            panic!("{program}: {rule:?}");
        };
        rules.push(rule.clone());
        if rule.is_terminal() {
            break;
        }
    }
    rules
}

fn ended(family: Family) -> Ruleset {
    let mut desired = example(family);
    edit_forward(&mut desired, |chain| {
        chain.retain(|rule| !rule.is_terminal());
        chain.push(Rule::new([], Action::Return));
    });
    desired
}

#[test]
fn every_kind_of_rule_is_shown_as_the_rule_it_is() {
    with_each_program(|program, family| {
        let desired = ended(family);
        apply(program, &desired);
        assert_eq!(live(program), forward(&desired));
        let text = run(&format!("{program}-save"), &["-c"], "");
        let mut mine = text.replace("-j PTL-FORWARD", "-j ACCEPT -x");
        mine = mine.replace("[0:0] -A PTL-OTHER", "[7:420] -A PTL-OTHER");
        let saved = Saved::parse(&mine).unwrap();
        let other = &saved.chains[&(Table::Filter, ChainName::fixed("OTHER"))];
        assert_eq!((other[0].packets, other[0].bytes), (7, 420));
        let unknown = |hook: &&SavedHook| matches!(hook.rule.rule, SavedText::Unknown(_));
        assert_eq!(saved.hooks.iter().filter(unknown).count(), 1, "{mine}");
    });
}

#[test]
fn changed_chains_are_changed_by_additions_and_cleaned_up_by_an_exact_plan() {
    with_each_program(|program, family| {
        let mut desired = ended(family);
        let first = apply_with(program, &save(program), &desired, Effort::Additive);
        assert!(!first.leftover);
        let mut known = first.after;
        let drop = |port| {
            let ports = Match::DestinationPorts(vec![PortRange::new(port, port)]);
            Rule::new([Match::Protocol(Protocol::Tcp), ports], Action::Drop)
        };
        // Put in, replaced, taken out, turned round; what one leaves behind the next must bear with.
        let edits: [fn(&mut Vec<Rule>, Rule); 4] = [
            |chain, rule| chain.insert(3, rule),
            |chain, rule| chain[5] = rule,
            |chain, _| drop_it(chain, 2),
            |chain, _| {
                let last = chain.len() - 1;
                chain[..last].reverse();
            },
        ];
        for (number, edit) in edits.into_iter().enumerate() {
            let rule = drop(7_000 + u16::try_from(number).unwrap());
            edit_forward(&mut desired, |chain| edit(chain, rule));
            let made = apply_with(program, &known, &desired, Effort::Additive);
            let text = made.restore.unwrap();
            assert!(!text.contains("\n-D ") && !text.contains("\n-F "), "{text}");
            assert_eq!(made.leftover, number > 0);
            assert_eq!(live(program), forward(&desired));
            known = made.after;
        }
        assert!(save(program).rule_count() > first.rules_written + 10);
        let made = apply_with(program, &known, &desired, Effort::Exact);
        assert!(!made.leftover && made.restore.is_some());
        assert_eq!(live(program), forward(&desired));
        assert_eq!(apply(program, &desired), 0);
    });
}

fn drop_it(chain: &mut Vec<Rule>, index: usize) {
    chain.remove(index);
}

#[test]
fn chains_that_are_no_longer_wanted_stay_until_an_exact_plan() {
    with_each_program(|program, family| {
        let full = ended(family);
        let known = apply_with(program, &save(program), &full, Effort::Exact).after;
        let made = apply_with(program, &known, &Ruleset::default(), Effort::Additive);
        assert!(made.leftover);
        let text = run(&format!("{program}-save"), &[], "");
        assert!(text.contains(":PTL-FORWARD ") && !text.contains("-j PTL-FORWARD"));
        let made = apply_with(program, &made.after, &full, Effort::Additive);
        assert_eq!(
            (made.rules_written, made.leftover),
            (3, false),
            "the hooks alone"
        );
        apply(program, &Ruleset::default());
        let text = run(&format!("{program}-save"), &[], "");
        assert!(!text.contains("PTL-"), "{text}");
    });
}
