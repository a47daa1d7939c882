//! Probes as bytes, and what is seen of them as values: plain, inside of tunnels, quoted by ICMP errors, and their answers; pure.
//!
//! A probe bears a word that its answer repeats: TCP's sequence number (RFC 9293 §3.10.7.3), the first word of ICMP's or UDP's data.
//! Address translation leaves it alone, so that a probe is known again behind it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Octets at the start of a packet in which the kernel's filter looks for the mark: every encapsulation's probe has it there.
pub(super) const SEARCHED: usize = 200;
/// So many probes there can be in one run.
pub(super) const MOST: u16 = 255;
/// Between the words of two probes: an answer's word is one more.
const STEP: u32 = 16;

const ICMP: u8 = 1;
const IPIP: u8 = 4;
const TCP: u8 = 6;
const UDP: u8 = 17;
const IPV6: u8 = 41;
const ICMPV6: u8 = 58;
const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;
/// Where VXLAN ends and the inner packet begins: UDP, VXLAN (RFC 7348 §5), Ethernet.
const VXLAN: usize = 8 + 8 + 14;
const VXLAN_PORTS: [u16; 2] = [4789, 8472];

/// What a probe is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    Tcp,
    Udp,
    Icmp,
}

/// What all probes of a run have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tuple {
    pub(super) transport: Transport,
    pub(super) from: IpAddr,
    pub(super) to: IpAddr,
    /// Of ICMP the identifier.
    pub(super) from_port: u16,
    /// Of ICMP nothing.
    pub(super) to_port: u16,
    /// The upper half of every word.
    pub(super) mark: u16,
}

/// One probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Probe {
    pub(super) number: u16,
    /// TTL or hop limit.
    pub(super) hops: u8,
    /// Octets of the whole packet, as far as its headers leave room for it.
    pub(super) size: usize,
}

/// What a packet is to a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The probe of this number.
    Probe(u16),
    /// The target took it: TCP's SYN and ACK.
    Accepted(u16),
    /// The target is there and nobody listens: TCP's RST.
    Refused(u16),
    /// The target answered: ICMP's echo reply, or a datagram, which does not say which probe it answers.
    Answered(Option<u16>),
    /// Somebody on the way said that the probe of this number goes no further.
    Error { number: u16, error: IcmpError },
}

/// What an ICMP error says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum IcmpError {
    /// TTL or hop limit is used up.
    Expired,
    /// Too large for a link of this MTU in octets (0 where the router does not say).
    TooLarge(u32),
    /// The port is closed.
    PortClosed,
    /// Forbidden by an administrator.
    Forbidden,
    /// No route, or no neighbour; the code.
    Unreachable(u8),
}

/// A packet that was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) kind: Kind,
    pub(super) from: IpAddr,
    pub(super) to: IpAddr,
    pub(super) from_port: u16,
    pub(super) to_port: u16,
    pub(super) hops: u8,
    /// The tunnel's two ends, if it was seen inside of one.
    pub(super) tunnel: Option<(IpAddr, IpAddr)>,
}

impl Transport {
    /// In iptables' words.
    pub(super) fn name(self, is_v4: bool) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Icmp if is_v4 => "icmp",
            Self::Icmp => "ipv6-icmp",
        }
    }
}

impl Tuple {
    fn word(&self, probe: &Probe) -> u32 {
        (u32::from(self.mark) << 16) + u32::from(probe.number) * STEP
    }

    /// The least that a probe takes.
    pub(super) fn least(&self) -> usize {
        let header = if self.from.is_ipv4() {
            IPV4_HEADER
        } else {
            IPV6_HEADER
        };
        header
            + self.header()
            + if self.transport == Transport::Tcp {
                0
            } else {
                4
            }
    }

    fn header(&self) -> usize {
        if self.transport == Transport::Tcp {
            20
        } else {
            8
        }
    }

