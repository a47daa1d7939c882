//! `try`: what a manifest would change, told and not done.

use ::policy::{Entry, Tuple};

use super::super::table;
use super::super::trial::try_manifest;
use super::{Wanted, ip, known};

const CLOSED: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: team, name: tester}
spec:
  podSelector: {}
  policyTypes: [Ingress]
  ingress: [{from: [{ipBlock: {cidr: 192.0.2.0/24}}], ports: [{port: 80}]}]
";

fn flow(source: &str, destination: &str, port: u16) -> Entry {
    let original = Tuple {
        source: ip(source),
        destination: ip(destination),
        source_port: 40_000,
        destination_port: port,
    };
    Entry {
        protocol: 6,
        original,
        reply: Tuple {
            source: original.destination,
            destination: original.source,
            source_port: port,
            destination_port: 40_000,
        },
    }
}

#[test]
fn what_a_manifest_would_change_is_told() {
    let flows = vec![
        flow("192.0.2.7", "10.0.1.9", 80),
        flow("192.0.2.7", "10.0.1.9", 443),
        flow("fd00:1::2", "fd00:1::9", 443),
        flow("10.0.1.2", "10.0.1.3", 6379),
    ];
    let view = try_manifest(&known(""), Ok(flows), ("new.yaml", CLOSED), false).unwrap();
    Wanted(
        r#"
        NetworkPolicy team/tester: new

        POD          DIRECTION  WOULD BE
        team/tester  ingress    isolated

        no new connection between pods would be judged otherwise
        OPEN FLOW  FROM             TO                        WOULD BE
        tcp        192.0.2.7:40000  team/tester 10.0.1.9:443  cut

        nothing was changed
    "#,
    )
    .assert_eq(&table::trial(&view));
}

#[test]
fn what_a_removal_would_change_is_told() {
    let gone = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: cache-from-web}
spec: {podSelector: {}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: never-was}
spec: {podSelector: {}}
";
    let view = try_manifest(&known(""), Ok(Vec::new()), ("old.yaml", gone), true).unwrap();
    Wanted(r#"
        NetworkPolicy shop/cache-from-web: removed
        NetworkPolicy shop/never-was: absent

        POD         DIRECTION  WOULD BE
        shop/cache  ingress    free

        FROM         TO          WOULD BE  WHAT                                                                   FAMILY
        shop/db      shop/cache  allowed   everything                                                             both
        shop/web     shop/cache  allowed   tcp 0-6378, tcp 6380-6999, tcp 7011-65535, udp, sctp, other protocols  both
        team/tester  shop/cache  allowed   everything                                                             both

        none of the 0 open flows of n1 would be cut or newly allowed
        nothing was changed
    "#).assert_eq(&table::trial(&view));
}

#[test]
fn what_is_wrong_with_a_manifest_is_told_with_its_line() {
    let said = |text: &str| try_manifest(&known(""), Ok(Vec::new()), ("a.yaml", text), false);
    let error = said("# nothing\n---\nkind: [NetworkPolicy\n").unwrap_err();
    assert!(error.starts_with("a.yaml:"), "{error}");
    let misspelt = CLOSED.replace("podSelector: {}", "podSelektor: {}");
    let error = said(&misspelt).unwrap_err();
    assert!(
        error.contains("NetworkPolicy team/tester") && error.contains("podSelektor"),
        "{error}"
    );
    assert_eq!(said("# nothing\n").unwrap_err(), "a.yaml holds no object");
}

#[test]
fn what_could_not_be_enforced_as_written_is_told() {
    let text = CLOSED.replace("port: 80", "port: 80, protocol: DCCP");
    let view = try_manifest(&known(""), Ok(Vec::new()), ("a.yaml", &text), false).unwrap();
    assert!(view.problems[0].contains("DCCP"), "{view:?}");
    assert_eq!(view.objects[0].change, "new");
}

#[test]
fn json_uses_the_names_that_programs_rely_on() {
    let flows = vec![flow("10.0.1.2", "10.0.1.9", 443)];
    let view = try_manifest(&known(""), Ok(flows), ("a.yaml", CLOSED), false).unwrap();
    let json = serde_json::to_value(view).unwrap();
    assert_eq!(json["flowsSeen"], 1);
    assert_eq!(json["objects"][0]["change"], "new");
    assert_eq!(json["isolation"][0]["isolated"], true);
}
