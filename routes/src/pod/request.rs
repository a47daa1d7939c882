//! The netlink requests a pod's link is made of.

use std::net::IpAddr;
use std::os::fd::RawFd;

use netlink_packet_core::{
    DefaultNla, Emitable, NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE,
};
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage,
};
use netlink_packet_route::link::{
    AfSpecInet, AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoKind, InfoVeth,
    LinkAttribute, LinkInfo, LinkMessage,
};
use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourMessage, NeighbourState};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope,
    RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use ipnet::IpNet;

use super::{GATEWAY_V4, HOST_MAC, PodLink, bits};
use crate::PROTOCOL;

/// IFLA_INET_CONF with NLA_F_NESTED: the kernel wants the request nested and the dump flat.
const INET_CONF_REQUEST: u16 = 0x8000 | 1;
const DEVCONF_FORWARDING: u16 = 1;
const DEVCONF_PROXY_ARP: u16 = 3;
const DEVCONF_RP_FILTER: u16 = 8;
/// Host ends' switches. Loose source checks: the routes' order of arrival must not drop a pod's first packet; who spoofs is dropped by policy's rules.
const HOST_DEVCONF: [(u16, u32); 3] = [
    (DEVCONF_FORWARDING, 1),
    (DEVCONF_PROXY_ARP, 1),
    (DEVCONF_RP_FILTER, 2),
];
const DEVCONF_ROUTE_LOCALNET: u16 = 26;
const TABLE_LOCAL: u8 = 255;
type Request = (RouteNetlinkMessage, u16);

/// The pair, the pod end born in the pod's namespace under its final name.
pub(super) fn pair(link: &PodLink, netns: RawFd) -> Request {
    let mut peer = LinkMessage::default();
    peer.attributes
        .push(LinkAttribute::IfName(link.pod_interface.clone()));
    peer.attributes.push(LinkAttribute::NetNsFd(netns));
    if let Some(mac) = link.mac {
        peer.attributes.push(LinkAttribute::Address(mac.to_vec()));
    }
    let mut host = LinkMessage::default();
    host.attributes
        .push(LinkAttribute::IfName(link.host_interface.clone()));
    host.attributes
        .push(LinkAttribute::Address(HOST_MAC.to_vec()));
    if let Some(mtu) = link.mtu {
        peer.attributes.push(LinkAttribute::Mtu(mtu));
        host.attributes.push(LinkAttribute::Mtu(mtu));
    }
    host.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Veth),
        LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
    ]));
    (
        RouteNetlinkMessage::NewLink(host),
        NLM_F_CREATE | NLM_F_EXCL,
    )
}

/// The host end's switches, to be set while it is down.
pub(super) fn host_settings(index: u32, wanted: &PodLink) -> RouteNetlinkMessage {
    let mut link = LinkMessage::default();
    link.header.index = index;
    let mut switches = Vec::new();
    let localnet = wanted.localnet.then_some((DEVCONF_ROUTE_LOCALNET, 1));
    for (kind, value) in HOST_DEVCONF.into_iter().chain(localnet) {
        let switch = DefaultNla::new(kind, value.to_ne_bytes().to_vec());
        let start = switches.len();
        switches.resize(start + switch.buffer_len(), 0);
        switch.emit(switches.get_mut(start..).unwrap_or_default());
    }
    let request = AfSpecInet::Other(DefaultNla::new(INET_CONF_REQUEST, switches));
    let mut families = vec![AfSpecUnspec::Inet(vec![request])];
    if wanted.has_v6() {
        // The gateway's address is its only one: one made from the MAC all host ends share would be a duplicate.
        let mode = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
        families.push(AfSpecUnspec::Inet6(vec![mode]));
    }
    link.attributes.push(LinkAttribute::AfSpecUnspec(families));
    RouteNetlinkMessage::SetLink(link)
}

/// An address without duplicate detection: who holds what is IPAM's to know, and it takes a second.
pub(super) fn address(index: u32, address: IpAddr, prefix_length: u8) -> Request {
    let mut message = AddressMessage::default();
    message.header.family = family(address);
    message.header.prefix_len = prefix_length;
    message.header.index = index;
    message.attributes.push(AddressAttribute::Local(address));
    message.attributes.push(AddressAttribute::Address(address));
    if address.is_ipv6() {
        message.header.flags = AddressHeaderFlags::Nodad;
        message
            .attributes
            .push(AddressAttribute::Flags(AddressFlags::Nodad));
    }
    (
        RouteNetlinkMessage::NewAddress(message),
        NLM_F_CREATE | NLM_F_REPLACE,
    )
}

