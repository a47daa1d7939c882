//! IPVS's messages as octets (include/uapi/linux/ip_vs.h).

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use super::{
    Destination, SeenDestination, SeenService, VirtualChange, VirtualService, VirtualServiceKey,
    VirtualStats,
};
use crate::Error;
use crate::batch::{Attributes, attribute, half, nested, word};
use crate::generic::Generic;
use crate::wire::{INET, INET6};

const IPVS_CMD_NEW_SERVICE: u8 = 1;
const IPVS_CMD_SET_SERVICE: u8 = 2;
const IPVS_CMD_DEL_SERVICE: u8 = 3;
const IPVS_CMD_GET_SERVICE: u8 = 4;
const IPVS_CMD_NEW_DEST: u8 = 5;
const IPVS_CMD_SET_DEST: u8 = 6;
const IPVS_CMD_DEL_DEST: u8 = 7;
const IPVS_CMD_GET_DEST: u8 = 8;

const IPVS_CMD_ATTR_SERVICE: u16 = 1;
const IPVS_CMD_ATTR_DEST: u16 = 2;

const IPVS_SVC_ATTR_AF: u16 = 1;
const IPVS_SVC_ATTR_PROTOCOL: u16 = 2;
const IPVS_SVC_ATTR_ADDR: u16 = 3;
const IPVS_SVC_ATTR_PORT: u16 = 4;
const IPVS_SVC_ATTR_SCHED_NAME: u16 = 6;
const IPVS_SVC_ATTR_FLAGS: u16 = 7;
const IPVS_SVC_ATTR_TIMEOUT: u16 = 8;
const IPVS_SVC_ATTR_NETMASK: u16 = 9;
const IPVS_SVC_ATTR_STATS64: u16 = 12;

const IPVS_DEST_ATTR_ADDR: u16 = 1;
const IPVS_DEST_ATTR_PORT: u16 = 2;
const IPVS_DEST_ATTR_FWD_METHOD: u16 = 3;
const IPVS_DEST_ATTR_WEIGHT: u16 = 4;
const IPVS_DEST_ATTR_U_THRESH: u16 = 5;
const IPVS_DEST_ATTR_L_THRESH: u16 = 6;
const IPVS_DEST_ATTR_ACTIVE_CONNS: u16 = 7;
const IPVS_DEST_ATTR_INACT_CONNS: u16 = 8;
const IPVS_DEST_ATTR_ADDR_FAMILY: u16 = 11;
const IPVS_DEST_ATTR_STATS64: u16 = 12;

const IPVS_STATS_ATTR_CONNS: u16 = 1;
const IPVS_STATS_ATTR_INPKTS: u16 = 2;
const IPVS_STATS_ATTR_OUTPKTS: u16 = 3;
const IPVS_STATS_ATTR_INBYTES: u16 = 4;
const IPVS_STATS_ATTR_OUTBYTES: u16 = 5;

const IP_VS_SVC_F_PERSISTENT: u32 = 1;
/// Bits of a service's flags that the kernel gives no meaning, and keeps as they were given: 179 in them is our mark.
const MARK: u32 = 0x00b3_0000;
const MARK_MASK: u32 = 0xffff_0000;
/// IP_VS_CONN_F_MASQ: addresses are translated.
const MASQUERADING: u32 = 0;

/// What a change is sent as: the command, and its attributes.
pub(super) fn of_change(change: &VirtualChange) -> (u8, Vec<u8>) {
    let mut out = Vec::new();
    let command = match change {
        VirtualChange::NewService(key, service) => {
            write_service(&mut out, key, Some(service));
            IPVS_CMD_NEW_SERVICE
        }
        VirtualChange::SetService(key, service) => {
            write_service(&mut out, key, Some(service));
            IPVS_CMD_SET_SERVICE
        }
        VirtualChange::DeleteService(key) => {
            write_service(&mut out, key, None);
            IPVS_CMD_DEL_SERVICE
        }
        VirtualChange::NewDestination(key, to, destination) => {
            write_service(&mut out, key, None);
            write_destination(&mut out, *to, Some(*destination));
            IPVS_CMD_NEW_DEST
        }
        VirtualChange::SetDestination(key, to, destination) => {
            write_service(&mut out, key, None);
            write_destination(&mut out, *to, Some(*destination));
            IPVS_CMD_SET_DEST
        }
        VirtualChange::DeleteDestination(key, to) => {
            write_service(&mut out, key, None);
            write_destination(&mut out, *to, None);
            IPVS_CMD_DEL_DEST
        }
    };
    (command, out)
}

fn family(address: IpAddr) -> u16 {
    u16::from(if address.is_ipv4() { INET } else { INET6 })
}

/// Union nf_inet_addr: sixteen octets, of which IPv4 uses the first four.
fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V6(address) => address.octets(),
        IpAddr::V4(address) => {
            let mut all = [0; 16];
            for (to, from) in all.iter_mut().zip(address.octets()) {
                *to = from;
            }
            all
        }
    }
}

