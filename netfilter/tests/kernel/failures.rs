//! What the programs say of a line that they or the kernel refuse, and what of ours that line is about.

use std::collections::BTreeMap;
use std::sync::Arc;

use netfilter::*;

use crate::examples::*;
use crate::programs::*;

/// The line that a program blames for a text that it must not take.
fn refused(program: &str, arguments: &[&str], text: &str) -> Option<usize> {
    let output = try_run(program, arguments, text);
    assert!(!output.status.success(), "{program} took\n{text}");
    failed_line(&String::from_utf8_lossy(&output.stderr))
}

#[test]
fn a_rule_with_a_set_that_is_not_there_names_its_chain() {
    with_each_program(|program, family| {
        let mut desired = example(family);
        let bad = ChainName::fixed("BAD");
        let lookup = Match::Set {
            name: SetName::fixed(family, "none"),
            direction: SetDirection::Source,
            negated: false,
        };
        let ends = |first| [first, Rule::new([], Action::Return)].into();
        let chains = &mut desired.tables.get_mut(&Table::Filter).unwrap().chains;
        chains.insert(bad.clone(), ends(Rule::new([lookup], Action::Drop)));
        let made = plan(&save(program), &desired, Effort::Exact);
        let restore = format!("{program}-restore");
        let text = made.restore.as_deref().unwrap();
        let line = refused(&restore, &["--noflush", "-w"], text).unwrap();
        assert_eq!(made.chain_at_line(line), Some((Table::Filter, bad)));
    });
}

#[test]
fn a_number_that_is_not_there_and_a_chain_in_use_name_the_chain() {
    with_each_program(|program, family| {
        let full = example(family);
        apply(program, &full);
        let known = save(program);
        let restore = format!("{program}-restore");
        // Another has emptied the chain in the meantime.
        iptables(program, "-F PTL-FORWARD");
        let mut less = full.clone();
        edit_forward(&mut less, |chain| drop(chain.remove(5)));
        let made = plan(&known, &less, Effort::Exact);
        let text = made.restore.as_deref().unwrap();
        let line = refused(&restore, &["--noflush", "-w"], text).unwrap();
        let forward = (Table::Filter, ChainName::fixed("FORWARD"));
        assert_eq!(made.chain_at_line(line), Some(forward));
        // A chain that is to go, but into which a rule still leads.
        apply(program, &full);
        let mut less = full;
        let filter = less.tables.get_mut(&Table::Filter).unwrap();
        filter.chains.remove(&ChainName::fixed("OTHER"));
        let made = plan(&known, &less, Effort::Exact);
        let text = made.restore.as_deref().unwrap();
        let line = refused(&restore, &["--noflush", "-w"], text).unwrap();
        let other = (Table::Filter, ChainName::fixed("OTHER"));
        assert_eq!(made.chain_at_line(line), Some(other), "{text}");
    });
}

fn set_of(name: &SetName, addresses: &[&str]) -> (SetName, Arc<IpSet>) {
    let mut set = IpSet::new(name.clone(), Family::V4, SetKind::HashIp);
    for address in addresses {
        set.insert_ip(address.parse().unwrap());
    }
    (name.clone(), set.into())
}

#[test]
fn a_refused_line_of_ipset_names_its_set() {
    in_namespace(|| {
        let of = |name| SetName::fixed(Family::V4, name);
        let (first, full) = (of("a"), of("b"));
        let small = "create ptl4-b hash:ip family inet maxelem 2\n";
        run("ipset", &["restore"], small);
        // As if it were one of ours with room enough.
        let known = parse_sets(&small.replace("maxelem 2", "maxelem 1048576")).unwrap();
        let three = ["10.0.0.1", "10.0.0.2", "10.0.0.3"];
        let desired = BTreeMap::from([set_of(&first, &three), set_of(&full, &three)]);
        let made = plan_sets(&known, &desired);
        let text = made.before.as_deref().unwrap();
        let line = refused("ipset", &["restore", "-exist"], text).unwrap();
        assert_eq!(made.set_at_line(line), Some(full));
        assert_eq!((made.set_at_line(0), made.set_at_line(99)), (None, None));
    });
}

#[test]
fn a_set_in_use_that_cannot_be_destroyed_and_one_that_cannot_be_remade_are_named() {
    in_namespace(|| {
        let used = SetName::fixed(Family::V4, "used");
        let text = "create ptl4-free hash:ip\ncreate ptl4-used hash:ip\n";
        run("ipset", &["restore"], text);
        let rule = "-A FORWARD -m set --match-set ptl4-used src -j DROP";
        iptables("iptables-nft", rule);
        let known = parse_sets(&run("ipset", &["save"], "")).unwrap();
        let made = plan_sets(&known, &BTreeMap::new());
        let text = made.after.as_deref().unwrap();
        let line = refused("ipset", &["restore"], text).unwrap();
        assert_eq!(made.destroyed_at_line(line), Some(used.clone()));
        // Others' options make it one that is made anew under another name, and something is in the way there.
        let desired = BTreeMap::from([set_of(&used, &["10.0.0.1"])]);
        let made = plan_sets(&known, &desired);
        let text = made.before.as_deref().unwrap();
        let temporary = text.split(' ').nth(1).unwrap();
        assert!(temporary.starts_with("ptl4-tmp-"), "{text}");
        run("ipset", &["create", temporary, "hash:net"], "");
        let line = refused("ipset", &["restore", "-exist"], text).unwrap();
        assert_eq!(made.set_at_line(line), Some(used));
        iptables("iptables-nft", &rule.replace("-A", "-D"));
    });
}
