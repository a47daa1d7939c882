//! `explain`: what it says, and that it says so where the kernel differs.

use netfilter::{Action, Rule, SavedRule, SavedText, Table};

use super::super::explain::explain;
use super::super::state::Known;
use super::super::table;
use super::super::view::ExplainView;
use super::{Wanted, chains_of, known, own};

fn ask(known: &Known, from: &str, to: &str) -> Result<ExplainView, String> {
    explain(known, &own(), &from.parse()?, &to.parse()?)
}

fn said(known: &Known, from: &str, to: &str) -> ExplainView {
    ask(known, from, to).unwrap()
}

/// Both sides' words without the kernel's rules, whose chains are named by hashes.
fn table_without_kernel(mut view: ExplainView) -> String {
    for flow in &mut view.families {
        if let Some(kernel) = &mut flow.kernel {
            kernel.trail.clear();
        }
    }
    table::explain(&[view])
}

#[test]
fn both_sides_are_told_rule_by_rule() {
    let known = known("");
    let text = |from, to| table_without_kernel(said(&known, from, to));
    Wanted(
        r#"
        shop/web (10.0.1.2) → shop/cache (10.0.1.3) tcp 7005: ALLOWED
          egress of shop/web, on n1: allowed: NetworkPolicy shop/web-egress rule 1 allows it
            Admin no-metadata rule 1 (nobody): no match: the other side
            NetworkPolicy shop/web-egress rule 1: allows it
          ingress of shop/cache, on n1: allowed: NetworkPolicy shop/cache-from-web rule 1 allows it
            NetworkPolicy shop/cache-from-web rule 1: allows it
          the kernel of n1 accepts it:
             TABLE  CHAIN  NO  PACKETS  RULE  FROM

    "#,
    )
    .assert_eq(&text("shop/web", "shop/cache:7005"));
    Wanted(r#"
        team/tester (10.0.1.9) → shop/cache (10.0.1.3) tcp 6379: DENIED
          egress of team/tester, on n1: allowed: nothing is said against it
            Admin no-metadata rule 1 (nobody): no match: the other side
          ingress of shop/cache, on n1: denied: a NetworkPolicy isolates the pod, and no rule allows this
            NetworkPolicy shop/cache-from-web rule 1: no match: the other side
            NetworkPolicy shop/cache-from-web rule 2: no match: the other side
          the kernel of n1 drops it:
             TABLE  CHAIN  NO  PACKETS  RULE  FROM

    "#).assert_eq(&text("team/tester", "shop/cache:6379"));
    Wanted(
        r#"
        shop/web (10.0.1.2) → shop/db (10.0.2.2) udp 5432: ALLOWED
          egress of shop/web, on n1: allowed: NetworkPolicy shop/web-egress rule 1 allows it
            Admin no-metadata rule 1 (nobody): no match: the other side
            NetworkPolicy shop/web-egress rule 1: allows it
          ingress of shop/db, on n2: allowed: nothing is said against it
          the kernel of n1 accepts it:
             TABLE  CHAIN  NO  PACKETS  RULE  FROM

        what n2's kernel does, its own agent says: ask there, or add its --run-dir
    "#,
    )
    .assert_eq(&text("shop/web", "shop/db:5432/udp"));
    Wanted(r#"
        shop/web (10.0.1.2) → team/tester (10.0.1.9) icmp: DENIED
          egress of shop/web, on n1: denied: a NetworkPolicy isolates the pod, and no rule allows this
            Admin no-metadata rule 1 (nobody): no match: the other side
            NetworkPolicy shop/web-egress rule 1: no match: the other side
          ingress of team/tester, on n1: denied: ClusterNetworkPolicy closed rule 2 denies it
            Baseline closed rule 1 (same team): no match: the other side
            Baseline closed rule 2: denies it
          the kernel of n1 drops it:
             TABLE  CHAIN  NO  PACKETS  RULE  FROM

        shop/web (fd00:1::2) → team/tester (fd00:1::9) icmp: DENIED
          egress of shop/web, on n1: denied: a NetworkPolicy isolates the pod, and no rule allows this
            Admin no-metadata rule 1 (nobody): no match: the other side
            NetworkPolicy shop/web-egress rule 1: no match: the other side
          ingress of team/tester, on n1: denied: ClusterNetworkPolicy closed rule 2 denies it
            Baseline closed rule 1 (same team): no match: the other side
            Baseline closed rule 2: denies it
          the kernel of n1 drops it:
             TABLE  CHAIN  NO  PACKETS  RULE  FROM

    "#).assert_eq(&text("shop/web", "team/tester/icmp"));
    Wanted(r#"
        shop/cache (10.0.1.3) → 169.254.169.254 tcp 80: DENIED
          egress of shop/cache, on n1: denied: ClusterNetworkPolicy no-metadata rule 1 (nobody) denies it
            Admin no-metadata rule 1 (nobody): denies it
          ingress: allowed: nobody of the cluster, which no policy is about
          the kernel of n1 drops it:
             TABLE  CHAIN  NO  PACKETS  RULE  FROM

    "#).assert_eq(&text("shop/cache", "169.254.169.254:80"));
}

#[test]
fn the_kernel_and_the_policies_agree_on_every_pair_and_port() {
    let known = known("");
    let ends = [
        "shop/web",
        "shop/cache",
        "shop/db",
        "team/tester",
        "192.0.2.7",
        "192.0.2.66",
        "192.168.0.1",
        "192.168.0.2",
        "169.254.169.254",
    ];
    let (mut denied, mut walked) = (0, 0);
    for from in ends {
        for to in ends {
            for port in [":6379", ":80", ":7010", ":7005/udp", "/icmp"] {
                let view = said(&known, from, &format!("{to}{port}"));
                for flow in &view.families {
                    assert!(!flow.differs, "{from} {to}{port}: {flow:#?}");
                    denied += usize::from(!flow.allowed);
                    walked += usize::from(flow.kernel.is_some());
                }
            }
        }
    }
    assert!(
        denied > 30 && walked > 200,
        "{denied} denied, {walked} walked"
    );
}

#[test]
fn each_family_that_both_ends_have_is_told() {
    let known = known("");
    let sources = |from, to| -> Vec<String> {
        let view = said(&known, from, to);
        view.families.into_iter().map(|flow| flow.source).collect()
    };
    assert_eq!(
        sources("shop/web", "team/tester:80"),
        ["10.0.1.2", "fd00:1::2"]
    );
    assert_eq!(sources("shop/web", "shop/cache:80"), ["10.0.1.2"]);
    assert_eq!(sources("shop/web", "[2001:db8::1]:80"), ["fd00:1::2"]);
    let apart = ask(&known, "shop/cache", "[2001:db8::1]:80").unwrap_err();
    assert_eq!(
        apart,
        "shop/cache and 2001:db8::1 have no addresses of one family"
    );
}

#[test]
fn a_port_may_be_named_and_an_unknown_one_is_answered_with_those_there_are() {
    let known = known("");
    assert_eq!(
        said(&known, "shop/cache", "shop/web:http").families[0].port,
        Some(8080)
    );
    assert_eq!(
        said(&known, "shop/cache", "10.0.1.2:http").families[0].port,
        Some(8080)
    );
    for (to, wanted) in [
        (
            "shop/web:htpp",
            "pod shop/web has no tcp port named htpp: it has http (8080/tcp)",
        ),
        (
            "shop/web:http/udp",
            "pod shop/web has no udp port named http: it has http (8080/tcp)",
        ),
        (
            "shop/db:x",
            "pod shop/db has no tcp port named x: it has no names for ports",
        ),
        (
            "shop/web-0:80",
            "there is no pod shop/web-0; there is shop/web",
        ),
    ] {
        assert_eq!(ask(&known, "shop/cache", to).unwrap_err(), wanted);
    }
}

#[test]
fn the_way_through_the_kernel_names_the_rule_of_the_policy_that_let_it_pass() {
    let view = said(&known(""), "shop/web", "shop/cache:7005");
    let kernel = view.families[0].kernel.as_ref().unwrap();
    let matched = kernel.trail.iter().filter(|tried| tried.matched);
    let policies: Vec<(&str, Option<usize>)> = matched
        .filter_map(|tried| Some((tried.policy.as_deref()?, tried.policy_rule)))
        .collect();
    assert!(
        policies.contains(&("shop/web-egress", Some(1))),
        "{policies:?}"
    );
    assert!(
        policies.contains(&("shop/cache-from-web", Some(1))),
        "{policies:?}"
    );
    assert!(
        kernel
            .trail
            .iter()
            .all(|tried| tried.packets == tried.number as u64 || tried.chain == "FORWARD")
    );
}

#[test]
fn a_chain_that_someone_emptied_is_said_to_differ() {
    let mut known = known("");
    let chains = chains_of(&known, "PTL-GI-");
    let held = known.held.as_mut().unwrap();
    for chain in chains {
        held.v4.chains.insert((Table::Filter, chain), Vec::new());
    }
    let view = said(&known, "team/tester", "shop/cache:6379");
    let flow = &view.families[0];
    assert!(!flow.allowed && flow.differs && view.differs(), "{flow:#?}");
    let text = table::explain(&[view]);
    assert!(
        text.contains("!!! THEY DIFFER: the policies say denied, the kernel's rules say allowed"),
        "{text}"
    );
}

#[test]
fn a_set_that_someone_flushed_is_said_to_differ() {
    let mut known = known("");
    known.held.as_mut().unwrap().sets = netfilter::parse_sets("").unwrap();
    let view = said(&known, "shop/web", "shop/cache:6379");
    assert!(view.families[0].allowed && view.differs());
}

#[test]
fn anothers_rule_in_our_chain_on_the_way_is_shown_and_said_to_differ() {
    let mut known = known("");
    let chain = chains_of(&known, "PTL-POD").remove(0);
    let held = known.held.as_mut().unwrap();
    let rules = held.v4.chains.get_mut(&(Table::Filter, chain)).unwrap();
    let text = "-s 10.0.0.0/8 -j ACCEPT".to_owned();
    let foreign = SavedRule {
        rule: SavedText::Unknown(text),
        packets: 0,
        bytes: 0,
    };
    rules.insert(0, foreign);
    let view = said(&known, "team/tester", "shop/cache:6379");
    let text = table::explain(std::slice::from_ref(&view));
    assert!(view.differs(), "{text}");
    assert!(
        text.contains("not Portolan's: filter PTL-POD: -s 10.0.0.0/8 -j ACCEPT"),
        "{text}"
    );
    // What goes another way is not touched by it.
    assert!(!said(&known, "shop/web", "192.168.0.1:80").differs());
}

#[test]
fn rules_as_compiled_that_deny_what_policies_allow_are_a_bug_to_be_reported() {
    let mut known = known("");
    let allow = chains_of(&known, "PTL-GI-");
    let mut compiled = (*known.compiled).clone();
    let filter = compiled.v4.rules.tables.get_mut(&Table::Filter).unwrap();
    for chain in allow {
        let drop: std::sync::Arc<[Rule]> = vec![Rule::new([], Action::Drop)].into();
        filter.chains.insert(chain, drop);
    }
    known.compiled = std::sync::Arc::new(compiled);
    known.held = Ok(super::held(&known.compiled));
    let view = said(&known, "shop/web", "shop/cache:6379");
    let text = table::explain(&[view]);
    assert!(text.contains("that is a bug of Portolan"), "{text}");
}

#[test]
fn nodes_whose_agents_were_not_asked_are_named() {
    let view = said(&known(""), "shop/web", "shop/db:5432");
    let mut other = view.clone();
    assert!(table::explain(std::slice::from_ref(&view)).contains("what n2's kernel does"));
    other.node = "n2".to_owned();
    let both = table::explain(&[view, other]);
    assert!(!both.contains("kernel does, its own agent says"), "{both}");
    assert!(both.contains("== as the agent of n2 has it"), "{both}");
}
