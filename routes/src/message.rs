//! Route messages: what we ask of the kernel and what a dump says, both as plain values.

use std::net::IpAddr;
use std::num::NonZeroU8;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteNextHop,
    RouteProtocol, RouteScope, RouteType, RouteVia,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::{Gateway, METRIC, PROTOCOL};

/// Where a route goes, in the kernel's terms and in one form only, so that two can be compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Installed {
    /// Next hops, sorted, none twice.
    Gateways(Vec<Gateway>),
    /// Interface index.
    Device(u32),
    Blackhole,
    /// Bears our mark but has a shape we never write.
    Strange,
}

/// One route of the dump.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Dumped {
    pub prefix: IpNet,
    pub protocol: u8,
    pub metric: u32,
    pub installed: Installed,
}

impl Installed {
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

impl Dumped {
    pub(crate) fn is_ours(&self) -> bool {
        self.protocol == PROTOCOL && self.metric == METRIC
    }
}

/// The request and flags that install a route. `fresh`: the kernel has none of ours at this key,
/// so whatever is there is another's and must not be overwritten (EEXIST says so).
pub(crate) fn install(prefix: IpNet, to: &Installed, fresh: bool) -> (RouteNetlinkMessage, u16) {
    let mut route = marked(prefix);
    route.header.kind = RouteType::Unicast;
    match to {
        Installed::Gateways(gateways) => via_gateways(&mut route, gateways),
        Installed::Device(index) => {
            route.header.scope = RouteScope::Link;
            route.attributes.push(RouteAttribute::Oif(*index));
        }
        Installed::Blackhole | Installed::Strange => route.header.kind = RouteType::BlackHole,
    }
    let flags = NLM_F_CREATE | if fresh { NLM_F_EXCL } else { NLM_F_REPLACE };
    (RouteNetlinkMessage::NewRoute(route), flags)
}

/// The request that deletes a route of ours: table, protocol and metric always stand in it, since
/// without the metric the kernel takes the lowest one, whoever's it is.
pub(crate) fn remove(prefix: IpNet) -> RouteNetlinkMessage {
    let mut route = marked(prefix);
    route.header.scope = RouteScope::NoWhere;
    RouteNetlinkMessage::DelRoute(route)
}

/// The request for a dump of table main; `ours` lets the kernel leave out other protocols.
pub(crate) fn dump(family: AddressFamily, ours: bool) -> RouteNetlinkMessage {
    let mut route = RouteMessage::default();
    route.header.address_family = family;
    route.header.table = RouteHeader::RT_TABLE_MAIN;
    if ours {
        route.header.protocol = RouteProtocol::Other(PROTOCOL);
    }
    let table = u32::from(RouteHeader::RT_TABLE_MAIN);
    route.attributes.push(RouteAttribute::Table(table));
    RouteNetlinkMessage::GetRoute(route)
}

/// Reads one message of a dump; `None` for what is no key of table main that we could write.
pub(crate) fn read(message: &RouteNetlinkMessage) -> Option<Dumped> {
    let RouteNetlinkMessage::NewRoute(route) = message else {
        return None;
    };
    let header = &route.header;
    let cloned = header.flags.contains(RouteFlags::Cloned);
    if header.table != RouteHeader::RT_TABLE_MAIN || header.tos != 0 || cloned {
        return None;
    }
    let nowhere = match header.address_family {
        AddressFamily::Inet => IpAddr::from([0; 4]),
        AddressFamily::Inet6 => IpAddr::from([0; 16]),
        _ => return None,
    };
    let (mut address, mut metric) = (nowhere, 0);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(ip)) => address = (*ip).into(),
            RouteAttribute::Destination(RouteAddress::Inet6(ip)) => address = (*ip).into(),
            RouteAttribute::Priority(value) => metric = *value,
            _ => {}
        }
    }
    Some(Dumped {
        prefix: IpNet::new(address, header.destination_prefix_length).ok()?,
        protocol: header.protocol.into(),
        metric,
        installed: installed(route),
    })
}

fn marked(prefix: IpNet) -> RouteMessage {
    let mut route = RouteMessage::default();
    route.header.address_family = match prefix {
        IpNet::V4(_) => AddressFamily::Inet,
        IpNet::V6(_) => AddressFamily::Inet6,
    };
    route.header.destination_prefix_length = prefix.prefix_len();
    route.header.table = RouteHeader::RT_TABLE_MAIN;
    route.header.protocol = RouteProtocol::Other(PROTOCOL);
    route
        .attributes
        .push(RouteAttribute::Destination(prefix.network().into()));
    route.attributes.push(RouteAttribute::Priority(METRIC));
    route
}

