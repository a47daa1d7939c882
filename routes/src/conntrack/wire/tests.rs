//! Entries out and in again, and bodies that no kernel would write.

use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::*;
use crate::batch::{half, word};

fn address(is_ipv6: bool) -> impl Strategy<Value = IpAddr> {
    any::<u128>().prop_map(move |bits| {
        if is_ipv6 {
            IpAddr::from(Ipv6Addr::from(bits))
        } else {
            IpAddr::from(Ipv4Addr::from(u32::try_from(bits >> 96).unwrap()))
        }
    })
}

fn some_ports(protocol: u8) -> BoxedStrategy<Ports> {
    match protocol {
        1 | 58 => any::<(u16, u8, u8)>()
            .prop_map(|(id, kind, code)| Ports::Icmp { id, kind, code })
            .boxed(),
        6 | 17 | 132 => any::<(u16, u16)>()
            .prop_map(|(source, destination)| Ports::Ports {
                source,
                destination,
            })
            .boxed(),
        _ => Just(Ports::None).boxed(),
    }
}

fn some_tuple(is_ipv6: bool, protocol: u8) -> impl Strategy<Value = Tuple> {
    let addresses = (address(is_ipv6), address(is_ipv6));
    (addresses, some_ports(protocol), any::<Option<u16>>()).prop_map(
        |((source, destination), ports, zone)| Tuple {
            source,
            destination,
            ports,
            zone,
        },
    )
}

fn entry() -> impl Strategy<Value = ConntrackEntry> {
    let kinds = (
        any::<bool>(),
        prop::sample::select(vec![1_u8, 6, 17, 47, 58, 132, 255]),
    );
    kinds.prop_flat_map(|(is_ipv6, protocol)| {
        let tuples = (some_tuple(is_ipv6, protocol), some_tuple(is_ipv6, protocol));
        (tuples, any::<(u16, u32, u32, u32, u32, Option<u8>)>()).prop_map(
            move |((original, reply), (zone, mark, id, status, timeout, state))| ConntrackEntry {
                protocol,
                original,
                reply,
                zone,
                mark,
                id,
                tcp_state: state.map(TcpState),
                status: Status(status),
                timeout,
            },
        )
    })
}

fn written(entry: &ConntrackEntry) -> Vec<u8> {
    let mut body = Vec::new();
    entry.write(&mut body);
    body
}

proptest! {
    #[test]
    fn what_is_written_is_read_again(entry in entry()) {
        prop_assert_eq!(ConntrackEntry::read(&written(&entry)), Some(entry));
    }

    #[test]
    fn an_entry_cut_short_anywhere_is_another_entry_or_none_and_no_panic(entry in entry()) {
        let body = written(&entry);
        for length in 0..body.len() {
            let read = ConntrackEntry::read(&body[..length]);
            // Nothing may be deleted by half a tuple: what both tuples are read from is whole.
            if let Some(read) = read {
                prop_assert_eq!((read.original, read.reply), (entry.original, entry.reply));
            }
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(body in prop::collection::vec(any::<u8>(), 0..300)) {
        if let Some(entry) = ConntrackEntry::read(&body) {
            prop_assert_eq!(ConntrackEntry::read(&written(&entry)), Some(entry));
        }
    }

    #[test]
    fn a_deletion_names_tuple_and_id(entry in entry()) {
        let mut batch = Batch::default();
        delete(&mut batch, &entry);
        let bytes = batch.seal(1);
        prop_assert_eq!(half(bytes, 4), Some(DELETE));
        prop_assert_eq!(word(bytes, 0), u32::try_from(bytes.len()).ok());
        let parts: Vec<_> = Attributes(&bytes[16 + NFGENMSG..]).collect();
        prop_assert_eq!(parts[0].0, CTA_TUPLE_ORIG);
        prop_assert_eq!(read_tuple(parts[0].1), Some((entry.protocol, entry.original)));
        prop_assert_eq!((parts[1].0, be32(parts[1].1)), (CTA_ID, Some(entry.id)));
    }
}

#[test]
fn an_entry_as_the_kernel_tells_it_is_read() {
    // `curl` from 10.0.0.1 to a Service at 10.96.0.1:80, whose pod is 10.0.0.2:8080; as `conntrack -L` has it:
    // tcp 6 431999 ESTABLISHED src=10.0.0.1 dst=10.96.0.1 sport=40000 dport=80 src=10.0.0.2 dst=10.0.0.1 sport=8080 dport=40000
    let mut body = bytes("02000000 34000180 14000180 080001000a000001 080002000a600001");
    body.extend(bytes(
        "1c000280 0500010006000000 060002009c400000 0600030000500000",
    ));
    body.extend(bytes(
        "34000280 14000180 080001000a000002 080002000a000001 1c000280 0500010006000000 060002001f900000 060003009c400000",
    ));
    body.extend(bytes("08000300000001ae 080007000006977f"));
    body.extend(bytes("30000480 2c000180 0500010003000000 0500020007000000 0500030007000000 0600040023230000 0600050023230000"));
    body.extend(bytes("08000c00deadbeef 0800080000000000 08000b0000000002"));
    let ports = |source, destination| Ports::Ports {
        source,
        destination,
    };
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    let expected = ConntrackEntry {
        protocol: 6,
        original: Tuple {
            source: ip("10.0.0.1"),
            destination: ip("10.96.0.1"),
            ports: ports(40000, 80),
            zone: None,
        },
        reply: Tuple {
            source: ip("10.0.0.2"),
            destination: ip("10.0.0.1"),
            ports: ports(8080, 40000),
            zone: None,
        },
        zone: 0,
        mark: 0,
        id: 0xdead_beef,
        tcp_state: Some(TcpState::ESTABLISHED),
        status: Status(0x1ae),
        timeout: 431_999,
    };
    assert!(expected.status.is_answered() && expected.status.is_destination_changed());
    assert!(!expected.status.is_source_changed());
    assert_eq!(ConntrackEntry::read(&body), Some(expected));
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex
        .chars()
        .filter_map(|c| c.to_digit(16))
        .map(|digit| u8::try_from(digit).unwrap())
        .collect();
    digits
        .chunks(2)
        .map(|pair| pair[0] * 16 + pair[1])
        .collect()
}
