//! Conntrack messages (linux/netfilter/nfnetlink_conntrack.h), written and read by hand; numbers are big-endian there.

use std::net::IpAddr;

use super::{ConntrackEntry, Family, Filter, Place, Ports, Status, TcpState, Tuple};
use crate::batch::{Attributes, Batch, attribute, nested};
use crate::wire::{INET, INET6};

/// NFNL_SUBSYS_CTNETLINK in the high byte, IPCTNL_MSG_CT_GET in the low one.
pub(super) const GET: u16 = 0x0101;
const DELETE: u16 = 0x0102;
/// Bytes of struct nfgenmsg.
const NFGENMSG: usize = 4;

const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_STATUS: u16 = 3;
const CTA_PROTOINFO: u16 = 4;
const CTA_TIMEOUT: u16 = 7;
const CTA_MARK: u16 = 8;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_FILTER: u16 = 25;

const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_TUPLE_ZONE: u16 = 3;

const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;

const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;
const CTA_PROTO_ICMP_ID: u16 = 4;
const CTA_PROTO_ICMP_TYPE: u16 = 5;
const CTA_PROTO_ICMP_CODE: u16 = 6;
const CTA_PROTO_ICMPV6_ID: u16 = 7;
const CTA_PROTO_ICMPV6_TYPE: u16 = 8;
const CTA_PROTO_ICMPV6_CODE: u16 = 9;

const CTA_PROTOINFO_TCP: u16 = 1;
const CTA_PROTOINFO_TCP_STATE: u16 = 1;

const CTA_FILTER_ORIG_FLAGS: u16 = 1;
const CTA_FILTER_REPLY_FLAGS: u16 = 2;
const FILTER_IP_SRC: u32 = 1;
const FILTER_IP_DST: u32 = 2;

const ICMPV6: u8 = 58;

/// The body of the question for all entries that pass a filter.
pub(super) fn question(filter: &Filter) -> Vec<u8> {
    let family = filter.address.map(|(_, address)| Family::of(address));
    let mut body = Vec::new();
    header(&mut body, family.or(filter.family));
    // Of IPv6 the kernel (seen with 6.18) leaves out those that have the address, instead of the others: there it
    // is told the family only.
    let Some((place, address @ IpAddr::V4(_))) = filter.address else {
        return body;
    };
    let (tuple, flags) = match place {
        Place::OriginalSource | Place::OriginalDestination => {
            (CTA_TUPLE_ORIG, CTA_FILTER_ORIG_FLAGS)
        }
        Place::ReplySource | Place::ReplyDestination => (CTA_TUPLE_REPLY, CTA_FILTER_REPLY_FLAGS),
    };
    let is_source = matches!(place, Place::OriginalSource | Place::ReplySource);
    let flag = if is_source {
        FILTER_IP_SRC
    } else {
        FILTER_IP_DST
    };
    nested(&mut body, tuple, |out| {
        nested(out, CTA_TUPLE_IP, |out| ip(out, address, is_source));
    });
    nested(&mut body, CTA_FILTER, |out| {
        attribute(out, flags, &flag.to_ne_bytes());
    });
    body
}

/// Adds the request that deletes one entry. It always has a tuple: without one the kernel deletes everything.
pub(super) fn delete(batch: &mut Batch, entry: &ConntrackEntry) {
    batch.push_with(DELETE, 0, |out| {
        header(out, Some(entry.family()));
        tuple(out, CTA_TUPLE_ORIG, entry.protocol, &entry.original);
        attribute(out, CTA_ID, &entry.id.to_be_bytes());
        zone(out, entry.zone);
    });
}

