//! A WireGuard device to other nodes: made, kept as it should be by the smallest writes, and taken away.

mod read;
mod request;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use nix::errno::Errno;
use zeroize::Zeroizing;

use crate::batch::Batch;
use crate::conn::{Conn, Refusal};
use crate::generic::Generic;
use crate::links::{self, blocking};
use crate::tunnel::request as link_request;
use crate::{Error, sysctl};
use read::{Device, Found};

/// The devices' names, by slot. Not by the prefix of pods' interfaces: policy drops what comes from one of those
/// unless it is a pod's.
pub const WIREGUARD: [&str; 2] = ["wg.portolan", "wg1.portolan"];

/// A public key (Curve25519, RFC 7748 §5).
pub type PublicKey = [u8; 32];

/// A private key; it is shown nowhere, and forgotten when it is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct PrivateKey(Zeroizing<[u8; 32]>);

impl PrivateKey {
    /// Takes a key as WireGuard uses it, clamped (RFC 7748 §5): the kernel clamps what it is given, and then reads
    /// back something else.
    #[must_use]
    pub fn new(mut bytes: [u8; 32]) -> Self {
        bytes[0] &= 248;
        bytes[31] = bytes[31] & 127 | 64;
        Self(Zeroizing::new(bytes))
    }

    /// Its bytes, for whoever keeps it.
    #[must_use]
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl std::fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PrivateKey")
    }
}

/// What one of the devices should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WireGuard {
    /// Which of [`WIREGUARD`].
    pub slot: usize,
    /// This node's key on it.
    pub private_key: PrivateKey,
    /// The UDP port that it listens at, in both families.
    pub listen_port: u16,
    /// MTU of what is sent through it in bytes, the outer headers not counted.
    pub mtu: u32,
    /// The device's own addresses, each alone (/32, /128).
    pub addresses: BTreeSet<IpAddr>,
    /// The other nodes, by their keys.
    pub peers: BTreeMap<PublicKey, WireGuardPeer>,
}

/// Another node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WireGuardPeer {
    /// Where packets to it go.
    pub endpoint: SocketAddr,
    /// What is sent to it, and taken from it. No two peers have the same.
    pub allowed: BTreeSet<IpNet>,
}

/// What one [`apply_wireguard`] did and saw.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WireGuardReport {
    /// The device was not there: routes by it are gone.
    pub made: bool,
    /// The private key was not the device's: its sessions are gone.
    pub rekeyed: bool,
    /// Properties and peers written.
    pub written: usize,
    /// Peers and addresses deleted.
    pub deleted: usize,
    /// What the kernel refused, in words.
    pub failed: Vec<String>,
    /// Of each peer that was there before.
    pub traffic: BTreeMap<PublicKey, WireGuardTraffic>,
}

/// What a device has exchanged with a peer since that was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WireGuardTraffic {
    /// Octets, handshakes too.
    pub received: u64,
    /// Octets, handshakes too.
    pub sent: u64,
    /// The last handshake that was completed, since 1970-01-01 00:00 UTC.
    pub handshake: Option<Duration>,
}

/// Makes the kernel's device what it should be. Nothing that is right already is touched, so packets go on through it,
/// and sessions live: the kernel ends them all when a private key is set, even to what it is.
///
/// # Errors
/// When an interface of that name is no WireGuard device, another socket has the port, the kernel has no such driver, or
/// it can't be asked.
pub async fn apply_wireguard(wanted: &WireGuard) -> Result<WireGuardReport, Error> {
    let (mut conn, mut generic) = (Conn::open()?, Conn::open_generic()?);
    let wanted = wanted.clone();
    blocking(move || Work::begin(&mut conn, &mut generic, &wanted)?.finish()).await
}

/// Deletes one of the devices, and with it its peers and the routes by it; `false` when there was none of ours.
///
/// # Errors
/// When the kernel refuses.
pub async fn delete_wireguard(slot: usize) -> Result<bool, Error> {
    let mut conn = Conn::open()?;
    blocking(move || match links::find(&mut conn, name_of(slot))? {
        Some(link) if link.kind == KIND => links::delete_one(&mut conn, name_of(slot)),
        _ => Ok(false),
    })
    .await
}

/// The devices' kind, as rtnetlink and generic netlink call it.
const KIND: &str = "wireguard";
const WG_CMD_SET_DEVICE: u8 = 1;

