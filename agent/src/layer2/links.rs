//! The interfaces of this host, and by which of them an address is answered for.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use nix::sys::socket::{LinkAddr, SockaddrStorage};
use services::layer2::frame::Mac;

/// An interface with a hardware address, that is up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) mac: Mac,
    /// Where a packet socket is bound.
    pub(super) place: LinkAddr,
    /// Its addresses, with their subnets.
    addresses: BTreeSet<(IpAddr, IpNet)>,
}

impl Link {
    /// What it asks from, for an address of that family: by ARP nobody (RFC 5227), else an address of its own.
    pub(super) fn asks_from(&self, address: IpAddr) -> Option<IpAddr> {
        if address.is_ipv4() {
            return Some(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        }
        let mut own = self.addresses.iter().map(|(held, _)| *held);
        own.rfind(IpAddr::is_ipv6)
    }
}

/// All interfaces that ARP or neighbour discovery is spoken on, by name.
pub(super) fn links() -> io::Result<BTreeMap<String, Link>> {
    let mut links = BTreeMap::new();
    let mut addresses: BTreeMap<String, BTreeSet<(IpAddr, IpNet)>> = BTreeMap::new();
    for one in getifaddrs()? {
        let is_used = one.flags.contains(InterfaceFlags::IFF_UP)
            && !one
                .flags
                .intersects(InterfaceFlags::IFF_LOOPBACK | InterfaceFlags::IFF_NOARP);
        let Some(address) = one.address.filter(|_| is_used) else {
            continue;
        };
        if let Some(place) = address.as_link_addr() {
            // A device without a hardware address answers nobody.
            if let Some(mac) = place.addr().filter(|mac| *mac != [0; 6]) {
                let index = u32::try_from(place.ifindex()).unwrap_or_default();
                let link = Link {
                    index,
                    mac,
                    place: *place,
                    addresses: BTreeSet::new(),
                };
                links.insert(one.interface_name, link);
            }
        } else if let (Some(address), Some(mask)) =
            (ip(&address), one.netmask.as_ref().and_then(ip))
            && let Ok(subnet) = IpNet::with_netmask(address, mask)
        {
            let held = addresses.entry(one.interface_name).or_default();
            held.insert((address, subnet.trunc()));
        }
    }
    for (name, held) in addresses {
        if let Some(link) = links.get_mut(&name) {
            link.addresses = held;
        }
    }
    Ok(links)
}

fn ip(address: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|at| IpAddr::V4(at.ip()));
    let v6 = || Some(IpAddr::V6(address.as_sockaddr_in6()?.ip()));
    v4.or_else(v6)
}

/// By which interfaces an address is answered for: those that are named, as far as they are there; else those with an address
/// in its subnet; else the one with the node's own address of its family.
pub(super) fn answering(
    links: &BTreeMap<String, Link>,
    address: IpAddr,
    named: &BTreeSet<String>,
    own: &[IpAddr],
) -> BTreeSet<String> {
    if !named.is_empty() {
        return named
            .iter()
            .filter(|name| links.contains_key(*name))
            .cloned()
            .collect();
    }
    let with = |is_it: &dyn Fn(&(IpAddr, IpNet)) -> bool| -> BTreeSet<String> {
        let found = links
            .iter()
            .filter(|(_, link)| link.addresses.iter().any(is_it));
        found.map(|(name, _)| name.clone()).collect()
    };
    let of_subnet = with(&|(_, subnet)| subnet.contains(&address));
    if !of_subnet.is_empty() {
        return of_subnet;
    }
    with(&|(held, _)| held.is_ipv4() == address.is_ipv4() && own.contains(held))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(addresses: &[&str]) -> Link {
        let all = getifaddrs().unwrap();
        let mut places = all.filter_map(|one| one.address?.as_link_addr().copied());
        let place = places.next();
        let of = |text: &&str| {
            let net: IpNet = text.parse().unwrap();
            (net.addr(), net.trunc())
        };
        Link {
            index: 1,
            mac: [2; 6],
            place: place.unwrap(),
            addresses: addresses.iter().map(of).collect(),
        }
    }

    #[test]
    fn the_named_come_before_the_subnets_and_those_before_the_nodes_own() {
        let links = BTreeMap::from([
            ("eth0".to_owned(), link(&["192.0.2.1/24", "fd00::1/64"])),
            ("eth1".to_owned(), link(&["198.51.100.1/24"])),
        ]);
        let own = ["192.0.2.1".parse().unwrap(), "fd00::1".parse().unwrap()];
        let by = |address: &str, named: &[&str]| -> Vec<String> {
            let named = named.iter().map(|name| (*name).to_owned()).collect();
            let by = answering(&links, address.parse().unwrap(), &named, &own);
            by.into_iter().collect()
        };
        assert_eq!(by("198.51.100.7", &[]), ["eth1"]);
        assert_eq!(by("203.0.113.7", &[]), ["eth0"]);
        assert_eq!(by("fd99::7", &[]), ["eth0"]);
        assert_eq!(by("198.51.100.7", &["eth0", "eth9"]), ["eth0"]);
        assert!(by("198.51.100.7", &["eth9"]).is_empty());
    }
}