    fn protocol(&self) -> u8 {
        match (self.transport, self.from) {
            (Transport::Tcp, _) => TCP,
            (Transport::Udp, _) => UDP,
            (Transport::Icmp, IpAddr::V4(_)) => ICMP,
            (Transport::Icmp, IpAddr::V6(_)) => ICMPV6,
        }
    }

    /// A probe with its IP header, not to be fragmented.
    pub(super) fn packet(&self, probe: &Probe) -> Vec<u8> {
        let size = probe.size.max(self.least());
        let header = if self.from.is_ipv4() {
            IPV4_HEADER
        } else {
            IPV6_HEADER
        };
        let mut payload = self.segment(probe);
        payload.resize(size - header, b'.');
        let at = match self.transport {
            Transport::Tcp => 16,
            Transport::Udp => 6,
            Transport::Icmp => 2,
        };
        if self.transport == Transport::Udp {
            put(&mut payload, 4, &half(size - header));
        }
        let sum = match (self.transport, self.from) {
            (Transport::Icmp, IpAddr::V4(_)) => checksum(&payload),
            _ => checksum(&[self.pseudo_header(payload.len()), payload.clone()].concat()),
        };
        // Of UDP none means that there is none (RFC 768).
        let sum = if sum == 0 && self.transport == Transport::Udp {
            u16::MAX
        } else {
            sum
        };
        put(&mut payload, at, &sum.to_be_bytes());
        let mut packet = self.ip_header(probe, payload.len());
        packet.append(&mut payload);
        packet
    }

    fn segment(&self, probe: &Probe) -> Vec<u8> {
        let mut out = Vec::new();
        let word = self.word(probe).to_be_bytes();
        if self.transport == Transport::Icmp {
            let kind = if self.from.is_ipv4() { 8 } else { 128 };
            out.extend([kind, 0, 0, 0]);
            out.extend(self.from_port.to_be_bytes());
            out.extend(probe.number.to_be_bytes());
            out.extend(word);
            return out;
        }
        out.extend(self.from_port.to_be_bytes());
        out.extend(self.to_port.to_be_bytes());
        if self.transport == Transport::Tcp {
            out.extend(word);
            // No acknowledgement, five words of header, a window, no checksum yet, nothing urgent.
            out.extend([0, 0, 0, 0, 5 << 4, SYN, 0xff, 0xff, 0, 0, 0, 0]);
        } else {
            out.extend([0; 4]);
            out.extend(word);
        }
        out
    }

