//! Probes as packets: whole IP datagrams that bear a number in their payload, and how the number is found again.

use std::net::IpAddr;

/// What a probe's payload begins with.
const MAGIC: u32 = 0x7074_6c21;
const ICMP_ECHO: u8 = 8;
const ICMPV6_ECHO: u8 = 128;
const SYN: u8 = 0x02;

/// What a probe runs over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Transport {
    /// The SYN of a connection.
    Tcp,
    /// A datagram.
    Udp,
    /// The INIT of an association.
    Sctp,
    /// An echo request of the family's own ICMP; it has no port.
    Icmp,
}

impl Transport {
    /// The number in the IP header.
    pub(crate) fn number(self, is_ipv4: bool) -> u8 {
        match (self, is_ipv4) {
            (Self::Tcp, _) => 6,
            (Self::Udp, _) => 17,
            (Self::Sctp, _) => 132,
            (Self::Icmp, true) => 1,
            (Self::Icmp, false) => 58,
        }
    }
}

/// A packet to be sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packet {
    /// Unique in its lab.
    pub(crate) number: u32,
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) transport: Transport,
    /// The destination port; 0 for ICMP.
    pub(crate) port: u16,
}

/// What a packet that arrived says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) number: u32,
    pub(crate) port: u16,
}

impl Packet {
    /// The whole IP datagram, with every checksum right.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let body = self.body();
        let length = u16::try_from(body.len()).unwrap();
        let number = self.transport.number(self.destination.is_ipv4());
        let mut bytes = match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let mut head = vec![0x45, 0];
                head.extend((length + 20).to_be_bytes());
                head.extend([0, 0, 0x40, 0, 64, number, 0, 0]);
                head.extend(source.octets());
                head.extend(destination.octets());
                let sum = internet_checksum(&head);
                head[10..12].copy_from_slice(&sum.to_be_bytes());
                head
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let mut head = vec![0x60, 0, 0, 0];
                head.extend(length.to_be_bytes());
                head.extend([number, 64]);
                head.extend(source.octets());
                head.extend(destination.octets());
                head
            }
            _ => panic!("{self:?} mixes families"),
        };
        bytes.extend(body);
        bytes
    }

    fn body(&self) -> Vec<u8> {
        // A port of its own for each, so that no packet belongs to the connection of one before.
        let own_port = u16::try_from(1024 + self.number % 60_000).unwrap();
        let mut body = Vec::with_capacity(40);
        match self.transport {
            Transport::Icmp => {
                let kind = if self.destination.is_ipv4() {
                    ICMP_ECHO
                } else {
                    ICMPV6_ECHO
                };
                body.extend([kind, 0, 0, 0]);
                body.extend(self.number.to_be_bytes());
                self.payload(&mut body);
                self.seal(&mut body, 2);
            }
            Transport::Udp => {
                self.ports(own_port, &mut body);
                body.extend([0, 16, 0, 0]);
                self.payload(&mut body);
                self.seal(&mut body, 6);
            }
            Transport::Tcp => {
                self.ports(own_port, &mut body);
                body.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, SYN, 0xff, 0xff, 0, 0, 0, 0]);
                self.payload(&mut body);
                self.seal(&mut body, 16);
            }
            Transport::Sctp => {
                self.ports(own_port, &mut body);
                body.extend([0; 8]);
                body.extend([1, 0, 0, 20]);
                body.extend(self.number.to_be_bytes());
                body.extend(MAGIC.to_be_bytes());
                body.extend([0, 1, 0, 1, 0, 0, 0, 1]);
                let sum = crc32c(&body).to_le_bytes();
                body[8..12].copy_from_slice(&sum);
            }
        }
        body
    }

    fn ports(&self, own: u16, body: &mut Vec<u8>) {
        body.extend(own.to_be_bytes());
        body.extend(self.port.to_be_bytes());
    }

    fn payload(&self, body: &mut Vec<u8>) {
        body.extend(MAGIC.to_be_bytes());
        body.extend(self.number.to_be_bytes());
    }

    /// Puts the checksum at an offset. ICMP of IPv4 alone does not cover the addresses.
    fn seal(&self, body: &mut [u8], at: usize) {
        let mut covered = Vec::with_capacity(body.len() + 40);
        if !(self.transport == Transport::Icmp && self.destination.is_ipv4()) {
            for address in [self.source, self.destination] {
                match address {
                    IpAddr::V4(address) => covered.extend(address.octets()),
                    IpAddr::V6(address) => covered.extend(address.octets()),
                }
            }
            covered.extend([0, self.transport.number(self.destination.is_ipv4())]);
            covered.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
        }
        covered.extend_from_slice(body);
        let sum = match internet_checksum(&covered) {
            0 => 0xffff,
            sum => sum,
        };
        body[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    }
}

