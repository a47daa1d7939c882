//! Packets as a stranger would make them: what is in a tunnel, and the tunnel's own headers.

use std::net::Ipv4Addr;

/// VXLAN's flag that the VNI is valid (RFC 7348 §5).
const VNI_VALID: u8 = 0x08;

/// An IPv4 packet with a UDP datagram in it.
#[must_use]
pub fn datagram(source: Ipv4Addr, destination: Ipv4Addr, port: u16, payload: &[u8]) -> Vec<u8> {
    let udp_length = u16::try_from(8 + payload.len()).unwrap_or(u16::MAX);
    let mut packet = vec![0x45, 0];
    packet.extend((20 + udp_length).to_be_bytes());
    // No identification, no fragment, 64 hops, UDP.
    packet.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
    packet.extend(source.octets());
    packet.extend(destination.octets());
    let sum = checksum(&packet).to_be_bytes();
    packet.splice(10..12, sum);
    for field in [port, port, udp_length, 0] {
        packet.extend(field.to_be_bytes());
    }
    packet.extend(payload);
    packet
}

/// A packet as VXLAN carries it to an end: what follows the outer UDP header.
#[must_use]
pub fn vxlan(vni: u32, mac: [u8; 6], packet: &[u8]) -> Vec<u8> {
    let mut frame = vec![VNI_VALID, 0, 0, 0];
    frame.extend((vni << 8).to_be_bytes());
    frame.extend(mac);
    // From a station of nobody's, IPv4.
    frame.extend([2, 0, 0, 0, 0, 0x66, 8, 0]);
    frame.extend(packet);
    frame
}

/// RFC 1071.
pub(crate) fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| match pair {
        [high, low] => u32::from(u16::from_be_bytes([*high, *low])),
        [high] => u32::from(*high) << 8,
        _ => 0,
    });
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_with_its_checksum_sums_up_to_nothing() {
        let packet = datagram([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), 7, b"ahoy");
        assert_eq!(packet.len(), 32);
        assert_eq!(checksum(&packet[..20]), 0);
        assert_eq!(vxlan(4179, [2; 6], &packet).len(), 8 + 14 + 32);
    }
}
