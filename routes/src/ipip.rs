//! The IPIP device to other nodes: made, kept as it should be by the smallest writes, and taken away.
//!
//! It has no remote: the gateway of each route is the address that the outer packet goes to.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    InfoData, InfoIpTunnel, InfoKind, LinkAttribute, LinkInfo, LinkMessage, TunnelEncapType,
};
use nix::errno::Errno;

use crate::Error;
use crate::batch::Batch;
use crate::conn::Conn;
use crate::links::{self, blocking, described};
use crate::tunnel::TunnelReport;
use crate::tunnel::read;
use crate::tunnel::steps::{Interface, Steps, Writes};

/// The device's name. Not by the prefix of pods' interfaces: policy drops what comes from one of those unless it is a pod's.
pub const IPIP: &str = "ipip.portolan";
/// The outer packets' own: how far the inner ones have come is none of the underlay's business. With it goes DF (RFC
/// 2003 §5.1), so that a path that takes less than the device's MTU is told to who sends, and nothing is cut.
const TTL: u8 = 64;

/// What the device should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ipip {
    /// The node's own address that the outer packets bear.
    pub local: Ipv4Addr,
    /// MTU of what is sent through it in bytes, the outer header not counted.
    pub mtu: u32,
    /// The device's own addresses, each alone (/32).
    pub addresses: BTreeSet<IpAddr>,
}

/// Makes the kernel's device what it should be. Nothing that is right already is touched, so packets go on through it.
///
/// # Errors
/// When the kernel has no such driver, an interface of that name is no IPIP device, another one takes the same packets,
/// or the kernel can't be asked.
pub async fn apply_ipip(wanted: &Ipip) -> Result<TunnelReport, Error> {
    let mut conn = Conn::open()?;
    let wanted = wanted.clone();
    blocking(move || settle(&mut conn, &wanted)).await
}

/// Deletes the device, and with it the routes by it; `false` when there was none of ours.
///
/// # Errors
/// When the kernel refuses.
pub async fn delete_ipip() -> Result<bool, Error> {
    let mut conn = Conn::open()?;
    blocking(move || match find(&mut conn)? {
        Some(device) if device.is_ipip => links::delete_one(&mut conn, IPIP),
        _ => Ok(false),
    })
    .await
}

/// This node's own address that the packets of the device bear; `None` when there is none of ours.
///
/// # Errors
/// When the kernel can't be asked.
pub async fn ipip_local() -> Result<Option<IpAddr>, Error> {
    let mut conn = Conn::open()?;
    blocking(move || {
        let ours = find(&mut conn)?.filter(|device| device.is_ipip);
        Ok(ours.and_then(|device| device.local))
    })
    .await
}

fn settle(conn: &mut Conn, wanted: &Ipip) -> Result<TunnelReport, Error> {
    let mut report = TunnelReport::default();
    let found = match find(conn)? {
        Some(device) if !device.is_ipip => {
            return Err(clash(
                "another interface has this name and is no IPIP device: rename it",
            ));
        }
        Some(device) if device.carries(wanted.local) => Some(device),
        Some(_) => {
            links::delete_one(conn, IPIP)?;
            None
        }
        None => None,
    };
    let interface = match found {
        Some(device) => device.interface,
        None => {
            make(conn, wanted)?;
            report.made = true;
            let made = find(conn)?.ok_or_else(|| Error::NoInterface(IPIP.to_owned()))?;
            made.interface
        }
    };
    let name = IPIP;
    let mut steps = Steps { conn, name, report };
    steps.settle_interface(Writes::default(), interface, wanted.mtu)?;
    let found = read::addresses(steps.conn, interface.index)?;
    steps.settle_addresses(interface.index, &wanted.addresses, &found)?;
    Ok(steps.report)
}

/// An interface as a tunnel's end.
struct Device {
    interface: Interface,
    is_ipip: bool,
    local: Option<IpAddr>,
    remote: Option<IpAddr>,
    ttl: u8,
    pmtu_discovery: bool,
    /// It takes its parameters from elsewhere, or wraps in UDP: never a device of our making.
    strays: bool,
}

impl Device {
    /// Whether it is a tunnel from this address as we make it; what else is wrong can be changed.
    fn carries(&self, local: Ipv4Addr) -> bool {
        let as_made = self.ttl == TTL && self.pmtu_discovery && !self.strays;
        self.takes_all_to(local) && as_made
    }

