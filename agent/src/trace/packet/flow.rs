//! Packets of one connection that others send, and their answers, plain or in a tunnel; pure.

use std::net::IpAddr;

use super::{
    ACK, ICMP, ICMPV6, IcmpError, Ip, Kind, RST, SYN, Seen, TCP, Transport, UDP, half_at,
    icmp_error,
};

/// Who sends to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::trace) struct Flow {
    pub(in crate::trace) transport: Transport,
    pub(in crate::trace) from: IpAddr,
    pub(in crate::trace) to: IpAddr,
    /// Of ICMP 0.
    pub(in crate::trace) port: u16,
}

impl Flow {
    /// What a packet, from its IP header on, is to the connection: all that go forth are probe 0.
    pub(in crate::trace) fn read(&self, packet: &[u8]) -> Option<Seen> {
        let outer = Ip::read(packet)?;
        match outer.inner() {
            Some(inner) => self.read_plain(inner, Some((outer.from, outer.to))),
            None => self.read_plain(packet, None),
        }
    }

    fn read_plain(&self, packet: &[u8], tunnel: Option<(IpAddr, IpAddr)>) -> Option<Seen> {
        let ip = Ip::read(packet)?;
        let is_forth = (ip.from, ip.to) == (self.from, self.to);
        if !is_forth && (ip.from, ip.to) != (self.to, self.from) {
            return None;
        }
        let (from_port, to_port) = ip.ports()?;
        Some(Seen {
            kind: self.kind(&ip, is_forth, (from_port, to_port))?,
            from: ip.from,
            to: ip.to,
            from_port,
            to_port,
            hops: ip.hops,
            tunnel,
        })
    }

    fn kind(&self, ip: &Ip<'_>, is_forth: bool, ports: (u16, u16)) -> Option<Kind> {
        let first = *ip.payload.first()?;
        let is_port = self.port == if is_forth { ports.1 } else { ports.0 };
        match (ip.protocol, self.transport) {
            (TCP, Transport::Tcp) if is_port => {
                if is_forth {
                    return Some(Kind::Probe(0));
                }
                let flags = *ip.payload.get(13)?;
                Some(match flags & (SYN | ACK | RST) {
                    set if set & RST != 0 => Kind::Refused(0),
                    _ => Kind::Accepted(0),
                })
            }
            (UDP, Transport::Udp) if is_port && is_forth => Some(Kind::Probe(0)),
            (UDP, Transport::Udp) if is_port => Some(Kind::Answered(Some(0))),
            (ICMP, Transport::Icmp) if (first, is_forth) == (8, true) => Some(Kind::Probe(0)),
            (ICMPV6, Transport::Icmp) if (first, is_forth) == (128, true) => Some(Kind::Probe(0)),
            (ICMP, Transport::Icmp) if (first, is_forth) == (0, false) => {
                Some(Kind::Answered(Some(0)))
            }
            (ICMPV6, Transport::Icmp) if (first, is_forth) == (129, false) => {
                Some(Kind::Answered(Some(0)))
            }
            (ICMP | ICMPV6, Transport::Udp) if !is_forth => {
                let code = *ip.payload.get(1)?;
                let error = icmp_error(ip.protocol, first, code, ip.payload)?;
                let quoted = Ip::read(ip.payload.get(8..)?)?;
                let is_ours = (quoted.from, quoted.to) == (self.from, self.to)
                    && quoted.protocol == UDP
                    && half_at(quoted.payload, 2)? == self.port;
                (is_ours && error == IcmpError::PortClosed).then_some(Kind::Refused(0))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Probe, Tuple};
    use super::*;

    const FLOW: Flow = Flow {
        transport: Transport::Tcp,
        from: IpAddr::V4(std::net::Ipv4Addr::new(10, 48, 0, 1)),
        to: IpAddr::V4(std::net::Ipv4Addr::new(10, 48, 1, 1)),
        port: 80,
    };

    fn packet(from: IpAddr, to: IpAddr, ports: (u16, u16)) -> Vec<u8> {
        let tuple = Tuple {
            transport: Transport::Tcp,
            from,
            to,
            from_port: ports.0,
            to_port: ports.1,
            mark: 0x8001,
        };
        tuple.packet(&Probe {
            number: 7,
            hops: 64,
            size: 0,
        })
    }

    #[test]
    fn packets_of_the_connection_are_told_by_both_ends_and_the_port() {
        let kind = |packet: &[u8]| FLOW.read(packet).map(|seen| seen.kind);
        let forth = packet(FLOW.from, FLOW.to, (4000, 80));
        assert_eq!(kind(&forth), Some(Kind::Probe(0)));
        let mut back = packet(FLOW.to, FLOW.from, (80, 4000));
        back[33] = SYN | ACK;
        assert_eq!(kind(&back), Some(Kind::Accepted(0)));
        back[33] = RST | ACK;
        assert_eq!(kind(&back), Some(Kind::Refused(0)));
        for other in [
            packet(FLOW.from, FLOW.to, (80, 4000)),
            packet(FLOW.to, FLOW.from, (4000, 80)),
            packet(FLOW.from, FLOW.from, (4000, 80)),
        ] {
            assert_eq!(kind(&other), None);
        }
        for length in 0..forth.len() {
            let _ = kind(&forth[..length]);
        }
    }

    #[test]
    fn one_in_a_tunnel_is_told_with_the_tunnels_ends() {
        let inner = packet(FLOW.from, FLOW.to, (4000, 80));
        let mut packet = vec![0x45, 0, 0, 60, 0, 0, 0x40, 0, 64, 4, 0, 0];
        packet.extend([10, 0, 0, 1, 10, 0, 0, 2]);
        packet.extend(inner);
        let seen = FLOW.read(&packet).unwrap();
        let ends = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        assert_eq!((seen.kind, seen.tunnel), (Kind::Probe(0), Some(ends)));
    }
}