fn name_of(slot: usize) -> &'static str {
    WIREGUARD.get(slot).copied().unwrap_or(WIREGUARD[0])
}

/// One look, and what is written after it.
struct Work<'a> {
    conn: &'a mut Conn,
    generic: Generic<'a>,
    wanted: &'a WireGuard,
    name: &'static str,
    link: links::LinkInfo,
    report: WireGuardReport,
}

impl<'a> Work<'a> {
    /// Finds the device, or makes it.
    fn begin(
        conn: &'a mut Conn,
        generic: &'a mut Conn,
        wanted: &'a WireGuard,
    ) -> Result<Self, Error> {
        let name = name_of(wanted.slot);
        let mut report = WireGuardReport::default();
        let link = match links::find(conn, name)? {
            Some(link) if link.kind == KIND => link,
            Some(_) => {
                return Err(Error::TunnelClash {
                    name,
                    why: "another interface has this name and is no WireGuard device: rename it"
                        .to_owned(),
                });
            }
            None => {
                make(conn, name, wanted.mtu)?;
                report.made = true;
                links::find(conn, name)?.ok_or_else(|| Error::NoInterface(name.to_owned()))?
            }
        };
        Ok(Self {
            generic: Generic::find(generic, KIND, KIND)?,
            conn,
            wanted,
            name,
            link,
            report,
        })
    }

    fn finish(mut self) -> Result<WireGuardReport, Error> {
        let before = read::device(&mut self.generic, self.link.index)?;
        self.settle_device(&before)?;
        self.settle_peers(&before)?;
        self.settle_link()?;
        self.settle_addresses()?;
        self.report.traffic = before.traffic();
        Ok(self.report)
    }

    /// Key and port. The key first: with it the kernel drops a peer that is this node itself.
    fn settle_device(&mut self, found: &Device) -> Result<(), Error> {
        let mut change = request::DeviceChange::default();
        if found.private_key.as_ref() != Some(&self.wanted.private_key) {
            change.private_key = Some(&self.wanted.private_key);
            self.report.rekeyed = !self.report.made;
        }
        if found.listen_port != self.wanted.listen_port {
            change.listen_port = Some(self.wanted.listen_port);
        }
        let count = change.count();
        if count == 0 {
            return Ok(());
        }
        let body = request::device(self.link.index, &change);
        match self.generic.set(WG_CMD_SET_DEVICE, &body)? {
            None => self.report.written += count,
            Some(refusal) => return Err(self.refused("its key and port", refusal)),
        }
        Ok(())
    }

    /// What is missing first: a prefix that moves from one peer to another is moved by that.
    fn settle_peers(&mut self, before: &Device) -> Result<(), Error> {
        let wanted = Found::of(self.wanted);
        let mut changes = Vec::new();
        for (key, peer) in &wanted.peers {
            let found = before.peers.get(key);
            let allowed = match found {
                Some(found) => peer.allowed.difference(&found.allowed).copied().collect(),
                None => peer.allowed.iter().copied().collect::<Vec<_>>(),
            };
            let endpoint = found.is_none_or(|found| found.endpoint != peer.endpoint);
            if found.is_none() || endpoint || !allowed.is_empty() {
                changes.push(request::PeerChange {
                    endpoint: peer.endpoint.filter(|_| endpoint),
                    allowed,
                    ..request::PeerChange::of(*key)
                });
            }
        }
        self.report.written += self.send(&changes)?;
        let gone = before
            .peers
            .keys()
            .filter(|key| !wanted.peers.contains_key(*key));
        let gone: Vec<_> = gone.map(|key| request::PeerChange::gone(*key)).collect();
        self.report.deleted += self.send(&gone)?;
        if before.peers.iter().all(|(key, found)| {
            let peer = wanted.peers.get(key);
            peer.is_none_or(|peer| found.allowed.is_subset(&peer.allowed))
        }) {
            return Ok(());
        }
        self.take_back(&wanted)
    }

    /// Prefixes that a peer has no more, and none has taken: there is no word for one, so all of such a peer are set.
    fn take_back(&mut self, wanted: &Found) -> Result<(), Error> {
        let now = read::device(&mut self.generic, self.link.index)?;
        let mut changes = Vec::new();
        for (key, found) in &now.peers {
            if let Some(peer) = wanted.peers.get(key)
                && !found.allowed.is_subset(&peer.allowed)
            {
                changes.push(request::PeerChange {
                    replaces: true,
                    allowed: peer.allowed.iter().copied().collect(),
                    ..request::PeerChange::of(*key)
                });
            }
        }
        self.report.deleted += self.send(&changes)?;
        Ok(())
    }

