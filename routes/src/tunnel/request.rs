//! The netlink requests that the tunnel's device and its entries are made of.

use std::net::IpAddr;

use netlink_packet_core::{DefaultNla, Emitable, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage,
};
use netlink_packet_route::link::{
    AfSpecInet, AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoKind, InfoVxlan,
    LinkAttribute, LinkInfo, LinkMessage,
};

use super::{Mac, TUNNEL, Tunnel, VNI, VXLAN_PORT};
use crate::batch::{Batch, attribute};
use crate::wire::{INET, INET6};

pub(super) const AF_BRIDGE: u8 = 7;
pub(super) const RTM_NEWNEIGH: u16 = 28;
const RTM_DELNEIGH: u16 = 29;
pub(super) const NDA_DST: u16 = 1;
pub(super) const NDA_LLADDR: u16 = 2;
pub(super) const NUD_PERMANENT: u16 = 0x80;
const NUD_NOARP: u16 = 0x40;
const NTF_SELF: u8 = 2;
const INET_CONF_REQUEST: u16 = 0x8000 | 1;
const DEVCONF_FORWARDING: u16 = 1;
const DEVCONF_RP_FILTER: u16 = 8;
/// Loose source checks: a node whose packets come by the tunnel may be one that is answered without it, while pools change.
const DEVCONF: [(u16, u32); 2] = [(DEVCONF_FORWARDING, 1), (DEVCONF_RP_FILTER, 2)];
pub(crate) type Request = (RouteNetlinkMessage, u16);

/// The device: no learning, no group and no default destination, so that nothing is ever flooded.
pub(super) fn device(wanted: &Tunnel) -> Request {
    let local = match wanted.local {
        IpAddr::V4(local) => InfoVxlan::Local(local),
        IpAddr::V6(local) => InfoVxlan::Local6(local),
    };
    let data = vec![
        InfoVxlan::Id(VNI),
        local,
        InfoVxlan::Port(VXLAN_PORT),
        InfoVxlan::Learning(false),
        // IPv4 too: a NIC's own checks of inner packets hang on it, and IPv6 asks for it (RFC 8200 §8.1).
        InfoVxlan::UDPCsum(true),
    ];
    let mut link = LinkMessage::default();
    link.attributes = vec![
        LinkAttribute::IfName(TUNNEL.to_owned()),
        LinkAttribute::Address(wanted.mac.to_vec()),
        LinkAttribute::Mtu(wanted.mtu),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Vxlan),
            LinkInfo::Data(InfoData::Vxlan(data)),
        ]),
    ];
    (
        RouteNetlinkMessage::NewLink(link),
        NLM_F_CREATE | NLM_F_EXCL,
    )
}

/// Forwarding, loose source checks, and no address of the kernel's own making.
pub(crate) fn settings(index: u32) -> RouteNetlinkMessage {
    let mut switches = Vec::new();
    for (kind, value) in DEVCONF {
        let switch = DefaultNla::new(kind, value.to_ne_bytes().to_vec());
        let start = switches.len();
        switches.resize(start + switch.buffer_len(), 0);
        switch.emit(switches.get_mut(start..).unwrap_or_default());
    }
    let inet = AfSpecInet::Other(DefaultNla::new(INET_CONF_REQUEST, switches));
    let inet6 = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
    let families = vec![
        AfSpecUnspec::Inet(vec![inet]),
        AfSpecUnspec::Inet6(vec![inet6]),
    ];
    set(index, LinkAttribute::AfSpecUnspec(families))
}

pub(super) fn mac(index: u32, mac: Mac) -> RouteNetlinkMessage {
    set(index, LinkAttribute::Address(mac.to_vec()))
}

pub(crate) fn mtu(index: u32, mtu: u32) -> RouteNetlinkMessage {
    set(index, LinkAttribute::Mtu(mtu))
}

/// An address alone, without duplicate detection: nobody hears it, and it takes a second.
pub(crate) fn add_address(index: u32, address: IpAddr) -> Request {
    let mut message = of_address(index, address);
    if address.is_ipv6() {
        message.header.flags = AddressHeaderFlags::Nodad;
        let flags = AddressAttribute::Flags(AddressFlags::Nodad);
        message.attributes.push(flags);
    }
    (
        RouteNetlinkMessage::NewAddress(message),
        NLM_F_CREATE | NLM_F_REPLACE,
    )
}

pub(crate) fn delete_address(index: u32, address: IpAddr) -> RouteNetlinkMessage {
    RouteNetlinkMessage::DelAddress(of_address(index, address))
}

/// Where packets to a link-layer address go; in place of where they went before.
pub(super) fn add_forwarding(batch: &mut Batch, index: u32, mac: Mac, underlay: IpAddr) {
    let flags = NLM_F_CREATE | NLM_F_REPLACE;
    batch.push_with(RTM_NEWNEIGH, flags, |out| {
        let state = NUD_PERMANENT | NUD_NOARP;
        neighbour_head(out, AF_BRIDGE, index, (state, NTF_SELF));
        destination(out, underlay);
        attribute(out, NDA_LLADDR, &mac);
    });
}

pub(super) fn delete_forwarding(batch: &mut Batch, index: u32, mac: Mac, underlay: IpAddr) {
    batch.push_with(RTM_DELNEIGH, 0, |out| {
        neighbour_head(out, AF_BRIDGE, index, (0, NTF_SELF));
        destination(out, underlay);
        attribute(out, NDA_LLADDR, &mac);
    });
}

pub(super) fn add_neighbour(batch: &mut Batch, index: u32, address: IpAddr, mac: Mac) {
    let flags = NLM_F_CREATE | NLM_F_REPLACE;
    batch.push_with(RTM_NEWNEIGH, flags, |out| {
        neighbour_head(out, family(address), index, (NUD_PERMANENT, 0));
        destination(out, address);
        attribute(out, NDA_LLADDR, &mac);
    });
}

pub(super) fn delete_neighbour(batch: &mut Batch, index: u32, address: IpAddr) {
    batch.push_with(RTM_DELNEIGH, 0, |out| {
        neighbour_head(out, family(address), index, (0, 0));
        destination(out, address);
    });
}

fn set(index: u32, attribute: LinkAttribute) -> RouteNetlinkMessage {
    let mut link = LinkMessage::default();
    link.header.index = index;
    link.attributes.push(attribute);
    RouteNetlinkMessage::SetLink(link)
}

fn of_address(index: u32, address: IpAddr) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = crate::pod::family(address);
    message.header.prefix_len = if address.is_ipv4() { 32 } else { 128 };
    message.header.index = index;
    message.attributes.push(AddressAttribute::Local(address));
    message.attributes.push(AddressAttribute::Address(address));
    message
}

/// Struct ndmsg; state and flags.
fn neighbour_head(out: &mut Vec<u8>, family: u8, index: u32, (state, flags): (u16, u8)) {
    out.extend_from_slice(&[family, 0, 0, 0]);
    out.extend_from_slice(&index.to_ne_bytes());
    out.extend_from_slice(&state.to_ne_bytes());
    out.extend_from_slice(&[flags, 0]);
}

fn destination(out: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(ip) => attribute(out, NDA_DST, &ip.octets()),
        IpAddr::V6(ip) => attribute(out, NDA_DST, &ip.octets()),
    }
}

fn family(address: IpAddr) -> u8 {
    if address.is_ipv4() { INET } else { INET6 }
}
