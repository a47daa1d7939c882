//! Route and next-hop messages, written and read by hand: what we ask of the kernel and what a dump says, as plain values.

use std::net::IpAddr;
use std::num::NonZeroU8;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};

use crate::batch::{Attributes, Batch, attribute, half, word};
use crate::{Gateway, METRIC, PROTOCOL};

pub(crate) const RTM_NEWROUTE: u16 = 24;
pub(crate) const RTM_DELROUTE: u16 = 25;
pub(crate) const RTM_GETROUTE: u16 = 26;
pub(crate) const RTM_NEWNEXTHOP: u16 = 104;
pub(crate) const RTM_DELNEXTHOP: u16 = 105;
pub(crate) const RTM_GETNEXTHOP: u16 = 106;
/// Table main's number.
pub(crate) const TABLE_MAIN: u8 = 254;
/// AF_INET.
pub(crate) const INET: u8 = 2;
/// AF_INET6.
pub(crate) const INET6: u8 = 10;
/// Bytes of struct rtmsg.
const RTMSG: usize = 12;
/// Bytes of struct nhmsg.
const NHMSG: usize = 8;

const RTN_UNICAST: u8 = 1;
const RTN_BLACKHOLE: u8 = 6;
const SCOPE_UNIVERSE: u8 = 0;
const SCOPE_LINK: u8 = 253;
const SCOPE_NOWHERE: u8 = 255;
const RTM_F_CLONED: u32 = 0x200;
/// RTNH_F_DEAD and RTNH_F_LINKDOWN.
const DEAD: u8 = 1 | 16;
/// The gateway is on the link, whatever other routes say.
const RTNH_F_ONLINK: u32 = 4;
const RTM_F_FIB_MATCH: u32 = 0x2000;

const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_MULTIPATH: u16 = 9;
const RTA_TABLE: u16 = 15;
const RTA_VIA: u16 = 18;
const RTA_ENCAP: u16 = 22;
const RTA_NH_ID: u16 = 30;

const NHA_ID: u16 = 1;
const NHA_GROUP: u16 = 2;
const NHA_OIF: u16 = 5;
const NHA_GATEWAY: u16 = 6;

/// Where a route goes, in the kernel's terms and in one form only, so that two can be compared.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Shape {
    /// Next hops in the route itself, sorted, none twice.
    Gateways(Vec<Gateway>),
    /// The id of a next-hop group.
    Group(u32),
    /// A gateway taken to be on this link (RTNH_F_ONLINK).
    Onlink(IpAddr, u32),
    /// Interface index.
    Device(u32),
    Blackhole,
    /// Bears our mark but has a shape we never write.
    Strange,
}

impl Shape {
    /// Whether this, read from the kernel, is what `wanted` asks for; a link that was left to the
    /// kernel may be any.
    pub(crate) fn satisfies(&self, wanted: &Self) -> bool {
        let (Self::Gateways(have), Self::Gateways(want)) = (self, wanted) else {
            return self == wanted;
        };
        let alone = want.len() == 1;
        have.len() == want.len()
            && have.iter().zip(want).all(|(have, want)| {
                have.address == want.address
                    && (have.weight == want.weight || alone)
                    && (want.link.is_none() || have.link == want.link)
            })
    }
}

/// What a shape adds to a route's message, encoded once for all routes that share it.
#[derive(Debug, Default, Clone)]
pub(crate) struct Encoded {
    scope: u8,
    kind: u8,
    flags: u32,
    v4: Vec<u8>,
    v6: Vec<u8>,
}

impl Encoded {
    pub(crate) fn new(shape: &Shape) -> Self {
        let mut encoded = Self {
            scope: SCOPE_UNIVERSE,
            kind: RTN_UNICAST,
            ..Self::default()
        };
        match shape {
            Shape::Gateways(gateways) => {
                via(&mut encoded.v4, INET, gateways);
                via(&mut encoded.v6, INET6, gateways);
            }
            Shape::Group(id) => {
                attribute(&mut encoded.v4, RTA_NH_ID, &id.to_ne_bytes());
                encoded.v6.clone_from(&encoded.v4);
            }
            Shape::Onlink(address, link) => {
                encoded.flags = RTNH_F_ONLINK;

                let gateway = [Gateway::new(*address).on_link(*link)];
                via(&mut encoded.v4, INET, &gateway);
                via(&mut encoded.v6, INET6, &gateway);
            }
            Shape::Device(index) => {
                encoded.scope = SCOPE_LINK;
                attribute(&mut encoded.v4, RTA_OIF, &index.to_ne_bytes());
                encoded.v6.clone_from(&encoded.v4);
            }
            Shape::Blackhole | Shape::Strange => encoded.kind = RTN_BLACKHOLE,
        }
        encoded
    }
}