impl ConntrackEntry {
    /// Reads the body of a message as the kernel tells of an entry. `None` when an address or the protocol is
    /// missing or the two directions don't belong together.
    #[must_use]
    pub fn read(body: &[u8]) -> Option<Self> {
        let (mut original, mut reply) = (None, None);
        let mut entry = Rest::default();
        for (kind, value) in Attributes(body.get(NFGENMSG..)?) {
            match kind {
                CTA_TUPLE_ORIG => original = Some(read_tuple(value)?),
                CTA_TUPLE_REPLY => reply = Some(read_tuple(value)?),
                CTA_STATUS => entry.status = be32(value)?,
                CTA_PROTOINFO => entry.tcp_state = read_tcp_state(value),
                CTA_TIMEOUT => entry.timeout = be32(value)?,
                CTA_MARK => entry.mark = be32(value)?,
                CTA_ID => entry.id = Some(be32(value)?),
                CTA_ZONE => entry.zone = be16(value)?,
                _ => {}
            }
        }
        let ((protocol, original), (protocol_back, reply)) = (original?, reply?);
        let families = [original.source, reply.source].map(Family::of);
        if protocol != protocol_back || families[0] != families[1] {
            return None;
        }
        Some(Self {
            protocol,
            original,
            reply,
            zone: entry.zone,
            mark: entry.mark,
            id: entry.id?,
            tcp_state: entry.tcp_state,
            status: Status(entry.status),
            timeout: entry.timeout,
        })
    }

    /// Appends the body that [`Self::read`] reads; what the kernel takes as an entry to be made, too, but that it
    /// gives the entry an id of its own.
    pub fn write(&self, out: &mut Vec<u8>) {
        header(out, Some(self.family()));
        tuple(out, CTA_TUPLE_ORIG, self.protocol, &self.original);
        tuple(out, CTA_TUPLE_REPLY, self.protocol, &self.reply);
        attribute(out, CTA_STATUS, &self.status.0.to_be_bytes());
        attribute(out, CTA_TIMEOUT, &self.timeout.to_be_bytes());
        if let Some(TcpState(state)) = self.tcp_state {
            nested(out, CTA_PROTOINFO, |out| {
                nested(out, CTA_PROTOINFO_TCP, |out| {
                    attribute(out, CTA_PROTOINFO_TCP_STATE, &[state]);
                });
            });
        }
        if self.mark != 0 {
            attribute(out, CTA_MARK, &self.mark.to_be_bytes());
        }
        attribute(out, CTA_ID, &self.id.to_be_bytes());
        zone(out, self.zone);
    }
}

/// What an entry has beside its tuples.
#[derive(Default)]
struct Rest {
    zone: u16,
    mark: u32,
    id: Option<u32>,
    tcp_state: Option<TcpState>,
    status: u32,
    timeout: u32,
}

/// Struct nfgenmsg: family, version 0, no resource.
fn header(out: &mut Vec<u8>, family: Option<Family>) {
    let family = match family {
        None => 0,
        Some(Family::V4) => INET,
        Some(Family::V6) => INET6,
    };
    out.extend_from_slice(&[family, 0, 0, 0]);
}

/// A kernel without zones refuses to hear even of the one that it has.
fn zone(out: &mut Vec<u8>, zone: u16) {
    if zone != 0 {
        attribute(out, CTA_ZONE, &zone.to_be_bytes());
    }
}

fn tuple(out: &mut Vec<u8>, kind: u16, protocol: u8, tuple: &Tuple) {
    nested(out, kind, |out| {
        nested(out, CTA_TUPLE_IP, |out| {
            ip(out, tuple.source, true);
            ip(out, tuple.destination, false);
        });
        nested(out, CTA_TUPLE_PROTO, |out| {
            attribute(out, CTA_PROTO_NUM, &[protocol]);
            ports(out, protocol, tuple.ports);
        });
        if let Some(zone) = tuple.zone {
            attribute(out, CTA_TUPLE_ZONE, &zone.to_be_bytes());
        }
    });
}

fn ip(out: &mut Vec<u8>, address: IpAddr, is_source: bool) {
    match (address, is_source) {
        (IpAddr::V4(ip), true) => attribute(out, CTA_IP_V4_SRC, &ip.octets()),
        (IpAddr::V4(ip), false) => attribute(out, CTA_IP_V4_DST, &ip.octets()),
        (IpAddr::V6(ip), true) => attribute(out, CTA_IP_V6_SRC, &ip.octets()),
        (IpAddr::V6(ip), false) => attribute(out, CTA_IP_V6_DST, &ip.octets()),
    }
}

