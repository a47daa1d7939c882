//! Chains of ours: written, read back, repaired, removed.

use std::collections::BTreeSet;

use netfilter::*;

use crate::examples::*;
use crate::programs::*;

#[test]
fn every_kind_of_rule_is_accepted_and_read_back_as_it_was_written() {
    with_each_program(|program, family| {
        let desired = example(family);
        let rules = every_kind(family).len() + 1 + 2 + 2;
        assert_eq!(apply(program, &desired), rules);
        assert_eq!(apply(program, &desired), 0, "a restart changes nothing");
    });
}

#[test]
fn one_changed_rule_writes_one_deletion_and_one_insertion() {
    with_each_program(|program, family| {
        let mut desired = example(family);
        apply(program, &desired);
        edit_forward(&mut desired, |chain| {
            chain[7] = Rule::new([], Action::Return);
        });
        assert_eq!(apply(program, &desired), 2);
        edit_forward(&mut desired, |chain| {
            chain.insert(3, Rule::new([], Action::Return));
            chain.insert(
                4,
                Rule::new([Match::Protocol(Protocol::Udp)], Action::Return),
            );
        });
        assert_eq!(apply(program, &desired), 2);
        edit_forward(&mut desired, |chain| {
            chain.push(Rule::new([], Action::Drop));
        });
        assert_eq!(apply(program, &desired), 1);
    });
}

#[test]
fn tampering_is_repaired_exactly() {
    with_each_program(|program, family| {
        let desired = example(family);
        apply(program, &desired);
        iptables(program, "-D PTL-FORWARD 3");
        assert_eq!(apply(program, &desired), 1);
        iptables(program, "-I PTL-FORWARD 2 -j ACCEPT");
        assert_eq!(apply(program, &desired), 1);
        iptables(program, "-R PTL-FORWARD 5 -j ACCEPT");
        assert_eq!(apply(program, &desired), 2);
        iptables(program, "-F PTL-OTHER");
        assert_eq!(apply(program, &desired), 1);
        iptables(program, "-D FORWARD 1");
        assert_eq!(apply(program, &desired), 1);
        iptables(program, "-t raw -F PREROUTING");
        iptables(program, "-t raw -F PTL-PREROUTING");
        iptables(program, "-t raw -X PTL-PREROUTING");
        assert_eq!(apply(program, &desired), 2);
    });
}

#[test]
fn chains_that_refer_to_each_other_go_in_one_transaction_and_others_stay() {
    with_each_program(|program, family| {
        iptables(program, "-N OTHERS");
        iptables(program, "-A FORWARD -j OTHERS");
        let full = example(family);
        apply(program, &full);
        let mut less = full.clone();
        let filter = less.tables.get_mut(&Table::Filter).unwrap();
        filter.chains.remove(&ChainName::fixed("OTHER"));
        edit_forward(&mut less, |chain| {
            chain.retain(|rule| !matches!(rule.action(), Action::Jump(_) | Action::Goto(_)));
        });
        apply(program, &less);
        apply(program, &full);
        apply(program, &Ruleset::default());
        let text = run(&format!("{program}-save"), &[], "");
        assert!(!text.contains("PTL-") && !text.contains("ptl:"), "{text}");
        assert!(text.contains("-A FORWARD -j OTHERS"));
    });
}

#[test]
fn what_the_kernel_can_hold_of_a_word_from_outside_leaves_the_lines_as_they_are() {
    with_each_program(|program, family| {
        let words = [
            "a\n-A FORWARD -j ACCEPT",
            "\"",
            "'; reboot",
            "\0",
            "../../etc",
            "-j ACCEPT",
            "\\\"",
        ];
        let mut desired = example(family);
        let filter = desired.tables.get_mut(&Table::Filter).unwrap();
        for word in words {
            filter.chains.insert(
                ChainName::hashed("PI", &[word]),
                vec![Rule::new([], Action::Drop)].into(),
            );
        }
        let names: BTreeSet<&ChainName> = filter.chains.keys().collect();
        assert_eq!(names.len(), words.len() + 2);
        apply(program, &desired);
        assert_eq!(apply(program, &desired), 0);
    });
}