    fn ip_header(&self, probe: &Probe, length: usize) -> Vec<u8> {
        let mut out = Vec::new();
        match (self.from, self.to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                out.extend([0x45, 0]);
                out.extend(half(length + IPV4_HEADER));
                // The identification counts the probes; "don't fragment" is set.
                out.extend((probe.number + 1).to_be_bytes());
                out.extend([0x40, 0, probe.hops, self.protocol(), 0, 0]);
                out.extend(from.octets());
                out.extend(to.octets());
                let sum = checksum(&out);
                put(&mut out, 10, &sum.to_be_bytes());
            }
            (from, to) => {
                out.extend([0x60, 0, 0, 0]);
                out.extend(half(length));
                out.extend([self.protocol(), probe.hops]);
                out.extend(v6(from).octets());
                out.extend(v6(to).octets());
            }
        }
        out
    }

    fn pseudo_header(&self, length: usize) -> Vec<u8> {
        let mut out = Vec::new();
        match (self.from, self.to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                out.extend(from.octets());
                out.extend(to.octets());
                out.extend([0, self.protocol()]);
                out.extend(half(length));
            }
            (from, to) => {
                out.extend(v6(from).octets());
                out.extend(v6(to).octets());
                out.extend([0, 0]);
                out.extend(half(length));
                out.extend([0, 0, 0, self.protocol()]);
            }
        }
        out
    }

    /// What a packet, from its IP header on, is to this run with these probes; `None` for others' packets.
    pub(super) fn read(&self, packet: &[u8], sent: &[Probe]) -> Option<Seen> {
        self.read_in(packet, sent, None)
    }

    fn read_in(
        &self,
        packet: &[u8],
        sent: &[Probe],
        tunnel: Option<(IpAddr, IpAddr)>,
    ) -> Option<Seen> {
        let ip = Ip::read(packet)?;
        if tunnel.is_none()
            && let Some(inner) = ip.inner()
        {
            return self.read_in(inner, sent, Some((ip.from, ip.to)));
        }
        let (from_port, to_port) = ip.ports()?;
        Some(Seen {
            kind: self.kind(&ip, sent, false)?,
            from: ip.from,
            to: ip.to,
            from_port,
            to_port,
            hops: ip.hops,
            tunnel,
        })
    }

    /// Of what an error quotes, eight octets behind the IP header are enough (RFC 792).
    fn kind(&self, ip: &Ip<'_>, sent: &[Probe], is_quoted: bool) -> Option<Kind> {
        let data = ip.payload;
        let numbered = |word: u32| {
            let mut all = sent.iter();
            all.find(|probe| self.word(probe) == word)
                .map(|probe| probe.number)
        };
        match ip.protocol {
            TCP if self.transport == Transport::Tcp && is_quoted => {
                numbered(word_at(data, 4)?).map(Kind::Probe)
            }
            TCP if self.transport == Transport::Tcp => {
                let flags = *data.get(13)?;
                if flags & (SYN | ACK | RST) == SYN {
                    return numbered(word_at(data, 4)?).map(Kind::Probe);
                }
                if flags & ACK == 0 {
                    return None;
                }
                let acknowledged = word_at(data, 8)?;
                let mut all = sent.iter();
                let number = all.find(|probe| {
                    let first = self.word(probe).wrapping_add(1);
                    let rest = probe.size.saturating_sub(self.least());
                    let whole = first.wrapping_add(u32::try_from(rest).unwrap_or(0));
                    acknowledged == first || acknowledged == whole
                })?;
                match flags & (SYN | RST) {
                    SYN => Some(Kind::Accepted(number.number)),
                    RST => Some(Kind::Refused(number.number)),
                    _ => None,
                }
            }
            UDP if self.transport == Transport::Udp => {
                if let Some(number) = numbered(word_at(data, 8)?) {
                    let forth = half_at(data, 2) != Some(self.from_port);
                    return Some(if forth {
                        Kind::Probe(number)
                    } else {
                        Kind::Answered(Some(number))
                    });
                }
                let is_answer = half_at(data, 2)? == self.from_port && ip.to == self.from;
                is_answer.then_some(Kind::Answered(None))
            }
            ICMP | ICMPV6 => self.icmp(ip, sent, numbered),
            _ => None,
        }
    }

    fn icmp(
        &self,
        ip: &Ip<'_>,
        sent: &[Probe],
        numbered: impl Fn(u32) -> Option<u16>,
    ) -> Option<Kind> {
        let data = ip.payload;
        let (kind, code) = (*data.first()?, *data.get(1)?);
        match (ip.protocol, kind) {
            (ICMP, 8) | (ICMPV6, 128) if self.transport == Transport::Icmp => {
                // The identifier is changed by address translation, the word is not.
                return numbered(word_at(data, 8)?).map(Kind::Probe);
            }
            (ICMP, 0) | (ICMPV6, 129) if self.transport == Transport::Icmp => {
                return numbered(word_at(data, 8)?).map(|number| Kind::Answered(Some(number)));
            }
            _ => {}
        }
        let error = icmp_error(ip.protocol, kind, code, data)?;
        let quoted = Ip::read(data.get(8..)?)?;
        match self.kind(&quoted, sent, true)? {
            Kind::Probe(number) => Some(Kind::Error { number, error }),
            _ => None,
        }
    }
}

