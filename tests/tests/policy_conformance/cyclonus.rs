//! Cyclonus' cases beyond Kubernetes' own: conflicts, and every one and two of twelve ports and six endPort ranges.

use anyhow::Result;
use serde_json::{Value, json};
use tests::require_root;

use crate::kernel::BackEnd;
use crate::matrix::{PORTS, TRANSPORTS, Table, cast, compare, play};
use crate::stage::{ONE_NODE, Question, Stage};

/// Sixteen conflicts, and six of peers, rules and named ports.
const CASES: usize = 22;
/// One port: 18. Two of twelve: 66. Of each, ingress and egress.
const PORT_CASES: usize = 2 * (18 + 66);
const PROBES_EACH: u64 = 81 * 2 * 3 * 2;

/// A port of a rule, and the ports of 80 and 81 over TCP, UDP and SCTP that it opens: a letter each, lower case for 80.
/// The first twelve are each of four protocols with each of three ports.
const OPENED: [(&str, &str); 18] = [
    ("{}", "tT"),
    ("{port: 81}", "T"),
    ("{port: serve-81-tcp}", "T"),
    ("{protocol: TCP}", "tT"),
    ("{protocol: TCP, port: 81}", "T"),
    ("{protocol: TCP, port: serve-81-tcp}", "T"),
    ("{protocol: UDP}", "uU"),
    ("{protocol: UDP, port: 81}", "U"),
    ("{protocol: UDP, port: serve-81-tcp}", ""),
    ("{protocol: SCTP}", "sS"),
    ("{protocol: SCTP, port: 81}", "S"),
    ("{protocol: SCTP, port: serve-81-tcp}", ""),
    ("{protocol: TCP, port: 80, endPort: 81}", "tT"),
    ("{protocol: UDP, port: 79, endPort: 80}", "u"),
    ("{protocol: SCTP, port: 81, endPort: 65535}", "S"),
    ("{port: 1, endPort: 65535}", "tT"),
    ("{protocol: SCTP, port: 80, endPort: 80}", "s"),
    ("{port: 82, endPort: 90}", ""),
];

/// The lists of ports that are tried, as indices of [`OPENED`].
fn lists() -> Vec<Vec<usize>> {
    let one = (0..OPENED.len()).map(|first| vec![first]);
    let two = (0..12).flat_map(|first| (first + 1..12).map(move |second| vec![first, second]));
    one.chain(two).collect()
}

fn is_opened(list: &[usize], port: u16, protocol: &str) -> bool {
    let letter = protocol[..1].to_owned();
    let letter = if port == 80 {
        letter.to_lowercase()
    } else {
        letter
    };
    list.iter()
        .any(|number| OPENED[*number].1.contains(&letter))
}

/// Nine lists at once, each the ports of a policy for a pod of its own.
fn one_after_the_other(stage: &mut Stage, lists: &[Vec<usize>], is_ingress: bool) -> Result<u64> {
    let cast = cast();
    let (kind, direction) = if is_ingress {
        ("Ingress", "ingress")
    } else {
        ("Egress", "egress")
    };
    let (mut questions, mut table) = (Vec::new(), Vec::new());
    for (subject, list) in lists.iter().enumerate() {
        let (namespace, name) = cast.actors[subject].name.split_once('/').unwrap();
        let ports: Vec<Value> = list
            .iter()
            .map(|number| serde_saphyr::from_str(OPENED[*number].0))
            .collect::<Result<_, _>>()?;
        let mut spec =
            json!({"podSelector": {"matchLabels": {"pod": name}}, "policyTypes": [kind]});
        spec[direction] = json!([{"ports": ports}]);
        stage.set(&json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"namespace": namespace, "name": format!("of-{name}")}, "spec": spec,
        }))?;
        for peer in (0..cast.actors.len()).filter(|peer| *peer != subject) {
            for port in PORTS {
                for (protocol, transport) in TRANSPORTS {
                    let (from, to) = if is_ingress {
                        (peer, subject)
                    } else {
                        (subject, peer)
                    };
                    table.push(is_opened(list, port, protocol));
                    questions.push(Question {
                        from,
                        to,
                        transport,
                        port,
                        by_service: false,
                    });
                }
            }
        }
    }
    compare(stage, &cast, &questions, &table)
}

#[test]
fn conflicts_and_peers_and_named_ports_of_cyclonus_hold() {
    require_root!();
    let table: Table = serde_saphyr::from_str(include_str!("cyclonus.yaml")).unwrap();
    let mut stage = Stage::new("cy1", 0, BackEnd::Nft, cast(), ONE_NODE).unwrap();
    let probes = play(&mut stage, &table.cases).unwrap();
    eprintln!("cyclonus: {} cases, {probes} probes", table.cases.len());
    assert_eq!(table.cases.len(), CASES);
    let conflicts = table.cases.iter().map(|case| case.title.as_str());
    let conflicts = conflicts.filter(|title| title.starts_with("conflict "));
    assert_eq!(conflicts.count(), 16);
    assert_eq!(probes, PROBES_EACH * 22);
}

#[test]
fn every_one_and_two_of_cyclonus_ports_and_end_port_ranges_open_what_they_say() {
    require_root!();
    let mut stage = Stage::new("cy2", 1, BackEnd::Legacy, cast(), ONE_NODE).unwrap();
    let (mut cases, mut probes) = (0, 0);
    for is_ingress in [true, false] {
        for some in lists().chunks(9) {
            stage.reset().unwrap();
            cases += some.len();
            probes += one_after_the_other(&mut stage, some, is_ingress)
                .unwrap_or_else(|error| panic!("ports {some:?}: {error:#}"));
        }
    }
    eprintln!("cyclonus' ports: {cases} cases, {probes} probes");
    assert_eq!(cases, PORT_CASES);
    // Of each case: eight others, six ports, two families.
    assert_eq!(probes, u64::try_from(PORT_CASES).unwrap() * 8 * 6 * 2);
}
