//! The VXLAN device to other nodes: made, kept as it should be by the smallest writes, and taken away.

pub(crate) mod read;
pub(crate) mod request;
pub(crate) mod steps;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use nix::errno::Errno;

use crate::Error;
use crate::batch::Batch;
use crate::conn::Conn;
use crate::links::{self, blocking};
use read::{Device, Found};
use steps::{Steps, Writes};

/// The device's name. Not by the prefix of pods' interfaces: policy drops what comes from one of those unless it is a pod's.
pub const TUNNEL: &str = "vxlan.portolan";
/// VXLAN network identifier (RFC 7348 §5).
pub const VNI: u32 = 4179;
/// The UDP port it is sent to, IANA's own for VXLAN.
pub const VXLAN_PORT: u16 = 4789;

/// A link-layer address.
pub type Mac = [u8; 6];

/// What the device should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tunnel {
    /// The node's own address that the outer packets bear; its family is the tunnel's.
    pub local: IpAddr,
    /// The device's link-layer address, which other nodes know.
    pub mac: Mac,
    /// MTU of what is sent through it in bytes, the outer headers not counted.
    pub mtu: u32,
    /// The device's own addresses, each alone (/32, /128).
    pub addresses: BTreeSet<IpAddr>,
    /// The other nodes, by the link-layer addresses of theirs.
    pub peers: BTreeMap<Mac, TunnelPeer>,
}

/// Another node's end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TunnelPeer {
    /// Where the outer packets to it go.
    pub underlay: IpAddr,
    /// The gateway addresses that routes name it by.
    pub neighbours: BTreeSet<IpAddr>,
}

/// What one [`apply_tunnel`] did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TunnelReport {
    /// The device was not there, or of other parameters: routes by it are gone.
    pub made: bool,
    /// Entries and properties written.
    pub written: usize,
    /// Entries deleted.
    pub deleted: usize,
    /// What the kernel refused, in words.
    pub failed: Vec<String>,
}

/// Makes the kernel's device what it should be. Nothing that is right already is touched, so packets go on through it.
///
/// # Errors
/// When an interface of that name is no VXLAN device, another one has the VNI and port, or the kernel can't be asked.
pub async fn apply_tunnel(wanted: &Tunnel) -> Result<TunnelReport, Error> {
    let mut conn = Conn::open()?;
    let wanted = wanted.clone();
    blocking(move || Work::begin(&mut conn, &wanted)?.finish()).await
}

/// Deletes the device, and with it its entries and the routes by it; `false` when there was none of ours.
///
/// # Errors
/// When the kernel refuses.
pub async fn delete_tunnel() -> Result<bool, Error> {
    let mut conn = Conn::open()?;
    blocking(move || match read::device(&mut conn)? {
        Some(_) => links::delete_one(&mut conn, TUNNEL),
        None => Ok(false),
    })
    .await
}

/// This node's own address that the packets of the device bear; `None` when there is none of ours.
///
/// # Errors
/// When the kernel can't be asked.
pub async fn tunnel_local() -> Result<Option<IpAddr>, Error> {
    let mut conn = Conn::open()?;
    blocking(move || Ok(read::device(&mut conn)?.and_then(|device| device.local()))).await
}

/// One look, and what is written after it.
struct Work<'a> {
    steps: Steps<'a>,
    wanted: &'a Tunnel,
    device: Device,
}

impl<'a> Work<'a> {
    /// Finds the device, or makes it.
    fn begin(conn: &'a mut Conn, wanted: &'a Tunnel) -> Result<Self, Error> {
        let mut report = TunnelReport::default();
        let found = read::device(conn)?;
        let wrong = |device: &Device| !device.is_vxlan || !device.carries(wanted.local);
        if let Some(device) = &found
            && wrong(device)
        {
            if !device.is_vxlan {
                return Err(clash(
                    "another interface has this name and is no VXLAN device: rename it",
                ));
            }
            links::delete_one(conn, TUNNEL)?;
        }
        let device = match found.filter(|device| !wrong(device)) {
            Some(device) => device,
            None => {
                make(conn, wanted)?;
                report.made = true;
                let made = read::device(conn)?;
                made.ok_or_else(|| Error::NoInterface(TUNNEL.to_owned()))?
            }
        };
        let name = TUNNEL;
        Ok(Self {
            steps: Steps { conn, name, report },
            wanted,
            device,
        })
    }

