//! Probes read back as what they are: plain, in tunnels, quoted by errors, and answered.

use super::*;

fn tuple(transport: Transport, v6: bool) -> Tuple {
    let of = |v4: &str, or: &str| if v6 { or } else { v4 }.parse().unwrap();
    Tuple {
        transport,
        from: of("10.244.1.1", "fd00:244:1::1"),
        to: of("10.244.2.1", "fd00:244:2::1"),
        from_port: 40_000,
        to_port: 8080,
        mark: 0xbeef,
    }
}

fn all() -> Vec<Tuple> {
    let transports = [Transport::Tcp, Transport::Udp, Transport::Icmp];
    let of = |transport| [false, true].map(|v6| tuple(transport, v6));
    transports.into_iter().flat_map(of).collect()
}

fn probes() -> Vec<Probe> {
    let of = |number: u16, size: usize| Probe {
        number,
        hops: 9,
        size,
    };
    vec![of(0, 0), of(1, 0), of(2, 1400)]
}

/// The way back: TCP answers, the others swap their ends.
fn answer(tuple: &Tuple, packet: &[u8], flags: u8, acknowledged: u32) -> Vec<u8> {
    let ip = if tuple.from.is_ipv4() { 20 } else { 40 };
    let mut back = packet.to_vec();
    let (first, second) = if ip == 20 {
        (12..16, 16..20)
    } else {
        (8..24, 24..40)
    };
    let (from, to) = (
        packet[first.clone()].to_vec(),
        packet[second.clone()].to_vec(),
    );
    back[first].copy_from_slice(&to);
    back[second].copy_from_slice(&from);
    match tuple.transport {
        Transport::Icmp => back[ip] = if ip == 20 { 0 } else { 129 },
        Transport::Tcp | Transport::Udp => {
            back[ip..ip + 2].copy_from_slice(&packet[ip + 2..ip + 4]);
            back[ip + 2..ip + 4].copy_from_slice(&packet[ip..ip + 2]);
        }
    }
    if tuple.transport == Transport::Tcp {
        back[ip + 4..ip + 8].copy_from_slice(&[7; 4]);
        back[ip + 8..ip + 12].copy_from_slice(&acknowledged.to_be_bytes());
        back[ip + 13] = flags;
    }
    back
}

/// An ICMP error of a router that quotes so many octets.
fn error(packet: &[u8], v4: [u8; 2], v6: [u8; 2], word: u32, quoted: usize) -> Vec<u8> {
    let is_v4 = packet[0] >> 4 == 4;
    let [kind, code] = if is_v4 { v4 } else { v6 };
    let mut out = if is_v4 {
        let mut header = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 60, 1, 0, 0];
        header.extend([10, 10, 1, 1]);
        header.extend(&packet[12..16]);
        header
    } else {
        let mut header = vec![0x60, 0, 0, 0, 0, 0, 58, 60];
        header.extend("fd00::1".parse::<Ipv6Addr>().unwrap().octets());
        header.extend(&packet[8..24]);
        header
    };
    out.extend([kind, code, 0, 0]);
    out.extend(word.to_be_bytes());
    out.extend(&packet[..quoted.min(packet.len())]);
    out
}

fn kind(tuple: &Tuple, packet: &[u8]) -> Option<Kind> {
    tuple.read(packet, &probes()).map(|seen| seen.kind)
}

#[test]
fn each_probe_is_known_again_with_its_ends_and_its_checksums_are_right() {
    let mut count = 0;
    for tuple in all() {
        for probe in probes() {
            let packet = tuple.packet(&probe);
            let seen = tuple.read(&packet, &probes()).unwrap();
            assert_eq!(seen.kind, Kind::Probe(probe.number), "{tuple:?}");
            assert_eq!((seen.from, seen.to, seen.hops), (tuple.from, tuple.to, 9));
            assert_eq!(packet.len(), probe.size.max(tuple.least()));
            let ip = if tuple.from.is_ipv4() { 20 } else { 40 };
            if ip == 20 {
                assert_eq!(checksum(&packet[..20]), 0);
            }
            let payload = packet[ip..].to_vec();
            let whole = match (tuple.transport, tuple.from) {
                (Transport::Icmp, IpAddr::V4(_)) => payload,
                _ => [tuple.pseudo_header(payload.len()), payload].concat(),
            };
            assert_eq!(checksum(&whole), 0, "{tuple:?}");
            count += 1;
        }
    }
    assert_eq!(count, 18);
}