    /// Whether packets to this address from anywhere are its.
    fn takes_all_to(&self, local: Ipv4Addr) -> bool {
        let anywhere = self.remote.is_none_or(|remote| remote.is_unspecified());
        self.is_ipip && anywhere && self.local == Some(local.into())
    }

    fn of(link: &LinkMessage) -> Self {
        let mut device = Self {
            interface: Interface::of(&described(link)),
            is_ipip: false,
            local: None,
            remote: None,
            ttl: 0,
            pmtu_discovery: false,
            strays: false,
        };
        let details = link.attributes.iter();
        let details = details.filter_map(|attribute| match attribute {
            LinkAttribute::LinkInfo(details) => Some(details),
            _ => None,
        });
        for detail in details.flatten() {
            match detail {
                LinkInfo::Kind(kind) => device.is_ipip = *kind == InfoKind::IpIp,
                LinkInfo::Data(InfoData::IpTunnel(data)) => {
                    data.iter().for_each(|one| device.take(one));
                }
                _ => {}
            }
        }
        device
    }

    fn take(&mut self, parameter: &InfoIpTunnel) {
        match parameter {
            InfoIpTunnel::Local(local) => self.local = Some(*local),
            InfoIpTunnel::Remote(remote) => self.remote = Some(*remote),
            InfoIpTunnel::Ttl(ttl) => self.ttl = *ttl,
            InfoIpTunnel::PMtuDisc(on) => self.pmtu_discovery = *on,
            InfoIpTunnel::EncapType(kind) => self.strays |= *kind != TunnelEncapType::None,
            InfoIpTunnel::CollectMetadata => self.strays = true,
            _ => {}
        }
    }
}

/// The interface that bears the tunnel's name, whatever it is.
fn find(conn: &mut Conn) -> Result<Option<Device>, Error> {
    Ok(read::link(conn, IPIP)?.as_ref().map(Device::of))
}

fn make(conn: &mut Conn, wanted: &Ipip) -> Result<(), Error> {
    let mut batch = Batch::default();
    let data = vec![
        InfoIpTunnel::Local(wanted.local.into()),
        InfoIpTunnel::Ttl(TTL),
        InfoIpTunnel::PMtuDisc(true),
    ];
    let mut link = LinkMessage::default();
    link.attributes = vec![
        LinkAttribute::IfName(IPIP.to_owned()),
        LinkAttribute::Mtu(wanted.mtu),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::IpIp),
            LinkInfo::Data(InfoData::IpTunnel(data)),
        ]),
    ];
    let flags = NLM_F_CREATE | NLM_F_EXCL;
    batch.push(RouteNetlinkMessage::NewLink(link), flags);
    let Some(refusal) = conn.transact(&mut batch)?.remove(&0) else {
        return Ok(());
    };
    if refusal.is(Errno::EOPNOTSUPP) {
        return Err(clash(
            "the kernel has no driver for it: run `modprobe ipip` on the node, and have it loaded at each start (a line `ipip` in /etc/modules-load.d/portolan.conf)",
        ));
    }
    if refusal.is(Errno::EEXIST)
        && let Some(other) = rival(conn, wanted.local)?
    {
        let local = wanted.local;
        return Err(clash(format!(
            "the IPIP device {other} takes all packets to {local} already: remove it (`ip link del {other}`), or give it a remote or another local address"
        )));
    }
    Err(refusal.into_error(format!("making the IPIP device {IPIP}")))
}

/// Another device that takes our packets.
fn rival(conn: &mut Conn, local: Ipv4Addr) -> Result<Option<String>, Error> {
    let all = RouteNetlinkMessage::GetLink(LinkMessage::default());
    let rivals = conn.dump(&all, "listing interfaces", |message| {
        let RouteNetlinkMessage::NewLink(link) = message else {
            return None;
        };
        let is_rival = Device::of(&link).takes_all_to(local);
        is_rival.then(|| described(&link).name)
    })?;
    Ok(rivals.into_iter().find(|name| name != IPIP))
}

fn clash(why: impl Into<String>) -> Error {
    Error::TunnelClash {
        name: IPIP,
        why: why.into(),
    }
}