/// Adds the request that installs a route. `fresh`: the kernel has none of ours at this key, so
/// whatever is there is another's and must not be overwritten (EEXIST says so).
pub(crate) fn install(batch: &mut Batch, prefix: IpNet, to: &Encoded, fresh: bool) {
    let flags = NLM_F_CREATE | if fresh { NLM_F_EXCL } else { NLM_F_REPLACE };
    let tail = if is_v4(prefix) { &to.v4 } else { &to.v6 };
    batch.push_with(RTM_NEWROUTE, flags, |out| {
        marked(out, prefix, to);
        out.extend_from_slice(tail);
    });
}

/// Adds the request that deletes a route of ours: table, protocol and metric always stand in it,
/// since without the metric the kernel takes the lowest one, whoever's it is.
pub(crate) fn remove(batch: &mut Batch, prefix: IpNet) {
    batch.push_with(RTM_DELROUTE, 0, |out| {
        let any = Encoded {
            scope: SCOPE_NOWHERE,
            ..Encoded::default()
        };
        marked(out, prefix, &any);
    });
}

/// The body of a dump of table main.
pub(crate) fn all_routes(family: u8) -> Vec<u8> {
    let mut body = vec![family, 0, 0, 0, TABLE_MAIN, 0, 0, 0, 0, 0, 0, 0];
    attribute(&mut body, RTA_TABLE, &u32::from(TABLE_MAIN).to_ne_bytes());
    body
}

/// The body of a dump of next-hop objects.
pub(crate) fn all_nexthops() -> Vec<u8> {
    vec![0; NHMSG]
}

/// Adds the question by which route the kernel reaches an address.
pub(crate) fn look_up(batch: &mut Batch, address: IpAddr) {
    batch.push_with(RTM_GETROUTE, 0, |out| {
        let (family, bits) = if address.is_ipv4() {
            (INET, 32)
        } else {
            (INET6, 128)
        };
        out.extend_from_slice(&[family, bits, 0, 0, 0, 0, 0, 0]);
        out.extend_from_slice(&RTM_F_FIB_MATCH.to_ne_bytes());
        address_attribute(out, RTA_DST, address);
    });
}

/// Adds the request for a next-hop object of one gateway.
pub(crate) fn install_single(batch: &mut Batch, id: u32, address: IpAddr, link: u32) {
    batch.push_with(RTM_NEWNEXTHOP, NLM_F_CREATE | NLM_F_EXCL, |out| {
        let family = if address.is_ipv4() { INET } else { INET6 };
        out.extend_from_slice(&[family, SCOPE_UNIVERSE, PROTOCOL, 0, 0, 0, 0, 0]);
        attribute(out, NHA_ID, &id.to_ne_bytes());
        attribute(out, NHA_OIF, &link.to_ne_bytes());
        address_attribute(out, NHA_GATEWAY, address);
    });
}

/// Adds the request for a group of next-hop objects; not `fresh`: the group is ours and changes in place.
pub(crate) fn install_group(batch: &mut Batch, id: u32, members: &[(u32, NonZeroU8)], fresh: bool) {
    let flags = NLM_F_CREATE | if fresh { NLM_F_EXCL } else { NLM_F_REPLACE };
    batch.push_with(RTM_NEWNEXTHOP, flags, |out| {
        out.extend_from_slice(&[0, SCOPE_UNIVERSE, PROTOCOL, 0, 0, 0, 0, 0]);
        attribute(out, NHA_ID, &id.to_ne_bytes());
        let mut list = Vec::with_capacity(members.len() * 8);
        for (member, weight) in members {
            list.extend_from_slice(&member.to_ne_bytes());
            list.extend_from_slice(&[weight.get() - 1, 0, 0, 0]);
        }
        attribute(out, NHA_GROUP, &list);
    });
}

/// Adds the request that deletes a next-hop object, and with it every route that uses it.
pub(crate) fn remove_nexthop(batch: &mut Batch, id: u32) {
    batch.push_with(RTM_DELNEXTHOP, 0, |out| {
        out.extend_from_slice(&[0; NHMSG]);
        attribute(out, NHA_ID, &id.to_ne_bytes());
    });
}

/// One route as a dump or a notice tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Dumped {
    pub prefix: IpNet,
    pub protocol: u8,
    pub metric: u32,
    pub shape: Shape,
    /// An ordinary route, not one that refuses or is for this host itself.
    pub unicast: bool,
    /// The interface it names, if it names one.
    pub device: Option<u32>,
}

