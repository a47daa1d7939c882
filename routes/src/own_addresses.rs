//! Addresses that this host takes packets for without having them: routes of type local in table local that bear our mark.
//!
//! For IPVS, which sees what is for the host itself. No interface has them, so nobody takes them for the host's own: they are
//! in no list of addresses, no source for its packets' answers elsewhere, and IPv6 advertises no such neighbour.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use nix::errno::Errno;

use crate::batch::{Attributes, Batch, attribute, word};
use crate::conn::Conn;
use crate::links::{self, blocking};
use crate::wire::{INET, INET6, RTM_DELROUTE, RTM_GETROUTE, RTM_NEWROUTE};
use crate::{Error, METRIC, PROTOCOL, sysctl};

const TABLE_LOCAL: u8 = 255;
const RTN_LOCAL: u8 = 2;
/// IPv4 answers ARP for no address of this scope where arp_ignore is 3.
const SCOPE_HOST: u8 = 254;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_PRIORITY: u16 = 6;
const RTA_TABLE: u16 = 15;
/// Octets of struct rtmsg.
const RTMSG: usize = 12;
/// Do not answer ARP for addresses of scope host, or that no interface has.
const ARP_IGNORE: (&str, &str) = ("net/ipv4/conf/all/arp_ignore", "3");

/// What one [`take_packets_for`] did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TakenReport {
    /// Addresses added.
    pub added: usize,
    /// Addresses deleted.
    pub deleted: usize,
    /// What the kernel refused, in words.
    pub failed: Vec<String>,
}

/// The addresses that packets are taken for by our mark.
///
/// # Errors
/// When the kernel can't be asked.
pub async fn packets_taken_for() -> Result<BTreeSet<IpAddr>, Error> {
    blocking(|| {
        let mut conn = Conn::open()?;
        read(&mut conn)
    })
    .await
}

/// Has this host take packets for these addresses, and for no others by our mark: first what is missing, then what is too
/// much. ARP is answered for none of them; arp_ignore of all interfaces becomes 3 where it is 0.
///
/// # Errors
/// When the kernel can't be asked, or has no loopback interface.
pub async fn take_packets_for(wanted: BTreeSet<IpAddr>) -> Result<TakenReport, Error> {
    blocking(move || {
        let mut conn = Conn::open()?;
        let found = read(&mut conn)?;
        let mut report = TakenReport::default();
        if wanted == found {
            return Ok(report);
        }
        if wanted.iter().any(IpAddr::is_ipv4)
            && let Err(error) = keep_silent()
        {
            let (name, value) = ARP_IGNORE;
            report.failed.push(format!(
                "{name} can't be set to {value}: {error}; set it, or hosts of this link take Services' addresses for this node's"
            ));
        }
        let loopback = links::find(&mut conn, "lo")?;
        let index = loopback.map(|link| link.index);
        let index = index.ok_or_else(|| Error::NoInterface("lo".to_owned()))?;
        let missing: Vec<_> = wanted.difference(&found).copied().collect();
        let surplus: Vec<_> = found.difference(&wanted).copied().collect();
        report.added = write(&mut conn, &missing, &mut report.failed, |batch, address| {
            batch.push_with(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, |out| {
                route(out, address, index);
            });
        })?;
        report.deleted = write(&mut conn, &surplus, &mut report.failed, |batch, address| {
            batch.push_with(RTM_DELROUTE, 0, |out| route(out, address, index));
        })?;
        Ok(report)
    })
    .await
}

fn keep_silent() -> std::io::Result<()> {
    let (name, value) = ARP_IGNORE;
    if sysctl::read(Path::new(name))?.trim() == "0" {
        sysctl::write(Path::new(name), value)?;
    }
    Ok(())
}

fn write(
    conn: &mut Conn,
    addresses: &[IpAddr],
    failed: &mut Vec<String>,
    request: impl Fn(&mut Batch, IpAddr),
) -> Result<usize, Error> {
    let mut done = 0;
    for part in addresses.chunks(256) {
        let mut batch = Batch::default();
        part.iter()
            .for_each(|address| request(&mut batch, *address));
        let refused = conn.transact(&mut batch)?;
        done += part.len();
        for (place, refusal) in refused {
            // There already, or gone already.
            if refusal.is(Errno::EEXIST) || refusal.is(Errno::ESRCH) {
                continue;
            }
            done -= 1;
            if let Some(address) = part.get(place) {
                failed.push(format!("taking packets for {address}: {refusal}"));
            }
        }
    }
    Ok(done)
}

/// Struct rtmsg and what tells the route from others.
fn route(out: &mut Vec<u8>, address: IpAddr, index: u32) {
    let (family, bits) = if address.is_ipv4() {
        (INET, 32)
    } else {
        (INET6, 128)
    };
    let head = [
        family,
        bits,
        0,
        0,
        TABLE_LOCAL,
        PROTOCOL,
        SCOPE_HOST,
        RTN_LOCAL,
    ];
    out.extend_from_slice(&head);
    out.extend_from_slice(&[0; 4]);
    match address {
        IpAddr::V4(address) => attribute(out, RTA_DST, &address.octets()),
        IpAddr::V6(address) => attribute(out, RTA_DST, &address.octets()),
    }
    attribute(out, RTA_OIF, &index.to_ne_bytes());
    attribute(out, RTA_PRIORITY, &METRIC.to_ne_bytes());
}

fn read(conn: &mut Conn) -> Result<BTreeSet<IpAddr>, Error> {
    let mut all = BTreeSet::new();
    for family in [INET, INET6] {
        let mut body = vec![family, 0, 0, 0, TABLE_LOCAL, 0, 0, 0, 0, 0, 0, 0];
        let table = u32::from(TABLE_LOCAL).to_ne_bytes();
        attribute(&mut body, RTA_TABLE, &table);
        let what = "listing addresses that packets are taken for";
        all.extend(conn.dump_raw(RTM_GETROUTE, &body, what, |_, payload| ours(payload))?);
    }
    Ok(all)
}

/// The address of a route that bears our mark.
fn ours(payload: &[u8]) -> Option<IpAddr> {
    let &[_, bits, _, _, TABLE_LOCAL, PROTOCOL, _, RTN_LOCAL, ..] = payload else {
        return None;
    };
    let (mut address, mut metric) = (None, None);
    for (kind, value) in Attributes(payload.get(RTMSG..)?) {
        match kind {
            RTA_DST => {
                let v4 = <[u8; 4]>::try_from(value).map(IpAddr::from);
                let v6 = || <[u8; 16]>::try_from(value).map(IpAddr::from);
                address = v4.or_else(|_| v6()).ok();
            }
            RTA_PRIORITY => metric = word(value, 0),
            _ => {}
        }
    }
    let whole = address.is_some_and(|one| bits == if one.is_ipv4() { 32 } else { 128 });
    address.filter(|_| whole && metric == Some(METRIC))
}
