//! Medians, ratios and bars.

use super::*;

fn sample(seconds: f64, memory_kib: u64) -> Sample {
    Sample {
        seconds,
        memory_kib,
        processor_seconds: seconds,
        foreign: 0.01,
        routes: 1_000,
    }
}

fn record(row: Row, of: &[(Daemon, &[Sample])]) -> Record {
    Record {
        row,
        machine: Machine {
            processor: "2 × abacus".to_owned(),
            memory_gib: 1,
            kernel: "6".to_owned(),
            date: "2026-01-01".to_owned(),
        },
        scale: 1.0,
        versions: BTreeMap::new(),
        samples: of
            .iter()
            .map(|(daemon, all)| (*daemon, all.to_vec()))
            .collect(),
        absent: BTreeMap::from([(Daemon::Gobgp, "gone\nsecond line".to_owned())]),
    }
}

#[test]
fn a_missed_bar_says_by_how_much_and_a_met_one_that_it_is() {
    let own = [sample(9.0, 50), sample(0.6, 70), sample(0.1, 90)];
    let of = [
        (Daemon::Portolan, own.as_slice()),
        (Daemon::Bird, &[sample(1.0, 100)]),
    ];
    let record = record(Row::Feed, &of);
    let bars = record.bars();
    assert_eq!(bars.len(), 2);
    assert!(!bars[0].is_met() && bars[1].is_met(), "{bars:?}");
    let table = record.table();
    assert!(
        table.contains("0.600, at most 0.500: MISSED by 20 %"),
        "{table}"
    );
    assert!(table.contains("0.700, at most 0.700: met"), "{table}");
    assert!(table.contains("| GoBGP | – gone |\n"), "{table}");
}

#[test]
fn the_mesh_is_held_against_the_better_of_two() {
    let of = [
        (Daemon::Portolan, &[sample(1.0, 1)][..]),
        (Daemon::Bird, &[sample(4.0, 1)]),
        (Daemon::Frr, &[sample(2.5, 1)]),
    ];
    let bars = record(Row::Mesh, &of).bars();
    assert_eq!(bars[0].got, 0.4);
}

#[test]
fn without_a_number_of_ours_there_is_no_bar() {
    let of = [(Daemon::Bird, &[sample(4.0, 1)][..])];
    assert_eq!(record(Row::Mesh, &of).bars(), []);
}
