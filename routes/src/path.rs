//! The way out of this host: which interfaces lead to peers, to other nodes and everywhere else, and the least MTU among them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::route::{RouteAttribute, RouteFlags, RouteMessage, RouteMetric};

use crate::batch::Batch;
use crate::conn::{Conn, parse};
use crate::links::{self, LINK_PREFIX, LinkInfo, SHAPER_PREFIX, blocking};
use crate::{Error, IPIP, TUNNEL, WIREGUARD, pod};

/// Addresses that no narrower route than a default one covers: reserved (RFC 1112 §4), and of the former 6bone (RFC 3701),
/// which lies in 2000::/3, another way to write a default route.
const EVERYWHERE: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(240, 0, 0, 1)),
    IpAddr::V6(Ipv6Addr::new(0x3ffe, 0, 0, 0, 0, 0, 0, 1)),
];

/// What the way out must lead to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ways {
    /// This node's own addresses: an interface that holds one leads to other nodes.
    pub own: BTreeSet<IpAddr>,
    /// Addresses of peers and other nodes.
    pub to: BTreeSet<IpAddr>,
    /// Interfaces on which peers are, known by name only.
    pub interfaces: BTreeSet<String>,
}

/// The narrowest part of the way out.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PathMtu {
    /// MTU in bytes.
    pub mtu: u32,
    /// Which interface it is of.
    pub interface: String,
}

/// Finds the least MTU on the way out; `None` when nothing leads out.
///
/// Counted are interfaces that are up and not loopback, dummy, or a pod's; a route's own MTU counts, too.
///
/// # Errors
/// When the kernel can't be asked.
pub async fn path_mtu(ways: &Ways) -> Result<Option<PathMtu>, Error> {
    let mut conn = Conn::open()?;
    let ways = ways.clone();
    blocking(move || find(&mut conn, &ways)).await
}

fn find(conn: &mut Conn, ways: &Ways) -> Result<Option<PathMtu>, Error> {
    let links = links::dump(conn)?;
    let mut found: BTreeMap<u32, Option<u32>> = BTreeMap::new();
    let named = links.iter().filter(|l| ways.interfaces.contains(&l.name));
    found.extend(named.map(|link| (link.index, None)));
    let holders = holders(conn, &ways.own)?;
    found.extend(holders.into_iter().map(|index| (index, None)));
    for (index, mtu) in leading_to(conn, EVERYWHERE.iter().chain(&ways.to))? {
        let known = found.entry(index).or_default();
        *known = [*known, mtu].into_iter().flatten().min();
    }
    let counted = links.iter().filter(|link| leads_out(link));
    let parts = counted.filter_map(|link| {
        let by_route = *found.get(&link.index)?;
        Some(PathMtu {
            mtu: by_route.map_or(link.mtu, |mtu| mtu.min(link.mtu)),
            interface: link.name.clone(),
        })
    });
    Ok(parts.min())
}

fn leads_out(link: &LinkInfo) -> bool {
    let of_pods = [LINK_PREFIX, SHAPER_PREFIX];
    let of_pod = matches!(link.kind.as_str(), "veth" | "ifb")
        && of_pods.iter().any(|prefix| link.name.starts_with(prefix));
    let inner = link.kind == "dummy"
        || [TUNNEL, IPIP].contains(&link.name.as_str())
        || WIREGUARD.contains(&link.name.as_str());
    link.up && !link.loopback && !inner && !of_pod
}

/// The subnets of the interfaces that hold this address of the node's own, link-local ones not counted.
///
/// # Errors
/// When the kernel can't be asked.
pub async fn subnets_of(own: &IpAddr) -> Result<Vec<IpNet>, Error> {
    let mut conn = Conn::open()?;
    let own = BTreeSet::from([*own]);
    blocking(move || {
        let holders = holders(&mut conn, &own)?;
        let all = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        conn.dump(&all, "listing addresses", |message| match message {
            RouteNetlinkMessage::NewAddress(found) if holders.contains(&found.header.index) => {
                let address = found
                    .attributes
                    .iter()
                    .find_map(|attribute| match attribute {
                        AddressAttribute::Address(address) => Some(*address),
                        _ => None,
                    })?;
                let subnet = IpNet::new(address, found.header.prefix_len).ok()?;
                (!is_link_local(address)).then(|| subnet.trunc())
            }
            _ => None,
        })
    })
    .await
}

fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

/// The interfaces that hold one of the addresses.
pub(crate) fn holders(conn: &mut Conn, own: &BTreeSet<IpAddr>) -> Result<Vec<u32>, Error> {
    let all = RouteNetlinkMessage::GetAddress(AddressMessage::default());
    conn.dump(&all, "listing addresses", |message| {
        let RouteNetlinkMessage::NewAddress(found) = message else {
            return None;
        };
        let held = found.attributes.iter().any(|a| match a {
            AddressAttribute::Local(ip) | AddressAttribute::Address(ip) => own.contains(ip),
            _ => false,
        });
        held.then_some(found.header.index)
    })
}

/// The interfaces by which the kernel's routes lead to the addresses, with the routes' own MTU. All next hops count.
fn leading_to<'a>(
    conn: &mut Conn,
    to: impl Iterator<Item = &'a IpAddr>,
) -> Result<Vec<(u32, Option<u32>)>, Error> {
    let mut batch = Batch::default();
    for &address in to {
        // The route itself tells all its next hops; one that hangs on a next-hop object may tell none, the lookup does.
        for flags in [RouteFlags::FibMatch, RouteFlags::empty()] {
            let mut question = pod::route_to(address);
            if let RouteNetlinkMessage::GetRoute(route) = &mut question {
                route.header.flags = flags;
            }
            batch.push(question, 0);
        }
    }
    let mut found = Vec::new();
    // Refused is what no route leads to.
    conn.converse(&mut batch, |place, header, payload| {
        if let Ok(RouteNetlinkMessage::NewRoute(route)) = parse(header, payload) {
            // A lookup also knows of paths that were found narrow for a while: that is TCP's and ICMP's business.
            let of_route = place.is_multiple_of(2);
            found.extend(hops(&route).map(|(index, mtu)| (index, mtu.filter(|_| of_route))));
        }
    })?;
    Ok(found)
}

/// The interfaces of a route's next hops, each with the route's MTU.
fn hops(route: &RouteMessage) -> impl Iterator<Item = (u32, Option<u32>)> {
    let (mut mtu, mut by) = (None, Vec::new());
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(index) => by.push(*index),
            RouteAttribute::MultiPath(hops) => by.extend(hops.iter().map(|h| h.interface_index)),
            RouteAttribute::Metrics(metrics) => {
                mtu = metrics.iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(mtu) if *mtu > 0 => Some(*mtu),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    by.into_iter().map(move |index| (index, mtu))
}