fn via_gateways(route: &mut RouteMessage, gateways: &[Gateway]) {
    let family = route.header.address_family;
    let hop = |gateway: &Gateway| match (family, gateway.address) {
        // RFC 8950: an IPv4 prefix by an IPv6 next hop.
        (AddressFamily::Inet, IpAddr::V6(ip)) => RouteAttribute::Via(RouteVia::Inet6(ip)),
        (_, address) => RouteAttribute::Gateway(address.into()),
    };
    if let [only] = gateways {
        route.attributes.push(hop(only));
        route.attributes.extend(only.link.map(RouteAttribute::Oif));
        return;
    }
    let hops = gateways.iter().map(|gateway| {
        let mut next = RouteNextHop::default();
        next.hops = gateway.weight.get() - 1;
        next.interface_index = gateway.link.unwrap_or(0);
        next.attributes.push(hop(gateway));
        next
    });
    route
        .attributes
        .push(RouteAttribute::MultiPath(hops.collect()));
}

fn installed(route: &RouteMessage) -> Installed {
    match route.header.kind {
        RouteType::BlackHole => return Installed::Blackhole,
        RouteType::Unicast => {}
        _ => return Installed::Strange,
    }
    let mut device = None;
    let mut gateways = Vec::new();
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(index) => device = Some(*index),
            RouteAttribute::MultiPath(hops) => {
                for hop in hops {
                    let Some(address) = hop.attributes.iter().find_map(gateway) else {
                        return Installed::Strange;
                    };
                    gateways.push(Gateway {
                        address,
                        link: (hop.interface_index != 0).then_some(hop.interface_index),
                        weight: NonZeroU8::MIN.saturating_add(hop.hops),
                    });
                }
            }
            // A lightweight tunnel or a next-hop object changes where packets go.
            RouteAttribute::Encap(_) | RouteAttribute::NhId(_) => return Installed::Strange,
            other => gateways.extend(gateway(other).map(Gateway::new)),
        }
    }
    if let [only] = gateways.as_mut_slice() {
        only.link = only.link.or(device);
    }
    gateways.sort_unstable();
    gateways.dedup();
    match (gateways.is_empty(), device) {
        (false, _) => Installed::Gateways(gateways),
        (true, Some(index)) => Installed::Device(index),
        (true, None) => Installed::Strange,
    }
}

fn gateway(attribute: &RouteAttribute) -> Option<IpAddr> {
    match attribute {
        RouteAttribute::Gateway(RouteAddress::Inet(ip)) => Some((*ip).into()),
        RouteAttribute::Gateway(RouteAddress::Inet6(ip)) => Some((*ip).into()),
        RouteAttribute::Via(RouteVia::Inet(ip)) => Some((*ip).into()),
        RouteAttribute::Via(RouteVia::Inet6(ip)) => Some((*ip).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_reads_back_as_it_was_written() {
        let gateways = |list: &[&str]| {
            let gateway = |ip: &&str| Gateway::new(ip.parse().unwrap());
            Installed::Gateways(list.iter().map(gateway).collect())
        };
        let cases = [
            ("10.1.0.0/16", gateways(&["192.0.2.1"])),
            ("10.1.0.0/16", gateways(&["192.0.2.1", "192.0.2.2"])),
            ("10.1.0.0/16", gateways(&["2001:db8::1"])),
            ("2001:db8:1::/48", gateways(&["2001:db8::1", "2001:db8::2"])),
            ("10.1.0.4/32", Installed::Device(7)),
            ("2001:db8:1::4/128", Installed::Device(7)),
            ("10.1.0.0/24", Installed::Blackhole),
            ("0.0.0.0/0", gateways(&["192.0.2.1"])),
        ];
        for (prefix, to) in cases {
            let prefix: IpNet = prefix.parse().unwrap();
            let dumped = read(&install(prefix, &to, true).0).unwrap();
            assert_eq!((dumped.prefix, &dumped.installed), (prefix, &to));
            assert!(dumped.is_ours());
        }
    }

    #[test]
    fn a_deletion_names_table_protocol_and_metric() {
        let RouteNetlinkMessage::DelRoute(route) = remove("10.1.0.0/16".parse().unwrap()) else {
            panic!("not a deletion");
        };
        assert_eq!(route.header.table, RouteHeader::RT_TABLE_MAIN);
        assert_eq!(route.header.protocol, RouteProtocol::Other(PROTOCOL));
        assert!(route.attributes.contains(&RouteAttribute::Priority(METRIC)));
    }
}
