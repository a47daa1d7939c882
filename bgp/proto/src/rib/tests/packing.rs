//! UPDATEs are packed: as few messages as the prefixes need, and nothing is said twice.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use ipnet::{IpNet, Ipv4Net};

use super::fixtures::{
    ALL, adj_rib_out, announce, attributes, context, external_peer, from, internal_peer, learn,
    net, originate, own, policy, refresh, rib_config, seen_by_peer, sent, transit, up, withdraw,
};
use crate::rib::Rib;
use crate::wire::{Decoder, Family, Message, Nlri, PathAttributes, RefreshKind, Update};

fn updates(bytes: Bytes) -> Vec<Update> {
    let mut decoder = Decoder::default();
    decoder.push(&bytes);
    let context = seen_by_peer(&context());
    let mut found = vec![];
    while let Some(message) = decoder.next(&context).unwrap() {
        match message {
            Message::Update(update) => found.push(update),
            other => panic!("{other:?}"),
        }
    }
    found
}

fn many(count: u32) -> BTreeSet<IpNet> {
    (0..count)
        .map(|n| {
            Ipv4Net::new((0x0a00_0000 + (n << 8)).into(), 24)
                .unwrap()
                .into()
        })
        .collect()
}

#[test]
fn ten_thousand_prefixes_with_the_same_attributes_take_the_fewest_messages() {
    let mut rib = Rib::new(rib_config(), 1);
    let peer = up(&mut rib, policy(), external_peer(1));
    let prefixes = many(10_000);
    rib.set_originated(&own(prefixes.clone()));
    let sent = sent(&mut rib, peer);
    // 4096 bytes less header, two lengths and 20 bytes of attributes (ORIGIN 4, AS_PATH 9, NEXT_HOP 7), 4 a prefix.
    let in_one = (4096 - 19 - 2 - 2 - 20) / 4;
    let announcing = sent
        .iter()
        .filter(|update| !update.announced.is_empty())
        .count();
    assert_eq!(announcing, 10_000usize.div_ceil(in_one));
    let told: BTreeSet<IpNet> = sent
        .iter()
        .flat_map(|update| update.announced.iter().map(|nlri| nlri.prefix))
        .collect();
    assert_eq!(told, prefixes);
    assert_eq!(sent.last().unwrap().end_of_rib, Some(Family::IPV4_UNICAST));
    assert_eq!(rib.poll_transmit(peer, ALL), None);
}

#[test]
fn a_budget_bounds_what_is_taken_at_once_and_end_of_rib_comes_last() {
    let mut rib = Rib::new(rib_config(), 1);
    let peer = up(&mut rib, policy(), external_peer(1));
    rib.set_originated(&own(many(10_000)));
    let (mut parts, mut told) = (0, 0);
    let mut last = None;
    while let Some(bytes) = rib.poll_transmit(peer, 8_192) {
        assert!(bytes.len() < 2 * 8_192, "{}", bytes.len());
        assert_eq!(last, None, "nothing comes after End-of-RIB");
        for update in updates(bytes) {
            told += update.announced.len();
            last = update.end_of_rib;
        }
        parts += 1;
    }
    assert_eq!(told, 10_000);
    assert!(parts > 3, "{parts}");
    assert_eq!(last, Some(Family::IPV4_UNICAST));
}

#[test]
fn a_budget_holds_also_when_what_comes_is_much_longer_than_what_was() {
    let mut rib = Rib::new(rib_config(), 1);
    let feed = up(&mut rib, policy(), external_peer(1));
    let peer = up(&mut rib, transit(), external_peer(2));
    let prefixes: Vec<String> = many(3_000).iter().map(ToString::to_string).collect();
    for (number, prefix) in (1..).zip(&prefixes) {
        let path = attributes(&[65_001, number, 7, 8, 9]);
        rib.handle_update(feed, &announce(&[prefix], path)).unwrap();
    }
    sent(&mut rib, peer);
    // Withdrawals take four octets each, so a guess from them would be far off.
    for prefix in prefixes.iter().take(1_000) {
        rib.handle_update(feed, &withdraw(&[prefix])).unwrap();
    }
    sent(&mut rib, peer);
    rib.handle_route_refresh(peer, refresh(RefreshKind::Request));
    let mut told = 0;
    while let Some(bytes) = rib.poll_transmit(peer, 8_192) {
        assert!(bytes.len() < 2 * 8_192, "{}", bytes.len());
        told += updates(bytes)
            .iter()
            .map(|update| update.announced.len())
            .sum::<usize>();
    }
    assert_eq!(told, 2_000);
}

