//! Whom connections are taken from: peers' addresses and ranges, the longest match deciding.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use crate::socket::Ttl;

/// What a connection from an admitted address is given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Admission {
    /// How far away it may be.
    pub ttl: Ttl,
}

/// The addresses and ranges connections are taken from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AdmittedSet {
    /// By interface index (link-local peers) and prefix.
    nets: BTreeMap<(Option<u32>, IpNet), Admission>,
}

impl AdmittedSet {
    /// Admits an address or a range on every interface. The last word on a prefix holds.
    pub fn admit(&mut self, net: IpNet, admission: Admission) {
        self.nets.insert((None, net.trunc()), admission);
    }

    /// Admits link-local addresses (one, or `fe80::/10` for whoever is there) on one interface.
    pub fn admit_on(&mut self, interface: u32, net: IpNet, admission: Admission) {
        self.nets.insert((Some(interface), net.trunc()), admission);
    }

    /// What the longest match for a connection's other end says; on equal length, the one that names the interface.
    #[must_use]
    pub fn lookup(&self, remote: SocketAddr) -> Option<&Admission> {
        let scope = match remote {
            SocketAddr::V6(v6) if v6.ip().is_unicast_link_local() => Some(v6.scope_id()),
            _ => None,
        };
        let address = remote.ip();
        let longest = IpNet::from(address).max_prefix_len();
        (0..=longest).rev().find_map(|len| {
            let net = IpNet::new_assert(address, len).trunc();
            let on_interface = scope.and_then(|scope| self.nets.get(&(Some(scope), net)));
            on_interface.or_else(|| self.nets.get(&(None, net)))
        })
    }
}

impl FromIterator<IpAddr> for AdmittedSet {
    fn from_iter<T: IntoIterator<Item = IpAddr>>(addresses: T) -> Self {
        let mut set = Self::default();
        for address in addresses {
            set.admit(address.into(), Admission::default());
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU8;

    use super::*;

    fn hops(n: u8) -> Admission {
        Admission {
            ttl: Ttl::Hops(NonZeroU8::new(n).unwrap()),
        }
    }

    fn lookup(set: &AdmittedSet, remote: &str) -> Option<Admission> {
        set.lookup(remote.parse().unwrap()).copied()
    }

    #[test]
    fn the_longest_match_decides() {
        let mut set = AdmittedSet::default();
        set.admit("10.0.0.0/8".parse().unwrap(), hops(1));
        set.admit("10.1.0.7/16".parse().unwrap(), hops(2));
        set.admit("10.1.2.3/32".parse().unwrap(), hops(3));
        assert_eq!(lookup(&set, "10.9.9.9:1"), Some(hops(1)));
        assert_eq!(lookup(&set, "10.1.9.9:1"), Some(hops(2)));
        assert_eq!(lookup(&set, "10.1.2.3:1"), Some(hops(3)));
        assert_eq!(lookup(&set, "11.0.0.1:1"), None);
        assert_eq!(lookup(&set, "[2001:db8::1]:1"), None);
    }

    #[test]
    fn a_range_of_everything_has_no_match_in_the_other_family() {
        let mut set = AdmittedSet::default();
        set.admit("::/0".parse().unwrap(), hops(1));
        assert_eq!(lookup(&set, "[2001:db8::1]:1"), Some(hops(1)));
        assert_eq!(lookup(&set, "10.0.0.1:1"), None);
    }

    #[test]
    fn a_link_local_address_is_admitted_on_its_interface_only() {
        let mut set = AdmittedSet::default();
        set.admit_on(3, "fe80::/10".parse().unwrap(), hops(1));
        assert_eq!(lookup(&set, "[fe80::1%3]:1"), Some(hops(1)));
        assert_eq!(lookup(&set, "[fe80::1%4]:1"), None);
        set.admit("fe80::/10".parse().unwrap(), hops(2));
        assert_eq!(lookup(&set, "[fe80::1%3]:1"), Some(hops(1)));
        assert_eq!(lookup(&set, "[fe80::1%4]:1"), Some(hops(2)));
    }
}
