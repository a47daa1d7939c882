//! What the kernel has of the tunnel: the device's parameters, its addresses, and the entries that lead to other nodes.

use std::collections::BTreeSet;
use std::net::IpAddr;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVxlan, LinkAttribute, LinkInfo, LinkMessage,
};

use super::request::{AF_BRIDGE, NDA_DST, NDA_LLADDR, NUD_PERMANENT, RTM_NEWNEIGH};
use super::steps::Interface;
use super::{Mac, TUNNEL, Tunnel, VNI, VXLAN_PORT};
use crate::Error;
use crate::batch::{Attributes, half, word};
use crate::conn::{Conn, Header};
use crate::links::{described, named};
use crate::wire::{INET, INET6};

const RTM_GETNEIGH: u16 = 30;
/// Bytes of struct ndmsg.
const NDMSG: usize = 12;

/// The interface that bears the tunnel's name.
#[derive(Debug)]
pub(super) struct Device {
    pub interface: Interface,
    pub is_vxlan: bool,
    pub mac: Option<Mac>,
    vni: Option<u32>,
    port: Option<u16>,
    local: Option<IpAddr>,
    /// It learns, floods or leaves the VNI to others: never a device of our making.
    strays: bool,
}

impl Device {
    /// Whether it is a tunnel from this address as we make it; what else is wrong can be changed.
    pub(super) fn carries(&self, local: IpAddr) -> bool {
        let same = self.vni == Some(VNI) && self.port == Some(VXLAN_PORT);
        same && self.local == Some(local) && !self.strays
    }

    /// The node's own address that its packets bear.
    pub(super) fn local(&self) -> Option<IpAddr> {
        self.local.filter(|_| self.is_vxlan)
    }

    fn of(link: &LinkMessage) -> Self {
        let info = described(link);
        let mut device = Self {
            interface: Interface::of(&info),
            is_vxlan: false,
            mac: info.mac,
            vni: None,
            port: None,
            local: None,
            strays: false,
        };
        let details = link
            .attributes
            .iter()
            .filter_map(|attribute| match attribute {
                LinkAttribute::LinkInfo(details) => Some(details),
                _ => None,
            });
        for detail in details.flatten() {
            match detail {
                LinkInfo::Kind(kind) => device.is_vxlan = *kind == InfoKind::Vxlan,
                LinkInfo::Data(InfoData::Vxlan(data)) => {
                    data.iter().for_each(|one| device.take(one))
                }
                _ => {}
            }
        }
        device
    }

    fn take(&mut self, parameter: &InfoVxlan) {
        match parameter {
            InfoVxlan::Id(vni) => self.vni = Some(*vni),
            InfoVxlan::Port(port) => self.port = Some(*port),
            InfoVxlan::Local(local) => self.local = Some((*local).into()),
            InfoVxlan::Local6(local) => self.local = Some((*local).into()),
            InfoVxlan::Learning(on)
            | InfoVxlan::CollectMetadata(on)
            | InfoVxlan::UDPZeroCsumTX(on)
            | InfoVxlan::Vnifilter(on) => self.strays |= on,
            InfoVxlan::Group(_) | InfoVxlan::Group6(_) => self.strays = true,
            _ => {}
        }
    }
}

/// The device's addresses and entries.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub addresses: BTreeSet<IpAddr>,
    /// Link-layer address, and the node's own address it is behind.
    pub forwarding: BTreeSet<(Mac, IpAddr)>,
    /// Permanent neighbours.
    pub neighbours: BTreeSet<(IpAddr, Mac)>,
}

impl Found {
    /// What would be found were all as it should be.
    pub(super) fn of(wanted: &Tunnel) -> Self {
        let peers = wanted.peers.iter();
        let named = |(mac, peer): (&Mac, &super::TunnelPeer)| {
            let mac = *mac;
            let addresses: Vec<IpAddr> = peer.neighbours.iter().copied().collect();
            addresses.into_iter().map(move |address| (address, mac))
        };
        Self {
            addresses: wanted.addresses.clone(),
            forwarding: peers
                .clone()
                .map(|(mac, peer)| (*mac, peer.underlay))
                .collect(),
            neighbours: peers.flat_map(named).collect(),
        }
    }
}