impl Dumped {
    pub(crate) fn is_ours(&self) -> bool {
        self.protocol == PROTOCOL && self.metric == METRIC
    }
}

/// Reads a route message; `None` for what is no key of table main that we could write.
pub(crate) fn read(payload: &[u8]) -> Option<Dumped> {
    let &[family, bits, _, tos, table, protocol, _, kind, ..] = payload else {
        return None;
    };
    let flags = word(payload, 8)?;
    if table != TABLE_MAIN || tos != 0 || flags & RTM_F_CLONED != 0 {
        return None;
    }
    let mut route = read_any(payload.get(RTMSG..)?, (family, bits, protocol, kind))?;
    if flags & RTNH_F_ONLINK != 0
        && let Shape::Gateways(gateways) = &route.shape
        && let [
            Gateway {
                address,
                link: Some(link),
                ..
            },
        ] = gateways.as_slice()
    {
        route.shape = Shape::Onlink(*address, *link);
    }
    Some(route)
}

/// Whether the kernel itself would use a route: some next hop of it has a link that is up.
pub(crate) fn is_alive(payload: &[u8]) -> bool {
    let dead = word(payload, 8).is_some_and(|flags| flags & u32::from(DEAD) != 0);
    let attributes = payload.get(RTMSG..).unwrap_or_default();
    let Some((_, mut rest)) = Attributes(attributes).find(|(kind, _)| *kind == RTA_MULTIPATH)
    else {
        return !dead;
    };
    // Struct rtnexthop: length, flags.
    while let (Some(length), Some(flags)) = (half(rest, 0), rest.get(2)) {
        if flags & DEAD == 0 {
            return true;
        }
        let length = usize::from(length.max(8)).next_multiple_of(4);
        rest = rest.get(length..).unwrap_or_default();
    }
    false
}

/// Reads the answer to [`look_up`]: the interface behind which the address is, if it is on-link.
pub(crate) fn read_on_link(payload: &[u8]) -> Option<u32> {
    let mut link = None;
    for (kind, value) in Attributes(payload.get(RTMSG..)?) {
        match kind {
            RTA_GATEWAY | RTA_VIA | RTA_MULTIPATH => return None,
            RTA_OIF => link = word(value, 0),
            _ => {}
        }
    }
    link.filter(|_| payload.get(7) == Some(&RTN_UNICAST))
}

/// A next-hop object as a dump tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DumpedNexthop {
    pub id: u32,
    pub protocol: u8,
    pub to: Nexthop,
}

/// What a next-hop object holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Nexthop {
    Single(IpAddr, u32),
    Group(Vec<(u32, NonZeroU8)>),
    /// A kind we never write.
    Other,
}

/// Reads a next-hop message.
pub(crate) fn read_nexthop(payload: &[u8]) -> Option<DumpedNexthop> {
    let protocol = *payload.get(2)?;
    let (mut id, mut link, mut address, mut group) = (None, None, None, None);
    for (kind, value) in Attributes(payload.get(NHMSG..)?) {
        match kind {
            NHA_ID => id = word(value, 0),
            NHA_OIF => link = word(value, 0),
            NHA_GATEWAY => address = ip(value),
            NHA_GROUP => group = Some(members(value)),
            _ => {}
        }
    }
    let to = match (address, link, group) {
        (_, _, Some(members)) => Nexthop::Group(members),
        (Some(address), Some(link), None) => Nexthop::Single(address, link),
        _ => Nexthop::Other,
    };
    Some(DumpedNexthop {
        id: id?,
        protocol,
        to,
    })
}

fn members(value: &[u8]) -> Vec<(u32, NonZeroU8)> {
    let member = |entry: &[u8]| {
        let weight = NonZeroU8::MIN.saturating_add(*entry.get(4)?);
        Some((word(entry, 0)?, weight))
    };
    value.chunks_exact(8).filter_map(member).collect()
}