fn ports(out: &mut Vec<u8>, protocol: u8, ports: Ports) {
    match ports {
        Ports::Ports {
            source,
            destination,
        } => {
            attribute(out, CTA_PROTO_SRC_PORT, &source.to_be_bytes());
            attribute(out, CTA_PROTO_DST_PORT, &destination.to_be_bytes());
        }
        Ports::Icmp { id, kind, code } => {
            let kinds = if protocol == ICMPV6 {
                [
                    CTA_PROTO_ICMPV6_ID,
                    CTA_PROTO_ICMPV6_TYPE,
                    CTA_PROTO_ICMPV6_CODE,
                ]
            } else {
                [CTA_PROTO_ICMP_ID, CTA_PROTO_ICMP_TYPE, CTA_PROTO_ICMP_CODE]
            };
            attribute(out, kinds[0], &id.to_be_bytes());
            attribute(out, kinds[1], &[kind]);
            attribute(out, kinds[2], &[code]);
        }
        Ports::None => {}
    }
}

fn read_tuple(value: &[u8]) -> Option<(u8, Tuple)> {
    let (mut addresses, mut proto, mut zone) = (None, None, None);
    for (kind, value) in Attributes(value) {
        match kind {
            CTA_TUPLE_IP => addresses = read_addresses(value),
            CTA_TUPLE_PROTO => proto = read_proto(value),
            CTA_TUPLE_ZONE => zone = Some(be16(value)?),
            _ => {}
        }
    }
    let ((source, destination), (protocol, ports)) = (addresses?, proto?);
    let tuple = Tuple {
        source,
        destination,
        ports,
        zone,
    };
    Some((protocol, tuple))
}

fn read_addresses(value: &[u8]) -> Option<(IpAddr, IpAddr)> {
    let (mut source, mut destination) = (None, None);
    for (kind, value) in Attributes(value) {
        match kind {
            CTA_IP_V4_SRC => source = v4(value),
            CTA_IP_V4_DST => destination = v4(value),
            CTA_IP_V6_SRC => source = v6(value),
            CTA_IP_V6_DST => destination = v6(value),
            _ => {}
        }
    }
    let (source, destination) = (source?, destination?);
    (Family::of(source) == Family::of(destination)).then_some((source, destination))
}

fn read_proto(value: &[u8]) -> Option<(u8, Ports)> {
    let (mut protocol, mut from, mut to) = (None, None, None);
    let (mut id, mut message, mut code) = (None, None, None);
    for (kind, value) in Attributes(value) {
        match kind {
            CTA_PROTO_NUM => protocol = value.first().copied(),
            CTA_PROTO_SRC_PORT => from = be16(value),
            CTA_PROTO_DST_PORT => to = be16(value),
            CTA_PROTO_ICMP_ID | CTA_PROTO_ICMPV6_ID => id = be16(value),
            CTA_PROTO_ICMP_TYPE | CTA_PROTO_ICMPV6_TYPE => message = value.first().copied(),
            CTA_PROTO_ICMP_CODE | CTA_PROTO_ICMPV6_CODE => code = value.first().copied(),
            _ => {}
        }
    }
    let ports = match ((from, to), (id, message, code)) {
        ((Some(source), Some(destination)), _) => Ports::Ports {
            source,
            destination,
        },
        (_, (Some(id), Some(kind), Some(code))) => Ports::Icmp { id, kind, code },
        _ => Ports::None,
    };
    Some((protocol?, ports))
}

fn read_tcp_state(value: &[u8]) -> Option<TcpState> {
    let (_, tcp) = Attributes(value).find(|(kind, _)| *kind == CTA_PROTOINFO_TCP)?;
    let (_, state) = Attributes(tcp).find(|(kind, _)| *kind == CTA_PROTOINFO_TCP_STATE)?;
    state.first().copied().map(TcpState)
}

fn v4(value: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(value).ok().map(IpAddr::from)
}

fn v6(value: &[u8]) -> Option<IpAddr> {
    <[u8; 16]>::try_from(value).ok().map(IpAddr::from)
}

fn be16(value: &[u8]) -> Option<u16> {
    value.try_into().ok().map(u16::from_be_bytes)
}

fn be32(value: &[u8]) -> Option<u32> {
    value.try_into().ok().map(u32::from_be_bytes)
}

#[cfg(test)]
mod tests;