/// The interface that bears the tunnel's name, whatever it is.
pub(super) fn device(conn: &mut Conn) -> Result<Option<Device>, Error> {
    Ok(link(conn, TUNNEL)?.as_ref().map(Device::of))
}

/// The interface of a name.
pub(crate) fn link(conn: &mut Conn, name: &str) -> Result<Option<LinkMessage>, Error> {
    let question = RouteNetlinkMessage::GetLink(named(name));
    let answer = conn.ask(question, "looking for the tunnel's device")?;
    Ok(match answer {
        Some(RouteNetlinkMessage::NewLink(link)) => Some(link),
        _ => None,
    })
}

/// Another VXLAN device of our VNI and port.
pub(super) fn rival(conn: &mut Conn) -> Result<Option<String>, Error> {
    let all = RouteNetlinkMessage::GetLink(LinkMessage::default());
    let rivals = conn.dump(&all, "listing interfaces", |message| {
        let RouteNetlinkMessage::NewLink(link) = message else {
            return None;
        };
        let device = Device::of(&link);
        let same = device.vni == Some(VNI) && device.port == Some(VXLAN_PORT);
        (device.is_vxlan && same).then(|| described(&link).name)
    })?;
    Ok(rivals.into_iter().find(|name| name != TUNNEL))
}

/// The addresses of an interface.
pub(crate) fn addresses(conn: &mut Conn, index: u32) -> Result<BTreeSet<IpAddr>, Error> {
    let all = RouteNetlinkMessage::GetAddress(AddressMessage::default());
    let addresses = conn.dump(&all, "listing addresses", |message| match message {
        RouteNetlinkMessage::NewAddress(found) if found.header.index == index => {
            let (mut local, mut other) = (None, None);
            for attribute in &found.attributes {
                match attribute {
                    AddressAttribute::Local(address) => local = Some(*address),
                    AddressAttribute::Address(address) => other = Some(*address),
                    _ => {}
                }
            }
            local.or(other)
        }
        _ => None,
    })?;
    Ok(addresses.into_iter().collect())
}

/// All that hangs on the device.
pub(super) fn entries(conn: &mut Conn, index: u32) -> Result<Found, Error> {
    let mut neighbours = Vec::new();
    for family in [INET, INET6] {
        neighbours.extend(dump(conn, family, index)?);
    }
    let permanent = neighbours
        .into_iter()
        .filter(|entry| entry.state & NUD_PERMANENT != 0);
    Ok(Found {
        addresses: addresses(conn, index)?,
        forwarding: forwarding(conn, index)?,
        neighbours: permanent
            .map(|entry| (entry.destination, entry.mac))
            .collect(),
    })
}

/// Where packets go, by link-layer address.
pub(crate) fn forwarding(conn: &mut Conn, index: u32) -> Result<BTreeSet<(Mac, IpAddr)>, Error> {
    let found = dump(conn, AF_BRIDGE, index)?.into_iter();
    Ok(found.map(|entry| (entry.mac, entry.destination)).collect())
}

struct Entry {
    mac: Mac,
    destination: IpAddr,
    state: u16,
}

fn dump(conn: &mut Conn, family: u8, index: u32) -> Result<Vec<Entry>, Error> {
    let mut body = vec![0; NDMSG];
    if let Some(first) = body.first_mut() {
        *first = family;
    }
    let each = |header: &Header, payload: &[u8]| {
        let here = header.message_type == RTM_NEWNEIGH && word(payload, 4) == Some(index);
        here.then(|| entry(payload)).flatten()
    };
    conn.dump_raw(RTM_GETNEIGH, &body, "listing neighbours", each)
}

/// `None` for one that names no link-layer address or no destination: multicast, or an entry without an answer.
fn entry(payload: &[u8]) -> Option<Entry> {
    let (mut mac, mut destination) = (None, None);
    for (kind, value) in Attributes(payload.get(NDMSG..)?) {
        match kind {
            NDA_LLADDR => mac = Mac::try_from(value).ok(),
            NDA_DST => destination = address(value),
            _ => {}
        }
    }
    Some(Entry {
        mac: mac?,
        destination: destination?,
        state: half(payload, 8)?,
    })
}

fn address(value: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(value) {
        return Some(v4.into());
    }
    <[u8; 16]>::try_from(value).ok().map(IpAddr::from)
}
