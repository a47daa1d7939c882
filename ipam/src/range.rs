//! Runs of addresses of one family, and a CIDR as the run of addresses in it that pods can have.

use std::fmt;
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

/// Addresses of one family without a gap, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    family: Family,
    first: u128,
    last: u128,
}

impl Span {
    /// From one address to another; `None` if they are of two families or in the wrong order.
    pub fn new(first: IpAddr, last: IpAddr) -> Option<Self> {
        let family = Family::of(first);
        let (first, end) = (number(first), number(last));
        (family == Family::of(last) && first <= end).then_some(Self {
            family,
            first,
            last: end,
        })
    }

    /// The addresses of a subnet that pods can have, from `start` to `end` where these are given; `None` if that is
    /// no address at all, or an end is not in the subnet. This is one range of the capability `ipRanges`.
    pub fn of_subnet(subnet: IpNet, start: Option<IpAddr>, end: Option<IpAddr>) -> Option<Self> {
        let (first, last) = Range::new(subnet).bounds();
        let (start, end) = (start.unwrap_or(first), end.unwrap_or(last));
        let inside = subnet.contains(&start) && subnet.contains(&end);
        Self::new(start, end).filter(|_| inside)
    }

    /// Whether an address is one of these.
    pub fn contains(&self, address: IpAddr) -> bool {
        Family::of(address) == self.family && (self.first..=self.last).contains(&number(address))
    }

    /// A single address.
    pub(crate) fn one(address: IpAddr) -> Self {
        let number = number(address);
        Self {
            family: Family::of(address),
            first: number,
            last: number,
        }
    }

    /// Every address of a CIDR, whether pods can have it or not.
    pub(crate) fn whole(cidr: IpNet) -> Self {
        Self {
            family: Family::of(cidr.network()),
            first: number(cidr.network()),
            last: number(cidr.broadcast()),
        }
    }

    pub(crate) fn family(self) -> Family {
        self.family
    }

    pub(crate) fn first(self) -> u128 {
        self.first
    }

    pub(crate) fn last(self) -> u128 {
        self.last
    }

    /// The first and the last address.
    pub(crate) fn bounds(self) -> (IpAddr, IpAddr) {
        (self.address(self.first), self.address(self.last))
    }

    /// What two spans have in common.
    pub(crate) fn common(self, other: Self) -> Option<Self> {
        let (first, last) = (self.first.max(other.first), self.last.min(other.last));
        (self.family == other.family && first <= last).then_some(Self {
            first,
            last,
            ..self
        })
    }

    /// Those above an address of it.
    pub(crate) fn after(self, address: IpAddr) -> Option<Self> {
        let first = number(address).checked_add(1)?;
        (first <= self.last).then_some(Self { first, ..self })
    }

    /// How many addresses it has; `::/0` is one short of saying it exactly.
    pub(crate) fn len(self) -> u128 {
        (self.last - self.first).saturating_add(1)
    }

    /// The address of a number that is within the bounds.
    pub(crate) fn address(self, number: u128) -> IpAddr {
        match self.family {
            Family::V4 => IpAddr::V4(Ipv4Addr::from_bits(
                u32::try_from(number).expect("bounds of an IPv4 span fit 32 bits"),
            )),
            Family::V6 => IpAddr::V6(Ipv6Addr::from_bits(number)),
        }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, last) = self.bounds();
        if first == last {
            write!(f, "{first}")
        } else {
            write!(f, "{first}-{last}")
        }
    }
}

/// A CIDR and the addresses of it that pods can have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    cidr: IpNet,
    span: Span,
}

impl Range {
    /// Leaves out the network address (for IPv6 the subnet-router anycast address, RFC 4291 §2.6.1) and IPv4's
    /// broadcast address; a /31, /32, /127 or /128 has neither (RFC 3021, RFC 6164).
    pub(crate) fn new(cidr: IpNet) -> Self {
        let cidr = cidr.trunc();
        let mut span = Span::whole(cidr);
        if cidr.max_prefix_len() - cidr.prefix_len() >= 2 {
            span.first += 1;
            if cidr.network().is_ipv4() {
                span.last -= 1;
            }
        }
        Self { cidr, span }
    }

    pub(crate) fn cidr(&self) -> IpNet {
        self.cidr
    }

    pub(crate) fn span(&self) -> Span {
        self.span
    }

    pub(crate) fn family(&self) -> Family {
        self.span.family
    }

    /// The first and the last address that pods can have.
    pub(crate) fn bounds(&self) -> (IpAddr, IpAddr) {
        self.span.bounds()
    }

    /// Whether it is an address of this CIDR that pods can have.
    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        self.span.contains(address)
    }
}

pub(crate) fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}
