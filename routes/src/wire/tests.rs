//! What is written reads back the same, and a netlink library understands it.

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::{RouteAttribute, RouteProtocol};

use super::*;
use crate::conn::{Split, parse};

fn gateways(list: &[(&str, Option<u32>, u8)]) -> Shape {
    let gateway = |(ip, link, weight): &(&str, Option<u32>, u8)| Gateway {
        address: ip.parse().unwrap(),
        link: *link,
        weight: NonZeroU8::new(*weight).unwrap(),
    };
    Shape::Gateways(list.iter().map(gateway).collect())
}

fn cases() -> Vec<(IpNet, Shape)> {
    let two = [("192.0.2.1", Some(3), 1), ("192.0.2.2", Some(4), 255)];
    let mixed = [("192.0.2.1", Some(3), 2), ("fe80::1", Some(4), 1)];
    let v6 = [("2001:db8::1", None, 1), ("2001:db8::2", None, 7)];
    let all = [
        ("10.1.0.0/16", gateways(&[("192.0.2.1", None, 1)])),
        ("10.1.0.0/16", gateways(&two)),
        ("10.1.0.0/16", gateways(&mixed)),
        ("10.1.0.0/16", gateways(&[("fe80::1", Some(7), 1)])),
        ("2001:db8:1::/48", gateways(&v6)),
        ("2001:db8:1::/48", gateways(&[("fe80::1", Some(7), 1)])),
        ("10.1.0.0/26", Shape::Onlink([192, 0, 2, 1].into(), 7)),
        ("10.1.0.4/32", Shape::Device(7)),
        ("2001:db8:1::4/128", Shape::Device(7)),
        ("10.1.0.0/24", Shape::Blackhole),
        ("2001:db8:1::/48", Shape::Blackhole),
        ("0.0.0.0/0", gateways(&[("192.0.2.1", None, 1)])),
        ("10.1.0.0/16", Shape::Group(0x0b30_0001)),
        ("2001:db8:1::/48", Shape::Group(0x0b30_0001)),
    ];
    let parsed = |(prefix, shape): (&str, Shape)| (prefix.parse().unwrap(), shape);
    all.into_iter().map(parsed).collect()
}

#[test]
fn a_route_reads_back_as_it_was_written() {
    for (prefix, shape) in cases() {
        let mut batch = Batch::default();
        install(&mut batch, prefix, &Encoded::new(&shape), true);
        let bytes = batch.seal(1).to_vec();
        let (_, payload) = Split::new(&bytes).next().unwrap();
        let dumped = read(payload).unwrap();
        assert_eq!((dumped.prefix, &dumped.shape), (prefix, &shape));
        assert!(dumped.is_ours() && dumped.shape.satisfies(&shape));
    }
}

#[test]
fn the_library_reads_what_is_written_by_hand() {
    for (prefix, shape) in cases() {
        let mut batch = Batch::default();
        install(&mut batch, prefix, &Encoded::new(&shape), false);
        remove(&mut batch, prefix);
        let bytes = batch.seal(1).to_vec();
        for (header, payload) in Split::new(&bytes) {
            let (RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route)) =
                parse(&header, payload).unwrap()
            else {
                panic!("no route");
            };
            assert_eq!(route.header.table, TABLE_MAIN);
            assert_eq!(route.header.protocol, RouteProtocol::Other(PROTOCOL));
            assert_eq!(route.header.destination_prefix_length, prefix.prefix_len());
            assert!(route.attributes.contains(&RouteAttribute::Priority(METRIC)));
            let destination = RouteAttribute::Destination(prefix.addr().into());
            assert!(route.attributes.contains(&destination));
        }
    }
}

#[test]
fn next_hop_objects_read_back_as_they_were_written() {
    let weight = |n| NonZeroU8::new(n).unwrap();
    let mut batch = Batch::default();
    install_single(&mut batch, 1, "fe80::1".parse().unwrap(), 9);
    install_single(&mut batch, 2, "192.0.2.1".parse().unwrap(), 8);
    install_group(&mut batch, 3, &[(1, weight(255)), (2, weight(1))], true);
    let bytes = batch.seal(1).to_vec();
    let read: Vec<_> = Split::new(&bytes)
        .map(|(_, payload)| read_nexthop(payload).unwrap())
        .collect();
    let expected = [
        Nexthop::Single("fe80::1".parse().unwrap(), 9),
        Nexthop::Single("192.0.2.1".parse().unwrap(), 8),
        Nexthop::Group(vec![(1, weight(255)), (2, weight(1))]),
    ];
    for ((n, object), to) in (1..).zip(read).zip(expected) {
        assert_eq!((object.id, object.protocol, object.to), (n, PROTOCOL, to));
    }
}

#[test]
fn a_message_cut_anywhere_is_read_without_a_panic() {
    for (prefix, shape) in cases() {
        let mut batch = Batch::default();
        install(&mut batch, prefix, &Encoded::new(&shape), true);
        let bytes = batch.seal(1).to_vec();
        for end in 16..bytes.len() {
            let _ = read(bytes.get(16..end).unwrap());
            let _ = read_nexthop(bytes.get(16..end).unwrap());
        }
    }
}