fn read_any(attributes: &[u8], fixed: (u8, u8, u8, u8)) -> Option<Dumped> {
    let (family, bits, protocol, kind) = fixed;
    let nowhere = match family {
        INET => IpAddr::from([0; 4]),
        INET6 => IpAddr::from([0; 16]),
        _ => return None,
    };
    let (mut address, mut metric, mut device) = (nowhere, 0, None);
    let (mut gateways, mut group, mut strange) = (Vec::new(), None, false);
    for (kind, value) in Attributes(attributes) {
        match kind {
            RTA_DST => address = ip(value)?,
            RTA_PRIORITY => metric = word(value, 0)?,
            RTA_OIF => device = word(value, 0),
            RTA_GATEWAY | RTA_VIA => gateways.extend(gateway(kind, value).map(Gateway::new)),
            RTA_MULTIPATH => match hops(value) {
                Some(hops) => gateways.extend(hops),
                None => strange = true,
            },
            RTA_NH_ID => group = word(value, 0),
            // A lightweight tunnel changes where packets go.
            RTA_ENCAP => strange = true,
            _ => {}
        }
    }
    if let [only] = gateways.as_mut_slice() {
        only.link = only.link.or(device);
    }
    gateways.sort_unstable();
    let shape = match (kind, group, device) {
        _ if strange => Shape::Strange,
        (RTN_BLACKHOLE, None, _) => Shape::Blackhole,
        // Beside the id the kernel tells what the objects hold, too.
        (RTN_UNICAST, Some(id), _) => Shape::Group(id),
        (RTN_UNICAST, None, _) if !gateways.is_empty() => Shape::Gateways(gateways),
        (RTN_UNICAST, None, Some(index)) => Shape::Device(index),
        _ => Shape::Strange,
    };
    Some(Dumped {
        prefix: IpNet::new(address, bits).ok()?,
        protocol,
        metric,
        shape,
        unicast: kind == RTN_UNICAST,
        device,
    })
}

/// Reads RTA_MULTIPATH: each next hop is a struct rtnexthop (length, flags, hops, interface) and attributes.
fn hops(mut rest: &[u8]) -> Option<Vec<Gateway>> {
    let mut all = Vec::new();
    while !rest.is_empty() {
        let length = usize::from(half(rest, 0)?);
        let hops = *rest.get(3)?;
        let link = word(rest, 4)?;
        let mut found = Attributes(rest.get(8..length)?);
        let address = found.find_map(|(kind, value)| gateway(kind, value))?;
        all.push(Gateway {
            address,
            link: (link != 0).then_some(link),
            weight: NonZeroU8::MIN.saturating_add(hops),
        });
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Some(all)
}

fn gateway(kind: u16, value: &[u8]) -> Option<IpAddr> {
    match kind {
        RTA_GATEWAY => ip(value),
        // Struct rtvia: two bytes of family, then the address.
        RTA_VIA => ip(value.get(2..)?),
        _ => None,
    }
}

fn ip(value: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(value) {
        return Some(v4.into());
    }
    <[u8; 16]>::try_from(value).ok().map(IpAddr::from)
}

fn marked(out: &mut Vec<u8>, prefix: IpNet, to: &Encoded) {
    let family = if is_v4(prefix) { INET } else { INET6 };
    let bits = prefix.prefix_len();
    out.extend_from_slice(&[family, bits, 0, 0, TABLE_MAIN, PROTOCOL, to.scope, to.kind]);
    out.extend_from_slice(&to.flags.to_ne_bytes());
    address_attribute(out, RTA_DST, prefix.addr());
    attribute(out, RTA_PRIORITY, &METRIC.to_ne_bytes());
}

fn via(out: &mut Vec<u8>, family: u8, gateways: &[Gateway]) {
    if let [only] = gateways {
        hop(out, family, only.address);
        if let Some(link) = only.link {
            attribute(out, RTA_OIF, &link.to_ne_bytes());
        }
        return;
    }
    let mut list = Vec::new();
    for gateway in gateways {
        let mut attributes = Vec::new();
        hop(&mut attributes, family, gateway.address);
        let length = u16::try_from(8 + attributes.len()).unwrap_or(u16::MAX);
        list.extend_from_slice(&length.to_ne_bytes());
        list.extend_from_slice(&[0, gateway.weight.get() - 1]);
        list.extend_from_slice(&gateway.link.unwrap_or(0).to_ne_bytes());
        list.extend_from_slice(&attributes);
    }
    attribute(out, RTA_MULTIPATH, &list);
}

fn hop(out: &mut Vec<u8>, family: u8, address: IpAddr) {
    match address {
        // RFC 8950: an IPv4 prefix by an IPv6 next hop.
        IpAddr::V6(ip) if family == INET => {
            let mut via = u16::from(INET6).to_ne_bytes().to_vec();
            via.extend_from_slice(&ip.octets());
            attribute(out, RTA_VIA, &via);
        }
        _ => address_attribute(out, RTA_GATEWAY, address),
    }
}

fn address_attribute(out: &mut Vec<u8>, kind: u16, address: IpAddr) {
    match address {
        IpAddr::V4(ip) => attribute(out, kind, &ip.octets()),
        IpAddr::V6(ip) => attribute(out, kind, &ip.octets()),
    }
}

fn is_v4(prefix: IpNet) -> bool {
    matches!(prefix, IpNet::V4(_))
}

#[cfg(test)]
mod tests;