/// The key alone, or with all that a service is made of.
fn write_service(out: &mut Vec<u8>, key: &VirtualServiceKey, service: Option<&VirtualService>) {
    let address = key.address.ip();
    nested(out, IPVS_CMD_ATTR_SERVICE, |out| {
        attribute(out, IPVS_SVC_ATTR_AF, &family(address).to_ne_bytes());
        let protocol = u16::from(key.protocol).to_ne_bytes();
        attribute(out, IPVS_SVC_ATTR_PROTOCOL, &protocol);
        attribute(out, IPVS_SVC_ATTR_ADDR, &octets(address));
        attribute(out, IPVS_SVC_ATTR_PORT, &key.address.port().to_be_bytes());
        let Some(service) = service else { return };
        let scheduler = [service.scheduler.as_bytes(), &[0]].concat();
        attribute(out, IPVS_SVC_ATTR_SCHED_NAME, &scheduler);
        let persistent = service.persistence.map_or(0, |_| IP_VS_SVC_F_PERSISTENT);
        // Struct ip_vs_flags: the flags, and which of them count.
        let flags = [(MARK | persistent).to_ne_bytes(), u32::MAX.to_ne_bytes()].concat();
        attribute(out, IPVS_SVC_ATTR_FLAGS, &flags);
        let seconds = service.persistence.map_or(0, |time| time.as_secs());
        let seconds = u32::try_from(seconds).unwrap_or(u32::MAX);
        attribute(out, IPVS_SVC_ATTR_TIMEOUT, &seconds.to_ne_bytes());
        // Every address is another client: a mask for IPv4, a length for IPv6.
        let mask = if address.is_ipv4() { u32::MAX } else { 128 };
        attribute(out, IPVS_SVC_ATTR_NETMASK, &mask.to_ne_bytes());
    });
}

fn write_destination(out: &mut Vec<u8>, to: SocketAddr, destination: Option<Destination>) {
    nested(out, IPVS_CMD_ATTR_DEST, |out| {
        let family = family(to.ip()).to_ne_bytes();
        attribute(out, IPVS_DEST_ATTR_ADDR_FAMILY, &family);
        attribute(out, IPVS_DEST_ATTR_ADDR, &octets(to.ip()));
        attribute(out, IPVS_DEST_ATTR_PORT, &to.port().to_be_bytes());
        let Some(destination) = destination else {
            return;
        };
        let words = [
            (IPVS_DEST_ATTR_FWD_METHOD, MASQUERADING),
            (IPVS_DEST_ATTR_WEIGHT, destination.weight),
            (IPVS_DEST_ATTR_U_THRESH, 0),
            (IPVS_DEST_ATTR_L_THRESH, 0),
        ];
        for (kind, value) in words {
            attribute(out, kind, &value.to_ne_bytes());
        }
    });
}

/// All services, without their destinations.
pub(super) fn services(
    generic: &mut Generic<'_>,
) -> Result<BTreeMap<VirtualServiceKey, SeenService>, Error> {
    let what = "listing virtual services";
    let found = generic.get(IPVS_CMD_GET_SERVICE, &[], what, |message| {
        let (_, service) = Attributes(message).find(|(kind, _)| *kind == IPVS_CMD_ATTR_SERVICE)?;
        read_service(service)
    })?;
    Ok(found.into_iter().collect())
}

/// The destinations of one; none where it has gone since.
pub(super) fn destinations(
    generic: &mut Generic<'_>,
    key: &VirtualServiceKey,
) -> Result<BTreeMap<SocketAddr, SeenDestination>, Error> {
    let mut of = Vec::new();
    write_service(&mut of, key, None);
    let what = "listing the destinations of a virtual service";
    let found = generic.get(IPVS_CMD_GET_DEST, &of, what, |message| {
        let (_, destination) = Attributes(message).find(|(kind, _)| *kind == IPVS_CMD_ATTR_DEST)?;
        read_destination(destination, key.address.is_ipv4())
    })?;
    Ok(found.into_iter().collect())
}

fn read_service(attributes: &[u8]) -> Option<(VirtualServiceKey, SeenService)> {
    let (mut is_v4, mut protocol, mut address, mut port) = (None, None, None, None);
    let (mut scheduler, mut flags, mut seconds) = (String::new(), 0, 0);
    let mut stats = VirtualStats::default();
    for (kind, value) in Attributes(attributes) {
        match kind {
            IPVS_SVC_ATTR_AF => is_v4 = half(value, 0).map(|family| family == u16::from(INET)),
            IPVS_SVC_ATTR_PROTOCOL => {
                protocol = half(value, 0).and_then(|one| u8::try_from(one).ok());
            }
            IPVS_SVC_ATTR_ADDR => address = Some(value),
            IPVS_SVC_ATTR_PORT => port = big_endian(value),
            IPVS_SVC_ATTR_SCHED_NAME => {
                let text = String::from_utf8_lossy(value);
                text.trim_end_matches('\0').clone_into(&mut scheduler);
            }
            IPVS_SVC_ATTR_FLAGS => flags = word(value, 0)?,
            IPVS_SVC_ATTR_TIMEOUT => seconds = word(value, 0)?,
            IPVS_SVC_ATTR_STATS64 => stats = read_stats(value),
            _ => {}
        }
    }
    let is_persistent = flags & IP_VS_SVC_F_PERSISTENT != 0;
    let key = VirtualServiceKey {
        // A service by packet marks has neither protocol nor address.
        protocol: protocol?,
        address: SocketAddr::new(read_address(address?, is_v4?)?, port?),
    };
    let service = VirtualService {
        scheduler,
        persistence: is_persistent.then(|| Duration::from_secs(seconds.into())),
    };
    let seen = SeenService {
        service,
        is_ours: flags & MARK_MASK == MARK,
        stats,
        destinations: BTreeMap::new(),
    };
    Some((key, seen))
}