#[test]
fn ten_thousand_withdrawals_are_packed_too() {
    let mut rib = Rib::new(rib_config(), 1);
    let peer = up(&mut rib, policy(), external_peer(1));
    rib.set_originated(&own(many(10_000)));
    sent(&mut rib, peer);
    originate(&mut rib, &[]);
    let sent = sent(&mut rib, peer);
    assert_eq!(sent.len(), 10_000usize.div_ceil((4096 - 19 - 2 - 2) / 4));
    assert_eq!(rib.counts(peer).sent, 0);
}

#[test]
fn what_changes_and_changes_back_before_it_is_sent_is_not_sent() {
    let mut rib = Rib::new(rib_config(), 1);
    let peer = up(&mut rib, policy(), external_peer(1));
    sent(&mut rib, peer);
    originate(&mut rib, &["10.1.0.0/24"]);
    rib.poll_best_changes(ALL);
    originate(&mut rib, &[]);
    assert_eq!(sent(&mut rib, peer), []);
}

#[test]
fn a_change_of_the_next_hop_alone_is_announced() {
    // To an internal peer the next hop of an external path goes unchanged.
    let mut rib = Rib::new(rib_config(), 1);
    let feed = up(&mut rib, policy(), external_peer(1));
    let peer = up(&mut rib, transit(), internal_peer(2));
    for hop in [7, 8] {
        let update = announce(&["10.1.0.0/24"], from([10, 0, 0, hop], &[65_001]));
        rib.handle_update(feed, &update).unwrap();
        let sent = sent(&mut rib, peer);
        let attributes = sent[0].attributes.as_ref().unwrap();
        assert_eq!(attributes.next_hop, std::net::IpAddr::from([10, 0, 0, hop]));
        let changes = rib.poll_best_changes(ALL);
        assert_eq!(changes[0].next_hops[..], [super::fixtures::hop(hop)]);
    }
}

#[test]
fn a_refresh_sends_all_again_and_a_withdrawal_meanwhile_is_not_lost() {
    let mut rib = Rib::new(rib_config(), 1);
    let peer = up(&mut rib, policy(), external_peer(1));
    originate(&mut rib, &["10.1.0.0/24", "10.2.0.0/24"]);
    sent(&mut rib, peer);
    rib.handle_route_refresh(peer, refresh(RefreshKind::Request));
    originate(&mut rib, &["10.2.0.0/24"]);
    let sent = sent(&mut rib, peer);
    assert_eq!(sent[0].withdrawn, [net("10.1.0.0/24").into()]);
    assert_eq!(sent[1].announced, [net("10.2.0.0/24").into()]);
}

#[test]
fn what_was_sent_adds_up_to_the_adj_rib_out() {
    let mut rib = Rib::new(rib_config(), 1);
    let feed = up(&mut rib, policy(), external_peer(1));
    let peer = up(&mut rib, transit(), external_peer(2));
    let mut told: BTreeMap<Nlri, PathAttributes> = BTreeMap::new();
    for step in 0..60u32 {
        let prefix = format!("10.{}.0.0/16", step % 7);
        let update = if step % 5 == 3 {
            withdraw(&[&prefix])
        } else {
            announce(&[&prefix], attributes(&[65_001, step % 3 + 1]))
        };
        rib.handle_update(feed, &update).unwrap();
        if step % 4 != 0 {
            continue;
        }
        learn(&mut told, sent(&mut rib, peer));
        assert_eq!(told, adj_rib_out(&mut rib, peer));
    }
}
