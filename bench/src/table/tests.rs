//! What the load is made of.

use std::collections::BTreeMap;

use super::*;

fn announcer(asn: u32, distance: Distance) -> Announcer {
    Announcer {
        asn,
        next_hop: Ipv4Addr::new(10, 99, 0, 10),
        distance,
    }
}

#[test]
fn the_same_seed_gives_the_same_octets_and_another_does_not() {
    let bytes = |seed| Table::draw(seed, 2_000).announce(&announcer(65_001, Distance::Any));
    assert_eq!(bytes(1), bytes(1));
    assert_ne!(bytes(1), bytes(2));
}

#[test]
fn a_million_prefixes_are_different_and_seventeen_megabytes_of_wire() {
    let table = Table::draw(1, 1_000_000);
    assert_eq!(table.len(), 1_000_000);
    let mut set = PrefixSet::default();
    assert_eq!(
        table.prefixes().filter(|p| set.insert(*p)).count(),
        1_000_000
    );
    assert!(table.prefixes().all(|p| (16..=24).contains(&p.length())));
    assert!(
        (140_000..200_000).contains(&table.groups()),
        "{}",
        table.groups()
    );
    let wire = table.announce(&announcer(65_001, Distance::Any)).len();
    assert!((15_000_000..19_000_000).contains(&wire), "{wire}");
}

#[test]
fn a_split_table_has_equal_parts_and_loses_nothing() {
    let table = Table::draw(3, 10_000);
    let all: PrefixSet = table.prefixes().collect();
    let parts = table.split(20);
    assert_eq!(parts.len(), 20);
    assert!(parts.iter().all(|part| part.len() == 500));
    assert!(
        parts
            .iter()
            .flat_map(Table::prefixes)
            .all(|p| all.contains(p))
    );
}

#[test]
fn each_prefix_of_a_contest_has_one_winner() {
    let table = Table::draw(4, 10_000);
    let mut winners: BTreeMap<Prefix, u32> = BTreeMap::new();
    for winner in 0..10 {
        for prefix in table.won_by(winner, 10) {
            assert_eq!(winners.insert(prefix, winner), None);
        }
    }
    assert_eq!(winners.len(), 10_000);
}
