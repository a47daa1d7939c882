//! What the kernel holds, whoever wrote it: links, pods' ends and the routes of table main, read once and changed never.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteType, RouteVia,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::conn::{Conn, parse};
use crate::links::{self, LINK_PREFIX, LinkInfo, blocking};
use crate::pod::other_end;
use crate::wire::is_alive;
use crate::{Error, METRIC, PROTOCOL};

/// `rtm_type`'s for routes that lead nowhere: blackhole, unreachable and prohibit.
const NOWHERE: [RouteType; 3] = [
    RouteType::BlackHole,
    RouteType::Unreachable,
    RouteType::Prohibit,
];

/// A route of table main, as the kernel tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenRoute {
    /// The destination.
    pub prefix: IpNet,
    /// Who wrote it, by number.
    pub protocol: u8,
    /// Its metric; the least wins among those of one prefix.
    pub metric: u32,
    /// Whether it refuses what it is for (blackhole, unreachable, prohibit).
    pub leads_nowhere: bool,
    /// The gateways, none for what is on-link.
    pub gateways: Vec<IpAddr>,
    /// The links that it leads to.
    pub links: Vec<u32>,
    /// Whether the kernel would use it: one next hop at least is not dead.
    pub alive: bool,
}

impl SeenRoute {
    /// Whether it bears our mark.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.protocol == PROTOCOL && self.metric == METRIC
    }
}

/// Everything of one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Survey {
    /// All links of this namespace.
    pub links: Vec<LinkInfo>,
    /// The MTU in bytes of pods' ends, by the names of their host ends; one whose namespace cannot be seen is left out.
    pub pod_mtus: BTreeMap<String, u32>,
    /// Unicast routes and those that lead nowhere.
    pub routes: Vec<SeenRoute>,
}

/// Reads links and routes of the calling thread's network namespace.
///
/// # Errors
/// When the kernel can't be asked.
pub async fn survey() -> Result<Survey, Error> {
    let mut conn = Conn::open()?;
    blocking(move || {
        let links = links::dump(&mut conn)?;
        let mut pod_mtus = BTreeMap::new();
        for link in &links {
            let is_pods = link.kind == "veth" && link.name.starts_with(LINK_PREFIX);
            let Some((index, namespace)) = link.peer.filter(|_| is_pods) else {
                continue;
            };
            if let Some(end) = other_end(&mut conn, index, namespace)? {
                pod_mtus.insert(link.name.clone(), end.mtu);
            }
        }
        let mut routes = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            routes.extend(routes_of(&mut conn, family)?);
        }
        Ok(Survey {
            links,
            pod_mtus,
            routes,
        })
    })
    .await
}

fn routes_of(conn: &mut Conn, family: AddressFamily) -> Result<Vec<SeenRoute>, Error> {
    let mut all = RouteMessage::default();
    all.header.address_family = family;
    let (kind, body) = crate::conn::request(&RouteNetlinkMessage::GetRoute(all));
    conn.dump_raw(kind, &body, "listing routes", |header, payload| {
        match parse(header, payload) {
            Ok(RouteNetlinkMessage::NewRoute(route)) => seen(&route, is_alive(payload)),
            // What this library cannot read is nothing that we write.
            _ => None,
        }
    })
}

fn seen(route: &RouteMessage, alive: bool) -> Option<SeenRoute> {
    let leads_nowhere = NOWHERE.contains(&route.header.kind);
    let wanted = leads_nowhere || route.header.kind == RouteType::Unicast;
    if !wanted || route.header.table != RouteHeader::RT_TABLE_MAIN {
        return None;
    }
    let mut seen = SeenRoute {
        prefix: everything(route.header.address_family)?,
        protocol: route.header.protocol.into(),
        metric: 0,
        leads_nowhere,
        gateways: Vec::new(),
        links: Vec::new(),
        alive,
    };
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Destination(address) => {
                let length = route.header.destination_prefix_length;
                seen.prefix = IpNet::new(ip(address)?, length).ok()?;
            }
            RouteAttribute::Priority(metric) => seen.metric = *metric,
            RouteAttribute::Oif(link) => seen.links.push(*link),
            RouteAttribute::MultiPath(hops) => {
                seen.links
                    .extend(hops.iter().map(|hop| hop.interface_index));
                let inner = hops.iter().flat_map(|hop| &hop.attributes);
                seen.gateways.extend(inner.filter_map(gateway));
            }
            other => seen.gateways.extend(gateway(other)),
        }
    }
    Some(seen)
}

pub(crate) fn gateway(attribute: &RouteAttribute) -> Option<IpAddr> {
    match attribute {
        RouteAttribute::Gateway(address) => ip(address),
        RouteAttribute::Via(RouteVia::Inet6(address)) => Some(IpAddr::V6(*address)),
        RouteAttribute::Via(RouteVia::Inet(address)) => Some(IpAddr::V4(*address)),
        _ => None,
    }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    }
}

fn everything(family: AddressFamily) -> Option<IpNet> {
    match family {
        AddressFamily::Inet => "0.0.0.0/0".parse().ok(),
        AddressFamily::Inet6 => "::/0".parse().ok(),
        _ => None,
    }
}