    fn settle_link(&mut self) -> Result<(), Error> {
        let index = self.link.index;
        if self.wanted.addresses.iter().any(IpAddr::is_ipv6) {
            for (switch, value) in [("disable_ipv6", "0"), ("accept_ra", "0")] {
                if let Err(error) = sysctl::interface_v6(self.name, switch, value) {
                    tracing::debug!(switch, %error, "an IPv6 switch of the tunnel can't be set");
                }
            }
        }
        let mut batch = Batch::default();
        let mut words = Vec::new();
        if self.report.made {
            words.push("its settings");
            batch.push(link_request::settings(index), 0);
        }
        if self.link.mtu != self.wanted.mtu {
            words.push("its MTU");
            batch.push(link_request::mtu(index, self.wanted.mtu), 0);
        }
        if !self.link.up {
            words.push("setting it up");
            batch.push(links::up(index), 0);
        }
        let refused = self.conn.transact(&mut batch)?;
        self.report.written += words.len() - refused.len();
        for (place, refusal) in refused {
            let what = words.get(place).copied().unwrap_or_default();
            if refusal.is(Errno::EADDRINUSE) {
                return Err(self.refused(what, refusal));
            }
            let failed = format!("{}: {what}: {refusal}", self.name);
            self.report.failed.push(failed);
        }
        Ok(())
    }

    fn settle_addresses(&mut self) -> Result<(), Error> {
        let index = self.link.index;
        let found = crate::tunnel::read::addresses(self.conn, index)?;
        let mut batch = Batch::default();
        let mut words = Vec::new();
        for address in self.wanted.addresses.difference(&found) {
            words.push(format!("address {address}"));
            let (message, flags) = link_request::add_address(index, *address);
            batch.push(message, flags);
        }
        let added = words.len();
        for address in found.difference(&self.wanted.addresses) {
            words.push(format!("address {address}, no longer wanted"));
            batch.push(link_request::delete_address(index, *address), 0);
        }
        let refused = self.conn.transact(&mut batch)?;
        let lost = refused.keys().filter(|place| **place < added).count();
        self.report.written += added - lost;
        self.report.deleted += words.len() - added - (refused.len() - lost);
        for (place, refusal) in refused {
            let what = words.get(place).map_or("", String::as_str);
            let failed = format!("{}: {what}: {refusal}", self.name);
            self.report.failed.push(failed);
        }
        Ok(())
    }

    /// Sends changes of peers in as many messages as they need; returns how many peers were taken.
    fn send(&mut self, changes: &[request::PeerChange]) -> Result<usize, Error> {
        let mut refused = 0;
        for (body, peers) in request::peers(self.link.index, changes) {
            if let Some(refusal) = self.generic.set(WG_CMD_SET_DEVICE, &body)? {
                refused += peers;
                let failed = format!("{}: {peers} of its peers: {refusal}", self.name);
                self.report.failed.push(failed);
            }
        }
        Ok(changes.len().saturating_sub(refused))
    }

    fn refused(&self, what: &str, refusal: Refusal) -> Error {
        if refusal.is(Errno::EADDRINUSE) {
            let port = self.wanted.listen_port;
            return Error::TunnelClash {
                name: self.name,
                why: format!(
                    "UDP port {port} is another's: end the program or remove the device that has it (`ss -lunp sport = :{port}`, `wg show`)"
                ),
            };
        }
        refusal.into_error(format!("{}: {what}", self.name))
    }
}

fn make(conn: &mut Conn, name: &'static str, mtu: u32) -> Result<(), Error> {
    let mut batch = Batch::default();
    let (message, flags) = request::link(name, mtu);
    batch.push(message, flags);
    match conn.transact(&mut batch)?.remove(&0) {
        None => Ok(()),
        Some(refusal) if refusal.is(Errno::EOPNOTSUPP) => Err(Error::TunnelClash {
            name,
            why: "this kernel has no WireGuard driver loaded: `modprobe wireguard` on the host (Linux 5.6 or newer)"
                .to_owned(),
        }),
        Some(refusal) => Err(refusal.into_error(format!("making the WireGuard device {name}"))),
    }
}