/// Reads a whole IP datagram; `None` if it is no probe (a reply, an error, discovery of neighbours).
pub(crate) fn read_datagram(bytes: &[u8]) -> Option<Mark> {
    match bytes.first()? >> 4 {
        4 => read_body(*bytes.get(9)?, bytes.get(usize::from(bytes[0] & 15) * 4..)?),
        6 => read_body(*bytes.get(6)?, bytes.get(40..)?),
        _ => None,
    }
}

/// Whether a whole IP datagram says no: an ICMP error "destination unreachable", a TCP reset, an SCTP ABORT.
pub(crate) fn is_refusal(bytes: &[u8]) -> bool {
    let (protocol, body) = match bytes.first().map(|first| first >> 4) {
        Some(4) => (bytes.get(9), bytes.get(usize::from(bytes[0] & 15) * 4..)),
        Some(6) => (bytes.get(6), bytes.get(40..)),
        _ => return false,
    };
    let at = |offset: usize| body.and_then(|body| body.get(offset)).copied();
    match protocol {
        Some(1) => at(0) == Some(3),
        Some(58) => at(0) == Some(1),
        Some(6) => at(13).is_some_and(|flags| flags & 0x04 != 0),
        Some(132) => at(12) == Some(6),
        _ => false,
    }
}

/// Reads what follows the IP header.
pub(crate) fn read_body(protocol: u8, body: &[u8]) -> Option<Mark> {
    let word = |at: usize| {
        let bytes = body.get(at..at + 4)?;
        Some(u32::from_be_bytes(bytes.try_into().ok()?))
    };
    let magic_at = match protocol {
        1 if body.first() == Some(&ICMP_ECHO) => 8,
        58 if body.first() == Some(&ICMPV6_ECHO) => 8,
        17 => 8,
        6 if body.get(13) == Some(&SYN) => 20,
        132 if body.get(12) == Some(&1) => 20,
        _ => return None,
    };
    if word(magic_at)? != MAGIC {
        return None;
    }
    let number = if protocol == 132 {
        word(16)?
    } else {
        word(magic_at + 4)?
    };
    let port = if matches!(protocol, 1 | 58) {
        0
    } else {
        u16::from_be_bytes(body.get(2..4)?.try_into().ok()?)
    };
    Some(Mark { number, port })
}

fn internet_checksum(bytes: &[u8]) -> u16 {
    let mut sum = 0_u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap()
}

/// CRC-32C (RFC 9260 appendix A), bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = !0_u32;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            let low = crc & 1;
            crc >>= 1;
            if low == 1 {
                crc ^= 0x82f6_3b78;
            }
        }
    }
    !crc
}

#[test]
fn a_probe_is_read_as_it_was_written_over_every_protocol_of_both_families() {
    assert_eq!(
        crc32c(b"123456789"),
        0xe306_9283,
        "the check value of CRC-32C"
    );
    for (source, destination) in [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")] {
        for transport in [
            Transport::Tcp,
            Transport::Udp,
            Transport::Sctp,
            Transport::Icmp,
        ] {
            let port = if transport == Transport::Icmp {
                0
            } else {
                8080
            };
            let packet = Packet {
                number: 77,
                source: source.parse().unwrap(),
                destination: destination.parse().unwrap(),
                transport,
                port,
            };
            assert_eq!(
                read_datagram(&packet.bytes()),
                Some(Mark { number: 77, port })
            );
        }
    }
}
