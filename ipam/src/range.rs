//! One CIDR as the run of addresses in it that pods can have.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    pub(crate) fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

/// A CIDR and the first and last address of it that pods can have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    cidr: IpNet,
    first: u128,
    last: u128,
}

impl Range {
    /// Leaves out the network address (for IPv6 the subnet-router anycast address, RFC 4291 §2.6.1) and IPv4's
    /// broadcast address; a /31, /32, /127 or /128 has neither (RFC 3021, RFC 6164).
    pub(crate) fn new(cidr: IpNet) -> Self {
        let cidr = cidr.trunc();
        let (mut first, mut last) = (number(cidr.network()), number(cidr.broadcast()));
        if cidr.max_prefix_len() - cidr.prefix_len() >= 2 {
            first += 1;
            if cidr.network().is_ipv4() {
                last -= 1;
            }
        }
        Self { cidr, first, last }
    }

    pub(crate) fn cidr(&self) -> IpNet {
        self.cidr
    }

    pub(crate) fn family(&self) -> Family {
        Family::of(self.cidr.network())
    }

    /// How many addresses pods can have; `::/0` is one short of saying it exactly.
    pub(crate) fn usable(&self) -> u128 {
        (self.last - self.first).saturating_add(1)
    }

    /// The first and the last address that pods can have.
    pub(crate) fn bounds(&self) -> (IpAddr, IpAddr) {
        (self.address(self.first), self.address(self.last))
    }

    /// Whether it is an address of this CIDR that pods can have.
    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        Family::of(address) == self.family() && (self.first..=self.last).contains(&number(address))
    }

    /// The lowest address nobody holds.
    pub(crate) fn first_free<T>(&self, held: &BTreeMap<IpAddr, T>) -> Option<IpAddr> {
        self.free_from(self.first, held)
    }

    /// The lowest address above `address`, which is of this range, that nobody holds.
    pub(crate) fn free_after<T>(
        &self,
        address: IpAddr,
        held: &BTreeMap<IpAddr, T>,
    ) -> Option<IpAddr> {
        self.free_from(number(address).checked_add(1)?, held)
    }

    /// Walks the held addresses in order beside the candidates: the first one they skip is free.
    fn free_from<T>(&self, from: u128, held: &BTreeMap<IpAddr, T>) -> Option<IpAddr> {
        if from > self.last {
            return None;
        }
        let mut candidate = from;
        for taken in held
            .range(self.address(from)..=self.address(self.last))
            .map(|(ip, _)| *ip)
        {
            if number(taken) != candidate {
                break;
            }
            if candidate == self.last {
                return None;
            }
            candidate += 1;
        }
        Some(self.address(candidate))
    }

    fn address(&self, number: u128) -> IpAddr {
        match self.family() {
            Family::V4 => IpAddr::V4(Ipv4Addr::from_bits(
                u32::try_from(number).expect("bounds of an IPv4 CIDR fit 32 bits"),
            )),
            Family::V6 => IpAddr::V6(Ipv6Addr::from_bits(number)),
        }
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}