fn icmp_error(protocol: u8, kind: u8, code: u8, data: &[u8]) -> Option<IcmpError> {
    // RFC 792, RFC 1191 §4, RFC 1812 §5.2.7.1; RFC 4443 §3.
    Some(match (protocol, kind, code) {
        (ICMP, 11, 0) | (ICMPV6, 3, 0) => IcmpError::Expired,
        (ICMP, 3, 4) => IcmpError::TooLarge(half_at(data, 6).map_or(0, u32::from)),
        (ICMPV6, 2, _) => IcmpError::TooLarge(word_at(data, 4)?),
        (ICMP, 3, 3) | (ICMPV6, 1, 4) => IcmpError::PortClosed,
        (ICMP, 3, 9 | 10 | 13) | (ICMPV6, 1, 1 | 5 | 6) => IcmpError::Forbidden,
        (ICMP, 3, code) | (ICMPV6, 1, code) => IcmpError::Unreachable(code),
        _ => return None,
    })
}

/// What of an IP header counts here. A packet may have been cut off behind it.
struct Ip<'a> {
    from: IpAddr,
    to: IpAddr,
    protocol: u8,
    hops: u8,
    payload: &'a [u8],
}

impl<'a> Ip<'a> {
    /// From and to; 0 where the protocol has none.
    fn ports(&self) -> Option<(u16, u16)> {
        Some(match self.protocol {
            TCP | UDP => (half_at(self.payload, 0)?, half_at(self.payload, 2)?),
            _ => (0, 0),
        })
    }

    fn read(packet: &'a [u8]) -> Option<Self> {
        let first = *packet.first()?;
        match first >> 4 {
            4 => {
                let header = usize::from(first & 0xf) * 4;
                let octets = |at: usize| <[u8; 4]>::try_from(packet.get(at..at + 4)?).ok();
                Some(Self {
                    from: Ipv4Addr::from(octets(12)?).into(),
                    to: Ipv4Addr::from(octets(16)?).into(),
                    protocol: *packet.get(9)?,
                    hops: *packet.get(8)?,
                    payload: packet.get(header.max(IPV4_HEADER)..)?,
                })
            }
            6 => {
                let octets = |at: usize| <[u8; 16]>::try_from(packet.get(at..at + 16)?).ok();
                Some(Self {
                    from: Ipv6Addr::from(octets(8)?).into(),
                    to: Ipv6Addr::from(octets(24)?).into(),
                    protocol: *packet.get(6)?,
                    hops: *packet.get(7)?,
                    payload: packet.get(IPV6_HEADER..)?,
                })
            }
            _ => None,
        }
    }

    /// The packet that a tunnel's packet carries.
    fn inner(&self) -> Option<&'a [u8]> {
        match self.protocol {
            IPIP | IPV6 => Some(self.payload),
            UDP if VXLAN_PORTS.contains(&half_at(self.payload, 2)?) => self.payload.get(VXLAN..),
            _ => None,
        }
    }
}

fn v6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

fn half(number: usize) -> [u8; 2] {
    u16::try_from(number).unwrap_or(u16::MAX).to_be_bytes()
}

fn put(into: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(place) = into.get_mut(at..at + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}

fn half_at(data: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(data.get(at..at + 2)?.try_into().ok()?))
}

fn word_at(data: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(data.get(at..at + 4)?.try_into().ok()?))
}

/// RFC 1071.
fn checksum(data: &[u8]) -> u16 {
    let pairs = data.chunks(2).map(|pair| {
        let [high, low] = [0, 1].map(|place| pair.get(place).copied().unwrap_or(0));
        u32::from(u16::from_be_bytes([high, low]))
    });
    let mut sum: u32 = pairs.fold(0, u32::wrapping_add);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(u16::MAX)
}

pub(super) mod flow;
pub(super) mod sums;
#[cfg(test)]
mod tests;
