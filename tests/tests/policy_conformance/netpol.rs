//! Kubernetes' e2e netpol suite: its 48 data-plane cases, through each pod's Service, on one node and on two.

use tests::require_root;

use crate::kernel::BackEnd;
use crate::matrix::{Table, cast, play};
use crate::stage::{ONE_NODE, Placement, Stage, TWO_NODES, doubles};

/// As many as the suite of Kubernetes 1.34 has: 42 over TCP, 3 over UDP, 3 over SCTP.
const CASES: usize = 48;
/// The steps of all cases.
const STEPS: u64 = 58;
/// Of a step: every pair of nine pods, two ports, three protocols, two families.
const PROBES_EACH: u64 = 81 * 2 * 3 * 2;

fn all_cases(tag: &str, processor: usize, back_end: BackEnd, placements: &[Placement]) {
    let table: Table = serde_saphyr::from_str(include_str!("netpol.yaml")).unwrap();
    let titles = || table.cases.iter().map(|case| case.title.as_str());
    assert_eq!(table.cases.len(), CASES);
    assert!(doubles(titles()).is_empty());
    for (protocol, count) in [("UDP, ", 3), ("SCTP, ", 3)] {
        let those = titles().filter(|title| title.starts_with(protocol));
        assert_eq!(those.count(), count, "{protocol}");
    }
    let mut stage = Stage::new(tag, processor, back_end, cast(), placements).unwrap();
    let probes = play(&mut stage, &table.cases).unwrap();
    eprintln!(
        "netpol on {} node(s), {}: {CASES} cases, {probes} probes",
        placements.len(),
        back_end.name()
    );
    assert_eq!(probes, STEPS * PROBES_EACH);
    assert!(stage.packets_sent() >= probes, "a probe is a packet");
    stage.check_silence().unwrap();
}

#[test]
fn the_48_cases_of_kubernetes_netpol_hold_where_all_pods_are_on_one_node() {
    require_root!();
    all_cases("np1", 0, BackEnd::Nft, ONE_NODE);
}

#[test]
fn the_48_cases_of_kubernetes_netpol_hold_where_the_pods_are_on_two_nodes() {
    require_root!();
    all_cases("np2", 1, BackEnd::Legacy, TWO_NODES);
}
