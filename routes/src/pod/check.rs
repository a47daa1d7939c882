//! Whether a pod's link still is what it was made as: CNI CHECK.

use std::net::IpAddr;
use std::os::fd::OwnedFd;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteType,
};

use super::request::family;
use super::{GATEWAY_V6, HOST_MAC, PodLink, bits, shape};
use crate::Error;
use crate::conn::Conn;
use crate::links::{self, LinkInfo, blocking};

/// Compares a pod's link with what it should be; each line says one thing that is wrong.
///
/// # Errors
/// When the kernel can't be asked; a missing interface is a line, not an error.
pub async fn check_pod_link(link: &PodLink, pod_netlink: OwnedFd) -> Result<Vec<String>, Error> {
    link.check()?;
    let mut host = Conn::open()?;
    let mut pod = Conn::given(pod_netlink)?;
    let link = link.clone();
    blocking(move || {
        let mut wrong = Vec::new();
        check_host(&mut host, &link, &mut wrong)?;
        check_pod(&mut pod, &link, &mut wrong)?;
        Ok(wrong)
    })
    .await
}

fn check_host(conn: &mut Conn, link: &PodLink, wrong: &mut Vec<String>) -> Result<(), Error> {
    let name = &link.host_interface;
    let Some(found) = links::find(conn, name)? else {
        wrong.push(format!("the host has no interface {name}"));
        return Ok(());
    };
    let whose = format!("the host's {name}");
    check_link(&found, &whose, wrong);
    if let Some(mtu) = link.mtu.filter(|mtu| *mtu != found.mtu) {
        wrong.push(format!("{whose} has MTU {} instead of {mtu}", found.mtu));
    }
    if found.mac != Some(HOST_MAC) {
        wrong.push(format!("the host's {name} has another link-layer address"));
    }
    if link.has_v6() && !addresses(conn, found.index, GATEWAY_V6.into())? {
        wrong.push(format!("the host's {name} lacks address {GATEWAY_V6}"));
    }
    shape::check(conn, link, found.index, wrong)
}

fn check_pod(conn: &mut Conn, link: &PodLink, wrong: &mut Vec<String>) -> Result<(), Error> {
    let name = &link.pod_interface;
    let Some(found) = links::find(conn, name)? else {
        wrong.push(format!("the pod has no interface {name}"));
        return Ok(());
    };
    let whose = format!("the pod's {name}");
    check_link(&found, &whose, wrong);
    // A plugin behind ours (tuning) may lower it: that costs nobody a packet.
    if let Some(mtu) = link.mtu.filter(|mtu| *mtu < found.mtu) {
        wrong.push(format!("{whose} has MTU {} above {mtu}", found.mtu));
    }
    for &address in &link.addresses {
        if !addresses(conn, found.index, address)? {
            wrong.push(format!("the pod's {name} lacks address {address}"));
        }
    }
    if let Some(mac) = link.mac.filter(|mac| found.mac != Some(*mac)) {
        let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
        wrong.push(format!(
            "the pod's {name} has another link-layer address than {mac}"
        ));
    }
    for (gateway, destinations) in link.gateways() {
        if !neighbour(conn, found.index, gateway)? {
            wrong.push(format!(
                "the pod lacks the permanent neighbour entry of {gateway}"
            ));
        }
        let routes = routes(conn, found.index, gateway)?;
        if !routes.contains(&(bits(gateway), Some(gateway), None)) {
            wrong.push(format!("the pod lacks the route to {gateway} by {name}"));
        }
        for to in destinations {
            let address = (to.prefix_len() > 0).then(|| to.network());
            if !routes.contains(&(to.prefix_len(), address, Some(gateway))) {
                let what = if address.is_none() {
                    "the default route".to_owned()
                } else {
                    format!("the route to {to}")
                };
                wrong.push(format!("the pod lacks {what} by {gateway}"));
            }
        }
    }
    Ok(())
}

fn check_link(found: &LinkInfo, whose: &str, wrong: &mut Vec<String>) {
    if !found.up {
        wrong.push(format!("{whose} is down"));
    }
    if found.kind != "veth" {
        wrong.push(format!("{whose} is no veth but {:?}", found.kind));
    }
}

fn addresses(conn: &mut Conn, index: u32, address: IpAddr) -> Result<bool, Error> {
    let mut all = AddressMessage::default();
    all.header.family = family(address);
    let all = RouteNetlinkMessage::GetAddress(all);
    let found = conn.dump(&all, "listing addresses", |message| match message {
        RouteNetlinkMessage::NewAddress(found) if found.header.index == index => {
            let held = |a: &AddressAttribute| matches!(a, AddressAttribute::Local(ip) | AddressAttribute::Address(ip) if *ip == address);
            found.attributes.iter().any(held).then_some(())
        }
        _ => None,
    })?;
    Ok(!found.is_empty())
}

fn neighbour(conn: &mut Conn, index: u32, address: IpAddr) -> Result<bool, Error> {
    let mut all = NeighbourMessage::default();
    all.header.family = family(address);
    let all = RouteNetlinkMessage::GetNeighbour(all);
    let destination = NeighbourAttribute::Destination(NeighbourAddress::from(address));
    let mac = NeighbourAttribute::LinkLayerAddress(HOST_MAC.to_vec());
    let found = conn.dump(&all, "listing neighbours", |message| match message {
        RouteNetlinkMessage::NewNeighbour(found) => (found.header.ifindex == index
            && found.header.state == NeighbourState::Permanent
            && found.attributes.contains(&destination)
            && found.attributes.contains(&mac))
        .then_some(()),
        _ => None,
    })?;
    Ok(!found.is_empty())
}

/// Prefix length, destination and gateway of the routes by one interface.
type PodRoute = (u8, Option<IpAddr>, Option<IpAddr>);

fn routes(conn: &mut Conn, index: u32, gateway: IpAddr) -> Result<Vec<PodRoute>, Error> {
    let mut all = RouteMessage::default();
    all.header.address_family = family(gateway);
    let all = RouteNetlinkMessage::GetRoute(all);
    conn.dump(&all, "listing the pod's routes", |message| {
        let RouteNetlinkMessage::NewRoute(route) = message else {
            return None;
        };
        let main = route.header.table == RouteHeader::RT_TABLE_MAIN;
        let ours = route.attributes.contains(&RouteAttribute::Oif(index));
        if !main || !ours || route.header.kind != RouteType::Unicast {
            return None;
        }
        let (mut destination, mut by) = (None, None);
        for attribute in &route.attributes {
            match attribute {
                RouteAttribute::Destination(to) => destination = plain(to),
                RouteAttribute::Gateway(to) => by = plain(to),
                _ => {}
            }
        }
        Some((route.header.destination_prefix_length, destination, by))
    })
}

fn plain(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some((*ip).into()),
        RouteAddress::Inet6(ip) => Some((*ip).into()),
        _ => None,
    }
}