/// The pod's neighbour entry of its gateway, for ever.
pub(super) fn neighbour(index: u32, gateway: IpAddr) -> Request {
    let mut message = NeighbourMessage::default();
    message.header.family = family(gateway);
    message.header.ifindex = index;
    message.header.state = NeighbourState::Permanent;
    message.header.kind = RouteType::Unicast;
    message
        .attributes
        .push(NeighbourAttribute::Destination(gateway.into()));
    message
        .attributes
        .push(NeighbourAttribute::LinkLayerAddress(HOST_MAC.to_vec()));
    (
        RouteNetlinkMessage::NewNeighbour(message),
        NLM_F_CREATE | NLM_F_REPLACE,
    )
}

/// The gateway itself, on the link.
pub(super) fn gateway_route(index: u32, gateway: IpAddr) -> Request {
    let mut route = pod_route(index, gateway);
    route.header.destination_prefix_length = bits(gateway);
    if gateway.is_ipv4() {
        route.header.scope = RouteScope::Link;
    }
    route
        .attributes
        .push(RouteAttribute::Destination(gateway.into()));
    (
        RouteNetlinkMessage::NewRoute(route),
        NLM_F_CREATE | NLM_F_REPLACE,
    )
}

/// The IPv4 gateway as one of the node's own addresses, as long as the host end is there: others may have the same
/// route by theirs.
pub(super) fn own_gateway(index: u32) -> Request {
    let mut route = pod_route(index, GATEWAY_V4.into());
    route.header.table = TABLE_LOCAL;
    route.header.kind = RouteType::Local;
    route.header.scope = RouteScope::Host;
    route.header.destination_prefix_length = 32;
    let gateway = RouteAttribute::Destination(RouteAddress::Inet(GATEWAY_V4));
    route.attributes.push(gateway);
    (
        RouteNetlinkMessage::NewRoute(route),
        NLM_F_CREATE | NLM_F_APPEND,
    )
}

/// A destination by the gateway.
pub(super) fn route_by(index: u32, to: IpNet, gateway: IpAddr) -> Request {
    let mut route = pod_route(index, gateway);
    route.header.flags = RouteFlags::Onlink;
    route.header.destination_prefix_length = to.prefix_len();
    if to.prefix_len() > 0 {
        let to = RouteAttribute::Destination(to.network().into());
        route.attributes.push(to);
    }
    route
        .attributes
        .push(RouteAttribute::Gateway(gateway.into()));
    (
        RouteNetlinkMessage::NewRoute(route),
        NLM_F_CREATE | NLM_F_REPLACE,
    )
}

/// Asks which way the kernel would send to an address.
pub(crate) fn route_to(address: IpAddr) -> RouteNetlinkMessage {
    let mut route = RouteMessage::default();
    route.header.address_family = family(address);
    route.header.destination_prefix_length = bits(address);
    route
        .attributes
        .push(RouteAttribute::Destination(address.into()));
    RouteNetlinkMessage::GetRoute(route)
}

/// As [`route_to`], by one interface.
pub(super) fn route_by_link(address: IpAddr, index: u32) -> RouteNetlinkMessage {
    let mut question = route_to(address);
    if let RouteNetlinkMessage::GetRoute(route) = &mut question {
        route.attributes.push(RouteAttribute::Oif(index));
    }
    question
}

/// Whether the answer to [`route_to`] says that the address is the asked namespace's own.
pub(super) fn is_local(answer: Option<RouteNetlinkMessage>) -> bool {
    matches!(answer, Some(RouteNetlinkMessage::NewRoute(route)) if route.header.kind == RouteType::Local)
}

fn pod_route(index: u32, gateway: IpAddr) -> RouteMessage {
    let mut route = RouteMessage::default();
    route.header.address_family = family(gateway);
    route.header.table = RouteHeader::RT_TABLE_MAIN;
    route.header.protocol = RouteProtocol::Other(PROTOCOL);
    route.header.kind = RouteType::Unicast;
    route.attributes.push(RouteAttribute::Oif(index));
    route
}

pub(crate) fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    }
}
