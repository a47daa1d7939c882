//! Checksums of packets that come in tunnels: the tunnel's own (RFC 768), and that of what it carries.

use std::net::IpAddr;

use super::{IPV4_HEADER, IPV6_HEADER, Ip, TCP, UDP, checksum, half_at};

/// Where an IPv4 packet says that it is a part of one.
const MORE_OR_OFFSET: u16 = 0x3fff;

/// Who sent a packet in a tunnel, and whether the checksums of it are right; `None` where it is not in a tunnel, or bears none.
pub(in crate::trace) fn of_tunnelled(packet: &[u8]) -> Option<(IpAddr, bool)> {
    let outer = Ip::read(packet)?;
    let inner = outer.inner()?;
    let sums = [is_right(packet), is_right(inner)];
    let mut known = sums.into_iter().flatten().peekable();
    known.peek()?;
    Some((outer.from, known.all(|right| right)))
}

/// Of TCP and UDP in one piece.
fn is_right(packet: &[u8]) -> Option<bool> {
    let ip = Ip::read(packet)?;
    let is_v4 = ip.from.is_ipv4();
    if is_v4 && half_at(packet, 6)? & MORE_OR_OFFSET != 0 {
        return None;
    }
    let at = match ip.protocol {
        TCP => 16,
        UDP => 6,
        _ => return None,
    };
    // Behind it an Ethernet frame may be filled up.
    let whole = match is_v4 {
        true => usize::from(half_at(packet, 2)?).checked_sub(packet.len() - ip.payload.len())?,
        false => usize::from(half_at(packet, 4)?),
    };
    let segment = ip.payload.get(..whole)?;
    if ip.protocol == UDP && half_at(segment, at)? == 0 {
        return None;
    }
    let addresses = match is_v4 {
        true => packet.get(12..IPV4_HEADER)?,
        false => packet.get(8..IPV6_HEADER)?,
    };
    let length = u16::try_from(whole).ok()?.to_be_bytes();
    // RFC 9293 §3.1 and RFC 8200 §8.1: the same sum, whatever the order of its words.
    let pseudo = [addresses, &length, &[0, ip.protocol]].concat();
    Some(checksum(&[pseudo.as_slice(), segment].concat()) == 0)
}

#[cfg(test)]
mod tests {
    use super::super::{Probe, Transport, Tuple};
    use super::*;

    fn probe(from: &str, to: &str, transport: Transport, size: usize) -> Vec<u8> {
        let tuple = Tuple {
            transport,
            from: from.parse().unwrap(),
            to: to.parse().unwrap(),
            from_port: 4000,
            to_port: 80,
            mark: 0x8001,
        };
        tuple.packet(&Probe {
            number: 1,
            hops: 64,
            size,
        })
    }

    /// In VXLAN over IPv4 with a checksum, or without one.
    fn in_vxlan(inner: &[u8], with_sum: bool) -> Vec<u8> {
        let mut udp = vec![0x80, 0, 0x12, 0xb5];
        let length = u16::try_from(8 + 8 + 14 + inner.len()).unwrap();
        udp.extend(length.to_be_bytes());
        udp.extend([0, 0, 8, 0, 0, 0, 0, 16, 83, 0]);
        udp.extend([2; 12]);
        udp.extend([8, 0]);
        udp.extend(inner);
        let mut packet = vec![0x45, 0];
        packet.extend((length + 20).to_be_bytes());
        packet.extend([0, 0, 0x40, 0, 64, UDP, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        if with_sum {
            let pseudo = [&packet[12..20], &length.to_be_bytes(), &[0, UDP]].concat();
            let sum = checksum(&[pseudo, udp.clone()].concat());
            udp[6..8].copy_from_slice(&sum.to_be_bytes());
        }
        packet.extend(udp);
        packet
    }

    #[test]
    fn what_a_tunnel_carries_is_told_right_from_wrong_by_both_checksums() {
        let sender: IpAddr = "10.0.0.1".parse().unwrap();
        for (from, to) in [("10.48.0.1", "10.48.1.1"), ("fd48::1", "fd48:1::1")] {
            for (transport, at) in [(Transport::Tcp, 16), (Transport::Udp, 6)] {
                for size in [0, 101] {
                    let inner = probe(from, to, transport, size);
                    let header = if from.contains(':') { 40 } else { 20 };
                    for with_sum in [true, false] {
                        let mut packet = in_vxlan(&inner, with_sum);
                        packet.extend([0; 4]);
                        assert_eq!(of_tunnelled(&packet), Some((sender, true)), "{from} {size}");
                        let place = packet.len() - 4 - inner.len() + header + at;
                        packet[place] ^= 0x10;
                        assert_eq!(
                            of_tunnelled(&packet),
                            Some((sender, false)),
                            "{from} {size}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn without_a_tunnel_or_a_checksum_nothing_is_said() {
        let inner = probe("10.48.0.1", "10.48.1.1", Transport::Icmp, 0);
        assert_eq!(of_tunnelled(&inner), None);
        assert_eq!(of_tunnelled(&in_vxlan(&inner, false)), None);
        let mut piece = probe("10.48.0.1", "10.48.1.1", Transport::Tcp, 0);
        piece[6] = 0x20;
        assert_eq!(of_tunnelled(&in_vxlan(&piece, false)), None);
        let cut = in_vxlan(&probe("10.48.0.1", "10.48.1.1", Transport::Tcp, 80), false);
        assert_eq!(of_tunnelled(&cut[..cut.len() - 9]), None);
        for length in 0..cut.len() {
            let _ = of_tunnelled(&cut[..length]);
        }
    }
}