#[test]
fn answers_say_which_probe_they_are_for_and_a_reset_of_a_long_one_counts_its_data() {
    let tcp = tuple(Transport::Tcp, false);
    let [_, second, large] = probes()[..] else {
        unreachable!("there are three")
    };
    let reply = |probe: &Probe, flags, more| {
        let word = tcp.word(probe) + more;
        kind(&tcp, &answer(&tcp, &tcp.packet(probe), flags, word))
    };
    assert_eq!(reply(&second, SYN | ACK, 1), Some(Kind::Accepted(1)));
    assert_eq!(reply(&second, RST | ACK, 1), Some(Kind::Refused(1)));
    assert_eq!(reply(&large, RST | ACK, 1 + 1360), Some(Kind::Refused(2)));
    assert_eq!(reply(&large, SYN | ACK, 1), Some(Kind::Accepted(2)));
    assert_eq!(reply(&second, SYN | ACK, 2), None);
    assert_eq!(reply(&second, ACK, 1), None);
    for v6 in [false, true] {
        let echo = tuple(Transport::Icmp, v6);
        let back = answer(&echo, &echo.packet(&second), 0, 0);
        assert_eq!(kind(&echo, &back), Some(Kind::Answered(Some(1))));
        let udp = tuple(Transport::Udp, v6);
        let mut back = answer(&udp, &udp.packet(&second), 0, 0);
        assert_eq!(kind(&udp, &back), Some(Kind::Answered(Some(1))));
        let at = back.len() - 4;
        back[at..].copy_from_slice(b"else");
        assert_eq!(kind(&udp, &back), Some(Kind::Answered(None)));
    }
}

#[test]
fn errors_name_the_probe_that_they_quote_even_if_they_quote_little() {
    for tuple in all() {
        let probe = probes()[1];
        let packet = tuple.packet(&probe);
        let ip = if tuple.from.is_ipv4() { 20 } else { 40 };
        let of = |v4, v6, word| match kind(&tuple, &error(&packet, v4, v6, word, ip + 12)) {
            Some(Kind::Error { number: 1, error }) => error,
            other => panic!("{other:?}"),
        };
        assert_eq!(of([11, 0], [3, 0], 0), IcmpError::Expired);
        assert_eq!(of([3, 4], [2, 0], 1300), IcmpError::TooLarge(1300));
        assert_eq!(of([3, 3], [1, 4], 0), IcmpError::PortClosed);
        assert_eq!(of([3, 13], [1, 1], 0), IcmpError::Forbidden);
        assert_eq!(
            of([3, 1], [1, 3], 0),
            IcmpError::Unreachable(if ip == 20 { 1 } else { 3 })
        );
    }
    // RFC 792 promises eight octets: of TCP that is enough.
    let tcp = tuple(Transport::Tcp, false);
    let short = error(&tcp.packet(&probes()[0]), [11, 0], [0, 0], 0, 28);
    assert!(matches!(
        kind(&tcp, &short),
        Some(Kind::Error { number: 0, .. })
    ));
}

#[test]
fn a_probe_is_seen_inside_of_vxlan_and_ipip_and_behind_translation() {
    let tcp = tuple(Transport::Tcp, true);
    let inner = tcp.packet(&probes()[1]);
    let outer = tuple(Transport::Udp, false);
    let mut vxlan = outer.packet(&Probe {
        number: 9,
        hops: 64,
        size: 28,
    });
    vxlan.truncate(20);
    vxlan.extend([0xc0, 0, 0x12, 0xb5, 0, 0, 0, 0]);
    vxlan.extend([0; 8 + 14]);
    vxlan.extend(&inner);
    let seen = tcp.read(&vxlan, &probes()).unwrap();
    assert_eq!(seen.kind, Kind::Probe(1));
    assert_eq!(seen.tunnel, Some((outer.from, outer.to)));
    let mut six_in_four = vxlan[..20].to_vec();
    six_in_four[9] = IPV6;
    six_in_four.extend(&inner);
    assert_eq!(kind(&tcp, &six_in_four), Some(Kind::Probe(1)));
    // Other addresses and ports: the word is the same.
    let mut translated = inner;
    translated[8..40].copy_from_slice(&[9; 32]);
    translated[40..44].copy_from_slice(&[1, 2, 3, 4]);
    let seen = tcp.read(&translated, &probes()).unwrap();
    assert_eq!(
        (seen.kind, seen.from_port, seen.to_port),
        (Kind::Probe(1), 0x102, 0x304)
    );
}

#[test]
fn the_mark_stands_where_the_kernels_filter_looks_for_it() {
    for tuple in all() {
        let packet = tuple.packet(&probes()[2]);
        let quoted = error(&packet, [3, 4], [2, 0], 1300, 548);
        for packet in [packet, quoted] {
            let mut places = (20..SEARCHED).step_by(2);
            assert!(
                places.any(|at| half_at(&packet, at) == Some(tuple.mark)),
                "{tuple:?}"
            );
        }
    }
}

#[test]
fn whatever_is_cut_off_or_changed_is_read_without_a_fall() {
    let mut read = 0;
    for tuple in all() {
        let packet = tuple.packet(&probes()[0]);
        let quoted = error(&packet, [11, 0], [3, 0], 0, 100);
        for packet in [packet, quoted] {
            for length in 0..packet.len() {
                read += usize::from(kind(&tuple, &packet[..length]).is_some());
            }
            for at in 0..packet.len() {
                let mut changed = packet.clone();
                changed[at] ^= 0xff;
                let _ = kind(&tuple, &changed);
            }
        }
    }
    assert!(read > 0);
}