    fn finish(mut self) -> Result<TunnelReport, Error> {
        self.settle_device()?;
        let found = read::entries(self.steps.conn, self.device.interface.index)?;
        self.settle_entries(&found)?;
        Ok(self.steps.report)
    }

    /// Link-layer address, MTU, source checks, state.
    fn settle_device(&mut self) -> Result<(), Error> {
        let (wanted, found) = (self.wanted, self.device.interface);
        if wanted.addresses.iter().any(IpAddr::is_ipv6)
            || wanted.peers.values().any(TunnelPeer::has_v6)
        {
            self.steps.allow_v6();
        }
        let mut first = Writes::default();
        if self.device.mac != Some(wanted.mac) {
            first.add("the tunnel's link-layer address", |batch| {
                batch.push(request::mac(found.index, wanted.mac), 0);
            });
        }
        self.steps.settle_interface(first, found, wanted.mtu)
    }

    /// Addresses, where each peer is, and what gateways are called: what is missing first, then what is too much.
    fn settle_entries(&mut self, found: &Found) -> Result<(), Error> {
        let index = self.device.interface.index;
        let wanted = Found::of(self.wanted);
        let mut writes = Writes::default();
        writes.add_addresses(index, wanted.addresses.difference(&found.addresses));
        for (mac, underlay) in wanted.forwarding.difference(&found.forwarding) {
            writes.add(format!("the entry of node address {underlay}"), |batch| {
                request::add_forwarding(batch, index, *mac, *underlay);
            });
        }
        for (address, mac) in wanted.neighbours.difference(&found.neighbours) {
            writes.add(format!("the neighbour entry of {address}"), |batch| {
                request::add_neighbour(batch, index, *address, *mac);
            });
        }
        self.steps.report.written += self.steps.send(writes)?;
        let mut deletions = Writes::default();
        deletions.delete_addresses(index, found.addresses.difference(&wanted.addresses));
        let kept: BTreeSet<IpAddr> = wanted
            .neighbours
            .iter()
            .map(|(address, _)| *address)
            .collect();
        for (address, _) in found
            .neighbours
            .iter()
            .filter(|(address, _)| !kept.contains(address))
        {
            deletions.add(
                format!("the neighbour entry of {address}, no longer wanted"),
                |batch| {
                    request::delete_neighbour(batch, index, *address);
                },
            );
        }
        // One that another address took the place of is gone by that.
        for (mac, underlay) in self.left_over(found, &wanted)? {
            deletions.add(
                format!("the entry of node address {underlay}, no longer wanted"),
                |batch| {
                    request::delete_forwarding(batch, index, mac, underlay);
                },
            );
        }
        self.steps.report.deleted += self.steps.send(deletions)?;
        Ok(())
    }

    /// Entries that should not be there, as they are after the writes.
    fn left_over(&mut self, found: &Found, wanted: &Found) -> Result<Vec<(Mac, IpAddr)>, Error> {
        if found.forwarding.is_subset(&wanted.forwarding) {
            return Ok(Vec::new());
        }
        let now = read::forwarding(self.steps.conn, self.device.interface.index)?;
        Ok(now.difference(&wanted.forwarding).copied().collect())
    }
}

impl TunnelPeer {
    fn has_v6(&self) -> bool {
        self.neighbours.iter().any(IpAddr::is_ipv6)
    }
}

fn make(conn: &mut Conn, wanted: &Tunnel) -> Result<(), Error> {
    let mut batch = Batch::default();
    let (message, flags) = request::device(wanted);
    batch.push(message, flags);
    let Some(refusal) = conn.transact(&mut batch)?.remove(&0) else {
        return Ok(());
    };
    if refusal.is(Errno::EEXIST)
        && let Some(other) = read::rival(conn)?
    {
        return Err(clash(format!(
            "the VXLAN device {other} has VNI {VNI} and port {VXLAN_PORT} already: remove it, or give it another VNI"
        )));
    }
    Err(refusal.into_error(format!("making the VXLAN device {TUNNEL}")))
}

fn clash(why: impl Into<String>) -> Error {
    Error::TunnelClash {
        name: TUNNEL,
        why: why.into(),
    }
}
