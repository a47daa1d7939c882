//! The headers of an IP packet, as far as a verdict or a line for people hangs on them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::wire::array;

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP_V6: u8 = 58;
const SCTP: u8 = 132;
/// The bit of TCP's flags.
const SYN: u8 = 2;
/// So many IPv6 extension headers are passed over.
const EXTENSIONS: usize = 8;

/// A packet's headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Packet<'a> {
    /// Source address.
    pub(crate) source: IpAddr,
    /// Destination address.
    pub(crate) destination: IpAddr,
    /// The transport's number.
    pub(crate) protocol: u8,
    /// What follows the IP headers; empty in a later fragment.
    pub(crate) transport: &'a [u8],
}

/// A TCP segment, as far as what it says hangs on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Segment<'a> {
    /// The sequence number of its first octet, or of its SYN.
    pub(crate) sequence: u32,
    /// It opens the connection.
    pub(crate) syn: bool,
    /// What it says.
    pub(crate) payload: &'a [u8],
}

impl<'a> Packet<'a> {
    /// Reads the headers; `None` if they are cut short or of no known version.
    pub(crate) fn read(octets: &'a [u8]) -> Option<Self> {
        match octets.first()? >> 4 {
            4 => Self::read_v4(octets),
            6 => Self::read_v6(octets),
            _ => None,
        }
    }

    fn read_v4(octets: &'a [u8]) -> Option<Self> {
        let length = usize::from(octets.first()? & 0xf) * 4;
        let offset = u16::from_be_bytes(array(octets, 6)?) & 0x1fff;
        let transport = octets.get(length.max(20)..)?;
        Some(Self {
            source: Ipv4Addr::from(array(octets, 12)?).into(),
            destination: Ipv4Addr::from(array(octets, 16)?).into(),
            protocol: *octets.get(9)?,
            transport: if offset == 0 { transport } else { &[] },
        })
    }

    fn read_v6(octets: &'a [u8]) -> Option<Self> {
        let mut next = *octets.get(6)?;
        let mut rest = octets.get(40..)?;
        for _ in 0..EXTENSIONS {
            let length = match next {
                // Hop-by-hop, routing, destination options, mobility.
                0 | 43 | 60 | 135 => 8 + usize::from(*rest.get(1)?) * 8,
                44 if u16::from_be_bytes(array(rest, 2)?) & 0xfff8 == 0 => 8,
                _ => break,
            };
            next = *rest.first()?;
            rest = rest.get(length..)?;
        }
        Some(Self {
            source: Ipv6Addr::from(array(octets, 8)?).into(),
            destination: Ipv6Addr::from(array(octets, 24)?).into(),
            protocol: next,
            transport: rest,
        })
    }

    /// Source and destination port, where the transport has ports.
    pub(crate) fn ports(&self) -> Option<(u16, u16)> {
        if ![TCP, UDP, SCTP].contains(&self.protocol) {
            return None;
        }
        let source = u16::from_be_bytes(array(self.transport, 0)?);
        let destination = u16::from_be_bytes(array(self.transport, 2)?);
        Some((source, destination))
    }

    /// What a UDP datagram carries, by its own length.
    pub(crate) fn datagram(&self) -> Option<&'a [u8]> {
        if self.protocol != UDP {
            return None;
        }
        let length = usize::from(u16::from_be_bytes(array(self.transport, 4)?));
        self.transport.get(8..length)
    }

    /// A TCP segment (RFC 9293 §3.1).
    pub(crate) fn segment(&self) -> Option<Segment<'a>> {
        if self.protocol != TCP {
            return None;
        }
        let header = usize::from(self.transport.get(12)? >> 4) * 4;
        Some(Segment {
            sequence: u32::from_be_bytes(array(self.transport, 4)?),
            syn: self.transport.get(13)? & SYN != 0,
            payload: self.transport.get(header.max(20)..)?,
        })
    }
}

/// A transport's name, or its number.
pub(crate) fn protocol_name(protocol: u8) -> String {
    match protocol {
        ICMP => "icmp".to_owned(),
        TCP => "tcp".to_owned(),
        UDP => "udp".to_owned(),
        ICMP_V6 => "icmpv6".to_owned(),
        SCTP => "sctp".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn udp_v4() -> Vec<u8> {
        let mut octets = vec![
            0x45, 0, 0, 31, 0, 0, 0, 0, 64, UDP, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
        ];
        octets.extend([0, 53, 0x30, 0x39, 0, 11, 0, 0, b'a', b'b', b'c', b'?']);
        octets
    }

    #[test]
    fn a_datagram_is_read_by_its_own_length() {
        let octets = udp_v4();
        let packet = Packet::read(&octets).unwrap();
        assert_eq!(packet.source.to_string(), "10.0.0.1");
        assert_eq!(packet.destination.to_string(), "10.0.0.2");
        assert_eq!(packet.ports(), Some((53, 12345)));
        assert_eq!(packet.datagram(), Some(&b"abc"[..]));
    }

    #[test]
    fn a_segment_is_read_behind_its_options_and_no_further_than_it_is_long() {
        let mut octets = udp_v4()[..20].to_vec();
        octets[9] = TCP;
        octets.extend([0, 53, 0x30, 0x39, 1, 2, 3, 4, 0, 0, 0, 0, 0x60, 0x12, 0, 0]);
        octets.extend([0, 0, 0, 0, 1, 1, 1, 0, b'a', b'b']);
        let packet = Packet::read(&octets).unwrap();
        let segment = Segment {
            sequence: 0x0102_0304,
            syn: true,
            payload: b"ab",
        };
        assert_eq!(packet.segment(), Some(segment));
        assert_eq!(packet.datagram(), None);
        for length in 20..44 {
            assert_eq!(Packet::read(&octets[..length]).unwrap().segment(), None);
        }
        octets[32] = 0xf0;
        assert_eq!(Packet::read(&octets).unwrap().segment(), None);
    }

    #[test]
    fn ipv6_extension_headers_are_passed_over() {
        let mut octets = vec![0x60, 0, 0, 0, 0, 24, 0, 64];
        octets.extend([0xfd; 16]);
        octets.extend([0xfe; 16]);
        octets.extend([44, 0, 0, 0, 0, 0, 0, 0]);
        octets.extend([UDP, 0, 0, 1, 0, 0, 0, 0]);
        octets.extend([0, 53, 0, 9, 0, 8, 0, 0]);
        let packet = Packet::read(&octets).unwrap();
        assert_eq!((packet.protocol, packet.ports()), (UDP, Some((53, 9))));
        octets[51] = 8;
        let fragment = Packet::read(&octets).unwrap();
        assert_eq!((fragment.protocol, fragment.ports()), (44, None));
    }

    #[test]
    fn what_is_cut_short_is_never_read_beyond_its_end() {
        let octets = udp_v4();
        for length in 0..octets.len() {
            let packet = Packet::read(&octets[..length]);
            assert!(packet.is_none_or(|packet| packet.datagram().is_none() || length >= 31));
        }
        let mut fragment = octets;
        fragment[7] = 9;
        assert_eq!(Packet::read(&fragment).unwrap().ports(), None);
        assert_eq!(Packet::read(&[0; 60]), None);
    }
}
