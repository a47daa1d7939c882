//! `list` and `show`: policies in order, pods with their rules, counts and chains.

use super::super::list::list;
use super::super::place::Place;
use super::super::show::show;
use super::super::state::Known;
use super::super::table;
use super::{Wanted, chains_of, known};

const UNREADABLE: &str = "
---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: misfit}
spec:
  tier: Admin
  priority: 20
  subject: {namespaces: {}}
  ingress:
    - action: Deny
      from: [{}]
";

fn shown(known: &Known, place: &str) -> String {
    let place: Place = place.parse().unwrap();
    show(known, &place).map_or_else(|error| error, |view| table::show(&view))
}

/// Chains named by what is in them change with every detail of the compiler.
fn without_hashes(text: &str) -> String {
    let words = text.split_inclusive([' ', ',', '\n']);
    let hashed = |word: &str| word.starts_with("PTL-") && word.matches('-').count() == 2;
    words
        .map(|word| match hashed(word) {
            true => {
                let kept = word.trim_end_matches([' ', ',', '\n']);
                let end = &word[kept.len()..];
                format!("{}…{end}", &kept[..7])
            }
            false => word.to_owned(),
        })
        .collect()
}

fn check(said: &str, wanted: Wanted) {
    wanted.assert_eq(&without_hashes(said));
}

#[test]
fn policies_are_listed_in_the_order_in_which_they_are_asked() {
    check(
        &table::list(&list(&known(UNREADABLE))),
        Wanted(
            r#"
            TIER           PRIORITY  NAME                 DIRECTIONS  PODS HERE  PODS  ALLOWED  DENIED  PASSED
            Admin          10        no-metadata          egress      3          4     0        1       0
            Admin          20        misfit               ingress     3          4     0        2       0
            NetworkPolicy  -         shop/cache-from-web  ingress     1          1     4        16      0
            NetworkPolicy  -         shop/web-egress      egress      1          1     2        18      0
            Baseline       5         closed               ingress     1          1     2        4       0

            problem: Admin misfit: ingress rule 1: spec.ingress[0].from[0]: none of namespaces and pods is there: the rule denies all
        "#,
        ),
    );
}

#[test]
fn a_chain_that_the_kernel_does_not_hold_is_a_problem_of_its_policy() {
    let mut known = known("");
    let chains = chains_of(&known, "PTL-PI-");
    assert!(!chains.is_empty());
    let held = known.held.as_mut().unwrap();
    held.v4.chains.retain(|(_, name), _| !chains.contains(name));
    let view = list(&known);
    let row = view
        .policies
        .iter()
        .find(|row| row.name == "shop/cache-from-web")
        .unwrap();
    assert!(
        row.problems[0].contains("does not hold its chain PTL-PI-"),
        "{row:?}"
    );
    let fine = view.policies.iter().filter(|row| row.problems.is_empty());
    assert_eq!(fine.count(), 3);
}

#[test]
fn json_uses_the_names_that_programs_rely_on() {
    let json = serde_json::to_value(list(&known(""))).unwrap();
    assert_eq!(json["node"], "n1");
    assert_eq!(json["policies"][0]["tier"], "Admin");
    assert_eq!(json["policies"][0]["localPods"], 3);
    assert_eq!(json["policies"][0]["packets"]["passed"], 0);
    assert_eq!(json["kernelError"], serde_json::Value::Null);
    let place = "shop/cache".parse().unwrap();
    let json = serde_json::to_value(show(&known(""), &place).unwrap()).unwrap();
    assert_eq!(
        json["directions"][0]["policies"][0]["rules"][0]["number"],
        1
    );
    assert_eq!(json["directions"][0]["isolated"], true);
    assert_eq!(json["namedPorts"], serde_json::json!([]));
}

#[test]
fn a_pod_is_shown_with_its_policies_rules_chains_and_counts() {
    check(
        &shown(&known(""), "shop/cache"),
        Wanted(
            r#"
        pod shop/cache on n1
        addresses: 10.0.1.3
        interface: ptlcache

        ingress: isolated: only what a rule allows passes
        TIER           PRIORITY  POLICY               RULE  ACTION  PACKETS  WHOM: WHAT
        NetworkPolicy  -         shop/cache-from-web  1     Allow   2        pods app=web of its namespace: tcp 6379 or tcp 7000-7010
        NetworkPolicy  -         shop/cache-from-web  2     Allow   2        192.0.2.0/24 but 192.0.2.66/32: everything

        chain: PTL-EI-… → PTL-GI-…, PTL-GI-…
        packets of this pod that were judged: 4
        packets that isolation dropped, of all pods with these policies: 12

        egress: not isolated: what no rule denies passes
        TIER   PRIORITY  POLICY       RULE        ACTION  PACKETS  WHOM: WHAT
        Admin  10        no-metadata  1 (nobody)  Deny    1        169.254.169.254/32: everything

        chain: PTL-EO-… → PTL-GO-…, PTL-GO-…
        packets of this pod that were judged: 4
    "#,
        ),
    );
}

#[test]
fn a_pod_is_shown_by_an_address_of_either_family() {
    let known = known("");
    let text = shown(&known, "fd00:1::2");
    check(
        &text,
        Wanted(
            r#"
            pod shop/web on n1
            addresses: 10.0.1.2, fd00:1::2
            named ports: http (8080/tcp)
            interface: ptlweb

            ingress: no policy is about it: everything passes
            chain: PTL-EI-…

            egress: isolated: only what a rule allows passes
            TIER           PRIORITY  POLICY           RULE        ACTION  PACKETS  WHOM: WHAT
            Admin          10        no-metadata      1 (nobody)  Deny    1        169.254.169.254/32: everything
            NetworkPolicy  -         shop/web-egress  1           Allow   2        pods * of its namespace: everything

            chain: PTL-EO-… → PTL-GO-…, PTL-GO-…
            packets of this pod that were judged: 4
            packets that isolation dropped, of all pods with these policies: 18
        "#,
        ),
    );
    assert_eq!(text, shown(&known, "shop/web"));
}

#[test]
fn a_pod_of_another_node_is_shown_without_chains() {
    check(
        &shown(&known(""), "shop/db"),
        Wanted(
            r#"
        pod shop/db on n2
        addresses: 10.0.2.2
        not attached to n1: ask the agent of its own node for chains and counters

        ingress: no policy is about it: everything passes

        egress: not isolated: what no rule denies passes
        TIER   PRIORITY  POLICY       RULE        ACTION  PACKETS  WHOM: WHAT
        Admin  10        no-metadata  1 (nobody)  Deny    1        169.254.169.254/32: everything

    "#,
        ),
    );
}

#[test]
fn an_unknown_pod_is_answered_with_those_like_it() {
    let known = known("");
    for (asked, wanted) in [
        ("shop/wev", "there is no pod shop/wev; there is shop/web"),
        ("team/web", "there is no pod team/web; there is shop/web"),
        (
            "shop/cach",
            "there is no pod shop/cach; there is shop/cache",
        ),
        (
            "shop/zzzzzz",
            "there is no pod shop/zzzzzz, nor one with a name like it",
        ),
        ("10.9.9.9", "no pod has the address 10.9.9.9"),
    ] {
        assert_eq!(shown(&known, asked), wanted);
    }
}

#[test]
fn where_the_kernel_cannot_be_read_all_else_is_told() {
    let mut known = known("");
    known.held = Err("iptables-nft-save failed".to_owned());
    let text = table::list(&list(&known));
    assert!(
        text.contains("there are no counters: iptables-nft-save failed"),
        "{text}"
    );
    assert!(text.contains("shop/cache-from-web"), "{text}");
}