fn read_destination(attributes: &[u8], is_v4: bool) -> Option<(SocketAddr, SeenDestination)> {
    let (mut address, mut port) = (None, None);
    let (mut weight, mut connections) = (0, 0_u32);
    let mut stats = VirtualStats::default();
    for (kind, value) in Attributes(attributes) {
        match kind {
            IPVS_DEST_ATTR_ADDR => address = read_address(value, is_v4),
            IPVS_DEST_ATTR_PORT => port = big_endian(value),
            IPVS_DEST_ATTR_WEIGHT => weight = word(value, 0)?,
            IPVS_DEST_ATTR_ACTIVE_CONNS | IPVS_DEST_ATTR_INACT_CONNS => {
                connections = connections.saturating_add(word(value, 0)?);
            }
            IPVS_DEST_ATTR_STATS64 => stats = read_stats(value),
            _ => {}
        }
    }
    let seen = SeenDestination {
        destination: Destination { weight },
        connections,
        stats,
    };
    Some((SocketAddr::new(address?, port?), seen))
}

fn read_address(value: &[u8], is_v4: bool) -> Option<IpAddr> {
    let all = <[u8; 16]>::try_from(value).ok()?;
    if !is_v4 {
        return Some(Ipv6Addr::from(all).into());
    }
    let four = <[u8; 4]>::try_from(value.get(..4)?).ok()?;
    Some(Ipv4Addr::from(four).into())
}

fn big_endian(value: &[u8]) -> Option<u16> {
    value.try_into().ok().map(u16::from_be_bytes)
}

fn read_stats(attributes: &[u8]) -> VirtualStats {
    let mut stats = VirtualStats::default();
    for (kind, value) in Attributes(attributes) {
        let count = value.try_into().map_or(0, u64::from_ne_bytes);
        match kind {
            IPVS_STATS_ATTR_CONNS => stats.connections = count,
            IPVS_STATS_ATTR_INPKTS => stats.packets_in = count,
            IPVS_STATS_ATTR_OUTPKTS => stats.packets_out = count,
            IPVS_STATS_ATTR_INBYTES => stats.octets_in = count,
            IPVS_STATS_ATTR_OUTBYTES => stats.octets_out = count,
            _ => {}
        }
    }
    stats
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(address: &str) -> VirtualServiceKey {
        VirtualServiceKey {
            protocol: 17,
            address: address.parse().unwrap(),
        }
    }

    /// What the kernel says of a service begins as what it is told.
    #[test]
    fn what_is_written_reads_back_the_same_in_both_families() {
        for address in ["10.96.0.1:80", "[fd96::1]:443"] {
            for persistence in [None, Some(Duration::from_secs(10_800))] {
                let service = VirtualService {
                    scheduler: "rr".to_owned(),
                    persistence,
                };
                let change = VirtualChange::NewService(key(address), service.clone());
                let (command, out) = of_change(&change);
                assert_eq!(command, IPVS_CMD_NEW_SERVICE);
                let (_, inside) = Attributes(&out).next().unwrap();
                let (read, seen) = read_service(inside).unwrap();
                assert_eq!(
                    (read, seen.service, seen.is_ours),
                    (key(address), service, true)
                );
            }
            let to: SocketAddr = address.parse().unwrap();
            let destination = Destination { weight: 7 };
            let change = VirtualChange::NewDestination(key(address), to, destination);
            let (_, out) = of_change(&change);
            let (_, inside) = Attributes(&out).nth(1).unwrap();
            let (read, seen) = read_destination(inside, to.is_ipv4()).unwrap();
            assert_eq!((read, seen.destination), (to, destination));
        }
    }

    #[test]
    fn a_service_by_marks_or_cut_short_is_passed_over() {
        let mut out = Vec::new();
        attribute(&mut out, IPVS_SVC_ATTR_AF, &2_u16.to_ne_bytes());
        attribute(&mut out, 5, &1_u32.to_ne_bytes());
        assert_eq!(read_service(&out), None);
        assert_eq!(read_service(&[]), None);
        assert_eq!(read_destination(&[1, 0], true), None);
    }
}
